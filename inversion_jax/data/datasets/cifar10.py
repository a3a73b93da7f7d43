"""CIFAR-10, read from its binary archive without TensorFlow."""

import io
import math
import tarfile
from typing import ClassVar

import numpy as np
from tensorflow_datasets.image_classification import cifar as official

from inversion_jax.data.datasets import archives

_FOLDER = "cifar-10-batches-bin/"
_FILES = {
  "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
  "test": ["test_batch.bin"],
}
_NAMES = "batches.meta.txt"
_SHAPE_CHW = (3, 32, 32)
# Of all images with their labels, and room for what else is in the archive.
_MOST_BYTES = 60_000 * (1 + math.prod(_SHAPE_CHW)) + (1 << 20)


class Cifar10(official.Cifar10, skip_registration=True):
  """The official builder with another reader: name, version, features and order stay the same."""

  name = "cifar10"
  url_infos = official.Cifar10.url_infos
  URLS: ClassVar = {"all": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"}

  def _split_generators(self, dl_manager):
    path = archives.fetch(dl_manager, self.URLS, self.url_infos)["all"]
    content = archives.unpacked(path, _MOST_BYTES)
    # Members are looked up by name and read; nothing is ever written to where they say.
    with archives.reading(path), tarfile.open(fileobj=io.BytesIO(content)) as archive:
      names = _member(archive, _NAMES).decode().split()
      if len(names) != archives.NUM_CLASSES:
        raise ValueError(f"{_NAMES} has {len(names)} names")
      rows = {
        split: _as_rows(b"".join(_member(archive, file) for file in files))
        for split, files in _FILES.items()
      }
    for rows_ND in rows.values():
      images_NCHW = rows_ND[:, 1:].reshape(-1, *_SHAPE_CHW)
      archives.check_examples(path, images_NCHW, rows_ND[:, 0], _SHAPE_CHW)
    self.info.features["label"].names = names
    return {split: self._generate_examples(split, rows_ND) for split, rows_ND in rows.items()}

  def _generate_examples(self, split, rows):
    for index, row in enumerate(rows):
      image_HWC = row[1:].reshape(_SHAPE_CHW).transpose(1, 2, 0)
      yield (
        index,
        {
          "id": f"{split}_{index:05d}",
          "image": archives.encode_png(image_HWC),
          "label": int(row[0]),
        },
      )


def _member(archive, name):
  """The content of a regular file of the archive, and of no link, folder or other thing."""
  member = archive.getmember(_FOLDER + name)
  if not member.isreg() or member.issparse():
    raise ValueError(f"{name} is no regular file")
  return archive.extractfile(member).read()


def _as_rows(content):
  """One row an image: its label, then its red, green and blue plane."""
  return np.frombuffer(content, np.uint8).reshape(-1, 1 + np.prod(_SHAPE_CHW))
