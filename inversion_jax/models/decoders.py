"""h -> the one image with the least expected squared error: blurred where h is vague."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Integer, UInt8

from inversion_jax.machine.errors import UserError

# The unit of `squared_error`, as it ends the names of metrics.
MSE = "mse_per_sub_pixel"
# Slope of the output outside black to white: on digits better than none (1) and than a sigmoid.
LEAK = 0.1


class Decoder(nn.Module):
  """An up-convolutional network from a representation to an image.

  The grid starts at the image's size halved `num_scales - 1` times, and each up-convolution doubles
  it. A vector becomes the first grid through two dense layers. A map enters at the coarsest grid
  that holds it, with zeros around it: for convolutions without padding this puts every cell where
  it was computed.

  Attributes:
    num_colours: C of the images.
    num_filters: channels of every grid.
    num_blocks: 3x3 convolutions on each grid.
    num_scales: grids; each is half as fine as the one after it.
    num_units: of the hidden dense layer for a vector.

  Source: Dosovitskiy & Brox (2016b), section 3; Nash et al. (2019), equation 3.
  """

  num_colours: int
  num_filters: int = 64
  num_blocks: int = 1
  num_scales: int = 3
  num_units: int = 512

  @nn.compact
  def __call__(
    self, z: Float[Array | np.ndarray, "B *map Z"], size: tuple[int, int]
  ) -> Float[Array, "B H W C"]:
    """Returns images of `size` (rows, columns), 0 black to 1 white, and little beyond them."""
    sizes = [size]
    for _ in range(self.num_scales - 1):
      sizes.append(tuple(-(-length // 2) for length in sizes[-1]))
    if z.ndim == 2:
      scale, x = self.num_scales - 1, self._grid(z, sizes[-1])
    elif z.ndim == 4:
      scale, x = _placed(z, sizes)
    else:
      raise UserError(
        f"A representation is a vector (B, Z) or a map (B, H, W, Z) per image, not of shape "
        f"{z.shape}; flatten or rearrange it."
      )
    for index in range(self.num_blocks):
      x = self._conv(x, self.num_filters, f"scale{scale}_conv{index}")
    while scale > 0:
      scale -= 1
      x = self._doubled(x, f"up{scale}")[:, : sizes[scale][0], : sizes[scale][1]]
      for index in range(self.num_blocks):
        x = self._conv(x, self.num_filters, f"scale{scale}_conv{index}")
    x = nn.Conv(self.num_colours, (3, 3), name="image")(x)
    # Nearly within black and white, which most pixels of sparse images are. A sigmoid saturated
    # there, and no gradient brought it back.
    inside = jnp.clip(x, 0.0, 1.0)
    return inside + LEAK * (x - inside)

  def _grid(self, z_BZ, size):
    x = nn.elu(nn.Dense(self.num_units, name="dense")(z_BZ))
    x = nn.elu(nn.Dense(size[0] * size[1] * self.num_filters, name="grid")(x))
    return x.reshape(len(x), *size, self.num_filters)

  def _conv(self, x_BHWF, features, name):
    return nn.elu(nn.Conv(features, (3, 3), name=name)(x_BHWF))

  def _doubled(self, x_BHWF, name):
    """A transposed convolution, 6x6 of stride 2, as the convolution that makes each cell's four."""
    blocks = self._conv(x_BHWF, 4 * self.num_filters, name)
    batch, height, width, _ = blocks.shape
    blocks = blocks.reshape(batch, height, width, 2, 2, self.num_filters)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)


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


def squared_error(
  images_BHWC: Float[Array, "B H W C"],
  levels_BHWC: Integer[Array | np.ndarray, "B H W C"],
  num_levels: int,
) -> Float[Array, " B"]:
  """The squared error of each image, a mean over sub-pixels, each from 0 black to 1 white.

  Source: Nash et al. (2019), equation 3, which sums over them.
  """
  true_BHWC = levels_BHWC.astype(jnp.float32) / (num_levels - 1)
  return jnp.square(images_BHWC - true_BHWC).mean((1, 2, 3))


def to_levels(images_BHWC: Float[Array, "B H W C"], num_levels: int) -> UInt8[Array, "B H W C"]:
  """The nearest levels 0..num_levels - 1 of images from 0 black to 1 white."""
  return jnp.rint(jnp.clip(images_BHWC, 0.0, 1.0) * (num_levels - 1)).astype(jnp.uint8)
