import os
import pathlib
import shutil
import threading
import time
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inversion_jax.machine import checkpoints
from inversion_jax.machine.checkpoints import Checkpoints
from inversion_jax.machine.errors import UserError


def save_all(folder, values, best_mode="min", keep_steps=()):
  with Checkpoints(folder, best_mode, keep_steps) as kept:
    for step, value in values.items():
      kept.save(step, {"w": jnp.full(3, float(step))}, value)


def test_the_newest_two_the_best_and_the_chosen_are_kept(tmp_path):
  save_all(tmp_path, {0: 9.0, 5: 6.0, 10: 5.0, 20: 2.0, 30: 4.0, 40: 3.0}, keep_steps=(0,))
  with Checkpoints(tmp_path, "min", (0,)) as kept:
    assert kept.steps() == [0, 20, 30, 40]
    assert kept.latest_step() == 40
    assert kept.best() == (20, 2.0)
    restored = kept.restore(20, {"w": jnp.zeros(3)})
  np.testing.assert_array_equal(restored["w"], [20.0, 20.0, 20.0])


def test_of_equals_the_newest_is_best_and_still_there(tmp_path):
  save_all(tmp_path, {1: 0.5, 2: 0.5, 3: 0.1, 4: 0.1}, best_mode="max")
  with Checkpoints(tmp_path, "max") as kept:
    step, _ = kept.best()
    assert step == 2
    assert step in kept.steps()


def test_an_empty_folder_has_no_newest(tmp_path):
  with Checkpoints(tmp_path / "new", "min") as kept:
    assert kept.latest_step() is None


def test_no_flipped_bit_of_a_checkpoint_changes_a_number_in_silence(tmp_path):
  # Small arrays would stand in the index, which has checksums of Orbax's own.
  state = {"w": jax.random.normal(jax.random.key(0), (500,)), "v": jnp.arange(9)}
  with Checkpoints(tmp_path / "whole", "min") as kept:
    kept.save(3, state, 1.5)
  rng, seen = np.random.default_rng(0), 0
  paths = [path for path in (tmp_path / "whole" / "3").rglob("*") if path.is_file()]
  # Those of the arrays, of which others are copies or descriptions, more often.
  paths = [
    path for path in paths if path.stat().st_size for _ in range(20 if "d" in path.parts else 2)
  ]
  for original in paths:
    shutil.rmtree(tmp_path / "flipped", ignore_errors=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "flipped")
    path = tmp_path / "flipped" / original.relative_to(tmp_path / "whole")
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    try:
      with Checkpoints(tmp_path / "flipped", "min") as kept:
        assert kept.best() == (3, 1.5)
        restored = kept.restore(3, state)
    except UserError:
      seen += 1
    else:
      for name, values in state.items():
        np.testing.assert_array_equal(restored[name], values)
  assert seen > 20


def test_a_value_that_was_changed_is_seen(tmp_path):
  save_all(tmp_path, {1: 1.5})
  path = tmp_path / "1" / checkpoints.RECORD
  path.write_bytes(path.read_bytes().replace(b"1.5", b"1.7"))
  with pytest.raises(UserError, match=rf"/1 is damaged .*; delete {tmp_path} to train it again"):
    Checkpoints(tmp_path, "min")


@pytest.mark.parametrize("part", ["default", "metrics"])
def test_instead_of_a_damaged_newest_the_one_before_is_used_and_it_can_be_made_again(
  part, tmp_path, caplog
):
  save_all(tmp_path, {1: 3.0, 2: 2.0, 3: 1.0})
  damage(tmp_path / "3" / part)
  with Checkpoints(tmp_path, "min") as kept:
    step, state = kept.restore_newest({"w": jnp.zeros(3)})
    assert (step, list(state["w"])) == (2, [2.0, 2.0, 2.0])
    assert kept.best() == (2, 2.0)
    assert f"{tmp_path}/3 is damaged: training goes on from the one before it" in caplog.text
    kept.save(3, {"w": jnp.full(3, 3.0)}, 1.0)
  with Checkpoints(tmp_path, "min") as kept:
    assert kept.restore_newest({"w": jnp.zeros(3)})[0] == 3
  assert (tmp_path / "3.damaged").exists()


def damage(folder):
  for path in folder.rglob("*"):
    if path.is_file():
      path.write_bytes(b"damaged")


def test_of_damaged_checkpoints_none_is_put_aside_while_no_other_can_be_restored(tmp_path):
  save_all(tmp_path, {1: 3.0, 2: 2.0})
  with (
    Checkpoints(tmp_path, "min") as kept,
    pytest.raises(UserError, match=rf"{tmp_path}/1 is damaged or belongs to another model"),
  ):
    kept.restore_newest({"w": jnp.zeros(4)})
  assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


