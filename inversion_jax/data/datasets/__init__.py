"""The data sets: which there are, and how one comes to lie prepared on the disk.

A set is prepared once, by TFDS, into ArrayRecord files that are read without TensorFlow. Whatever
was prepared by the official builders in that format is read as it is.
"""

import contextlib
import errno
import io
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError

from inversion_jax.data.datasets import (
  affnist,
  archives,
  cifar10,
  digits,
  fashion_mnist,
  mnist,
  svhn_cropped,
)
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say

HOME = "~/tensorflow_datasets"
FORMAT = "array_record"
# How TFDS names the files of a split.
TEMPLATES = ("{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",)


class Known(NamedTuple):
  """A data set that can be named: its builder, and how many levels a sub-pixel of it has."""

  builder: type[tfds.core.GeneratorBasedBuilder]
  num_levels: int


KNOWN = {
  "digits": Known(digits.Digits, num_levels=17),
  "mnist": Known(mnist.Mnist, num_levels=256),
  "fashion_mnist": Known(fashion_mnist.FashionMnist, num_levels=256),
  "svhn_cropped": Known(svhn_cropped.SvhnCropped, num_levels=256),
  "cifar10": Known(cifar10.Cifar10, num_levels=256),
  "affnist": Known(affnist.Affnist, num_levels=256),
}


def names() -> list[str]:
  """The names that `prepared` takes: "mnist", ..., "affnist", "affnist/full", "affnist/small"."""
  configs = [
    f"{name}/{config}" for name, known in KNOWN.items() for config in known.builder.builder_configs
  ]
  return sorted([*KNOWN, *configs])


def prepared(name: str, data_dir: str = "") -> tfds.core.DatasetBuilder:
  """Returns the builder of a set that lies prepared on the disk; prepares it first if need be.

  Args:
    name: one of `names()`.
    data_dir: where sets are looked for and prepared; "" means $TFDS_DATA_DIR, or else
      ~/tensorflow_datasets. A folder that cannot be written to is only looked in, and what
      is absent from it is looked for and prepared in ~/tensorflow_datasets.

  Raises:
    UserError: no such set; its archives cannot be had; no place to write.
  """
  if name not in names():
    raise UserError(
      f"data.name={name!r} is not a known data set; choose from {', '.join(names())}."
    )
  for folder in _folders(data_dir):
    _check_folder(folder)
    builder = _builder(name, folder)
    if _is_prepared(builder):
      return builder
    if _is_writable(folder):
      break
    say("%s is not in %s, which cannot be written to.", name, folder)
  else:
    raise UserError(f"{name} is not in {folder}, which cannot be written to; set config.data.dir.")
  if name.startswith("affnist"):
    builder.mnist = prepared("mnist", data_dir)
  say("Preparing %s in %s.", name, folder)
  with _user_errors(name, builder), _quiet_tfds():
    builder.download_and_prepare(file_format=FORMAT)
  return _builder(name, folder)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
  """TFDS keeps its progress bars on a terminal, and is silent otherwise."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(min(verbosity, logging.WARNING))
  tfds.display_progress_bar(sys.stderr.isatty())
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _user_errors(name, builder) -> Iterator[None]:
  """Says what a user can do about a set that could not be prepared."""
  try:
    yield
  except (archives.UnreachableError, DownloadError) as error:
    raise UserError(_how_to_place(name, builder, error)) from error
  except NonMatchingChecksumError as error:
    raise UserError(f"A download of {name} is not the published file: {error}") from error
  except OSError as error:
    if _is_prepared(builder):
      return  # Another process was faster.
    if error.errno == errno.ENOSPC or "disk space" in str(error):
      raise UserError(f"No space for {name} in {builder.data_dir}; set config.data.dir.") from error
    raise


def _how_to_place(name, builder, error):
  files = ", ".join(builder.URLS.values())
  root = pathlib.Path(builder.data_dir).parents[1]
  manual = root / "downloads" / archives.MANUAL / getattr(builder, "FOLDER", "")
  return (
    f"The data set {name} is not in {root} and cannot be downloaded ({error}); put its archives "
    f"({files}) into {manual}, or set config.data.dir or "
    f"TFDS_DATA_DIR to a folder that holds {name} prepared by TFDS in the format {FORMAT}."
  )


def _builder(name, folder):
  """The builder of a set in a folder; it reads what `dataset_info.json` says of a prepared one."""
  dataset, _, config = name.partition("/")
  try:
    with _quiet_tfds():
      builder = KNOWN[dataset].builder(data_dir=folder, config=config or None)
  except Exception as error:  # Neither TFDS nor protobuf has a common class for damage.
    words = str(error).partition("\n")[0].rstrip(". ")
    raise UserError(
      f"The data set prepared in {folder / name} cannot be read ({words}); delete that folder and "
      "run again."
    ) from error
  if _is_prepared(builder):
    _check_info(builder)
  return builder


def _check_info(builder):
  """Raises UserError unless the set is what its folder says; its words become names of files."""
  splits = builder.info.splits
  if not {"train", "test"} <= set(splits):
    raise UserError(
      f"{builder.data_dir} has no split train or test, only {', '.join(splits) or 'none'}; delete "
      "that folder and run again."
    )
  for split in splits.values():
    template = split.filename_template
    if template.dataset_name != builder.name or template.template not in (None, *TEMPLATES):
      raise UserError(
        f"{builder.data_dir} holds another set than {builder.name}; delete that folder and run "
        "again."
      )
    if split.num_examples < 1:
      raise UserError(f"{builder.data_dir} is empty; delete that folder and run again.")


def _is_prepared(builder):
  return (pathlib.Path(builder.data_dir) / "dataset_info.json").exists()


def _folders(data_dir):
  """Where to look for a set, and to prepare it if files can be written there."""
  first = data_dir or os.environ.get("TFDS_DATA_DIR") or HOME
  return [pathlib.Path(folder).expanduser() for folder in (first, HOME)]


def _check_folder(folder):
  if folder.exists() and not folder.is_dir():
    raise UserError(f"The data folder {folder} is a file; set config.data.dir to a folder.")
  if folder.exists() and not (folder.stat().st_mode & 0o444 and os.access(folder, os.R_OK)):
    raise UserError(
      f"The data folder {folder} cannot be read; change its permissions or set config.data.dir."
    )


def _is_writable(folder):
  """Whether files can be made in `folder`. One without any write bit is left alone even by root."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      return bool(folder.stat().st_mode & 0o222)
  except OSError:
    return False
