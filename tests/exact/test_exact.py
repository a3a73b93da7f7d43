import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from inversion_jax import information
from inversion_jax.exact import __main__ as exact_main
from inversion_jax.exact import ising, measure, mixing, others, tasks
from inversion_jax.machine import storage

TINY = dataclasses.replace(measure.QUICK, batch_size=16, num_steps=4, log_every=2)


def all_spins(side):
  return np.array(list(itertools.product([-1.0, 1.0], repeat=side**2))).reshape(-1, side, side)


def test_the_ising_model_is_the_sum_over_all_squares():
  model, spins = ising.Ising(4, 0.4), all_spins(4)
  log_weights = np.zeros(len(spins))
  for row, column in itertools.product(range(4), repeat=2):
    if row < 3:
      log_weights += 0.4 * spins[:, row, column] * spins[:, row + 1, column]
    if column < 3:
      log_weights += 0.4 * spins[:, row, column] * spins[:, row, column + 1]
  log_partition = np.log(np.exp(log_weights).sum())
  log_prob = log_weights - log_partition
  np.testing.assert_allclose(model.log_weight(spins), log_weights, atol=1e-12)
  assert model.log_partition == pytest.approx(log_partition)
  assert model.entropy() == pytest.approx(-(np.exp(log_prob) * log_prob).sum(), rel=1e-6)
  # Given the frame: the sum over the four spins inside.
  inside = np.ix_(range(len(spins)), [1, 2], [1, 2])
  frames = spins.copy()
  frames[inside] = 0
  _, frame_of = np.unique(frames.reshape(len(spins), -1), axis=0, return_inverse=True)
  sums = np.log(np.bincount(frame_of.ravel(), np.exp(log_weights)))
  np.testing.assert_allclose(
    model.log_partition_given_frame(spins[::97]), sums[frame_of.ravel()][::97]
  )


def test_ising_samples_have_the_probabilities_of_the_model():
  model, num_images = ising.Ising(3, 0.5), 100_000
  spins = model.sample(np.random.default_rng(0), num_images)
  bits = (spins > 0).reshape(num_images, 9) @ (1 << np.arange(9)[::-1])
  expected = num_images * np.exp(model.log_weight(all_spins(3)) - model.log_partition)
  statistic = (np.square(np.bincount(bits, minlength=512) - expected) / expected).sum()
  assert abs(statistic - 511) < 5 * math.sqrt(2 * 511)


# The samples take longer than their optimisation.
@pytest.mark.usefixtures("as_users_compile")
@pytest.mark.parametrize("name", tasks.TASKS)
def test_the_known_conditional_has_the_stated_entropy(name):
  task = tasks.TASKS[name]()
  drawn = task.draw(np.random.default_rng(7), 2_000)
  nats = -drawn.log_prob_N
  error = nats.std() / math.sqrt(len(nats)) + task.truth_standard_error
  # Stated H(x) of the Monte-Carlo tasks has an error of its own, as large as that of these draws.
  assert abs(nats.mean() - (task.entropy_nats - task.truth_nats)) < 5 * error + 1e-9
  assert drawn.levels_NHWC.max() < task.num_levels
  assert 1.0 < task.truth_nats < task.entropy_nats


def test_the_suite_reaches_from_one_to_five_hundred_nats():
  truths = [tasks.TASKS[name]().truth_nats for name in ("bits_2", "bits_many")]
  assert truths[0] < 2
  assert truths[1] > 500


def test_a_noisy_bit_is_known_as_well_as_its_channel_allows():
  drawn = tasks.bit_textures(flip=0.1).draw(np.random.default_rng(0), 500)
  bits = drawn.levels_NHWC[:, ::2, ::2, 0]  # 0 or 1: the first pixel of each texture.
  is_flipped = bits != (drawn.h[..., 0] > 0)
  expected = np.where(is_flipped, math.log(0.1), math.log(0.9)).sum((1, 2))
  np.testing.assert_allclose(drawn.log_prob_N, expected)
  assert is_flipped.mean() == pytest.approx(0.1, abs=0.02)


def test_a_model_that_knows_less_than_the_truth_has_a_lower_bound(monkeypatch):
  monkeypatch.setattr(measure, "NETWORK", dataclasses.replace(measure.NETWORK, num_scales=1))
  task = tasks.bit_textures(num_revealed=2)
  result = measure.measure(task, TINY)
  assert result.is_valid
  assert not result.reaches
  # The paired gap and the plain codelength estimate the same bound.
  plain = task.entropy_nats + result.nce.mean
  assert result.bound.mean == pytest.approx(plain, abs=5 * result.nce.standard_error + 1e-6)
  assert result.gap.mean > 0.1


def test_an_output_that_cannot_be_written_is_a_sentence_before_anything_is_trained(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(measure, "measure", lambda *_: pytest.fail("trained"))
  (tmp_path / "file").touch()
  with pytest.raises(SystemExit) as stop:
    exact_main.main(["--task=pool", f"--output={tmp_path / 'file' / 'x'}"])
  assert stop.value.code == 2
  assert "cannot be written; choose another --output." in capsys.readouterr().err


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(measure, "QUICK", TINY)
  monkeypatch.setattr(
    measure,
    "NETWORK",
    dataclasses.replace(measure.NETWORK, num_filters=4, num_scales=1, reader_units=8),
  )
  monkeypatch.setattr(
    others.estimators,
    "compare_all",
    lambda h, channel, key: [others.estimators.discretisation(h)],
  )
  exact_main.main(["--quick", "--task=pool", f"--output={tmp_path}"])
  (row,) = json.loads((tmp_path / "exact.json").read_text())
  assert row["task"] == "pool"
  assert row["truth_nats"] == pytest.approx(math.log(16))
  assert {"bound_nats", "bound_standard_error", "truth_standard_error", "seconds"} <= set(row)
  assert row["estimates"]["discretisation"]["nats"] == pytest.approx(math.log(16), abs=0.1)
  printed = capsys.readouterr().out
  assert f"{row['bound_nats']:.3f}" in printed
  assert "pool falls short" in printed


def test_seeds_of_a_task_are_mixed_and_none_exceeds_the_truth(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(measure, "NETWORK", dataclasses.replace(measure.NETWORK, num_scales=1))
  monkeypatch.setattr(measure, "QUICK", TINY)
  monkeypatch.setattr(measure, "NUM_TEST", 250)
  exact_main.main(["--mixture=2", "--task=bits_2", "--quick", f"--output={tmp_path}"])
  (row,) = storage.read_json(tmp_path / "mixture.json")
  whole, _, by_pixel = row["mixtures"]
  assert row["is_valid"]
  # What holds of every mixture, here of images whose probabilities are known.
  assert -row["truth_nats"] < whole["gap_nats"] <= np.mean(row["member_gap_nats"])
  assert by_pixel["gap_nats"] <= np.mean(row["member_gap_nats"])
  assert row["largest_loss_nats"] <= math.log(2) + 1e-6
  assert "above the best" in capsys.readouterr().out
  one = information.Estimate(-1.0, 0.3, 9)
  too_good = mixing.Mixed(tasks.pool(), (), {0.0: one}, one, 0.0)
  assert not too_good.is_valid
