"""Orbax checkpoints of a training state: the newest two, the best, and chosen steps are kept."""

import contextlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from inversion_jax.machine.errors import UserError

_VALUE = "value"
_STATE = "default"  # Orbax's name of what `save` is given


class Checkpoints:
  """The checkpoints of one model under one folder.

  Args:
    folder: where they are; made if needed.
    best_mode: "min" or "max" of the value given to `save`.
    keep_steps: steps that are never deleted, beside the newest two and the best.
  """

  def __init__(self, folder: pathlib.Path, best_mode: str, keep_steps: Sequence[int] = ()):
    self.folder = folder.absolute()
    policies = checkpoint_managers.preservation_policy
    keep = policies.AnyPreservationPolicy(
      [
        # If the newest is damaged, training can go on from the one before it.
        policies.LatestN(2),
        policies.BestN(get_metric_fn=_value, reverse=best_mode == "min", n=1),
        policies.CustomSteps(list(keep_steps)),
      ]
    )
    options = ocp.CheckpointManagerOptions(
      best_fn=_value, best_mode=best_mode, preservation_policy=keep
    )
    # Orbax reads all values at once, and would not say whose is damaged.
    for path in sorted(self.folder.glob("*/metrics/metrics")):
      with self._naming(path.parts[-3]):
        json.loads(path.read_bytes())
    self._manager = ocp.CheckpointManager(self.folder, options=options)
    self._sign = -1 if best_mode == "min" else 1
    # Remembered here, since a checkpoint that is still being written has no metrics yet.
    self._values = {step: self._read_value(step) for step in self.steps()}

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._manager.wait_until_finished()
    self._manager.close()

  def save(self, step: int, state: Any, value: float):
    """Saves `state`, with the value by which the best is chosen; the disk is written behind."""
    self._values[step] = value
    self._manager.save(step, args=ocp.args.StandardSave(state), metrics={_VALUE: value})

  def steps(self) -> list[int]:
    """The steps that can be restored, in order."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """The newest step, None before the first."""
    return max(self._values, default=None)

  def best(self) -> tuple[int, float]:
    """The step with the best value, and that value; of equals the newest, as Orbax keeps them."""
    step = max(self._values, key=lambda step: (self._sign * self._values[step], step))
    return step, self._values[step]

  def restore(self, step: int, like: Any) -> Any:
    """Restores the state of `step`, in the shapes, types and placement of `like`.

    Raises:
      UserError: the files are damaged, or belong to a model of other shapes.
    """
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with self._naming(step):
      return self._manager.restore(step, args=ocp.args.StandardRestore(template))

  def restore_parts(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """Restores the fields of the state of `step` that `like` names, and reads no other.

    Raises:
      UserError: as `restore`.
    """
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    how = ocp.checkpoint_utils.construct_restore_args(template)
    args = ocp.args.PyTreeRestore(template, restore_args=how, partial_restore=True)
    self._manager.wait_until_finished()
    with self._naming(step), ocp.PyTreeCheckpointer() as checkpointer:
      return checkpointer.restore(self.folder / str(step) / _STATE, args=args)

  def _read_value(self, step):
    with self._naming(step):
      return self._manager.metrics(step)[_VALUE]

  @contextlib.contextmanager
  def _naming(self, step):
    """Turns what a damaged file raises, for which Orbax has no common class, into a sentence."""
    try:
      yield
    except Exception as error:
      raise UserError(
        f"The checkpoint {self.folder / str(step)} is damaged or belongs to another model "
        f"({type(error).__name__}); delete that folder to go on from the one before it."
      ) from error


def _value(metrics):
  return metrics[_VALUE]
