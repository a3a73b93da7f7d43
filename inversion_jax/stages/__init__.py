"""The stages of one run; each reads and writes the run's folder alone, and skips what is done."""

from inversion_jax import report
from inversion_jax.runs import Run
from inversion_jax.stages.brackets import run_brackets
from inversion_jax.stages.checks import run_checks
from inversion_jax.stages.evaluate import evaluate
from inversion_jax.stages.neighbours import measure_neighbours
from inversion_jax.stages.rivals import compare_with_gans
from inversion_jax.stages.sample import sample
from inversion_jax.stages.train import train_classifier, train_decoder, train_inverter


def write_report(run: Run):
  """Writes what a person looks at; always anew, since it costs seconds."""
  report.write_run_report(run.folder)


STAGES = {
  "classifier": train_classifier,
  "inverter": train_inverter,
  "decoder": train_decoder,
  "evaluate": evaluate,
  "sample": sample,
  "report": write_report,
  "checks": run_checks,
  "brackets": run_brackets,
  "neighbours": measure_neighbours,
  "gan": compare_with_gans,
}
# Only for those who ask: checks and brackets train six or seven further inverters, the neighbours
# take thousands of samples, and the GANs are a comparison.
FURTHER = ("checks", "brackets", "neighbours", "gan")
DEFAULT = tuple(name for name in STAGES if name not in FURTHER)
