"""Training one model from nothing, or from where it was, to its best parameters."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from inversion_jax.data import batches
from inversion_jax.fitting import chains, costs, steps, training
from inversion_jax.fitting.first_pass import Recorder, Scored
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.information.codelength import FirstPass
from inversion_jax.machine import compilation, notes, placement
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.metrics import MetricsLog, Records
from inversion_jax.machine.progress import say, track

NOTHING_LOGGED = -1  # the step before the first


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is trained: how it begins, what it minimises, on what, and how it is judged.

  Attributes:
    name: of the model; its checkpoints, its lines of metrics and its random streams carry it.
    init_fn: `init_fn(keys, *first_batch)` gives the untrained parameters; `keys` has the streams
      "params" and "dropout".
    first_batch: what the initialisation sees, whose statistics set scales.
    loss_fn: `loss_fn(params, batch, dropout_key)`, the mean loss of a batch, and metrics.
    batch_fn: rows of the training set to a batch on the devices.
    num_images: of the training set.
    validate: `validate(state)` gives the value by which the best step is chosen, and metrics.
    unit: of the loss, as it ends the names of its metrics.
    best_mode: whether the best value is the "min" or the "max".
    milestones: steps that are validated and kept whatever comes after them.
    start_from: parameters to begin with, made from the initialised ones; None leaves those.
    advice: what a user can do if a step does not fit into memory.
    facts: what the note of it says besides where training ended.
    scored: what is scored before it is learnt, in the first pass; None is nothing.
  """

  name: str
  init_fn: Callable[..., Any]
  first_batch: tuple
  loss_fn: Callable[[Any, Any, Array], tuple[Array, dict[str, Array]]]
  batch_fn: Callable[[Int[np.ndarray, " B"]], Any]
  num_images: int
  validate: Callable[[TrainState], tuple[float, Mapping[str, float]]]
  unit: str = training.NATS
  best_mode: str = "min"
  milestones: tuple[int, ...] = ()
  start_from: Callable[[Any], Any] | None = None
  advice: str = "raise num_microbatches or lower batch_size"
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  scored: Scored | None = None

  @functools.cached_property
  def compiled_init(self) -> Callable[..., Any]:
    """`init_fn`, compiled."""
    return chains.compiled_init(self.init_fn)


class Trained(NamedTuple):
  """Where training ended: averaged and live parameters of the best step, and the note of it.

  And what the images cost before they were learnt, if that was asked for and is known.
  """

  ema_params: Any
  params: Any
  note: dict[str, Any]
  first_pass: FirstPass | None = None


def train(
  subject: Subject,
  recipe: Recipe,
  *,
  seed: int,
  order_seed: int | None = None,
  folder: pathlib.Path | None = None,
) -> Trained:
  """Trains `subject`; with a folder from its newest checkpoint on, and notes there where it ended.

  Args:
    subject: the model.
    recipe: how it is trained.
    seed: of initialisation, order and dropout.
    order_seed: of the order alone; None is `seed`.
    folder: a run folder; None keeps everything in memory.

  Raises:
    UserError: a step does not fit into memory, a batch into the set, or training diverges.
  """
  placement.check_batch_size(
    recipe.batch_size, subject.num_images, f"{subject.name}.batch_size", recipe.num_microbatches
  )
  rows_fn = functools.partial(
    batches.train_rows,
    seed=seed if order_seed is None else order_seed,
    batch_size=recipe.batch_size,
    num_images=subject.num_images,
  )
  root_key = jax.random.key(seed)
  step_key = training.key_for(root_key, subject.name)
  step_fn = steps.Step(subject.loss_fn, recipe, step_key, subject.unit)
  start = time.monotonic()
  with contextlib.ExitStack() as stack:
    stack.enter_context(costs.memory_errors(f"A step of the {subject.name}", subject.advice))
    shape = state_shape(subject, recipe)
    _say_memory(subject, step_fn, shape, subject.batch_fn(rows_fn(0)))
    kept = stack.enter_context(_kept(subject, folder))
    first_step, state = kept.restore_newest(shape) or (None, None)
    log = stack.enter_context(_log(subject, folder, first_step))
    shown = stack.enter_context(track(subject.name, recipe.num_steps, initial=first_step or 0))
    recorder = _recorder(subject, rows_fn, recipe, folder, first_step or 0)
    session = _Session(subject, recipe, kept, log, shown, recorder, first_step or 0)
    state = session.begin(root_key) if state is None else session.go_on(state)
    if not session.is_over(session.last_step):
      state = training.fit(
        state,
        step_fn=step_fn,
        batch_fn=lambda step: subject.batch_fn(rows_fn(step)),
        recipe=recipe,
        start_loss=log.first(f"validation_{subject.unit}"),
        unit=subject.unit,
        milestones=subject.milestones,
        on_log=session.on_log,
        on_validate=session.on_validate,
        on_stop=session.on_stop,
        before_step=session.before_step,
      )
    best_step, best_value = kept.best()
    best = kept.restore_parts(best_step, {"ema_params": shape.ema_params, "params": shape.params})
  note = {
    "step": int(state.step),
    "best_step": best_step,
    "stopped_early": int(state.step) < recipe.num_steps,
    "seconds": time.monotonic() - start,
    **subject.facts,
  }
  if folder:
    note["seconds"] += notes.read(folder).get(subject.name, {}).get("seconds", 0.0)
    notes.write(folder, subject.name, note)
  note |= {"best_value": best_value}
  return Trained(best["ema_params"], best["params"], note, recorder and recorder.first_pass())


