"""The program as a user meets it: whole runs of small experiments, and the mistakes one makes."""

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import archives
import jax
import numpy as np
import pytest

from inversion_jax import config as config_lib
from inversion_jax import main, report, stages
from inversion_jax.fitting import costs, training
from inversion_jax.machine import processes, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.models import sampling
from inversion_jax.report import figures
from inversion_jax.runs import Run, initial_state, share_classifier
from inversion_jax.stages.evaluate import mapped_rows
from inversion_jax.stages.scoring import inverter_scorer

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
FILES = (
  *("config.json", "metrics.jsonl", "nats.npz", "maps.npz", "summary.json"),
  *("samples.npz", "report.html"),
  *("figures/samples.png", "figures/training.png", "figures/nats.png"),
  *("inverter", "classifier", "decoder", "tensorboard"),
)


def get_config(name, variant=""):
  spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


def smaller(config):
  """Smaller than smoke: the same stages on less to compile."""
  config.inverter.network.update({"num_filters": 4, "num_scales": 1})
  config.gan.network.num_scales = 1
  config.data.update({"num_train": 64, "num_validation": 10, "num_test": 21})
  return config


def run_stages(config, folder, names=stages.DEFAULT):
  run = Run(config_lib.check(config), folder)
  run.begin()
  for name in names:
    stages.STAGES[name](run)
  return run


def command(*arguments, data_dir=None, devices=1, variables=(), cwd=ROOT):
  environment = {**os.environ, **dict(variables)} | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
  }
  if data_dir:
    environment["TFDS_DATA_DIR"] = str(data_dir)
  return subprocess.run(
    [sys.executable, "-m", "inversion_jax.main", *arguments],
    **{"cwd": cwd, "env": environment, "capture_output": True, "text": True, "check": False},
  )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
  """A finished run of the digits, under a folder where its siblings may stand."""
  config = smaller(get_config("digits_fc3", "smoke"))
  config.data.dir = str(data_dir)
  return run_stages(config, tmp_path_factory.mktemp("runs") / "fc3")


def sibling(finished, name, layer="fc3"):
  return Run(config_lib.for_layer(finished.config, layer), finished.folder.parent / name)


