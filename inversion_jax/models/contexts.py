"""From a representation h to what conditions each resolution of the causal network."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from inversion_jax.machine.errors import UserError
from inversion_jax.models import layers, upward
from inversion_jax.models.pixelcnn import padded_sizes

DECODER = "decoder"
MODES = ("projection", "encoder", DECODER)
RESIZE_METHODS = ("nearest", "bilinear", "cubic")


class ContextEncoder(nn.Module):
  """Brings h to every resolution, as it is; `Reader` is the third mode.

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
    self, z: Float[Array, "B *map Z"], size: tuple[int, int], num_scales: int, train: bool = False
  ) -> tuple[Array, ...]:
    """Returns one context per resolution for images of `size` (rows, columns).

    They are vectors, or maps of the sizes that `padded_sizes` gives, finest first.
    """
    del train
    if self.mode not in MODES:
      raise UserError(f"context={self.mode!r} is not known; use one of {', '.join(MODES)}.")
    if z.ndim == 2:
      return (z,) * num_scales
    if z.ndim != 4:
      raise UserError(
        f"A representation is a vector (B, Z) or a map (B, H, W, Z) per image, not of shape "
        f"{z.shape}; flatten or rearrange it."
      )
    maps = self._encode(z) if self.mode == "encoder" else z
    sizes = padded_sizes(*size, num_scales)
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
      y = self._conv(layers.elu(x), f"block{index}_conv1")
      x = x + self._conv(layers.elu(y), f"block{index}_conv2")
    pooled_BF = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], axis=-1)
    return x + nn.Dense(self.num_filters, dtype=x.dtype, name="pooled")(pooled_BF)[:, None, None]

  def _conv(self, x_BHWF, name):
    return layers.Conv3x3(self.num_filters, name=name)(x_BHWF)


class Reader(nn.Module):
  """Mode "decoder": an up-convolutional network, whose features at each resolution are its context.

  h needs no causality, so every pixel may read all of it, and what it reads is already about its
  own place. A vector bias is the same at every pixel, and a resized map nearly so within a cell:
  there the causal network has to find out where it is before it can use h.

  Features of the place alone come before those of h, and p(x) has them too: else a model with an h
  that knows nothing would stay ahead of p(x) for as long as p(x) has to find out where a pixel is.

  Attributes:
    num_filters: channels of every grid.
    num_blocks: residual blocks on each grid.
    num_units: of the hidden dense layer for a vector.
    dropout_rate: within each block.
    taper: how many times fewer channels the finest grid has where doubling makes it.
    num_places: features of the place alone, which a reader of a constant makes.
    num_direct: features of each pixel that are straight lines in a vector, see `upward.direct`.
    is_even: whether a map has zeros in their place, so that inverters of maps and of vectors have
      one network, whose programs they share; what it computes is as without them.
    dtype: of what is computed without h.
  """

  num_filters: int = 48
  num_blocks: int = 1
  num_units: int = 512
  dropout_rate: float = 0.0
  num_places: int = 32
  num_direct: int = 16
  is_even: bool = False
  taper: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    z: Float[Array, "B *map Z"] | None,
    size: tuple[int, int],
    num_scales: int,
    train: bool = False,
  ) -> tuple[Array, ...] | None:
    """Returns the features at each resolution for images of `size` (rows, columns), finest first.

    Those of h have the grids of the image itself, as a decoder's are, with zeros after them up to
    `padded_sizes`. Without h there are those of the places, with a batch axis of 1, or None.
    """
    places = self._places(size, num_scales, train)
    if z is None:
      return places
    grids = self._of_h(z, size, num_scales, train)
    return grids if places is None else tuple(map(_joined, places, grids))

  def _places(self, size, num_scales, train):
    if self.num_places == 0:
      return None
    reader = Reader(
      self.num_places, self.num_blocks, self.num_places, self.dropout_rate, 0, 0, name="place"
    )
    return reader(jnp.ones((1, 1), self.dtype), size, num_scales, train)

  def _of_h(self, z, size, num_scales, train):
    parts = upward.Parts(
      self.num_filters,
      self.num_blocks,
      self.num_units,
      is_residual=True,
      drop=self._dropout(train),
      taper=self.taper,
    )
    sizes = upward.halvings(size, num_scales)
    grids = upward.coarser_features(upward.features(z, sizes, parts), sizes, parts)
    if z.ndim == 2 and self.num_direct:
      lines = upward.direct(z, size, self.num_direct, parts)
      grids = [jnp.concatenate([grids[0], lines], axis=-1), *grids[1:]]
    elif self.is_even:
      grids = [jnp.pad(grids[0], ((0, 0),) * 3 + ((0, self.num_direct),)), *grids[1:]]
    return tuple(map(_padded_to, grids, padded_sizes(*size, num_scales)))

  def _dropout(self, train):
    """The dropout of one pass, whose layers are told apart by the order in which they are met."""
    if not train or self.dropout_rate == 0.0:
      return lambda x: x
    seed, num_met = layers.dropout_seed(self.make_rng("dropout")), itertools.count()
    return lambda x: layers.dropout(seed, next(num_met), self.dropout_rate, x)


def _joined(place_1HWP, x_BHWF):
  place_BHWP = jnp.broadcast_to(place_1HWP, (*x_BHWF.shape[:-1], place_1HWP.shape[-1]))
  return jnp.concatenate([place_BHWP, x_BHWF], axis=-1)


def _padded_to(x_BHWF, size):
  missing = ((0, length - present) for length, present in zip(size, x_BHWF.shape[1:], strict=False))
  return jnp.pad(x_BHWF, ((0, 0), *missing, (0, 0)))
