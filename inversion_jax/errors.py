"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
  """A mistake a user can mend: one plain sentence that names the field or file and says what to do.

  `main` prints the sentence and exits with status 2, without a traceback. Every other exception is
  a bug and keeps its traceback.
  """