@pytest.mark.parametrize("variant", ["", "smoke"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_passes_the_checks(name, variant):
  config = config_lib.check(get_config(name, variant))
  if name != "digits":
    dataset, *kind, layer = name.split("_")
    assert config.data.name.startswith(dataset)
    assert config.representation.layer == ("" if layer == "prior" else layer)
    assert not kind or config.classifier.network.kind == kind[0]


def test_the_paper_configs_have_the_settings_of_appendix_a():
  for name, filters, dropout, context_dropout in (
    ("mnist_conv1", 64, 0.5, 0.0),
    ("svhn_conv1", 196, 0.1, 0.0),
    ("cifar10_conv2", 196, 0.5, 0.0),
    ("cifar10_fc3", 196, 0.5, 0.2),
  ):
    config = get_config(name)
    network = config.inverter.network
    assert (network.num_filters, network.num_blocks) == (filters, 3)
    assert (network.dropout_rate, network.context_dropout_rate) == (dropout, context_dropout)
    assert config.inverter.likelihood.num_components == 10
    assert (config.inverter.learning_rate, config.classifier.learning_rate) == (1e-3, 3e-4)
    assert config.inverter.num_steps == config.classifier.num_steps == 250_000
  assert tuple(get_config("svhn_fc3").classifier.network.num_filters) == (64, 128)


def test_a_run_leaves_every_file_and_true_numbers(finished):
  for name in FILES:
    assert (finished.folder / name).exists(), name
  nats = storage.read_npz(finished.folder / "nats.npz")
  # 21 images in batches of 16: the ragged batch counts, once.
  np.testing.assert_array_equal(nats["index"], finished.data.test.index_N)
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
  step = finished.progress()["decoder"]["best_step"]
  params, test = finished.restored("decoder", step).ema_params, finished.data.test
  images = finished.decoder().apply(
    {"params": params}, finished.represent(test.images_NHWC), (8, 8)
  )
  errors = np.square(np.asarray(images) - test.images_NHWC / 16).mean((1, 2, 3))
  assert summary["decoder_mse"] == pytest.approx(errors.mean(), rel=1e-5)
  error = errors.std(ddof=1) / np.sqrt(21)
  assert summary["decoder_mse_standard_error"] == pytest.approx(error, rel=1e-4)
  samples = storage.read_npz(finished.folder / "samples.npz")
  assert samples["reconstruction"].dtype == np.uint8
  levels = np.rint(np.clip(images[:2], 0, 1) * 16)
  np.testing.assert_array_equal(samples["reconstruction"], levels)
  assert "MSE" in (finished.folder / "report.html").read_text()


def test_a_decoder_joins_samples_that_were_drawn_before_it(finished, tmp_path, monkeypatch):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  shutil.rmtree(tmp_path / "fc3" / "decoder")
  run = Run(finished.config, tmp_path / "fc3")
  notes = {name: note for name, note in run.progress().items() if name != "decoder"}
  storage.write_json(run.folder / "stages.json", notes)
  stages.sample(run)
  without, expected = (storage.read_npz(r.folder / "samples.npz") for r in (run, finished))
  assert "reconstruction" not in without
  stages.train_decoder(run)
  monkeypatch.setattr(sampling, "draw", None)
  stages.sample(run)
  samples = storage.read_npz(run.folder / "samples.npz")
  for name, values in expected.items():
    np.testing.assert_array_equal(samples[name], values)


def test_the_nats_of_an_image_are_those_of_the_averaged_parameters(finished):
  state = finished.restored("inverter", finished.progress()["inverter"]["best_step"])
  images = finished.data.test.images_NHWC[-3:]
  nats = (
    -finished.inverter()
    .apply({"params": state.ema_params}, images, finished.represent(images))
    .sum((1, 2))
  )
  saved = storage.read_npz(finished.folder / "nats.npz")["nats"][-3:]
  np.testing.assert_allclose(saved, nats, rtol=1e-5)


def test_the_maps_of_an_image_add_up_to_its_nats(finished):
  nats = storage.read_npz(finished.folder / "nats.npz")
  maps = storage.read_npz(finished.folder / "maps.npz")
  assert (maps["nats"].dtype, maps["nats"].shape) == (np.float32, (21, 8, 8))
  np.testing.assert_array_equal(maps["image"], finished.data.test.images_NHWC)
  np.testing.assert_array_equal(maps["nats"].sum((1, 2), dtype=np.float64), nats["nats"])
  assert maps["mean_nats"].sum() == pytest.approx(nats["nats"].mean(), rel=1e-12)
  np.testing.assert_allclose(maps["mean_nats"], maps["nats"].mean(0), rtol=1e-5)


def test_fewer_maps_are_some_of_the_same_images_and_the_mean_stays(finished, tmp_path):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  run = Run(edited(finished.config, evaluate__num_maps=6), tmp_path / "fc3")
  stages.evaluate(run)
  all_maps, maps = (
    storage.read_npz(folder / "maps.npz") for folder in (finished.folder, tmp_path / "fc3")
  )
  rows_n = np.flatnonzero(np.isin(all_maps["index"], maps["index"]))
  assert len(rows_n) == 6
  for name in ("index", "image", "nats"):
    np.testing.assert_array_equal(maps[name], all_maps[name][rows_n])
  np.testing.assert_array_equal(maps["mean_nats"], all_maps["mean_nats"])
  params = run.restored("inverter", run.finished("inverter")["best_step"]).ema_params
  (lower_nats_N,) = inverter_scorer(run, first_row=3)([params], run.data.test)
  np.testing.assert_allclose(lower_nats_N, all_maps["nats"][:, 3:].sum((1, 2)), rtol=1e-5)
  fewer, more = (set(mapped_rows(1000, num_maps)) for num_maps in (10, 300))
  assert fewer < more


def test_a_run_older_than_maps_gets_them_by_evaluating_again(finished, tmp_path):
  run = Run(finished.config, tmp_path / "fc3")
  shutil.copytree(finished.folder, run.folder)
  (run.folder / "maps.npz").unlink()
  step = run.progress()["inverter"]["best_step"]
  run.note("evaluate", {"inverter_step": step, "seconds": 1.0})
  report.write_run_report(run.folder)
  stages.evaluate(run)
  assert (run.folder / "maps.npz").exists()


def test_the_representation_is_standardised_with_training_statistics(finished):
  z = np.asarray(finished.represent(finished.data.train.images_NHWC))
  alive = z.std(0) > 0
  np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-5)
  np.testing.assert_allclose(z.std(0)[alive], 1.0, rtol=1e-4)


def test_a_finished_run_is_left_alone(finished, monkeypatch):
  before = (finished.folder / "nats.npz").stat().st_mtime_ns
  monkeypatch.setattr(training, "fit", None)
  again = Run(finished.config, finished.folder)
  again.begin()
  for stage in stages.DEFAULT:
    stages.STAGES[stage](again)
  assert (finished.folder / "nats.npz").stat().st_mtime_ns == before


def test_runs_that_differ_in_the_layer_share_the_classifier(finished, monkeypatch):
  run = sibling(finished, "logits", "logits")
  run.begin()
  monkeypatch.setattr(training, "fit", None)
  stages.train_classifier(run)
  assert run.progress()["classifier"]["copied_from"] == "fc3"
  mine, theirs = (r.restored("classifier", r.classifier_step()).params for r in (run, finished))
  jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_another_seed_does_not_share_the_classifier(finished):
  run = sibling(finished, "seed1")
  with run.config.unlocked():
    run.config.seed = 1
  run.begin()
  assert not share_classifier(run)


@contextlib.contextmanager
def killed_at_step(last):
  """Training inside is killed once step `last` has been logged."""
  fit = training.fit

  def killed(*args, on_log, **kwargs):
    def stop(step, values):
      on_log(step, values)
      if step == last:
        raise KeyboardInterrupt

    return fit(*args, on_log=stop, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(training, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
      yield


def test_a_killed_run_ends_as_an_uninterrupted_one(finished):
  run = sibling(finished, "killed")
  run.begin()
  stages.train_classifier(run)
  with killed_at_step(4):
    stages.train_inverter(run)
  assert "inverter" not in run.progress()
  run = Run(run.config, run.folder)
  stages.train_inverter(run)
  resumed, straight = (r.restored("inverter", 6) for r in (run, finished))
  jax.tree.map(np.testing.assert_array_equal, resumed, straight)
  steps = [
    (record["step"], "train_nats_per_image" in record)
    for record in storage.read_metrics(run.folder / "metrics.jsonl")
    if record["stage"] == "inverter"
  ]
  assert len(steps) == len(set(steps))


def test_the_seconds_of_training_go_on_where_they_were(finished, tmp_path):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  path = tmp_path / "fc3" / "metrics.jsonl"
  with path.open(encoding="utf-8") as file:
    lines = [json.loads(line) for line in file]
  before = [line["seconds"] for line in lines if line["stage"] == "inverter" and "seconds" in line]
  assert before == sorted(before)
  later = edited(finished.config, inverter__num_steps=8)
  lines = [line | ({"seconds": 1e6} if "seconds" in line else {}) for line in lines]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
  run = Run(later, tmp_path / "fc3")
  stages.train_inverter(run)
  records = storage.read_metrics(path)
  last = [line for line in records if line["stage"] == "inverter" and "seconds" in line][-1]
  assert last["step"] == 8
  assert 0 < last["seconds"] - 1e6 < 1e3


def test_killed_sampling_goes_on_where_it_was(finished, tmp_path, monkeypatch):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  run = Run(edited(finished.config, sample__batch_size=1), tmp_path / "fc3")
  parts = []

  def killed_at_the_third(path, arrays, write=storage.write_npz):
    if len(parts) == 2:
      raise KeyboardInterrupt
    parts.append(path)
    write(path, arrays)

  with monkeypatch.context() as patch:
    patch.setattr(storage, "write_npz", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
      stages.sample(run)
  load, loaded = storage.read_npz, []

  def noted(path):
    loaded.append(path.name)
    return load(path)

  monkeypatch.setattr(storage, "read_npz", noted)
  stages.sample(Run(run.config, run.folder))
  assert len(parts) == 2
  assert set(loaded) >= {path.name for path in parts}
  resumed, straight = (load(r.folder / "samples.npz") for r in (run, finished))
  np.testing.assert_array_equal(resumed["sample"], straight["sample"])
  assert not parts[0].parent.exists()


def test_the_samplers_of_a_run_agree_and_complete_its_images(finished, tmp_path):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  expected = storage.read_npz(finished.folder / "samples.npz")["sample"]
  for sampler in ("ancestral", "fixed_point"):
    stages.sample(Run(edited(finished.config, sample__sampler=sampler), tmp_path / "fc3"))
    drawn = storage.read_npz(tmp_path / "fc3" / "samples.npz")["sample"]
    np.testing.assert_array_equal(drawn, expected)
  stages.sample(Run(edited(finished.config, sample__num_given_rows=3), tmp_path / "fc3"))
  samples = storage.read_npz(tmp_path / "fc3" / "samples.npz")
  np.testing.assert_array_equal(samples["sample"][:, 0, :3], samples["original"][:, :3])
  with pytest.raises(UserError, match="leaves nothing to draw"):
    stages.sample(Run(edited(finished.config, sample__num_given_rows=8), tmp_path / "fc3"))


@pytest.fixture(scope="module")
def with_neighbours(finished, tmp_path_factory):
  folder = tmp_path_factory.mktemp("neighbours") / "fc3"
  shutil.copytree(finished.folder, folder)
  run = Run(edited(finished.config, neighbours__num_samples=3), folder)
  for stage in ("neighbours", "report"):
    stages.STAGES[stage](run)
  return run


def test_samples_are_encoded_again_and_compared_with_the_training_set(with_neighbours):
  run = with_neighbours
  arrays = storage.read_npz(run.folder / "neighbours.npz")
  drawn = storage.read_npz(run.folder / "samples.npz")["sample"]
  np.testing.assert_array_equal(arrays["sample"][:2, :2], drawn)
  encode, train, test = run.encode_fn(), run.data.train, run.data.test
  h = np.asarray(encode(test.images_NHWC[:4]))
  h_samples = np.asarray(encode(arrays["sample"].reshape(12, 8, 8, 1))).reshape(4, 3, -1)
  sample_l1 = np.abs(h_samples - h[:, None]).mean(-1)
  np.testing.assert_allclose(arrays["sample_l1"], sample_l1, rtol=1e-4)
  all_l1 = np.abs(np.asarray(encode(train.images_NHWC)) - h[:, None]).mean(-1)
  rows = np.argsort(all_l1, axis=1)[:, :6]
  np.testing.assert_allclose(
    arrays["nearest_l1"], np.take_along_axis(all_l1, rows, axis=1), rtol=1e-4
  )
  np.testing.assert_array_equal(arrays["nearest"], train.images_NHWC[rows])
  np.testing.assert_array_equal(arrays["nearest_index"], train.index_N[rows])
  table = storage.read_json(run.folder / "neighbours.json")
  means = {name: row["mean_l1"] for name, row in table["rows"].items()}
  assert means == pytest.approx(
    {
      "1NN": all_l1.min(1).mean(),
      "IM-S": sample_l1[:, 0].mean(),
      "IM-NN": sample_l1.min(1).mean(),
    },
    rel=1e-4,
  )
  gain = sample_l1[:, 0] - sample_l1.min(1)
  (difference,) = (row for row in table["differences"] if row["first"] == "IM-S")
  assert difference["mean_l1"] == pytest.approx(gain.mean(), rel=1e-3)
  assert difference["standard_error"] == pytest.approx(gain.std(ddof=1) / 2, rel=1e-3)
  assert table["mean_absolute_h"] == pytest.approx(np.abs(h).mean(), rel=1e-4)
  assert "Neighbours in the layer" in (run.folder / "report.html").read_text()


def test_neighbours_that_were_measured_are_left_alone(with_neighbours, monkeypatch):
  monkeypatch.setattr(sampling, "draw", None)
  before = (with_neighbours.folder / "neighbours.npz").stat().st_mtime_ns
  stages.STAGES["neighbours"](with_neighbours)
  assert (with_neighbours.folder / "neighbours.npz").stat().st_mtime_ns == before


def test_without_a_layer_there_are_no_neighbours(finished, tmp_path):
  with pytest.raises(UserError, match="inverts a layer as it is"):
    stages.STAGES["neighbours"](Run(edited(finished.config, representation__layer=""), tmp_path))


@pytest.fixture(scope="module")
def with_gans(finished, tmp_path_factory):
  folder = tmp_path_factory.mktemp("gans") / "fc3"
  shutil.copytree(finished.folder, folder)
  run = Run(finished.config, folder)
  stages.STAGES["gan"](run)
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
    np.asarray(run.encode_fn()(split.images_NHWC)) for split in (run.data.train, run.data.test)
  )
  rows = np.argsort(np.abs(h_train - h[:2, None]).mean(-1), axis=1)[:, :2]
  np.testing.assert_array_equal(arrays["nearest"], run.data.train.images_NHWC[rows])
  table = storage.read_json(run.folder / "gan.json")
  names = [row["samples"] for row in table]
  assert names[:2] == ["GAN, entropy weight 0", "GAN, entropy weight 10"]
  assert names[2:] == ["inverter", "nearest training images"]
  pairs = np.abs(drawn["sample"][:, 0].astype(float) - drawn["sample"][:, 1])
  assert table[2]["diversity"] == pytest.approx(pairs.mean() / 16)
  far = np.abs(drawn["sample"].astype(float) - drawn["original"][:, None])
  assert table[2]["l1_to_original"] == pytest.approx(far.mean() / 16)
  h_made = np.asarray(run.encode_fn()(arrays["gan"][1].reshape(4, 8, 8, 1))).reshape(2, 2, -1)
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
  stages.STAGES["gan"](with_gans)
  assert (with_gans.folder / "gan.npz").stat().st_mtime_ns == written
  fewer = Run(edited(with_gans.config, gan__entropy_weights=(10.0,)), with_gans.folder)
  kept = storage.read_npz(with_gans.folder / "gan.npz")["gan"][1:]
  fewer.begin()
  stages.STAGES["gan"](fewer)
  again = storage.read_npz(with_gans.folder / "gan.npz")["gan"]
  np.testing.assert_array_equal(again, kept)


def test_a_killed_gan_ends_as_an_uninterrupted_one(with_gans, tmp_path):
  straight = Run.load(with_gans.folder / "gan" / "entropy_10")
  folder = tmp_path / "fc3" / "gan" / "entropy_10"
  shutil.copytree(with_gans.folder, tmp_path / "fc3")
  shutil.rmtree(folder)
  run = Run(straight.config, folder)
  run.begin()
  stages.train_classifier(run)
  with killed_at_step(4):
    stages.gan.train_gan(run)
  run = Run(straight.config, folder)
  stages.gan.train_gan(run)
  resumed, expected = (r.restored("gan", 6) for r in (run, straight))
  jax.tree.map(np.testing.assert_array_equal, resumed, expected)


def test_gans_need_a_layer_and_several_samples(finished, tmp_path):
  for fields, words in (
    ({"representation__layer": ""}, "inverts a layer"),
    ({"gan__entropy_weights": ()}, "at least one of gan.entropy_weights"),
    ({"sample__num_samples": 1}, "draw 2 samples or more"),
    ({}, "no finished sample; run --stages=sample"),
  ):
    with pytest.raises(UserError, match=words):
      stages.STAGES["gan"](Run(edited(finished.config, **fields), tmp_path))


def test_checks_name_what_an_untrained_inverter_cannot_do(finished, tmp_path):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  run = Run(edited(finished.config, inverter__num_steps=6), tmp_path / "fc3")
  with pytest.raises(UserError, match=r"of 5 checks failed: .*copy.*should not be used"):
    stages.STAGES["checks"](run)
  rows = {row["check"]: row for row in storage.read_json(run.folder / "checks.json")}
  assert len(rows) == 5
  assert rows["shuffled h, scored"]["passes"]
  assert not rows["copy"]["passes"]
  summary = storage.read_json(run.folder / "summary.json")
  assert rows["copy"]["inverter_step"] == summary["inverter_steps"]
  # The controls are trained on the classifier of the run itself.
  notes = storage.read_json(run.folder / "controls" / "shuffled" / "stages.json")
  assert notes["classifier"]["copied_from"] == "fc3"


def test_a_longer_run_goes_on_and_is_evaluated_again(finished, tmp_path):
  folder = tmp_path / "longer"
  shutil.copytree(finished.folder, folder)
  config = finished.config.copy_and_resolve_references()
  config.inverter.num_steps = 9
  run = run_stages(config, folder, ("classifier", "inverter", "evaluate"))
  assert run.progress()["inverter"]["step"] == 9
  assert storage.read_json(folder / "summary.json")["inverter_train_steps"] == 9


def test_an_inverter_is_not_scored_with_another_classifier(finished, tmp_path):
  folder = tmp_path / "moved"
  shutil.copytree(finished.folder, folder)
  run = Run(finished.config, folder)
  run.note("classifier", run.progress()["classifier"] | {"best_step": 0})
  for stage in (stages.train_inverter, stages.evaluate):
    run.note("evaluate", {})
    with pytest.raises(UserError, match=r"was trained on the classifier of step 6, .* now at 0"):
      stage(Run(run.config, folder))


def test_the_layers_of_one_network_are_compared(finished):
  run = sibling(finished, "conv1", "conv1")
  run.begin()
  for stage in stages.DEFAULT:
    stages.STAGES[stage](run)
  report.write_comparison(finished.folder.parent, [run.folder, finished.folder])
  rows = storage.read_json(finished.folder.parent / "comparison.json")
  assert [row["layer"] for row in rows] == ["conv1", "fc3"]
  assert (finished.folder.parent / "report.html").exists()


def test_without_a_layer_the_same_path_is_the_unconditional_model(data_dir, tmp_path):
  config = smaller(get_config("digits_prior", "smoke"))
  config.data.dir = str(data_dir)
  run = run_stages(config, tmp_path / "prior")
  summary = storage.read_json(run.folder / "summary.json")
  assert (summary["layer"], summary["classifier_test_accuracy"]) == ("none", None)
  assert "inverter" in run.progress()
  assert not (run.folder / "classifier").exists()
  assert Run(edited(config, representation__sigma=1.0), run.folder).channel is None
  assert not (run.folder / "decoder").exists()
  # A layer that starts from it has its nats before the first step.
  layer = edited(
    smaller(get_config("digits_fc3", "smoke")),
    **{"inverter__start_from": str(run.folder), "data__dir": str(data_dir)},
  )
  started = run_stages(layer, tmp_path / "fc3", ("classifier", "inverter"))

  def validations(of):
    lines = storage.read_metrics(of.folder / "metrics.jsonl")
    nats = [line.get("validation_nats_per_image") for line in lines if line["stage"] == "inverter"]
    return [one for one in nats if one is not None]

  start_nats, best_nats = validations(started)[0], min(validations(run))
  assert start_nats == pytest.approx(best_nats, rel=1e-4)
  with pytest.raises(UserError, match="start_from=nowhere is not the folder of a run"):
    initial_state(Run(edited(layer, inverter__start_from="nowhere"), started.folder), "inverter")
  with pytest.raises(UserError, match="give an unconditional run of digits"):
    initial_state(
      Run(edited(layer, inverter__start_from=str(started.folder)), started.folder), "inverter"
    )


@pytest.mark.parametrize("name", ["mnist_conv2", "cifar10_fc3", "affnist_pool_fc3"])
def test_real_images_go_the_whole_way(name, real_data_dir, tmp_path):
  config = smaller(get_config(name, "smoke"))
  config.data.dir = real_data_dir
  config.inverter.network.context = "encoder"
  run = run_stages(config, tmp_path / name)
  for file in FILES:
    assert (run.folder / file).exists(), file
  samples = storage.read_npz(run.folder / "samples.npz")
  np.testing.assert_array_equal(samples["original"], run.data.test.images_NHWC[:2])
  assert storage.read_json(run.folder / "summary.json")["nce_nats"] < 0


PARALLEL = (
  f"--config={ROOT}/configs/digits_fc3.py:smoke",
  "--config.inverter.network.num_scales=1",
  "--config.inverter.network.num_filters=4",
)


@pytest.fixture(scope="module")
def by_one_device(data_dir, tmp_path_factory):
  folder = tmp_path_factory.mktemp("one") / "run"
  stage_names = "--stages=classifier,inverter,evaluate,sample"
  done = command(*PARALLEL, stage_names, f"--workdir={folder}", data_dir=data_dir)
  assert done.returncode == 0, done.stderr
  return folder


def assert_like_one_device(folder, by_one_device, devices):
  assert storage.read_json(folder / "summary.json")["devices"].startswith(f"{devices} x")
  nats = [storage.read_npz(of / "nats.npz")["nats"] for of in (folder, by_one_device)]
  np.testing.assert_allclose(*nats, rtol=1e-4)
  # A parameter that differs by rounding can change a level, and with it what comes after.
  samples = [storage.read_npz(of / "samples.npz")["sample"] for of in (folder, by_one_device)]
  assert (samples[0] == samples[1]).mean() > 0.8


def test_eight_devices_give_the_numbers_of_one(by_one_device, data_dir, tmp_path):
  folder, stage_names = tmp_path / "run", "--stages=classifier,inverter,evaluate,sample"
  arguments = (*PARALLEL, stage_names, f"--workdir={folder}")
  done = command(*arguments, data_dir=data_dir, devices=8)
  assert done.returncode == 0, done.stderr
  assert_like_one_device(folder, by_one_device, 8)


def test_two_processes_give_the_numbers_of_one(by_one_device, data_dir, tmp_path):
  """As two tasks of a Slurm job, which JAX knows by these variables."""
  folder, stage_names = tmp_path / "run", "--stages=classifier,inverter,evaluate,sample,gan,report"
  arguments = ("--distributed", *PARALLEL, "--config.gan.network.num_scales=1", stage_names)
  job = {
    "SLURM_JOB_ID": str(os.getpid()),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_NTASKS": "2",
  }

  def task(number):
    own = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
    return command(*arguments, f"--workdir={folder}", data_dir=data_dir, variables=job | own)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    first, second = pool.map(task, range(2))
  assert first.returncode == second.returncode == 0, first.stderr + second.stderr
  assert_like_one_device(folder, by_one_device, 2)
  # The first speaks for both, and writes each line once.
  assert f"The report is {folder / 'report.html'}" in first.stdout
  assert "inverter step" in first.stderr
  assert "The report" not in second.stdout
  assert "inverter step" not in second.stderr
  lines = [
    (line["stage"], line["step"], frozenset(line))
    for line in storage.read_metrics(folder / "metrics.jsonl")
  ]
  assert len(lines) == len(set(lines))
  rows = storage.read_json(folder / "gan.json")
  assert rows[-1]["samples"] == "nearest training images"


def test_to_be_in_no_cluster_is_a_sentence(monkeypatch):
  def initialize():
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  with pytest.raises(UserError, match=r"no cluster \(coordinator_address should be defined\)"):
    processes.join()


def test_svhn_runs_from_its_archives_to_its_report(tmp_path):
  archives.write_svhn(archives.manual_folder(tmp_path), num_train=60, num_test=20)
  arguments = (
    f"--config={ROOT}/configs/svhn_conv2.py:smoke",
    "--config.dtype=bfloat16",
  )
  done = command(*arguments, data_dir=tmp_path, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  folder = tmp_path / "runs" / "svhn_conv2_smoke"
  for name in FILES:
    assert (folder / name).exists(), name
  summary = storage.read_json(folder / "summary.json")
  assert (summary["image_shape"], summary["num_test_images"]) == ([32, 32, 3], 20)
  assert summary["dtype"] == "bfloat16"


def edited(config, **fields):
  """A copy with fields by dotted name, written with __ for the dots."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
  return config


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"representation__layer": "conv7"}, "representation.layer='conv7' is not one of"),
    ({"representation__step": 55}, "representation.step=55 is not kept"),
    ({"data__name": "imagenet"}, "data.name='imagenet' is not one of"),
    ({"dtype": "float8"}, "dtype='float8' is not one of"),
    ({"inverter__decay": "fast"}, "inverter.decay='fast' is not one of"),
    ({"decoder__decay": "fast"}, "decoder.decay='fast' is not one of"),
    ({"decoder__network__num_scales": 0}, "decoder.network.num_scales=0 must be above zero"),
    ({"inverter__network__dropout_rate": 1.5}, "must be at least 0 and below 1"),
    ({"inverter__batch_size": 0}, "inverter.batch_size=0 must be above zero"),
    ({"inverter__network__context": "both"}, "inverter.network.context='both'"),
    ({"brackets__sigmas": (1.0, 0.0)}, "brackets.sigmas=(1.0, 0.0) must be above zero"),
    ({"brackets__bits": (1, 0)}, "brackets.bits=0 is not one of"),
  ],
)
def test_a_wrong_field_is_named(fields, words):
  with pytest.raises(UserError, match=re.escape(words)):
    config_lib.check(edited(get_config("digits_fc3"), **fields))


def test_a_folder_of_another_configuration_is_left_alone(finished):
  config = edited(finished.config, inverter__network__num_filters=8)
  with pytest.raises(UserError, match=r"num_filters is 4 there and 8 here\); choose another"):
    Run(config, finished.folder).begin()
  longer = edited(finished.config, inverter__num_steps=6, sample__num_images=2)
  Run(longer, finished.folder).begin()


def test_a_folder_from_before_a_stage_existed_goes_on(finished):
  old = finished.config.to_dict()
  del old["decoder"]
  assert not config_lib.differences(old, finished.config)
  del old["inverter"]["network"]["num_filters"]
  assert config_lib.differences(old, finished.config) == [
    "inverter.network.num_filters is 64 there and 4 here"
  ]


def test_a_damaged_checkpoint_is_named_and_its_advice_helps(finished, tmp_path):
  folder = tmp_path / "damaged"
  shutil.copytree(finished.folder, folder)
  for path in (folder / "inverter").rglob("*"):
    if path.is_file() and "default" in path.parts:
      path.write_bytes(b"")
  (folder / "stages.json").write_text(
    json.dumps({k: v for k, v in finished.progress().items() if k != "evaluate"})
  )
  with pytest.raises(UserError, match="inverter/6 is damaged"):
    stages.evaluate(Run(finished.config, folder))
  shutil.rmtree(folder / "inverter" / "6")
  # The one before it was damaged too by this test; with both gone, training starts anew.
  shutil.rmtree(folder / "inverter" / "3")
  run = run_stages(finished.config, folder, ("classifier", "inverter", "evaluate"))
  nats, expected = (storage.read_npz(r.folder / "nats.npz")["nats"] for r in (run, finished))
  np.testing.assert_array_equal(nats, expected)


def test_a_folder_that_cannot_be_made_is_named(finished, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"file/run cannot be made .* choose another --workdir"):
    Run(finished.config, tmp_path / "file" / "run").begin()


def test_a_batch_larger_than_the_set_is_named(finished, tmp_path):
  config = edited(finished.config, classifier__batch_size=5000)
  with pytest.raises(UserError, match=r"classifier\.batch_size=5000 exceeds the 64 training"):
    run_stages(config, tmp_path / "run", ("classifier",))


def test_a_stage_without_what_it_needs_says_which_to_run(finished, tmp_path):
  with pytest.raises(UserError, match="no finished inverter; run --stages=inverter"):
    stages.evaluate(Run(finished.config, tmp_path))


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "--config is missing"),
    (["--config=configs/nothing.py"], "configs/nothing.py"),
    (
      ["--config=configs/digits_fc3.py:tiny"],
      "has no variant 'tiny'; leave it out",
    ),
    (["--config=configs/digits_fc3.py", "--config.inverter.num_step=3"], "num_step"),
    (["--config=configs/digits_fc3.py", "--config.inverter.num_steps=many"], "many"),
    (["--config=configs/digits_fc3.py", "--stages=train"], "--stages knows classifier"),
    (["--config=configs/digits_fc3.py", "--wordkir=x"], "wordkir"),
    (["--config=configs/digits_fc3.py", "classifier"], "'classifier' is not a flag"),
  ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(arguments, words, tmp_path):
  done = command(*arguments, f"--workdir={tmp_path}/run")
  assert done.returncode == 2, done.stderr
  assert words in done.stderr
  assert "Traceback" not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


def test_a_full_disk_is_one_sentence_and_a_bug_keeps_its_traceback(monkeypatch, capsys):
  def full(_):
    raise OSError(28, "No space left on device", "runs/x/nats.npz")

  monkeypatch.setattr(main, "main", full)
  monkeypatch.setattr(main, "_workdir", lambda: pathlib.Path("runs/x"))
  monkeypatch.setattr(main.flags, "FLAGS", {"verbosity": type("", (), {"present": True})})
  with pytest.raises(SystemExit) as stopped:
    main._guarded([])
  assert stopped.value.code == 2
  assert "No space is left for runs/x/nats.npz" in capsys.readouterr().err
  monkeypatch.setattr(main, "main", lambda _: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    main._guarded([])


def test_a_layer_through_noise_is_an_experiment_of_its_own(finished):
  config = edited(finished.config, representation__sigma=2.0)
  run = Run(config, finished.folder.parent / "noisy")
  images, index = run.data.test.images_NHWC[:2], np.array([3, 3])
  run.begin()
  stages.STAGES["classifier"](run)
  plain, seen = run.represent(images), run.observe(images, index)
  # Both images of index 3 meet the same noise, which is there and of the stated size.
  noise = np.asarray(seen) * np.hypot(1.0, 2.0) - np.asarray(plain)
  np.testing.assert_allclose(noise[0], noise[1], atol=1e-5)
  assert noise.std() == pytest.approx(2.0, rel=0.4)
  np.testing.assert_array_equal(seen, run.observe(images, index))
  assert not np.allclose(seen, run.observe(images, index + 1))


def test_brackets_show_both_sides_of_a_layer(finished):
  config = edited(
    *(finished.config,),
    **{"brackets__sigmas": (1.0,), "brackets__bits": ()},
    **{"inverter__num_steps": 1, "inverter__validate_every": 1},
  )
  run = Run(config, finished.folder.parent / "bracketed")
  for stage in ("classifier", "inverter", "evaluate", "brackets", "report"):
    run.begin()
    stages.STAGES[stage](run)
  rows = storage.read_json(run.folder / "brackets.json")
  nats_of = {row["method"]: row["nats"] for row in rows}
  assert {"inverter", "infonce", "density_upper", "leave_one_out_upper"} <= set(nats_of)
  nats = {
    name: storage.read_npz(run.folder / "controls" / name / "nats.npz")["nats"].mean()
    for name in ("prior", "sigma_1")
  }
  saved = nats["prior"] - nats["sigma_1"]
  assert nats_of["inverter"] == pytest.approx(saved)
  assert "Through noise and few bits" in (run.folder / "report.html").read_text()


def test_an_inverter_that_does_not_fit_names_the_fields_that_make_it(
  tmp_path, data_dir, monkeypatch
):
  config = smaller(get_config("digits_prior", "smoke"))
  config.data.dir = str(data_dir)
  with monkeypatch.context() as patched:
    patched.setattr(costs, "device_bytes", lambda: 10_000)
    words = r"A step of the inverter needs .*num_microbatches.*remat"
    with pytest.raises(UserError, match=words):
      run_stages(config, tmp_path, ["inverter"])
  config.inverter.update({"num_microbatches": 2, "filter_multiple": 8})
  config.inverter.network.remat = "blocks"
  run = run_stages(config, tmp_path, ["inverter"])  # The same folder: these fields are free.
  assert run.finished("inverter")["step"] == config.inverter.num_steps


def test_microbatches_that_do_not_share_a_batch_are_refused(tmp_path, data_dir):
  config = smaller(get_config("digits_prior", "smoke"))
  config.data.dir = str(data_dir)
  config.inverter.num_microbatches = 3
  words = r"inverter\.batch_size=16 cannot be split over 3 microbatches"
  with pytest.raises(UserError, match=words):
    run_stages(config, tmp_path, ["inverter"])
