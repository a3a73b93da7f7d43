"""Known information through channels, the bounds of it, and their figure."""

import dataclasses
import math

import numpy as np
import pytest

from inversion_jax.exact import curves, measure
from inversion_jax.information.estimators import ESTIMATE, LOWER, UPPER
from inversion_jax.report.bounds import brackets_figure, brackets_section

STRENGTHS = [
  (make, strength) for make, strengths in curves.CURVES.values() for strength in strengths
]


@pytest.mark.parametrize(("make", "strength"), STRENGTHS)
def test_the_conditional_entropy_is_what_the_truth_leaves(make, strength):
  task = make(strength).task
  nats_N = -task.draw(np.random.default_rng(7), 4_000).log_prob_N
  error = nats_N.std() / math.sqrt(len(nats_N)) + task.truth_standard_error
  assert abs(nats_N.mean() - (task.entropy_nats - task.truth_nats)) < 5 * error + 1e-9
  assert 0.0 < task.truth_nats <= task.entropy_nats + 1e-9


def test_a_noisy_bit_is_whole_without_noise_and_falls_as_its_signal_to_noise_ratio():
  assert curves.noisy_bit_nats(0.05) == pytest.approx(math.log(2), abs=1e-9)
  # Half the ratio of the powers, to first order in it; the next order is below 1%.
  assert curves.noisy_bit_nats(10.0) == pytest.approx(0.5 / 100, rel=0.01)


def test_noise_is_drawn_as_the_channel_says():
  noisy = curves.noisy_codes(0.5)
  rng = np.random.default_rng(0)
  h_tilde_NZ = noisy.task.draw(rng, 50_000).h * math.hypot(1.0, 0.5)
  expected = noisy.draw_h(rng, 50_000).var(0) + 0.5**2
  np.testing.assert_allclose(h_tilde_NZ.var(0), expected, rtol=0.05)


def bracket_row(method, kind, nats, sigma=1.0, error=0.1):
  return {
    **{"curve": "noisy_bits", "sigma": sigma, "method": method, "kind": kind, "nats": nats},
    **{"standard_error": error, "ceiling_nats": None, "seconds": 1.0},
    **{"truth_nats": 5.0, "truth_standard_error": 0.0},
  }


def test_a_bound_on_the_wrong_side_is_named():
  fine = [
    bracket_row("infonce", LOWER, 5.2),
    bracket_row("inverter", LOWER, 4.0),
    bracket_row("density_upper", UPPER, 4.8),
    bracket_row("leave_one_out_upper", UPPER, None),
    bracket_row("kraskov", ESTIMATE, 50.0),
  ]
  assert curves.violations(fine) == []
  wrong = [bracket_row("infonce", LOWER, 5.4), bracket_row("density_upper", UPPER, 4.6, error=None)]
  above, below = curves.violations([*fine, *wrong])
  assert above == "noisy_bits at sigma 1: infonce gives 5.4 nats, the truth is 5"
  assert "density_upper gives 4.6" in below


def test_both_sides_hold_on_a_tiny_curve(monkeypatch):
  monkeypatch.setattr(
    measure,
    "NETWORK",
    dataclasses.replace(measure.NETWORK, num_filters=8, num_scales=1, reader_units=8),
  )
  monkeypatch.setattr(curves, "NUM_ROWS", 200)
  monkeypatch.setattr(curves, "NUM_FIT_ROWS", 400)
  monkeypatch.setitem(curves.CURVES, "noisy_codes", (curves.noisy_codes, (1.0,)))
  recipe = measure.dataclasses.replace(measure.QUICK, num_steps=10, log_every=2)
  found = curves.rows("noisy_codes", recipe)
  assert curves.violations(found) == []
  by_method = {row["method"]: row for row in found}
  assert {"inverter", "infonce", "density_upper", "leave_one_out_upper"} <= set(by_method)
  assert by_method["inverter"]["kind"] == LOWER
  assert by_method["infonce"]["nats"] < by_method["density_upper"]["nats"]


def test_the_figure_shows_bounds_in_their_colours_and_the_truth(tmp_path):
  rows = [bracket_row("inverter", LOWER, 4.0 / sigma, sigma) for sigma in (0.5, 1.0)] + [
    bracket_row("density_upper", UPPER, 6.0 / sigma, sigma) for sigma in (0.5, 1.0)
  ]
  rows.append(bracket_row("leave_one_out_upper", UPPER, None))
  (axes,) = brackets_figure({"Noise": rows}).get_axes()
  labels = {text for text in axes.get_legend_handles_labels()[1]}
  assert labels == {"inverter (lower bound)", "density_upper (upper bound)", "truth"}
  lower = axes.containers[0].lines[0]
  np.testing.assert_allclose(np.asarray(lower.get_ydata(), float), [8.0, 4.0])
  html = brackets_section(rows, "fc3", tmp_path / "brackets.png")
  assert "infinite" in html
  assert (tmp_path / "brackets.png").exists()
