"""What a fit says of its first pass over the training images."""

import math

import jax
import numpy as np
import pytest

import inversion_jax as ij
from inversion_jax import inversion
from inversion_jax.fitting import sessions
from inversion_jax.inversion.model import pixel_nats
from inversion_jax.machine import storage

NETWORK = ij.Network(num_filters=2, num_blocks=1, num_scales=1, reader_filters=2, reader_units=4)
RECIPE = ij.Recipe(batch_size=24, num_steps=4, validate_every=4, log_every=4)
# As `fit` makes them of 200: the initialisation sees 128.
NUM_TRAIN = 180


@pytest.fixture(scope="module")
def pairs():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 4, (200, 4, 4, 1)).astype(np.uint8)
  return ij.pairs(images, images[:, :2].reshape(200, -1).astype(np.float32))


@pytest.fixture(scope="module")
def fitted(pairs, tmp_path_factory):
  folder = tmp_path_factory.mktemp("fit") / "mine"
  return ij.fit(pairs, network=NETWORK, recipe=RECIPE, folder=folder, quiet=True)


def test_scores_are_those_of_the_parameters_before_the_step_without_dropout(pairs, fitted):
  told = fitted.codelength.first_pass
  train, validation = pairs.held_out()
  assert told.num_seen == 128
  np.testing.assert_allclose(told.nats[:128], 16 * math.log(4))
  seen = fitted.observed.scored(train, jax.random.key(0))
  subject = inversion.subject(train, validation, NETWORK, observed=fitted.observed)
  params = sessions.initial_state(subject, RECIPE, jax.random.key(0)).params
  at_first = np.flatnonzero(told.step == 1)
  assert len(at_first) > 2
  scored = pixel_nats(fitted.inverter, [params], seen.rows(told.index[at_first]), 24, "score")
  expected = np.concatenate([nats_BHW.sum((1, 2)) for (nats_BHW,) in scored])
  np.testing.assert_allclose(told.nats[at_first], expected, rtol=1e-5)


def test_a_fit_says_what_it_cost_and_what_is_not_charged(pairs, fitted):
  codelength = fitted.codelength
  num = len(codelength.first_pass)
  # Four steps of 24 of 180 images: the pass has not come to its end.
  assert 128 < num < NUM_TRAIN
  assert f"of {num} of the 180 training images" in str(codelength)
  assert "not charged: network and recipe" in str(codelength)
  assert codelength.nats == pytest.approx(codelength.first_pass.nats.sum())
  again = ij.load(fitted.folder).codelength
  np.testing.assert_array_equal(again.first_pass.nats, codelength.first_pass.nats)
  assert str(again) == str(codelength)
  fitted.evaluate(pairs.rows(np.arange(180, 200)))
  summary = storage.read_json(fitted.folder / storage.SUMMARY)
  assert summary["codelength_nats"] == pytest.approx(codelength.nats)
  assert (summary["codelength_num_images"], summary["num_train_images"]) == (num, NUM_TRAIN)


def test_what_had_learnt_the_images_before_is_declared(pairs, fitted):
  parts = (*pairs.held_out(), NETWORK)
  begun_with = inversion.subject(*parts, start_from=fitted).facts["begun_with"]
  warm = ij.Codelength(fitted.codelength.first_pass, NUM_TRAIN, begun_with)
  assert "not charged: the p(x) that training began from, which had learnt" in str(warm)
  assert inversion.subject(*parts).facts["begun_with"] == []
  assert inversion.subject(*parts, codelength=False).scored is None
