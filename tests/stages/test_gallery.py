"""Every way to look inside a layer, side by side."""

import csv
import re
import shutil

import numpy as np
import pytest
from run_examples import edited, get_config, run_stage, run_stages, smaller

from inversion_jax.fitting import training
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.paper import experiments, plans
from inversion_jax.runs import Run
from inversion_jax.stages import gallery


@pytest.fixture(scope="module")
def shown(finished, tmp_path_factory):
  """The small run with its gallery."""
  folder = tmp_path_factory.mktemp("gallery") / "fc3"
  shutil.copytree(finished.folder, folder)
  run = Run(finished.config, folder)
  for stage in ("gallery", "report"):
    run_stage(stage, run)
  return run


def rows_of(run):
  return {row["method"]: row for row in storage.read_json(run.folder / "gallery.json")["rows"]}


def test_every_method_makes_images_that_are_measured_alike(shown):
  arrays = storage.read_npz(shown.folder / "gallery.npz")
  names = [method.name for method in gallery.METHODS]
  rows = rows_of(shown)
  assert list(rows) == names
  encode, scale = shown.features.encode_images, 16
  original = shown.images("test").images[:4]
  np.testing.assert_array_equal(arrays["original"], original)
  for name in names:
    images = arrays[name]
    assert images.dtype == np.uint8
    assert images.shape in ((4, 1, 8, 8, 1), (4, 2, 8, 8, 1))
    assert images.max() <= 16
    error = np.square((images.astype(float) - original[:, None]) / scale).mean()
    assert rows[name]["squared_error"] == pytest.approx(error)
    h = np.asarray(encode(images.reshape(-1, 8, 8, 1))).reshape(4, images.shape[1], -1)
    missed = np.abs(h - np.asarray(encode(original))[:, None]).mean()
    assert rows[name]["feature_l1_to_original"] == pytest.approx(missed, rel=1e-4)
    assert 0 <= rows[name]["other_accuracy"] <= 1
    assert rows[name]["seconds_per_image"] > 0
  np.testing.assert_array_equal(
    arrays["inverter"][:2], storage.read_npz(shown.folder / "samples.npz")["sample"]
  )
  reconstruction = storage.read_npz(shown.folder / "samples.npz")["reconstruction"]
  np.testing.assert_array_equal(arrays["mse"][:2, 0], reconstruction)


def test_what_is_compared_is_paired_by_image(shown):
  rows, arrays = rows_of(shown), storage.read_npz(shown.folder / "gallery.npz")
  encode = shown.features.encode_images
  h = {name: np.asarray(encode(arrays[name][:, 0])) for name in ("nearest", "mse", "perceptual")}
  wanted = np.asarray(encode(arrays["original"]))
  missed = {name: np.abs(h[name] - wanted).mean(1) for name in h}
  name = "feature_l1_to_original_minus_mse"
  gap = missed["perceptual"] - missed["mse"]
  difference = rows["perceptual"]["differences"]
  assert difference[name] == pytest.approx(gap.mean(), rel=1e-3)
  assert difference[f"{name}_standard_error"] == pytest.approx(gap.std(ddof=1) / 2, rel=1e-3)
  nats = [
    storage.read_npz(folder / "nats.npz")["nats"][:4]
    for folder in (shown.folder / "gallery" / "gated", shown.folder)
  ]
  assert rows["gated"]["nats"] == pytest.approx(nats[0].mean())
  gap = (nats[0] - nats[1]).mean()
  assert rows["gated"]["differences"]["nats_minus_inverter"] == pytest.approx(gap)
  # The nearest training image is the nearest by the layer's own distance.
  h_train = np.asarray(encode(shown.images("train").images))
  assert (missed["nearest"] <= np.abs(h_train - wanted[:, None]).mean(-1).min(1) * 1.001).all()


