"""CIFAR-10, read from its binary archive without TensorFlow."""

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
_SHAPE_CHW = (3, 32, 32)


class Cifar10(official.Cifar10, skip_registration=True):
  """The official builder with another reader: name, version, features and order stay the same."""

  name = "cifar10"
  url_infos = official.Cifar10.url_infos
  URLS: ClassVar = {"all": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"}

  def _split_generators(self, dl_manager):
    path = archives.fetch(dl_manager, self.URLS, self.url_infos)["all"]
    with archives.reading(path), tarfile.open(path) as archive:
      names = archive.extractfile(_FOLDER + "batches.meta.txt").read().decode()
      records = {
        split: b"".join(archive.extractfile(_FOLDER + file).read() for file in files)
        for split, files in _FILES.items()
      }
      records = {split: _as_rows(content) for split, content in records.items()}
    self.info.features["label"].names = names.split()
    return {split: self._generate_examples(split, rows) for split, rows in records.items()}

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


def _as_rows(content):
  """One row an image: its label, then its red, green and blue plane."""
  return np.frombuffer(content, np.uint8).reshape(-1, 1 + np.prod(_SHAPE_CHW))
