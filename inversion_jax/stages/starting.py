"""What can be known before the first stage: it is told then, and not after hours of training.

Nothing is computed here: sizes come from shapes, and data sets are read as any stage would.
"""

import functools
import itertools
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from inversion_jax.features import wrappers
from inversion_jax.fitting import costs, training
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run
from inversion_jax.stages import classifier, crossfit, decoder, gan, inverter
from inversion_jax.stages.records import Stage

# Checkpoints of a model at once: the newest two, the best, and one that is being written.
NUM_KEPT = 4
# float64 nats of both kinds, and three integers, for each test image.
BYTES_OF_IMAGE = 40
NAT_BYTES = 4
PARAM_SHAPES: dict[str, Callable[[Run], Any]] = {
  classifier.NAME: Run.classifier_shapes,
  inverter.NAME: inverter.param_shapes,
  decoder.NAME: decoder.param_shapes,
  gan.NAME: gan.param_shapes,
}


def check(runs: Sequence[Run], asked: Sequence[Stage]):
  """Raises UserError if what is asked cannot be done, before anything is written.

  Args:
    runs: each goes through all stages.
    asked: in this order.

  Stages that are done are not looked at, so that a finished run needs no data.
  """
  num_bytes = 0
  for run in runs:
    pending = _pending(run, asked)
    for stage in pending:
      stage.check(run)
    _check_order(run, asked, pending)
    for stage in pending:
      if stage.name in PARAM_SHAPES:
        _check_memory(run, stage.name)
      num_bytes += WRITTEN_BYTES.get(stage.name, lambda run: 0)(run)
  _state.cache_clear()
  _check_space(runs[0], num_bytes)


def _pending(run, asked):
  """From the first stage that is not done on, since what follows may depend on it."""
  applying = [stage for stage in asked if stage.applies(run)]
  return list(itertools.dropwhile(lambda stage: stage.is_done(run), applying))


def _check_order(run, asked, pending: Iterable[Stage]):
  there = set(run.notes())
  for stage in asked:
    for needed in stage.needed(run) if stage in pending else ():
      if needed.name not in there:
        raise UserError(
          f"--stages={stage.name} needs {needed.name}, which {run.folder} has not finished; name "
          f"{needed.name} before it."
        )
    there.add(stage.name)


@functools.lru_cache(maxsize=4)
def _state(run, model):
  """Shapes of all that changes while a model is trained."""
  optimizer = run.recipe(model).optimizer()
  return jax.eval_shape(
    lambda params: training.initial_state(params, optimizer), PARAM_SHAPES[model](run)
  )


def _bytes_of(tree):
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _check_memory(run, model):
  """The state and a gradient are the least that a step needs; the session says the whole."""
  state = _state(run, model)
  costs.check_memory(
    _bytes_of(state) + _bytes_of(state.params),
    f"Training the {model}",
    f"lower {model}.network.num_filters or other sizes of the network",
  )


def _checkpoint_bytes(run, model):
  """Of the training of a model, beside what is there of it."""
  num_kept, config = NUM_KEPT, run.config[model]
  if model == classifier.NAME:
    num_kept += sum(step <= config.num_steps for step in config.snapshot_steps)
  there = sum(path.stat().st_size for path in (run.folder / model).rglob("*") if path.is_file())
  return max(0, num_kept * _bytes_of(_state(run, model)) - there)


def _evaluate_bytes(run):
  num_maps = min(run.config.evaluate.num_maps, len(run.images("test")))
  return len(run.images("test")) * BYTES_OF_IMAGE + num_maps * NAT_BYTES * _image_bytes(run)


def _sample_bytes(run):
  section = run.config.sample
  num_images = min(section.num_images, len(run.images("test")))
  return num_images * section.num_samples * _image_bytes(run)


def _neighbours_bytes(run):
  section = run.config.neighbours
  num_images = min(section.num_images, len(run.images("test")))
  num_drawn = num_images * section.num_samples + section.num_shown * section.num_many
  return num_drawn * _image_bytes(run)


def _checks_bytes(run):
  return len(wrappers.CONTROLS) * _control_bytes(run)


def _brackets_bytes(run):
  section = run.config.brackets
  return (1 + len(section.sigmas) + len(section.bits)) * _control_bytes(run)


def _crossfit_bytes(run):
  return len(crossfit.PARTS) * _control_bytes(run)


def _gan_bytes(run):
  member = sum(_checkpoint_bytes(run, model) for model in (gan.NAME, classifier.NAME))
  return len(run.config.gan.entropy_weights) * (member + _sample_bytes(run))


def _control_bytes(run):
  models = (classifier.NAME, inverter.NAME) if run.has_classifier else (inverter.NAME,)
  return sum(_checkpoint_bytes(run, model) for model in models)


def _image_bytes(run):
  return math.prod(run.images("test").image_shape)


# About what each stage writes; the report is small.
WRITTEN_BYTES: dict[str, Callable[[Run], int]] = {
  **{
    model: functools.partial(_checkpoint_bytes, model=model)
    for model in (classifier.NAME, inverter.NAME, decoder.NAME)
  },
  "evaluate": _evaluate_bytes,
  "sample": _sample_bytes,
  "neighbours": _neighbours_bytes,
  "checks": _checks_bytes,
  "brackets": _brackets_bytes,
  gan.NAME: _gan_bytes,
  crossfit.NAME: _crossfit_bytes,
}


def _check_space(run, num_bytes):
  folder = run.existing_folder
  free = shutil.disk_usage(folder).free
  if num_bytes > free:
    raise UserError(
      f"The run will write about {num_bytes / costs.GB:.3g} GB, and {folder} has "
      f"{free / costs.GB:.3g} GB free; make room, or choose another --workdir."
    )
