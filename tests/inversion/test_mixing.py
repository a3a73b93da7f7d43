"""Replicates from arrays, and their mixture."""

import dataclasses

import jax
import numpy as np
import pytest

import inversion_jax as ij
from inversion_jax.information import mixtures
from inversion_jax.inversion import Mixture, crossing, mixing
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError


@pytest.fixture(scope="module")
def parts(finished):
  """(train, validation, test) with stored h."""

  def stored(split):
    of = finished.pairs(split)
    return ij.pairs(of.images, of.h, num_levels=of.num_levels, labels=of.labels, name="fc3")

  return [stored(split) for split in ("train", "validation", "test")]


@pytest.fixture(scope="module")
def mixed(finished, parts, tmp_path_factory):
  train, validation, _ = parts
  recipe = dataclasses.replace(finished.recipe("inverter"), num_steps=3)
  return ij.fit(
    train,
    validation=validation,
    network=finished.network(),
    recipe=recipe,
    folder=tmp_path_factory.mktemp("replicates"),
    seeds=2,
    quiet=True,
  )


@pytest.fixture(scope="module")
def result(mixed, parts):
  return mixed.evaluate(parts[2])


def test_replicates_are_ordinary_models_in_folders_of_their_own(mixed):
  assert [member.seed for member in mixed.members] == [0, 1]
  assert [member.folder.name for member in mixed.members] == ["seed_0", "seed_1"]
  second = mixed.members[1]
  jax.tree.map(np.testing.assert_array_equal, ij.load(second.folder).params, second.params)


def test_the_mixture_has_the_mean_of_the_probabilities_of_its_members(mixed, result, parts):
  nats_MN = np.stack([member.nats(parts[2]) for member in mixed.members])
  assert np.abs(nats_MN[0] - nats_MN[1]).max() > 0.1
  np.testing.assert_allclose([one.nats for one in result.members], nats_MN, rtol=1e-6)
  np.testing.assert_allclose(result.nats, mixtures.mixture_nats(nats_MN), rtol=1e-6)
  np.testing.assert_allclose(mixed.nats(parts[2]), result.nats, rtol=1e-6)
  np.testing.assert_allclose(result.maps["nats"].sum((1, 2)), result.nats, rtol=1e-4)
  assert str(result).startswith("mixture of 2: NCE ")
  assert result.pooled.nce.seed_error > 0
  assert result.best.nats.mean() == nats_MN.mean(1).min()


def test_its_weights_follow_the_pixels(mixed, parts):
  weights_MNHW = mixed.weights(parts[2])
  assert weights_MNHW.shape == (2, 21, 8, 8)
  np.testing.assert_allclose(weights_MNHW[:, :, 0, 0], 0.5)
  np.testing.assert_allclose(weights_MNHW.sum(0), 1.0, rtol=1e-6)
  assert np.abs(weights_MNHW[..., -1, -1] - 0.5).max() > 0.1


def test_each_image_is_drawn_from_one_member(mixed, parts):
  h = parts[2].h[:3]
  drawn = mixed.sample(h, 4, batch_size=4)
  own = [member.sample(h, 4, batch_size=4) for member in mixed.members]
  of_first = (drawn == own[0]).all((2, 3, 4))
  of_second = (drawn == own[1]).all((2, 3, 4))
  assert (of_first | of_second).all()
  assert of_first.any()
  assert of_second.any()


def test_with_a_share_pixels_are_drawn_in_turn(mixed, parts):
  first = mixed.members[0]
  h = parts[2].h[:2]
  # Turns of one and the same change nothing.
  twice = dataclasses.replace(mixed, members=(first, first), share=0.5)
  np.testing.assert_array_equal(twice.sample(h, 2, batch_size=4), first.sample(h, 2, batch_size=4))
  turns_MP = mixing._drawn_members(twice, np.arange(300), np.zeros(300, int), 64)
  # A new draw with chance 0.5, which is another member half of the time.
  assert (turns_MP[:, 1:] != turns_MP[:, :-1]).mean() == pytest.approx(0.25, abs=0.02)
  never_MP = mixing._drawn_members(mixed, np.arange(300), np.zeros(300, int), 64)
  assert (never_MP == never_MP[:, :1]).all()
  assert never_MP.mean() == pytest.approx(0.5, abs=0.1)


