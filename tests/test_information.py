import math

import numpy as np
import pytest

from inversion_jax import information
from inversion_jax.errors import UserError


def covers(estimate, truth):
  low, high = estimate.interval()
  return low <= truth <= high


def test_nats_of_a_published_cifar10_score():
  # PixelCNN++: 2.92 bits per sub-pixel of 32x32x3 images are 6217.7 nats per image.
  assert information.bits_per_dim(6217.7, (32, 32, 3)) == pytest.approx(2.92, abs=1e-5)


def test_dimensions_count_colours():
  grey, colour = (information.bits_per_dim(1.0, (8, 8, channels)) for channels in (1, 3))
  assert grey == pytest.approx(3 * colour)


def test_one_bit_a_pixel():
  assert information.bits_per_dim(64 * math.log(2), [8, 8, 1]) == pytest.approx(1.0)


def test_mean_and_error_of_a_known_set():
  # Deviations -2 -1 0 1 2: s^2 = 10 / 4, standard error sqrt(2.5 / 5).
  estimate = information.mean_with_error(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
  assert estimate == pytest.approx((3.0, math.sqrt(0.5), 5))


def test_the_interval_is_the_normal_one():
  estimate = information.Estimate(10.0, 2.0, 100)
  assert estimate.interval() == pytest.approx((10 - 3.919928, 10 + 3.919928))
  assert estimate.interval(0.6826895) == pytest.approx((8.0, 12.0))


def test_clusters_of_one_row_change_nothing():
  values_N = np.random.default_rng(0).normal(size=50)
  shuffled_N = np.random.default_rng(1).permutation(50) * 7
  alone, clustered = (
    information.mean_with_error(values_N),
    information.mean_with_error(values_N, shuffled_N),
  )
  assert clustered == pytest.approx(alone)


def test_copies_of_a_row_are_no_evidence():
  values_N = np.random.default_rng(0).normal(size=40)
  single = information.mean_with_error(values_N)
  copied = information.mean_with_error(np.tile(values_N, 32), np.tile(np.arange(40), 32))
  # The exact factor: both divide by G - 1.
  assert copied.standard_error == pytest.approx(single.standard_error)
  assert copied.mean == pytest.approx(single.mean)
  assert copied.num == 40


def test_clusters_may_differ_in_size():
  # Cluster sums of residuals around the mean 2: (1 - 2) + (2 - 2) = -1 and 3 - 2 = 1.
  estimate = information.mean_with_error(np.array([1.0, 2.0, 3.0]), np.array([4, 4, 9]))
  assert estimate == pytest.approx((2.0, math.sqrt(2 * 2) / 3, 2))


def test_float32_nats_are_averaged_in_float64():
  values_N = np.full(100_000, 6217.7, np.float32)
  estimate = information.mean_with_error(values_N)
  assert estimate.mean == pytest.approx(float(np.float32(6217.7)), rel=1e-12)


def test_pairing_removes_what_two_models_share():
  rng = np.random.default_rng(0)
  shared_N = rng.normal(2000.0, 65.0, size=1000)
  a_nats_N, b_nats_N = shared_N + rng.normal(4.5, 5.0, 1000), shared_N + rng.normal(0, 5.0, 1000)
  difference = information.paired_difference(a_nats_N, b_nats_N)
  assert difference.mean == pytest.approx(a_nats_N.mean() - b_nats_N.mean())
  assert difference.standard_error == pytest.approx(math.hypot(5, 5) / math.sqrt(1000), rel=0.1)
  assert information.verdict(difference) == "higher"


def test_the_paired_interval_covers_a_known_difference():
  rng = np.random.default_rng(0)
  hits = 0
  for _ in range(1000):
    shared_N = rng.gamma(4.0, 20.0, size=200)
    a_nats_N = shared_N + 1.5 + rng.normal(0, 3, 200)
    b_nats_N = shared_N + rng.normal(0, 1 + shared_N / 80)
    hits += covers(information.paired_difference(a_nats_N, b_nats_N), 1.5)
  # Three binomial standard deviations around 95%.
  assert hits / 1000 == pytest.approx(0.95, abs=0.021)


def test_clustered_intervals_cover_and_naive_ones_do_not():
  rng = np.random.default_rng(0)
  clusters_N = np.repeat(np.arange(100), 8)
  clustered = naive = 0
  for _ in range(600):
    values_N = rng.normal(size=100)[clusters_N] + rng.normal(0, 0.5, size=800)
    clustered += covers(information.mean_with_error(values_N, clusters_N), 0.0)
    naive += covers(information.mean_with_error(values_N), 0.0)
  assert clustered / 600 == pytest.approx(0.945, abs=0.03)
  assert naive / 600 < 0.7


@pytest.mark.parametrize(
  ("mean", "expected"),
  [(1.95, "not resolved"), (1.97, "higher"), (-1.95, "not resolved"), (-1.97, "lower")],
)
def test_verdicts_turn_at_95_percent(mean, expected):
  assert information.verdict(information.Estimate(mean, 1.0, 100)) == expected


def test_a_model_against_itself_is_not_resolved():
  nats_N = np.random.default_rng(0).normal(size=20)
  assert information.verdict(information.paired_difference(nats_N, nats_N)) == "not resolved"


def test_a_stricter_level_resolves_less():
  difference = information.Estimate(2.2, 1.0, 100)
  assert information.verdict(difference) == "higher"
  assert information.verdict(difference, level=0.99) == "not resolved"


@pytest.mark.parametrize("values", [[], [3.0]])
def test_one_image_has_no_error(values):
  with pytest.raises(UserError, match="two independent test images"):
    information.mean_with_error(np.array(values))


def test_one_source_has_no_error():
  with pytest.raises(UserError, match="two independent test images"):
    information.mean_with_error(np.array([1.0, 2.0, 3.0]), np.array([5, 5, 5]))


def test_an_infinite_codelength_is_named():
  with pytest.raises(UserError, match="1 of 3 test images are not finite, first in row 2"):
    information.mean_with_error(np.array([1.0, 2.0, np.inf]))
