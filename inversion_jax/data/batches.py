"""The order in which images are visited: pure functions, so there is nothing to save."""

import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from inversion_jax.machine.errors import UserError


def train_rows(step: int, *, seed: int, batch_size: int, num_images: int) -> Int[np.ndarray, " B"]:
  """Rows of training batch `step`: shuffled anew each epoch, a function of (seed, step) alone.

  Every image is visited once an epoch, but for the remainder that fills no batch.

  Raises UserError if there are fewer images than a batch holds.
  """
  if num_images < batch_size:
    raise UserError(
      f"batch_size={batch_size} exceeds the {num_images} training images; lower batch_size."
    )
  epoch, batch = divmod(step, num_images // batch_size)
  return _order(seed, epoch, num_images)[batch * batch_size : (batch + 1) * batch_size]


def eval_batches(
  num_rows: int, batch_size: int
) -> Iterator[tuple[Int[np.ndarray, " B"], Bool[np.ndarray, " B"]]]:
  """Yields (rows, valid): each row once, in order.

  Every batch is full: the last one repeats the last row, and `valid` marks the real ones.
  """
  for start in range(0, num_rows, batch_size):
    rows_B = np.arange(start, start + batch_size)
    yield np.minimum(rows_B, num_rows - 1), rows_B < num_rows


@functools.lru_cache(maxsize=2)
def _order(seed, epoch, num_images):
  # Kept, since a step of a large set would otherwise shuffle a million rows to use a hundred.
  order_N = np.random.default_rng((seed, epoch)).permutation(num_images)
  order_N.setflags(write=False)
  return order_N
