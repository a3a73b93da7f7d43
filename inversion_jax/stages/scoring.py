"""Per-image scores of a run's models, for validation and for the test set."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax

from inversion_jax.fitting import scoring
from inversion_jax.machine import placement
from inversion_jax.models import decoders
from inversion_jax.runs import Run


def classifier_scorer(run: Run) -> Callable:
  """`score(params, split)` -> (is_correct_N, nats_N) of the labels, float64."""
  classifier = run.classifier()

  def score_batch(params, images_BHWC, labels_B):
    logits_BC = classifier.apply({"params": params}, images_BHWC)["logits"]
    nats_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B)
    return jnp.equal(logits_BC.argmax(-1), labels_B), nats_B

  score_batch = placement.jit_gathered(score_batch)

  def score(params, split):
    def score_rows(rows_B):
      batch = placement.put_batch((split.images_NHWC[rows_B], split.labels_N[rows_B]))
      return score_batch(params, *batch)

    return scoring.scores(score_rows, len(split.images_NHWC), _batch_size(run))

  return score


def inverter_scorer(run: Run, first_row: int = 0) -> Callable:
  """`score(list of params, split)` -> for each params, nats_N = -log p(x | h), float64.

  With `first_row` the nats of the pixels from that row on alone.
  """

  def score(params_list, split, description="validate"):
    parts = (
      [nats_BHW[:, first_row:].sum((1, 2)) for nats_BHW in batch]
      for batch in pixel_scorer(run)(params_list, split, description)
    )
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

  return score


# Kept for the run at hand, so that validation and evaluation share what was compiled.
@functools.lru_cache(maxsize=1)
def pixel_scorer(run: Run) -> Callable:
  """`score(list of params, split)` yields batches: for each params, nats_BHW, float64.

  These are -log p(pixel | pixels before it, h); their sum over an image is its -log p(x | h).
  """
  inverter, observe = run.inverter(), run.observe

  def score_batch(params, images_BHWC, z):
    return -inverter.apply({"params": params}, images_BHWC, z)

  score_batch = placement.jit_gathered(score_batch)

  def score(params_list, split, description="validate"):
    def score_rows(rows_B):
      images_BHWC, index_B = placement.put_batch((split.images_NHWC[rows_B], split.index_N[rows_B]))
      z = observe(images_BHWC, index_B) if observe else None
      return tuple(score_batch(params, images_BHWC, z) for params in params_list)

    num_images = len(split.images_NHWC)
    return scoring.scored_batches(score_rows, num_images, _batch_size(run), description)

  return score


def decoder_scorer(run: Run) -> Callable:
  """`score(params, split)` -> (squared error of each reconstruction per sub-pixel), float64."""
  decoder, observe, num_levels = run.decoder(), run.observe, run.data.num_levels

  def score_batch(params, levels_BHWC, z):
    images_BHWC = decoder.apply({"params": params}, z, levels_BHWC.shape[1:3])
    return decoders.squared_error(images_BHWC, levels_BHWC, num_levels)

  score_batch = placement.jit_gathered(score_batch)

  def score(params, split):
    def score_rows(rows_B):
      levels_BHWC, index_B = placement.put_batch((split.images_NHWC[rows_B], split.index_N[rows_B]))
      return (score_batch(params, levels_BHWC, observe(levels_BHWC, index_B)),)

    return scoring.scores(score_rows, len(split.images_NHWC), _batch_size(run))

  return score


def _batch_size(run):
  return placement.rounded_up(run.config.evaluate.batch_size)
