"""Compares finished runs of one test set: which tells more of an image, by how much, how surely.

    python -m inversion_jax.compare RUN RUN ... [--output=FOLDER]

Each RUN is the folder of a run that has been evaluated, in the order from the input of the network
to its output. All must have scored the same test images. Runs that differ only in their seed become
one row, whose error includes the seed; an unconditional run (no layer) gives an estimate of H(x).

The output folder gets comparison.json and comparison.csv (one row a run), differences.csv (one row
a pair: difference in nats per image, 95% interval, adjusted p-value, verdict), figures/ and
report.html, where test images are sorted and picked; with an unconditional run also pointwise.csv
(one row a test image: log p(x | h) - log p(x) in nats for each layer), and of runs that kept their
first pass codelength.csv (one row a run: codelength, what h saved over p(x), images until the
target). No model is loaded.

From Python, `ij.compare({"mine": model, "p(x)": prior}, test)` compares models; see
`inversion.compare`.
"""

import argparse
import math
import pathlib
import sys
import types
from collections.abc import Sequence

from inversion_jax import inversion, report
from inversion_jax.machine import storage
from inversion_jax.machine.errors import Parser, UserError, as_sentences


def main(arguments: Sequence[str] | None = None) -> None:
  """Compares the runs that the command line names and says where the report is."""
  given = _parser().parse_args(arguments)
  output = given.output or given.runs[0].resolve().parent / "comparison"
  with as_sentences(output, "--output"):
    _compare(given.runs, output, given.epsilon)
  print(f"The report is {output / storage.REPORT}")


def _parser():
  parser = Parser("inversion_jax.compare", __doc__)
  parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="folder of a run")
  parser.add_argument(
    "--output", type=pathlib.Path, help="default: comparison, next to the first run"
  )
  parser.add_argument(
    "--epsilon",
    type=nats,
    default=0.0,
    metavar="NATS",
    help="count images until the next one costs so many nats more than it does the trained p(x)",
  )
  return parser


def nats(text: str) -> float:
  """A finite number; errors of the parser carry the name of this function."""
  value = float(text)
  if not math.isfinite(value):
    raise argparse.ArgumentTypeError(f"{text!r} is no number of nats")
  return value


def _compare(run_dirs, output, epsilon_nats):
  _check(run_dirs)
  if (output / storage.CONFIG).exists():
    raise UserError(f"{output} is the folder of a run; choose another --output.")
  report.write_comparison(output, run_dirs, epsilon_nats)


def _check(run_dirs: Sequence[pathlib.Path]):
  for run_dir in run_dirs:
    if not run_dir.is_dir():
      raise UserError(f"{run_dir} is not a folder; name the folders of finished runs.")
    if not (run_dir / storage.CONFIG).exists():
      raise UserError(f"{run_dir} is not the folder of a run: it has no {storage.CONFIG}.")


class _Compare(types.ModuleType):
  """This module is also what `ij.compare` is, however it was imported."""

  def __call__(self, *args, **settings):
    return inversion.compare(*args, **settings)


sys.modules[__name__].__class__ = _Compare

if __name__ == "__main__":
  main()
