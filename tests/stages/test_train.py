"""Training of a run: shared, killed, continued, refused."""

import collections
import json
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from run_examples import (
  edited,
  get_config,
  killed_at_step,
  run_stage,
  run_stages,
  sibling,
  smaller,
  told_to_end_at_step,
)

from inversion_jax import config as config_lib
from inversion_jax import stages
from inversion_jax.fitting import costs, training
from inversion_jax.machine import compilation, stopping, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run
from inversion_jax.stages import ahead, classifier, decoder


def test_a_finished_run_is_left_alone(finished, monkeypatch):
  before = (finished.folder / "nats.npz").stat().st_mtime_ns
  monkeypatch.setattr(training, "fit", None)
  again = Run(finished.config, finished.folder)
  again.begin()
  for stage in stages.DEFAULT:
    run_stage(stage, again)
  assert (finished.folder / "nats.npz").stat().st_mtime_ns == before


def test_runs_that_differ_in_the_layer_share_the_classifier(finished, tmp_path, monkeypatch):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  run = Run(config_lib.for_layer(finished.config, "logits"), tmp_path / "logits")
  run.begin()
  monkeypatch.setattr(training, "fit", None)
  run_stage("classifier", run)
  assert run.notes()["classifier"]["copied_from"] == "fc3"
  mine, theirs = (r.classifier_params() for r in (run, finished))
  jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_runs_side_by_side_share_classifier_and_programs_and_end_as_runs_one_after_another(
  finished, tmp_path, capfd, monkeypatch
):
  # Of the processes that come; this one has its folder already.
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  runs = [
    Run(config_lib.for_layer(finished.config, layer), tmp_path / layer)
    for layer in ("fc3", "logits")
  ]
  for run in runs:
    run.begin()
  compiled = tmp_path / compilation.FOLDER
  stages.go_through_all(runs, ("classifier", "inverter", "evaluate", "sample"), 2, compiled)
  assert runs[1].notes()["classifier"]["copied_from"] == "fc3"
  nats = [storage.read_npz(run.folder / "nats.npz")["nats"] for run in (runs[0], finished)]
  # Another number of cores rounds sums otherwise.
  np.testing.assert_allclose(*nats, rtol=1e-3)
  assert (runs[1].folder / "nats.npz").exists()
  told = capfd.readouterr().err
  assert "logits: classifier: copied from fc3" in told
  assert "programs: step of the network of fc3, logits" in told
  num_kept = collections.Counter(path.name.partition("-")[0] for path in compiled.glob("*-cache"))
  for program in ("gradient_of_second", "init_network", "score_contexts", "draw_batch"):
    assert num_kept[f"jit_{program}"] == 1, "once for both"
  assert num_kept["jit_init_reader"] == 2, "each reads in its own way"
  assert ahead.tasks(runs, tuple(stages.DEFAULT), compiled) == ([], []), "they are trained"


def test_what_layers_have_in_common_is_known_before_they_are_trained(finished, tmp_path):
  runs = {
    layer: Run(config_lib.for_layer(finished.config, layer), tmp_path / layer)
    for layer in ("conv2", "fc3", "logits")
  }

  def told(layers, names=("inverter", "sample"), **changes):
    for layer, run in runs.items():
      with run.config.unlocked():
        run.config.inverter.weight_decay = changes.get(layer, 0.0)
    found = ahead.tasks([runs[layer] for layer in layers], names, tmp_path)
    for config, _, layers_alike, _ in (task.args for tasks in found for task in tasks):
      assert config.representation.layer == layers_alike.split(", ")[-1], "its reader, too"
    return tuple([task.args[1:3] for task in tasks] for tasks in found)

  def parts(*names):
    return [(name, "conv2, fc3, logits") for name in names]

  # To begin with, and for later.
  assert told(runs) == (parts("step", "beginning"), parts("score", "samples"))
  assert told(runs, ("inverter",)) == (parts("step", "beginning"), parts("score"))
  # Another recipe has another step alone.
  own_step = [("step", "fc3, logits"), *parts("beginning")]
  assert told(runs, conv2=0.1) == (own_step, parts("score", "samples"))
  assert told(["fc3"]) == told(runs, ("classifier",)) == ([], [])
  with runs["conv2"].config.unlocked():
    runs["conv2"].config.inverter.network.reader_even = False
  for tasks in told(runs):
    assert {layers for _, layers in tasks} == {"fc3, logits"}


