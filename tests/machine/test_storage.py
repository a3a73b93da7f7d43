"""Files of a run that are damaged end in a sentence."""

import contextlib
import errno
import os
import pathlib

import numpy as np
import pytest

from inversion_jax.machine import checksums, locks, metrics, storage
from inversion_jax.machine.errors import UserError


def test_no_flipped_byte_of_an_archive_is_a_traceback(tmp_path):
  path, rng = tmp_path / "nats.npz", np.random.default_rng(0)
  arrays = {"index": np.arange(40), "nats": rng.normal(size=40), "label": np.zeros(40, int)}
  storage.write_npz(path, arrays)
  # As in a folder that is older than its manifest.
  (tmp_path / checksums.FILE).unlink()
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


@pytest.mark.parametrize("name", ["summary.json", "figures/nats.png", "nats.npz"])
def test_a_changed_or_cut_file_is_named_with_what_to_do(name, tmp_path):
  path = tmp_path / name
  storage.write_text(path, '{"nce_nats": -168.139}')
  for content in (b'{"nce_nats": -168.131}', b'{"nce_nats": -168.139', b""):
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged .*delete it .* which makes it again"):
      storage.read_bytes(path)
  path.unlink()
  storage.write_text(path, "{}")
  assert storage.read_bytes(path) == b"{}"


def test_what_is_older_than_the_manifest_is_believed(tmp_path):
  (tmp_path / "summary.json").write_text('{"nce_nats": -1}')
  storage.write_json(tmp_path / "config.json", {})
  assert storage.read_json(tmp_path / "summary.json") == {"nce_nats": -1}


def killed_while_writing(path, value):
  """The manifest is written, and the file is not yet in its place."""
  replace = pathlib.Path.replace

  def killed(temporary, target):
    if target == path:
      raise KeyboardInterrupt
    return replace(temporary, target)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pathlib.Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
      storage.write_json(path, value)


def test_a_file_is_believed_whenever_its_writer_was_killed(tmp_path):
  path = tmp_path / "summary.json"
  for value in (1, 2, 3):
    for lost in (10, 20):
      killed_while_writing(path, {"value": value + lost})
    if value > 1:
      assert storage.read_json(path) == {"value": value - 1}
    storage.write_json(path, {"value": value})
    assert storage.read_json(path) == {"value": value}


def test_damage_is_not_believed_because_something_is_written_over_it(tmp_path):
  path = tmp_path / "summary.json"
  storage.write_json(path, {"value": 1})
  path.write_text('{"value": 7}')
  killed_while_writing(path, {"value": 2})
  with pytest.raises(UserError, match="is damaged"):
    storage.read_json(path)


def test_a_damaged_manifest_is_named_and_its_advice_helps(tmp_path):
  path, manifest = tmp_path / "summary.json", tmp_path / checksums.FILE
  storage.write_json(path, {"value": 1})
  whole = manifest.read_bytes()
  for place in range(0, len(whole), 7):
    damaged = bytearray(whole)
    damaged[place] ^= 8
    manifest.write_bytes(damaged)
    with pytest.raises(UserError, match=r"checksums\.json is damaged; delete it"):
      storage.read_json(path)
  manifest.unlink()
  assert storage.read_json(path) == {"value": 1}
  storage.write_json(path, {"value": 2})
  assert manifest.exists()


def test_a_line_that_changed_or_is_gone_is_seen_and_one_that_a_kill_cut_is_not_missed(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with metrics.MetricsLog(tmp_path, "inverter", -1) as log:
    log.write(1, {"train_nats_per_image": 5.0})
    log.write(2, {"train_nats_per_image": 4.0})
  whole = path.read_bytes()
  for content in (whole.replace(b"5.0", b"5.1"), whole[: whole.index(b"\n") + 1], whole[:-1]):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged .* curves .* are lost"):
      storage.read_metrics(path)
  path.write_bytes(whole + b'{"stage": "inverter", "st')
  assert [line["step"] for line in storage.read_metrics(path)] == [1, 2]
  with metrics.MetricsLog(tmp_path, "inverter", 1) as log:
    assert log.last("train_nats_per_image", 0.0) == 5.0
  assert [line["step"] for line in storage.read_metrics(path)] == [1]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
  path = tmp_path / "summary.json"
  storage.write_json(path, {"value": 1})
  before = sorted(tmp_path.iterdir())

  def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space"):
    storage.write_json(path, {"value": 2})
  assert storage.read_json(path) == {"value": 1}
  assert sorted(tmp_path.iterdir()) == before


def test_the_owner_of_a_folder_removes_what_a_killed_one_left(tmp_path):
  (tmp_path / "figures").mkdir()
  orphans = []
  for path in (tmp_path / "nats.npz", tmp_path / "figures" / "samples.png"):
    with storage.replacing(path) as temporary:
      temporary.write_text("half")
    orphans.append(temporary)
    temporary.touch()
  with locks.owned(tmp_path):
    assert not any(orphan.exists() for orphan in orphans)


def test_a_folder_whose_name_is_not_text_is_refused_in_a_sentence(tmp_path):
  with pytest.raises(UserError, match="is not a name in UTF-8; choose another"):
    storage.make_folder(tmp_path / os.fsdecode(b"run\xff"))


def test_a_damaged_line_of_metrics_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"stage": "a", "step": 1}\n{"st\xffep": \n{"stage": "a", "step": 3}\n')
  with pytest.raises(UserError, match=r"metrics\.jsonl, line 2, is damaged"):
    storage.read_metrics(path)
