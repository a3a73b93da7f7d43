"""Images told one after another to a model that learns from each batch once it knows it.

What they cost together is a codelength that charges for the learning (Dawid 1984; Blier & Ollivier
2018, "The description length of deep learning models", section 3.4), and how the cost of the next
image falls is how easily they are learnt (Whitney et al. 2020, "Evaluating representations by the
complexity of learning low-loss predictors").
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from inversion_jax.information.statistics import Estimate

# A point of a learning curve is the mean over this part of the images before it, or over a batch.
BLOCK_PART = 1 / 16
_NUM_DRAWS = 400
_ENDS = (0.025, 0.975)


class Blocks(NamedTuple):
  """A learning curve: the mean nats of the next image, over successive blocks of K.

  `ends` are the images told by the end of each; `fit` is the closest curve that never rises.
  """

  ends: Int[np.ndarray, " K"]
  mean: Float[np.ndarray, " K"]
  standard_error: Float[np.ndarray, " K"]
  fit: Float[np.ndarray, " K"]

  @property
  def starts(self) -> Int[np.ndarray, " K"]:
    """Images told before each block."""
    return np.append(0, self.ends[:-1])


class Bounded(NamedTuple):
  """A number and its 95% interval; an end that the images do not reach is infinite."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True, eq=False)
