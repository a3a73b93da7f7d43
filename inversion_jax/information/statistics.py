"""Means, errors and paired comparisons of per-image nats, with their units."""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

from inversion_jax.machine.errors import UserError

LEVEL = 0.95
# Below so many independent rows no interval is trusted with a verdict.
FEWEST = 30
NO_VERDICT = "no verdict"
NOT_RESOLVED = "not resolved"
_SMALLEST_P_VALUE = 1e-30
_NUM_DRAWS = 20_000  # a p-value of 5% is then known to 0.15%


class Estimate(NamedTuple):
  """A mean over test images and its standard error, in the unit of the averaged values.

  `num` counts the independent pieces of evidence: clusters where rows share a source, else rows.
  The error is that of drawing other test images; training again with another seed would move the
  mean too, and no computation on one run sees that. An estimate from several seeds includes it:
  `seed_error` is that part of the standard error, known to `seed_degrees_of_freedom`. `skewness` is
  that of the law of the mean over images; 0 where it is not known.
  """

  mean: float
  standard_error: float
  num: int
  seed_error: float = 0.0
  seed_degrees_of_freedom: float = math.inf
  skewness: float = 0.0

  @classmethod
  def read(
    cls, record: Mapping[str, Any], name: str, error_name: str | None = None, *, num: int = 0
  ) -> "Estimate":
    """What `fields` wrote into a record of a file; an error that is null there counts as 0.

    Files do not tell how the error is split into seeds and images, nor the skewness, nor `num`:
    with 0 for it the interval is that of the normal law.
    """
    standard_error = record[error_name or f"{name}_standard_error"]
    return cls(record[name], standard_error or 0.0, num)

  def fields(self, name: str, error_name: str | None = None) -> dict[str, float]:
    """The mean as `name` and the error as `error_name`, by default `<name>_standard_error`."""
    return {name: self.mean, error_name or f"{name}_standard_error": self.standard_error}

  def __neg__(self) -> "Estimate":
    """Of the values with the other sign."""
    return self._replace(mean=-self.mean, skewness=-self.skewness)

  def interval(self, level: float = LEVEL) -> tuple[float, float]:
    """The central interval, for 30 independent rows or more.

    It has the quantiles of Student's law for the images; where their values are skewed it is longer
    on the side of the tail, by Hall's (1992) transformation (Journal of the Royal Statistical
    Society B 54), and never shorter on the other, since few rows tell little of their skewness.
    The part of few seeds has quantiles of its own, and the squares of both parts add, which covers
    at least `level` where values are normal: Banerjee (1960), Sankhya 22. `benchmarks/coverage.py`
    simulates what is covered.
    """
    tail = (1 - level) / 2
    return self.mean - self._reach(tail, -1), self.mean + self._reach(tail, 1)

  @property
  def p_value(self) -> float:
    """One minus the level of the interval that ends at zero; never below 1e-30."""
    side = -1 if self.mean > 0 else 1

    def reach_beyond_zero(log_p_value):
      return self._reach(math.exp(log_p_value) / 2, side) - abs(self.mean)

    smallest = math.log(_SMALLEST_P_VALUE)
    # Where the values are skewed, even the shortest interval has a length.
    if reach_beyond_zero(0.0) >= 0:
      return 1.0
    if reach_beyond_zero(smallest) < 0:
      return _SMALLEST_P_VALUE
    return math.exp(optimize.brentq(reach_beyond_zero, smallest, 0.0))

  def _reach(self, tail: float, side: int) -> float:
    """From the mean to the end of the interval that leaves out `tail` below (-1) or above (1)."""
    seed_reach = float(special.stdtrit(self.seed_degrees_of_freedom, tail)) * self.seed_error
    image_variance = max(0.0, self.standard_error**2 - self.seed_error**2)
    score = -float(special.stdtrit(self.num - 1 if self.num > 1 else math.inf, tail))
    return math.hypot(
      _stretched(score, side * self.skewness) * math.sqrt(image_variance), seed_reach
    )


