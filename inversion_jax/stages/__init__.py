"""The stages of one run; each reads and writes the run's folder alone, and skips what is done."""

from inversion_jax import report
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