def is_finished(folder: pathlib.Path, name: str, num_steps: int) -> bool:
  """Whether training has reached its last step, or stopped early, and left its best checkpoint."""
  note = notes.read(folder).get(name)
  # A damaged checkpoint that the user has deleted is trained again.
  if note is None or not (folder / name / str(note["best_step"])).exists():
    return False
  return note["stopped_early"] or note["step"] >= num_steps


def saved_parts(folder: pathlib.Path, name: str, step: int, like: dict[str, Any]) -> dict[str, Any]:
  """The fields of the training state of a model at `step` that `like` names, in its shapes.

  Raises:
    UserError: there is no such checkpoint, or it is damaged.
  """
  from inversion_jax.machine import checkpoints

  steps = checkpoints.saved_steps(folder / name)
  if step not in steps:
    raise UserError(
      f"{folder / name} has no checkpoint of step {step}, only of {steps}; train for that long, or "
      "choose one of these."
    )
  return checkpoints.read(folder / name, step, like)


def initial_state(subject: Subject, recipe: Recipe, root_key: Array) -> TrainState:
  """The untrained state, on all devices."""
  keys = {
    stream: training.key_for(root_key, f"{subject.name}_init_{stream}")
    for stream in ("params", "dropout")
  }
  params = subject.compiled_init(keys, *subject.first_batch)
  if subject.start_from:
    params = subject.start_from(params)
  begin = functools.partial(training.initial_state, optimizer=recipe.optimizer())
  state = compilation.jit_once(begin)(params)
  return placement.put(state, placement.data_parallel()[1])


def state_shape(subject: Subject, recipe: Recipe) -> TrainState:
  """Shapes, types and placement of the state, without computing it."""
  keys = dict.fromkeys(("params", "dropout"), jax.random.key(0))
  params = subject.compiled_init.eval_shape(keys, *subject.first_batch)
  begin = functools.partial(training.initial_state, optimizer=recipe.optimizer())
  return placement.replicated_shapes(jax.eval_shape(begin, params))


def _kept(subject, folder):
  if folder is None:
    return _InMemory(subject.best_mode)
  from inversion_jax.machine.checkpoints import Checkpoints

  return Checkpoints(folder / subject.name, subject.best_mode, subject.milestones)


def _log(subject, folder, first_step):
  if folder is None:
    return Records(subject.name)
  return MetricsLog(folder, subject.name, NOTHING_LOGGED if first_step is None else first_step)


def _recorder(subject, rows_fn, recipe, folder, from_step):
  if subject.scored is None:
    return None
  num_steps = subject.num_images // recipe.batch_size
  return Recorder(subject.scored, rows_fn, num_steps, folder, from_step)


