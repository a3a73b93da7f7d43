"""One step and one loop, for every model: they do not know what they train."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from inversion_jax.machine import limits, stopping
from inversion_jax.machine.errors import UserError

# Decay of the rate per step. Salimans et al.'s implementation uses 0.999995; the paper's 0.9999,
# read literally, leaves 1.4e-11 of the rate after its 250,000 steps.
DECAY_PER_STEP = {"none": 1.0, "openai": 0.999995, "paper": 0.9999}
DECAYS = (*DECAY_PER_STEP, "cosine")
POSITIVE = ("batch_size", "num_microbatches", "num_steps", "learning_rate")
POSITIVE += ("log_every", "validate_every")
NOT_NEGATIVE = ("patience", "warmup_steps", "clip_norm", "weight_decay")
ALGORITHMS = ("adam", "muon")
# Steps are counted in 32 bits.
STEPS = limits.within(1, 2**31 - 1)
# The root mean square of an update by Muon as a part of the rate, whatever the shape: Adam's rate
# serves. Liu et al. (2025), "Muon is scalable for LLM training", section 2.2, have 0.2 for all.
# Directions bear more: weight normalisation keeps them from making anything larger, where a stack
# of kernels grows with the product of theirs. Measured: docs/training.md.
MUON_RMS, DIRECTION_RMS = 0.5, 1.0
# Of a dense layer, inputs or outputs, whichever are fewer. Those that read a vector have more: with
# them a step given fc3 of CIFAR-10 in 2x2 means took twice as long.
MUON_MAX_UNITS = 128
# How the names of matrices and kernels end in our networks, and those that decay.
DIRECTION = "direction"
KERNELS, DECAYING = ("kernel", DIRECTION), "kernel"
# What a loss measures, as it ends the names of its metrics.
NATS = "nats_per_image"
# A loss this many times the untrained model's is not coming back.
DIVERGED_RATIO = 10.0


class TrainState(NamedTuple):
  """All that changes during training, and nothing else."""

  step: Array  # int32[], optimiser steps taken
  params: Any
  ema_params: Any  # used for every evaluation and every sample
  opt_state: Any


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a model is trained.

  Attributes:
    batch_size: images per step, over all devices.
    num_microbatches: parts of a batch that pass through the model one after the other; a step then
      needs the memory of one part. It is that of the whole batch, but for rounding and for the
      dropout masks.
    num_steps: the last step.
    learning_rate: at step 0, or after the warm-up.
    warmup_steps: over which the rate rises linearly to what it would be; 0 is none.
    decay: one of `DECAYS`; "cosine" falls to zero at `num_steps`.
    algorithm: "adam", or "muon", which makes the update of each kernel orthogonal, but for wide
      dense layers, and leaves the rest to Adam with Nesterov's momentum.
    adam_b1, adam_b2: of Adam.
    clip_norm: gradients are scaled down to this norm over all parameters; 0 leaves them.
    weight_decay: what each kernel loses per step, as a share and times the rate; 0 is none. It
      leaves biases alone, and weight-normalised directions, whose length means nothing.
    ema_decay: of the moving average of the parameters; 0 keeps the parameters themselves. Early
      on the horizon is shorter, min(ema_decay, (1 + step) / (10 + step)), so that the average
      forgets where it started.
    log_every: steps between lines of `metrics.jsonl`.
    validate_every: steps between validations, each of which saves a checkpoint.
    patience: validations without a new best before training stops; 0 never stops.
  """

  batch_size: int = 64
  num_microbatches: int = 1
  num_steps: int = 250_000
  learning_rate: float = 1e-3
  decay: str = "openai"
  adam_b1: float = 0.9
  adam_b2: float = 0.999
  ema_decay: float = 0.9995
  log_every: int = 100
  validate_every: int = 1000
  patience: int = 0
  warmup_steps: int = 0
  algorithm: str = "adam"
  clip_norm: float = 0.0
  weight_decay: float = 0.0

  def __post_init__(self):
    limits.check_fields(self, POSITIVE, limits.ABOVE_ZERO)
    limits.check_fields(self, ("adam_b1", "adam_b2", "ema_decay"), limits.FRACTION)
    limits.check_fields(self, NOT_NEGATIVE, limits.NOT_NEGATIVE)
    limits.check_one_of("decay", self.decay, DECAYS)
    limits.check_one_of("algorithm", self.algorithm, ALGORITHMS)
    limits.check_number("num_steps", self.num_steps, STEPS)
    if self.batch_size % self.num_microbatches:
      raise UserError(
        f"num_microbatches={self.num_microbatches} does not divide batch_size={self.batch_size}; "
        "choose one that does."
      )

  def rate_at(self, step):
    """The learning rate of step `step` (an integer or an array)."""
    rate = self._decayed_at(step)
    if not self.warmup_steps:
      return rate
    return rate * jnp.minimum((step + 1) / self.warmup_steps, 1.0)

  def _decayed_at(self, step):
    if self.decay == "cosine":
      progress = jnp.minimum(step / self.num_steps, 1.0)
      return self.learning_rate * 0.5 * (1.0 + jnp.cos(math.pi * progress))
    return self.learning_rate * jnp.asarray(DECAY_PER_STEP[self.decay]) ** step

  def optimizer(self) -> optax.GradientTransformation:
    """The algorithm with this recipe's rate; what is off leaves no trace in its state."""
    descent = self._muon() if self.algorithm == "muon" else self._adam()
    if not self.clip_norm:
      return descent
    return optax.chain(optax.clip_by_global_norm(self.clip_norm), descent)

  def _adam(self):
    if not self.weight_decay:
      return optax.adam(self.rate_at, self.adam_b1, self.adam_b2)
    return optax.adamw(
      self.rate_at, self.adam_b1, self.adam_b2, weight_decay=self.weight_decay, mask=_decaying
    )

  def _muon(self):
    muon = optax.contrib.muon(
      self.rate_at,
      adam_b1=self.adam_b1,
      adam_b2=self.adam_b2,
      weight_decay=self.weight_decay,
      weight_decay_mask=_decaying,
      muon_weight_dimension_numbers=_dimension_numbers,
      consistent_rms=MUON_RMS,
    )
    return optax.chain(muon, optax.stateless(_with_longer_directions))


