"""Inversion by descent on the pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inversion_jax.machine.errors import UserError
from inversion_jax.models import optimisation
from inversion_jax.models.optimisation import Descent

LEVELS = np.random.default_rng(0).integers(0, 17, (3, 4, 5, 1))
PLAIN = Descent(alpha_weight=0.0, variation_weight=0.0, num_steps=200)


def halves(levels):
  """h that knows the sums of pairs of pixels."""
  return jnp.asarray(levels, jnp.float32).reshape(len(levels), -1, 2).sum(-1) / 16


def found(descent, levels=LEVELS, seeds=(0, 1, 2), encode=halves):
  keys_B = jax.vmap(jax.random.key)(jnp.array(seeds))
  return optimisation.invert(
    encode,
    jnp.float32(encode(levels)),
    keys_B,
    image_shape=(4, 5, 1),
    num_levels=17,
    descent=descent,
  )


def test_an_image_with_the_same_h_is_found_and_need_not_be_the_original():
  result = found(PLAIN)
  assert result.distance_B.max() < 1e-4
  h, wanted = halves(result.levels_BHWC), halves(LEVELS)
  # Half a level of each of two pixels, and what was beyond black and white.
  assert np.abs(h - wanted).mean() < 1 / 16
  assert np.abs(np.asarray(result.levels_BHWC, int) - LEVELS).mean() > 1


def test_starts_differ_and_an_image_does_not_depend_on_those_beside_it():
  same, briefly = np.repeat(LEVELS[:1], 3, axis=0), dataclasses.replace(PLAIN, num_steps=20)
  several = found(briefly, same, seeds=(5, 6, 5)).levels_BHWC
  np.testing.assert_array_equal(several[0], several[2])
  assert (several[0] != several[1]).any()
  np.testing.assert_array_equal(found(briefly, same[:1], seeds=(6,)).levels_BHWC[0], several[1])


def test_each_regulariser_lowers_what_it_weighs():
  def measured(descent):
    unit = np.asarray(found(descent).levels_BHWC, np.float32) / 8 - 1
    return (
      optimisation.alpha_norm(unit, 6.0).mean(),
      optimisation.total_variation(unit, 2.0).mean(),
    )

  plain_norm, plain_variation = measured(PLAIN)
  assert measured(dataclasses.replace(PLAIN, alpha_weight=1.0))[0] < 0.8 * plain_norm
  assert measured(dataclasses.replace(PLAIN, variation_weight=1.0))[1] < 0.8 * plain_variation


def test_with_jitter_h_is_near_the_wanted_one_to_the_side_as_well():
  def missed_to_the_side(descent):
    levels = found(descent, np.full((3, 4, 5, 1), 14), encode=lambda x: 1.0 * x[:, :, 1])
    return 14 - np.asarray(levels.levels_BHWC, int)[:, :, [0, 2]].mean()

  assert missed_to_the_side(PLAIN) > 5
  assert missed_to_the_side(dataclasses.replace(PLAIN, jitter=1)) < 1


def test_the_regularisers_are_those_of_the_source():
  unit = np.float32([[0.0, 0.5], [-1.0, 0.5]]).reshape(1, 2, 2, 1)
  assert optimisation.alpha_norm(unit, 6.0)[0] == pytest.approx((1 + 2 * 0.5**6) / 4)
  squares = np.array([1.0 + 0.25, 0.0, 1.5**2, 0.0])
  for power in (1.0, 2.0):
    expected = (squares ** (power / 2)).mean()
    # What is added under the root for its derivative.
    assert optimisation.total_variation(unit, power)[0] == pytest.approx(expected, abs=1e-4)
  assert np.isfinite(jax.grad(lambda x: optimisation.total_variation(x, 1.0).sum())(0 * unit)).all()


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("num_steps", 0, "num_steps=0 must be above zero"),
    ("alpha_weight", -1.0, "alpha_weight=-1.0 must not be below zero"),
    ("jitter", -1, "jitter=-1 must not be below zero"),
  ],
)
def test_fields_of_a_descent_have_limits(field, value, words):
  with pytest.raises(UserError, match=words):
    Descent(**{field: value})