def _stretched(score, skewness):
  """A quantile of a mean's score for the side where the tail is, if `skewness` is above zero."""
  if skewness < 1e-6:
    return score
  # Hall's transformation makes a score symmetric; this is its inverse.
  return max(score, (1 - np.cbrt(1 - skewness * (score + skewness / 6))) * 3 / skewness)


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
    when every cluster is a single row. Its skewness has the cubes of the same sums.

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
  error = math.sqrt(variance)
  skewness = float((sums_G**3).sum()) / (len(values_N) * error) ** 3 if error > 0 else 0.0
  return Estimate(mean, error, num_clusters, skewness=skewness)


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


def mean_over_seeds(
  values_SN: Float[np.ndarray, "S N"], clusters_N: Int[np.ndarray, " N"] | None = None
) -> Estimate:
  """The mean over S seeds and N test images, with an error that covers the choice of both.

  The variance is that of the images' values averaged over seeds (`mean_with_error`), plus
  s^2 / S with S - 1 degrees of freedom, where s^2 is the variance (ddof 1) of the S means. The part
  of a mean that is neither the seed's nor the image's enters both, so the error errs on the long
  side (with the subtraction it would be the two-way error of Cameron, Gelbach & Miller 2011,
  Journal of Business & Economic Statistics 29). With one seed it is `mean_with_error`, and blind
  to seeds.
  """
  return _with_seeds(mean_with_error(_mean_of_seeds(values_SN), clusters_N), values_SN)


def difference_over_seeds(
  a_SN: Float[np.ndarray, "S N"],
  b_SN: Float[np.ndarray, "R N"],
  clusters_N: Int[np.ndarray, " N"] | None = None,
  *,
  is_paired: bool = False,
) -> Estimate:
  """mean(a) - mean(b) over seeds and images, paired by image, with an error that covers both.

  The variance is that of `paired_difference` of the images' values averaged over seeds, plus
  v = s_a^2 / S + s_b^2 / R as in `mean_over_seeds`; the degrees of freedom of v are Welch's,
  v^2 / ((s_a^2 / S)^2 / (S - 1) + (s_b^2 / R)^2 / (R - 1)) (Welch 1947, Biometrika 34). Simulated
  intervals of three seeds a side cover 94.4 to 97.4%. Spreading the degrees of freedom over the
  images as well (Satterthwaite) covers 95% on average but is wrong in the tails, which a family of
  comparisons looks at: five equal rows of two seeds were called different in 16% of cases.

  The seeds of `a` and `b` count as independent draws; what they share, such as one classifier,
  makes the interval too long. With `is_paired` seed by seed both sides have the same seeds, in the
  same order: v is then s^2 / S of the S differences, with S - 1 degrees of freedom, and what a seed
  does to both sides cancels. A side with a single seed adds nothing: the effect of its seed is then
  not in the error.
  """
  image_part = paired_difference(_mean_of_seeds(a_SN), _mean_of_seeds(b_SN), clusters_N)
  if is_paired:
    return _with_seeds(image_part, a_SN.astype(np.float64) - b_SN)
  return _with_seeds(image_part, a_SN, b_SN)


def _mean_of_seeds(values_SN):
  return values_SN.mean(axis=0, dtype=np.float64)


def _mean_of_images(values_SN):
  return values_SN.mean(axis=1, dtype=np.float64)


def _variance_of_mean(values_S) -> float:
  """s^2 / S; 0 where one value cannot tell."""
  return float(values_S.var(ddof=1)) / len(values_S) if len(values_S) > 1 else 0.0


def _with_seeds(image_part: Estimate, *values: np.ndarray) -> Estimate:
  parts = [
    (_variance_of_mean(_mean_of_images(values_SN)), len(values_SN) - 1) for values_SN in values
  ]
  variance = sum(part for part, _ in parts)
  if variance == 0:
    return image_part
  spread = sum(part**2 / degrees for part, degrees in parts if degrees)
  return image_part._replace(
    standard_error=math.sqrt(image_part.standard_error**2 + variance),
    seed_error=math.sqrt(variance),
    seed_degrees_of_freedom=variance**2 / spread,
  )