def test_descent_brings_h_nearer_than_the_nearest_image_and_starts_differ(shown):
  run = Run(edited(shown.config, optimisation__num_steps=200), shown.folder)
  images = gallery.optimised(run, 4)
  assert (images[:, 0] != images[:, 1]).any()
  encode = shown.features.encode_images
  wanted = np.asarray(encode(shown.images("test").images[:4]))
  h = np.asarray(encode(images.reshape(8, 8, 8, 1))).reshape(4, 2, -1)
  missed = np.abs(h - wanted[:, None]).mean()
  assert missed < rows_of(shown)["nearest"]["feature_l1_to_original"]


def test_pictures_and_numbers_stand_in_the_report_and_the_csv(shown):
  page = (shown.folder / "report.html").read_text()
  assert "Every way to look inside" in page
  assert "Against the nearest training image, distance of h to the original&#x27;s is" in page
  assert (shown.folder / "figures" / "gallery_fc3.png").exists()
  with (shown.folder / "figures" / "gallery.csv").open(newline="") as file:
    lines = {line["method"]: line for line in csv.DictReader(file)}
  rows = rows_of(shown)
  for name, row in rows.items():
    line = lines[name]
    assert float(line["squared_error"]) == pytest.approx(row["squared_error"])
    # Student's quantile of four images.
    reach = 3.182446 * row["squared_error_standard_error"]
    assert float(line["squared_error_high"]) == pytest.approx(row["squared_error"] + reach)
  assert lines["mse"]["nats"] == ""
  assert float(lines["gated"]["nats_minus_inverter_low"]) < float(
    lines["gated"]["nats_minus_inverter"]
  )


def test_the_launch_draws_the_runs_of_its_plan(shown, tmp_path):
  experiment = experiments.FURTHER["gallery"]
  scale = plans.SCALES["smoke"]._replace(layers=("fc3",))
  (planned,) = experiment.plan(scale)
  assert {"decoder", "inverter", "gallery"} <= set(planned.stages)
  shutil.copytree(shown.folder, tmp_path / planned.folder)
  experiment.draw(tmp_path, tmp_path / "figures", scale)
  drawn = {path.name for path in (tmp_path / "figures").iterdir()}
  assert drawn == {"gallery.csv", "gallery.html", "gallery_fc3.png", "checksums.json"}


def test_a_finished_gallery_is_left_alone(shown, monkeypatch):
  written = (shown.folder / "gallery.npz").stat().st_mtime_ns
  monkeypatch.setattr(training, "fit", None)
  for stage in ("gallery", "perceptual", "deepsim", "gated"):
    run_stage(stage, shown)
  assert (shown.folder / "gallery.npz").stat().st_mtime_ns == written


def test_stored_features_get_what_needs_no_derivative_and_a_sentence(
  finished, tmp_path, monkeypatch
):
  images = np.concatenate([finished.images(split).images for split in ("train", "test")])
  path = tmp_path / "stored.npz"
  np.savez(path, x=images, h=images[:, ::4, ::4, 0].reshape(len(images), -1) / 16.0)
  config = smaller(get_config("features", "smoke"))
  config.data.update({"name": str(path), "num_train": 0, "num_validation": 10, "num_test": 20})
  # Densities are as with a layer, and take long to compile.
  rest = tuple(method for method in gallery.METHODS if not method.is_density)
  monkeypatch.setattr(gallery, "METHODS", rest)
  run = run_stages(config, tmp_path / "run", ("inverter", "decoder", "evaluate", "gallery"))
  assert list(rows_of(run)) == ["nearest", "mse"]
  assert not {"accuracy", "feature_l1_to_original"} & set(rows_of(run)["mse"])
  page = (run.folder / "figures" / "gallery.html").read_text()
  assert re.search("Left out, as they differentiate h by the pixels.*optimisation.*DeePSiM", page)
  for stage in ("perceptual", "deepsim"):
    with pytest.raises(UserError, match=f"The {stage} stage differentiates features"):
      run_stage(stage, run)


def test_another_comparator_has_to_be_a_layer(finished, tmp_path):
  config = edited(finished.config, perceptual__comparator_layers=("fc4",))
  shutil.copytree(finished.folder, tmp_path / "fc3")
  with pytest.raises(UserError, match=r"perceptual.comparator_layers='fc4' is not one of 'conv1'"):
    run_stage("perceptual", Run(config, tmp_path / "fc3"))