def test_a_state_that_nobody_has_judged_is_the_newest_and_not_the_best(tmp_path):
  save_all(tmp_path, {1: 3.0, 2: 4.0, 3: None})
  with Checkpoints(tmp_path, "min") as kept:
    assert kept.latest_step() == 3
    assert kept.best() == (1, 3.0)
    kept.save(4, {"w": jnp.zeros(3)}, 5.0)
  with Checkpoints(tmp_path, "min") as kept:
    assert kept.steps() == [1, 3, 4]
    assert kept.best() == (1, 3.0)


def test_states_of_which_none_was_judged_have_no_best_and_say_so(tmp_path):
  save_all(tmp_path, {3: None})
  with (
    Checkpoints(tmp_path, "min") as kept,
    pytest.raises(UserError, match=f"{tmp_path} holds no state that was validated; delete it"),
  ):
    kept.best()


def test_what_is_being_moved_away_while_the_next_is_saved_does_not_end_it(tmp_path, monkeypatch):
  replace, moving = os.replace, threading.Event()

  def replace_late(source, target):
    if pathlib.Path(source).name == "1":
      # The folder to move to has just been made: time for the next `save` to delete it.
      moving.set()
      time.sleep(0.5)
    replace(source, target)

  with Checkpoints(tmp_path, "max") as kept:
    kept.save(1, {"w": jnp.zeros(3)}, 1.0)
    kept.save(2, {"w": jnp.zeros(3)}, 2.0)
    monkeypatch.setattr(os, "replace", replace_late)
    kept.save(3, {"w": jnp.zeros(3)}, 3.0)
    assert moving.wait(timeout=60)
    kept.save(4, {"w": jnp.zeros(3)}, 4.0)
  assert {path.name for path in tmp_path.iterdir()} == {"3", "4"}


def test_what_a_kill_left_half_written_is_removed(tmp_path):
  save_all(tmp_path, {1: 3.0})
  half = tmp_path / "2.orbax-checkpoint-tmp"
  (half / "default").mkdir(parents=True)
  (half / "default" / "part").write_bytes(b"half")
  save_all(tmp_path, {3: 1.0})
  assert not half.exists()


def test_a_full_disk_while_saving_is_a_sentence_and_the_last_one_stays(tmp_path, monkeypatch):
  save_all(tmp_path, {1: 3.0})
  with Checkpoints(tmp_path, "min") as kept:
    with monkeypatch.context() as patch:
      # As TensorStore says it.
      error = ValueError("Error writing local file [OS error 28: No space left on device]")
      patch.setattr(kept._manager, "save", Mock(side_effect=error))
      with pytest.raises(UserError, match=r"No space is left for the checkpoints in .*: make room"):
        kept.save(2, {"w": jnp.zeros(3)}, 2.0)
    assert kept.restore(1, {"w": jnp.zeros(3)})["w"][0] == 1.0


def test_a_checkpoint_without_its_value_is_named(tmp_path):
  save_all(tmp_path, {1: 1.0})
  for path in (tmp_path / "1" / "metrics").rglob("*"):
    if path.is_file():
      path.write_bytes(b"damaged")
  with pytest.raises(UserError, match=r"checkpoint .*/1 is damaged"):
    Checkpoints(tmp_path, "min")


def test_a_damaged_checkpoint_is_named_and_the_others_stay(tmp_path):
  save_all(tmp_path, {1: 1.0, 2: 2.0})
  for path in (tmp_path / "2" / "default").rglob("*"):
    if path.is_file():
      path.write_bytes(b"damaged")
  with (
    Checkpoints(tmp_path, "min") as kept,
    pytest.raises(UserError, match=r"checkpoint .*/2 is damaged"),
  ):
    kept.restore(2, {"w": jnp.zeros(3)})
  assert (tmp_path / "1").exists()


def test_what_is_no_longer_kept_is_moved_away_in_one_piece_and_then_deleted(tmp_path, monkeypatch):
  # As of a job that is killed before it has deleted anything.
  monkeypatch.setattr(Checkpoints, "_sweep", lambda self: None)
  save_all(tmp_path, {0: 9.0, 5: 6.0, 10: 5.0, 20: 2.0})
  moved = tmp_path / checkpoints._REMOVED
  assert sorted(path.name for path in moved.iterdir()) == ["0", "5"]
  assert checkpoints.saved_steps(tmp_path) == [10, 20]
  monkeypatch.undo()
  save_all(tmp_path, {30: 1.0, 40: 0.5})
  assert not moved.exists()
  with Checkpoints(tmp_path, "min") as kept:
    assert kept.steps() == [30, 40]
