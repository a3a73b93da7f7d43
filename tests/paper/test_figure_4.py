"""Three networks whose digits lie anywhere: what is drawn of runs of known numbers."""

import csv

import numpy as np
import pytest
from PIL import Image
from report_examples import NUM_TEST, draw_nats, draw_samples, fake_run

from inversion_jax.machine import storage
from inversion_jax.paper import experiments, plans

SCALE = plans.SCALES["smoke"]._replace(num_seeds=2, moved="digits")
# In nats, of the first seed; the second has 1 more.
NCE = dict(zip(plans.KINDS, (-60.0, -70.0, -63.0), strict=True))
# What a readout leaves, in pixels^2, of the first seed; the second has 2 more.
LEFT = dict(zip(plans.KINDS, (0.5, 4.0, 1.0), strict=True))
# The variance of the columns 0 to 7.
SPREAD = 6.0
TEXTS = ("group", "dataset", "layer")


def samples_of(kind):
  """All alike; one lit pixel, in another column of each sample; or every second one empty."""
  found = draw_samples("fc3")
  samples = np.repeat(found["original"][:, None], 8, axis=1)
  if kind == "pool":
    samples[:] = 0
    samples[:, np.arange(8), 0, np.arange(8)] = 16
  elif kind == "dense":
    samples[:, ::2] = 0
  return found | {"sample": samples, "reconstruction": found["original"]}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("figure_4")
  left = {}
  for seed, root in enumerate(plans.roots(workdir, SCALE)):
    for kind in plans.KINDS:
      folder = root / SCALE.moved / f"{kind}_fc3"
      fake_run(folder, "fc3", draw_nats("fc3", -NCE[kind] - seed))
      storage.write_npz(folder / storage.SAMPLES, samples_of(kind))
      left[folder] = np.full(NUM_TEST, LEFT[kind] + 2.0 * seed), np.arange(NUM_TEST)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(experiments.Run, "load", lambda folder: folder)
    patch.setattr(experiments.positions, "left_by_readout", left.get)
    experiments.figure_4(workdir, workdir, SCALE)
  return workdir


def rows_of(drawn):
  with (drawn / "figure_4.csv").open(newline="", encoding="utf-8") as file:
    return {
      row["group"]: {name: row[name] if name in TEXTS else float(row[name]) for name in row}
      for row in csv.DictReader(file)
    }


def test_every_network_is_compared_with_the_first_over_the_seeds(drawn):
  rows = rows_of(drawn)
  assert list(rows) == list(plans.KINDS)
  for kind, row in rows.items():
    assert row["num_seeds"] == 2
    assert row["nce_nats"] == pytest.approx(NCE[kind] + 0.5)
    assert row["minus_conv_nats"] == pytest.approx(NCE[kind] - NCE["conv"])
    assert row["test_accuracy"] == pytest.approx(0.984)


def test_scatter_empty_samples_and_readout_are_those_of_the_network(drawn):
  rows = rows_of(drawn)
  assert rows["conv"]["centroid_variance_pixels2"] == pytest.approx(0.0, abs=1e-9)
  assert rows["pool"]["centroid_variance_pixels2"] == pytest.approx(SPREAD)
  assert [row["empty_fraction"] for row in rows.values()] == [0.0, 0.0, 0.5]
  for kind, row in rows.items():
    assert row["left_by_readout_pixels2"] == pytest.approx(LEFT[kind] + 1.0)


def test_each_network_has_its_part_of_the_picture(drawn):
  with Image.open(drawn / "figure_4.png") as picture:
    thirds = np.array_split(np.asarray(picture.convert("L")), len(plans.KINDS))
  black = {kind: (third == 0).mean() for kind, third in zip(plans.KINDS, thirds, strict=True)}
  # Samples of one lit pixel are almost black, every second one of the last network is.
  assert black["conv"] + 0.1 < black["dense"] < black["pool"] - 0.1, black
