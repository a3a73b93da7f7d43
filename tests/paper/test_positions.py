"""Where ink lies: scatter of samples, and what a readout of h leaves of it."""

import numpy as np
import pytest

from inversion_jax.paper import positions


def dots(places, size=9):
  images = np.zeros((len(places), size, size, 1), np.uint8)
  for image, (row, column) in zip(images, places, strict=True):
    image[row, column] = 50
  return images


def test_a_centre_is_the_mean_place_of_ink():
  images = dots([(0, 8), (3, 4)])
  images[1, 3, 6] = 150  # three times the ink
  np.testing.assert_allclose(positions.centres(images), [[0, 8], [3, 5.5]])
  np.testing.assert_allclose(positions.centres(0 * images), 4.0)


def test_samples_that_move_scatter_and_samples_that_stay_do_not():
  moving = dots([(0, 0), (0, 8), (8, 0), (8, 8)])
  still = dots([(4, 4)] * 4)
  samples = np.stack([still, moving, 0 * still])
  np.testing.assert_allclose(positions.scatter(samples), [0.0, 2 * 64 / 3, 0.0], atol=1e-9)
  assert positions.empty_fraction(samples) == pytest.approx(1 / 3)


def test_a_readout_misses_what_h_does_not_say():
  rng = np.random.default_rng(0)
  centre_N2 = rng.normal(0, 3.0, (2000, 2))
  others = rng.normal(size=(2000, 5))
  knows_rows = np.concatenate([2 * centre_N2[:, :1] + 7, others], axis=1)
  halves = slice(0, 1000), slice(1000, 2000)

  def missed(h):
    (train, test) = halves
    return positions.missed(h[train], centre_N2[train], h[test], centre_N2[test]).mean()

  columns_variance = centre_N2[halves[1], 1].var()
  assert missed(knows_rows) == pytest.approx(columns_variance, rel=0.02)
  assert missed(others) == pytest.approx(centre_N2[halves[1]].var(0).sum(), rel=0.03)


def test_the_readout_of_a_run_is_learnt_from_its_training_images(finished):
  left_N, sources_N = positions.left_by_readout(finished)
  test = finished.pairs("test")
  np.testing.assert_array_equal(sources_N, test.sources)
  assert left_N.shape == (len(test),)
  # No worse than to say the mean, but for chance: h knows something of where ink is.
  everything = positions.centres(test.images).var(0).sum()
  assert 0 < left_N.mean() < 1.2 * everything
