"""The program that draws bits against hours from run folders."""

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from report_examples import fake_run

from inversion_jax.machine import storage

WALL_TIME = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "wall_time.py"
VALIDATIONS = [(0, 9000.0, 0.0), (100, 300.0, 36.0), (200, 250.0, 72.0)]


def wall_time(*arguments):
  command = [sys.executable, WALL_TIME, *arguments]
  return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def timed_run(tmp_path):
  folder = tmp_path / "prior"
  fake_run(folder, "none")
  lines = [
    {"stage": "inverter", "step": step, "validation_nats_per_image": nats, "seconds": seconds}
    for step, nats, seconds in VALIDATIONS
  ]
  storage.write_text(folder / storage.METRICS, "".join(json.dumps(line) + "\n" for line in lines))
  return folder


def test_wall_time_draws_bits_per_sub_pixel_against_hours(timed_run, tmp_path):
  path = tmp_path / "curves.png"
  done = wall_time(timed_run, f"--output={path}")
  assert done.returncode == 0, done.stderr
  with path.with_suffix(".csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["run"] for row in rows] == ["prior", "prior"]
  np.testing.assert_allclose([float(row["hours"]) for row in rows], [0.01, 0.02])
  bits = [nats / (64 * np.log(2)) for _, nats, _ in VALIDATIONS[1:]]
  np.testing.assert_allclose([float(row["bits_per_dim"]) for row in rows], bits, rtol=1e-5)
  (end,) = json.loads(done.stdout.splitlines()[-1])
  assert end["hours"] == pytest.approx(0.02)
  assert end["validation_bits_per_dim"] == pytest.approx(bits[-1])
  with Image.open(path) as image:
    assert len(image.convert("RGB").getcolors(100_000)) > 10


def test_wall_time_says_what_is_missing(timed_run, tmp_path):
  storage.write_text(timed_run / storage.METRICS, "")
  done = wall_time(timed_run, f"--output={tmp_path / 'curves.png'}")
  assert done.returncode != 0
  assert "no seconds of validations" in done.stdout + done.stderr
  assert "Traceback" not in done.stderr
