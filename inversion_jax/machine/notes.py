"""What each finished stage of a folder noted: where training ended, for what a file was made."""

import pathlib
from typing import Any

from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError

FILE = storage.NOTES


def read(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """The notes of all finished stages, by name."""
  path = folder / FILE
  notes = storage.read_record(path) if path.exists() else {}
  if not all(isinstance(note, dict) for note in notes.values()):
    raise storage.damaged(path, "a stage has no fields")
  return notes


def write(folder: pathlib.Path, stage: str, record: dict[str, Any]):
  """Notes that `stage` is finished."""
  storage.write_json(folder / FILE, read(folder) | {stage: record})


def finished(folder: pathlib.Path, stage: str) -> dict[str, Any]:
  """The note of a finished stage, or UserError saying which stage to run."""
  record = read(folder).get(stage)
  if record is None:
    raise UserError(f"{folder} has no finished {stage}; run --stages={stage} first.")
  return record
