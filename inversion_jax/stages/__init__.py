"""The stages of one run; each reads and writes the run's folder alone, and skips what is done."""

from collections.abc import Iterable, Sequence

from inversion_jax import report
from inversion_jax.runs import Run
from inversion_jax.stages import brackets, checks, gan, neighbours, starting
from inversion_jax.stages.basic import CLASSIFIER, DECODER, EVALUATE, INVERTER, SAMPLE
from inversion_jax.stages.records import Stage

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
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in _RECORDS}
# Only for those who ask: checks and brackets train six or seven further inverters, the neighbours
# take thousands of samples, and the GANs are a comparison.
FURTHER = ("checks", "brackets", "neighbours", "gan")
DEFAULT = tuple(name for name in STAGES if name not in FURTHER)


def check(runs: Sequence[Run], names: Iterable[str]):
  """Raises UserError if runs cannot go through the stages of these names; nothing is written."""
  for run in runs:
    run.check_folder()
  starting.check(runs, [STAGES[name] for name in names])
