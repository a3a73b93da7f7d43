"""The files of `configs/`, by path or by name."""

import difflib
import pathlib

from inversion_jax.machine.errors import UserError

_PACKAGE = pathlib.Path(__file__).parents[1]
# A checkout has them beside the package, a wheel inside it.
_INSIDE, _BESIDE = _PACKAGE / "configs", _PACKAGE.parent / "configs"
_FOLDER = _INSIDE if _INSIDE.is_dir() else _BESIDE
EXAMPLES = ["digits", "mnist_prior", "svhn_conv2"]


def names() -> list[str]:
  """Of all configurations that come with the program."""
  return sorted(path.stem for path in _FOLDER.glob("*.py"))


def file_of(given: str) -> pathlib.Path:
  """The file that a user means by a path, or by the name of one of `configs/` from anywhere.

  Raises:
    UserError: it is neither.
  """
  path = pathlib.Path(given)
  if path.is_file():
    return path
  if given in names():
    return _FOLDER / f"{given}.py"
  what = "is a folder" if path.is_dir() else "does not exist"
  near = difflib.get_close_matches(path.stem, names(), 5) or EXAMPLES
  raise UserError(
    f"--config={path} {what}; give one of the files in configs/, by its path or its name, such as "
    f"{', '.join(near)}."
  )
