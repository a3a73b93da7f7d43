import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from inversion_jax.features import noise
from inversion_jax.machine.errors import UserError

KEY = jax.random.key(0)
BOTH = [noise.Gaussian(0.3), noise.Quantised(3, -2.0, 2.0)]


@pytest.mark.parametrize("channel", BOTH)
def test_both_have_the_members_of_a_channel(channel):
  assert isinstance(channel, noise.Channel)


@pytest.mark.parametrize("channel", BOTH)
@pytest.mark.parametrize("shape", [(7,), (4, 3), (4, 2, 3, 5)])
def test_any_shape_is_kept(channel, shape):
  h = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  assert channel.apply(h, KEY).shape == shape
  assert channel.log_prob(channel.apply(h, KEY), h).shape == shape[:1]


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_noise_has_mean_zero_and_the_stated_spread(sigma):
  h = np.random.default_rng(0).normal(size=(20_000,)).astype(np.float32)
  added = np.asarray(noise.Gaussian(sigma).apply(h, KEY)) - h
  # Four standard errors each.
  assert abs(added.mean()) < 4 * sigma / math.sqrt(20_000)
  assert added.std() == pytest.approx(sigma, rel=4 / math.sqrt(40_000))
  assert abs(np.corrcoef(added, h)[0, 1]) < 4 / math.sqrt(20_000)


def test_noise_is_a_function_of_the_key():
  h, channel = np.zeros((5, 4), np.float32), noise.Gaussian(1.0)
  once, again = channel.apply(h, KEY), channel.apply(h, KEY)
  np.testing.assert_array_equal(once, again)
  assert not np.allclose(once, channel.apply(h, jax.random.key(1)))


def test_gaussian_nats_are_the_normal_log_density_summed_over_units():
  rng = np.random.default_rng(0)
  h, h_tilde = rng.normal(size=(2, 6, 2, 3, 4)).astype(np.float32)
  expected_B = stats.norm.logpdf(h_tilde, h, 0.3).sum((1, 2, 3))
  np.testing.assert_allclose(noise.Gaussian(0.3).log_prob(h_tilde, h), expected_B, rtol=1e-5)


@pytest.mark.parametrize("channel", BOTH)
def test_one_row_is_compared_with_many(channel):
  h_BZ = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
  h_tilde_BZ = channel.apply(h_BZ, KEY)
  one_by_one = [channel.log_prob(h_tilde_BZ[:1], h_BZ[i : i + 1])[0] for i in range(6)]
  np.testing.assert_allclose(channel.log_prob(h_tilde_BZ[:1], h_BZ), one_by_one, rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_a_quantised_unit_takes_2_to_the_bits_evenly_spaced_values(bits):
  channel = noise.Quantised(bits, -1.0, 3.0)
  h = jnp.linspace(-1.0, 3.0, 10_001)
  h_tilde = np.asarray(channel.apply(h, KEY))
  values = np.unique(h_tilde)
  width = 4.0 / 2**bits
  np.testing.assert_allclose(values, -1 + width * (np.arange(2**bits) + 0.5), rtol=1e-5, atol=1e-6)
  assert np.abs(h_tilde - h).max() <= width / 2 + 1e-5


def test_what_lies_beyond_the_range_belongs_to_the_edge_bins():
  h_tilde = noise.Quantised(2, 0.0, 1.0).apply(jnp.array([-9.0, 9.0, 1.0]), KEY)
  np.testing.assert_allclose(h_tilde, [0.125, 0.875, 0.875])


@pytest.mark.parametrize("channel", [noise.Quantised(1, -0.3, 0.8), noise.Quantised(16, -3.0, 3.0)])
def test_quantising_twice_changes_nothing(channel):
  h = np.random.default_rng(0).normal(size=(5000,)).astype(np.float32)
  once = channel.apply(h, KEY)
  np.testing.assert_array_equal(channel.apply(once, KEY), once)


@pytest.mark.parametrize("bits", [1, 4, 16])
def test_the_drawn_code_has_probability_one_and_its_neighbour_zero(bits):
  channel = noise.Quantised(bits, -2.0, 2.0)
  h_BZ = np.random.default_rng(0).uniform(-2, 2, size=(50, 6)).astype(np.float32)
  h_tilde_BZ = jax.jit(channel.apply)(h_BZ, KEY)
  np.testing.assert_array_equal(channel.log_prob(h_tilde_BZ, h_BZ), 0.0)
  # One unit of each row, one bin up or down.
  neighbour_BZ = h_tilde_BZ.at[:, 2].add(jnp.where(h_tilde_BZ[:, 2] > 0, -1, 1) * channel.width)
  np.testing.assert_array_equal(channel.log_prob(neighbour_BZ, h_BZ), -np.inf)


def test_the_probabilities_of_all_codes_sum_to_one():
  channel = noise.Quantised(2, -1.0, 1.0)
  centres = channel.apply(jnp.linspace(-0.9, 0.9, 50), KEY)
  codes_KZ = jnp.array(list(itertools.product(np.unique(centres), repeat=3)))
  h_1Z = jnp.array([[-0.4, 5.0, 0.1]])
  assert len(codes_KZ) == 64
  assert jnp.exp(channel.log_prob(codes_KZ, h_1Z)).sum() == 1.0


def test_a_value_that_is_no_centre_has_probability_zero():
  channel = noise.Quantised(2, -1.0, 1.0)
  assert channel.log_prob(jnp.array([[0.1]]), jnp.array([[0.1]]))[0] == -np.inf


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_a_sigma_that_is_no_spread_is_named(sigma):
  with pytest.raises(UserError, match="sigma"):
    noise.Gaussian(sigma)


@pytest.mark.parametrize(
  ("bits", "low", "high", "named"),
  [(0, 0.0, 1.0, "bits"), (17, 0.0, 1.0, "bits"), (2, 1.0, 1.0, "low"), (2, 0.0, math.inf, "high")],
)
def test_bins_that_cannot_be_are_named(bits, low, high, named):
  with pytest.raises(UserError, match=named):
    noise.Quantised(bits, low, high)
