"""More channels inside than a model has, as matrix units like some numbers: the same function."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from inversion_jax.models.inverters import NETWORK, AnyArray, Inverter, log_prob


def log_prob_widened(
  inverter: Inverter,
  params: Any,
  contexts: tuple[Array, ...] | None,
  levels_BHWC: Shaped[AnyArray, "..."],
  *,
  multiple: int,
  **settings: Any,
) -> Float[Array, "B H W"]:
  """`inverters.log_prob`, computed with the filters of the network rounded up to a multiple.

  Args:
    inverter: a model without parameters.
    params: those of its network; their gradient has no trace of the padding.
    contexts, levels_BHWC: what the network is called with.
    multiple: the filters inside are the next multiple of this; 1 changes nothing.
    **settings: of `inverter.apply`.

  The added channels are zero everywhere: their kernels and biases are, and ELU, dropout and gate
  keep zero. Only the masks of dropout differ, being drawn by position.
  """
  num_filters = -(-inverter.num_filters // multiple) * multiple
  if num_filters != inverter.num_filters:
    inverter, narrow = inverter.clone(num_filters=num_filters), inverter.num_filters
    init = functools.partial(inverter.init, method=Inverter.log_prob)
    shapes = jax.eval_shape(init, jax.random.key(0), levels_BHWC, contexts)["params"][NETWORK]

    def widen(path, leaf, shape):
      return _padded(leaf, shape.shape, narrow, is_direction=path[-1].key == "direction")

    params = jax.tree.map_with_path(widen, params, shapes)
  return log_prob(inverter, params, contexts, levels_BHWC, **settings)


def _padded(leaf, shape, narrow, is_direction):
  """Adds channels to each axis that has them, after every `narrow` of the old ones."""
  for axis, (before, after) in enumerate(zip(leaf.shape, shape, strict=True)):
    if before == after:
      continue
    groups = before // narrow
    split = leaf.reshape(*leaf.shape[:axis], groups, narrow, *leaf.shape[axis + 1 :])
    widths = [(0, 0)] * split.ndim
    widths[axis + 1] = (0, after // groups - narrow)
    # A direction of zeros has no norm; the added scales are zero, so these ones come to nothing.
    value = 1.0 if is_direction and axis == leaf.ndim - 1 else 0.0
    padded = jnp.pad(split, widths, constant_values=value)
    leaf = padded.reshape(*leaf.shape[:axis], after, *leaf.shape[axis + 1 :])
  return leaf
