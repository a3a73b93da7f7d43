import math

import numpy as np
import pytest

from inversion_jax import information
from inversion_jax.information import statistics
from inversion_jax.machine.errors import UserError


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
  assert estimate == pytest.approx((3.0, math.sqrt(0.5), 5, 0.0, math.inf, 0.0))


def test_the_interval_of_what_a_file_tells_is_the_normal_one():
  estimate = information.Estimate(10.0, 2.0, 0)
  assert estimate.interval() == pytest.approx((10 - 3.919928, 10 + 3.919928))
  assert estimate.interval(0.6826895) == pytest.approx((8.0, 12.0))


def test_the_interval_is_students():
  # Quantiles at 97.5% of a table: 2.045230 for 29 degrees of freedom, 1.969537 for 249.
  for num, quantile in ((30, 2.045230), (250, 1.969537)):
    ends = information.Estimate(10.0, 2.0, num).interval()
    assert ends == pytest.approx((10 - 2 * quantile, 10 + 2 * quantile), rel=1e-6)


def test_under_skew_the_interval_is_longer_on_the_side_of_the_tail_alone():
  values_N = np.random.default_rng(0).lognormal(size=40)
  estimate = information.mean_with_error(values_N)
  central_N = values_N - values_N.mean()
  expected = (central_N**3).sum() / 40**3 / estimate.standard_error**3
  assert estimate.skewness == pytest.approx(expected)
  low, high = estimate.interval()
  symmetric = estimate._replace(skewness=0.0).interval()
  assert low == symmetric[0]
  assert high > symmetric[1] + 0.1 * estimate.standard_error
  # Hall's transformation takes the end to Student's quantile.
  score = (high - estimate.mean) / estimate.standard_error
  a = estimate.skewness
  transformed = score - a * score**2 / 3 - a / 6 + a**2 * score**3 / 27
  assert transformed == pytest.approx(2.022691, abs=1e-6)
  turned = information.mean_with_error(-values_N)
  assert turned == pytest.approx(-estimate)
  assert turned.interval() == pytest.approx((-high, -low))


@pytest.mark.parametrize("num_images", [30, 60])
def test_intervals_of_few_skewed_images_cover(num_images):
  rng, hits = np.random.default_rng(0), {"now": 0, "normal": 0}
  for values_N in rng.lognormal(size=(1500, num_images)):
    estimate = information.mean_with_error(values_N)
    hits["now"] += covers(estimate, math.exp(0.5))
    hits["normal"] += covers(estimate._replace(num=0, skewness=0.0), math.exp(0.5))
  assert hits["now"] / 1500 >= 0.925
  assert hits["normal"] / 1500 <= 0.915


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
  assert estimate == pytest.approx((2.0, math.sqrt(2 * 2) / 3, 2, 0.0, math.inf, 0.0))


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
  assert information.verdict(information.Estimate(mean, 1.0, 10**6)) == expected


@pytest.mark.parametrize(
  ("num", "expected"), [(2, "no verdict"), (29, "no verdict"), (30, "lower")]
)
def test_fewer_than_30_independent_images_get_no_verdict(num, expected):
  values_N = -9.0 + np.random.default_rng(0).normal(size=3 * num)
  sources_N = np.arange(3 * num) // 3
  assert information.verdict(information.mean_with_error(values_N, sources_N)) == expected
  (found,) = information.all_differences([values_N[None], np.zeros((1, 3 * num))], sources_N)
  assert found.verdict == expected
  sentence = information.reservation(found.estimate.num)
  assert bool(sentence) == (expected == "no verdict")
  assert not sentence or f"{num} independent test images" in sentence


def test_a_model_against_itself_is_not_resolved():
  nats_N = np.random.default_rng(0).normal(size=40)
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


