"""The GAN beside the inverter."""

import shutil

import jax
import numpy as np
import pytest
from run_examples import edited, killed_at_step, run_stage

from inversion_jax.fitting import training
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run
from inversion_jax.stages import gan


@pytest.fixture(scope="module")
def with_gans(finished, tmp_path_factory):
  folder = tmp_path_factory.mktemp("gans") / "fc3"
  shutil.copytree(finished.folder, folder)
  run = Run(finished.config, folder)
  run_stage("gan", run)
  return run


def test_gans_stand_beside_the_inverter_and_the_nearest_images(with_gans):
  run = with_gans
  arrays = storage.read_npz(run.folder / "gan.npz")
  assert arrays["gan"].shape == (2, 2, 2, 8, 8, 1)
  assert arrays["gan"].dtype == np.uint8
  assert arrays["gan"].max() <= 16
  np.testing.assert_array_equal(arrays["entropy_weight"], [0.0, 10.0])
  drawn = storage.read_npz(run.folder / "samples.npz")
  np.testing.assert_array_equal(arrays["sample"], drawn["sample"])
  assert np.any(arrays["gan"][:, :, 0] != arrays["gan"][:, :, 1])
  # Only the weight differs, and it has changed what was learned.
  assert np.any(arrays["gan"][0] != arrays["gan"][1])
  h_train, h = (
    np.asarray(run.features.encode_images(run.images(split).images)) for split in ("train", "test")
  )
  rows = np.argsort(np.abs(h_train - h[:2, None]).mean(-1), axis=1)[:, :2]
  np.testing.assert_array_equal(arrays["nearest"], run.images("train").images[rows])
  table = storage.read_json(run.folder / "gan.json")
  names = [row["samples"] for row in table]
  assert names[:2] == ["GAN, entropy weight 0", "GAN, entropy weight 10"]
  assert names[2:] == ["inverter", "nearest training images"]
  pairs = np.abs(drawn["sample"][:, 0].astype(float) - drawn["sample"][:, 1])
  assert table[2]["diversity"] == pytest.approx(pairs.mean() / 16)
  far = np.abs(drawn["sample"].astype(float) - drawn["original"][:, None])
  assert table[2]["l1_to_original"] == pytest.approx(far.mean() / 16)
  h_made = np.asarray(run.features.encode_images(arrays["gan"][1].reshape(4, 8, 8, 1))).reshape(
    2, 2, -1
  )
  feature_l1 = np.abs(h_made - h[:2, None]).mean()
  assert table[1]["feature_l1_to_original"] == pytest.approx(feature_l1, rel=1e-4)
  h_nearest = np.abs(h_train[rows] - h[:2, None]).mean()
  assert table[3]["feature_l1_to_original"] == pytest.approx(h_nearest, rel=1e-4)
  lines = (run.folder / "figures" / "figure_3.csv").read_text().splitlines()
  assert lines[0].startswith("samples,diversity,diversity_standard_error,")
  assert len(lines) == 5
  assert (run.folder / "figures" / "figure_3.png").exists()


def test_finished_gans_are_left_alone_and_another_weight_adds_one(with_gans, monkeypatch):
  written = (with_gans.folder / "gan.npz").stat().st_mtime_ns
  monkeypatch.setattr(training, "fit", None)
  run_stage("gan", with_gans)
  assert (with_gans.folder / "gan.npz").stat().st_mtime_ns == written
  fewer = Run(edited(with_gans.config, gan__entropy_weights=(10.0,)), with_gans.folder)
  kept = storage.read_npz(with_gans.folder / "gan.npz")["gan"][1:]
  fewer.begin()
  run_stage("gan", fewer)
  again = storage.read_npz(with_gans.folder / "gan.npz")["gan"]
  np.testing.assert_array_equal(again, kept)


def test_a_killed_gan_ends_as_an_uninterrupted_one(with_gans, tmp_path):
  straight = Run.load(with_gans.folder / "gan" / "entropy_10")
  folder = tmp_path / "fc3" / "gan" / "entropy_10"
  shutil.copytree(with_gans.folder, tmp_path / "fc3")
  shutil.rmtree(folder)
  run = Run(straight.config, folder)
  run.begin()
  run_stage("classifier", run)
  with killed_at_step(4):
    gan.train(run)
  run = Run(straight.config, folder)
  gan.train(run)
  resumed, expected = (gan.params_at(r, 6) for r in (run, straight))
  jax.tree.map(np.testing.assert_array_equal, resumed, expected)


def test_gans_need_a_layer_and_several_samples(finished, tmp_path):
  for fields, words in (
    ({"representation__layer": ""}, "inverts a layer"),
    ({"gan__entropy_weights": ()}, "at least one of gan.entropy_weights"),
    ({"sample__num_samples": 1}, "draw 2 samples or more"),
    ({}, "no finished sample; run --stages=sample"),
  ):
    with pytest.raises(UserError, match=words):
      run_stage("gan", Run(edited(finished.config, **fields), tmp_path))
