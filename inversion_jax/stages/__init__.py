"""The stages of one run; each reads and writes the run's folder alone, and skips what is done."""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence

from ml_collections import ConfigDict

from inversion_jax import config as config_lib
from inversion_jax import report
from inversion_jax.machine import compilation, locks, workers
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run
from inversion_jax.stages import (
  ahead,
  brackets,
  checks,
  crossfit,
  gallery,
  gan,
  gated,
  neighbours,
  perceptual,
  starting,
)
from inversion_jax.stages.basic import CLASSIFIER, DECODER, EVALUATE, INVERTER, SAMPLE
from inversion_jax.stages.records import Stage, only_for_layers

_RECORDS = (
  CLASSIFIER,
  INVERTER,
  DECODER,
  EVALUATE,
  SAMPLE,
  # Always anew, since it costs seconds.
  Stage(
    "report",
    lambda run: report.write_run_report(run.folder),
    needs=lambda run: (EVALUATE,),
  ),
  Stage("checks", checks.act, needs=lambda run: (EVALUATE,), check=checks.check),
  Stage("brackets", brackets.act, needs=lambda run: (CLASSIFIER,), check=brackets.check),
  Stage(crossfit.NAME, crossfit.act, needs=lambda run: (EVALUATE,), check=crossfit.check),
  Stage(
    "neighbours",
    neighbours.act,
    needs=lambda run: (INVERTER,),
    check=neighbours.check,
    made_for=neighbours.made_for,
    files=neighbours.FILES,
  ),
  Stage(
    gan.NAME,
    gan.act,
    needs=lambda run: (SAMPLE,),
    check=gan.check,
    made_for=gan.made_for,
    files=gan.FILES,
  ),
  *(
    Stage(
      name,
      functools.partial(perceptual.train, name),
      needs=lambda run: (CLASSIFIER,),
      check=functools.partial(perceptual.check, name),
    )
    for name in (perceptual.PERCEPTUAL, perceptual.DEEPSIM)
  ),
  Stage("gated", gated.train, check=only_for_layers("gated")),
  Stage(
    "gallery",
    gallery.act,
    needs=lambda run: (INVERTER, DECODER, EVALUATE),
    check=only_for_layers("gallery"),
    made_for=gallery.made_for,
    files=gallery.FILES,
  ),
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in _RECORDS}
# Only for those who ask: checks, brackets and crossfit train four to seven further inverters, the
# neighbours take thousands of samples, and the others are rivals to compare with.
FURTHER = ("checks", "brackets", "crossfit", "neighbours", "gan")
FURTHER += ("perceptual", "deepsim", "gated", "gallery")
DEFAULT = tuple(name for name in STAGES if name not in FURTHER)


def check(runs: Sequence[Run], names: Iterable[str]):
  """Raises UserError if runs cannot go through the stages of these names; nothing is written."""
  for run in runs:
    run.check_folder()
  starting.check(runs, [STAGES[name] for name in names])


def go_through(run: Run, names: Sequence[str]):
  """Claims the folder of a run and does these stages of it, in their order, as its owner."""
  with locks.owned(run.folder):
    run.begin()
    for name in names:
      say("%s: %s", run.folder, name)
      STAGES[name](run)


def go_through_all(
  runs: Sequence[Run],
  names: Sequence[str],
  num_jobs: int = 0,
  compiled: pathlib.Path | None = None,
):
  """Does these stages of runs, of which some or all share a classifier.

  Args:
    runs: see `go_through`.
    names: of the stages.
    num_jobs: runs at the same time, each in a process of its own, see `workers.num_at_once`.
    compiled: a folder for programs that the runs have in common; None keeps none.
  """
  num = workers.num_at_once(num_jobs, len(runs))
  if num == 1:
    for run in runs:
      _go_through_folder(run.config, run.folder, names, compiled)
    return
  with workers.side_by_side(num) as work:
    # What runs have in common comes before them: they find the classifier beside them.
    firsts = _first_of_each_classifier(runs) if CLASSIFIER.name in names else []
    shared = _tasks(firsts, [CLASSIFIER.name], compiled)
    at_first, later = ahead.tasks(runs, names, compiled) if compiled else ([], [])
    work(shared + at_first)
    # A run that is sooner than these compiles what it needs itself.
    work(later + _tasks(runs, names, compiled))


def _first_of_each_classifier(runs):
  firsts = {}
  for run in runs:
    firsts.setdefault(str(config_lib.classifier_identity(run.config)), run)
  return list(firsts.values())


def _tasks(runs, names, compiled):
  above = os.path.commonpath([run.folder.parent for run in runs]) if runs else ""
  return [
    workers.Task(
      os.path.relpath(run.folder, above),
      _go_through_folder,
      (run.config, run.folder, names, compiled),
    )
    for run in runs
  ]


def _go_through_folder(
  config: ConfigDict, folder: pathlib.Path, names: Sequence[str], compiled: pathlib.Path | None
):
  with compilation.kept_in(compiled) if compiled else contextlib.nullcontext():
    go_through(Run(config, folder), names)
