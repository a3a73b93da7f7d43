"""The handwritten digits inside scikit-learn: 1,797 images of 8x8, 17 grey levels, no download."""

import numpy as np
import sklearn.datasets
import tensorflow_datasets as tfds

from inversion_jax.data.datasets import archives

NUM_IMAGES = 1797
# scikit-learn's array is sorted by writer. Every 1111th row, counted around (the golden section of
# 1797, and without a common factor), spreads the writers evenly over the splits: intervals over
# test images assume that these are drawn alike.
ORDER = [step * 1111 % NUM_IMAGES for step in range(NUM_IMAGES)]
ROWS = {"train": ORDER[:1297], "validation": ORDER[1297:1547], "test": ORDER[1547:]}


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """8x8x1 images with levels 0 to 16; `index` is the row in scikit-learn's array."""

  name = "digits"
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description="Handwritten digits of scikit-learn (UCI Optical Recognition, test part).",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
          "label": tfds.features.ClassLabel(num_classes=10),
          "index": tfds.features.Scalar(np.int64),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://archive.ics.uci.edu/dataset/80",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    digits = sklearn.datasets.load_digits()
    return {split: self._generate_examples(digits, rows) for split, rows in ROWS.items()}

  def _generate_examples(self, digits, rows):
    for row in rows:
      image_HWC = digits.images[row].astype(np.uint8)[..., None]
      yield (
        row,
        {
          "image": archives.encode_png(image_HWC),
          "label": int(digits.target[row]),
          "index": row,
        },
      )
