"""h -> the one image with the least expected squared error: blurred where h is vague."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Integer, UInt8

from inversion_jax.models import upward

# The unit of `squared_error`, as it ends the names of metrics.
MSE = "mse_per_sub_pixel"
# Slope of the output outside black to white: on digits better than none (1) and than a sigmoid.
LEAK = 0.1


class Decoder(nn.Module):
  """An up-convolutional network from a representation to an image.

  The grid starts at the image's size halved `num_scales - 1` times, and each up-convolution doubles
  it; `upward.entry` says where h enters.

  Attributes:
    num_colours: C of the images.
    num_filters: channels of every grid.
    num_blocks: 3x3 convolutions on each grid.
    num_scales: grids; each is half as fine as the one after it.
    num_units: of the hidden dense layer for a vector.
    residual: built of the parts of the reader of "decoder" contexts, which can then begin with
      them: a block is residual, of two convolutions.
    taper: how many times fewer channels the image's own grid has where doubling makes it.

  Source: Dosovitskiy & Brox (2016b), section 3; Nash et al. (2019), equation 3.
  """

  num_colours: int
  num_filters: int = 64
  num_blocks: int = 1
  num_scales: int = 3
  num_units: int = 512
  residual: bool = False
  taper: int = 1

  @nn.compact
  def __call__(
    self, z: Float[Array | np.ndarray, "B *map Z"], size: tuple[int, int]
  ) -> Float[Array, "B H W C"]:
    """Returns images of `size` (rows, columns), 0 black to 1 white, and little beyond them."""
    parts = upward.Parts(
      self.num_filters, self.num_blocks, self.num_units, self.residual, taper=self.taper
    )
    x, *_ = upward.features(jnp.asarray(z), upward.halvings(size, self.num_scales), parts)
    x = nn.Conv(self.num_colours, (3, 3), name="image")(x)
    # Nearly within black and white, which most pixels of sparse images are. A sigmoid saturated
    # there, and no gradient brought it back.
    inside = jnp.clip(x, 0.0, 1.0)
    return inside + LEAK * (x - inside)


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
