"""How far images are from each other in the space of a layer, and which are nearest."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from inversion_jax.data import batches
from inversion_jax.machine.progress import track


class Nearest(NamedTuple):
  """The nearest candidates of each query, the nearest first; of equals, the one that came first."""

  l1_MK: Float[np.ndarray, "M K"]
  rows_MK: Int[np.ndarray, "M K"]


AnyArray = Array | np.ndarray


@jax.jit
def l1_distance(a_BU: Float[AnyArray, "B U"], b_BU: Float[AnyArray, "B U"]) -> Float[Array, " B"]:
  """The mean over units of |a - b|, row by row.

  Source: Nash et al. (2019), table 1, whose magnitudes are those of a mean, not of a sum.
  """
  return jnp.abs(a_BU - b_BU).mean(-1)


def nearest(
  queries_MU: Float[AnyArray, "M U"],
  block_fn: Callable[[Int[np.ndarray, " B"]], Float[AnyArray, "B U"]],
  num_candidates: int,
  batch_size: int,
  num_nearest: int,
) -> Nearest:
  """Compares every query with every candidate.

  The candidates are never in memory together: the activations of a layer over a whole training set
  can take many gigabytes.

  Args:
    queries_MU: M points of U units.
    block_fn: the candidates of some rows.
    num_candidates: rows 0 to num_candidates - 1 are compared.
    batch_size: B, candidates at a time.
    num_nearest: K, to be returned; all of them, if there are fewer candidates.
  """
  queries_MU = jnp.asarray(queries_MU)
  num_nearest = min(num_nearest, num_candidates)
  l1_MK = np.empty((len(queries_MU), 0), np.float32)
  rows_MK = np.empty((len(queries_MU), 0), np.int64)
  with track("nearest", num_candidates, unit="image") as shown:
    for rows_B, is_valid_B in batches.eval_batches(num_candidates, batch_size):
      found = _nearest_of_block(
        queries_MU, block_fn(rows_B), is_valid_B, min(num_nearest, batch_size)
      )
      l1_block_MK, place_MK = (np.asarray(array) for array in found)
      l1 = np.concatenate([l1_MK, l1_block_MK], axis=1)
      rows = np.concatenate([rows_MK, rows_B[place_MK]], axis=1)
      order = np.argsort(l1, axis=1, kind="stable")[:, :num_nearest]
      l1_MK, rows_MK = (np.take_along_axis(array, order, axis=1) for array in (l1, rows))
      shown.update(int(is_valid_B.sum()))
  return Nearest(l1_MK, rows_MK)


@jax.jit(static_argnums=3)
def _nearest_of_block(queries_MU, block_BU, is_valid_B, num_nearest):
  """(distances, places) of the nearest of a block; what fills the block up is infinitely far."""

  def of_query(query_U):
    # One query at a time: all at once would need M x B x U numbers.
    l1_B = l1_distance(block_BU, jnp.broadcast_to(query_U, block_BU.shape))
    l1_B = jnp.where(is_valid_B, l1_B, jnp.inf)
    negative_K, place_K = jax.lax.top_k(-l1_B, num_nearest)
    return -negative_K, place_K

  return jax.lax.map(of_query, queries_MU)
