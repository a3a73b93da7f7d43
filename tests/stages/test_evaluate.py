"""What a finished run says of its test images."""

import dataclasses
import shutil

import numpy as np
import pytest
from run_examples import FILES, edited, run_stage, sibling

from inversion_jax import report, stages
from inversion_jax.inversion import mapped_rows
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.report import figures
from inversion_jax.runs import Run
from inversion_jax.stages import decoder


def test_a_run_leaves_every_file_and_true_numbers(finished):
  for name in FILES:
    assert (finished.folder / name).exists(), name
  nats = storage.read_npz(finished.folder / "nats.npz")
  # 21 images in batches of 16: the ragged batch counts, once.
  np.testing.assert_array_equal(nats["index"], finished.images("test").index)
  summary = storage.read_json(finished.folder / "summary.json")
  assert summary["num_test_images"] == len(nats["nats"]) == 21
  assert summary["nce_nats"] == pytest.approx(-nats["nats"].mean())
  assert summary["nce_nats_standard_error"] == pytest.approx(nats["nats"].std(ddof=1) / np.sqrt(21))
  assert summary["bits_per_dim"] == pytest.approx(nats["nats"].mean() / np.log(2) / 64)
  samples = storage.read_npz(finished.folder / "samples.npz")
  assert samples["original"].shape == (2, 8, 8, 1)
  assert samples["sample"].shape == (2, 2, 8, 8, 1)
  assert samples["sample"].dtype == np.uint8
  assert samples["sample"].max() <= 16


def test_the_report_draws_what_training_logs(finished):
  records = storage.read_metrics(finished.folder / "metrics.jsonl")
  for stage, panels in figures.PANELS.items():
    logged = {key for record in records if record["stage"] == stage for key in record}
    for panel in panels:
      drawn = {line.key for line in panel.curves if not line.key.startswith("validation_live")}
      assert drawn <= logged, (stage, panel.title)


def test_the_decoder_of_a_run_is_scored_and_shown(finished):
  summary = storage.read_json(finished.folder / "summary.json")
  step = finished.notes()["decoder"]["best_step"]
  params, test = decoder.params_at(finished, step), finished.pairs("test")
  h = finished.observed.clean(test).h
  images = decoder.module(finished).apply({"params": params}, h, (8, 8))
  errors = np.square(np.asarray(images) - test.images / 16).mean((1, 2, 3))
  assert summary["decoder_mse"] == pytest.approx(errors.mean(), rel=1e-5)
  error = errors.std(ddof=1) / np.sqrt(21)
  assert summary["decoder_mse_standard_error"] == pytest.approx(error, rel=1e-4)
  samples = storage.read_npz(finished.folder / "samples.npz")
  assert samples["reconstruction"].dtype == np.uint8
  levels = np.rint(np.clip(images[:2], 0, 1) * 16)
  np.testing.assert_array_equal(samples["reconstruction"], levels)
  assert "MSE" in (finished.folder / "report.html").read_text()


def test_the_nats_of_an_image_are_those_of_the_averaged_parameters(finished):
  model, last = finished.model, finished.pairs("test").rows(np.arange(18, 21))
  h = finished.observed.clean(last).h
  nats = -model.inverter.apply({"params": model.params}, last.images, h).sum((1, 2))
  saved = storage.read_npz(finished.folder / "nats.npz")["nats"][-3:]
  np.testing.assert_allclose(saved, nats, rtol=1e-5)


def test_the_maps_of_an_image_add_up_to_its_nats(finished):
  nats = storage.read_npz(finished.folder / "nats.npz")
  maps = storage.read_npz(finished.folder / "maps.npz")
  assert (maps["nats"].dtype, maps["nats"].shape) == (np.float32, (21, 8, 8))
  np.testing.assert_array_equal(maps["image"], finished.images("test").images)
  np.testing.assert_array_equal(maps["nats"].sum((1, 2), dtype=np.float64), nats["nats"])
  assert maps["mean_nats"].sum() == pytest.approx(nats["nats"].mean(), rel=1e-12)
  np.testing.assert_allclose(maps["mean_nats"], maps["nats"].mean(0), rtol=1e-5)


