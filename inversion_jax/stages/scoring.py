"""Per-image scores of a run's models, for validation and for the test set."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from inversion_jax import decoders, evaluation, placement
from inversion_jax.runs import Run


def classifier_scorer(run: Run) -> Callable:
  """`score(params, split)` -> (is_correct_N, nats_N) of the labels, float64."""
  classifier = run.classifier()

  def score_batch(params, images_BHWC, labels_B):
    logits_BC = classifier.apply({"params": params}, images_BHWC)["logits"]
    nats_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B)
    return jnp.equal(logits_BC.argmax(-1), labels_B), nats_B

  score_batch = _jit_gathered(score_batch)

  def score(params, split):
    def score_rows(rows_B):
      batch = placement.put_batch((split.images_NHWC[rows_B], split.labels_N[rows_B]))
      return score_batch(params, *batch)

    return evaluation.scores(score_rows, len(split.images_NHWC), _batch_size(run))

  return score


# Kept for the run at hand, so that validation and evaluation share what was compiled.
@functools.lru_cache(maxsize=1)
def inverter_scorer(run: Run, first_row: int = 0) -> Callable:
  """`score(list of params, split)` -> for each params, nats_N = -log p(x | h), float64.

  With `first_row` the nats of the pixels from that row on alone.
  """
  inverter, represent = run.inverter(), run.represent

  def score_batch(params, images_BHWC, z):
    return -inverter.apply({"params": params}, images_BHWC, z)[:, first_row:].sum((1, 2))

  score_batch = _jit_gathered(score_batch)

  def score(params_list, split, description="validate"):
    def score_rows(rows_B):
      images_BHWC = placement.put_batch(split.images_NHWC[rows_B])
      z = represent(images_BHWC) if represent else None
      return tuple(score_batch(params, images_BHWC, z) for params in params_list)

    return evaluation.scores(score_rows, len(split.images_NHWC), _batch_size(run), description)

  return score


def decoder_scorer(run: Run) -> Callable:
  """`score(params, split)` -> (squared error of each reconstruction per sub-pixel), float64."""
  decoder, represent, num_levels = run.decoder(), run.represent, run.data.num_levels

  def score_batch(params, levels_BHWC, z):
    images_BHWC = decoder.apply({"params": params}, z, levels_BHWC.shape[1:3])
    return decoders.squared_error(images_BHWC, levels_BHWC, num_levels)

  score_batch = _jit_gathered(score_batch)

  def score(params, split):
    def score_rows(rows_B):
      levels_BHWC = placement.put_batch(split.images_NHWC[rows_B])
      return (score_batch(params, levels_BHWC, represent(levels_BHWC)),)

    return evaluation.scores(score_rows, len(split.images_NHWC), _batch_size(run))

  return score


def _batch_size(run):
  return placement.rounded_up(run.config.evaluate.batch_size)


def _jit_gathered(fn):
  """Compiles `fn` so that every process gets its whole result."""
  return jax.jit(fn, out_shardings=placement.data_parallel()[1])
