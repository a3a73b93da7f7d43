"""affNIST: MNIST digits under random affine maps on a 40x40 canvas.

Generated here from MNIST, by the recipe of the original (https://www.cs.toronto.edu/~tijmen/affNIST):
rotation up to 20 degrees, shear up to 0.2, each axis scaled by 0.8 to 1.2, and any translation that
keeps the whole digit on the canvas; 32 versions of each digit. The random numbers are not those
of the original files, so the images differ from them one by one.
"""

import dataclasses
import zlib
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.ndimage
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from inversion_jax.data.datasets import archives, mnist

CANVAS = 40
MAX_DEGREES = 20.0
MAX_SHEAR = 0.2
SCALES = (0.8, 1.2)
CHUNK = 1000


@dataclasses.dataclass
class AffnistConfig(tfds.core.BuilderConfig):
  """How much of affNIST: at most so many digits of each split (0: all), so many versions each."""

  num_versions: int = 32
  num_train: int = 0
  num_test: int = 0


class AffineMap(NamedTuple):
  """Takes a (row, column) of the digit, x, to that of the canvas: matrix @ x + offset."""

  matrix: Float[np.ndarray, "2 2"]
  offset: Float[np.ndarray, " 2"]


class Affnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """40x40x1 images; `source` is the position of the digit in its split of MNIST, in TFDS's order.

  The validation digits are the last sixth of MNIST's training digits: 50,000 and 10,000. `mnist`,
  a prepared builder, has to be set before `download_and_prepare`.
  """

  name = "affnist"
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS: ClassVar = [
    AffnistConfig(name="full", description="All digits, 32 versions each."),
    AffnistConfig(
      name="small",
      description="500 training digits, 100 validation and test digits, 4 versions each.",
      num_versions=4,
      num_train=500,
      num_test=100,
    ),
    AffnistConfig(
      name="medium",
      description="5,000 training digits, 200 validation and test digits, 4 versions each.",
      num_versions=4,
      num_train=5_000,
      num_test=200,
    ),
  ]
  mnist = None

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description="MNIST digits under random affine maps, generated from MNIST.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(CANVAS, CANVAS, 1), encoding_format="png"),
          "label": tfds.features.ClassLabel(num_classes=10),
          "source": tfds.features.Scalar(np.int64),
          "version": tfds.features.Scalar(np.int64),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://www.cs.toronto.edu/~tijmen/affNIST",
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    num_train = self.mnist.info.splits["train"].num_examples
    num_test = self.mnist.info.splits["test"].num_examples
    first_held_out = num_train - num_train // 6
    config = self.builder_config
    sources = {
      "train": ("train", _first(range(first_held_out), config.num_train)),
      "validation": ("train", _first(range(first_held_out, num_train), config.num_test)),
      "test": ("test", _first(range(num_test), config.num_test)),
    }
    return {split: self._generate_examples(*rows) for split, rows in sources.items()}

  def _generate_examples(self, mnist_split, sources):
    digits = self.mnist.as_data_source(
      split=mnist_split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    for start in range(0, len(sources), CHUNK):
      rows = sources[start : start + CHUNK]
      for source, digit in zip(rows, digits.__getitems__(list(rows)), strict=True):
        digit_HW = archives.decode_png(digit["image"], mnist.SHAPE_HWC)[..., 0]
        for version in range(self.builder_config.num_versions):
          canvas_HW = render(digit_HW, affine_map(digit_HW, mnist_split, source, version))
          yield (
            source * self.builder_config.num_versions + version,
            {
              "image": archives.encode_png(canvas_HW[..., None]),
              "label": int(digit["label"]),
              "source": source,
              "version": version,
            },
          )


def affine_map(
  digit_HW: UInt8[np.ndarray, "H W"], mnist_split: str, source: int, version: int
) -> AffineMap:
  """The map of one version: a function of (split, source, version) and of the extent of the ink.

  Rows and columns are scaled, then sheared, then rotated. The offset is uniform among those that
  leave the interpolated digit without ink beyond the canvas.
  """
  rng = np.random.default_rng((zlib.crc32(mnist_split.encode()), source, version))
  angle = np.deg2rad(rng.uniform(-MAX_DEGREES, MAX_DEGREES))
  cos, sin = np.cos(angle), np.sin(angle)
  rotation = np.array([[cos, -sin], [sin, cos]])
  shear = np.array([[1.0, rng.uniform(-MAX_SHEAR, MAX_SHEAR)], [0.0, 1.0]])
  matrix = rotation @ shear @ np.diag(rng.uniform(*SCALES, size=2))
  ink_2N = matrix @ np.stack(np.nonzero(digit_HW))
  # Linear interpolation spreads a pixel over the open square of one pixel on each side.
  spread_2 = np.abs(matrix).sum(axis=1)
  lowest_2 = -1.0 - (ink_2N.min(axis=1) - spread_2)
  highest_2 = CANVAS - (ink_2N.max(axis=1) + spread_2)
  return AffineMap(matrix, rng.uniform(lowest_2, highest_2))


def render(
  digit_HW: UInt8[np.ndarray, "H W"], affine: AffineMap, *, margin: int = 0
) -> UInt8[np.ndarray, "canvas canvas"]:
  """Draws the digit, interpolating linearly; `margin` adds so many pixels around the canvas."""
  inverse = np.linalg.inv(affine.matrix)
  canvas_HW = scipy.ndimage.affine_transform(
    digit_HW.astype(np.float64),
    inverse,
    offset=-inverse @ (affine.offset + margin),
    output_shape=(CANVAS + 2 * margin,) * 2,
    order=1,
    mode="grid-constant",
  )
  return np.rint(canvas_HW).astype(np.uint8)


def _first(rows, num):
  return rows[:num] if num else rows