def simulated_rows(rng, num_rows, *, num_images=256, per_source=1, num_seeds=1, seed_spread=0.0):
  """Rows without any difference: what images share, what sources share, seeds and noise."""
  clusters_N = np.repeat(np.arange(num_images // per_source), per_source)
  shared_N = rng.gamma(4.0, 20.0, num_images)
  rows = []
  for _ in range(num_rows):
    own_G = rng.normal(0.0, 2.0, num_images // per_source)
    noise_SN = rng.normal(0.0, 1.0, (num_seeds, num_images))
    seeds_S1 = rng.normal(0.0, seed_spread, (num_seeds, 1))
    rows.append(shared_N + own_G[clusters_N] + noise_SN + seeds_S1)
  return rows, clusters_N


@pytest.fixture
def few_draws(monkeypatch):
  """A tenth of the draws, for many comparisons: 5% is then known to 0.5%."""
  monkeypatch.setattr(statistics, "_NUM_DRAWS", 2000)


WORLDS = {
  "images": {},
  "clusters of 32": {"num_images": 3200, "per_source": 32},
  "three seeds": {"num_seeds": 3, "seed_spread": 0.5},
  "three seeds that differ much": {"num_seeds": 3, "seed_spread": 3.0},
  "three seeds alike": {"num_seeds": 3},
}


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("difference", [0.0, 1.5])
def test_intervals_of_a_pair_cover_and_verdicts_err_rarely(world, difference):
  rng = np.random.default_rng(0)
  hits = wrong = 0
  for _ in range(400):
    (first, second), clusters_N = simulated_rows(rng, 2, **WORLDS[world])
    (found,) = information.all_differences([first + difference, second], clusters_N)
    hits += covers(found.estimate, difference)
    wrong += found.verdict == ("lower" if difference else "higher")
    wrong += not difference and found.verdict == "lower"
  assert 0.92 <= hits / 400 <= 0.98
  assert wrong / 400 <= 0.07


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("world", WORLDS)
def test_all_pairs_together_are_rarely_called_different(world):
  rng = np.random.default_rng(5)
  wrong = alone = outside = 0
  for _ in range(400):
    rows, clusters_N = simulated_rows(rng, 5, **WORLDS[world])
    found = information.all_differences(rows, clusters_N)
    wrong += any(each.verdict != "not resolved" for each in found)
    alone += any(information.verdict(each.estimate) != "not resolved" for each in found)
    outside += any(not low <= 0 <= high for *_, (low, high), _, _ in found)
  assert wrong / 400 <= 0.07
  assert outside / 400 <= 0.07
  # What it guards against: with each pair on its own, ten looks find something far more often.
  assert alone > max(2 * wrong, 20)


@pytest.mark.usefixtures("few_draws")
def test_pairs_of_two_seeds_are_rarely_called_different():
  rng = np.random.default_rng(0)
  wrong = 0
  for _ in range(200):
    rows, _ = simulated_rows(rng, 5, num_seeds=2, seed_spread=0.5)
    wrong += any(each.verdict != "not resolved" for each in information.all_differences(rows))
  assert wrong / 200 <= 0.07


@pytest.mark.usefixtures("few_draws")
def test_pairs_that_share_three_seeds_are_rarely_called_different():
  rng = np.random.default_rng(0)
  wrong = hits = 0
  for _ in range(200):
    # What a seed does to all rows, three times what it does to one, cancels.
    common_S1 = rng.normal(0.0, 1.5, (3, 1))
    rows, _ = simulated_rows(rng, 5, num_seeds=3, seed_spread=0.5)
    rows = [values_SN + common_S1 for values_SN in rows]
    found = information.all_differences(rows, seeds=["same"] * 5)
    wrong += any(each.verdict != "not resolved" for each in found)
    hits += covers(found[0].estimate, 0.0)
  assert wrong / 200 <= 0.07
  # The squares of two reaches, each with its own quantile, add: that errs on the long side.
  assert 0.92 <= hits / 200 <= 0.99


def test_a_difference_of_paired_seeds_has_their_differences_as_its_spread():
  a_SN = np.array([[0.0, 2.0], [1.0, 3.0], [5.0, 7.0]])
  b_SN = np.array([[0.0, 0.0], [0.0, 2.0], [6.0, 6.0]])
  estimate = information.difference_over_seeds(a_SN, b_SN, is_paired=True)
  # Differences of the seeds: 1, 1, 0, of variance 1 / 3, a third of which is the mean's.
  assert estimate.mean == pytest.approx(2 / 3)
  assert estimate.seed_error == pytest.approx(1 / 3)
  assert estimate.seed_degrees_of_freedom == pytest.approx(2.0)


def test_errors_blind_to_seeds_would_not_cover():
  rng = np.random.default_rng(0)
  blind = 0
  for _ in range(200):
    (a_SN, b_SN), _ = simulated_rows(rng, 2, num_seeds=3, seed_spread=0.5)
    blind += covers(information.paired_difference(a_SN.mean(0), b_SN.mean(0)), 0.0)
  assert blind / 200 < 0.75


def test_the_error_over_seeds_is_the_written_formula():
  # Means of the seeds 1, 2, 6: variance 7. Images around the mean: -1, 1, so s^2 = 2 and 2 / 2 = 1.
  values_SN = np.array([[0.0, 2.0], [1.0, 3.0], [5.0, 7.0]])
  estimate = information.mean_over_seeds(values_SN)
  assert estimate == pytest.approx((3.0, math.sqrt(1 + 7 / 3), 2, math.sqrt(7 / 3), 2.0, 0.0))
  # Student's quantiles at 97.5%: of one degree of freedom 12.706205, of two 4.302653.
  reach = math.hypot(12.706205, 4.302653 * math.sqrt(7 / 3))
  assert estimate.interval() == pytest.approx((3 - reach, 3 + reach), rel=1e-6)


def test_the_error_of_a_difference_adds_the_seeds_of_both_sides():
  a_SN = np.array([[0.0, 2.0], [1.0, 3.0], [5.0, 7.0]])
  b_SN = np.array([[1.0, 1.0], [3.0, 3.0]])
  estimate = information.difference_over_seeds(a_SN, b_SN)
  # b: means 1 and 3, variance 2 over two seeds; Welch's degrees of freedom.
  seed_variance = 7 / 3 + 2 / 2
  degrees = seed_variance**2 / ((7 / 3) ** 2 / 2 + 1)
  expected = (1.0, math.sqrt(1 + seed_variance), 2, math.sqrt(seed_variance), degrees, 0.0)
  assert estimate == pytest.approx(expected)


def test_one_seed_is_the_paired_difference():
  a_N, b_N = np.random.default_rng(0).normal(size=(2, 60))
  clusters_N = np.arange(60) // 3
  alone = information.paired_difference(a_N, b_N, clusters_N)
  assert information.difference_over_seeds(a_N[None], b_N[None], clusters_N) == alone


@pytest.mark.parametrize(
  "estimate",
  [
    information.Estimate(2.2, 1.0, 9),
    information.Estimate(-0.3, 1.0, 9),
    information.Estimate(9.0, 1.5, 9, 1.0, 1.7),
    information.Estimate(-2.0, 1.0, 40, 0.0, math.inf, 0.6),
  ],
)
def test_the_interval_at_the_level_of_the_p_value_ends_at_zero(estimate):
  ends = estimate.interval(1 - estimate.p_value)
  assert min(map(abs, ends)) == pytest.approx(0.0, abs=1e-9)


def test_the_p_value_is_the_normal_one():
  # 2 (1 - Phi(2.5)), from a table.
  assert information.Estimate(2.5, 1.0, 0).p_value == pytest.approx(0.012419, abs=1e-6)


@pytest.mark.parametrize(
  ("estimate", "expected"),
  [
    (information.Estimate(0.0, 1.0, 9), 1.0),
    (information.Estimate(0.0, 0.0, 9), 1.0),
    (information.Estimate(-12.0, 1.0, 0), 1e-30),
    # The interval of no length leaves this to the side of the tail.
    (information.Estimate(-0.01, 1.0, 40, 0.0, math.inf, 0.6), 1.0),
    (information.Estimate(0.1, 0.0, 9), 1e-30),
  ],
)
def test_the_p_value_of_no_difference_is_one_and_none_is_below_the_least(estimate, expected):
  assert estimate.p_value == expected


def test_an_estimate_is_read_as_it_was_written():
  estimate = information.Estimate(-2.5, 0.5, 9)
  assert estimate.fields("nce_nats") == {"nce_nats": -2.5, "nce_nats_standard_error": 0.5}
  record = estimate.fields("mean_l1", "standard_error")
  assert record == {"mean_l1": -2.5, "standard_error": 0.5}
  assert information.Estimate.read(record, "mean_l1", "standard_error")[:2] == estimate[:2]
  # Some estimators have no error.
  unknown = information.Estimate.read({"nats": 1.0, "nats_standard_error": None}, "nats")
  assert unknown.interval() == (1.0, 1.0)


def test_adjusted_p_values_lie_between_the_pairs_own_and_holms():
  rows, _ = simulated_rows(np.random.default_rng(3), 5)
  rows = [row + shift for row, shift in zip(rows, (0.0, 0.3, 0.5, 0.6, 4.0), strict=True)]
  found = sorted(information.all_differences(rows), key=lambda each: each.estimate.p_value)
  own = np.array([each.estimate.p_value for each in found])
  holm = np.maximum.accumulate(own * np.arange(len(own), 0, -1)).clip(max=1.0)
  adjusted = np.array([each.adjusted_p_value for each in found])
  assert np.all(own <= adjusted)
  assert np.all(adjusted <= holm)
  assert np.any(adjusted < 0.95 * holm), "what the pairs share is used"
  assert np.all(np.diff(adjusted) >= 0)


def test_differences_that_are_certain_do_not_cost_the_others():
  rng = np.random.default_rng(0)
  rows, _ = simulated_rows(rng, 2, num_images=400)
  rows[1] += rows[0].mean() - rows[1].mean() + 2.3 * math.sqrt(10 / 400)
  far = [row + 500.0 * place for place, row in enumerate(simulated_rows(rng, 3, num_images=400)[0])]
  found = information.all_differences([*rows, *[row + 1000.0 for row in far]])
  # The first pair, 2.3 errors apart, is the only one in doubt of ten: it is tested as one.
  assert found[0].verdict == "lower"
  assert found[0].simultaneous_interval[1] > 0 > found[0].estimate.interval()[1]
  assert found[0].adjusted_p_value == pytest.approx(found[0].estimate.p_value)


def test_the_law_of_the_largest_score_is_tukeys():
  # Five independent rows: the studentised range of five at 95% is 3.858, over sqrt(2) 2.728.
  rng = np.random.default_rng(0)
  rows = list(rng.normal(size=(5, 1, 4000)))
  found = information.all_differences(rows)
  low, high = found[0].simultaneous_interval
  assert (high - low) / 2 / found[0].estimate.standard_error == pytest.approx(2.728, abs=0.04)


def test_a_difference_can_be_turned_round():
  values_N = 3.0 + np.arange(40.0) % 3
  (found,) = information.all_differences([values_N[None], np.zeros((1, 40))])
  turned = found.reversed()
  assert (found.verdict, turned.verdict) == ("higher", "lower")
  assert (turned.first, turned.second) == (1, 0)
  assert turned.estimate.mean == -found.estimate.mean
  assert turned.simultaneous_interval == tuple(-end for end in found.simultaneous_interval[::-1])
  assert turned.reversed() == found


def test_the_same_data_get_the_same_verdicts():
  rows, clusters_N = simulated_rows(np.random.default_rng(0), 4)
  first, second = (information.all_differences(rows, clusters_N) for _ in range(2))
  assert first == second


def test_what_all_images_share_may_be_huge():
  rows, _ = simulated_rows(np.random.default_rng(3), 4)
  shared_N = np.random.default_rng(0).normal(0.0, 1e7, rows[0].shape[1])
  plain, shifted = (
    [each.adjusted_p_value for each in information.all_differences(values)]
    for values in (rows, [row + shared_N for row in rows])
  )
  assert shifted == pytest.approx(plain, abs=1e-3)
