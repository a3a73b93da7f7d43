"""How h reaches an inverter."""

import dataclasses
import functools

import jax
from jaxtyping import Array

from inversion_jax.features import noise, wrappers
from inversion_jax.features.pairs import Pairs
from inversion_jax.features.wrappers import Standardiser
from inversion_jax.fitting import training


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
  """How h reaches an inverter: standardised, then through a noise channel; either may be None."""

  standardiser: Standardiser | None = None
  channel: noise.Channel | None = None

  def clean(self, of: Pairs) -> Pairs:
    """Pairs whose h is standardised; fresh noise is drawn in training, at each step."""
    if self.standardiser is None:
      return of
    return of.seen_through(functools.partial(_standardised, self))

  def scored(self, of: Pairs, root_key: Array) -> Pairs:
    """Pairs whose h is as it is scored: the noise of an image belongs to its index."""
    if self.channel is None:
      return self.clean(of)
    key = training.key_for(root_key, "channel")
    return self.clean(of).seen_through(lambda source: wrappers.Noisy(source, self.channel, key))

  def fresh(self, h: Array, key: Array) -> Array:
    """h of a training batch through noise drawn now."""
    if self.channel is None:
      return h
    keys_B = jax.random.split(training.key_for(key, "channel"), len(h))
    return noise.observed(self.channel, h, keys_B)


# Kept, so that training, validation and evaluation share what was compiled.
@functools.lru_cache(maxsize=4)
def _standardised(observed, source):
  return wrappers.Standardised(source, observed.standardiser)


AS_IT_IS = Observed()
