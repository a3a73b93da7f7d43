"""Trains the models of a run: the same step, the same loop."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from inversion_jax.data import batches
from inversion_jax.features import noise
from inversion_jax.fitting import costs, training
from inversion_jax.fitting.training import TrainState
from inversion_jax.machine import placement
from inversion_jax.machine.checkpoints import Checkpoints
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.metrics import MetricsLog
from inversion_jax.machine.progress import say, track
from inversion_jax.models import decoders
from inversion_jax.models.widening import apply_widened
from inversion_jax.runs import Run, initial_state, share_classifier, state_shape
from inversion_jax.stages import scoring


def train_classifier(run: Run):
  """Trains the classifier whose layer is inverted, or takes it from a run beside this one."""
  if not run.layer or is_trained(run, "classifier"):
    return
  if share_classifier(run):
    say("classifier: copied from %s", run.progress()["classifier"]["copied_from"])
    return
  classifier, split = run.classifier(), run.data.train
  num_images = len(split.images_NHWC)
  num_images = min(run.config.classifier.num_train or num_images, num_images)

  def loss_fn(params, batch, dropout_key):
    layers = classifier.apply(
      {"params": params}, batch["image"], train=True, rngs={"dropout": dropout_key}
    )
    logits_BC = layers["logits"]
    nats_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, batch["label"])
    accuracy = jnp.mean(logits_BC.argmax(-1) == batch["label"])
    return nats_B.mean(), {"train_accuracy": accuracy}

  def batch_fn(rows_B):
    batch = {"image": split.images_NHWC[rows_B], "label": split.labels_N[rows_B]}
    return placement.put_batch(batch)

  score = scoring.classifier_scorer(run)

  def validate(state):
    is_correct_N, nats_N = score(state.ema_params, run.data.validation)
    metrics = {
      "validation_accuracy": is_correct_N.mean(),
      "validation_nats_per_image": nats_N.mean(),
    }
    return is_correct_N.mean(), metrics

  train_model(run, "classifier", loss_fn, batch_fn, validate, num_images)


def train_inverter(run: Run):
  """Trains p(x | h), or p(x) without a layer."""
  batch_fn = images_and_z(run)
  if is_trained(run, "inverter"):
    return
  inverter, observe = run.inverter(), _observe_fn(run)
  apply_fn = functools.partial(apply_widened, multiple=run.config.inverter.filter_multiple)

  def loss_fn(params, batch, dropout_key):
    z = observe(batch["z"], dropout_key)
    log_prob_BHW = apply_fn(
      *(inverter, params, batch["image"], z), train=True, rngs={"dropout": dropout_key}
    )
    return -log_prob_BHW.sum((1, 2)).mean(), {}

  score = scoring.inverter_scorer(run)

  def validate(state):
    (nats_N,) = score([state.ema_params], run.data.validation)
    return nats_N.mean(), {"validation_nats_per_image": nats_N.mean()}

  train_model(run, "inverter", loss_fn, batch_fn, validate, len(run.data.train.images_NHWC))


def train_decoder(run: Run):
  """Trains the image of least expected squared error given h; nothing to do without a layer."""
  if not run.layer or is_trained(run, "decoder"):
    return
  decoder, observe, num_levels = run.decoder(), _observe_fn(run), run.data.num_levels

  def loss_fn(params, batch, dropout_key):
    z = observe(batch["z"], dropout_key)
    images_BHWC = decoder.apply({"params": params}, z, batch["image"].shape[1:3])
    return decoders.squared_error(images_BHWC, batch["image"], num_levels).mean(), {}

  score = scoring.decoder_scorer(run)

  def validate(state):
    (mse_N,) = score(state.ema_params, run.data.validation)
    return mse_N.mean(), {f"validation_{decoders.MSE}": mse_N.mean()}

  num_images = len(run.data.train.images_NHWC)
  train_model(run, "decoder", loss_fn, images_and_z(run), validate, num_images, decoders.MSE)


def images_and_z(run: Run) -> Callable:
  """`batch_fn(rows_B)` -> training images and their h, on the devices."""
  represent, split = run.represent, run.data.train

  def batch_fn(rows_B):
    images_BHWC = placement.put_batch(split.images_NHWC[rows_B])
    return {"image": images_BHWC, "z": represent(images_BHWC) if represent else None}

  return batch_fn


def _observe_fn(run):
  """`(z, key)` -> z as a model in training sees it: through fresh noise, if there is a channel."""
  channel = run.channel

  def observe(z, key):
    if channel is None:
      return z
    keys_B = jax.random.split(training.key_for(key, "channel"), len(z))
    return noise.observed(channel, z, keys_B)

  return observe


def is_trained(run: Run, stage: str) -> bool:
  """Whether training has reached its last step, or stopped early, and left its best checkpoint."""
  record = run.progress().get(stage)
  # A damaged checkpoint that the user has deleted is trained again.
  if record is None or not (run.folder / stage / str(record["best_step"])).exists():
    return False
  return record["stopped_early"] or record["step"] >= run.config[stage].num_steps


def train_model(
  run: Run,
  stage: str,
  loss_fn: Callable,
  batch_fn: Callable,
  validate: Callable[[TrainState], tuple[float, Mapping[str, float]]],
  num_images: int,
  unit: str = training.NATS,
):
  """Trains one model from its newest checkpoint on, and notes where it ended.

  `validate(state)` gives the value by which the best checkpoint is chosen, and metrics; `unit` is
  that of the loss.
  """
  recipe = run.recipe(stage)
  placement.check_batch_size(
    recipe.batch_size, num_images, f"{stage}.batch_size", recipe.num_microbatches
  )
  rows_fn = functools.partial(
    batches.train_rows, seed=run.config.seed, batch_size=recipe.batch_size, num_images=num_images
  )
  root_key = training.key_for(run.root_key, stage)
  step_fn = training.Step(loss_fn, recipe, root_key, unit)
  start = time.monotonic()
  with contextlib.ExitStack() as stack:
    stack.enter_context(costs.memory_errors(f"A step of the {stage}", _how_to_fit(stage)))
    _say_memory(run, stage, step_fn, batch_fn(rows_fn(0)))
    checkpoints = stack.enter_context(run.checkpoints(stage))
    first_step = checkpoints.latest_step() or 0
    log = stack.enter_context(MetricsLog(run.folder, stage, first_step))
    shown = stack.enter_context(track(stage, recipe.num_steps, initial=first_step))
    session = _Session(stage, recipe, unit, checkpoints, log, shown, validate, first_step)
    state = session.begin(run)
    state = training.fit(
      state,
      step_fn=step_fn,
      batch_fn=lambda step: batch_fn(rows_fn(step)),
      recipe=recipe,
      start_loss=log.first(f"validation_{unit}"),
      unit=unit,
      milestones=run.milestones(stage),
      on_log=session.on_log,
      on_validate=session.on_validate,
    )
    best_step, _ = checkpoints.best()
  before = run.progress().get(stage, {}).get("seconds", 0.0)
  run.note(
    stage,
    {
      "step": int(state.step),
      "best_step": best_step,
      "stopped_early": int(state.step) < recipe.num_steps,
      "seconds": before + time.monotonic() - start,
    },
  )


def _say_memory(run, stage, step_fn, batch):
  """Says what a step needs before anything is trained, or that it will not fit."""
  num_bytes = step_fn.memory_bytes(state_shape(run, stage), batch)
  costs.check_memory(num_bytes, f"A step of the {stage}", _how_to_fit(stage))
  say(
    "%s: a step needs about %.3g GB on each device, of %.3g GB",
    *(stage, num_bytes / costs.GB, costs.device_bytes() / costs.GB),
  )


def _how_to_fit(stage):
  advice = f"raise {stage}.num_microbatches or lower {stage}.batch_size"
  return f"{advice}, or set inverter.network.remat" if stage == "inverter" else advice


class _Session:
  """What happens around the steps: log, progress, validation, checkpoints, early stopping."""

  def __init__(
    self,
    stage: str,
    recipe: training.Recipe,
    unit: str,
    checkpoints: Checkpoints,
    log: MetricsLog,
    shown,
    validate: Callable[[TrainState], tuple[float, Mapping[str, float]]],
    first_step: int,
  ):
    self.stage, self.recipe, self.unit = stage, recipe, unit
    self.checkpoints, self.log, self.shown, self.validate = checkpoints, log, shown, validate
    self.last_step = first_step
    self.last_time = None
    # As if all sessions of this stage were one.
    self.start_time = time.monotonic() - log.last("seconds", 0.0)

  def begin(self, run: Run) -> TrainState:
    """The state of the newest checkpoint, or a new one, saved as step 0."""
    if self.checkpoints.latest_step() is None:
      state = initial_state(run, self.stage)
      self._validate_and_save(0, state)
      return state
    say("%s: goes on from step %d", self.stage, self.last_step)
    return self.checkpoints.restore(self.last_step, state_shape(run, self.stage))

  def on_log(self, step: int, values: dict[str, float]):
    """Writes a line of metrics and moves the progress."""
    num_steps, self.last_step = step - self.last_step, step
    now = time.monotonic()
    # The first stretch holds the compilation, and no rate.
    if self.last_time is not None:
      values["images_per_second"] = num_steps * self.recipe.batch_size / (now - self.last_time)
    self.last_time = now
    self.log.write(step, values)
    name, _, _ = self.unit.partition("_")
    self.shown.update(num_steps, **{name: values[f"train_{self.unit}"]})

  def on_validate(self, step: int, state: TrainState) -> bool:
    """Validates, saves, and says whether to stop early."""
    value = self._validate_and_save(step, state)
    best_step, best_value = self.checkpoints.best()
    say(
      *("%s step %d: validation %.5g, best %.5g at step %d", self.stage, step, value),
      *(best_value, best_step),
    )
    self.last_time = time.monotonic()
    since_best = (step - best_step) / self.recipe.validate_every
    return 0 < self.recipe.patience <= since_best

  def _validate_and_save(self, step, state):
    seconds = time.monotonic() - self.start_time
    value, metrics = self.validate(state)
    if not math.isfinite(value):
      raise UserError(
        f"Training of the {self.stage} diverged by step {step}: the validation value is {value}; "
        "the last good checkpoint is kept, lower the learning_rate and use a new --workdir."
      )
    self.log.write(step, {**metrics, "seconds": seconds})
    self.checkpoints.save(step, state, float(value))
    return value
