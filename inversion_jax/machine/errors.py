"""Mistakes that a user can make, and how a command ends on them."""

import argparse
import contextlib
import errno
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import NoReturn

USER_ERROR_STATUS = 2
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


class UserError(ValueError):
  """A mistake a user can mend: one plain sentence that names the field or file and says what to do.

  `main` prints the sentence and exits with status 2, without a traceback. Every other exception is
  a bug and keeps its traceback.
  """


def exit_with(sentence: object) -> NoReturn:
  """Prints one sentence and ends the program with the status of a user's mistake."""
  print(f"inversion_jax: {sentence}", file=sys.stderr)
  sys.exit(USER_ERROR_STATUS)


def is_full(error: BaseException | None) -> bool:
  """Whether a full disk is behind an error; libraries that write tell it in many ways."""
  while error is not None:
    # TensorStore and shutil have the number in their words alone.
    words = map(os.strerror, _NO_SPACE)
    if getattr(error, "errno", None) in _NO_SPACE or any(one in str(error) for one in words):
      return True
    error = error.__cause__ or error.__context__
  return False


@contextlib.contextmanager
def as_sentences(output: pathlib.Path, option: str) -> Iterator[None]:
  """Ends the program with one sentence on a user's mistake; a bug keeps its traceback.

  Args:
    output: where the program writes.
    option: the flag that chooses it.
  """
  try:
    yield
  except UserError as error:
    exit_with(error)
  except OSError as error:
    if is_full(error):
      exit_with(f"No space is left for {error.filename or output}; what was saved is kept.")
    path = pathlib.Path(error.filename or "")
    # What /proc and the like say of a folder that cannot be made in them.
    is_absent = error.errno == errno.ENOENT and output in (path, *path.parents)
    if error.errno in _NOT_WRITABLE or is_absent:
      exit_with(f"{error.filename or output} cannot be written; choose another {option}.")
    raise


class Parser(argparse.ArgumentParser):
  """The command line of a program whose help is its module's docstring; a mistake is a sentence.

  It belongs to its program alone. absl's flags, which `main` needs for its configurations, are one
  set for the whole process, and several programs here have an --output.
  """

  def __init__(self, program: str, description: str):
    super().__init__(
      prog=f"python -m {program}",
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Ends the program; argparse would print its usage first."""
    exit_with(f"The command line was not understood: {message.rstrip('.')}. See --help.")
