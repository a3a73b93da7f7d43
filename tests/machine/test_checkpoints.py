import jax.numpy as jnp
import numpy as np
import pytest

from inversion_jax.machine.checkpoints import Checkpoints
from inversion_jax.machine.errors import UserError


def save_all(folder, values, best_mode="min", keep_steps=()):
  with Checkpoints(folder, best_mode, keep_steps) as checkpoints:
    for step, value in values.items():
      checkpoints.save(step, {"w": jnp.full(3, float(step))}, value)


def test_the_newest_two_the_best_and_the_chosen_are_kept(tmp_path):
  save_all(tmp_path, {0: 9.0, 5: 6.0, 10: 5.0, 20: 2.0, 30: 4.0, 40: 3.0}, keep_steps=(0,))
  with Checkpoints(tmp_path, "min", (0,)) as checkpoints:
    assert checkpoints.steps() == [0, 20, 30, 40]
    assert checkpoints.latest_step() == 40
    assert checkpoints.best() == (20, 2.0)
    restored = checkpoints.restore(20, {"w": jnp.zeros(3)})
  np.testing.assert_array_equal(restored["w"], [20.0, 20.0, 20.0])


def test_of_equals_the_newest_is_best_and_still_there(tmp_path):
  save_all(tmp_path, {1: 0.5, 2: 0.5, 3: 0.1, 4: 0.1}, best_mode="max")
  with Checkpoints(tmp_path, "max") as checkpoints:
    step, _ = checkpoints.best()
    assert step == 2
    assert step in checkpoints.steps()


def test_an_empty_folder_has_no_newest(tmp_path):
  with Checkpoints(tmp_path / "new", "min") as checkpoints:
    assert checkpoints.latest_step() is None


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
    Checkpoints(tmp_path, "min") as checkpoints,
    pytest.raises(UserError, match=r"checkpoint .*/2 is damaged"),
  ):
    checkpoints.restore(2, {"w": jnp.zeros(3)})
  assert (tmp_path / "1").exists()
