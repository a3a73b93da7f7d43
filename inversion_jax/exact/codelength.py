"""How the codelength of the first pass comes down to an entropy that is known."""

import dataclasses
import functools
import math
import time
from typing import Any

import numpy as np
from jaxtyping import Float

from inversion_jax.exact import measure
from inversion_jax.exact.tasks import Task
from inversion_jax.fitting import training
from inversion_jax.information.codelength import FirstPass
from inversion_jax.information.statistics import Estimate

# Of the images, at the end, in the words "the last of them".
LAST_PART = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
  """A task's images as they were told to p(x | h), and to p(x).

  Attributes:
    task: whose entropies are known.
    given_h, alone: what they cost each.
    log_prob_N: log p(x | h) of each in truth, in the order of `given_h`.
    seconds: of both.
  """

  task: Task
  given_h: FirstPass
  alone: FirstPass
  log_prob_N: Float[np.ndarray, " N"]
  seconds: float

  @functools.cached_property
  def excess(self) -> FirstPass:
    """What each image cost p(x | h) beyond the truth; its mean over images is never below zero."""
    return dataclasses.replace(self.given_h, nats=self.given_h.nats + self.log_prob_N)

  @property
  def last(self) -> Estimate:
    """The excess of the last images, in nats per image."""
    return _last(self.excess).per_image

  @property
  def last_alone(self) -> Estimate:
    """What the last images cost p(x) beyond H(x), in nats per image."""
    cost = _last(self.alone).per_image
    return cost._replace(mean=cost.mean - self.task.entropy_nats)

  @property
  def saved(self) -> Estimate:
    """What h saved, nats per image; beside I(x; h)."""
    return self.given_h.saved_over(self.alone)

  @property
  def is_valid(self) -> bool:
    """Whether no codelength is below its entropy, nor its last images, to three errors."""
    alone = self.alone.per_image
    alone = alone._replace(mean=alone.mean - self.task.entropy_nats)
    room = 3.0 * self.task.truth_standard_error
    pairs = (self.excess.per_image, self.last), (alone, self.last_alone)
    return all(
      one.mean >= -math.hypot(3.0 * one.standard_error, room) for part in pairs for one in part
    )

  def fields(self) -> dict[str, Any]:
    """The numbers, in nats per image."""
    return {
      "task": self.task.name,
      "num_images": len(self.given_h),
      "entropy_nats": self.task.entropy_nats,
      "conditional_entropy_nats": self.task.entropy_nats - self.task.truth_nats,
      "truth_nats": self.task.truth_nats,
      **self.given_h.per_image.fields("codelength_nats"),
      **self.alone.per_image.fields("codelength_without_h_nats"),
      **self.excess.per_image.fields("excess_nats"),
      **self.last.fields("excess_of_last_nats"),
      **self.last_alone.fields("excess_of_last_without_h_nats"),
      **self.saved.fields("saved_nats"),
      "is_valid": self.is_valid,
      "seconds": self.seconds,
    }


def _last(told: FirstPass) -> FirstPass:
  num = len(told) - round(LAST_PART * len(told))
  return FirstPass(*(array[num:] for array in told.arrays.values()))


def told(task: Task, recipe: training.Recipe = measure.QUICK, seed: int = 0) -> Told:
  """Trains p(x | h) and p(x) on fresh draws of the task, each scored before it is learnt."""
  start = time.monotonic()
  model, draws, _ = measure.learnt(task, recipe, seed, codelength=True)
  prior, _, _ = measure.learnt(task, recipe, seed, with_h=False, codelength=True)
  given_h, alone = model.codelength.first_pass, prior.codelength.first_pass
  return Told(task, given_h, alone, draws.log_prob_N[given_h.index], time.monotonic() - start)
