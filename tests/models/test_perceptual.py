"""The losses of the perceptual decoder and of DeePSiM."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inversion_jax.machine import compilation
from inversion_jax.models import decoders, perceptual
from inversion_jax.models.decoders import Decoder
from inversion_jax.models.gans import Discriminator
from inversion_jax.models.perceptual import JudgedDecoder, Weights

KEY, SIZE = jax.random.key(0), (4, 6)
VARIANCES = {"sums": 2.0, "pixels": 0.5}


def layers_fn(levels_BHWC):
  x = jnp.asarray(levels_BHWC, jnp.float32) / 16
  return {"sums": x.sum((1, 2)), "pixels": x**2, "ignored": 100 * x}


@pytest.fixture(scope="module", params=[False, True], ids=["perceptual", "deepsim"])
def tiny(request):
  """A decoder, with a discriminator or without, its parameters and a batch."""
  discriminator = Discriminator(17, 2, 1, 4, num_noise=0) if request.param else None
  decoder = Decoder(1, num_filters=3, num_scales=1, num_units=4)
  model = JudgedDecoder(decoder, discriminator, 17)
  z = jax.random.normal(KEY, (3, 2))
  params = compilation.jit_once(functools.partial(model.init, size=SIZE))(KEY, z)["params"]
  levels = jax.random.randint(KEY, (3, *SIZE, 1), 0, 17).astype(jnp.uint8)
  return model, params, {"image": levels, "h": z}


def gradients(tiny, *weights):
  model, params, batch = tiny
  fn = functools.partial(
    perceptual.loss,
    model=model,
    layers_fn=layers_fn,
    variances=VARIANCES,
    weights=Weights(*weights),
  )
  return compilation.jit_once(jax.value_and_grad(fn, has_aux=True))(params, batch)


def test_the_losses_are_those_of_the_images_that_are_shown(tiny):
  model, params, batch = tiny
  (_, terms), _ = gradients(tiny, 1.0, 1.0, 1.0)
  images = model.apply({"params": params}, batch["h"], SIZE, method="decode")
  mse = decoders.squared_error(images, batch["image"], 17).mean()
  assert terms["train_image_loss"] == pytest.approx(float(mse), rel=1e-5)
  shown, wanted = (layers_fn(x) for x in (decoders.to_levels(images, 17), batch["image"]))
  missed = [np.square(shown[name] - wanted[name]).mean() / VARIANCES[name] for name in VARIANCES]
  assert terms["train_feature_loss"] == pytest.approx(np.mean(missed), rel=1e-4)
  assert ("train_adversarial_loss" in terms) == (model.discriminator is not None)


def test_each_weight_weighs_its_own_loss(tiny):
  (total, terms), _ = gradients(tiny, 2.0, 3.0, 0.0)
  expected = 2 * terms["train_image_loss"] + 3 * terms["train_feature_loss"]
  assert float(total) == pytest.approx(float(expected), rel=1e-5)


def test_each_player_follows_its_own_loss_alone(tiny):
  model, params, batch = tiny
  if model.discriminator is None:
    pytest.skip("there is one player")
  discriminate = functools.partial(model.apply, method="discriminate")

  def made(params):
    images = model.apply({"params": params}, batch["h"], SIZE, method="decode")
    return model.apply({"params": params}, images, method="levels")

  def decoder_loss(part):
    logit = discriminate({"params": params}, made({**params, "decoder": part}))
    return -jax.nn.log_sigmoid(logit).mean()

  def discriminator_loss(part):
    both = {"params": {**params, "discriminator": part}}
    real = discriminate(both, batch["image"].astype(jnp.float32))
    fake = discriminate(both, made(params))
    return -0.5 * (jax.nn.log_sigmoid(real).mean() + jax.nn.log_sigmoid(-fake).mean())

  _, grads = gradients(tiny, 0.0, 0.0, 1.0)
  for player, fn in (("decoder", decoder_loss), ("discriminator", discriminator_loss)):
    expected = compilation.jit_once(jax.grad(fn))(params[player])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), grads[player], expected)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(expected))
