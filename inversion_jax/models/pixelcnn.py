"""The causal network of PixelCNN++, conditioned on a vector or on a map.

Two streams run over the image: the upper one sees all rows above a pixel, the lower one also the
pixels to its left. Each is a U-net of gated residual blocks over three resolutions. The blocks and
the U-net are written once, as functions of `ops`: what a convolution, a bias or a change of
resolution *is* depends on whether whole images, rows or single pixels are being computed.

Source: Salimans et al. (2017), section 2; Nash et al. (2019), appendix A.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from inversion_jax.machine.errors import UserError
from inversion_jax.models import layers
from inversion_jax.models.layers import WeightNormConv, concat_elu

STREAMS = ("upper", "lower")
# Initial spread of the last convolution of a block: blocks start close to the identity.
BLOCK_INIT_SCALE = 0.1
BLOCK_OUTPUT = "block_output"


class Geometry(NamedTuple):
  """The shape of a causal convolution: what it pads, so that it sees the past alone."""

  kernel_size: tuple[int, int]
  padding: layers.Padding


BLOCK_GEOMETRY = {
  "upper": Geometry((2, 3), ((1, 0), (1, 1))),
  "lower": Geometry((2, 2), ((1, 0), (1, 0))),
}
# The entries shift their output after the convolution, which makes them blind to the pixel itself.
ENTRY_ABOVE = Geometry((2, 3), ((1, 0), (1, 1)))
ENTRY_ABOVE_ROW = Geometry((1, 3), ((0, 0), (1, 1)))
ENTRY_LEFT = Geometry((2, 1), ((1, 0), (0, 0)))


@runtime_checkable
class Ops(Protocol):
  """What a block needs; `name` identifies the parameters, `scale` the resolution (0 the finest)."""

  def activate(self, x: Array) -> Array:
    """The concat-ELU of x."""
    return concat_elu(x)

  def conv(self, name: str, x: Array, features: int, init_scale: float = 1.0) -> Array:
    """The stream's causal convolution."""

  def skip(self, name: str, sources: tuple[Array, ...], features: int) -> Array:
    """A 1x1 convolution of the concat-ELU of feature maps that skip layers."""

  def context(self, name: str, scale: int, features: int) -> Array | float:
    """The bias that h gives to the block `name`."""

  def dropout(self, x: Array) -> Array:
    """The block's dropout."""

  def coarser(self, scale: int, x: Array, inner: Callable[[Array], Array]) -> Array:
    """Halves x, applies `inner` at the next resolution, and doubles."""


# How the names of the projections of h end; the one into the head.
CONTEXT = "_context"
HEAD_CONTEXT = f"head{CONTEXT}"
# Initial spread of the kernels of the projections.
CONTEXT_SPREAD = 0.05


def gated_block(ops: Ops, name: str, scale: int, x: Array, sources: tuple[Array, ...]) -> Array:
  """x + a * sigmoid(b), where (a, b) come from two convolutions, the skip `sources` and h."""
  features = x.shape[-1]
  y = ops.conv(f"{name}_conv1", ops.activate(x), features)
  if sources:
    y = y + ops.skip(f"{name}_skip", sources, features)
  y = ops.dropout(concat_elu(y))
  y = ops.conv(f"{name}_conv2", y, 2 * features, BLOCK_INIT_SCALE)
  value, gate = jnp.split(y + ops.context(f"{name}{CONTEXT}", scale, 2 * features), 2, axis=-1)
  return checkpoint_name(x + value * jax.nn.sigmoid(gate), BLOCK_OUTPUT)


def unet(block: Callable, coarser: Callable, x: Array, depth: tuple[int, int], scale=0) -> Array:
  """Runs one stream from its entry to its last feature map.

  Args:
    block: `block(name, scale, x, skips)`; `skips` is empty on the way down, then one map.
    coarser: `coarser(scale, x, inner)`, see `Ops`.
    x: the features of the stream at this scale.
    depth: number of blocks per scale, number of scales.
    scale: the resolution, 0 the finest.

  On the way up there is one block for each feature map of the way down, the strided (or entry) one
  included; at the coarsest scale the last map is the input itself, so there is one less.
  """
  num_blocks, num_scales = depth
  skips = [x]
  for index in range(num_blocks):
    x = block(f"down{scale}_{index}", scale, x, ())
    skips.append(x)
  if scale == num_scales - 1:
    skips.pop()
  else:
    x = coarser(scale, x, lambda y: unet(block, coarser, y, depth, scale + 1))
  for index in range(len(skips)):
    x = block(f"up{scale}_{index}", scale, x, (skips.pop(),))
  return x