def test_layers_of_other_replicates_share_a_classifier_that_does_not_vary(finished, tmp_path):
  config = edited(finished.config, seed=1, classifier__seed=0)
  # Others than replicates are two experiments that happen to be below one folder.
  for first, second, is_shared in (("seed_0", "seed_1", True), ("a", "b", False)):
    above = tmp_path / f"above_{first}"
    shutil.copytree(finished.folder, above / first / "fc3")
    run = Run(config_lib.for_layer(config, "logits"), above / second / "logits")
    run.begin()
    assert classifier.share(run) == is_shared


def test_another_seed_does_not_share_the_classifier(finished):
  run = sibling(finished, "seed1")
  with run.config.unlocked():
    run.config.seed = 1
  run.begin()
  assert not classifier.share(run)


def test_a_killed_run_ends_as_an_uninterrupted_one(finished):
  run = sibling(finished, "killed")
  run.begin()
  run_stage("classifier", run)
  with killed_at_step(4):
    run_stage("inverter", run)
  assert "inverter" not in run.notes()
  run = Run(run.config, run.folder)
  run_stage("inverter", run)
  assert run.model.note["best_step"] == finished.model.note["best_step"] == 6
  for name in ("params", "live_params"):
    resumed, straight = (getattr(r.model, name) for r in (run, finished))
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
  steps = [
    (record["step"], "train_nats_per_image" in record)
    for record in storage.read_metrics(run.folder / "metrics.jsonl")
    if record["stage"] == "inverter"
  ]
  assert len(steps) == len(set(steps))


def test_a_run_that_is_told_to_end_ends_later_as_an_uninterrupted_one(finished):
  run = sibling(finished, "stopped")
  run.begin()
  run_stage("classifier", run)
  with told_to_end_at_step(4), pytest.raises(SystemExit) as ended, stopping.heeded():
    run_stage("inverter", run)
  assert ended.value.code == 128 + signal.SIGTERM
  # No step but 0, 3 and 6 is validated.
  assert "4" in {path.name for path in (run.folder / "inverter").iterdir()}
  run_stage("inverter", Run(run.config, run.folder))
  for name in ("params", "live_params"):
    resumed, straight = (getattr(r.model, name) for r in (run, finished))
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
  validated, expected = (
    [
      (line["step"], line["validation_nats_per_image"])
      for line in storage.read_metrics(of.folder / "metrics.jsonl")
      if line["stage"] == "inverter" and "validation_nats_per_image" in line
    ]
    for of in (run, finished)
  )
  assert validated == expected


def test_a_damaged_newest_checkpoint_is_made_again_from_the_one_before(finished, tmp_path, caplog):
  folder = tmp_path / "fc3"
  shutil.copytree(finished.folder, folder)
  notes = {name: note for name, note in finished.notes().items() if name != "inverter"}
  storage.write_json(folder / "stages.json", notes)
  flip_numbers(folder / "inverter" / "6")
  run = Run(finished.config, folder)
  run_stage("inverter", run)
  assert f"{folder}/inverter/6 is damaged: training goes on from the one before" in caplog.text
  assert run.finished("inverter")["best_step"] == 6
  made_again, straight = (r.model.live_params for r in (run, finished))
  jax.tree.map(np.testing.assert_array_equal, made_again, straight)


