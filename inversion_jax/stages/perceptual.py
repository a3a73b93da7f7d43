"""The decoders with a comparator: the perceptual one, and with a discriminator DeePSiM.

Their decoder is as `decoder.network` has it, the discriminator as `gan.network`, and the comparator
is the classifier whose layer is inverted.
"""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from inversion_jax import inversion
from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting import scoring, sessions
from inversion_jax.machine import limits, placement
from inversion_jax.machine.errors import UserError
from inversion_jax.models import decoders, perceptual
from inversion_jax.models.gans import Discriminator
from inversion_jax.models.perceptual import JudgedDecoder, Weights
from inversion_jax.runs import Run
from inversion_jax.stages import decoder, measures
from inversion_jax.stages.records import only_for_layers

PERCEPTUAL, DEEPSIM = "perceptual", "deepsim"


def check(name: str, run: Run):
  """Raises UserError if a run has no network to compare images by."""
  only_for_layers(name)(run)
  if not run.has_classifier:
    raise UserError(
      f"The {name} stage differentiates features by the pixels, which stored ones do not allow; "
      "leave it out, or invert a layer of the classifier."
    )


def train(name: str, run: Run):
  """Trains one of the two, by the name of its section."""
  run.train(name, lambda: subject(name, run))


def module(name: str, run: Run) -> JudgedDecoder:
  """The networks, without their parameters."""
  network, num_levels = run.config.gan.network, run.images("train").num_levels
  discriminator = None
  if run.config[name].adversarial_weight:
    sizes = network.num_filters, network.num_scales, network.num_units
    discriminator = Discriminator(num_levels, *sizes, num_noise=0)
  return JudgedDecoder(decoder.module(run), discriminator, num_levels)


def subject(name: str, run: Run) -> sessions.Subject:
  """What the training of one of them is."""
  model, section, train_pairs = module(name, run), run.config[name], run.pairs("train")
  clean, size = run.observed.clean(train_pairs), train_pairs.image_shape[:2]
  compared = _comparator(name, run)
  weights = Weights(section.image_weight, section.feature_weight, section.adversarial_weight)

  def loss_fn(params, batch, key):
    del key
    return perceptual.loss(params, batch, model=model, weights=weights, **compared)

  return sessions.Subject(
    name=name,
    init_fn=lambda keys, images_BHWC, z: model.init(keys, z, size)["params"],
    first_batch=inversion.first_batch(clean),
    loss_fn=loss_fn,
    batch_fn=clean.batch,
    num_images=len(train_pairs),
    validate=_validate_fn(run, model, weights, **compared),
    unit="loss",
    advice=f"raise {name}.num_microbatches or lower {name}.batch_size",
  )


def _comparator(name, run):
  """The classifier, and the variances of its layers that are compared: the named ones, or all."""
  unaided_fn = run.layers_fn()

  def layers_fn(levels_BHWC):
    with jax.default_matmul_precision("highest"):
      return unaided_fn(levels_BHWC)

  found = measures.variances(run, layers_fn)
  named = run.config[name].comparator_layers or tuple(found)
  for layer in named:
    limits.check_one_of(f"{name}.comparator_layers", layer, found)
  return {"layers_fn": layers_fn, "variances": {layer: found[layer] for layer in named}}


def _validate_fn(run, model, weights, layers_fn, variances):
  """The loss without the discriminator's part, which does not tell a better step from a worse."""
  validation = run.observed.clean(run.pairs("validation"))

  @placement.jit_gathered
  def score_batch(params, levels_BHWC, z):
    size = levels_BHWC.shape[1:3]
    images_BHWC = model.apply({"params": params}, z, size, method="decode")
    made_BHWC = model.apply({"params": params}, images_BHWC, method="levels")
    layers = layers_fn(levels_BHWC), layers_fn(made_BHWC)
    mse_B = decoders.squared_error(images_BHWC, levels_BHWC, model.num_levels)
    return mse_B, perceptual.feature_loss(*layers, variances)

  def validate(state):
    def score_rows(rows_B):
      batch = validation.batch(rows_B)
      return score_batch(state.ema_params, batch["image"], batch["h"])

    mse_N, feature_N = scoring.scores(score_rows, len(validation), run.eval_batch_size, "validate")
    metrics = {
      f"validation_{decoders.MSE}": mse_N.mean(),
      "validation_feature_loss": feature_N.mean(),
    }
    return weights.image * mse_N.mean() + weights.feature * feature_N.mean(), metrics

  return validate


def reconstructions(name: str, run: Run, of: Pairs) -> UInt8[np.ndarray, "N H W C"]:
  """What one of them makes of the h of some images, as levels."""
  return decoder.reconstructions(run, params_at(name, run)["decoder"], of)


def params_at(name: str, run: Run) -> Any:
  """The averaged parameters of both networks at the best step."""
  image_shape = run.images("train").image_shape
  _, z = inversion.shapes_of(1, image_shape, run.features.shape)
  init = functools.partial(module(name, run).init, size=image_shape[:2])
  like = jax.eval_shape(init, jax.random.key(0), z)["params"]
  return run.averaged(name, run.finished(name)["best_step"], like)
