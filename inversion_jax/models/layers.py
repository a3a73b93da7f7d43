"""Weight-normalised convolutions and the concatenated ELU, written for fast gradients."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, UInt32

Padding = Sequence[tuple[int, int]]
POINTWISE_PADDING = ((0, 0), (0, 0))
# Features that do not vary over the first batch cannot be scaled to unit variance.
MIN_INITIAL_STD = 1e-2


@jax.custom_vjp
def concat_elu(x_F: Float[Array, "*axes F"]) -> Float[Array, "*axes 2*F"]:
  """concat(elu(x), elu(-x)); the backward pass keeps x alone.

  Source: Salimans et al. (2017), implementation.
  """
  tail_F = jnp.expm1(-jnp.abs(x_F))
  is_positive_F = x_F > 0
  # `jnp.where` would be a program of its own in each, named by what was traced before.
  parts = lax.select(is_positive_F, x_F, tail_F), lax.select(is_positive_F, tail_F, -x_F)
  return jnp.concatenate(parts, axis=-1)


def _concat_elu_forward(x_F):
  return concat_elu(x_F), x_F


def _concat_elu_backward(x_F, grad_2F):
  slope_F = jnp.exp(-jnp.abs(x_F))
  is_positive_F = x_F > 0
  grad_elu_F, grad_elu_minus_F = jnp.split(grad_2F, 2, axis=-1)
  return (
    lax.select(
      is_positive_F,
      grad_elu_F - slope_F * grad_elu_minus_F,
      slope_F * grad_elu_F - grad_elu_minus_F,
    ),
  )


concat_elu.defvjp(_concat_elu_forward, _concat_elu_backward)


@jax.custom_vjp
def elu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
  """x above zero, exp(x) - 1 below; the backward pass keeps x alone."""
  return lax.select(x > 0, x, jnp.expm1(-jnp.abs(x)))


def _elu_forward(x):
  return elu(x), x


def _elu_backward(x, grad):
  return (lax.select(x > 0, grad, jnp.exp(-jnp.abs(x)) * grad),)


elu.defvjp(_elu_forward, _elu_backward)


@jax.custom_vjp
def add_bias(x_F: Float[Array, "*axes F"], bias_F: Float[Array, " F"]) -> Float[Array, "*axes F"]:
  """x + bias; the bias gradient is a matrix product, which XLA runs faster than a reduction."""
  return x_F + bias_F.astype(x_F.dtype)


def _add_bias_forward(x_F, bias_F):
  return add_bias(x_F, bias_F), bias_F


def _add_bias_backward(bias_F, grad_F):
  rows_NF = grad_F.reshape(-1, grad_F.shape[-1])
  ones_N = jnp.ones(len(rows_NF), grad_F.dtype)
  bias_grad_F = jnp.matmul(ones_N, rows_NF, preferred_element_type=jnp.float32)
  return grad_F, bias_grad_F.astype(bias_F.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


class Conv3x3(nn.Module):
  """`nn.Conv` of a 3x3 kernel, with the same parameters, whose bias is an `add_bias`."""

  features: int
  # Of the class, and no fields: nothing else has the name.
  kernel_size = (3, 3)
  padding = ((1, 1), (1, 1))

  @nn.compact
  def __call__(self, x_BHWF: Array) -> Array:
    """Returns the convolved features, in the type of the input."""
    shape = (*self.kernel_size, x_BHWF.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(x_BHWF.dtype)
    bias_F = self.param("bias", nn.initializers.zeros, (self.features,))
    return add_bias(convolve(x_BHWF, kernel, self.padding), bias_F)


def dropout_seed(key: Array) -> UInt32[Array, " 2"]:
  """What all `dropout` layers of one pass draw from."""
  return jax.random.bits(key, (2,), jnp.uint32)


def dropout(
  seed: UInt32[Array, " 2"], layer: int, rate: float, x: Float[Array, "*axes"]
) -> Float[Array, "*axes"]:
  """Zeroes each element with probability `rate` and rescales the rest.

  The bit of an element is a hash of (seed, layer, position): it does not depend on how the batch
  is split over devices, and it compiles fast. With a threefry key for each layer the training step
  of a small inverter took 27 s to compile on two cores, with this 11 s.
  """
  position = lax.iota(jnp.uint32, x.size).reshape(x.shape)
  bits = _mixed(_mixed(position ^ seed[0]) + seed[1] + jnp.uint32(layer * 0x9E3779B9 % 2**32))
  is_kept = bits >= jnp.uint32(round(rate * 2**32))
  return lax.select(is_kept, x * (1.0 / (1.0 - rate)), jnp.zeros_like(x))


def _mixed(bits):
  """A bijection of 32 bits in which each input bit flips half of the output bits.

  Source: C. Wellons (2018), "Prospecting for hash functions", lowbias32.
  """
  for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
    bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
  return bits ^ (bits >> 16)


def weight_norm_kernel(
  direction: Float[Array, "*kernel In Out"], scale_O: Float[Array, " Out"]
) -> Float[Array, "*kernel In Out"]:
  """scale * v / |v|, the norm taken over all axes but the output channel.

  Source: Salimans & Kingma (2016), equation 2.
  """
  axes = tuple(range(direction.ndim - 1))
  return direction * (scale_O * lax.rsqrt(jnp.square(direction).sum(axes)))


def convolve(x_BHWF: Array, kernel: Array, padding: Padding, strides=(1, 1)) -> Array:
  """A plain two-dimensional convolution in NHWC; 1x1 kernels are matrix products."""
  if kernel.shape[:2] == (1, 1) and strides == (1, 1):
    return x_BHWF @ kernel[0, 0]
  return lax.conv_general_dilated(
    x_BHWF, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def product_of_parts(parts: Sequence[Array], kernel: Float[Array, "1 1 I O"]) -> Array:
  """concat_elu(concat(a, b)) @ kernel, from parts = (concat_elu(a), concat_elu(b)).

  The parts are of one size. Nothing is concatenated, and others can read the same parts.
  """
  # Rows of the kernel: the positive halves of all parts, then the negative ones.
  rows = kernel.reshape(2, len(parts), -1, kernel.shape[-1])
  products = (part @ rows[:, index].reshape(part.shape[-1], -1) for index, part in enumerate(parts))
  return functools.reduce(operator.add, products)


def double_upper(x_BHWF: Array, kernel: Array) -> Array:
  """The 2x3 transposed convolution of stride 2, cropped as in the upper stream."""
  even, odd = split_double_upper(kernel)
  return _interleave(x_BHWF @ even, convolve(x_BHWF, odd[None], ((0, 0), (0, 1))))


def split_double_upper(kernel: Float[Array, "2 3 I O"]) -> tuple[Array, Array]:
  """The products that make even columns (I, 2 O) and odd columns (2, I, 2 O), both rows at once.

  Even columns see one column of the input, odd columns the two beside them.
  """
  even = jnp.concatenate([kernel[0, 1], kernel[1, 1]], axis=-1)
  odd = jnp.concatenate(
    [jnp.stack([kernel[0, 2], kernel[0, 0]]), jnp.stack([kernel[1, 2], kernel[1, 0]])], axis=-1
  )
  return even, odd


def double_lower(x_BHWF: Array, kernel: Array) -> Array:
  """The 2x2 transposed convolution of stride 2: each pixel makes its own four."""
  even, odd = split_double_lower(kernel)
  return _interleave(x_BHWF @ even, x_BHWF @ odd)


def split_double_lower(kernel: Float[Array, "2 2 I O"]) -> tuple[Array, Array]:
  """The products that make even columns and odd columns (I, 2 O), both rows at once."""
  even, odd = (
    jnp.concatenate([kernel[0, column], kernel[1, column]], axis=-1) for column in (0, 1)
  )
  return even, odd


def _interleave(even_BHW2F, odd_BHW2F):
  """Puts (even, odd columns) x (upper, lower row) features in their places, (B, 2H, 2W, F)."""
  batch, height, width, features = even_BHW2F.shape
  columns = jnp.stack([even_BHW2F, odd_BHW2F], axis=3)
  blocks = columns.reshape(batch, height, width, 2, 2, features // 2)
  return blocks.transpose(0, 1, 4, 2, 3, 5).reshape(batch, 2 * height, 2 * width, features // 2)


class WeightNormConv(nn.Module):
  """A weight-normalised convolution whose outputs start with mean 0 and spread `init_scale`.

  `init` must be called with a large batch, whose statistics set scale and bias.

  Source: Salimans & Kingma (2016), section 3.
  """

  features: int
  kernel_size: tuple[int, int] = (1, 1)
  padding: Padding = POINTWISE_PADDING
  strides: tuple[int, int] = (1, 1)
  init_scale: float = 1.0
  doubling: str = ""  # "upper" or "lower": the transposed convolution of that stream

  @nn.compact
  def __call__(self, *parts_BHWF: Array) -> Array:
    """Returns the convolved features, in the type of the input.

    Several inputs, each a concat-ELU, count as the concat-ELU of their concatenated arguments.
    """
    num_inputs = sum(part.shape[-1] for part in parts_BHWF)
    shape = (*self.kernel_size, num_inputs, self.features)
    direction = self.param("direction", nn.initializers.normal(0.05), shape)
    if self.is_initializing():
      return self._initialized(parts_BHWF, direction)
    scale_F = self.param("scale", nn.initializers.ones, (self.features,))
    bias_F = self.param("bias", nn.initializers.zeros, (self.features,))
    return add_bias(self._linear(parts_BHWF, weight_norm_kernel(direction, scale_F)), bias_F)

  def _initialized(self, parts_BHWF, direction):
    """Sets scale and bias from the unscaled outputs, and returns the scaled ones."""
    raw_BHWF = self._linear(parts_BHWF, weight_norm_kernel(direction, jnp.ones(self.features)))
    rows_NF = raw_BHWF.astype(jnp.float32).reshape(-1, self.features)
    mean_F = rows_NF.mean(0)
    # Not `jnp.std`, a program of its own, as above.
    std_F = jnp.sqrt(jnp.square(rows_NF - mean_F).mean(0))
    scale_F = self.init_scale / jnp.maximum(std_F, MIN_INITIAL_STD)
    bias_F = -mean_F * scale_F
    self.param("scale", lambda _: scale_F)
    self.param("bias", lambda _: bias_F)
    return (raw_BHWF * scale_F + bias_F).astype(raw_BHWF.dtype)

  def _linear(self, parts_BHWF, kernel):
    x_BHWF, *more = parts_BHWF
    kernel = kernel.astype(x_BHWF.dtype)
    if more:
      return product_of_parts(parts_BHWF, kernel)
    if self.doubling:
      return DOUBLINGS[self.doubling](x_BHWF, kernel)
    return convolve(x_BHWF, kernel, self.padding, self.strides)


DOUBLINGS = {"upper": double_upper, "lower": double_lower}
SPLITS = {"upper": split_double_upper, "lower": split_double_lower}
