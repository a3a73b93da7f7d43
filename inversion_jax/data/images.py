"""Images in memory, and what they must be."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from inversion_jax.machine.errors import UserError

# Grey, grey with alpha, RGB, RGB with alpha, or as many channels of an instrument.
MAX_COLOURS = 4


class Split(NamedTuple):
  """The images of one split, row by row, with what is known about each."""

  images_NHWC: UInt8[np.ndarray, "N H W C"]
  labels_N: Int[np.ndarray, " N"]
  # Where the image stands in its official split (the split of the table in `split_rows`).
  index_N: Int[np.ndarray, " N"]
  # Images made from one original share it (affNIST); elsewhere equal to `index_N`.
  source_N: Int[np.ndarray, " N"]


class Data(NamedTuple):
  """A data set in memory; `num_levels` counts the values of a sub-pixel, 0 to num_levels - 1."""

  name: str
  train: Split
  validation: Split
  test: Split
  num_levels: int
  num_classes: int


def check_images(images: Any, num_levels: int = 256, *, name: str = "images"):
  """Raises UserError unless `images` are levels: a uint8 array (N, H, W, C), C 1 to 4.

  Args:
    images: what is to be checked.
    num_levels: the values allowed are 0 to num_levels - 1.
    name: how to call the images in the message.
  """
  dtype, shape = getattr(images, "dtype", type(images).__name__), np.shape(images)
  if dtype != np.uint8:
    raise UserError(f"{name} must be uint8 levels, not {dtype}; convert them, without rescaling.")
  if len(shape) != 4:
    raise UserError(f"{name} must have the shape (N, H, W, C), not {shape}; reshape them.")
  if not 1 <= shape[-1] <= MAX_COLOURS:
    raise UserError(
      f"{name} must have shape (N, H, W, C) with C 1 to {MAX_COLOURS}, not {shape}; move the axis, "
      "or convert them to grey or RGB."
    )
  highest = int(np.max(images, initial=0))
  if highest >= num_levels:
    raise UserError(
      f"{name} must have levels below {num_levels}, but one is {highest}; "
      "requantise them, or raise num_levels."
    )