def flip_numbers(checkpoint):
  """Flips bits all over the files that hold a checkpoint's arrays.

  Which array is in which of them depends on how fast each was written.
  """
  paths = [path for path in checkpoint.rglob("ocdbt.process_*/d/*") if path.is_file()]
  assert paths
  for path in paths:
    content = bytearray(path.read_bytes())
    content[::100] = bytes(byte ^ 4 for byte in content[::100])
    path.write_bytes(content)


def test_what_is_damaged_says_what_to_delete_until_all_is_made_again(finished, tmp_path):
  folder = tmp_path / "fc3"
  shutil.copytree(finished.folder, folder)
  names = ("config.json", "stages.json", "nats.npz", "maps.npz", "summary.json", "samples.npz")
  names += ("representation.npz", "metrics.jsonl", "codelength.npz")
  for name in names:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / name).write_bytes(content)
  deleted = []
  while len(deleted) <= len(names):
    try:
      run = run_stages(finished.config, folder)
      break
    except UserError as error:
      path = pathlib.Path(re.match(r"(\S+) is damaged \(.*\); delete it and give", str(error))[1])
      path.unlink()
      deleted.append(path.name)
  # What depends on a file that is made again is made again itself, damaged or not.
  assert {"config.json", "stages.json", *names[-3:]} <= set(deleted)
  nats, expected = (storage.read_npz(r.folder / "nats.npz")["nats"] for r in (run, finished))
  np.testing.assert_array_equal(nats, expected)
  assert storage.read_json(folder / "summary.json")["nce_nats"] == finished_nce(finished)
  samples, expected = (storage.read_npz(r.folder / "samples.npz") for r in (run, finished))
  for name, values in expected.items():
    np.testing.assert_array_equal(samples[name], values)


def finished_nce(run):
  return storage.read_json(run.folder / "summary.json")["nce_nats"]


def test_the_seconds_of_training_go_on_where_they_were(finished, tmp_path):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  path = tmp_path / "fc3" / "metrics.jsonl"
  with path.open(encoding="utf-8") as file:
    lines = [json.loads(line) for line in file]
  before = [line["seconds"] for line in lines if line["stage"] == "inverter" and "seconds" in line]
  assert before == sorted(before)
  later = edited(finished.config, inverter__num_steps=8)
  lines = [line | ({"seconds": 1e6} if "seconds" in line else {}) for line in lines]
  storage.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
  run = Run(later, tmp_path / "fc3")
  run_stage("inverter", run)
  records = storage.read_metrics(path)
  last = [line for line in records if line["stage"] == "inverter" and "seconds" in line][-1]
  assert last["step"] == 8
  assert 0 < last["seconds"] - 1e6 < 1e3


def test_a_longer_run_goes_on_and_is_evaluated_again(finished, tmp_path):
  folder = tmp_path / "longer"
  shutil.copytree(finished.folder, folder)
  config = finished.config.copy_and_resolve_references()
  config.inverter.num_steps = 9
  run = run_stages(config, folder, ("classifier", "inverter", "evaluate"))
  assert run.notes()["inverter"]["step"] == 9
  assert storage.read_json(folder / "summary.json")["inverter_train_steps"] == 9


def test_without_a_layer_the_same_path_is_the_unconditional_model(data_dir, tmp_path):
  config = smaller(get_config("digits_prior", "smoke"))
  config.data.dir = str(data_dir)
  run = run_stages(config, tmp_path / "prior")
  summary = storage.read_json(run.folder / "summary.json")
  assert (summary["layer"], summary["classifier_test_accuracy"]) == ("none", None)
  assert "inverter" in run.notes()
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
  # With its inverter gone, the stage would begin anew.
  folder = started.folder
  shutil.rmtree(folder / "inverter")
  with pytest.raises(UserError, match="start_from=nowhere is not the folder of a run"):
    run_stage("inverter", Run(edited(layer, inverter__start_from="nowhere"), folder))
  with pytest.raises(UserError, match="give an unconditional run of digits"):
    run_stage("inverter", Run(edited(layer, inverter__start_from=str(started.folder)), folder))


