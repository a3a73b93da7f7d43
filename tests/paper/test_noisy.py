"""Both sides of what a layer tells through noise, of runs and over seeds."""

import numpy as np
import pytest

from inversion_jax import information
from inversion_jax.paper import noisy


@pytest.fixture
def through_noise(finished):
  """The same run, whose layer is seen through noise of a size."""

  def of(sigma):
    config = finished.config.copy_and_resolve_references()
    with config.unlocked():
      config.representation.sigma = sigma
    return type(finished)(config, finished.folder)

  return of


def test_less_noise_leaves_more_and_both_sides_are_in_order(finished, through_noise):
  num_rows = len(np.unique(finished.images("test").sources))
  loud, quiet = (noisy.sides(through_noise(sigma)) for sigma in (4.0, 1.0))
  for found in (loud, quiet):
    assert 0 < found.lower < found.upper
    assert found.lower <= found.ceiling == pytest.approx(np.log(num_rows))
  assert quiet.lower > 1.5 * loud.lower
  assert quiet.upper > loud.upper


def test_without_noise_there_is_no_side(finished, through_noise, monkeypatch):
  assert noisy.cells(noisy.of_seeds([finished.folder]), []) == {}
  monkeypatch.setattr(noisy.Run, "load", lambda folder: through_noise(1.0))
  told = noisy.Sides(1.0, 2.0, ceiling=3.0)
  monkeypatch.setattr(noisy, "sides", lambda run: told)
  assert noisy.of_seeds([finished.folder] * 2) == [told] * 2


def test_sides_are_pooled_and_paired_by_seed():
  now_S = [noisy.Sides(lower, 9.0, ceiling=7.0) for lower in (3.0, 4.0, 8.0)]
  before_S = [noisy.Sides(lower, 9.0, ceiling=7.0) for lower in (1.0, 2.5, 5.5)]
  found = noisy.cells(now_S, before_S)
  assert found["ceiling_nats"] == 7.0
  assert found["lower_nats"] == 5.0
  # Student's quantile of two degrees of freedom is 4.303, on both sides of three skewed values.
  reach = 4.303 * np.std([3.0, 4.0, 8.0], ddof=1) / np.sqrt(3)
  ends = found["lower_low"], found["lower_high"]
  assert ends == pytest.approx((5.0 - reach, 5.0 + reach), rel=1e-3)
  assert found["lower_since_before_nats"] == pytest.approx((2.0 + 1.5 + 2.5) / 3)
  changes = information.mean_with_error(np.array([2.0, 1.5, 2.5])).interval()
  names = [f"lower_since_before_{end}" for end in ("low", "high")]
  assert [found[name] for name in names] == pytest.approx(changes)
  assert found["upper_since_before_nats"] == 0.0
