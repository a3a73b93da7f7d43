"""A field of a configuration, changed by its name and text as a command line has them."""

import ast

from ml_collections import ConfigDict

from inversion_jax.config.saved import leaves
from inversion_jax.machine.errors import UserError


def set_field(config: ConfigDict, name: str, text: str):
  """Gives the field of a dotted name the value that `text` is in Python; words need no quotes.

  Raises:
    UserError: there is no such field, or the text is nothing that it can be.
  """
  before = dict(leaves(config))
  if name not in before:
    raise UserError(f"The configuration has no field {name!r}; see inversion_jax/config.")
  try:
    value = text if isinstance(before[name], str) else ast.literal_eval(text)
    config.update_from_flattened_dict({name: value})
  except (TypeError, ValueError, SyntaxError) as error:
    kind = type(before[name]).__name__
    raise UserError(f"{name}={text} cannot be, since the field is of type {kind}.") from error
