"""Replicates: what varies from one to the next, and what stays."""

import re

import pytest
from run_examples import edited, get_config

from inversion_jax import config as config_lib
from inversion_jax.machine.errors import UserError


def replicates(**fields):
  config = config_lib.check(edited(get_config("digits_fc3"), **fields))
  return config_lib.replicates(config)


def identities(runs):
  """How many classifiers, orders of the inverter, and inverters a few runs have."""
  return (
    len({str(config_lib.classifier_identity(run)) for run in runs}),
    len({config_lib.order_seed(run) for run in runs}),
    len({run.seed for run in runs}),
  )


def test_a_replicate_is_what_its_seed_alone_would_give():
  found = replicates(seeds=3, seed=4)
  assert list(found) == ["seed_4", "seed_5", "seed_6"]
  for seed, config in zip((4, 5, 6), found.values(), strict=True):
    alone = edited(get_config("digits_fc3"), seed=seed)
    assert dict(config_lib.leaves(config)) == dict(config_lib.leaves(alone))
  assert list(replicates()) == [""]


@pytest.mark.parametrize(
  ("vary", "found"),
  [
    ("classifier,order,inverter", (3, 3, 3)),
    ("inverter", (1, 1, 3)),
    ("order", (1, 3, 1)),
    ("classifier", (3, 1, 1)),
    ("order,inverter", (1, 3, 3)),
  ],
)
def test_what_does_not_vary_is_shared(vary, found):
  runs = replicates(seeds=3, vary=vary, seed=4)
  assert identities(runs.values()) == found
  # The first is the ordinary run, whatever varies.
  first = edited(get_config("digits_fc3"), seed=4)
  assert dict(config_lib.leaves(runs["seed_4"])) == dict(config_lib.leaves(first))


def test_seeds_that_parts_have_of_their_own_are_counted_from_them():
  runs = replicates(seeds=2, vary="classifier,inverter", classifier__seed=7, inverter__order_seed=9)
  seeds = [
    (config_lib.classifier_seed(run), config_lib.order_seed(run), run.seed) for run in runs.values()
  ]
  assert seeds == [(7, 9, 0), (8, 9, 1)]


def test_a_folder_from_before_seeds_had_parts_shares_its_classifier():
  config = edited(get_config("digits_fc3"), seed=3)
  old = config.to_dict()
  del old["classifier"]["seed"], old["inverter"]["order_seed"], old["seeds"], old["vary"]
  assert config_lib.classifier_identity(old) == config_lib.classifier_identity(config)
  assert not config_lib.differences(old, config)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"seeds": 0}, "seeds=0 must be from 1 to 1000"),
    ({"vary": "readers"}, "vary='readers' is not one of 'classifier', 'order', 'inverter'"),
    ({"classifier__seed": -2}, "classifier.seed=-2"),
    ({"inverter__order_seed": 2**32}, "inverter.order_seed=4294967296"),
    ({"seeds": 2, "vary": "classifier", "representation__layer": ""}, "all replicates alike"),
    ({"seed": 2**32 - 1, "seeds": 2}, "seed=4294967296"),
  ],
)
def test_wrong_seeds_are_named(fields, words):
  with pytest.raises(UserError, match=re.escape(words)):
    replicates(**fields)