def test_a_damaged_checkpoint_is_named_and_its_advice_helps(finished, tmp_path):
  folder = tmp_path / "damaged"
  shutil.copytree(finished.folder, folder)
  for path in (folder / "inverter").rglob("*"):
    if path.is_file() and "default" in path.parts:
      path.write_bytes(b"")
  notes = {name: note for name, note in finished.notes().items() if name != "evaluate"}
  storage.write_json(folder / "stages.json", notes)
  with pytest.raises(UserError, match="inverter/6 is damaged"):
    run_stage("evaluate", Run(finished.config, folder))
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
  words = r"inverter\.num_microbatches=3 does not divide batch_size=16"
  with pytest.raises(UserError, match=words):
    run_stages(config, tmp_path, ["inverter"])


def test_a_reader_begins_from_the_decoder_of_its_run(finished, tmp_path):
  network = finished.config.inverter.network
  config = edited(
    finished.config,
    inverter__start_reader_from_decoder=True,
    inverter__num_steps=1,
    inverter__validate_every=1,
    decoder__network__residual=True,
    decoder__network__num_filters=network.reader_filters,
    decoder__network__num_blocks=network.reader_blocks,
    decoder__network__num_scales=network.num_scales,
    decoder__network__num_units=network.reader_units,
  )
  with pytest.raises(UserError, match="no finished decoder; run --stages=decoder"):
    run_stages(config, tmp_path / "fc3", ("classifier", "inverter"))
  run = run_stages(config, tmp_path / "fc3", ("decoder", "inverter"))
  decoder_params = decoder.params_at(run, run.finished("decoder")["best_step"])
  reader = run.model.live_params["encoder"]
  step = config.inverter.learning_rate
  for name in ("dense", "grid"):
    moved = np.abs(reader[name]["kernel"] - decoder_params[name]["kernel"])
    assert moved.max() <= 1.1 * step
  without = edited(config, inverter__start_reader_from_decoder=False)
  fresh = run_stages(without, tmp_path / "fresh", ("classifier", "inverter")).model.live_params
  assert np.abs(fresh["encoder"]["grid"]["kernel"] - reader["grid"]["kernel"]).max() > 10 * step


def test_a_classifier_that_was_not_trained_to_its_end_is_not_shared(finished, tmp_path):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  unfinished = Run(finished.config, tmp_path / "fc3")
  unfinished.note("classifier", unfinished.notes()["classifier"] | {"step": 2})
  run = Run(config_lib.for_layer(finished.config, "logits"), tmp_path / "logits")
  run.begin()
  assert not classifier.share(run)


@pytest.mark.parametrize(
  ("name", "content"),
  [("stages.json", "[]"), ("stages.json", "{"), ("stages.json", '{"classifier": 1}')],
)
def test_a_bad_folder_beside_a_run_does_not_stop_it(finished, tmp_path, caplog, name, content):
  (tmp_path / "bad").mkdir()
  (tmp_path / "bad" / name).write_text(content)
  shutil.copytree(finished.folder, tmp_path / "fc3")
  run = Run(config_lib.for_layer(finished.config, "logits"), tmp_path / "logits")
  run.begin()
  assert classifier.share(run)
  assert run.notes()["classifier"]["copied_from"] == "fc3"
  assert f"No classifier is taken from {tmp_path}/bad" in caplog.text


def test_a_damaged_classifier_is_not_shared(finished, tmp_path, caplog):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  flip_numbers(tmp_path / "fc3" / "classifier" / str(finished.classifier_step()))
  run = Run(config_lib.for_layer(finished.config, "logits"), tmp_path / "logits")
  run.begin()
  assert not classifier.share(run)
  assert "is damaged" in caplog.text
