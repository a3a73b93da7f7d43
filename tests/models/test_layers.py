import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from inversion_jax.models import layers


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def test_the_gradient_of_concat_elu_is_that_of_its_definition():
  def plain(x):
    return jnp.concatenate([nn.elu(x), nn.elu(-x)], axis=-1)

  x, weights = 3.0 * normal(0, 5, 7), normal(1, 5, 14)
  np.testing.assert_allclose(layers.concat_elu(x), plain(x), rtol=1e-6)
  fast = jax.grad(lambda x: (weights * layers.concat_elu(x)).sum())(x)
  slow = jax.grad(lambda x: (weights * plain(x)).sum())(x)
  np.testing.assert_allclose(fast, slow, rtol=1e-5)


def test_the_gradient_of_elu_is_that_of_its_definition():
  x, weights = jnp.append(3.0 * normal(0, 34), 0.0), normal(1, 35)
  np.testing.assert_allclose(layers.elu(x), nn.elu(x), rtol=1e-6)
  fast, slow = (
    jax.grad(lambda x, of=of: (weights * of(x)).sum())(x) for of in (layers.elu, nn.elu)
  )
  np.testing.assert_allclose(fast, slow, rtol=1e-5)


def test_a_convolution_is_that_of_flax_with_its_parameters_and_gradient():
  x, weights = normal(0, 2, 5, 4, 3), normal(1, 2, 5, 4, 6)
  ours, theirs = layers.Conv3x3(6), nn.Conv(6, (3, 3))
  params = theirs.init(jax.random.key(2), x)
  chex.assert_trees_all_equal(ours.init(jax.random.key(2), x), params)
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)
  fast, slow = (
    jax.value_and_grad(lambda *args, of=of: (weights * of.apply(*args)).sum(), (0, 1))(params, x)
    for of in (ours, theirs)
  )
  chex.assert_trees_all_close(fast, slow, rtol=1e-4)


def test_the_gradient_of_a_bias_is_the_sum_over_positions():
  x, bias, weights = normal(0, 2, 3, 4, 5), normal(1, 5), normal(2, 2, 3, 4, 5)
  grads = jax.grad(lambda *args: (weights * layers.add_bias(*args)).sum(), (0, 1))(x, bias)
  np.testing.assert_allclose(grads[0], weights)
  np.testing.assert_allclose(grads[1], weights.sum((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_zeroes_the_asked_fraction_and_keeps_the_mean(rate):
  seed = layers.dropout_seed(jax.random.key(0))
  kept = layers.dropout(seed, 1, rate, jnp.ones((64, 64, 64)))
  spread = np.sqrt(rate * (1 - rate) / kept.size)
  assert float((kept == 0).mean()) == pytest.approx(rate, abs=4 * spread)
  assert float(kept.mean()) == pytest.approx(1.0, abs=4 * spread / (1 - rate))


def test_dropout_masks_are_independent_between_elements_layers_and_steps():
  def mask(key, layer):
    seed = layers.dropout_seed(jax.random.key(key))
    return np.asarray(layers.dropout(seed, layer, 0.5, jnp.ones((128, 1024)))) - 1.0

  first = mask(0, 1)
  others = [mask(0, 2), mask(1, 1), np.roll(first, 1, 0), np.roll(first, 1, 1)]
  others += [np.roll(first, shift, 1) for shift in (2, 16, 256)]
  for other in others:
    # Correlation of 131,072 pairs: spread 0.0028 if independent.
    assert abs((first * other).mean()) < 4 * 0.0028
  np.testing.assert_array_equal(first, mask(0, 1))


def transposed(x_HWI, kernel, columns_before):
  """A strided transposed convolution by its definition: every input adds its kernel."""
  height, width = x_HWI.shape[:2]
  canvas = np.zeros((2 * height + 2, 2 * width + 2, kernel.shape[-1]))
  for row, column in np.ndindex(height, width):
    for i, j in np.ndindex(kernel.shape[:2]):
      canvas[2 * row + i, 2 * column + j] += x_HWI[row, column] @ kernel[i, j]
  return canvas[: 2 * height, columns_before : columns_before + 2 * width]


@pytest.mark.parametrize(
  ("double", "width", "columns_before"),
  [(layers.double_upper, 3, 1), (layers.double_lower, 2, 0)],
)
def test_doubling_is_the_strided_transpose(double, width, columns_before):
  x, kernel = normal(0, 1, 3, 4, 5), normal(1, 2, width, 5, 6)
  expected = transposed(np.asarray(x[0]), np.asarray(kernel), columns_before)
  np.testing.assert_allclose(double(x, kernel)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_1x1_convolution_is_the_matrix_product():
  x, kernel = normal(0, 2, 3, 4, 5), normal(1, 1, 1, 5, 6)
  product = layers.convolve(x, kernel, layers.POINTWISE_PADDING)
  convolution = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), layers.POINTWISE_PADDING, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  np.testing.assert_allclose(product, convolution, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init_scale", [1.0, 0.1])
@pytest.mark.parametrize("doubling", ["", "upper", "lower"])
def test_the_first_batch_starts_with_mean_zero_and_the_asked_spread(init_scale, doubling):
  kernel_size = (2, 2) if doubling == "lower" else (2, 3)
  padding = ((1, 0), (1, 1))
  conv = layers.WeightNormConv(6, kernel_size, padding, init_scale=init_scale, doubling=doubling)
  x = 5.0 + 3.0 * normal(0, 16, 8, 8, 4)
  initialised, variables = conv.init_with_output(jax.random.key(1), x)
  out = conv.apply(variables, x)
  np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-4)
  np.testing.assert_allclose(out.std((0, 1, 2)), init_scale, rtol=1e-3)
  np.testing.assert_allclose(initialised, out, rtol=1e-3, atol=1e-4)


def test_features_that_do_not_vary_start_finite_and_small():
  conv = layers.WeightNormConv(3)
  out, variables = conv.init_with_output(jax.random.key(0), jnp.full((4, 2, 2, 5), 2.0))
  assert jnp.isfinite(out).all()
  assert variables["params"]["scale"].max() <= 1.0 / layers.MIN_INITIAL_STD


def test_kernels_have_the_norm_of_their_scale_per_output_channel():
  scale = jnp.array([0.5, 2.0, 3.0])
  kernel = layers.weight_norm_kernel(normal(0, 2, 3, 4, 3), scale)
  np.testing.assert_allclose(jnp.sqrt(jnp.square(kernel).sum((0, 1, 2))), scale, rtol=1e-5)