def _name_of(path):
  return getattr(path[-1], "key", "") if path else ""


def _decaying(params):
  """Which parameters decay."""
  return jax.tree.map_with_path(lambda path, _: _name_of(path) == DECAYING, params)


def _with_longer_directions(updates, params):
  del params
  factor = DIRECTION_RMS / MUON_RMS
  return jax.tree.map_with_path(
    lambda path, update: factor * update if _name_of(path) == DIRECTION else update, updates
  )


def _dimension_numbers(params):
  """Which parameters Muon sees as matrices, and how: rows are all that an output is a sum over."""

  def numbers(path, leaf):
    if _name_of(path) not in KERNELS or leaf.ndim < 2:
      return None
    if leaf.ndim == 2 and min(leaf.shape) > MUON_MAX_UNITS:
      return None
    inputs = tuple(range(leaf.ndim - 1))
    return optax.contrib.MuonDimensionNumbers(reduction_axis=inputs, output_axis=leaf.ndim - 1)

  return jax.tree.map_with_path(numbers, params)


def key_for(root_key: Array, stream: str, step: int | Array = 0) -> Array:
  """The key of one named stream at one step; a new stream does not disturb the others."""
  return jax.random.fold_in(jax.random.fold_in(root_key, zlib.crc32(stream.encode())), step)


