"""Scores every image of a set exactly once."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from inversion_jax.data import batches
from inversion_jax.machine.progress import track


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
  parts = scored_batches(score_fn, num_images, batch_size, description)
  return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def scored_batches(
  score_fn: Callable[[Int[np.ndarray, " B"]], tuple],
  num_images: int,
  batch_size: int,
  description: str = "evaluate",
) -> Iterator[tuple[np.ndarray, ...]]:
  """What `scores` puts together, batch by batch: for values too large to hold for all images.

  The arrays may have more axes than the first, and the last batch has only what is left.
  """
  with track(description, num_images, unit="image") as shown:
    for rows_B, is_valid_B in batches.eval_batches(num_images, batch_size):
      yield tuple(np.asarray(array, np.float64)[is_valid_B] for array in score_fn(rows_B))
      shown.update(int(is_valid_B.sum()))
