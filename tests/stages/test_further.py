"""Stages for those who ask: neighbours, checks, brackets."""

import shutil

import numpy as np
import pytest
from run_examples import edited, get_config, run_stage, run_stages

from inversion_jax import compare
from inversion_jax import config as config_lib
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.models import sampling
from inversion_jax.runs import Run
from inversion_jax.stages import brackets, classifier, crossfit


@pytest.fixture(scope="module")
def with_neighbours(finished, tmp_path_factory):
  folder = tmp_path_factory.mktemp("neighbours") / "fc3"
  shutil.copytree(finished.folder, folder)
  run = Run(edited(finished.config, neighbours__num_samples=3), folder)
  for stage in ("neighbours", "report"):
    run_stage(stage, run)
  return run


def test_samples_are_encoded_again_and_compared_with_the_training_set(with_neighbours):
  run = with_neighbours
  arrays = storage.read_npz(run.folder / "neighbours.npz")
  drawn = storage.read_npz(run.folder / "samples.npz")["sample"]
  np.testing.assert_array_equal(arrays["sample"][:2, :2], drawn)
  encode, train, test = run.features.encode_images, run.images("train"), run.images("test")
  h = np.asarray(encode(test.images[:4]))
  h_samples = np.asarray(encode(arrays["sample"].reshape(12, 8, 8, 1))).reshape(4, 3, -1)
  sample_l1 = np.abs(h_samples - h[:, None]).mean(-1)
  np.testing.assert_allclose(arrays["sample_l1"], sample_l1, rtol=1e-4)
  all_l1 = np.abs(np.asarray(encode(train.images)) - h[:, None]).mean(-1)
  rows = np.argsort(all_l1, axis=1)[:, :6]
  np.testing.assert_allclose(
    arrays["nearest_l1"], np.take_along_axis(all_l1, rows, axis=1), rtol=1e-4
  )
  np.testing.assert_array_equal(arrays["nearest"], train.images[rows])
  np.testing.assert_array_equal(arrays["nearest_index"], train.index[rows])
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
  run_stage("neighbours", with_neighbours)
  assert (with_neighbours.folder / "neighbours.npz").stat().st_mtime_ns == before


def test_without_a_layer_there_are_no_neighbours(finished, tmp_path):
  with pytest.raises(UserError, match="inverts a layer as it is"):
    run_stage("neighbours", Run(edited(finished.config, representation__layer=""), tmp_path))


def test_checks_name_what_an_untrained_inverter_cannot_do(finished, tmp_path):
  # The paper's reader: the other one also tells where a pixel is, and so is ahead of p(x) after six
  # steps whatever it reads.
  config = edited(finished.config, inverter__network__context="projection")
  run = run_stages(config, tmp_path / "fc3", ("classifier", "inverter", "evaluate"))
  with pytest.raises(UserError, match=r"of 6 checks failed: .*copy.*should not be used"):
    run_stage("checks", run)
  rows = {row["check"]: row for row in storage.read_json(run.folder / "checks.json")}
  assert len(rows) == 6
  assert rows["shuffled h, scored"]["passes"]
  assert not rows["copy"]["passes"]
  summary = storage.read_json(run.folder / "summary.json")
  assert rows["copy"]["inverter_step"] == summary["inverter_steps"]
  # The controls are trained on the classifier of the run itself.
  notes = storage.read_json(run.folder / "controls" / "shuffled" / "stages.json")
  assert notes["classifier"]["copied_from"] == "fc3"


def test_brackets_show_both_sides_of_a_layer(finished):
  config = edited(
    *(finished.config,),
    **{"brackets__sigmas": (1.0,), "brackets__bits": ()},
    **{"inverter__num_steps": 1, "inverter__validate_every": 1},
  )
  run = Run(config, finished.folder.parent / "bracketed")
  for stage in ("classifier", "inverter", "evaluate", "brackets", "report"):
    run.begin()
    run_stage(stage, run)
  rows = storage.read_json(run.folder / "brackets.json")
  nats_of = {row["method"]: row["nats"] for row in rows}
  assert {"inverter", "infonce", "density_upper", "leave_one_out_upper"} <= set(nats_of)
  nats = {
    name: storage.read_npz(run.folder / "controls" / name / "nats.npz")["nats"].mean()
    for name in ("brackets_prior", "sigma_1")
  }
  saved = nats["brackets_prior"] - nats["sigma_1"]
  assert nats_of["inverter"] == pytest.approx(saved)
  # All learn as p(x) does, and read as the layer does.
  prior_rate = get_config("digits_prior", "smoke").inverter.learning_rate
  assert prior_rate != config.inverter.learning_rate
  for name in ("brackets_prior", "sigma_1"):
    inverter = Run.load(run.folder / "controls" / name).config.inverter
    assert inverter.learning_rate == prior_rate
    assert inverter.network.reader_dropout_rate == config.inverter.network.reader_dropout_rate
  assert "Through noise and few bits" in (run.folder / "report.html").read_text()


