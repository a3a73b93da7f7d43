"""MNIST, read from its IDX files without TensorFlow."""

import math
import pathlib
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8
from tensorflow_datasets.image_classification import mnist as official

from inversion_jax.data.datasets import archives

SHAPE_HWC = (28, 28, 1)
_MOST_IMAGES = 60_000
_BYTES = 8  # the kind of number in an IDX file
_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"


class Mnist(official.MNIST, skip_registration=True):
  """The official builder with another reader: name, version, features and order stay the same."""

  name = "mnist"
  url_infos = official.MNIST.url_infos
  URLS: ClassVar = {
    "train_images": _URL + "train-images-idx3-ubyte.gz",
    "train_labels": _URL + "train-labels-idx1-ubyte.gz",
    "test_images": _URL + "t10k-images-idx3-ubyte.gz",
    "test_labels": _URL + "t10k-labels-idx1-ubyte.gz",
  }
  # Below that of manual downloads; for sets whose archives have the names of another set's.
  FOLDER: ClassVar = ""

  def _split_generators(self, dl_manager):
    paths = archives.fetch(dl_manager, self.URLS, self.url_infos, self.FOLDER)
    return {
      split: self._generate_examples(paths[f"{split}_images"], paths[f"{split}_labels"])
      for split in ("train", "test")
    }

  def _generate_examples(self, images_path, labels_path):
    images_NHW = read_idx(images_path, math.prod(SHAPE_HWC))
    labels_N = read_idx(labels_path, 1)
    archives.check_examples(images_path, images_NHW, labels_N, SHAPE_HWC[:2])
    for index, (image_HW, label) in enumerate(zip(images_NHW, labels_N, strict=True)):
      yield index, {"image": archives.encode_png(image_HW[..., None]), "label": int(label)}


def read_idx(path: pathlib.Path, most_bytes: int) -> UInt8[np.ndarray, "N ..."]:
  """Reads a gzipped IDX file of bytes: a magic number, the sizes (big endian), the values.

  Args:
    path: of the file.
    most_bytes: of one of its rows.

  Raises:
    UserError: the file is damaged, or larger than any of the set.
  """
  content = archives.unpacked(path, 4 + 4 * 255 + _MOST_IMAGES * most_bytes)
  with archives.reading(path):
    if content[:3] != bytes([0, 0, _BYTES]):
      raise ValueError("it is no IDX file of bytes")
    num_axes = content[3]
    shape = np.frombuffer(content, ">u4", count=num_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
