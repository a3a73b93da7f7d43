"""Where the ink of an image lies: how far samples of one h scatter, and what a readout of h leaves.

If the samples of an h were draws from the true p(x | h), the variance of their centres would be
what is left of the position once h is known, which no readout can go below.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.linear_model import RidgeCV

from inversion_jax.features.pairs import Pairs
from inversion_jax.runs import Run

# Images that the readout is learnt from, and the penalties from which it chooses.
MAX_TRAIN_IMAGES = 10_000
PENALTIES = np.logspace(-2, 6, 9)


def centres(images_NHWC: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N 2"]:
  """Mean row and column of each image's ink, in pixels; without ink, those of the image."""
  ink_NHW = images_NHWC.astype(np.float64).sum(-1)
  total_N = np.maximum(ink_NHW.sum((1, 2)), 1e-9)
  height, width = ink_NHW.shape[1:]
  row_N = (ink_NHW.sum(2) @ np.arange(height)) / total_N
  column_N = (ink_NHW.sum(1) @ np.arange(width)) / total_N
  is_empty_N = ink_NHW.sum((1, 2)) == 0
  row_N[is_empty_N], column_N[is_empty_N] = (height - 1) / 2, (width - 1) / 2
  return np.stack([row_N, column_N], axis=1)


def scatter(samples_NSHWC: UInt8[np.ndarray, "N S H W C"]) -> Float[np.ndarray, " N"]:
  """The variance of the centres of an image's samples, rows and columns together, in pixels^2."""
  num_images, num_samples = samples_NSHWC.shape[:2]
  centre_M2 = centres(samples_NSHWC.reshape(-1, *samples_NSHWC.shape[2:]))
  return centre_M2.reshape(num_images, num_samples, 2).var(1, ddof=1).sum(-1)


def empty_fraction(samples_NSHWC: UInt8[np.ndarray, "N S H W C"]) -> float:
  """The fraction of samples without ink, which count as centred."""
  return float((samples_NSHWC.max((2, 3, 4)) == 0).mean())


def left_by_readout(run: Run) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
  """What the best line from a run's h to the centre misses, and the sources of the test images.

  Squared distances in pixels^2, of the test images; the line is learnt from training images.
  """
  train, test = run.pairs("train"), run.pairs("test")
  rows = np.random.default_rng(run.config.seed).permutation(len(train))[:MAX_TRAIN_IMAGES]
  train = train.rows(rows)
  seen = [_activations(run, pairs) for pairs in (train, test)]
  left_N = missed(seen[0], centres(train.images), seen[1], centres(test.images))
  return left_N, test.sources


def missed(
  h_MZ: Float[np.ndarray, "M Z"],
  centre_M2: Float[np.ndarray, "M 2"],
  h_NZ: Float[np.ndarray, "N Z"],
  centre_N2: Float[np.ndarray, "N 2"],
) -> Float[np.ndarray, " N"]:
  """Squared distances from the centres of N images to what ridge regression on M others says."""
  readout = RidgeCV(PENALTIES).fit(h_MZ, centre_M2)
  return ((readout.predict(h_NZ) - centre_N2) ** 2).sum(1)


def _activations(run: Run, pairs: Pairs) -> np.ndarray:
  """Standardised units, one row an image."""
  return run.observed.clean(pairs).h.astype(np.float64).reshape(len(pairs), -1)