def test_brackets_that_were_begun_otherwise_are_refused_before_anything_is_trained(tmp_path):
  run = Run(get_config("digits_fc3", "smoke"), tmp_path / "fc3")
  control = run.folder / "controls" / "sigma_0.3"
  control.mkdir(parents=True)
  # As before all of them had p(x)'s recipe, which is another rate.
  begun = edited(run.config, representation__sigma=0.3)
  storage.write_json(control / "config.json", begun.to_dict())
  with pytest.raises(
    UserError, match=r"sigma_0\.3 belongs to another configuration .*learning_rate"
  ):
    brackets.check(run)


def test_cross_fitted_no_image_trains_both_classifier_and_inverter(finished, tmp_path, monkeypatch):
  folder = tmp_path / "fc3"
  shutil.copytree(finished.folder, folder)
  run = Run(finished.config, folder)
  nats, parts = {}, {}

  def evaluated(part):
    """What training leaves that is looked at here."""
    part.begin()
    name = part.folder.name
    parts[name] = Run.load(part.folder)
    nats[name] = np.random.default_rng(len(nats)).normal(100.0, 1.0, 21)
    storage.write_npz(part.folder / storage.NATS, {"nats": nats[name]})
    return part

  monkeypatch.setattr(crossfit.controls, "evaluated", evaluated)
  for stage in ("crossfit", "report"):
    run_stage(stage, run)
  everything = set(run.images("train").index)
  for name, part in parts.items():
    by_classifier, by_inverter = (
      set(images.index) for images in (part.classifier_images(), part.images("train"))
    )
    assert classifier.subject(part).num_images == len(by_classifier) == len(everything) / 2
    if name in crossfit.CROSSED:
      assert by_classifier | by_inverter == everything
    else:
      assert by_classifier == by_inverter
    np.testing.assert_array_equal(part.images("test").images, run.images("test").images)
  identities = {
    name: str(config_lib.classifier_identity(part.config)) for name, part in parts.items()
  }
  # Two classifiers for four inverters, and neither is the usual one.
  assert identities["same_1"] == identities["crossed_1"] != identities["crossed_2"]
  assert str(config_lib.classifier_identity(run.config)) not in identities.values()
  found = storage.read_json(folder / "crossfit.json")
  crossed_N, same_N = (
    np.mean([nats[name] for name in names], axis=0) for names in (crossfit.CROSSED, crossfit.SAME)
  )
  usual_N = storage.read_npz(folder / "nats.npz")["nats"]
  assert found["cross_fitted_nce_nats"] == pytest.approx(-crossed_N.mean())
  for name, other_N in (("usual", usual_N), ("same_half", same_N)):
    gain_N = other_N - crossed_N
    assert found[f"cross_fitted_minus_{name}_nats"] == pytest.approx(gain_N.mean())
    error = found[f"cross_fitted_minus_{name}_nats_standard_error"]
    assert error == pytest.approx(gain_N.std(ddof=1) / np.sqrt(len(gain_N)))
  text = (folder / "report.html").read_text(encoding="utf-8")
  assert "Cross-fitted: " in text
  assert "(usual: " in text
  compare.main([str(folder), f"--output={tmp_path / 'out'}"])
  assert "Cross-fitting" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_there_is_nothing_to_cross_fit_without_a_classifier_of_its_own(finished, tmp_path):
  for fields, words in (
    ({"representation__layer": ""}, "inverts a layer of its own classifier"),
    ({"inverter__half": 1}, "halves the images itself"),
    ({"inverter__batch_size": 48}, "exceeds the 32 training images"),
  ):
    with pytest.raises(UserError, match=words):
      crossfit.check(Run(edited(finished.config, **fields), tmp_path))
