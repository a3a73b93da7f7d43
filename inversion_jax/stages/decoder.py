"""The mean-squared-error decoder of a run."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from inversion_jax import config as config_lib
from inversion_jax import inversion
from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting import scoring, sessions
from inversion_jax.machine import placement
from inversion_jax.models import decoders, upward
from inversion_jax.models.decoders import Decoder
from inversion_jax.runs import Run

NAME = "decoder"


def check(run: Run):
  """Raises UserError if the images are too few or too small for it."""
  images, num_scales = run.images("train"), run.config.decoder.network.num_scales
  run.check_batch_size(NAME, len(images))
  with config_lib.named("decoder.network.{}".format):
    upward.check_num_scales(num_scales, num_scales - 1, images.image_shape)


def train(run: Run):
  """Trains the image of least expected squared error given h."""
  run.train(NAME, lambda: subject(run))


def module(run: Run) -> Decoder:
  """The decoder, without its parameters."""
  _, _, num_colours = run.images("train").image_shape
  return Decoder(num_colours, **run.config.decoder.network.to_dict())


def subject(run: Run) -> sessions.Subject:
  """What its training is."""
  decoder, observed, train_pairs = module(run), run.observed, run.pairs("train")
  size, num_levels = train_pairs.image_shape[:2], train_pairs.num_levels
  seen = observed.scored(train_pairs, run.root_key)

  def loss_fn(params, batch, dropout_key):
    z = observed.fresh(batch["h"], dropout_key)
    images_BHWC = decoder.apply({"params": params}, z, size)
    return decoders.squared_error(images_BHWC, batch["image"], num_levels).mean(), {}

  score, validation = scorer(run), run.pairs("validation")

  def validate(state):
    mse_N = score(state.ema_params, validation)
    return mse_N.mean(), {f"validation_{decoders.MSE}": mse_N.mean()}

  return sessions.Subject(
    name=NAME,
    init_fn=lambda keys, images_BHWC, z: decoder.init(keys, z, size)["params"],
    first_batch=inversion.first_batch(seen),
    loss_fn=loss_fn,
    batch_fn=observed.clean(train_pairs).batch,
    num_images=len(train_pairs),
    validate=validate,
    unit=decoders.MSE,
    advice="raise decoder.num_microbatches or lower decoder.batch_size",
  )


def params_at(run: Run, step: int) -> Any:
  """Its averaged parameters at a step."""
  return run.averaged(NAME, step, param_shapes(run))


def param_shapes(run: Run) -> Any:
  """Shapes and types of its parameters; nothing is computed."""
  image_shape = run.images("train").image_shape
  _, z = inversion.shapes_of(1, image_shape, run.h_shape)
  init = functools.partial(module(run).init, size=image_shape[:2])
  return jax.eval_shape(init, jax.random.key(0), z)["params"]


def scorer(run: Run) -> Callable[[Any, Pairs], np.ndarray]:
  """`score(params, pairs)` -> squared error of each reconstruction per sub-pixel, float64."""
  decoder, observed, num_levels = module(run), run.observed, run.images("test").num_levels

  def score_batch(params, levels_BHWC, z):
    images_BHWC = decoder.apply({"params": params}, z, levels_BHWC.shape[1:3])
    return decoders.squared_error(images_BHWC, levels_BHWC, num_levels)

  score_batch = placement.jit_gathered(score_batch)

  def score(params, of):
    seen = observed.scored(of, run.root_key)

    def score_rows(rows_B):
      batch = seen.batch(rows_B)
      return (score_batch(params, batch["image"], batch["h"]),)

    (mse_N,) = scoring.scores(score_rows, len(of), run.eval_batch_size)
    return mse_N

  return score


def reconstructions(run: Run, params: Any, of: Pairs) -> UInt8[np.ndarray, "N H W C"]:
  """What a decoder with these parameters makes of the h of some images, as levels."""
  decoder = module(run)
  seen = run.observed.scored(of, run.root_key)
  z = seen.features.in_batches(seen.images, seen.index, placement.rounded_up(len(seen)))

  @jax.jit
  def reconstruct(params, z):
    images_BHWC = decoder.apply({"params": params}, z, of.image_shape[:2])
    return decoders.to_levels(images_BHWC, of.num_levels)

  return np.asarray(reconstruct(params, z), np.uint8)