def upper_stream(ops: Ops, entry: Array, depth: tuple[int, int]) -> dict[str, Array]:
  """The features after each block of the upper stream, by block."""
  features = {}

  def block(name, scale, x, skips):
    features[name] = gated_block(ops, f"upper_{name}", scale, x, skips)
    return features[name]

  unet(block, ops.coarser, entry, depth)
  return features


def lower_stream(
  ops: Ops, entry: Array, above: Mapping[str, Array], depth: tuple[int, int]
) -> Array:
  """The last features of the lower stream, each block of which reads the same one `above`."""

  def block(name, scale, x, skips):
    return gated_block(ops, f"lower_{name}", scale, x, (above[name], *skips))

  return unet(block, ops.coarser, entry, depth)


def shift_down(x_BHWF: Array) -> Array:
  """Moves each row one down; the first becomes zero."""
  return jnp.pad(x_BHWF, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]


def shift_right(x_BHWF: Array) -> Array:
  """Moves each column one to the right; the first becomes zero."""
  return jnp.pad(x_BHWF, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]


def with_ones(unit_C: Float[Array, "*axes C"]) -> Float[Array, "*axes C+1"]:
  """Appends a channel of ones, so that padding (zeros) differs from mid-grey (also zero)."""
  ones = jnp.ones((*unit_C.shape[:-1], 1), unit_C.dtype)
  return jnp.concatenate([unit_C, ones], axis=-1)


class WholeImage(Ops):
  """`Ops` over whole images, creating its parameters in the Linen module that is running."""

  def __init__(self, stream, contexts, network, dropout_seed, activated):
    self.stream, self.contexts, self.network = stream, contexts, network
    self.dropout_seed, self.num_dropouts = dropout_seed, 0
    self.activated = activated

  def activate(self, x):
    """The concat-ELU of x, once for all who read it: the next block, the skips of both streams.

    The backward pass then adds their gradients before it goes through the concat-ELU. With skips
    that concatenate nothing, this took 9% of the processor time off a training step on a CPU.
    """
    if id(x) not in self.activated:
      self.activated[id(x)] = (x, concat_elu(x))  # With x, so that its id is not given away.
    return self.activated[id(x)][1]

  def conv(self, name, x, features, init_scale=1.0, strides=(1, 1)):
    """The stream's causal convolution."""
    return WeightNormConv(
      features, *BLOCK_GEOMETRY[self.stream], strides, init_scale=init_scale, name=name
    )(x)

  def skip(self, name, sources, features):
    """A 1x1 convolution."""
    return WeightNormConv(features, name=name)(*map(self.activate, sources))

  def context(self, name, scale, features):
    """The projection of h, zero without h."""
    if self.contexts is None:
      return 0.0
    context = self.contexts[scale]
    # h enters without weight normalisation and outside the data-dependent initialisation.
    project = nn.Dense(
      features,
      use_bias=False,
      kernel_init=nn.initializers.normal(self.network.context_spread),
      dtype=context.dtype,
      name=name,
    )
    bias = self._drop(project(context), self.network.context_dropout_rate)
    return bias[:, None, None] if bias.ndim == 2 else bias

  def dropout(self, x):
    """Off unless the pass has a seed."""
    return self._drop(x, self.network.dropout_rate)

  def _drop(self, x, rate):
    if self.dropout_seed is None or rate == 0.0:
      return x
    # Both streams share the seed, so their layers are told apart by parity.
    self.num_dropouts += 1
    layer = 2 * self.num_dropouts + STREAMS.index(self.stream)
    return layers.dropout(self.dropout_seed, layer, rate, x)

  def coarser(self, scale, x, inner):
    """A strided convolution, `inner`, and the transposed convolution back."""
    features, kernel_size = x.shape[-1], BLOCK_GEOMETRY[self.stream].kernel_size
    x = inner(self.conv(f"{self.stream}_halve{scale}", x, features, strides=(2, 2)))
    double = WeightNormConv(
      features, kernel_size, doubling=self.stream, name=f"{self.stream}_double{scale}"
    )
    return double(x)


