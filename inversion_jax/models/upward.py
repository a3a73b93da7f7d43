"""From h to features of ever finer grids: what the decoder and the reader have in common.

The functions create their parameters in the Linen module that is running. The parts are named
after what they do and never after who asks, so that a reader can begin with a decoder's.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from inversion_jax.machine.errors import UserError
from inversion_jax.models import layers

# Where `squashed` turns from a straight line into a logarithm, in standard deviations.
SQUASH = 3.0


class Parts(NamedTuple):
  """The size and kind of an up-convolutional network.

  Attributes:
    num_filters: channels of every grid.
    num_blocks: on each grid.
    num_units: of the hidden dense layer for a vector.
    is_residual: blocks are residual, of two 3x3 convolutions each, and h is squashed; else a block
      is a 3x3 convolution, and h enters as it is.
    drop: dropout, within residual blocks and after the dense layer.
    taper: how many times fewer channels the finest grid has where doubling makes it.
  """

  num_filters: int
  num_blocks: int
  num_units: int
  is_residual: bool = False
  drop: Callable[[Array], Array] = lambda x: x
  taper: int = 1

  def tapered(self) -> "Parts":
    """What makes the finest grid out of the one before it."""
    return self._replace(num_filters=-(-self.num_filters // self.taper))


def squashed(z: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
  """Standardised units without their tails: invertible, and nearly z itself up to `SQUASH`.

  A unit that is silent but for a few images reaches 50 standard deviations and more there; those
  images alone would decide what the first layer becomes. No information is lost.
  """
  return SQUASH * jnp.arcsinh(z / SQUASH)


def halvings(size: tuple[int, int], num_scales: int) -> list[tuple[int, int]]:
  """(rows, columns) of grids, each half as fine as the one before it, rounded up."""
  sizes = [size]
  for _ in range(num_scales - 1):
    sizes.append(tuple(-(-length // 2) for length in sizes[-1]))
  return sizes


def check_num_scales(num_scales: int, num_halvings: int, size: Sequence[int]):
  """Raises UserError if an image of `size` (rows, columns, ...) would be halved as one pixel.

  Args:
    num_scales: the field that is named.
    num_halvings: what it means: how often an image is halved.
    size: of the image.
  """
  most = (max(size[:2]) - 1).bit_length()
  if num_halvings > most:
    raise UserError(
      f"num_scales={num_scales} halves images of {size[0]}x{size[1]} beyond one pixel; choose at "
      f"most {most + num_scales - num_halvings}."
    )


def features(
  z: Float[Array, "B *map Z"], sizes: Sequence[tuple[int, int]], parts: Parts
) -> list[Float[Array, "B _ _ F"]]:
  """Features of h on each grid, finest first, as far as h reaches: see `entry`.

  Args:
    z: a vector or a map for each image.
    sizes: rows and columns of the grids, see `halvings`.
    parts: the network.

  Returns:
    One array for each size from the finest to the one that h enters at.
  """
  scale, x = entry(squashed(z) if parts.is_residual else z, sizes, parts)
  grids = [_blocks(x, scale, parts)]
  while scale > 0:
    scale -= 1
    height, width = sizes[scale]
    here = parts if scale else parts.tapered()
    x = _doubled(grids[0], f"up{scale}", here)[:, :height, :width]
    grids.insert(0, _blocks(x, scale, here))
  return grids


def coarser_features(
  grids: list[Array], sizes: Sequence[tuple[int, int]], parts: Parts
) -> list[Float[Array, "B _ _ F"]]:
  """Adds the grids that are coarser than the one at which h has entered."""
  for scale in range(len(grids), len(sizes)):
    x = layers.elu(_conv(_halved(grids[-1]), parts.num_filters, f"down{scale}"))
    grids = [*grids, _blocks(x, scale, parts)]
  return grids


def entry(z, sizes, parts: Parts) -> tuple[int, Array]:
  """(scale, first grid) of h.

  A vector becomes the coarsest grid through two dense layers. A map enters at the coarsest grid
  that holds it, with zeros around it: for convolutions without padding this puts every cell where
  it was computed.
  """
  if z.ndim == 2:
    return len(sizes) - 1, _grid(z, sizes[-1], parts)
  if z.ndim != 4:
    raise UserError(
      f"A representation is a vector (B, Z) or a map (B, H, W, Z) per image, not of shape "
      f"{z.shape}; flatten or rearrange it."
    )
  scale, x = _placed(z, sizes)
  return scale, _conv(x, parts.num_filters, "entry") if parts.is_residual else x


def _grid(z_BZ, size, parts):
  x = parts.drop(layers.elu(_dense(z_BZ, parts.num_units, "dense")))
  x = layers.elu(_dense(x, size[0] * size[1] * parts.num_filters, "grid"))
  return x.reshape(len(x), *size, parts.num_filters)


def direct(
  z_BZ: Float[Array, "B Z"], size: tuple[int, int], num_features: int, parts: Parts
) -> Float[Array, "B H W F"]:
  """Straight lines from a vector to every cell of a grid, each cell with weights of its own.

  What a pixel is on average is often nearly a line in many units, as in a principal component or a
  dense layer; two dense layers and convolutions come to it late and inexactly. A vector of more
  units than the hidden layer goes through as many lines first, so that memory suffices.
  """
  x = squashed(z_BZ)
  if x.shape[1] > parts.num_units:
    x = _dense(x, parts.num_units, "direct_units")
  x = parts.drop(_dense(x, size[0] * size[1] * num_features, "direct"))
  return x.reshape(len(x), *size, num_features)


def _placed(z_BHWZ, sizes):
  """(scale, map on the grid of that scale); a map finer than the image is averaged down."""
  rows, columns = z_BHWZ.shape[1:3]
  fitting = [n for n, size in enumerate(sizes) if size[0] >= rows and size[1] >= columns]
  if not fitting:
    shape = (len(z_BHWZ), *sizes[0], z_BHWZ.shape[-1])
    return 0, jax.image.resize(z_BHWZ, shape, "linear")
  scale = fitting[-1]
  missing = sizes[scale][0] - rows, sizes[scale][1] - columns
  around = [(0, 0), *((lack // 2, lack - lack // 2) for lack in missing), (0, 0)]
  return scale, jnp.pad(z_BHWZ, around)


def _blocks(x_BHWF, scale, parts):
  for index in range(parts.num_blocks):
    name = f"scale{scale}_conv{index}"
    if parts.is_residual:
      y = parts.drop(layers.elu(_conv(layers.elu(x_BHWF), parts.num_filters, f"{name}a")))
      x_BHWF = x_BHWF + _conv(y, parts.num_filters, f"{name}b")
    else:
      x_BHWF = layers.elu(_conv(x_BHWF, parts.num_filters, name))
  return x_BHWF


def _doubled(x_BHWF, name, parts):
  """A transposed convolution, 6x6 of stride 2, as the convolution that makes each cell's four."""
  blocks = layers.elu(_conv(x_BHWF, 4 * parts.num_filters, name))
  batch, height, width, _ = blocks.shape
  blocks = blocks.reshape(batch, height, width, 2, 2, parts.num_filters)
  return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)


def _halved(x_BHWF):
  """Each cell's four as channels of one; rows and columns are rounded up with zeros."""
  batch, height, width, num_features = x_BHWF.shape
  x_BHWF = jnp.pad(x_BHWF, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
  rows, columns = -(-height // 2), -(-width // 2)
  blocks = x_BHWF.reshape(batch, rows, 2, columns, 2, num_features).transpose(0, 1, 3, 2, 4, 5)
  return blocks.reshape(batch, rows, columns, 4 * num_features)


def _conv(x_BHWF, num_features, name):
  return layers.Conv3x3(num_features, name=name)(x_BHWF)


def _dense(x_BF, num_features, name):
  return nn.Dense(num_features, dtype=x_BF.dtype, name=name)(x_BF)
