"""Where h helps: maps of pixels in the run folder and in the comparison, on folders made here."""

import csv

import numpy as np
import pytest

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.report import gains, write_comparison
from inversion_jax.report.files import read_run
from inversion_jax.report.rows import side_by_side

NUM_IMAGES, SIZE = 40, (4, 3)
INDEX_N = np.arange(100, 100 + NUM_IMAGES)
LABEL_N = INDEX_N % 7


def fake_run(folder, layer, mean_nats, *, seed=0, mapped=range(0, NUM_IMAGES, 2), maps=True):
  """A run folder whose nats are the sums of its pixels'."""
  rng = np.random.default_rng([sum(map(ord, folder.name)), seed])
  pixel_nats_NHW = rng.gamma(2.0, mean_nats / 24, (NUM_IMAGES, *SIZE)).astype(np.float32)
  nats_N = pixel_nats_NHW.sum((1, 2), dtype=np.float64)
  rows = {"index": INDEX_N, "label": LABEL_N, "source": INDEX_N}
  storage.write_npz(folder / storage.NATS, rows | {"nats": nats_N})
  if maps:
    rows_n = np.array(mapped, np.int64)
    images_nHWC = np.random.default_rng(0).integers(0, 17, (NUM_IMAGES, *SIZE, 1), np.uint8)
    write_maps(folder, pixel_nats_NHW, images_nHWC, rows_n)
  storage.write_json(folder / storage.CONFIG, {"seed": seed, "representation": {"layer": layer}})
  summary = {"dataset": "digits", "layer": layer or "none", "num_levels": 17}
  summary |= {"image_shape": [*SIZE, 1], "nce_nats": -nats_N.mean()}
  summary["nce_nats_standard_error"] = information.mean_with_error(nats_N).standard_error
  summary["bits_per_dim"] = information.bits_per_dim(nats_N.mean(), summary["image_shape"])
  storage.write_json(folder / storage.SUMMARY, summary)
  return folder


