"""Training with a folder, of a model of one number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inversion_jax.fitting import sessions
from inversion_jax.fitting.training import Recipe
from inversion_jax.machine import notes, placement, storage


def subject(**changes):
  """Its validation value only rises: the untrained state is the best."""
  return sessions.Subject(
    **{
      "name": "number",
      "init_fn": lambda keys, images_B: {"w": jnp.zeros(())},
      "first_batch": (np.zeros(4, np.float32),),
      "loss_fn": lambda params, batch, key: (jnp.square(params["w"] - batch).mean(), {}),
      "batch_fn": lambda rows_B: placement.put_batch(rows_B.astype(np.float32)),
      "num_images": 16,
      "validate": lambda state: (float(state.step), {"validation_nats_per_image": 1e9}),
    }
    | changes
  )


RECIPE = Recipe(num_steps=9, batch_size=8, validate_every=1, patience=3)


def test_training_that_was_over_when_it_was_killed_is_over(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    # All is saved, and nothing noted.
    patch.setattr(notes, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      sessions.train(subject(), RECIPE, seed=0, folder=tmp_path)
  lines = storage.read_metrics(tmp_path / storage.METRICS)
  note = sessions.train(subject(), RECIPE, seed=0, folder=tmp_path).note
  assert (note["step"], note["best_step"], note["stopped_early"]) == (3, 0, True)
  assert storage.read_metrics(tmp_path / storage.METRICS) == lines


def test_the_order_has_a_seed_of_its_own_which_changes_nothing_else():
  def visited(**seeds):
    rows = []
    watched = subject(
      batch_fn=lambda rows_B: (
        rows.append(rows_B.tolist()) or placement.put_batch(rows_B.astype(np.float32))
      ),
      validate=lambda state: (0.0, {"validation_nats_per_image": 1e9}),
    )
    sessions.train(watched, RECIPE, **seeds)
    return rows

  usual = visited(seed=0)
  assert visited(seed=0, order_seed=0) == visited(seed=1, order_seed=0) == usual
  assert visited(seed=0, order_seed=1) == visited(seed=1) != usual


def test_killed_training_by_muon_ends_as_an_uninterrupted_one(tmp_path):
  def loss_fn(params, batch, key):
    dense = params["dense"]
    rows = batch[:, None] * jnp.arange(1.0, 4.0)
    return jnp.square(rows @ dense["kernel"] + dense["bias"] - 1.0).mean(), {}

  def trained(folder, last=None):
    def batch_fn(rows_B):
      if len(visited) == last:
        raise KeyboardInterrupt
      visited.append(rows_B)
      return placement.put_batch(rows_B.astype(np.float32) / 16)

    visited = []
    matrix = subject(
      init_fn=lambda keys, images_B: {"dense": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}},
      loss_fn=loss_fn,
      batch_fn=batch_fn,
      validate=lambda state: (-float(state.step), {"validation_nats_per_image": 1e9}),
    )
    recipe = Recipe(num_steps=6, batch_size=8, validate_every=2, algorithm="muon")
    return sessions.train(matrix, recipe, seed=0, folder=folder)

  straight = trained(tmp_path / "straight")
  with pytest.raises(KeyboardInterrupt):
    trained(tmp_path / "killed", last=5)
  resumed = trained(tmp_path / "killed")
  assert resumed.note["step"] == straight.note["step"] == 6
  jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)
