"""The stages of one run; each reads and writes the run's folder alone, and skips what is done."""

from inversion_jax import report
from inversion_jax.runs import Run
from inversion_jax.stages.checks import run_checks
from inversion_jax.stages.evaluate import evaluate
from inversion_jax.stages.gan import compare_with_gans
from inversion_jax.stages.sample import sample
from inversion_jax.stages.train import train_classifier, train_inverter


def write_report(run: Run):
  """Writes what a person looks at; always anew, since it costs seconds."""
  report.write_run_report(run.folder)


STAGES = {
  "classifier": train_classifier,
  "inverter": train_inverter,
  "evaluate": evaluate,
  "sample": sample,
  "report": write_report,
  "checks": run_checks,
  "gan": compare_with_gans,
}
# The checks train six further inverters, the GANs are a comparison: only for those who ask.
DEFAULT = tuple(name for name in STAGES if name not in ("checks", "gan"))
