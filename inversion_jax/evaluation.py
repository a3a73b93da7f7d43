"""Scores every image of a set exactly once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from inversion_jax import batches
from inversion_jax.progress import track


def scores(
  score_fn: Callable[[Int[np.ndarray, " B"]], tuple],
  num_images: int,
  batch_size: int,
  description: str = "evaluate",
) -> tuple[Float[np.ndarray, " N"], ...]:
  """Per-image values of all images, float64, in order.

  Args:
    score_fn: takes the rows of a batch and returns arrays (B,), one for each kind of value.
    num_images: N. The last batch is filled up to the batch size; what is scored twice is dropped.
    batch_size: B.
    description: for the progress.
  """
  parts = []
  with track(description, num_images, unit="image") as shown:
    for rows_B, is_valid_B in batches.eval_batches(num_images, batch_size):
      values = (np.asarray(array, np.float64)[is_valid_B] for array in score_fn(rows_B))
      parts.append(tuple(values))
      shown.update(int(is_valid_B.sum()))
  return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
