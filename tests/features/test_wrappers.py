"""What stands in for h where the answer is known."""

import numpy as np
import pytest

from inversion_jax.features import wrappers
from inversion_jax.features.sources import Stored

ROWS = np.arange(300)
IMAGES = np.zeros((len(ROWS), 4, 4, 1), np.uint8)


def source(shape):
  h = 3.0 + np.random.default_rng(0).gamma(2.0, size=(len(ROWS), *shape))
  return Stored(h.astype(np.float32))


def standardised(features):
  standardiser = wrappers.fit_standardiser(features, IMAGES, ROWS, batch_size=100)
  return np.asarray(wrappers.Standardised(features, standardiser).of(IMAGES, ROWS))


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)], ids=["vector", "map"])
def test_units_on_other_scales_are_the_same_once_standardised(shape):
  rescaled = wrappers.controlled(source(shape), "rescaled", (4, 4, 1))
  assert rescaled.shape == shape
  ratio = rescaled.of(IMAGES, ROWS) / source(shape).of(IMAGES, ROWS)
  np.testing.assert_allclose(ratio[..., 0], 0.01, rtol=1e-5)
  np.testing.assert_allclose(ratio[..., -1], 100.0, rtol=1e-5)
  np.testing.assert_allclose(standardised(rescaled), standardised(source(shape)), atol=1e-4)


def test_units_in_another_order_are_the_same_units():
  permuted = wrappers.controlled(source((7,)), "permuted", (4, 4, 1))
  assert not np.allclose(standardised(permuted), standardised(source((7,))))
  np.testing.assert_array_equal(standardised(permuted)[:, ::-1], standardised(source((7,))))


def test_h_of_other_images_is_of_no_image_itself():
  shuffled = wrappers.controlled(source((7,)), "shuffled", (4, 4, 1)).of(IMAGES, ROWS)
  distances = np.abs(np.asarray(shuffled) - source((7,)).of(IMAGES, ROWS)).sum(-1)
  assert distances.min() > 0.0