def initial_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step; the average starts from the initialised parameters."""
  ema_params = jax.tree.map(jnp.array, params)
  return TrainState(jnp.zeros((), jnp.int32), params, ema_params, optimizer.init(params))


def train_step(
  state: TrainState,
  batch: Any,
  *,
  loss_fn: Callable[[Any, Any, Array], tuple[Array, dict[str, Array]]],
  recipe: Recipe,
  root_key: Array,
  unit: str = NATS,
) -> tuple[TrainState, dict[str, Array]]:
  """One optimiser step.

  Args:
    state: where training stands.
    batch: what `loss_fn` reads.
    loss_fn: `loss_fn(params, batch, dropout_key)` gives the mean loss of the batch, and metrics.
    recipe: rate and average.
    root_key: the run's key; the dropout key is a function of it and the step.
    unit: of the loss.

  Returns:
    The next state, and metrics with `train_<unit>`, `grad_norm`, `learning_rate`.
  """
  dropout_key = key_for(root_key, "dropout", state.step)
  result = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, dropout_key)
  return descend(state, *result, recipe=recipe, unit=unit)


def descend(
  state: TrainState, loss_and_metrics: tuple, grads: Any, *, recipe: Recipe, unit: str
) -> tuple[TrainState, dict[str, Array]]:
  """The step that follows from a gradient, see `train_step`."""
  loss, metrics = loss_and_metrics
  updates, opt_state = recipe.optimizer().update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  warm_up = (1.0 + state.step) / (10.0 + state.step)
  step_size = 1.0 - jnp.minimum(recipe.ema_decay, warm_up)
  ema_params = optax.incremental_update(params, state.ema_params, step_size)
  metrics = {
    f"train_{unit}": loss,
    **metrics,
    "grad_norm": optax.tree.norm(grads),
    "learning_rate": recipe.rate_at(state.step),
  }
  return TrainState(state.step + 1, params, ema_params, opt_state), metrics


def fit(
  state: TrainState,
  *,
  step_fn: Callable,
  batch_fn: Callable[[int], Any],
  recipe: Recipe,
  start_loss: float,
  unit: str = NATS,
  milestones: Collection[int] = (),
  on_log: Callable[[int, Mapping[str, float]], None],
  on_validate: Callable[[int, TrainState], bool],
  on_stop: Callable[[int, TrainState], None],
  before_step: Callable[[int, TrainState], None] = lambda step, state: None,
) -> TrainState:
  """Steps from where `state` stands to `recipe.num_steps`.

  Args:
    state: a fresh or a restored state; its memory is given up.
    step_fn: `step_fn(state, batch)` as `train_step`, compiled; a `Step`.
    batch_fn: the batch of a step, a function of the step alone, so a resumed run repeats itself.
    recipe: when to log, validate and end.
    start_loss: of the untrained model; far above it, training has diverged.
    unit: of the loss, as for `train_step`.
    milestones: further steps to validate at.
    on_log: gets the step and its metrics on the host.
    on_validate: gets the step and the state, saves it, and says whether to stop early.
    on_stop: gets the step and the state, and saves it, before the program ends as it was asked to.
    before_step: gets the step that comes, and the state that it begins with.

  Raises:
    UserError: a loss or gradient is not finite, or the loss has grown beyond return. The newest
      checkpoint was saved before that.
  """
  with stopping.stepping():
    for step in range(int(state.step) + 1, recipe.num_steps + 1):
      before_step(step, state)
      state, metrics = step_fn(state, batch_fn(step - 1))
      is_validation = (
        step % recipe.validate_every == 0 or step == recipe.num_steps or step in milestones
      )
      if step % recipe.log_every == 0 or is_validation:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        _check_progress(step, values[f"train_{unit}"], values["grad_norm"], start_loss)
        on_log(step, values)
      if is_validation and on_validate(step, state):
        break
      if stopping.is_asked(step):
        on_stop(step, state)
        stopping.stop()
  return state


def _check_progress(step, loss, grad_norm, start_loss):
  if not np.isfinite([loss, grad_norm]).all():
    what = f"the loss is {loss} and the gradient norm {grad_norm}"
  elif loss > DIVERGED_RATIO * start_loss:
    what = f"the loss is {loss:.4g}, after {start_loss:.4g} at the start"
  else:
    return
  raise UserError(
    f"Training diverged at step {step}: {what}; the last good checkpoint is kept, lower the "
    "learning_rate and start in a new --workdir."
  )
