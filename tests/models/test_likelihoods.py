import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from inversion_jax.machine.errors import UserError
from inversion_jax.models import likelihoods

MEANS = (-1.3, -1.0, 0.0, 0.7, 1.2)
LOG_SCALES = (-20.0, -7.0, -3.0, 0.0, 2.0, 15.0, 100.0)


def level_nats(mean, log_scale, num_levels):
  levels_L = jnp.arange(num_levels)
  return likelihoods.logistic_log_prob(
    levels_L, jnp.float32(mean), jnp.float32(log_scale), num_levels
  )


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_masses_of_the_levels_sum_to_one(num_levels, log_scale):
  for mean in MEANS:
    total = jnp.exp(level_nats(mean, log_scale, num_levels)).sum()
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 2.0])
@pytest.mark.parametrize("mean", MEANS)
def test_masses_agree_with_a_float64_reference(mean, log_scale):
  logistic = scipy.stats.logistic(np.float64(np.float32(mean)), np.exp(np.float64(log_scale)))
  midpoints = (np.arange(255) + 0.5) / 127.5 - 1.0
  lower, upper = np.r_[-np.inf, midpoints], np.r_[midpoints, np.inf]
  # The upper tail is subtracted where the lower one would lose its digits.
  from_below = logistic.logcdf(upper), logistic.logcdf(lower)
  from_above = logistic.logsf(lower), logistic.logsf(upper)
  big, small = np.where(midpoints.mean() + lower < mean, from_below, from_above)
  with np.errstate(divide="ignore"):
    expected = big + np.log1p(-np.exp(small - big))
  np.testing.assert_allclose(level_nats(mean, log_scale, 256), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_gradients_are_finite_at_extreme_parameters(log_scale):
  def total_nats(parameters):
    return level_nats(*parameters, 256).sum()

  for mean in MEANS:
    assert np.isfinite(jax.grad(total_nats)(jnp.array([mean, log_scale]))).all()


def test_the_floor_of_the_scale_costs_what_the_documentation_says():
  nats = -level_nats(0.0 + 1 / 255, -7.0, 256)[128]
  assert nats == pytest.approx(0.0271, abs=2e-4)


def random_head(likelihood, seed, spread=1.0):
  return spread * jax.random.normal(jax.random.key(seed), (likelihood.num_features,))


def all_pixels(likelihood):
  levels = range(likelihood.num_levels)
  return jnp.array(list(itertools.product(levels, repeat=likelihood.num_colours)))


LIKELIHOODS = {
  "categorical": likelihoods.Categorical(num_levels=17),
  "grey mixture": likelihoods.LogisticMixture(17, 1, 5),
  "colour mixture": likelihoods.LogisticMixture(4, 3, 3),
  "mixture of two colours": likelihoods.LogisticMixture(5, 2, 3),
  "mixture of four colours": likelihoods.LogisticMixture(3, 4, 3),
  "binary colours": likelihoods.Categorical(2, 3),
}
MIXTURES = [name for name in LIKELIHOODS if "mixture" in name]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_pixel_has_probability_one_in_all(name):
  likelihood = LIKELIHOODS[name]
  pixels_PC = all_pixels(likelihood)
  for seed in range(5):
    nats_P = likelihood.log_prob(random_head(likelihood, seed, 3.0)[None], pixels_PC)
    assert jnp.exp(nats_P).sum() == pytest.approx(1.0, abs=1e-5)


def test_the_number_of_head_features_is_the_documented_one():
  assert likelihoods.LogisticMixture(256, 1, 10).num_features == 30
  assert likelihoods.LogisticMixture(256, 2, 10).num_features == 60
  assert likelihoods.LogisticMixture(256, 3, 10).num_features == 100
  assert likelihoods.LogisticMixture(256, 4, 10).num_features == 150
  assert likelihoods.Categorical(256).num_features == 256
  assert likelihoods.Categorical(2, 4).num_features == 16


@pytest.mark.parametrize("name", MIXTURES)
def test_a_linear_path_moves_all_means_of_a_mixture_and_nothing_else(name):
  likelihood = LIKELIHOODS[name]
  first, end = likelihood.linear_features
  head = random_head(likelihood, 0)
  before, after = map(likelihood.parameters, (head, head.at[first:end].add(1.0)))
  for index, (old, new) in enumerate(zip(before, after, strict=True)):
    np.testing.assert_allclose(new, old + 1.0 if index == 1 else old, rtol=1e-6)


def test_a_linear_path_moves_all_logits_of_a_categorical():
  assert likelihoods.Categorical(17).linear_features == (0, 17)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_one_of_products_with_shifted_means(name):
  # Written again in float64 from section 2.2 of Salimans et al. (2017), component by component.
  likelihood = LIKELIHOODS[name]
  num_levels, num_colours, num_components = (
    likelihood.num_levels,
    likelihood.num_colours,
    likelihood.num_components,
  )
  head = np.asarray(random_head(likelihood, 3), np.float64).reshape(-1, num_components)
  logits, means = head[0], head[1 : 1 + num_colours]
  scales = np.exp(np.maximum(head[1 + num_colours : 1 + 2 * num_colours], -7.0))
  coefficients = np.tanh(head[1 + 2 * num_colours :])
  colours = [(of, into) for into in range(num_colours) for of in range(into)]
  weights = np.exp(logits) / np.exp(logits).sum()
  for pixel in np.asarray(all_pixels(likelihood))[[0, 7, -2, -1]]:
    unit, half_bin = pixel * 2 / (num_levels - 1) - 1, 1 / (num_levels - 1)
    expected = 0.0
    for k in range(num_components):
      shifted = means[:, k].copy()
      for (of, into), coefficient in zip(colours, coefficients[:, k], strict=True):
        shifted[into] += coefficient * unit[of]
      low = np.where(pixel == 0, -np.inf, unit - half_bin)
      high = np.where(pixel == num_levels - 1, np.inf, unit + half_bin)
      mass = scipy.stats.logistic.cdf(high, shifted, scales[:, k])
      mass -= scipy.stats.logistic.cdf(low, shifted, scales[:, k])
      expected += weights[k] * mass.prod()
    nats = likelihood.log_prob(jnp.asarray(head.reshape(-1), jnp.float32), jnp.array(pixel))
    assert np.exp(nats) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_have_the_probabilities(name):
  likelihood, num_draws = LIKELIHOODS[name], 40_000
  head = random_head(likelihood, 1)
  noise = jax.vmap(likelihood.noise)(jax.random.split(jax.random.key(0), num_draws))
  draws_NC = np.asarray(likelihood.draw(jnp.broadcast_to(head, (num_draws, len(head))), noise))
  pixels_PC = np.asarray(all_pixels(likelihood))
  place = likelihood.num_levels ** np.arange(likelihood.num_colours)[::-1]
  counts_P = np.bincount(draws_NC @ place, minlength=len(pixels_PC))
  expected_P = num_draws * np.exp(likelihood.log_prob(head[None], jnp.asarray(pixels_PC)))
  likely = expected_P > 5
  chi_squared = np.square(counts_P - expected_P)[likely] / expected_P[likely]
  # Seeded; the 0.999 quantile of the law that the statistic has if the draws are right.
  assert chi_squared.sum() < scipy.stats.chi2.ppf(0.999, likely.sum() - 1)


@pytest.mark.parametrize("num_colours", [3, 4])
def test_a_colour_depends_on_the_rounded_colours_before_it_alone(num_colours):
  likelihood = likelihoods.LogisticMixture(256, num_colours, 2)
  head, noise = random_head(likelihood, 2), likelihood.noise(jax.random.key(1))
  pixel = likelihood.draw(head, noise)
  for colour in range(num_colours):
    away = 7.0 if pixel[colour] < 128 else -7.0
    changed = {**noise, "colour_C": noise["colour_C"].at[colour].add(away)}
    other = likelihood.draw(head, changed)
    np.testing.assert_array_equal(other[:colour], pixel[:colour])
    assert other[colour] != pixel[colour]
  # A nudge that leaves red's level as it is leaves green and blue exactly as they are.
  nudged = {**noise, "colour_C": noise["colour_C"].at[0].add(1e-4)}
  np.testing.assert_array_equal(likelihood.draw(head, nudged), pixel)


def test_levels_survive_the_way_to_unit_and_back():
  for num_levels in (2, 17, 256):
    levels = jnp.arange(num_levels)
    unit = likelihoods.to_unit(levels, num_levels)
    assert (unit[0], unit[-1]) == (-1.0, pytest.approx(1.0))
    np.testing.assert_array_equal(likelihoods.to_levels(unit, num_levels), levels)


def test_what_no_likelihood_is_made_for_is_said_in_a_sentence():
  options = {"num_levels": 256, "num_components": 2, "min_log_scale": -7.0}
  with pytest.raises(UserError, match="3 colours of 256 levels; use likelihood='logistic_mix"):
    likelihoods.make("categorical", num_colours=3, **options)
  with pytest.raises(UserError, match="1 colour or more, not 0"):
    likelihoods.make("logistic_mixture", num_colours=0, **options)
  with pytest.raises(UserError, match="'gaussian' is not known"):
    likelihoods.make("gaussian", num_colours=1, **options)
  assert likelihoods.make("auto", num_colours=1, **options) == likelihoods.Categorical(256)


@pytest.mark.parametrize(
  ("num_levels", "num_colours", "is_categorical"),
  [(256, 1, True), (2, 4, True), (4, 2, True), (5, 2, False), (3, 3, False), (256, 3, False)],
)
def test_few_values_have_a_logit_each(num_levels, num_colours, is_categorical):
  made = likelihoods.make(
    "auto", num_levels=num_levels, num_colours=num_colours, num_components=2, min_log_scale=-7.0
  )
  assert isinstance(made, likelihoods.Categorical) == is_categorical
  assert (made.num_levels, made.num_colours) == (num_levels, num_colours)
