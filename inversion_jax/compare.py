"""Compares finished runs of one test set: which tells more of an image, by how much, how surely.

    python -m inversion_jax.compare RUN RUN ... [--output=FOLDER]

Each RUN is the folder of a run that has been evaluated, in the order from the input of the network
to its output. All must have scored the same test images. Runs that differ only in their seed become
one row, whose error includes the seed; an unconditional run (no layer) gives an estimate of H(x).

The output folder gets comparison.json and comparison.csv (one row a run), differences.csv (one row
a pair: difference in nats per image, 95% interval, adjusted p-value, verdict), figures/ and
report.html. No model is loaded.
"""

import errno
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from inversion_jax import report, storage
from inversion_jax.errors import UserError

USER_ERROR_STATUS = 2
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)

_OUTPUT = flags.DEFINE_string(
  "output", None, "Folder of the comparison. Default: comparison, next to the first run."
)


def main(argv: Sequence[str]) -> None:
  """Compares the runs named in `argv[1:]` and says where the report is."""
  run_dirs = [pathlib.Path(name) for name in argv[1:]]
  _check(run_dirs)
  output = pathlib.Path(_OUTPUT.value or run_dirs[0].resolve().parent / "comparison")
  if (output / storage.CONFIG).exists():
    raise UserError(f"{output} is the folder of a run; choose another --output.")
  report.write_comparison(output, run_dirs)
  print(f"The report is {output / storage.REPORT}")


def _check(run_dirs: Sequence[pathlib.Path]):
  if not run_dirs:
    raise UserError("No run was given; name the folders of finished runs. See --help.")
  for run_dir in run_dirs:
    if not run_dir.is_dir():
      raise UserError(f"{run_dir} is not a folder; name the folders of finished runs.")
    if not (run_dir / storage.CONFIG).exists():
      raise UserError(f"{run_dir} is not the folder of a run: it has no {storage.CONFIG}.")


def _parse_flags(argv):
  """Parses the command line; what is wrong with it ends in one sentence."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _exit(f"The command line was not understood: {str(error).rstrip('.')}. See --help.")


def _exit(sentence):
  print(f"inversion_jax: {sentence}", file=sys.stderr)
  sys.exit(USER_ERROR_STATUS)


def _guarded(argv):
  """Runs `main`; a user's error ends in its sentence, a bug keeps its traceback."""
  try:
    main(argv)
  except UserError as error:
    _exit(error)
  except OSError as error:
    if error.errno in _NO_SPACE:
      _exit(f"No space is left for {error.filename or 'the comparison'}; choose another --output.")
    if error.errno in _NOT_WRITABLE:
      _exit(f"{error.filename or 'The output'} cannot be written; choose another --output.")
    raise


def run() -> None:
  """What the command runs."""
  app.run(_guarded, flags_parser=_parse_flags)


if __name__ == "__main__":
  run()
