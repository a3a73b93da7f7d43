"""Sets made coarser: means of blocks of pixels, which two cores can learn to the end."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8


class Reduction(NamedTuple):
  """A set that is another one with means of `factor` x `factor` pixels, in `num_levels` levels."""

  dataset: str
  factor: int
  num_levels: int


REDUCTIONS = {
  "mnist/14": Reduction("mnist", factor=2, num_levels=256),
  "mnist/7": Reduction("mnist", factor=4, num_levels=17),
  "fashion_mnist/14": Reduction("fashion_mnist", factor=2, num_levels=256),
  "cifar10/16": Reduction("cifar10", factor=2, num_levels=256),
  "affnist/10": Reduction("affnist/medium", factor=4, num_levels=17),
}


def reduced(
  images_NHWC: UInt8[np.ndarray, "N H W C"], factor: int, num_levels_before: int, num_levels: int
) -> UInt8[np.ndarray, "N h w C"]:
  """Means of blocks of pixels, rounded to the nearest level.

  Args:
    images_NHWC: levels; height and width are multiples of `factor`.
    factor: rows and columns of a block.
    num_levels_before, num_levels: of the images, and of what is returned.
  """
  num, height, width, num_channels = images_NHWC.shape
  blocks = images_NHWC.reshape(num, height // factor, factor, width // factor, factor, num_channels)
  means = blocks.mean((2, 4), dtype=np.float64) / (num_levels_before - 1)
  return np.rint(means * (num_levels - 1)).astype(np.uint8)
