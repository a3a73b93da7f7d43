"""Compiles what inverters of several layers have in common, while their classifier trains.

Layers differ in how h is read; the causal network behind is one. Its programs are compiled once,
given an h that is zero, and kept in a folder from which the runs take them.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from inversion_jax import inversion
from inversion_jax.features import sources
from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting import sessions
from inversion_jax.fitting.steps import Step
from inversion_jax.inversion import AS_IT_IS, Inversion, Observed, programs
from inversion_jax.machine import compilation, placement, workers
from inversion_jax.machine.progress import say
from inversion_jax.models.inverters import Inverter
from inversion_jax.runs import Run
from inversion_jax.stages import inverter
from inversion_jax.stages.basic import INVERTER, SAMPLE

NAME = "programs"


def tasks(
  runs: Sequence[Run], names: Sequence[str], folder: pathlib.Path
) -> tuple[list[workers.Task], list[workers.Task]]:
  """What is to be compiled ahead for runs that will go through the stages of these names.

  Args:
    runs: those that are trained already, and those of no layer, are passed over.
    names: of the stages.
    folder: where the programs are kept.

  Returns:
    What the runs begin with, and what they need later: scores some seconds after, samples at last.
  """
  if INVERTER.name not in names:
    return [], []
  pending = [run for run in runs if run.layer and not INVERTER.is_done(run)]
  parts = [part for part in PARTS if part != DRAW or SAMPLE.name in names]
  networks = {run: _network(run) for run in pending}
  at_first, later = [], []
  for part in parts:
    alike = {}
    for run, network in networks.items():
      settings = str(run.recipe(inversion.NAME)) if part == STEP else ""
      alike.setdefault((network, settings), []).append(run)
    for group in alike.values():
      if len(group) > 1:
        layers = dict.fromkeys(run.layer for run in group)
        # Its reader compiles along with it: of the last, which all wait for in the end.
        args = group[-1].config, part, ", ".join(layers), folder
        found = at_first if part in (STEP, BEGINNING) else later
        found.append(workers.Task(NAME, _compile, args))
  return at_first, later


def _network(run):
  """All that the programs of the causal network depend on."""
  images, module = run.images("train"), inverter.module(run)
  _, z = inversion.shapes_of(1, images.image_shape, run.h_shape)
  contexts = jax.eval_shape(
    lambda z: module.init_with_output(
      run.root_key, z, images.image_shape[:2], method=Inverter.contexts
    )[0],
    z,
  )
  network = programs.without_reader(module), run.network().filter_multiple
  batches = run.config.sample.to_dict(), run.eval_batch_size, run.recipe(inversion.NAME).batch_size
  return *network, contexts, images.image_shape, str(batches)


def _compile(config: ConfigDict, part: str, layers: str, folder: pathlib.Path):
  say("%s of the network of %s", part, layers)
  with compilation.kept_in(folder):
    PARTS[part](Run(config, folder))


def _pairs(run, split) -> Pairs:
  """The images with an h that is zero, since the classifier is not trained yet."""
  images = run.images(split)
  # Not in memory: a view of one number.
  h = np.broadcast_to(np.float32(0), (images.index.max() + 1, *run.h_shape))
  return dataclasses.replace(images, features=sources.Stored(h, run.layer))


def _subject(run) -> sessions.Subject:
  return inversion.subject(
    _pairs(run, "train"),
    _pairs(run, "validation"),
    run.network(),
    observed=Observed(None, run.channel),
    batch_size=run.eval_batch_size,
    codelength=False,
  )


def _begin(run):
  sessions.initial_state(_subject(run), run.recipe(inversion.NAME), run.root_key)


def _step(run):
  learnt, recipe = _subject(run), run.recipe(inversion.NAME)
  step = Step(learnt.loss_fn, recipe, run.root_key, learnt.unit)
  batch = learnt.batch_fn(np.arange(recipe.batch_size))
  step.memory_bytes(sessions.state_shape(learnt, recipe), batch)


def _score(run):
  _model(run).nats(_pairs(run, "validation").rows(np.arange(1)))


def _draw(run):
  section, test = run.config.sample, _pairs(run, "test")
  num = min(section.batch_size, min(section.num_images, len(test)) * section.num_samples)
  settings = {"sampler": section.sampler, "num_given_rows": section.num_given_rows}
  _model(run).compile_draw(test, batch_size=num, **settings)


def _model(run) -> Inversion:
  """One whose parameters are zero."""
  images, shapes = run.images("train"), inverter.param_shapes(run)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  params = placement.put(zeros, placement.data_parallel()[1])
  return Inversion(
    inverter=inverter.module(run),
    params=params,
    live_params=params,
    observed=AS_IT_IS,
    layer=run.layer,
    image_shape=images.image_shape,
    num_levels=images.num_levels,
    h_shape=run.h_shape,
    seed=0,
    note={},
    recipe=run.recipe(inversion.NAME),
    batch_size=run.eval_batch_size,
  )


BEGINNING, STEP, SCORE, DRAW = "beginning", "step", "score", "samples"
# The longest first, and what is needed sooner before what is needed later.
PARTS = {STEP: _step, BEGINNING: _begin, SCORE: _score, DRAW: _draw}
