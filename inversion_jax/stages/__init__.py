"""The stages of one run; each reads and writes the run's folder alone, and skips what is done."""

from collections.abc import Sequence

from inversion_jax import report
from inversion_jax.machine import workers
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run
from inversion_jax.stages import brackets, checks, gan, neighbours
from inversion_jax.stages.basic import CLASSIFIER, DECODER, EVALUATE, INVERTER, SAMPLE
from inversion_jax.stages.records import Stage, only_with_encoder

_RECORDS = (
  CLASSIFIER,
  INVERTER,
  DECODER,
  EVALUATE,
  SAMPLE,
  # Always anew, since it costs seconds.
  Stage("report", lambda run: report.write_run_report(run.folder)),
  Stage("checks", checks.act, needs=("evaluate",), check=checks.check),
  Stage("brackets", brackets.act, check=brackets.check),
  Stage(
    "neighbours",
    neighbours.act,
    needs=("inverter",),
    check=only_with_encoder("neighbours"),
    made_for=neighbours.made_for,
    files=neighbours.FILES,
  ),
  Stage("gan", gan.act, needs=("sample",), check=gan.check, made_for=gan.made_for, files=gan.FILES),
)
STAGES = {stage.name: stage for stage in _RECORDS}
# Only for those who ask: checks and brackets train six or seven further inverters, the neighbours
# take thousands of samples, and the GANs are a comparison.
FURTHER = ("checks", "brackets", "neighbours", "gan")
DEFAULT = tuple(name for name in STAGES if name not in FURTHER)


def go_through(run: Run, names: Sequence[str]):
  """Does these stages of one run, in their order."""
  for name in names:
    say("%s: %s", run.folder, name)
    STAGES[name](run)


def go_through_all(runs: Sequence[Run], names: Sequence[str], num_jobs: int = 0):
  """Does these stages of runs that share a classifier.

  Args:
    runs: begun.
    names: of the stages.
    num_jobs: runs at the same time, see `workers.num_at_once`.
  """
  num = workers.num_at_once(num_jobs, len(runs))
  if num == 1:
    for run in runs:
      go_through(run, names)
    return
  if CLASSIFIER.name in names:
    # The others find it beside them.
    go_through(runs[0], [CLASSIFIER.name])
  workers.side_by_side(
    go_through, [(run, names) for run in runs], [run.folder.name for run in runs], num
  )