class Difference(NamedTuple):
  """mean(row `first`) - mean(row `second`), judged as one of all the differences looked at.

  `estimate` and its interval are those of this difference alone. `adjusted_p_value` and `verdict`
  hold for all differences together: where none exists, the chance that any verdict is other than
  "not resolved" is 5%. All of `simultaneous_interval` cover at once in 95% of cases; they are
  longer than the verdict needs. With fewer than 30 independent rows there is no verdict.
  """

  first: int
  second: int
  estimate: Estimate
  simultaneous_interval: tuple[float, float]
  adjusted_p_value: float
  verdict: str

  def reversed(self) -> "Difference":
    """mean(row `second`) - mean(row `first`)."""
    low, high = self.simultaneous_interval
    return self._replace(
      first=self.second,
      second=self.first,
      estimate=-self.estimate,
      simultaneous_interval=(-high, -low),
      verdict={"higher": "lower", "lower": "higher"}.get(self.verdict, self.verdict),
    )


def all_differences(
  rows: Sequence[Float[np.ndarray, "_ N"]],
  clusters_N: Int[np.ndarray, " N"] | None = None,
  seeds: Sequence[Hashable] | None = None,
) -> list[Difference]:
  """All pairwise differences of the means of `rows`, with error rates that hold for all together.

  Args:
    rows: one array (seeds, N) a row, any unit, of the same N images in the same order; the numbers
      of seeds may differ.
    clusters_N: as in `mean_with_error`.
    seeds: of each row, in its order; rows of equal seeds are paired seed by seed. None: no two
      rows are.

  The step-down method of Romano & Wolf (2005), JASA 100, with the largest score over all pairs not
  yet rejected as its statistic. Its law without differences is that of a multiplier bootstrap of
  clusters with normal weights (Chernozhukov, Chetverikov & Kato 2013, Annals of Statistics 41),
  which given the data is exactly a normal law, and is drawn as such; the variance between seeds
  joins it, row by row or, of rows that are paired, pair by pair. Student's scores of few seeds
  enter through their p-values. Pairs of rows depend much on each other, which Holm's method does
  not use: an adjusted p-value is never above his nor below the pair's own.
  """
  pairs = list(itertools.combinations(range(len(rows)), 2))
  if not pairs:
    return []
  seeds = list(range(len(rows))) if seeds is None else seeds
  estimates = [
    difference_over_seeds(rows[a], rows[b], clusters_N, is_paired=seeds[a] == seeds[b])
    for a, b in pairs
  ]
  p_values_M = np.array([estimate.p_value for estimate in estimates])
  scores_DM = _scores_without_differences(rows, clusters_N, seeds, pairs)
  adjusted_M = _step_down(p_values_M, scores_DM)
  level = _simultaneous_level(scores_DM)
  return [
    Difference(
      a, b, estimate, estimate.interval(level), float(p_value), _verdict(estimate, p_value)
    )
    for (a, b), estimate, p_value in zip(pairs, estimates, adjusted_M, strict=True)
  ]


def _verdict(estimate, p_value, level=LEVEL):
  if 0 < estimate.num < FEWEST:
    return NO_VERDICT
  if p_value >= 1 - level:
    return NOT_RESOLVED
  return "higher" if estimate.mean > 0 else "lower"


def _scores_without_differences(rows, clusters_N, seeds, pairs):
  """|difference| / standard error of every pair, in draws from a world without differences."""
  covariance_KK = _covariance_of_means(rows, clusters_N)
  rng = np.random.default_rng(0)  # the same data always get the same verdict
  noise_DK = rng.multivariate_normal(
    np.zeros(len(rows)), covariance_KK, _NUM_DRAWS, method="eigh", check_valid="ignore"
  )
  first_M, second_M = np.transpose(pairs)
  variance_K = np.diag(covariance_KK)
  variance_M = variance_K[first_M] + variance_K[second_M] - 2 * covariance_KK[first_M, second_M]
  seed_noise_DM, seed_variance_M = _noise_of_seeds(rng, rows, seeds, pairs)
  total_M = variance_M + seed_variance_M
  # Rows that are copies of each other differ by rounding alone.
  copies_M = total_M <= 1e-12 * (variance_K.max() + seed_variance_M.max())
  errors_M = np.sqrt(np.where(copies_M, np.inf, total_M))
  return np.abs(noise_DK[:, first_M] - noise_DK[:, second_M] + seed_noise_DM) / errors_M


