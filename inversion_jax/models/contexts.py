"""From a representation h to what conditions each resolution of the causal network."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from inversion_jax.machine.errors import UserError

MODES = ("projection", "encoder")
RESIZE_METHODS = ("nearest", "bilinear", "cubic")


class ContextEncoder(nn.Module):
  """Brings h to every resolution.

  A vector goes everywhere as it is. A map is resized to each resolution:

  - mode "projection", the paper's way (appendix A): nothing else is done. A pixel then sees h only
    through causal convolutions, so it misses the cells of h that lie ahead of it.
  - mode "encoder": h needs no causality, so first a small ordinary network mixes each cell with its
    neighbours on all sides, and a pooled path tells every pixel about the whole map.

  Attributes:
    mode: "projection" or "encoder".
    resize_method: as in `jax.image.resize`; the paper does not name one.
    num_filters: channels of the encoder.
    num_blocks: residual blocks of the encoder.
  """

  mode: str = "projection"
  resize_method: str = "bilinear"
  num_filters: int = 64
  num_blocks: int = 2

  @nn.compact
  def __call__(
    self, z: Float[Array, "B *map Z"], sizes: Sequence[tuple[int, int]]
  ) -> tuple[Array, ...]:
    """Returns one context per entry of `sizes` (rows, columns): vectors, or maps of that size."""
    if self.mode not in MODES:
      raise UserError(f"context={self.mode!r} is not known; use one of {', '.join(MODES)}.")
    if z.ndim == 2:
      return (z,) * len(sizes)
    if z.ndim != 4:
      raise UserError(
        f"A representation is a vector (B, Z) or a map (B, H, W, Z) per image, not of shape "
        f"{z.shape}; flatten or rearrange it."
      )
    maps = self._encode(z) if self.mode == "encoder" else z
    resized = [self._resize(maps, size) for size in sizes]
    if self.mode == "encoder":
      # After the resize a 3x3 convolution lets the encoder learn where each cell really lies.
      resized = [self._conv(maps, f"align{scale}") for scale, maps in enumerate(resized)]
    return tuple(resized)

  def _resize(self, maps_BHWZ, size):
    shape = (maps_BHWZ.shape[0], *size, maps_BHWZ.shape[-1])
    # It antialiases where a resolution is coarser than the map, so that no cell is skipped.
    return jax.image.resize(maps_BHWZ, shape, self.resize_method)

  def _encode(self, z_BHWZ):
    x = self._conv(z_BHWZ, "entry")
    for index in range(self.num_blocks):
      y = self._conv(nn.elu(x), f"block{index}_conv1")
      x = x + self._conv(nn.elu(y), f"block{index}_conv2")
    pooled_BF = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], axis=-1)
    return x + nn.Dense(self.num_filters, dtype=x.dtype, name="pooled")(pooled_BF)[:, None, None]

  def _conv(self, x_BHWF, name):
    conv = nn.Conv(self.num_filters, (3, 3), padding="SAME", dtype=x_BHWF.dtype, name=name)
    return conv(x_BHWF)
