"""SVHN, cropped digits, read from its MATLAB files without TensorFlow."""

import math
import pathlib
from typing import ClassVar

import numpy as np
import scipy.io
from jaxtyping import Shaped, UInt8
from tensorflow_datasets.datasets.svhn_cropped import svhn_cropped_dataset_builder as official

from inversion_jax.data.datasets import archives

_NUMBERS = {
  "double",
  "single",
  *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
_SHAPE_HWC = (32, 32, 3)
# Of the training images, with their labels as float64 and room for what stands between.
_MOST_BYTES = 73_257 * (math.prod(_SHAPE_HWC) + 8) + 4096
_URL = "http://ufldl.stanford.edu/housenumbers/"


class SvhnCropped(official.Builder, skip_registration=True):
  """The official builder with another reader: name, version, features and order stay the same.

  One thing differs: the official set has a third split, `extra`, of 531,131 easier images. Nothing
  here uses it, so its 1.3 GB are not fetched.
  """

  name = "svhn_cropped"
  url_infos = official.Builder.url_infos
  pkg_dir_path = official.Builder._get_pkg_dir_path()
  URLS: ClassVar = {"train": _URL + "train_32x32.mat", "test": _URL + "test_32x32.mat"}

  def _split_generators(self, dl_manager):
    paths = archives.fetch(dl_manager, self.URLS, self.url_infos)
    return {split: self._generate_examples(split, path) for split, path in paths.items()}

  def _generate_examples(self, split, path):
    images_NHWC, labels_N = read_mat(path)
    for index, (image_HWC, label) in enumerate(zip(images_NHWC, labels_N, strict=True)):
      yield (
        index,
        {
          "id": f"{split}_{index:06d}",
          "image": archives.encode_png(image_HWC),
          "label": int(label),
        },
      )


def read_mat(path: pathlib.Path) -> tuple[UInt8[np.ndarray, "N H W C"], Shaped[np.ndarray, " N"]]:
  """(images, labels) of one of the set's MATLAB files.

  Raises:
    UserError: it is damaged, larger than any of the set, or holds something else.
  """
  archives.check_compressed(path, _MOST_BYTES)
  with archives.reading(path):
    # What is in the file is asked before it is read: objects and functions are not.
    kinds = {name: kind for name, _, kind in scipy.io.whosmat(path)}
    if kinds.get("X") != "uint8" or kinds.get("y") not in _NUMBERS:
      raise ValueError(f"X is {kinds.get('X')} and must be uint8, y is {kinds.get('y')}")
    content = scipy.io.loadmat(path, variable_names=("X", "y"))
    images_NHWC, labels_N = np.moveaxis(content["X"], -1, 0), content["y"].ravel()
  # The files call the digit 0 "10", and have no 0.
  labels_N = np.where(labels_N == 10, 0, np.where(labels_N == 0, 10, labels_N))
  archives.check_examples(path, images_NHWC, labels_N, _SHAPE_HWC)
  return images_NHWC, labels_N
