"""Trains the ordinary inverter on a task and measures how much of the truth its bound reaches."""

import dataclasses
import math
import time

import numpy as np

from inversion_jax import information, inversion
from inversion_jax.exact.tasks import Draws, Task
from inversion_jax.features.pairs import Pairs, pairs
from inversion_jax.fitting import training
from inversion_jax.information.statistics import Estimate
from inversion_jax.inversion import Inversion, Network

QUICK = training.Recipe(
  batch_size=64,
  num_steps=600,
  learning_rate=3e-3,
  decay="cosine",
  ema_decay=0.98,
  log_every=25,
  validate_every=10**9,
)
FULL = dataclasses.replace(QUICK, num_steps=5_000, learning_rate=2e-3, ema_decay=0.995)
NETWORK = Network(num_filters=32, num_blocks=1, num_scales=2, dropout_rate=0.0)
NUM_TEST, NUM_VALIDATION = 2_000, 250
BATCH_SIZE = 250


@dataclasses.dataclass(frozen=True)
class Result:
  """What a task gave; `gap` is E[log p(x | h) - log q(x | h)], what the model misses.

  `train_gap` is the same on images that it was trained on.
  """

  task: Task
  gap: Estimate
  train_gap: Estimate
  nce: Estimate
  seconds: float

  @property
  def bound(self) -> Estimate:
    """H(x) + NCE in nats, a lower bound of I(x; h).

    E[log p(x | h)] is known, so the truth minus the paired gap is the same quantity with a far
    smaller error than H(x) minus the mean codelength of the test images.
    """
    error = math.hypot(self.gap.standard_error, self.task.truth_standard_error)
    return Estimate(self.task.truth_nats - self.gap.mean, error, self.gap.num)

  @property
  def is_valid(self) -> bool:
    """Whether the bound stays below the truth, to three standard errors."""
    return self.gap.mean >= -3.0 * self.gap.standard_error

  @property
  def reaches(self) -> bool:
    """Whether the bound is as close to the truth as the quick version promises."""
    return self.bound.mean >= self.task.least_nats

  @property
  def missing(self) -> str:
    """Which part of the truth is missing, in words."""
    unseen = self.gap.mean - self.train_gap.mean
    return (
      f"{self.gap.mean:.3g} nats are missing: {self.train_gap.mean:.3g} on training images too (too"
      f" few steps or too small a network), {unseen:.3g} on unseen images alone (overfitting)"
    )


def measure(task: Task, recipe: training.Recipe = QUICK, seed: int = 0) -> Result:
  """Trains an inverter on fresh draws of the task, and scores it on others."""
  start = time.monotonic()
  model, train, test = learnt(task, recipe, seed)
  seen = Draws(*(array[:NUM_TEST] for array in train))
  nats_N, seen_nats_N = (model.nats(pairs_of(task, draws)) for draws in (test, seen))
  return Result(
    task,
    gap=information.mean_with_error(test.log_prob_N + nats_N),
    train_gap=information.mean_with_error(seen.log_prob_N + seen_nats_N),
    nce=information.mean_with_error(-nats_N),
    seconds=time.monotonic() - start,
  )


def learnt(
  task: Task,
  recipe: training.Recipe,
  seed: int,
  *,
  with_h: bool = True,
  codelength: bool = False,
) -> tuple[Inversion, Draws, Draws]:
  """An inverter trained on fresh draws, each seen once, with these draws and others to test it on.

  Args:
    task: what is drawn.
    recipe: how it is trained; the task may need more steps.
    seed: of the draws and of the training.
    with_h: whether it sees h, or is p(x).
    codelength: whether every draw is scored before it is learnt.
  """
  train, test, validation = draws(task, recipe, seed)
  model = fitted(task, recipe, train, validation, seed, with_h=with_h, codelength=codelength)
  return model, train, test


def draws(task: Task, recipe: training.Recipe, seed: int) -> tuple[Draws, Draws, Draws]:
  """What a model is trained on, each image once, tested on and validated on."""
  rng = np.random.default_rng((seed, 1))
  num_train = _num_steps(task, recipe) * recipe.batch_size
  return tuple(task.draw(rng, num) for num in (num_train, NUM_TEST, NUM_VALIDATION))


def fitted(
  task: Task,
  recipe: training.Recipe,
  train: Draws,
  validation: Draws,
  seed: int,
  *,
  with_h: bool = True,
  codelength: bool = False,
) -> Inversion:
  """The ordinary inverter, trained for as long as the task takes; see `learnt`."""
  given = [pairs_of(task, drawn) for drawn in (train, validation)]
  return inversion.fitted(
    *(given if with_h else [of.without_h() for of in given]),
    NETWORK,
    dataclasses.replace(recipe, num_steps=_num_steps(task, recipe)),
    seed=seed,
    batch_size=BATCH_SIZE,
    codelength=codelength,
  )


def _num_steps(task, recipe):
  num_logs = round(recipe.num_steps * task.num_steps_factor / recipe.log_every)
  return max(1, num_logs) * recipe.log_every


def pairs_of(task: Task, draws: Draws) -> Pairs:
  """Draws as they are fitted and scored."""
  return pairs(draws.levels_NHWC, draws.h, num_levels=task.num_levels, name=task.name)