def _noise_of_seeds(rng, rows, seeds, pairs):
  """What seeds add to every pair's difference, in draws, and its variance.

  Of rows that are paired each pair draws its own: few seeds cannot tell how pairs depend on each
  other, and taking their word for it called five equal rows of three seeds different in 8% of
  cases.
  """
  variance_K = np.array([_variance_of_mean(_mean_of_images(values_SN)) for values_SN in rows])
  noise_DK = rng.standard_normal((_NUM_DRAWS, len(rows))) * np.sqrt(variance_K)
  noise, variances = [], []
  for a, b in pairs:
    if seeds[a] == seeds[b]:
      variance = _variance_of_mean(_mean_of_images(rows[a]) - _mean_of_images(rows[b]))
      noise.append(rng.standard_normal(_NUM_DRAWS) * math.sqrt(variance))
    else:
      variance = variance_K[a] + variance_K[b]
      noise.append(noise_DK[:, a] - noise_DK[:, b])
    variances.append(variance)
  return np.stack(noise, axis=1), np.array(variances)


def _covariance_of_means(rows, clusters_N):
  """That of the choice of images, up to what all rows share, which no difference contains."""
  values_KN = np.stack([_mean_of_seeds(values_SN) for values_SN in rows])
  values_KN -= values_KN.mean(axis=0)
  values_KN -= values_KN.mean(axis=1, keepdims=True)
  num_images = values_KN.shape[1]
  if clusters_N is None:
    clusters_N = np.arange(num_images)
  _, cluster_of_row_N = np.unique(clusters_N, return_inverse=True)
  sums_KG = np.stack([np.bincount(cluster_of_row_N, values_N) for values_N in values_KN])
  num_clusters = sums_KG.shape[1]
  return num_clusters / (num_clusters - 1) * sums_KG @ sums_KG.T / num_images**2


def _step_down(p_values_M, scores_DM):
  """Adjusted p-values: each pair against the largest score of all that are no more certain."""
  order_M = np.argsort(p_values_M, kind="stable")
  p_values_M = p_values_M[order_M]
  # The largest score among this pair and all after it.
  largest_DM = np.maximum.accumulate(scores_DM[:, order_M[::-1]], axis=1)[:, ::-1]
  exceeded_M = (largest_DM >= -special.ndtri(p_values_M / 2)).sum(axis=0)
  holm_M = np.minimum(1.0, p_values_M * np.arange(len(order_M), 0, -1))
  adjusted_M = np.clip((1 + exceeded_M) / (1 + len(scores_DM)), p_values_M, holm_M)
  in_order_M = np.empty_like(adjusted_M)
  in_order_M[order_M] = np.maximum.accumulate(adjusted_M)
  return in_order_M


def _simultaneous_level(scores_DM):
  """The level at which intervals of single pairs cover all at once in 95% of cases."""
  largest = np.quantile(scores_DM.max(axis=1), LEVEL)
  bonferroni = 1 - (1 - LEVEL) / scores_DM.shape[1]
  return float(np.clip(special.ndtr(largest) - special.ndtr(-largest), LEVEL, bonferroni))


def bits_per_dim(nats: float, image_shape: Sequence[int]) -> float:
  """Nats per image as bits per sub-pixel, for images of shape (H, W, C)."""
  return nats / (math.prod(image_shape) * math.log(2.0))


def verdict(difference: Estimate, level: float = LEVEL) -> str:
  """ "lower", "higher", "not resolved" where the interval includes zero, or "no verdict".

  The last is said of fewer than 30 independent rows; see `reservation`.
  """
  return _verdict(difference, difference.p_value, level)


def reservation(num: int) -> str:
  """Why so many independent rows get no verdicts, in a sentence; "" where they get them."""
  if not 0 < num < FEWEST:
    return ""
  return (
    f"No verdicts: {num} independent test images are too few to trust an interval; evaluate "
    f"{FEWEST} or more."
  )
