"""Orbax checkpoints of a training state: the newest two, the best, and chosen steps are kept.

Orbax has no checksum of the arrays. Ours go with the value that each checkpoint carries, and reach
the disk with it, or not at all.
"""

import contextlib
import json
import math
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from inversion_jax.machine import checksums, processes, storage
from inversion_jax.machine.errors import UserError, is_full
from inversion_jax.machine.progress import warn

_VALUE = "value"
_CHECKSUMS = "crc32"
_STATE = "default"  # Orbax's name of what `save` is given
RECORD = "metrics/metrics"  # where it puts what comes with the state
_ASIDE = ".damaged"
# Where Orbax moves what is to be deleted: what it deletes itself is half there for a while.
_REMOVED = "removed"


class DamagedError(UserError):
  """What a checkpoint holds is not what was saved, or belongs to a model of other shapes."""


class Checkpoints:
  """The checkpoints of one model under one folder, for whoever trains it.

  Args:
    folder: where they are; made if needed.
    best_mode: "min" or "max" of the value given to `save`.
    keep_steps: steps that are never deleted, beside the newest two and the best.

  Raises:
    UserError: the value of one is damaged, and it is not the newest of several.
  """

  def __init__(self, folder: pathlib.Path, best_mode: str, keep_steps: Sequence[int] = ()):
    self.folder = folder.absolute()
    self._sign = -1 if best_mode == "min" else 1
    storage.make_folder(self.folder)
    self._sweep()
    self._values = self._read_values()
    policies = checkpoint_managers.preservation_policy
    keep = policies.AnyPreservationPolicy(
      [
        # If the newest is damaged, training can go on from the one before it.
        policies.LatestN(2),
        policies.BestN(get_metric_fn=self._rank, n=1),
        policies.CustomSteps(list(keep_steps)),
      ]
    )
    options = ocp.CheckpointManagerOptions(
      best_fn=self._rank,
      preservation_policy=keep,
      # What a killed process had half written would stay for ever.
      cleanup_tmp_directories=True,
      todelete_subdir=_REMOVED,
    )
    self._manager = ocp.CheckpointManager(self.folder, options=options)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    with self._saving():
      self._manager.wait_until_finished()
    self._manager.close()
    self._sweep()

  def save(self, step: int, state: Any, value: float | None):
    """Saves `state`, and returns while the disk is still written.

    Args:
      step: of the state; a step that is there already is left as it is.
      state: a dictionary or a named tuple.
      value: by which the best is chosen; None for a state that nobody has judged.
    """
    if step in self._values:
      return
    # Remembered here, since a checkpoint that is still being written has no record yet.
    self._values[step] = value
    record = {_VALUE: value, _CHECKSUMS: _checksums(state)}
    record |= {checksums.SHA: checksums.of_json(record)}
    with self._saving():
      # Until the save before is done its thread moves what is no longer kept to where we sweep.
      self._manager.wait_until_finished()
      self._sweep()
      self._manager.save(step, args=ocp.args.StandardSave(state), metrics=record)

  def steps(self) -> list[int]:
    """The steps that can be restored, in order."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """The newest step, None before the first."""
    return max(self._values, default=None)

  def best(self) -> tuple[int, float]:
    """The step with the best value, and that value; of equals the newest, as Orbax keeps them.

    Raises:
      UserError: none has a value, since those that had one are gone.
    """
    values = {step: value for step, value in self._values.items() if value is not None}
    if not values:
      raise UserError(f"{self.folder} holds no state that was validated; delete it to begin again.")
    step = max(values, key=lambda step: (self._sign * values[step], step))
    return step, values[step]

  def restore(self, step: int, like: Any) -> Any:
    """Restores the state of `step`, in the shapes, types and placement of `like`.

    Raises:
      UserError: the files are damaged, or belong to a model of other shapes.
    """
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with _naming(self.folder, step):
      state = self._manager.restore(step, args=ocp.args.StandardRestore(template))
      _check(_parts(state), _read_record(self.folder, step))
    return state

  def restore_newest(self, like: Any) -> tuple[int, Any] | None:
    """(step, state) of the newest that is not damaged, or None before the first.

    A damaged newest is put aside, once the one before it has been restored: then it is neither the
    machine nor the model that is at fault.
    """
    step = self.latest_step()
    if step is None:
      return None
    try:
      return step, self.restore(step, like)
    except DamagedError:
      *_, before, _ = [None, *self.steps()]
      if before is None:
        raise
      state = self.restore(before, like)
    self._put_aside(step)
    self._manager.reload()
    del self._values[step]
    return before, state

  def restore_parts(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """`read` of a step of this folder."""
    with self._saving():
      self._manager.wait_until_finished()
    return read(self.folder, step, like)

  def _sweep(self):
    """Deletes what has been moved away."""
    if processes.is_first():
      shutil.rmtree(self.folder / _REMOVED, ignore_errors=True)

  def _read_values(self):
    """The values by step. Orbax would read all at once, and not say whose is damaged."""
    values, steps = {}, saved_steps(self.folder)
    for step in steps:
      try:
        with _naming(self.folder, step):
          values[step] = _read_record(self.folder, step)[_VALUE]
      except DamagedError:
        if step != steps[-1] or len(steps) == 1:
          raise
        self._put_aside(step)
    return values

  def _put_aside(self, step):
    path = self.folder / str(step)
    aside = path.with_name(f"{step}{_ASIDE}")
    warn(
      "The checkpoint %s is damaged: training goes on from the one before it, and makes it again. "
      "It is kept as %s, which can be deleted.",
      path,
      aside.name,
    )
    processes.by_first(_move, path, aside)

  def _rank(self, record):
    value = record[_VALUE]
    return -math.inf if value is None else self._sign * value

  @contextlib.contextmanager
  def _saving(self):
    """Turns a full disk, which Orbax tells in several ways, into a sentence."""
    try:
      yield
    except Exception as error:
      if not is_full(error):
        raise
      raise UserError(
        f"No space is left for the checkpoints in {self.folder}; what was saved is kept: make room "
        "and give the same command again."
      ) from error


def saved_steps(folder: pathlib.Path) -> list[int]:
  """The steps of the checkpoints of a folder, in order."""
  return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def read(folder: pathlib.Path, step: int, like: dict[str, Any]) -> dict[str, Any]:
  """The fields of the state of `step` that `like` names; reads no other, and writes nothing.

  Raises:
    UserError: as `Checkpoints.restore`.
  """
  template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
  how = ocp.checkpoint_utils.construct_restore_args(template)
  args = ocp.args.PyTreeRestore(template, restore_args=how, partial_restore=True)
  with _naming(folder, step), ocp.PyTreeCheckpointer() as checkpointer:
    parts = checkpointer.restore(folder.absolute() / str(step) / _STATE, args=args)
    _check(parts, _read_record(folder, step))
  return parts


def _read_record(folder, step):
  """What came with the state: its value, and since there are any its checksums."""
  record = json.loads((folder / str(step) / RECORD).read_bytes())
  sha = record.pop(checksums.SHA, None)
  # Older ones have a value and nothing else.
  if set(record) != {_VALUE} and sha != checksums.of_json(record):
    raise ValueError("the record is not what was written")
  return record


def _parts(state) -> Mapping[str, Any]:
  return state if isinstance(state, Mapping) else state._asdict()


def _checksums(state):
  return {name: checksums.of_arrays(part) for name, part in _parts(state).items()}


def _check(parts, record):
  kept = record.get(_CHECKSUMS)
  if kept is not None and any(kept[name] != crc for name, crc in _checksums(parts).items()):
    raise ValueError("the numbers are not what was written")


def _move(path, aside):
  shutil.rmtree(aside, ignore_errors=True)
  path.rename(aside)


@contextlib.contextmanager
def _naming(folder: pathlib.Path, step: int) -> Iterator[None]:
  """Turns what a damaged file raises, for which Orbax has no common class, into a sentence."""
  try:
    yield
  except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    steps = saved_steps(folder)
    if step != max(steps, default=step):
      then = f"{folder} to train it again, or that one alone to do without"
    elif len(steps) > 1:
      then = "it to go on from the one before it"
    else:
      then = f"{folder} to train it again"
    raise DamagedError(
      f"The checkpoint {folder / str(step)} is damaged or belongs to another model "
      f"({type(error).__name__}); delete {then}."
    ) from error
