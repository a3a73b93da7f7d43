"""How functions are compiled: what XLA needs to be told, by backend, in one place."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.experimental.compilation_cache import compilation_cache

# Which convolutions and products XLA:CPU hands to YNNPACK, which runs our shapes at the speed of
# one core. For training steps, keeping it to products made whole steps 12% faster; samplers were
# 20 to 40% faster without it.
YNN_FUSIONS = "xla_cpu_experimental_ynn_fusion_type"
OPTIMIZATION_LEVEL = "xla_backend_optimization_level"
# Where runs that have programs in common keep them, under the folder above theirs.
FOLDER = "compiled"


def jit_step(step_fn: Callable, donate: Sequence[int] = (0,)) -> Callable:
  """Compiles `step_fn(state, batch)`; the old state's memory becomes the new one's.

  Args:
    step_fn: the step, or a part of it.
    donate: the arguments whose memory is given up.

  On CPU with fewer optimisations: 3 of 20 seconds sooner, and the step is no slower.
  """
  options = {YNN_FUSIONS: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", OPTIMIZATION_LEVEL: 1}
  options = _on_cpu(**options)
  return jax.jit(step_fn, donate_argnums=tuple(donate), compiler_options=options)


def jit_sampler(draw_fn: Callable, **settings) -> Callable:
  """Compiles loops over pixels; on CPU with fewer optimisations, which take as long again and
  gained nothing measurable: the time is spent in matrix products. `settings` are `jax.jit`'s.
  """
  options = _on_cpu(**{YNN_FUSIONS: "", OPTIMIZATION_LEVEL: 1})
  return jax.jit(draw_fn, compiler_options=options, **settings)


def jit_once(fn: Callable) -> Callable:
  """Compiles what runs a single time: on CPU without optimising, which would take far longer."""
  return jax.jit(fn, compiler_options=_on_cpu(**{OPTIMIZATION_LEVEL: 0}))


@contextlib.contextmanager
def kept_in(folder: pathlib.Path) -> Iterator[None]:
  """Keeps what takes over a second to compile in `folder`, and takes from there what it holds.

  JAX's own settings win, such as $JAX_COMPILATION_CACHE_DIR.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    yield
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  try:
    yield
  finally:
    jax.config.update("jax_compilation_cache_dir", None)
    # The cache remembers its first folder.
    compilation_cache.reset_cache()


def _on_cpu(**options) -> dict | None:
  """Those options that this version of XLA:CPU knows; none on other backends.

  JAX's setting $JAX_DISABLE_MOST_OPTIMIZATIONS holds for all programs.
  """
  if jax.default_backend() != "cpu":
    return None
  if jax.config.values["jax_disable_most_optimizations"]:
    options[OPTIMIZATION_LEVEL] = 0
  return {name: value for name, value in options.items() if _is_known(name, value)} or None


@functools.cache
def _is_known(name, value):
  try:
    jax.jit(lambda x: x + 1, compiler_options={name: value})(0.0)
  except Exception as error:  # XLA has no narrower error for an option it does not know.
    if name not in str(error):
      raise
    return False
  return True
