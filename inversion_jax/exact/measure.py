"""Trains the ordinary inverter on a task and measures how much of the truth its bound reaches."""

import dataclasses
import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from inversion_jax import information
from inversion_jax.data import batches
from inversion_jax.exact.tasks import Draws, Task
from inversion_jax.fitting import scoring, training
from inversion_jax.information.statistics import Estimate
from inversion_jax.machine import compilation
from inversion_jax.machine.progress import track
from inversion_jax.models import likelihoods
from inversion_jax.models.inverters import Inverter

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
NETWORK = {"num_filters": 32, "num_blocks": 1, "num_scales": 2, "dropout_rate": 0.0}
NUM_TEST = 2_000
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
  num_logs = round(recipe.num_steps * task.num_steps_factor / recipe.log_every)
  num_steps = max(1, num_logs) * recipe.log_every
  recipe = dataclasses.replace(recipe, num_steps=num_steps)
  rng = np.random.default_rng((seed, 1))
  train = task.draw(rng, recipe.num_steps * recipe.batch_size)
  inverter = _inverter(task)
  params = _train(task.name, inverter, train, recipe, seed)
  test = task.draw(rng, NUM_TEST)
  seen = Draws(*(array[:NUM_TEST] for array in train))
  nats_N, seen_nats_N = (_nats(inverter, params, draws) for draws in (test, seen))
  return Result(
    task,
    gap=information.mean_with_error(test.log_prob_N + nats_N),
    train_gap=information.mean_with_error(seen.log_prob_N + seen_nats_N),
    nce=information.mean_with_error(-nats_N),
    seconds=time.monotonic() - start,
  )


def _inverter(task: Task) -> Inverter:
  likelihood = likelihoods.Categorical(task.num_levels)
  return Inverter(likelihood, **(NETWORK | dict(task.network)))


def _train(name, inverter, train: Draws, recipe, seed):
  root_key = jax.random.key(seed)
  rows_fn = functools.partial(
    batches.train_rows,
    seed=seed,
    batch_size=recipe.batch_size,
    num_images=len(train.levels_NHWC),
  )

  def batch_fn(step):
    rows_B = rows_fn(step)
    return train.levels_NHWC[rows_B], train.h[rows_B]

  def loss_fn(params, batch, dropout_key):
    nats_BHW = -inverter.apply(
      {"params": params}, *batch, train=True, rngs={"dropout": dropout_key}
    )
    return nats_BHW.sum((1, 2)).mean(), {}

  init = compilation.jit_once(inverter.init)
  params = init(training.key_for(root_key, "init"), *batch_fn(0))["params"]
  step_fn = functools.partial(
    training.train_step, loss_fn=loss_fn, recipe=recipe, root_key=root_key
  )
  with track(name, recipe.num_steps) as shown:
    state = training.fit(
      training.initial_state(params, recipe.optimizer()),
      step_fn=compilation.jit_step(step_fn),
      batch_fn=batch_fn,
      recipe=recipe,
      start_loss=math.inf,
      on_log=lambda step, values: shown.update(
        recipe.log_every, nats=values["train_nats_per_image"]
      ),
      on_validate=lambda step, state: False,
    )
  return state.ema_params


def _nats(inverter, params, test: Draws):
  @jax.jit
  def score(levels_BHWC, h):
    return -inverter.apply({"params": params}, levels_BHWC, h).sum((1, 2))

  def score_rows(rows_B):
    return (score(jnp.asarray(test.levels_NHWC[rows_B]), jnp.asarray(test.h[rows_B])),)

  (nats_N,) = scoring.scores(score_rows, len(test.levels_NHWC), BATCH_SIZE)
  return nats_N
