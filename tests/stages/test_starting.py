"""What is asked before the first stage."""

import pytest
from run_examples import edited

from inversion_jax import runs, stages
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run
from inversion_jax.stages import starting

DEFAULT = [stages.STAGES[name] for name in stages.DEFAULT]


def test_a_finished_run_needs_no_data(finished, monkeypatch):
  monkeypatch.setattr(runs, "load_data", lambda *_, **__: pytest.fail("data were read"))
  starting.check([Run(finished.config, finished.folder)], DEFAULT)


def test_a_stage_that_will_be_done_again_is_looked_at(finished):
  further = edited(finished.config, inverter__num_steps=8, sample__num_given_rows=8)
  with pytest.raises(UserError, match="leaves nothing to draw"):
    starting.check([Run(further, finished.folder)], DEFAULT)


def test_what_is_there_counts_for_what_will_be_written(finished, tmp_path):
  for model in ("classifier", "inverter", "decoder"):
    anew = starting.WRITTEN_BYTES[model](Run(finished.config, tmp_path))
    there = starting.WRITTEN_BYTES[model](finished)
    files = [path for path in (finished.folder / model).rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in files)
    assert there == max(0, anew - written)
    # Three checkpoints are kept of four that are counted, and compressed a little.
    assert 0.3 * anew < written < 2 * anew, model


def test_room_is_asked_of_the_disk_that_the_folder_will_be_on(finished, tmp_path, monkeypatch):
  asked = []

  def usage(path):
    asked.append(path)
    return type("", (), {"free": 10})

  monkeypatch.setattr(starting.shutil, "disk_usage", usage)
  folder = tmp_path / "not" / "yet" / "made"
  with pytest.raises(
    UserError, match=r"will write about .* GB, and .* has 1e-08 GB free; make room"
  ):
    starting.check([Run(finished.config, folder)], DEFAULT)
  assert asked == [tmp_path]
  assert not folder.parent.exists()