def test_members_may_read_the_h_of_their_own_networks(mixed, parts):
  test = parts[2]
  other = ij.pairs(test.images, test.h[:, ::-1], num_levels=17)
  nats_MN = np.stack([m.nats(of) for m, of in zip(mixed.members, (test, other), strict=True)])
  expected_N = mixtures.mixture_nats(nats_MN)
  np.testing.assert_allclose(mixed.nats([test, other]), expected_N, rtol=1e-6)
  assert mixed.sample((test.h[:1], other.h[:1]), 4).shape == (1, 4, 8, 8, 1)


def test_replicates_are_a_row_and_their_mixture_another(mixed, result, parts, tmp_path):
  first = mixed.members[0]
  comparison = ij.compare({"fc3": mixed, "first": first}, parts[2], output=tmp_path / "out")
  assert list(comparison.results) == ["fc3", "fc3, mixture of 2", "first"]
  assert comparison.results["fc3"].nce == result.pooled.nce
  assert "fc3, mixture of 2 minus first: " in str(comparison)
  rows = storage.read_json(tmp_path / "out" / "comparison.json")
  assert [(row["layer"], row["num_seeds"]) for row in rows] == [("fc3", 2), ("first", 1)]
  assert rows[0]["nce_mixture_nats"] == pytest.approx(result.nce.mean)
  assert "fc3: mixture of 2" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_what_is_cross_fitted_reads_h_of_images_that_are_new_to_the_network(
  mixed, parts, monkeypatch
):
  train, _, test = parts
  known, read = [], []

  def network_of(half):
    known.append({image.tobytes() for image in half.images})
    return lambda images: images.reshape(len(images), -1).astype(np.float32)

  def fit(pairs, *, folder, quiet):
    read.append({image.tobytes() for image in pairs.images})
    return mixed.members[len(read) - 1]

  monkeypatch.setattr(crossing, "fit", fit)
  result = ij.cross_fit(train, test, network_of, quiet=True)
  assert [len(half) for half in known + read] == [32] * 4
  assert not any(ours & theirs for ours, theirs in zip(known, read, strict=True))
  new = ij.pairs(test.images, test.images.reshape(21, -1).astype(np.float32), num_levels=17)
  expected_N = np.mean([member.nats(new) for member in mixed.members], axis=0)
  np.testing.assert_allclose(result.nats, expected_N, rtol=1e-6)
  assert str(result).startswith("NCE ")
  with pytest.raises(UserError, match="but validation and seeds"):
    ij.cross_fit(train, test, network_of, seeds=2)


def test_what_cannot_be_mixed_is_told(mixed, parts):
  first, test = mixed.members[0], parts[2]
  other = dataclasses.replace(first, num_levels=256)
  for wrong, words in (
    (lambda: ij.mixture([first]), "needs two models or more, not 1"),
    (lambda: ij.mixture([first, other]), "different shapes or levels"),
    (lambda: ij.mixture([first, first], share=1.5), "share=1.5"),
    (lambda: mixed.nats([test]), "has 2 members and is given 1"),
    (lambda: mixed.nats([test, test.rows(np.arange(2))]), "given different images"),
    (lambda: mixed.sample((test.h,)), "has 2 members and is given 1"),
    (lambda: mixed.sample(test.h, 0), "num=0 must be a positive integer"),
  ):
    with pytest.raises(UserError, match=words):
      wrong()
  assert "Mixture of 2" in repr(mixed)
  assert isinstance(mixed, Mixture)
