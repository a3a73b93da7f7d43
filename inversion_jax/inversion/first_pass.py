"""What an inverter's training images cost before it learns from them."""

import math

import numpy as np

from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting.first_pass import Scored
from inversion_jax.inversion.model import pixel_scorer
from inversion_jax.machine import placement
from inversion_jax.models.inverters import Inverter

# Images in a batch of scoring, for each of a batch of training, from which on it gets a program of
# its own: to compile one takes seconds, and the first pass may be long.
MAX_FILLED = 2


def scored(seen: Pairs, inverter: Inverter, num_seen: int, batch_size: int) -> Scored:
  """How the images are scored: without dropout, under the parameters as they are.

  Args:
    seen: the training set, with h as it is scored.
    inverter: the module.
    num_seen: the first images, which the initialisation sees and which therefore cost log(levels)
      for each sub-pixel.
    batch_size: of other scores, whose compiled program serves if it is not much larger.
  """
  score_batch = pixel_scorer(inverter)

  def score(params, rows_B):
    num = len(rows_B)
    size = batch_size if num <= batch_size <= MAX_FILLED * num else placement.rounded_up(num)
    filled_B = np.append(rows_B, np.full(size - num, rows_B[-1]))
    batch = seen.batch(filled_B)
    return score_batch(params, batch["image"], batch["h"])

  seen_nats = math.prod(seen.image_shape) * math.log(seen.num_levels)
  return Scored(seen.index, seen.sources, num_seen, seen_nats, score)
