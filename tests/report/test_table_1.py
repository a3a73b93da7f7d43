"""Distances in the space of a layer, in the report of a run and as the paper's table."""

import csv
import re

import pytest
from report_examples import (
  draw_samples,
  enlarged,
  fake_neighbours,
  fake_run,
  find,
  read_page,
  read_picture,
  scale_of,
  words,
)

from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.report import write_run_report, write_table_1


def test_the_report_shows_neighbours_once_they_are_measured(tmp_path):
  folder = fake_neighbours(fake_run(tmp_path / "run"))
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "IM-NN the closest of 8 samples 0.0180 ± 0.0010" in shown
  assert "digits conv2 1NN minus IM-S 0.03000 ± 0.00050 0.02902 to 0.03098 higher" in shown
  assert "measures the error of the model, not an invariance of the layer" in shown
  assert "run the neighbours stage again" not in shown
  picture = read_picture(folder / storage.FIGURES / "neighbours.png")
  samples = draw_samples("conv2")
  scale = scale_of(samples["original"][0], picture)
  lefts = [
    find(enlarged(image, scale), picture)[0][1]
    for image in (samples["original"][0], samples["sample"][0, 7], samples["sample"][0, 6])
  ]
  assert lefts == sorted(lefts)
  assert not find(enlarged(samples["sample"][0, 0], scale), picture), "six of eight are shown"


def test_neighbours_of_another_inverter_are_called_that(tmp_path):
  folder = fake_neighbours(fake_run(tmp_path / "run"), inverter_step=300)
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "inverter of step 300, which is not the one evaluated here" in shown


def test_table_1_has_a_column_a_layer_and_its_least_in_bold(tmp_path):
  folders = [
    fake_neighbours(tmp_path / "conv2", "conv2", (0.05, 0.02, 0.018)),
    fake_neighbours(tmp_path / "fc3", "fc3", (0.1, 0.15, 0.12)),
  ]
  write_table_1(tmp_path, folders)
  rows = list(csv.reader((tmp_path / "table_1.csv").read_text().splitlines()))
  assert rows[0] == [
    *("row", "digits conv2", "digits conv2 standard error"),
    *("digits fc3", "digits fc3 standard error"),
  ]
  assert [row[0] for row in rows[1:4]] == ["1NN", "IM-S", "IM-NN"]
  assert [float(row[3]) for row in rows[1:4]] == [0.1, 0.15, 0.12]
  assert rows[4][0] == "1NN minus IM-S"
  assert float(rows[4][3]) == pytest.approx(-0.05)
  text = (tmp_path / "table_1.html").read_text()
  assert re.findall(r"<strong>([^<]*)</strong>", text) == ["0.1000 ± 0.0010", "0.0180 ± 0.0010"]
  shown = words(text)
  assert "digits fc3 1NN minus IM-S \N{MINUS SIGN}0.05000 ± 0.00050" in shown
  assert "test images" in shown


def test_table_1_needs_measured_runs(tmp_path):
  with pytest.raises(UserError, match=r"neighbours\.json is missing; run the stage"):
    write_table_1(tmp_path, [fake_run(tmp_path / "run")])
