"""The page and the tables of several runs."""

import csv
import math

import numpy as np
import pytest
from report_examples import (
  NATS,
  NUM_TEST,
  draw_nats,
  draw_samples,
  enlarged,
  fake_run,
  find,
  read_page,
  read_picture,
  scale_of,
  words,
)

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.report import figures, write_comparison


def read_rows(parent):
  return storage.read_json(parent / "comparison.json")


def test_comparison_rows_hold_the_paired_differences(parent_dir):
  rows = read_rows(parent_dir)
  assert [row["layer"] for row in rows] == list(NATS)
  assert [row["nce_nats"] for row in rows] == pytest.approx([-nats for nats in NATS.values()])
  assert rows[1]["nce_minus_previous_nats"] == pytest.approx(26.4 - 43.1)
  # Each layer adds noise of deviation 1.5 of its own; the rest is shared and cancels.
  expected = 1.5 * math.sqrt(2 / NUM_TEST)
  assert rows[1]["nce_minus_previous_nats_standard_error"] == pytest.approx(expected, rel=0.2)
  assert [row["verdict_against_previous"] for row in rows] == [
    None,
    "lower",
    "lower",
    "lower",
    None,
  ]


def test_the_relative_figure_is_the_papers(parent_dir):
  relative = [row["nce_relative_to_conv1"] for row in read_rows(parent_dir)]
  assert relative[0] == -1.0
  assert relative[1] == pytest.approx(-43.1 / 26.4)


def test_gains_over_the_unconditional_model_are_called_estimates(parent_dir):
  rows = read_rows(parent_dir)
  assert [row["information_estimate_nats"] for row in rows[:4]] == pytest.approx(
    [79.1 - NATS[layer] for layer in list(NATS)[:4]]
  )
  assert rows[4]["information_estimate_nats"] is None
  shown = words(read_page(parent_dir))
  assert "none (p(x))" in shown
  assert "an estimate of the information, not a bound" in shown


def test_the_csv_says_what_the_json_says(parent_dir):
  with (parent_dir / "comparison.csv").open(newline="", encoding="utf-8") as file:
    table = list(csv.DictReader(file))
  rows = read_rows(parent_dir)
  assert [list(row) for row in table] == [list(row) for row in rows]
  for written, row in zip(table, rows, strict=True):
    for key, value in row.items():
      if isinstance(value, float):
        assert float(written[key]) == value
      else:
        assert written[key] == ("" if value is None else str(value))


def test_an_order_that_holds_is_said_to_hold(parent_dir):
  shown = words(read_page(parent_dir))
  assert "Expected order conv1 > conv2 > fc3 > logits: holds. Every step is resolved" in shown
  assert "xception" not in shown


def test_the_comparison_links_to_reports_that_exist(parent_dir):
  text = read_page(parent_dir)
  assert '<a href="conv1/report.html">conv1</a>' in text
  assert "conv2/report.html" not in text


def test_the_comparison_shows_one_image_through_all_layers(parent_dir):
  picture = read_picture(parent_dir / storage.FIGURES / "samples.png")
  original = draw_samples("conv1")["original"][2]
  scale = scale_of(original, picture)
  ((top, left),) = find(enlarged(original, scale), picture)
  for layer in NATS:
    ((sample_top, sample_left),) = find(
      enlarged(draw_samples(layer)["sample"][2, 0], scale), picture
    )
    assert sample_top == top
    assert sample_left > left
    left = sample_left


def compare_two(parent, upstream_nats_N, downstream_nats_N, layers=("conv2", "fc3")):
  folders = [
    fake_run(parent / f"{place}_{layer}", layer, nats_N, samples=False, stages=())
    for place, (layer, nats_N) in enumerate(
      zip(layers, (upstream_nats_N, downstream_nats_N), strict=True)
    )
  ]
  write_comparison(parent, folders)
  return read_rows(parent), words(read_page(parent))


