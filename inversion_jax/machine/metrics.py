"""The log of training: one JSON object a line, and the same values as TensorBoard events."""

import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX import event_file_writer, summary
from tensorboardX.proto.event_pb2 import Event

from inversion_jax.machine import processes, storage

TENSORBOARD = "tensorboard"


class Records:
  """The metrics of one stage, in memory; every value carries its unit in its name."""

  def __init__(self, stage: str, records: Sequence[dict[str, Any]] = ()):
    self._stage, self._records = stage, list(records)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def write(self, step: int, values: Mapping[str, float]) -> dict[str, Any]:
    """Appends one record."""
    record = {"stage": self._stage, "step": step} | {
      name: float(value) for name, value in values.items()
    }
    self._records.append(record)
    return record

  def flush(self):
    """Sees to it that what is written stays, whatever happens to the process."""

  def first(self, name: str) -> float:
    """The first value of `name`; infinity if there is none."""
    return next((record[name] for record in self._records if name in record), math.inf)

  def last(self, name: str, default: float) -> float:
    """The last value of `name`."""
    return next((record[name] for record in self._records[::-1] if name in record), default)


class MetricsLog(Records):
  """Records that are also lines of a run's `metrics.jsonl` and TensorBoard events.

  Args:
    folder: of the run.
    stage: written into every line.
    from_step: where training goes on from; what an interrupted run logged of this stage after that
      step is removed, since it will be written again.
  """

  def __init__(self, folder: pathlib.Path, stage: str, from_step: int):
    self._path = folder / storage.METRICS
    records = [
      record
      for record in storage.read_metrics(self._path)
      if record["stage"] != stage or record["step"] <= from_step
    ]
    super().__init__(stage, [record for record in records if record["stage"] == stage])
    storage.write_text(self._path, "".join(json.dumps(record) + "\n" for record in records))
    # One process appends; the others would append the same.
    self._is_writer = processes.is_first()
    if self._is_writer:
      folder = folder / TENSORBOARD / stage
      folder.mkdir(parents=True, exist_ok=True)
      # Not the SummaryWriter, whose thread a full disk would end in silence.
      self._events = event_file_writer.EventsWriter(str(folder / "events"))

  def __exit__(self, kind, *_):
    if kind is None:
      self.flush()
    if self._is_writer:
      self._events.close()

  def flush(self):
    """Puts the lines into the manifest: a change in one of them is seen from now on."""
    if self._is_writer:
      self._events.flush()
    storage.record_appended(self._path)

  def write(self, step: int, values: Mapping[str, float]) -> dict[str, Any]:
    """Appends one line."""
    record = super().write(step, values)
    if not self._is_writer:
      return record
    with self._path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(record) + "\n")
    for name, value in values.items():
      scalar = summary.scalar(f"{self._stage}/{name}", value)
      self._events.write_event(Event(wall_time=time.time(), step=step, summary=scalar))
    return record
