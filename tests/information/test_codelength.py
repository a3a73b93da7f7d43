"""Codelengths of learners whose every cost is known."""

import math

import numpy as np
import pytest
from scipy import special

from inversion_jax.information.codelength import FirstPass, over_seeds
from inversion_jax.information.statistics import Estimate


def told(nats_N, step_N=None, source_N=None, index_N=None):
  index_N = np.arange(len(nats_N)) if index_N is None else index_N
  step_N = np.arange(len(nats_N)) if step_N is None else step_N
  source_N = index_N if source_N is None else source_N
  return FirstPass(index_N, step_N, np.asarray(nats_N, np.float64), source_N)


def counting(bits_N, prior):
  """What each bit costs a learner that counts; `prior` is what each count begins with."""
  ones_N = np.cumsum(bits_N) - bits_N
  seen_N = np.arange(len(bits_N))
  counts_N = np.where(bits_N, ones_N, seen_N - ones_N)
  return -np.log((counts_N + prior) / (seen_N + 2 * prior))


def test_counting_costs_what_laplace_and_krichevsky_and_trofimov_say():
  bits_N = (np.random.default_rng(0).random(1_000) < 0.2).astype(int)
  num, ones = len(bits_N), bits_N.sum()
  laplace = math.log(num + 1) + math.log(math.comb(num, ones))
  assert told(counting(bits_N, 1.0)).total_nats == pytest.approx(laplace, rel=1e-12)
  log_prob = special.gammaln(ones + 0.5) + special.gammaln(num - ones + 0.5)
  log_prob -= math.log(math.pi) + special.gammaln(num + 1)
  first_pass = told(counting(bits_N, 0.5))
  assert first_pass.total_nats == pytest.approx(-log_prob, rel=1e-12)
  # Less than half a logarithm and one nat more than if the share of ones had been known.
  share = ones / num
  known = -ones * math.log(share) - (num - ones) * math.log(1 - share)
  assert 0 < first_pass.total_nats - known < 0.5 * math.log(num) + 1


def test_the_curve_of_a_known_learner_gives_its_known_surplus_and_complexity():
  # All bits are alike: the bit after n others costs log((n + 2) / (n + 1)), n of them log(n + 1).
  first_pass, target = told(counting(np.zeros(4_000, int), 1.0)), 0.01
  needed = 1 / math.expm1(target) - 1
  until = first_pass.images_until(target)
  assert until.value == pytest.approx(needed, rel=0.1)
  assert until.low <= until.value <= until.high
  surplus = math.log(needed + 1) - needed * target
  assert first_pass.surplus(target).value == pytest.approx(surplus, rel=0.01)
  mean_N, _ = first_pass.running(first_pass.nats)
  np.testing.assert_allclose(mean_N, np.log(np.arange(2, 4_002)) / np.arange(1, 4_001))


def test_a_target_that_the_pass_does_not_reach_is_infinitely_far():
  first_pass = told(counting(np.zeros(200, int), 1.0))
  assert not first_pass.reaches(1e-4)
  assert first_pass.images_until(1e-4) == (math.inf, math.inf, math.inf)
  assert first_pass.surplus(1e-4).value == pytest.approx(math.log(201) - 200 * 1e-4)
  assert first_pass.images_until(1.0).value == 0


def falling(rng, num=2_000, batch=20):
  """Nats that fall as images are learnt, with scatter of deviation 3, in batches."""
  step_N = np.arange(num) // batch
  return told(100 / (1 + step_N) + rng.normal(10.0, 3.0, num), step_N)


def test_errors_are_those_of_other_images_and_not_of_the_falling_curve():
  totals = [falling(np.random.default_rng(seed)).per_image for seed in range(200)]
  error = falling(np.random.default_rng(0)).per_image.standard_error
  assert error == pytest.approx(3 / math.sqrt(2_000), rel=0.1)
  assert np.std([total.mean for total in totals]) == pytest.approx(error, rel=0.15)


def test_versions_of_one_original_are_one_piece_of_evidence():
  rng = np.random.default_rng(0)
  once_N = rng.normal(10.0, 3.0, 1_000)
  step_N = np.arange(2_000) // 20
  twice = told(np.tile(once_N, 2), step_N, np.tile(np.arange(1_000), 2))
  alone = told(np.tile(once_N, 2), step_N)
  ratio = twice.per_image.standard_error / alone.per_image.standard_error
  assert ratio == pytest.approx(math.sqrt(2), rel=0.05)
  assert twice.per_image.num == 1_000


def test_what_is_told_in_one_order_is_paired_image_by_image():
  prior = falling(np.random.default_rng(0))
  rng = np.random.default_rng(1)
  model = told(prior.nats - 4.0 + rng.normal(0, 0.1, len(prior)), prior.step)
  saved = model.saved_over(prior)
  assert saved.mean == pytest.approx(4.0, abs=0.02)
  assert saved.standard_error == pytest.approx(0.1 / math.sqrt(2_000), rel=0.1)
  # In another order the same images are two samples.
  order = rng.permutation(len(prior))
  other = told(model.nats, model.step, index_N=order)
  assert other.saved_over(prior).mean == pytest.approx(saved.mean)
  assert other.saved_over(prior).standard_error > 10 * saved.standard_error
  # A pass that ended sooner is compared as far as it goes.
  n, mean_n, _ = model.first(500).saving_curve(prior)
  assert n[-1] == 500
  assert mean_n[-1] == pytest.approx((prior.nats - model.nats)[:500].mean())


def test_seeds_count_in_the_error():
  estimates = [Estimate(mean, 0.3, 100) for mean in (1.0, 2.0, 3.0)]
  pooled = over_seeds(estimates)
  assert (pooled.mean, pooled.seed_degrees_of_freedom) == (2.0, 2.0)
  assert pooled.seed_error == pytest.approx(1 / math.sqrt(3))
  assert pooled.standard_error == pytest.approx(math.hypot(0.3, pooled.seed_error))
  assert over_seeds(estimates[:1]) == estimates[0]


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"step": None}, "does not hold index, step and nats"),
    ({"nats": np.zeros(3)}, r"int64 of shape \(4,\)"),
    ({"nats": np.zeros(4, int)}, "nats is int64"),
  ],
)
def test_arrays_of_others_are_looked_at(change, words):
  arrays = {"index": np.arange(4), "step": np.arange(4), "nats": np.ones(4)}
  assert FirstPass.of(arrays).total_nats == 4
  arrays = {name: array for name, array in (arrays | change).items() if array is not None}
  with pytest.raises(ValueError, match=words):
    FirstPass.of(arrays)
