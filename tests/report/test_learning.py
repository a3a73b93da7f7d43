"""What pages and tables say of the first pass."""

import csv
import math

import numpy as np
import pytest
from report_examples import fake_run, read_page, words

from inversion_jax.information.codelength import FirstPass
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.report import write_comparison, write_run_report

NUM, NUM_SEEN, BATCH = 1_200, 100, 20
FIRST_NATS = 180.0


def told(end, order_seed=0, noise_seed=0, num=NUM):
  """Nats that fall to `end` with the images, as those of all models from the first step on."""
  order = np.random.default_rng(order_seed).permutation(NUM - NUM_SEEN) + NUM_SEEN
  index = np.append(np.arange(NUM_SEEN), order)
  place = np.arange(NUM - NUM_SEEN)
  shared = np.random.default_rng(1).normal(0, 8.0, NUM)[order]
  own = np.random.default_rng(noise_seed).normal(0, 0.5, len(order))
  nats = end + (FIRST_NATS - end) * np.exp(-place / 150) + shared + own
  nats = np.append(np.full(NUM_SEEN, FIRST_NATS), nats)
  steps = np.append(np.zeros(NUM_SEEN, int), 1 + place // BATCH)
  return FirstPass(index, steps, nats, index).first(num)


def learnt_run(folder, layer, first_pass, **summary):
  fake_run(folder, layer, samples=False, stages=())
  storage.write_npz(folder / storage.CODELENGTH, first_pass.arrays)
  said = {"num_train_images": NUM, "codelength_not_charged": ["network and recipe"]} | summary
  path = folder / storage.SUMMARY
  storage.write_json(path, storage.read_json(path) | said)
  return folder


def rows_of(parent):
  with (parent / "codelength.csv").open(newline="", encoding="utf-8") as file:
    return {row["row"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
  """Two layers and p(x) that kept their first pass, and a layer that did not."""
  parent = tmp_path_factory.mktemp("learnt")
  folders = [
    learnt_run(parent / "conv1", "conv1", told(30.0, noise_seed=2)),
    learnt_run(parent / "fc3", "fc3", told(70.0, noise_seed=3)),
    fake_run(parent / "logits", "logits", samples=False, stages=()),
    learnt_run(parent / "none", "none", told(90.0, noise_seed=4)),
  ]
  write_comparison(parent, folders)
  return parent


def test_what_h_saved_is_paired_image_by_image(compared):
  conv1, prior = (rows_of(compared)[name] for name in ("conv1", "none (p(x))"))
  difference = told(90.0, noise_seed=4).nats - told(30.0, noise_seed=2).nats
  assert float(conv1["saved_nats_per_image"]) == pytest.approx(difference.mean())
  width = float(conv1["saved_nats_per_image_high"]) - float(conv1["saved_nats_per_image_low"])
  # What the images have in common cancels: a deviation of 8 nats each is gone.
  assert width < 0.2 * 2 * 1.96 * 8 * math.sqrt(2 / NUM)
  assert (conv1["is_paired"], prior["saved_nats_per_image"]) == ("True", "")
  codelength = told(30.0, noise_seed=2).nats.mean()
  assert float(conv1["codelength_nats_per_image"]) == pytest.approx(codelength)


def test_images_until_the_trained_prior_are_counted(compared):
  rows = rows_of(compared)
  # 79.1 nats are what p(x) comes to: 30 + 150 exp(-n / 150) falls below that at n = 168.
  assert float(rows["conv1"]["target_nats"]) == pytest.approx(79.1)
  needed = NUM_SEEN + 150 * math.log(150 / (79.1 - 30))
  assert float(rows["conv1"]["images_until_target"]) == pytest.approx(needed, rel=0.1)
  assert rows["conv1"]["is_target_reached"] == "True"
  # p(x) in its first pass falls short of itself.
  prior = rows["none (p(x))"]
  assert (prior["images_until_target"], prior["is_target_reached"]) == ("", "False")


def test_the_page_says_the_three_numbers_and_what_is_missing(compared):
  shown = words(read_page(compared))
  assert "How easily each layer is read" in shown
  assert "images until 79.10 nats" in shown
  assert f"more than {NUM:,}" in shown
  assert "Without a codelength: logits." in shown
  assert "Not charged, of all: network and recipe." in shown
  assert (compared / storage.FIGURES / "learning.png").exists()


def test_epsilon_makes_the_target_easier(compared, tmp_path):
  write_comparison(tmp_path, [compared / "conv1", compared / "none"], epsilon_nats=20.0)
  easier, before = (rows_of(of)["conv1"] for of in (tmp_path, compared))
  assert float(easier["target_nats"]) == pytest.approx(99.1)
  assert float(easier["images_until_target"]) < float(before["images_until_target"])
  assert "20.00 nats above what a test image costs the trained p(x)" in words(read_page(tmp_path))


def test_another_order_is_not_paired_and_a_short_pass_says_so(tmp_path):
  folders = [
    learnt_run(tmp_path / "fc3", "fc3", told(70.0, order_seed=7, num=900)),
    learnt_run(tmp_path / "none", "none", told(90.0)),
  ]
  write_comparison(tmp_path, folders)
  assert rows_of(tmp_path)["fc3"]["is_paired"] == "False"
  shown = words(read_page(tmp_path))
  assert "(not paired)" in shown
  assert "900 of 1,200" in shown


def test_seeds_are_one_row_whose_error_knows_their_orders(tmp_path):
  folders = []
  for seed, end in enumerate((60.0, 70.0)):
    run = learnt_run(tmp_path / f"fc3_{seed}", "fc3", told(end, order_seed=seed))
    config = storage.read_json(run / storage.CONFIG)
    storage.write_json(run / storage.CONFIG, config | {"seed": seed})
    folders.append(run)
  write_comparison(tmp_path, folders)
  row = rows_of(tmp_path)["fc3"]
  means = [told(end, order_seed=seed).nats.mean() for seed, end in enumerate((60.0, 70.0))]
  assert row["num_seeds"] == "2"
  assert float(row["codelength_nats_per_image"]) == pytest.approx(np.mean(means))
  # Two seeds know their spread to one degree of freedom: 12.7 standard errors.
  width = float(row["codelength_nats_per_image_high"]) - np.mean(means)
  assert width > 12.7 * abs(means[1] - means[0]) / 2
  # Without p(x) the target is what the worst model comes to.
  assert float(row["target_nats"]) == pytest.approx(68.3)


def test_the_page_of_a_run_has_its_sentence(tmp_path):
  run = learnt_run(tmp_path / "fc3", "fc3", told(70.0, num=900))
  write_run_report(run)
  shown = words(read_page(run))
  assert "The first pass over 900 of the 1,200 training images" in shown
  assert "Not charged: network and recipe." in shown


def test_runs_without_a_first_pass_have_no_part_of_it(parent_dir):
  assert not (parent_dir / "codelength.csv").exists()
  assert "How easily each layer is read" not in words(read_page(parent_dir))


def test_a_file_of_others_is_named(tmp_path):
  run = learnt_run(tmp_path / "fc3", "fc3", told(70.0))
  storage.write_npz(run / storage.CODELENGTH, {"index": np.arange(3), "step": np.arange(3)})
  with pytest.raises(UserError, match=r"codelength\.npz is damaged \(it does not hold index"):
    write_run_report(run)
