"""The gated conditional PixelCNN: the causal network before PixelCNN++, at one resolution.

A vertical stack sees all rows above a pixel, a horizontal one also the pixels to its left. Each
layer is a gate, tanh(a) * sigmoid(b), which h shifts: a vector by the same amount at every pixel,
equation 4 of the source, a map by its own at each, equation 5. What brings h to a map of the
image's size, s = m(h) there, is a reader of `contexts`: as it is, resized, or by an
up-convolutional network. Convolutions are weight-normalised as those of `pixelcnn`, so that both
networks begin alike.

Source: van den Oord et al. (2016b), "Conditional image generation with PixelCNN decoders", section
2 and figure 2.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from inversion_jax.models import layers
from inversion_jax.models.layers import WeightNormConv
from inversion_jax.models.pixelcnn import (
  BLOCK_GEOMETRY,
  BLOCK_INIT_SCALE,
  BLOCK_OUTPUT,
  CONTEXT,
  CONTEXT_SPREAD,
  Geometry,
  shift_down,
  shift_right,
  with_ones,
)

# 7x7 cut to the rows above and to the pixels on the left; both are shifted once more.
ENTRY_ABOVE = Geometry((3, 7), ((2, 0), (3, 3)))
ENTRY_LEFT = Geometry((1, 3), ((0, 0), (2, 0)))
# 3x3 cut to the past, among features that do not see their own pixel.
VERTICAL = BLOCK_GEOMETRY["upper"]
HORIZONTAL = Geometry((1, 2), ((0, 0), (1, 0)))


class GatedPixelCNN(nn.Module):
  """The network: a head for every pixel, which depends on the pixels before it and on h.

  Attributes:
    num_features: outputs per pixel, F of the likelihood.
    num_filters: channels of both stacks.
    num_blocks: layers.
    dropout_rate: dropout on the horizontal stack's gates, which the source does without.
    context_dropout_rate: dropout on the projections of h.
    context_spread: initial spread of the kernels of these projections.
  """

  num_features: int
  num_filters: int = 64
  num_blocks: int = 15
  dropout_rate: float = 0.5
  context_dropout_rate: float = 0.0
  context_spread: float = CONTEXT_SPREAD

  @nn.compact
  def __call__(
    self,
    unit_BHWC: Float[Array, "B H W C"],
    contexts: tuple[Array, ...] | None = None,
    train: bool = False,
  ) -> Float[Array, "B H W F"]:
    """Computes the head of every pixel, float32.

    Args:
      unit_BHWC: pixels from -1 to 1, in the type that the network computes in.
      contexts: of the one resolution, h as vectors (B, Z) or as maps (B, H, W, Z); None for the
        unconditional model.
      train: whether dropout is on; it draws from the rng stream "dropout".
    """
    drop = self._dropout(train)
    x = with_ones(unit_BHWC)
    above = shift_down(self._conv("vertical_entry", x, self.num_filters, ENTRY_ABOVE))
    left = shift_right(self._conv("horizontal_entry", x, self.num_filters, ENTRY_LEFT))
    for index in range(self.num_blocks):
      vertical, horizontal = f"vertical{index}", f"horizontal{index}"
      above_2F = self._conv(vertical, above, 2 * self.num_filters, VERTICAL)
      left_2F = self._conv(horizontal, left, 2 * self.num_filters, HORIZONTAL)
      left_2F += self._conv(f"across{index}", above_2F, 2 * self.num_filters)
      if index < self.num_blocks - 1:
        above = gate(above_2F + self._context(vertical, contexts, drop))
      y = drop(gate(left_2F + self._context(horizontal, contexts, drop)), self.dropout_rate)
      left = left + self._conv(f"residual{index}", y, self.num_filters, init_scale=BLOCK_INIT_SCALE)
      left = checkpoint_name(left, BLOCK_OUTPUT)
    x = nn.relu(self._conv("last", nn.relu(left), self.num_filters))
    return self._conv("head", x, self.num_features).astype(jnp.float32)

  def _conv(self, name, x, features, geometry=None, init_scale=1.0):
    return WeightNormConv(features, *(geometry or ()), init_scale=init_scale, name=name)(x)

  def _context(self, name, contexts, drop):
    """The shift that h gives to a gate, zero without h."""
    if contexts is None:
      return 0.0
    (context,) = contexts
    project = nn.Dense(
      2 * self.num_filters,
      use_bias=False,
      kernel_init=nn.initializers.normal(self.context_spread),
      dtype=context.dtype,
      name=f"{name}{CONTEXT}",
    )
    shift = drop(project(context), self.context_dropout_rate)
    return shift[:, None, None] if shift.ndim == 2 else shift

  def _dropout(self, train):
    """`drop(x, rate)`: off unless in training; layers are told apart by the order they are met."""
    if not train:
      return lambda x, rate: x
    seed, num_met = layers.dropout_seed(self.make_rng("dropout")), itertools.count()
    return lambda x, rate: x if rate == 0.0 else layers.dropout(seed, next(num_met), rate, x)


def gate(x_2F: Float[Array, "*axes G"]) -> Float[Array, "*axes F"]:
  """tanh(a) * sigmoid(b), where x is a and b: equations 2, 4 and 5 of the source."""
  value, openness = jnp.split(x_2F, 2, axis=-1)
  return jnp.tanh(value) * jax.nn.sigmoid(openness)