class PixelCNN(nn.Module):
  """The network: a head for every pixel, which depends on the pixels before it and on h.

  Attributes:
    num_features: outputs per pixel, F of the likelihood.
    num_filters: channels of every feature map.
    num_blocks: residual blocks per resolution and direction (paper: 3; original: 5).
    num_scales: resolutions; image sizes are padded to a multiple of 2 ** (num_scales - 1).
    dropout_rate: dropout inside each block.
    context_dropout_rate: dropout on the projections of h.
    context_spread: initial spread of the kernels of these projections; with 0 the network begins
      exactly as without h.
    linear_features: (first, one after the last) of the outputs to which the finest context also
      adds directly, through a product that begins at zero; None is no such path.
  """

  num_features: int
  num_filters: int = 64
  num_blocks: int = 3
  num_scales: int = 3
  dropout_rate: float = 0.5
  context_dropout_rate: float = 0.0
  context_spread: float = CONTEXT_SPREAD
  linear_features: tuple[int, int] | None = None

  @property
  def depth(self) -> tuple[int, int]:
    """Blocks per scale, scales."""
    return self.num_blocks, self.num_scales

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
      contexts: for each resolution, finest first, h as vectors (B, Z) or as maps (B, h, w, Z) of
        that resolution's size (see `padded_sizes`); None for the unconditional model.
      train: whether dropout is on; it draws from the rng stream "dropout".
    """
    height, width = unit_BHWC.shape[1:3]
    (padded_height, padded_width), *_ = padded_sizes(height, width, self.num_scales)
    padding = ((0, 0), (0, padded_height - height), (0, padded_width - width), (0, 0))
    x = jnp.pad(with_ones(unit_BHWC), padding)

    def conv(name, geometry):
      return WeightNormConv(self.num_filters, *geometry, name=name)(x)

    seed = layers.dropout_seed(self.make_rng("dropout")) if train else None
    activated = {}
    upper, lower = (WholeImage(stream, contexts, self, seed, activated) for stream in STREAMS)
    upper_entry = shift_down(conv("upper_entry", ENTRY_ABOVE))
    above = upper_stream(upper, upper_entry, self.depth)
    lower_entry = shift_down(conv("lower_entry_above", ENTRY_ABOVE_ROW))
    lower_entry += shift_right(conv("lower_entry_left", ENTRY_LEFT))
    last = lower_stream(lower, lower_entry, above, self.depth)
    head = WeightNormConv(self.num_features, name="head")(layers.elu(last))
    if contexts is not None and self.linear_features:
      head = self._with_linear_path(head, contexts[0])
    return head[:, :height, :width].astype(jnp.float32)

  def _with_linear_path(self, head_BHWF, finest_BHWZ):
    first, end = self.linear_features
    project = nn.Dense(
      end - first,
      use_bias=False,
      kernel_init=nn.initializers.zeros,
      dtype=finest_BHWZ.dtype,
      name=HEAD_CONTEXT,
    )
    return head_BHWF.at[..., first:end].add(project(finest_BHWZ))


def padded_sizes(height: int, width: int, num_scales: int) -> list[tuple[int, int]]:
  """(rows, columns) of the feature maps at each resolution, finest first."""
  coarsest = 2 ** (num_scales - 1)
  blocks_high, blocks_wide = -(-height // coarsest), -(-width // coarsest)
  factors = [coarsest >> scale for scale in range(num_scales)]
  return [(blocks_high * factor, blocks_wide * factor) for factor in factors]


def _is_product(primitive, *_, **__):
  return primitive.name in ("conv_general_dilated", "dot_general")


# What the backward pass finds in memory; the rest it computes again.
REMATS: dict[str, Callable | None] = {
  "": None,  # all of it
  "elementwise": _is_product,  # products: only what is cheap is done twice
  "blocks": jax.checkpoint_policies.save_only_these_names(BLOCK_OUTPUT),
}


def rematerialising(network: type[nn.Module], remat: str) -> type[nn.Module]:
  """A class of causal network, computing the same, with less memory for its gradient.

  Args:
    network: `PixelCNN`, or one that is called alike.
    remat: "" keeps all intermediate results for the backward pass, "elementwise" only those of
      convolutions, "blocks" only the features after each block, so that the forward pass is done
      twice. XLA:CPU does the work twice without saving memory, as it computes again too early; use
      microbatches there.
  """
  if remat not in REMATS:
    raise UserError(f"remat={remat!r} is not known; use one of {', '.join(map(repr, REMATS))}.")
  if not remat:
    return network
  return nn.remat(network, policy=REMATS[remat], static_argnums=(3,))
