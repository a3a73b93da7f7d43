"""Every image is scored once, before it is learnt, also by a training that was killed."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from inversion_jax.data import batches
from inversion_jax.fitting import sessions, training
from inversion_jax.fitting.first_pass import Recorder, Scored
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.information.codelength import FirstPass
from inversion_jax.machine import placement, storage
from inversion_jax.machine.checkpoints import Checkpoints
from inversion_jax.machine.errors import UserError

BATCH, NUM_IMAGES, NUM_SEEN = 8, 45, 4
RECIPE = Recipe(num_steps=9, batch_size=BATCH, validate_every=2, decay="none", learning_rate=0.1)


def scored(score, num_images=NUM_IMAGES, num_seen=NUM_SEEN):
  index_N = 100 + np.arange(num_images)
  return Scored(index_N, index_N // 2, num_seen, math.log(2), score)


def subject(**changes):
  """A number that follows the rows; a row costs its distance from it."""
  return sessions.Subject(
    **{
      "name": "number",
      "init_fn": lambda keys, images_B: {"w": jnp.zeros(())},
      "first_batch": (np.zeros(NUM_SEEN, np.float32),),
      "loss_fn": lambda params, batch, key: (jnp.square(params["w"] - batch).mean(), {}),
      "batch_fn": lambda rows_B: placement.put_batch(rows_B.astype(np.float32)),
      "num_images": NUM_IMAGES,
      "validate": lambda state: (1.0, {"validation_nats_per_image": 1e9}),
      "scored": scored(lambda params, rows_B: jnp.abs(params["w"] - rows_B)),
    }
    | changes
  )


def rows_of(step):
  return batches.train_rows(step, seed=0, batch_size=BATCH, num_images=NUM_IMAGES)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  folder = tmp_path_factory.mktemp("straight")
  trained = sessions.train(subject(), RECIPE, seed=0, folder=folder)
  return folder, trained.first_pass


def test_each_image_counts_once_before_the_step_that_learns_from_it(straight):
  _, told = straight
  assert told.index[:NUM_SEEN].tolist() == [100, 101, 102, 103]
  np.testing.assert_allclose(told.nats[:NUM_SEEN], math.log(2))
  assert told.num_seen == NUM_SEEN
  visited = np.concatenate([rows_of(step) for step in range(NUM_IMAGES // BATCH)])
  is_new = visited >= NUM_SEEN
  steps = np.arange(len(visited)) // BATCH + 1
  np.testing.assert_array_equal(told.index[NUM_SEEN:], 100 + visited[is_new])
  np.testing.assert_array_equal(told.step[NUM_SEEN:], steps[is_new])
  assert len(np.unique(told.index)) == len(told)
  np.testing.assert_array_equal(told.source, told.index // 2)
  # Adam at a constant rate moves by 0.1 a step: after one step every cost is 0.1 less.
  rows_N = told.index - 100
  for step in (1, 2):
    at = told.step == step
    np.testing.assert_allclose(told.nats[at], rows_N[at] - 0.1 * (step - 1), rtol=1e-4)


def test_it_is_the_same_in_memory_and_in_the_folder(straight):
  folder, told = straight
  kept = storage.read_as(folder / storage.CODELENGTH, FirstPass.of)
  in_memory = sessions.train(subject(), RECIPE, seed=0).first_pass
  for name, values in told.arrays.items():
    np.testing.assert_array_equal(kept.arrays[name], values)
    np.testing.assert_array_equal(in_memory.arrays[name], values)


def killed_at(step, folder):
  """Trains until step `step` begins, and no further."""

  def batch_fn(rows_B):
    if np.array_equal(rows_B, rows_of(step - 1)) and calls:
      raise KeyboardInterrupt
    calls.append(step)
    return subject().batch_fn(rows_B)

  calls = []
  with pytest.raises(KeyboardInterrupt):
    sessions.train(subject(batch_fn=batch_fn), RECIPE, seed=0, folder=folder)


@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_a_killed_training_ends_with_the_same_codelength(step, straight, tmp_path):
  killed_at(step, tmp_path)
  told = sessions.train(subject(), RECIPE, seed=0, folder=tmp_path).first_pass
  np.testing.assert_array_equal(told.index, straight[1].index)
  np.testing.assert_array_equal(told.nats, straight[1].nats)
  np.testing.assert_array_equal(
    storage.read_as(tmp_path / storage.CODELENGTH, FirstPass.of).nats, told.nats
  )


def test_scores_that_no_checkpoint_followed_are_made_again(straight, tmp_path, monkeypatch):
  save = Checkpoints.save

  def killed_before(self, step, state, value):
    if step == 4:
      raise KeyboardInterrupt
    save(self, step, state, value)

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "save", killed_before)
    with pytest.raises(KeyboardInterrupt):
      sessions.train(subject(), RECIPE, seed=0, folder=tmp_path)
  assert storage.read_as(tmp_path / storage.CODELENGTH, FirstPass.of).step.max() == 4
  told = sessions.train(subject(), RECIPE, seed=0, folder=tmp_path).first_pass
  np.testing.assert_array_equal(told.nats, straight[1].nats)


def test_what_does_not_begin_with_the_first_step_is_no_codelength(tmp_path, caplog):
  killed_at(4, tmp_path)
  (tmp_path / storage.CODELENGTH).unlink()
  trained = sessions.train(subject(), RECIPE, seed=0, folder=tmp_path)
  assert trained.first_pass is None
  assert trained.note["step"] == 9
  assert "lacks scores of steps before 2" in caplog.text
  assert not (tmp_path / storage.CODELENGTH).exists()


def test_a_damaged_file_says_that_training_does_without_it(tmp_path):
  killed_at(4, tmp_path)
  storage.write_npz(tmp_path / storage.CODELENGTH, {"index": np.arange(4), "nats": np.ones(4)})
  with pytest.raises(
    UserError, match=r"delete it and give .* codelength of the first pass is lost"
  ):
    sessions.train(subject(), RECIPE, seed=0, folder=tmp_path)


def test_a_learner_that_counts_costs_what_laplace_says():
  rng = np.random.default_rng(0)
  bits_N = (rng.random(200) < 0.3).astype(int)
  recipe = Recipe(num_steps=200, batch_size=1, validate_every=10**6)
  rows_fn = functools.partial(batches.train_rows, seed=3, batch_size=1, num_images=200)

  def score(counts, rows_B):
    return -np.log((counts[bits_N[rows_B]] + 1) / (counts.sum() + 2))

  def step_fn(state, rows_B):
    counts = state.params + np.bincount(bits_N[rows_B], minlength=2)
    state = TrainState(state.step + 1, counts, counts, None)
    return state, {"train_nats_per_image": 0.0, "grad_norm": 0.0}

  recorder = Recorder(scored(score, 200, 0), rows_fn, 200)
  counts = np.zeros(2)
  training.fit(
    TrainState(np.zeros((), int), counts, counts, None),
    step_fn=step_fn,
    batch_fn=rows_fn,
    recipe=recipe,
    start_loss=1.0,
    on_log=lambda step, values: None,
    on_validate=lambda step, state: False,
    on_stop=lambda step, state: None,
    before_step=recorder.before_step,
  )
  told = recorder.first_pass()
  expected = math.log(201) + math.log(math.comb(200, int(bits_N.sum())))
  assert told.total_nats == pytest.approx(expected, rel=1e-12)
