"""Means, errors and paired comparisons of per-image nats, with their units."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from inversion_jax.errors import UserError

LEVEL = 0.95


class Estimate(NamedTuple):
  """A mean over test images and its standard error, in the unit of the averaged values.

  `num` counts the independent pieces of evidence: clusters where rows share a source, else rows.
  The error is that of drawing other test images; training again with another seed would move the
  mean too, and no computation on one run sees that.
  """

  mean: float
  standard_error: float
  num: int

  def interval(self, level: float = LEVEL) -> tuple[float, float]:
    """The central interval, by the normal law: meant for dozens of independent rows or more."""
    reach = statistics.NormalDist().inv_cdf(0.5 + level / 2) * self.standard_error
    return self.mean - reach, self.mean + reach


def mean_with_error(
  values_N: Float[np.ndarray, " N"], clusters_N: Int[np.ndarray, " N"] | None = None
) -> Estimate:
  """The mean of `values_N`, with a standard error that respects rows sharing a source.

  Args:
    values_N: one value per test image, any unit.
    clusters_N: the source of each row; rows of one source (versions of one digit, say) may depend
      on each other, different sources are independent. None: every row is independent.

  Returns:
    The plain mean over rows, every row weighing the same. Its variance is
    G / (G - 1) * sum_g (sum of residuals in g)^2 / N^2 over G clusters, which is the usual s^2 / N
    when every cluster is a single row.

  Raises:
    UserError: fewer than two clusters, or a value that is not finite.

  Source: Liang & Zeger (1986), Biometrika 73, the sandwich estimator for a mean.
  """
  bad_rows = np.flatnonzero(~np.isfinite(values_N))
  if len(bad_rows):
    raise UserError(
      f"The nats of {len(bad_rows)} of {len(values_N)} test images are not finite, first in row"
      f" {bad_rows[0]}; the model has diverged: lower its learning rate and train it again."
    )
  if clusters_N is None:
    clusters_N = np.arange(len(values_N))
  _, cluster_of_row_N = np.unique(clusters_N, return_inverse=True)
  num_clusters = int(cluster_of_row_N.max(initial=-1)) + 1
  if num_clusters < 2:
    raise UserError("A standard error needs two independent test images; evaluate more images.")
  mean = float(values_N.mean(dtype=np.float64))
  sums_G = np.bincount(cluster_of_row_N, values_N.astype(np.float64) - mean)
  variance = num_clusters / (num_clusters - 1) * float((sums_G**2).sum()) / len(values_N) ** 2
  return Estimate(mean, math.sqrt(variance), num_clusters)


def paired_difference(
  a_nats_N: Float[np.ndarray, " N"],
  b_nats_N: Float[np.ndarray, " N"],
  clusters_N: Int[np.ndarray, " N"] | None = None,
) -> Estimate:
  """mean(a - b) in nats per image, row by row the same images, with the error of the difference.

  With codelengths -log p this is how many nats `b` saves over `a`, that is NCE(b) - NCE(a). Images
  that are hard for both models cancel, so the error is far below that of two separate means.
  """
  return mean_with_error(a_nats_N.astype(np.float64) - b_nats_N, clusters_N)


def bits_per_dim(nats: float, image_shape: Sequence[int]) -> float:
  """Nats per image as bits per sub-pixel, for images of shape (H, W, C)."""
  return nats / (math.prod(image_shape) * math.log(2.0))


def verdict(difference: Estimate, level: float = LEVEL) -> str:
  """ "lower", "higher", or "not resolved" where the interval of `difference` includes zero."""
  low, high = difference.interval(level)
  if low > 0:
    return "higher"
  return "lower" if high < 0 else "not resolved"
