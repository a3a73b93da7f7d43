"""Mixtures of densities, on small ones that can be added up by hand."""

import numpy as np
import pytest

from inversion_jax.information import mixtures

SHARES = (0.0, 0.01, 0.3, 1.0)


def random_nats(num_members=3, num_images=40, num_pixels=12, spread=2.0):
  rng = np.random.default_rng(0)
  shape = num_members, num_images, num_pixels
  return rng.gamma(1.0, 1.0, shape) + spread * rng.random((num_members, 1, num_pixels))


def test_pixel_by_pixel_with_moving_weights_it_is_the_mixture_of_whole_images():
  nats_MNP = random_nats()
  whole_N = mixtures.mixture_nats(nats_MNP.sum(2))
  np.testing.assert_allclose(mixtures.nats_along(nats_MNP).sum(1), whole_N, rtol=1e-12)
  expected_N = -np.log(np.exp(-nats_MNP.sum(2)).mean(0))
  np.testing.assert_allclose(whole_N, expected_N, rtol=1e-12)


def test_weights_are_the_posterior_of_the_pixels_before():
  nats_MNP = random_nats()
  weights_MNP = mixtures.weights_along(nats_MNP)
  np.testing.assert_allclose(weights_MNP[..., 0], 1 / 3)
  seen_MN = np.exp(-nats_MNP[..., :5].sum(2))
  np.testing.assert_allclose(weights_MNP[..., 5], seen_MN / seen_MN.sum(0), rtol=1e-12)


@pytest.mark.parametrize("share", SHARES)
def test_the_mixture_is_a_density_whatever_the_share(share):
  # Two autoregressive densities of three bits, all eight images: they add up to one.
  bits_NP = np.arange(8)[:, None] >> np.arange(3) & 1
  one_MNP = np.stack([0.2 + 0.1 * np.cumsum(bits_NP, 1), np.full((8, 3), 0.7)])
  one_MNP = np.concatenate([np.full((2, 8, 1), 0.4), one_MNP[..., :-1]], axis=2)
  nats_MNP = -np.log(np.where(bits_NP, one_MNP, 1 - one_MNP))
  assert np.exp(-nats_MNP.sum(2)).sum(1) == pytest.approx([1.0, 1.0])
  weights_MNP = mixtures.weights_along(nats_MNP, share)
  np.testing.assert_allclose(weights_MNP.sum(0), 1.0)
  assert np.exp(-mixtures.nats_along(nats_MNP, share).sum(1)).sum() == pytest.approx(1.0)


def test_what_is_promised_of_it_holds_for_every_image():
  nats_MN = random_nats(num_images=500).sum(2)
  whole_N = mixtures.mixture_nats(nats_MN)
  assert (whole_N <= nats_MN.min(0) + np.log(3) + 1e-12).all()
  assert (whole_N <= nats_MN.mean(0) + 1e-12).all()
  assert (whole_N >= nats_MN.min(0)).all()
  # Members that all agree are their mixture.
  np.testing.assert_allclose(mixtures.mixture_nats(nats_MN[:1].repeat(4, 0)), nats_MN[0])


def test_a_share_of_one_is_the_mean_of_the_probabilities_of_each_pixel():
  nats_MNP = random_nats()
  expected_NP = -np.log(np.exp(-nats_MNP).mean(0))
  np.testing.assert_allclose(mixtures.nats_along(nats_MNP, 1.0), expected_NP, rtol=1e-12)


def test_with_a_share_the_best_of_each_part_of_an_image_is_found():
  # Each of two members knows one half of every image.
  nats_MNP = np.full((2, 5, 40), 3.0)
  nats_MNP[0, :, :20] = nats_MNP[1, :, 20:] = 0.5
  best = 20.0
  switching, fixed = (mixtures.nats_along(nats_MNP, share).sum(1) for share in (0.03, 0.0))
  assert (fixed > 60).all()
  assert (switching < best + 10).all()


def test_thousands_of_nats_do_not_overflow():
  nats_MN = np.array([[5000.0], [7000.0]])
  assert mixtures.mixture_nats(nats_MN) == pytest.approx(5000 + np.log(2))
  assert mixtures.nats_along(nats_MN[..., None]).sum() == pytest.approx(5000 + np.log(2))