def _say_memory(subject, step_fn, shape, batch):
  """Says what a step needs before anything is trained, or that it will not fit."""
  num_bytes = step_fn.memory_bytes(shape, batch)
  costs.check_memory(num_bytes, f"A step of the {subject.name}", subject.advice)
  say(
    "%s: a step needs about %.3g GB on each device, of %.3g GB",
    subject.name,
    num_bytes / costs.GB,
    costs.device_bytes() / costs.GB,
  )


class _InMemory:
  """In the place of checkpoints: the parameters of the best step alone."""

  def __init__(self, best_mode: str):
    self._sign = -1 if best_mode == "min" else 1
    self._best = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def save(self, step: int, state: TrainState, value: float):
    if self._best is None or self._sign * value >= self._sign * self._best[1]:
      parts = {"ema_params": state.ema_params, "params": state.params}
      # The next step takes the memory of the state.
      self._best = step, value, jax.tree.map(lambda array: array.copy(), parts)

  def restore_newest(self, like):
    del like

  def best(self):
    return self._best[:2]

  def restore_parts(self, step, like):
    del step, like
    return self._best[2]


class _Session:
  """What happens around the steps: log, progress, validation, checkpoints, early stopping."""

  def __init__(
    self,
    subject: Subject,
    recipe: Recipe,
    kept,
    log: Records,
    shown,
    recorder: Recorder | None,
    first_step: int,
  ):
    self.subject, self.recipe = subject, recipe
    self.kept, self.log, self.shown, self.recorder = kept, log, shown, recorder
    self.last_step = first_step
    self.last_time = None
    # As if all sessions of this model were one.
    self.start_time = time.monotonic() - log.last("seconds", 0.0)

  def begin(self, root_key: Array) -> TrainState:
    """A new state, saved as step 0."""
    state = initial_state(self.subject, self.recipe, root_key)
    self._validate_and_save(0, state)
    return state

  def go_on(self, state: TrainState) -> TrainState:
    """A state that was saved, as it is."""
    say("%s: goes on from step %d", self.subject.name, self.last_step)
    return state

  def before_step(self, step: int, state: TrainState):
    """Scores what the step is to learn from."""
    if self.recorder:
      self.recorder.before_step(step, state)

  def on_log(self, step: int, values: dict[str, float]):
    """Writes a line of metrics and moves the progress."""
    num_steps, self.last_step = step - self.last_step, step
    now = time.monotonic()
    # The first stretch holds the compilation, and no rate.
    if self.last_time is not None:
      values["images_per_second"] = num_steps * self.recipe.batch_size / (now - self.last_time)
    self.last_time = now
    self.log.write(step, values)
    name, _, _ = self.subject.unit.partition("_")
    self.shown.update(num_steps, **{name: values[f"train_{self.subject.unit}"]})

  def on_validate(self, step: int, state: TrainState) -> bool:
    """Validates, saves, and says whether to stop early."""
    value = self._validate_and_save(step, state)
    best_step, best_value = self.kept.best()
    say(
      "%s step %d: validation %.5g, best %.5g at step %d",
      self.subject.name,
      step,
      value,
      best_value,
      best_step,
    )
    self.last_time = time.monotonic()
    return self.is_over(step)

  def is_over(self, step: int) -> bool:
    """Whether the best step is too long ago; known after a kill, too."""
    best_step, _ = self.kept.best()
    since_best = (step - best_step) / self.recipe.validate_every
    return 0 < self.recipe.patience <= since_best

  def on_stop(self, step: int, state: TrainState):
    """Saves, unless a validation just has."""
    self._save(step, state, None)
    self.log.flush()
    say("%s: stops after step %d, which is saved", self.subject.name, step)

  def _validate_and_save(self, step, state):
    seconds = time.monotonic() - self.start_time
    value, metrics = self.subject.validate(state)
    if not math.isfinite(value):
      raise UserError(
        f"Training of the {self.subject.name} diverged by step {step}: the validation value is "
        f"{value}; the last good checkpoint is kept, lower the learning_rate and start anew."
      )
    self.log.write(step, {**metrics, "seconds": seconds})
    self.log.flush()
    self._save(step, state, float(value))
    return value

  def _save(self, step, state, value):
    if self.recorder:
      self.recorder.keep()
    self.kept.save(step, state, value)
