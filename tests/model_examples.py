"""Fields of a small model that several tests build, and how they run it."""

import functools

from inversion_jax.machine import compilation

# As a step of training is compiled; what it is given lives on.
compiled = functools.partial(compilation.jit_step, donate=())

# The default reader of h, as small as it has all its parts.
READER = {
  "context": "decoder",
  "reader_filters": 3,
  "reader_units": 6,
  "reader_places": 2,
  "reader_direct": 2,
  "reader_taper": 2,
}