def test_a_layer_above_its_upstream_is_flagged(tmp_path):
  rows, shown = compare_two(tmp_path, draw_nats("conv2", 50.0), draw_nats("fc3", 47.0))
  assert rows[1]["verdict_against_previous"] == "higher"
  assert (
    "Expected order conv2 > fc3: exception flagged. fc3 scores higher than conv2 by 3.0" in shown
  )
  # Every decoder of fc3 is one of conv2.
  assert [row["nce_envelope_nats"] for row in rows] == pytest.approx([-47.0, -47.0])
  assert [row["nce_relative_to_conv1"] for row in rows] == [None, None]


def test_a_difference_within_the_noise_is_not_resolved(tmp_path):
  rows, shown = compare_two(tmp_path, draw_nats("conv2", 50.0), draw_nats("fc3", 49.95))
  assert rows[1]["verdict_against_previous"] == "not resolved"
  assert "not contradicted. Not resolved at 95%: conv2 and fc3." in shown


def test_no_order_is_expected_of_one_layer_twice(tmp_path):
  nats_N = draw_nats("fc3")
  rows, shown = compare_two(tmp_path, nats_N, nats_N - 5.0, ("fc3", "fc3"))
  assert "no order is expected" in shown
  assert "fc3 (0_fc3)" in shown
  assert "fc3 (1_fc3)" in shown
  assert rows[0]["nce_envelope_nats"] is None


def test_a_layer_below_the_unconditional_model_is_flagged(tmp_path):
  layers = ("logits", "none")
  _, shown = compare_two(tmp_path, draw_nats("logits", 80.0), draw_nats("none", 79.0), layers)
  assert "Exception flagged: logits scores lower than p(x)" in shown


def test_samples_are_matched_by_image_not_by_row(tmp_path):
  folders = [fake_run(tmp_path / layer, layer, stages=()) for layer in ("conv1", "conv2")]
  samples = draw_samples("conv2")
  samples["reconstruction"] = 16 - samples["original"]
  backwards = {name: values[::-1][:4] for name, values in samples.items()}
  storage.write_npz(folders[1] / storage.SAMPLES, backwards)
  write_comparison(tmp_path, folders)
  picture = read_picture(tmp_path / storage.FIGURES / "samples.png")
  scale = scale_of(samples["original"][2], picture)
  assert not find(enlarged(samples["original"][0], scale), picture), "only conv1 has this image"
  for row in range(2, 6):
    ((top, _),) = find(enlarged(samples["original"][row], scale), picture)
    ((sample_top, left),) = find(enlarged(samples["sample"][row, 0], scale), picture)
    ((mse_top, mse_left),) = find(enlarged(samples["reconstruction"][row], scale), picture)
    assert sample_top == mse_top == top
    assert mse_left < left
  assert "MSE: the single image" in words(read_page(tmp_path))


@pytest.mark.parametrize("change", ["rows", "order", "dataset"])
def test_other_test_images_are_refused(change, tmp_path):
  first, second = (fake_run(tmp_path / layer, layer, samples=False) for layer in ("conv1", "fc3"))
  arrays = storage.read_npz(second / storage.NATS)
  summary = storage.read_json(second / storage.SUMMARY)
  if change == "rows":
    arrays["index"] = arrays["index"] - 1
  elif change == "order":
    arrays = {name: values[::-1] for name, values in arrays.items()}
  else:
    summary["dataset"] = "mnist"
  storage.write_npz(second / storage.NATS, arrays)
  storage.write_json(second / storage.SUMMARY, summary)
  with pytest.raises(UserError, match=r"conv1 and .*fc3 were evaluated on different test images"):
    write_comparison(tmp_path, [first, second])
  assert not (tmp_path / "comparison.json").exists()


def test_nothing_cannot_be_compared(tmp_path):
  with pytest.raises(UserError, match="at least one run folder"):
    write_comparison(tmp_path, [])


def test_the_bars_of_skewed_values_end_where_their_interval_does():
  tail = information.mean_with_error(-np.random.default_rng(0).lognormal(0.0, 1.5, 200))
  even = information.mean_with_error(np.random.default_rng(0).normal(size=200))
  bars_2N = figures.error_bars([tail, even])
  for (below, above), estimate in zip(bars_2N.T, (tail, even), strict=True):
    low, high = estimate.interval()
    np.testing.assert_allclose((estimate.mean - below, estimate.mean + above), (low, high))
  assert bars_2N[0, 0] > 1.1 * bars_2N[1, 0]