def write_maps(folder, pixel_nats_NHW, images_NHWC, rows_n):
  storage.write_npz(
    folder / storage.MAPS,
    {
      "index": INDEX_N[rows_n],
      "image": images_NHWC[rows_n],
      "nats": pixel_nats_NHW[rows_n],
      "mean_nats": pixel_nats_NHW.mean(0, dtype=np.float64),
    },
  )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Two layers, one of them with two seeds, and p(x); their maps share every sixth image."""
  parent = tmp_path_factory.mktemp("runs")
  return [
    fake_run(parent / "conv1", "conv1", 20.0, mapped=range(0, NUM_IMAGES, 3)),
    fake_run(parent / "fc3_0", "fc3", 40.0, seed=0),
    fake_run(parent / "fc3_1", "fc3", 41.0, seed=1),
    fake_run(parent / "prior", "", 50.0, mapped=range(NUM_IMAGES)),
  ]


@pytest.fixture(scope="module")
def comparison(folders):
  return side_by_side([read_run(folder) for folder in folders])


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
  parent = tmp_path_factory.mktemp("comparison")
  write_comparison(parent, folders)
  return parent


def test_the_pixels_of_the_mean_gain_add_up_to_the_paired_difference(comparison):
  maps = gains.read_maps(comparison)
  for place in range(2):
    paired = comparison.difference(place, 2).estimate.mean
    assert maps.mean_LHW[place].sum() == pytest.approx(paired, rel=1e-6)
    assert gains.pointwise_nats(comparison)[place].mean() == pytest.approx(paired)


def test_the_pixels_of_an_image_add_up_to_its_pointwise_information(comparison):
  maps = gains.read_maps(comparison)
  np.testing.assert_array_equal(INDEX_N[maps.rows_n], INDEX_N[::6])
  gain_LN = gains.pointwise_nats(comparison)
  np.testing.assert_allclose(maps.gain_LnHW.sum((2, 3)), gain_LN[:, maps.rows_n], rtol=1e-5)
  images_NHWC = np.random.default_rng(0).integers(0, 17, (NUM_IMAGES, *SIZE, 1), np.uint8)
  np.testing.assert_array_equal(maps.image_nHWC, images_NHWC[::6])


def test_pointwise_information_is_written_for_every_image(written, folders):
  with (written / "pointwise.csv").open(newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == ["index", "label", "conv1_nats", "fc3_nats"]
  assert [int(row["index"]) for row in rows] == INDEX_N.tolist()
  assert [int(row["label"]) for row in rows] == LABEL_N.tolist()
  nats = [storage.read_npz(folder / storage.NATS)["nats"] for folder in folders]
  np.testing.assert_allclose(
    [float(row["conv1_nats"]) for row in rows], nats[3] - nats[0], atol=1e-6
  )
  fc3 = nats[3] - (nats[1] + nats[2]) / 2
  np.testing.assert_allclose([float(row["fc3_nats"]) for row in rows], fc3, atol=1e-6)


def test_the_page_shows_pixels_and_images_in_honest_words(written, folders):
  text = (written / storage.REPORT).read_text(encoding="utf-8")
  section = text[text.index("<h2>Where the information is</h2>") :]
  section = section[: section.index("</section>")]
  assert section.count("<img") == 4
  for words in ("an estimate, not a bound", "pixels above and to the left", "7 of the 40 test"):
    assert words in section, words
  maps = gains.read_maps(side_by_side([read_run(folder) for folder in folders]))
  for name, mean_HW in zip(("conv1", "fc3"), maps.mean_LHW, strict=True):
    assert f"{name} {100 * mean_HW[:2].sum() / mean_HW.sum():.0f}%" in section
  for name in ("mean", "examples", "pointwise", "tails"):
    assert (written / storage.FIGURES / f"gains_{name}.png").exists()


def test_the_tails_are_the_least_and_the_most_in_order(comparison):
  gain_n = np.array([3.0, -1.0, 2.0, 7.0, 0.5])
  least, most = gains.tails(gain_n, 2)
  assert least.tolist() == [1, 4]
  assert most.tolist() == [3, 0]
  least, most = gains.tails(gain_n, 6)
  assert (least.tolist(), most.tolist()) == ([1, 4], [3, 0])


def test_runs_without_maps_are_compared_without_pictures_of_pixels(tmp_path):
  runs = [fake_run(tmp_path / "old", "fc3", 40.0, maps=False), fake_run(tmp_path / "p", "", 50.0)]
  write_comparison(tmp_path / "out", runs)
  text = (tmp_path / "out" / storage.REPORT).read_text(encoding="utf-8")
  assert f"for want of maps.npz in {runs[0]}" in text
  assert (tmp_path / "out" / "pointwise.csv").exists()
  found = sorted(path.name for path in (tmp_path / "out" / storage.FIGURES).glob("gains*"))
  assert found == ["gains_pointwise.png"]


def test_maps_of_no_image_leave_the_mean(tmp_path):
  runs = [
    fake_run(tmp_path / name, layer, nats, mapped=[])
    for name, layer, nats in (("fc3", "fc3", 40.0), ("p", "", 50.0))
  ]
  write_comparison(tmp_path / "out", runs)
  found = sorted(path.name for path in (tmp_path / "out" / storage.FIGURES).glob("gains*"))
  assert found == ["gains_mean.png", "gains_pointwise.png"]


def test_without_an_unconditional_run_there_are_no_gains(tmp_path):
  runs = [fake_run(tmp_path / name, name, 40.0) for name in ("conv1", "fc3")]
  write_comparison(tmp_path / "out", runs)
  text = (tmp_path / "out" / storage.REPORT).read_text(encoding="utf-8")
  assert "Where the information is" not in text
  assert not (tmp_path / "out" / "pointwise.csv").exists()


@pytest.mark.parametrize("name", ["nats", "mean_nats", "index"])
def test_maps_of_another_evaluation_are_refused(name, tmp_path):
  folder = fake_run(tmp_path / "fc3", "fc3", 40.0)
  arrays = storage.read_npz(folder / storage.MAPS)
  changed = arrays[name] + 1000 if name == "index" else arrays[name] * 1.01
  storage.write_npz(folder / storage.MAPS, arrays | {name: changed})
  with pytest.raises(UserError, match=r"maps\.npz belongs to another evaluation"):
    read_run(folder)