def test_fewer_maps_are_some_of_the_same_images_and_the_mean_stays(finished, tmp_path):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  run = Run(edited(finished.config, evaluate__num_maps=6), tmp_path / "fc3")
  run_stage("evaluate", run)
  all_maps, maps = (
    storage.read_npz(folder / "maps.npz") for folder in (finished.folder, tmp_path / "fc3")
  )
  rows_n = np.flatnonzero(np.isin(all_maps["index"], maps["index"]))
  assert len(rows_n) == 6
  for name in ("index", "image", "nats"):
    np.testing.assert_array_equal(maps[name], all_maps[name][rows_n])
  np.testing.assert_array_equal(maps["mean_nats"], all_maps["mean_nats"])
  lower_nats_N = run.model.nats(run.pairs("test"), first_row=3)
  np.testing.assert_allclose(lower_nats_N, all_maps["nats"][:, 3:].sum((1, 2)), rtol=1e-5)
  fewer, more = (set(mapped_rows(1000, num_maps)) for num_maps in (10, 300))
  assert fewer < more


def test_a_run_older_than_maps_gets_them_by_evaluating_again(finished, tmp_path):
  run = Run(finished.config, tmp_path / "fc3")
  shutil.copytree(finished.folder, run.folder)
  (run.folder / "maps.npz").unlink()
  step = run.notes()["inverter"]["best_step"]
  run.note("evaluate", {"inverter_step": step, "seconds": 1.0})
  report.write_run_report(run.folder)
  run_stage("evaluate", run)
  assert (run.folder / "maps.npz").exists()


def test_the_representation_is_standardised_with_training_statistics(finished):
  z = finished.observed.clean(finished.pairs("train")).h
  alive = z.std(0) > 0
  np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-5)
  np.testing.assert_allclose(z.std(0)[alive], 1.0, rtol=1e-4)


def test_an_inverter_is_not_scored_with_another_classifier(finished, tmp_path):
  folder = tmp_path / "moved"
  shutil.copytree(finished.folder, folder)
  run = Run(finished.config, folder)
  run.note("classifier", run.notes()["classifier"] | {"best_step": 0})
  for stage in ("inverter", "evaluate"):
    run.note("evaluate", {})
    with pytest.raises(UserError, match=r"was trained on the classifier of step 6, .* now at 0"):
      run_stage(stage, Run(run.config, folder))


def test_a_layer_through_noise_is_an_experiment_of_its_own(finished):
  config = edited(finished.config, representation__sigma=2.0)
  run = Run(config, finished.folder.parent / "noisy")
  run.begin()
  run_stage("classifier", run)
  run.fit_statistics()
  two = run.pairs("test").rows(np.array([3, 3]))
  plain = run.observed.clean(two).h

  def seen(index):
    return run.observed.scored(dataclasses.replace(two, index=index), run.root_key).h

  index = np.array([3, 3])
  # Both images of index 3 meet the same noise, which is there and of the stated size.
  noise = seen(index) * np.hypot(1.0, 2.0) - plain
  np.testing.assert_allclose(noise[0], noise[1], atol=1e-5)
  assert noise.std() == pytest.approx(2.0, rel=0.4)
  np.testing.assert_array_equal(seen(index), seen(index))
  assert not np.allclose(seen(index), seen(index + 1))


def test_a_stage_without_what_it_needs_says_which_to_run(finished, tmp_path):
  with pytest.raises(UserError, match="no finished inverter; run --stages=inverter"):
    run_stage("evaluate", Run(finished.config, tmp_path))


def test_the_layers_of_one_network_are_compared(finished):
  run = sibling(finished, "conv1", "conv1")
  run.begin()
  for stage in stages.DEFAULT:
    run_stage(stage, run)
  report.write_comparison(finished.folder.parent, [run.folder, finished.folder])
  rows = storage.read_json(finished.folder.parent / "comparison.json")
  assert [row["layer"] for row in rows] == ["conv1", "fc3"]
  assert (finished.folder.parent / "report.html").exists()
