"""TFDS sources -> uint8 arrays in memory; the splits."""

from collections.abc import Mapping

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from inversion_jax.data import datasets
from inversion_jax.data.datasets import archives
from inversion_jax.data.images import Data, Split, check_images
from inversion_jax.data.reduced import REDUCTIONS, reduced
from inversion_jax.machine import processes
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import track

# Images held out of an official training set for validation: its last ones, one in ten, not more.
MAX_HELD_OUT = 5000
HELD_OUT_FRACTION = 10

CHUNK = 1000

# What TFDS, ArrayRecord, Pillow and NumPy raise of damaged files, which have no common class.
DAMAGE = (
  *(RuntimeError, ValueError, OSError, KeyError, IndexError, SyntaxError, MemoryError),
  PIL.Image.DecompressionBombError,
)


def load(
  name: str,
  *,
  data_dir: str = "",
  num_train: int = 0,
  num_validation: int = 0,
  num_test: int = 0,
) -> Data:
  """Reads a data set into memory; one that is absent is fetched and prepared first.

  Args:
    name: one of `names()`, such as "svhn_cropped", "affnist/small" or "cifar10/16".
    data_dir: TFDS's data folder; "" means $TFDS_DATA_DIR, or else ~/tensorflow_datasets. If it
      cannot be written to, sets absent from it are prepared in ~/tensorflow_datasets.
    num_train: keeps the first so many training images; 0 keeps all.
    num_validation, num_test: the same for the validation and the test images.

  Raises:
    UserError: unknown name, a set that cannot be had, or files that cannot be read.
  """
  reduction = REDUCTIONS.get(name)
  with processes.first_goes_ahead():
    builder = datasets.prepared(reduction.dataset if reduction else name, data_dir)
  sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
  limits = {"train": num_train, "validation": num_validation, "test": num_test}
  splits = {}
  for split, (official, rows) in split_rows(sizes).items():
    rows = rows[: limits[split]] if limits[split] > 0 else rows
    splits[split] = _read(builder, official, rows)
  num_levels = datasets.KNOWN[builder.name].num_levels
  for split, content in splits.items():
    check_images(content.images_NHWC, num_levels, name=f"{name} {split}")
  if reduction:
    splits = {split: _reduced(content, reduction, num_levels) for split, content in splits.items()}
    num_levels = reduction.num_levels
  num_classes = builder.info.features["label"].num_classes
  return Data(name, **splits, num_levels=num_levels, num_classes=num_classes)


def names() -> list[str]:
  """The names that `load` takes."""
  return sorted([*datasets.names(), *REDUCTIONS])


def _reduced(content: Split, reduction, num_levels: int) -> Split:
  images_NHWC = reduced(content.images_NHWC, reduction.factor, num_levels, reduction.num_levels)
  return content._replace(images_NHWC=images_NHWC)


def split_rows(sizes: Mapping[str, int]) -> dict[str, tuple[str, range]]:
  """Which rows of which official split make up train, validation and test.

  Args:
    sizes: number of images in each prepared split.

  Returns:
    For each of our splits the official one and its rows, in TFDS's order. For the whole sets:

      set            train            validation             test
      digits         1,297            250                    250     every 1111th row
      mnist          train[:55000]    train[55000:]          10,000
      fashion_mnist  train[:55000]    train[55000:]          10,000
      cifar10        train[:45000]    train[45000:]          10,000
      svhn_cropped   train[:68257]    train[68257:]          26,032
      affnist        50,000 x 32      10,000 x 32            10,000 x 32

  Sets without a validation split lose the last tenth of their training images, 5,000 at most.
  """
  if "validation" in sizes:
    return {split: (split, range(sizes[split])) for split in ("train", "validation", "test")}
  num_held_out = min(MAX_HELD_OUT, sizes["train"] // HELD_OUT_FRACTION)
  rows = range(sizes["train"])
  first = sizes["train"] - num_held_out
  return {
    "train": ("train", rows[:first]),
    "validation": ("train", rows[first:]),
    "test": ("test", range(sizes["test"])),
  }


def _read(builder, official, rows):
  """The `rows` of a prepared split as a `Split`; nothing else is decoded."""
  shape_HWC = builder.info.features["image"].shape
  try:
    images_NHWC = np.empty((len(rows), *shape_HWC), np.uint8)
    labels_N, index_N, source_N = np.empty((3, len(rows)), np.int64)
    # TFDS would decode with OpenCV, and complain where it is not installed.
    source = builder.as_data_source(official, decoders={"image": tfds.decode.SkipDecoding()})
    with track(f"reading {builder.name} {official}", len(rows), unit="image") as shown:
      for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        for n, example in enumerate(source.__getitems__(list(chunk)), start):
          images_NHWC[n] = archives.decode_png(example["image"], shape_HWC)
          labels_N[n] = example["label"]
          index_N[n] = example.get("index", rows[n])
          source_N[n] = example.get("source", index_N[n])
        shown.update(len(chunk))
  except NotImplementedError:
    raise UserError(
      f"{builder.data_dir} holds another format than {datasets.FORMAT}, which needs TensorFlow; "
      "move it away or set config.data.dir to another folder."
    ) from None
  except DAMAGE as error:
    raise UserError(
      f"{builder.data_dir} is damaged ({error}); delete that folder and run again."
    ) from error
  num_classes = builder.info.features["label"].num_classes
  if not ((labels_N >= 0) & (labels_N < num_classes)).all():
    raise UserError(
      f"{builder.data_dir} has labels that are none of {num_classes} classes; delete that folder "
      "and run again."
    )
  return Split(images_NHWC, labels_N, index_N, source_N)
