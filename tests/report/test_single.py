"""The report of one run."""

import math

import numpy as np
import pytest
from report_examples import (
  draw_samples,
  enlarged,
  fake_check,
  fake_run,
  find,
  read_page,
  read_picture,
  scale_of,
  words,
)

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.report import write_run_report


def test_the_run_report_leads_with_the_number_and_its_error(run_dir):
  summary = storage.read_json(run_dir / storage.SUMMARY)
  error = summary["nce_nats_standard_error"]
  shown = words(read_page(run_dir))
  assert f"\N{MINUS SIGN}43.10 ± {error:.2f} nats per image" in shown
  assert f"{43.1 / 64 / math.log(2):.4f} bits per sub-pixel" in shown
  nats = storage.read_npz(run_dir / storage.NATS)
  low, high = information.mean_with_error(-nats["nats"], nats["source"]).interval()
  assert f"\N{MINUS SIGN}{-low:.2f} to \N{MINUS SIGN}{-high:.2f}" in shown
  assert "Usable information (lower bound)." in shown
  assert "98.4% test accuracy" in shown


def test_the_run_report_names_the_easiest_and_the_hardest_images(run_dir):
  nats = storage.read_npz(run_dir / storage.NATS)
  shown = words(read_page(run_dir))
  easiest, hardest = nats["nats"].argmin(), nats["nats"].argmax()
  for heading, row in (
    ("Fewest nats: best predicted", easiest),
    ("Most nats: least expected", hardest),
  ):
    expected = f"{nats['index'][row]} {nats['label'][row]} {nats['nats'][row]:.2f}"
    assert f"{heading} test image label nats {expected}" in shown


def test_every_setting_is_printed_under_its_command_line_name(run_dir):
  shown = words(read_page(run_dir))
  assert "inverter.network.num_filters 32" in shown
  assert "representation.step None" in shown
  assert "classifier.network.dropout_rate 0.25" in shown


def test_samples_are_shown_pixel_by_pixel(run_dir):
  samples = draw_samples("conv2")
  picture = read_picture(run_dir / storage.FIGURES / "samples.png")
  scale = scale_of(samples["original"][0], picture)
  originals = [find(enlarged(image, scale), picture) for image in samples["original"]]
  assert [len(places) for places in originals] == [1] * 6
  tops, lefts = zip(*(places[0] for places in originals), strict=True)
  assert len(set(lefts)) == 1, "originals stand in one column"
  assert len(set(np.diff(tops))) == 1, "rows stand in order, evenly"
  assert tops[1] - tops[0] > 8 * scale, "rows do not touch"
  for row in range(6):
    places = [find(enlarged(image, scale), picture)[0] for image in samples["sample"][row]]
    assert {top for top, _ in places} == {tops[row]}
    assert np.all(np.diff([lefts[0], *(left for _, left in places)]) > 8 * scale)


def test_a_second_report_has_the_same_bytes(run_dir):
  before = read_page(run_dir)
  write_run_report(run_dir)
  assert read_page(run_dir) == before


def test_values_are_escaped(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=())
  config, summary = (storage.read_json(folder / name) for name in (storage.CONFIG, storage.SUMMARY))
  storage.write_json(folder / storage.CONFIG, config | {"note": '<b>bold</b> & "more"'})
  storage.write_json(
    folder / storage.SUMMARY, summary | {"<i>new": "<img src=x>", "dataset": "a<b"}
  )
  write_run_report(folder)
  text = read_page(folder)
  assert "<b>" not in text
  assert "<img src=x>" not in text
  assert "&lt;i&gt;new" in text
  assert "<title>What conv2 still knows of a&lt;b images</title>" in text


def test_a_run_that_read_a_classifier_says_so(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=("inverter",))
  write_run_report(folder)
  assert "The classifier was trained elsewhere" in read_page(folder)


def test_the_unconditional_model_is_not_called_a_bound_on_information(tmp_path):
  folder = fake_run(tmp_path / "run", "none", stages=())
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "Entropy (upper bound)." in shown
  assert "lower bound" not in shown
  assert "classifier was trained" not in shown
  assert "samples of the model, which sees no original" in shown


def test_a_report_without_samples_or_log_says_what_is_missing(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=())
  (folder / storage.METRICS).unlink()
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "run the sample stage" in shown
  assert "No training was recorded here." in shown


def test_the_command_is_printed_where_it_is_known(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=())
  summary = storage.read_json(folder / storage.SUMMARY)
  command = "python -m inversion_jax.main --config=configs/digits_conv2.py"
  storage.write_json(folder / storage.SUMMARY, summary | {"command": command})
  write_run_report(folder)
  assert read_page(folder).count(command) == 1


def test_checks_are_shown_once_there_are_some(tmp_path):
  folder = fake_run(tmp_path / "conv2", stages=())
  write_run_report(folder)
  assert "<h2>Checks</h2>" not in read_page(folder)
  checks = [
    fake_check("shuffled", True),
    fake_check("copy", True, difference_nats=-17.0, low=-17.3, high=-16.7, least=-20.22),
  ]
  storage.write_json(folder / storage.CHECKS, checks)
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "All 2 passed." in shown
  assert (
    "shuffled passed what shuffled must do \N{MINUS SIGN}75.5 ± 2.5 \N{MINUS SIGN}80.4 to"
    " \N{MINUS SIGN}70.6 at most 0.00" in shown
  )
  assert "\N{MINUS SIGN}20.22 to 0.00" in shown


def test_a_failed_check_is_a_warning(tmp_path):
  folder = fake_run(tmp_path / "conv2", stages=())
  checks = [fake_check("shuffled", True), fake_check("copy", False)]
  storage.write_json(folder / storage.CHECKS, checks)
  write_run_report(folder)
  text = read_page(folder)
  assert "1 of 2 failed: copy. Numbers of this run should not be used." in words(text)
  assert "note warning" in text
  assert "<strong>FAILED</strong>" in text


@pytest.mark.parametrize(("step", "is_stale"), [(300, True), (400, False)])
def test_checks_of_another_step_say_so(step, is_stale, tmp_path):
  folder = fake_run(tmp_path / "conv2", stages=())
  storage.write_json(folder / storage.CHECKS, [fake_check("shuffled", True, inverter_step=step)])
  write_run_report(folder)
  text = read_page(folder)
  said = "Of the inverter of step 300, which is not the one evaluated here: run the checks stage"
  assert (said in words(text)) == is_stale
  assert ("note warning" in text) == is_stale
