"""Samples of a run, and the reconstructions beside them."""

import shutil

import numpy as np
import pytest
from run_examples import edited, run_stage

from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.models import sampling
from inversion_jax.runs import Run
from inversion_jax.stages import drawing


def test_a_decoder_joins_samples_that_were_drawn_before_it(finished, tmp_path, monkeypatch):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  shutil.rmtree(tmp_path / "fc3" / "decoder")
  run = Run(finished.config, tmp_path / "fc3")
  notes = {name: note for name, note in run.notes().items() if name != "decoder"}
  storage.write_json(run.folder / "stages.json", notes)
  run_stage("sample", run)
  without, expected = (storage.read_npz(r.folder / "samples.npz") for r in (run, finished))
  assert "reconstruction" not in without
  run_stage("decoder", run)
  monkeypatch.setattr(sampling, "draw", None)
  run_stage("sample", run)
  samples = storage.read_npz(run.folder / "samples.npz")
  for name, values in expected.items():
    np.testing.assert_array_equal(samples[name], values)


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
      run_stage("sample", run)
  load, loaded = storage.read_npz, []

  def noted(path):
    loaded.append(path.name)
    return load(path)

  monkeypatch.setattr(storage, "read_npz", noted)
  run_stage("sample", Run(run.config, run.folder))
  assert len(parts) == 2
  assert set(loaded) >= {path.name for path in parts}
  resumed, straight = (load(r.folder / "samples.npz") for r in (run, finished))
  np.testing.assert_array_equal(resumed["sample"], straight["sample"])
  assert not parts[0].parent.exists()


def test_the_samplers_of_a_run_agree_and_complete_its_images(finished, tmp_path):
  shutil.copytree(finished.folder, tmp_path / "fc3")
  expected = storage.read_npz(finished.folder / "samples.npz")["sample"]
  for sampler in ("ancestral", "fixed_point"):
    run_stage("sample", Run(edited(finished.config, sample__sampler=sampler), tmp_path / "fc3"))
    drawn = storage.read_npz(tmp_path / "fc3" / "samples.npz")["sample"]
    np.testing.assert_array_equal(drawn, expected)
  run_stage("sample", Run(edited(finished.config, sample__num_given_rows=3), tmp_path / "fc3"))
  samples = storage.read_npz(tmp_path / "fc3" / "samples.npz")
  np.testing.assert_array_equal(samples["sample"][:, 0, :3], samples["original"][:, :3])
  with pytest.raises(UserError, match="leaves nothing to draw"):
    run_stage("sample", Run(edited(finished.config, sample__num_given_rows=8), tmp_path / "fc3"))


def test_batches_of_nobody_knows_which_job_are_drawn_again(tmp_path):
  folder, levels = tmp_path / "parts", np.zeros((2, 4, 4, 1), np.uint8)
  drawing._Parts(folder, {"num_samples": 2}).save(0, levels)
  assert drawing._Parts(folder, {"num_samples": 2}).load(0) is not None
  (folder / "record.json").unlink()
  assert drawing._Parts(folder, {"num_samples": 3}).load(0) is None
