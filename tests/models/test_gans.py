"""The rival of figure 3: its losses, its gradients, the diversity of samples, and its stage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inversion_jax.information import diversity
from inversion_jax.machine import compilation
from inversion_jax.models import gans

ROOT_KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def tiny():
  """A GAN for 5x6 images, its parameters and a batch."""
  gan = gans.Gan(17, (5, 6, 1), num_noise=3, num_filters=2, num_scales=1, num_units=4)
  image_BHWC = jax.random.randint(ROOT_KEY, (4, 5, 6, 1), 0, 17).astype(jnp.uint8)
  z_BZ = jax.random.normal(ROOT_KEY, (4, 2))
  params = compilation.jit_once(gan.init)(ROOT_KEY, z_BZ, jnp.zeros((4, 3)))["params"]
  return gan, params, {"image": image_BHWC, "h": z_BZ}


def encode(levels_BHWC):
  return jnp.asarray(levels_BHWC, jnp.float32).sum((1, 2)) / 17.0


def loss(tiny, weights):
  gan, start, batch = tiny
  fn = functools.partial(
    gans.gan_loss, gan=gan, encode_fn=encode, variance=1.0, weights=gans.Weights(*weights)
  )
  grad_fn = compilation.jit_once(jax.value_and_grad(fn, has_aux=True))
  return grad_fn(start, batch, ROOT_KEY)


def test_the_best_q_is_the_mean_of_the_noise_given_the_image():
  # x = noise + e with unit variances: E[noise | x] = x / 2, which leaves a variance of 1 / 2.
  noise_BE, error_BE = jax.random.normal(ROOT_KEY, (2, 20_000, 2))
  slopes = np.linspace(0.0, 1.0, 11)
  losses = [float(gans.entropy_loss(noise_BE, s * (noise_BE + error_BE)).mean()) for s in slopes]
  assert slopes[np.argmin(losses)] == 0.5
  # Of 40,000 squares of normal numbers the mean has a relative error of 0.7%.
  assert min(losses) == pytest.approx(0.5, rel=0.03)


def test_noise_that_the_image_does_not_show_leaves_its_variance():
  noise_BE = jax.random.uniform(ROOT_KEY, (20_000, 2))
  assert float(gans.entropy_loss(noise_BE, 0.0 * noise_BE + 0.5).mean()) == pytest.approx(
    1 / 12, rel=0.02
  )


def test_each_player_follows_its_own_loss_alone(tiny):
  gan, params, batch = tiny
  noise_BE = jax.random.uniform(ROOT_KEY, (4, 3))

  def generator_loss(generator):
    both = {**params, "generator": generator}
    made = gan.apply({"params": both}, batch["h"], noise_BE, method="generate")
    is_real_B, predicted_BE = gan.apply({"params": both}, made, method="discriminate")
    conditional = jnp.square(encode(made) - encode(batch["image"])).mean()
    return (
      -jax.nn.log_sigmoid(is_real_B).mean()
      + 2.0 * conditional
      + 3.0 * (jnp.square(predicted_BE - noise_BE).mean())
    )

  def discriminator_loss(discriminator):
    both = {**params, "discriminator": discriminator}
    made = gan.apply({"params": params}, batch["h"], noise_BE, method="generate")
    is_real_B, _ = gan.apply({"params": both}, batch["image"], method="discriminate")
    is_made_real_B, predicted_BE = gan.apply({"params": both}, made, method="discriminate")
    adversarial = -jax.nn.log_sigmoid(is_real_B).mean() - jax.nn.log_sigmoid(-is_made_real_B).mean()
    return 0.5 * adversarial + 3.0 * jnp.square(predicted_BE - noise_BE).mean()

  (value, _), grads = loss(tiny, (1.0, 2.0, 3.0))
  for player, fn in (("generator", generator_loss), ("discriminator", discriminator_loss)):
    expected = compilation.jit_once(jax.grad(fn))(params[player])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), grads[player], expected)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(expected))
  expected = generator_loss(params["generator"]) + discriminator_loss(params["discriminator"])
  assert float(value) == pytest.approx(float(expected), rel=1e-5)


def test_the_conditional_loss_leaves_the_discriminator_alone(tiny):
  (_, metrics), grads = loss(tiny, (0.0, 1.0, 0.0))
  assert float(metrics["train_conditional_loss"]) > 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["discriminator"]))
  assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["generator"]))


def test_generated_images_are_whole_levels_that_depend_on_h_and_on_noise(tiny):
  gan, params, batch = tiny
  generate = functools.partial(gan.apply, {"params": params}, method="generate")
  noise_BE = jax.random.uniform(ROOT_KEY, (4, 3))
  made = generate(batch["h"], noise_BE)
  assert made.shape == batch["image"].shape
  np.testing.assert_array_equal(made, np.round(made))
  assert (made.min() >= 0) & (made.max() <= 16)
  assert np.any(made != generate(batch["h"], noise_BE[::-1]))
  assert np.any(made != generate(batch["h"][::-1], noise_BE))
  # A sample does not depend on those that are drawn with it.
  alone = generate(batch["h"][:1], noise_BE[:1])
  np.testing.assert_allclose(alone, made[:1], atol=1.0)
  assert (alone == made[:1]).mean() > 0.9


def test_halving_and_doubling_undo_each_other():
  x_BHWF = jax.random.normal(ROOT_KEY, (2, 4, 6, 3))
  np.testing.assert_array_equal(gans._doubled(gans._halved(x_BHWF)), x_BHWF)
  # A pixel stays among its neighbours.
  assert set(np.ravel(gans._halved(x_BHWF)[0, 1, 2])) == set(np.ravel(x_BHWF[0, 2:4, 4:6]))
  assert gans._halved(x_BHWF[:, :3, :5]).shape == (2, 2, 3, 12)


def test_diversity_is_the_mean_over_all_pairs():
  samples = np.random.default_rng(0).integers(0, 256, (3, 4, 2, 5, 1)).astype(np.uint8)
  images = samples[:, 0] // 2
  for n in range(3):
    pairs = [
      np.abs(samples[n, a].astype(float) - samples[n, b]).mean()
      for a in range(4)
      for b in range(4)
      if a != b
    ]
    assert diversity.pairwise_l1(samples)[n] == pytest.approx(np.mean(pairs))
    expected = np.mean([np.abs(samples[n, s].astype(float) - images[n]).mean() for s in range(4)])
    assert diversity.l1_to_originals(samples, images)[n] == pytest.approx(expected)


def test_draws_of_the_same_distribution_are_as_far_from_the_original_as_from_each_other():
  draws = np.random.default_rng(1).integers(0, 17, (400, 5, 4, 4, 1)).astype(np.uint8)
  gap_N = diversity.pairwise_l1(draws[:, 1:]) - diversity.l1_to_originals(draws[:, 1:], draws[:, 0])
  assert abs(gap_N.mean()) < 4 * gap_N.std() / np.sqrt(len(gap_N))
