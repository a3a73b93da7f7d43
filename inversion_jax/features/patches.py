"""Large images in patches, and h cut to match them where it is a map."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from inversion_jax.features.sources import Stored
from inversion_jax.machine.errors import UserError


class Tiling(NamedTuple):
  """Patches side by side from the first row and column on; what is left over is not used.

  Attributes:
    size: rows and columns of the images.
    patch: rows and columns of a patch.
  """

  size: tuple[int, int]
  patch: tuple[int, int]

  @property
  def grid(self) -> tuple[int, int]:
    """How many patches lie below each other and side by side."""
    return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

  @property
  def num_patches(self) -> int:
    """Of one image."""
    return math.prod(self.grid)

  def cut(self, images_NHWC: UInt8[np.ndarray, "N H W C"]) -> UInt8[np.ndarray, "M h w C"]:
    """All patches, those of an image one after the other, row by row."""
    (down, across), (rows, columns) = self.grid, self.patch
    num_images, num_colours = len(images_NHWC), images_NHWC.shape[-1]
    used = images_NHWC[:, : down * rows, : across * columns]
    blocks = used.reshape(num_images, down, rows, across, columns, num_colours)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, num_colours)

  def cells(self, axis: int, num_cells: int) -> tuple[list[int], int]:
    """(the first cell of each patch along an axis, how many cells each has).

    Cell k of n covers pixels k H / n to (k + 1) H / n. Every patch gets all cells that it touches,
    and all of them equally many.
    """
    size, patch = self.size[axis], self.patch[axis]
    firsts = [place * patch * num_cells // size for place in range(self.grid[axis])]
    ends = [-(-(place + 1) * patch * num_cells // size) for place in range(self.grid[axis])]
    num = max(end - first for first, end in zip(firsts, ends, strict=True))
    return [min(first, num_cells - num) for first in firsts], num


def tiling(size: tuple[int, int], patch: int | tuple[int, int]) -> Tiling:
  """Patches of `patch` rows and columns, or so many of both.

  Raises:
    UserError: it is no such size, or larger than the images.
  """
  pair = patch if isinstance(patch, tuple) else (patch, patch)
  is_size = len(pair) == 2 and all(type(length) is int and length > 0 for length in pair)
  if not is_size or pair[0] > size[0] or pair[1] > size[1]:
    raise UserError(
      f"patch={patch!r} must be a number of pixels, or (rows, columns), within images of "
      f"{size[0]} x {size[1]}."
    )
  return Tiling(size, pair)


@dataclasses.dataclass(frozen=True, eq=False)
class Patched(Stored):
  """h of patches: of a map the cells that lie over the patch, of a vector the whole.

  A vector does not say which patch of the image it goes with.

  Attributes:
    h: of the whole images.
    name: as a person reads it.
    tiling: how the images were cut; row m is patch m % num_patches of image m // num_patches.
  """

  tiling: Tiling = None

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the h of one patch."""
    if self.h.ndim == 2:
      return self.h.shape[1:]
    (_, rows), (_, columns) = self._cells
    return rows, columns, self.h.shape[-1]

  @property
  def _cells(self):
    return [self.tiling.cells(axis, self.h.shape[1 + axis]) for axis in (0, 1)]

  def fetch(self, images_BHWC, rows_B: Int[np.ndarray, " B"]):
    """The cells of each patch, in float32."""
    image_B, place_B = np.divmod(rows_B, self.tiling.num_patches)
    if self.h.ndim == 2:
      return super().fetch(images_BHWC, image_B)
    (tops, rows), (lefts, columns) = self._cells
    _, across = self.tiling.grid
    return np.stack(
      [
        np.asarray(
          self.h[
            image,
            tops[place // across] : tops[place // across] + rows,
            lefts[place % across] : lefts[place % across] + columns,
          ],
          np.float32,
        )
        for image, place in zip(image_B, place_B, strict=True)
      ]
    )
