"""Files of a run that are damaged end in a sentence."""

import contextlib

import numpy as np
import pytest

from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError


def test_no_flipped_byte_of_an_archive_is_a_traceback(tmp_path):
  path, rng = tmp_path / "nats.npz", np.random.default_rng(0)
  arrays = {"index": np.arange(40), "nats": rng.normal(size=40), "label": np.zeros(40, int)}
  storage.write_npz(path, arrays)
  whole = path.read_bytes()
  read = []
  for place in rng.integers(0, len(whole), 300):
    damaged = bytearray(whole)
    damaged[place] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    # Any other error ends the test.
    with contextlib.suppress(UserError):
      read.append(storage.read_npz(path))
  assert len(read) < 200


def test_a_damaged_line_of_metrics_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n{"st\xffep": \n{"step": 3}\n')
  with pytest.raises(UserError, match=r"metrics\.jsonl, line 2, is damaged"):
    storage.read_metrics(path)
