"""The log of training: one JSON object a line, and the same values as TensorBoard events."""

import json
import math
import pathlib
from collections.abc import Mapping

import tensorboardX

from inversion_jax.machine import processes, storage

TENSORBOARD = "tensorboard"


class MetricsLog:
  """Appends the metrics of one stage to a run's `metrics.jsonl` and `tensorboard/`.

  Args:
    folder: of the run.
    stage: written into every line.
    from_step: where training goes on from; what an interrupted run logged of this stage after that
      step is removed, since it will be written again.
  """

  def __init__(self, folder: pathlib.Path, stage: str, from_step: int):
    self._path, self._stage = folder / storage.METRICS, stage
    records = [
      record
      for record in storage.read_metrics(self._path)
      if record["stage"] != stage or record["step"] <= from_step
    ]
    self._records = [record for record in records if record["stage"] == stage]
    storage.write_text(self._path, "".join(json.dumps(record) + "\n" for record in records))
    # One process appends; the others would append the same.
    self._is_writer = processes.is_first()
    if self._is_writer:
      self._events = tensorboardX.SummaryWriter(str(folder / TENSORBOARD / stage))

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._is_writer:
      self._events.close()

  def write(self, step: int, values: Mapping[str, float]):
    """Appends one line; every value carries its unit in its name."""
    record = {"stage": self._stage, "step": step} | {
      name: float(value) for name, value in values.items()
    }
    self._records.append(record)
    if not self._is_writer:
      return
    with self._path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(record) + "\n")
    for name, value in values.items():
      self._events.add_scalar(f"{self._stage}/{name}", value, step)

  def first(self, name: str) -> float:
    """The first logged value of `name`; infinity if the log was deleted."""
    return next((record[name] for record in self._records if name in record), math.inf)

  def last(self, name: str, default: float) -> float:
    """The last logged value of `name`."""
    return next((record[name] for record in self._records[::-1] if name in record), default)
