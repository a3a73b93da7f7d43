"""Codelengths of images whose entropy is known."""

import dataclasses
import json
import math

import numpy as np
import pytest

from inversion_jax.exact import __main__ as exact_main
from inversion_jax.exact import codelength, measure, tasks

RECIPE = dataclasses.replace(
  measure.QUICK, batch_size=32, num_steps=30, learning_rate=1e-2, log_every=10
)
# Little to compile: one p(x) stands for both, since h tells two of sixteen bits alone.
TASK = tasks.bit_textures(num_revealed=2)
BIT = math.log(2)
SMALL = {"num_filters": 4, "num_scales": 1, "reader_places": 0}


@pytest.fixture(scope="module")
def told():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(measure, "NETWORK", dataclasses.replace(measure.NETWORK, **SMALL))
    patch.setattr(measure, "BATCH_SIZE", RECIPE.batch_size)
    learnt = measure.learnt(TASK, RECIPE, 0, with_h=False, codelength=True)
    patch.setattr(measure, "learnt", lambda *args, **settings: learnt)
    return codelength.told(TASK, RECIPE)


def test_a_codelength_is_above_the_entropy_and_comes_down_to_it(told):
  assert told.is_valid
  assert len(told.given_h) == 30 * 32
  # Each pixel has four levels, and h leaves 14 bits.
  np.testing.assert_allclose(told.excess.nats[:128], (2 * 64 - 14) * BIT)
  last = told.last.mean
  assert 0 < last < 0.6 * told.excess.nats[128:256].mean()
  assert told.last_alone.mean == pytest.approx(last - 2 * BIT)
  assert told.given_h.total_nats > 30 * 32 * TASK.entropy_nats
  assert told.saved.mean == 0


def test_a_codelength_below_the_entropy_is_told(told):
  cheap = dataclasses.replace(told.given_h, nats=told.given_h.nats - 2 * told.excess.nats)
  assert not dataclasses.replace(told, given_h=cheap).is_valid
  low = np.where(np.arange(len(told.alone)) >= 864, 0.0, told.alone.nats)
  assert not dataclasses.replace(told, alone=dataclasses.replace(told.alone, nats=low)).is_valid


def test_the_command_writes_what_it_prints(told, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(codelength, "told", lambda task, recipe, seed: told)
  exact_main.main(["--codelength", "--quick", "--task=bits_16_noisy", f"--output={tmp_path}"])
  (row,) = json.loads((tmp_path / "codelengths.json").read_text())
  assert row["codelength_nats"] == pytest.approx(told.given_h.nats.mean())
  assert row["excess_of_last_nats"] == pytest.approx(told.last.mean)
  assert (tmp_path / "codelengths.png").stat().st_size > 10_000
  assert f"{row['codelength_nats']:.3f} ±" in capsys.readouterr().out