class FirstPass:
  """The cost of every image of the first pass over a set, in the order in which they were told.

  Attributes:
    index: of each image in its set.
    step: that learnt from it; 0 for those that the initialisation saw.
    nats: -log p of it under the parameters before that step.
    source: images made from one original share a number.
  """

  index: Int[np.ndarray, " N"]
  step: Int[np.ndarray, " N"]
  nats: Float[np.ndarray, " N"]
  source: Int[np.ndarray, " N"]

  @classmethod
  def of(cls, arrays: Mapping[str, np.ndarray]) -> "FirstPass":
    """From named arrays as of a file, without `source` if every image is its own.

    Raises:
      ValueError: they are not one number an image.
    """
    arrays = {"source": arrays.get("index"), **arrays}
    names = [field.name for field in dataclasses.fields(cls)]
    if arrays.keys() != set(names) or any(array is None for array in arrays.values()):
      raise ValueError("it does not hold index, step and nats")
    for name, array in arrays.items():
      kinds = "f" if name == "nats" else "iu"
      if array.shape != arrays["nats"].shape or array.ndim != 1 or array.dtype.kind not in kinds:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    if not len(arrays["nats"]):
      raise ValueError("it has no images")
    return cls(**arrays)

  @property
  def arrays(self) -> dict[str, np.ndarray]:
    """All of it by name, as `of` takes it."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def __len__(self) -> int:
    return len(self.nats)

  @property
  def num_seen(self) -> int:
    """Images that the initialisation saw, which nothing was known of."""
    return int((self.step == 0).sum())

  @property
  def total_nats(self) -> float:
    """The codelength of all images."""
    return float(self.nats.sum())

  @property
  def per_image(self) -> Estimate:
    """The codelength in nats per image; the error is that of other images, told as these were."""
    return self._mean(self.nats)

  def first(self, num: int) -> "FirstPass":
    """The first images alone."""
    return FirstPass(*(array[:num] for array in self.arrays.values()))

  def is_told_as(self, other: "FirstPass") -> bool:
    """Whether both were told the same images in the same order, as far as both go."""
    num = min(len(self), len(other))
    mine, theirs = self.first(num), other.first(num)
    return all(
      np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in ("index", "step")
    )

  def saved_over(self, other: "FirstPass") -> Estimate:
    """Nats per image that these cost less than `other`, over as many images as both have.

    Paired image by image where the order is the same.
    """
    mean, error = (curve[-1] for curve in self.saving_curve(other)[1:])
    num = min(len(self), len(other))
    return Estimate(float(mean), float(error), len(np.unique(self.source[:num])))

  def saving_curve(self, other: "FirstPass") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, nats per image saved over `other` in the first n images, its standard error)."""
    num = min(len(self), len(other))
    mine, theirs = self.first(num), other.first(num)
    n = mine.blocks.ends
    if self.is_told_as(other):
      mean_N, error_N = mine.running(theirs.nats - mine.nats)
      return n, mean_N[n - 1], error_N[n - 1]
    (mean_N, error_N), (their_mean_N, their_error_N) = (
      of.running(of.nats) for of in (mine, theirs)
    )
    return n, (their_mean_N - mean_N)[n - 1], np.hypot(error_N, their_error_N)[n - 1]

  def running(self, values_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean of the first n of `values_N`, its standard error) for every n.

    Images of one block were told at nearly the same state of learning, so their scatter is that of
    other images; sums over blocks scatter as martingales do, the squares adding up. Rows of one
    source count as one piece of evidence. What another order, or another seed, would have made of
    the learning is not in it.
    """
    counts_N = np.arange(1, len(values_N) + 1)
    residual_N = np.concatenate(list(map(_residuals, self._by_block(values_N))))
    # (sum of r in a source)^2 grows, with each further r, by r^2 + 2 r (sum before it).
    before_N = _sums_before(residual_N, self.source)
    variance_N = np.maximum(np.cumsum(residual_N**2 + 2 * residual_N * before_N), 0.0)
    return np.cumsum(values_N) / counts_N, np.sqrt(variance_N) / counts_N

  @functools.cached_property
  def blocks(self) -> Blocks:
    """The learning curve."""
    parts = self._by_block(self.nats)
    mean_K = np.array([part.mean() for part in parts])
    error_K = np.array([math.sqrt((_residuals(part) ** 2).sum()) / len(part) for part in parts])
    return Blocks(self._ends, mean_K, error_K, _falling(mean_K, self._sizes))

  def images_until(self, target_nats: float) -> Bounded:
    """Images told until the next one costs `target_nats` or less: epsilon-sample-complexity.

    Infinite where the first pass ends before that.
    """
    return self._bounded(lambda fit_K: self._reached(fit_K, target_nats))

  def surplus(self, target_nats: float) -> Bounded:
    """Nats beyond `target_nats` an image, summed until it is reached: surplus description length.

    Where the first pass ends before that, it is what has come together until then.
    """

    def beyond(fit_K):
      return float((self._sizes * np.maximum(fit_K - target_nats, 0.0)).sum())

    return self._bounded(beyond)

  def reaches(self, target_nats: float) -> bool:
    """Whether the next image costs `target_nats` or less before the first pass is over."""
    return bool(self.blocks.fit[-1] <= target_nats)

  def _reached(self, fit_K, target_nats):
    is_there = fit_K <= target_nats
    return float(self.blocks.starts[is_there.argmax()]) if is_there.any() else math.inf

  def _bounded(self, number):
    """A number of the falling curve, with the interval of curves that scatter as the means do."""
    blocks = self.blocks
    # The same images always get the same interval.
    noise = np.random.default_rng(0).normal(size=(_NUM_DRAWS, len(blocks.mean)))
    drawn = [
      number(_falling(mean_K, self._sizes))
      for mean_K in blocks.mean + noise * blocks.standard_error
    ]
    # Of sorted numbers, since some may be infinite.
    low, high = (sorted(drawn)[round(end * (_NUM_DRAWS - 1))] for end in _ENDS)
    return Bounded(number(blocks.fit), low, high)

  @functools.cached_property
  def _ends(self):
    """Where blocks end: after a whole step, two images and a part of those before, or more."""
    changes = np.append(np.flatnonzero(np.diff(self.step)) + 1, len(self.step))
    ends = []
    for end in changes:
      start = ends[-1] if ends else 0
      if end - start >= max(2, BLOCK_PART * start):
        ends.append(int(end))
    # What is left at the end is no block of its own.
    return np.array([*ends[:-1], len(self.step)])

  @property
  def _sizes(self):
    return np.diff(self._ends, prepend=0)

  def _by_block(self, values_N):
    return np.split(values_N.astype(np.float64), self._ends[:-1])

  def _mean(self, values_N):
    mean_N, error_N = self.running(values_N)
    return Estimate(float(mean_N[-1]), float(error_N[-1]), len(np.unique(self.source)))


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
  """The mean of one quantity over runs of several seeds, and so of several orders of the images.

  The images are the same for all, so their part of the error does not fall with the seeds; that of
  the seeds is as in `mean_over_seeds`.
  """
  num = len(estimates)
  mean = float(np.mean([estimate.mean for estimate in estimates]))
  image_error = math.sqrt(np.mean([estimate.standard_error**2 for estimate in estimates]))
  if num == 1:
    return estimates[0]
  seed_error = float(np.std([estimate.mean for estimate in estimates], ddof=1)) / math.sqrt(num)
  error = math.hypot(image_error, seed_error)
  return Estimate(mean, error, estimates[0].num, seed_error, num - 1.0)


def _residuals(values_n):
  """Values less their mean, as far from it as they would lie from the true one."""
  num = len(values_n)
  return (values_n - values_n.mean()) * (math.sqrt(num / (num - 1)) if num > 1 else 0.0)


def _falling(mean_K, sizes_K):
  """The closest curve that never rises, each point weighing as many images as it has."""
  return optimize.isotonic_regression(mean_K, weights=sizes_K, increasing=False).x


def _sums_before(values_N, cluster_N):
  """Of each value the sum of those before it in its cluster."""
  order_N = np.argsort(cluster_N, kind="stable")
  sorted_N = values_N[order_N]
  totals_N = np.cumsum(sorted_N) - sorted_N
  is_first_N = np.append(True, np.diff(cluster_N[order_N]) != 0)
  starts_N = np.maximum.accumulate(np.where(is_first_N, np.arange(len(values_N)), 0))
  before_N = np.empty_like(values_N)
  before_N[order_N] = totals_N - totals_N[starts_N]
  return before_N
