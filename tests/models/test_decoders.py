import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_examples import compiled

from inversion_jax.fitting import training
from inversion_jax.fitting.steps import Step
from inversion_jax.machine import compilation
from inversion_jax.machine.errors import UserError
from inversion_jax.models import decoders
from inversion_jax.models.decoders import Decoder

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ("size", "z_shape", "num_colours"),
  [
    ((28, 28), (256,), 1),
    ((28, 28), (4, 4, 32), 1),
    ((40, 40), (18, 18, 32), 1),
    ((32, 32), (5, 5, 128), 3),
    ((8, 8), (8, 8, 16), 1),
    ((9, 14), (3, 5, 2), 1),
    ((6, 6), (12, 12, 2), 1),
  ],
)
def test_every_h_becomes_images_of_any_size(size, z_shape, num_colours):
  z = np.random.default_rng(0).normal(size=(2, *z_shape)).astype(np.float32)
  decoder = Decoder(num_colours, num_filters=4, num_units=8)
  images = jax.eval_shape(lambda: decoder.init_with_output(KEY, z, size)[0])
  assert images.shape == (2, *size, num_colours)


def test_a_volume_is_not_a_representation():
  with pytest.raises(UserError, match=r"not of shape \(1, 2, 3\)"):
    Decoder(1).init(KEY, np.zeros((1, 2, 3), np.float32), (8, 8))


def test_a_cell_is_decoded_where_it_was_computed():
  # Cell i of a 5x5 convolution without padding and a 2x2 pooling is centred on pixel 2 i + 2.5.
  z = np.random.default_rng(0).normal(size=(1, 12, 12, 2)).astype(np.float32)
  other = z.copy()
  other[0, 3, 7] += 1.0
  decoder = Decoder(1, num_filters=4, num_scales=2)
  params = compilation.jit_once(lambda: decoder.init(KEY, z, (28, 28)))()
  apply = compiled(lambda z: decoder.apply(params, z, (28, 28)))
  before, after = apply(z), apply(other)
  rows, columns = np.nonzero((np.asarray(before) != np.asarray(after))[0, ..., 0])
  assert (rows.min() + rows.max()) / 2 == 2 * 3 + 2.5
  assert (columns.min() + columns.max()) / 2 == 2 * 7 + 2.5


def trained(decoder, levels, z, num_levels, **fields):
  """What the decoder makes of z after training on all of it at each step, and its last metrics."""
  size = levels.shape[1:3]

  def loss_fn(params, batch, key):
    del batch, key
    images = decoder.apply({"params": params}, z, size)
    return decoders.squared_error(images, levels, num_levels).mean(), {}

  recipe = training.Recipe(decay="cosine", ema_decay=0.0, **fields)
  init = compilation.jit_once(lambda: decoder.init(KEY, z, size))
  state = training.initial_state(init()["params"], recipe.optimizer())
  step = Step(loss_fn, recipe, KEY, decoders.MSE)
  for _ in range(recipe.num_steps):
    state, metrics = step(state, None)
  images = compiled(lambda params: decoder.apply({"params": params}, z, size))(state.params)
  return images, float(metrics["train_mse_per_sub_pixel"])


def test_the_decoder_learns_the_mean_of_the_images_that_share_an_h():
  rng = np.random.default_rng(0)
  levels = rng.integers(0, 17, (8, 4, 4, 1), np.uint8)
  z = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
  decoder = Decoder(1, num_filters=4, num_scales=2, num_units=8)
  images, error = trained(decoder, levels, z, 17, learning_rate=3e-2, num_steps=300)
  means = np.repeat(levels.reshape(2, 4, 4, 4, 1).mean(1) / 16, 4, axis=0)
  np.testing.assert_allclose(images, means, atol=0.02)
  # What is left is the variance of the images within an h.
  variance = np.square(levels / 16 - means).mean()
  assert error == pytest.approx(variance, rel=0.02)


def test_mostly_black_images_are_not_reconstructed_as_black():
  # A sigmoid at the end was driven so far by the first steps that its gradient vanished.
  is_white = np.random.default_rng(0).random((256, 12, 12, 1)) < 0.1
  levels = np.where(is_white, 255, 0).astype(np.uint8)
  z = np.ones((256, 16), np.float32)
  decoder = Decoder(1, num_filters=16, num_units=64)
  _, error = trained(decoder, levels, z, 256, learning_rate=3e-3, num_steps=100)
  black, mean = np.square(levels / 255).mean(), (levels / 255).var()
  assert error < 0.5 * (black + mean)


def test_the_error_is_a_mean_over_sub_pixels_from_black_to_white():
  levels = np.array([[[[0, 16, 8]]], [[[16, 16, 16]]]], np.uint8)
  images = jnp.array([[[[0.0, 0.5, 0.5]]], [[[0.0, 0.0, 1.0]]]])
  errors = decoders.squared_error(images, levels, 17)
  np.testing.assert_allclose(errors, [0.25 / 3, 2 / 3], rtol=1e-6)


def test_the_nearest_levels_are_shown():
  images = jnp.array([-0.2, 0.0, 0.031, 0.032, 0.969, 1.0, 1.3]).reshape(1, 1, 7, 1)
  np.testing.assert_array_equal(decoders.to_levels(images, 17).ravel(), [0, 0, 0, 1, 16, 16, 16])
