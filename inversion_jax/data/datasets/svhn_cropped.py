"""SVHN, cropped digits, read from its MATLAB files without TensorFlow."""

from typing import ClassVar

import numpy as np
import scipy.io
from tensorflow_datasets.datasets.svhn_cropped import svhn_cropped_dataset_builder as official

from inversion_jax.data.datasets import archives

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
    with archives.reading(path):
      content = scipy.io.loadmat(path)
      images_NHWC, labels_N = np.moveaxis(content["X"], -1, 0), content["y"].ravel()
    for index, (image_HWC, label) in enumerate(zip(images_NHWC, labels_N, strict=True)):
      yield (
        index,
        {
          "id": f"{split}_{index:06d}",
          "image": archives.encode_png(image_HWC),
          "label": int(label) % 10,  # The files call the digit 0 "10".
        },
      )
