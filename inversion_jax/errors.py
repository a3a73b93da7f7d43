"""Mistakes that a user can make, and how a command ends on them."""

import argparse
import sys
from typing import NoReturn

USER_ERROR_STATUS = 2


class UserError(ValueError):
  """A mistake a user can mend: one plain sentence that names the field or file and says what to do.

  `main` prints the sentence and exits with status 2, without a traceback. Every other exception is
  a bug and keeps its traceback.
  """


def exit_with(sentence: object) -> NoReturn:
  """Prints one sentence and ends the program with the status of a user's mistake."""
  print(f"inversion_jax: {sentence}", file=sys.stderr)
  sys.exit(USER_ERROR_STATUS)


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
