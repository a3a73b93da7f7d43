"""Scores of every image before the first step that learns from it."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from inversion_jax.fitting.training import TrainState
from inversion_jax.information.codelength import FirstPass
from inversion_jax.machine import storage
from inversion_jax.machine.progress import warn


@dataclasses.dataclass(frozen=True)
class Scored:
  """A training set whose images are scored before they are learnt.

  Attributes:
    index, source: of each row, as of `FirstPass`.
    num_seen: the first rows, which the initialisation sees.
    seen_nats: what each of these costs, when nothing is known.
    score: `score(params, rows_B)` gives the nats of these rows, (B,) or with more axes to add up.
  """

  index: Int[np.ndarray, " N"]
  source: Int[np.ndarray, " N"]
  num_seen: int
  seen_nats: float
  score: Callable[[Any, Int[np.ndarray, " B"]], Any]


class Recorder:
  """Scores the batches of the first pass before their steps, each image once.

  Args:
    scored: the training set.
    rows_fn: rows of the batch of a step, counted from 0.
    num_steps: of the first pass.
    folder: of the run, where it is kept; None keeps everything in memory.
    from_step: where training goes on from; what the folder has of later steps is scored again.
  """

  def __init__(
    self,
    scored: Scored,
    rows_fn: Callable[[int], Int[np.ndarray, " B"]],
    num_steps: int,
    folder: pathlib.Path | None = None,
    from_step: int = 0,
  ):
    self._scored, self._rows_fn, self._num_steps = scored, rows_fn, num_steps
    self._path = folder and folder / storage.CODELENGTH
    self._is_told_N = np.zeros(len(scored.index), bool)
    self._rows, self._steps, self._nats = [], [], []
    self._waiting, self._is_new, self._is_lost = None, not from_step, False
    self._tell(np.arange(scored.num_seen), 0, np.full(scored.num_seen, scored.seen_nats))
    if from_step:
      self._go_on(from_step)

  def before_step(self, step: int, state: TrainState):
    """Scores those that `step`, counted from 1, is the first to learn from."""
    if self._is_lost or step > self._num_steps:
      return
    rows_B = self._rows_fn(step - 1)
    is_all_told = self._is_told_N[rows_B].all()
    nats = None if is_all_told else self._scored.score(state.params, rows_B)
    self._fetch()
    if not is_all_told:
      # Fetched later, so that the step is on its way before the scores are there.
      self._waiting = rows_B, step, nats

  def keep(self):
    """Writes what was scored; to be called before the state after these steps is saved.

    A run that is killed between the two has scores of steps that it will repeat, and drops them.
    """
    self._fetch()
    if self._is_new and self._path and not self._is_lost:
      storage.write_npz(self._path, self.first_pass().arrays)
    self._is_new = False

  def first_pass(self) -> FirstPass | None:
    """What was scored until now; None if steps before these were not."""
    self._fetch()
    if self._is_lost:
      return None
    rows_N = np.concatenate(self._rows)
    steps, nats = np.concatenate(self._steps), np.concatenate(self._nats)
    return FirstPass(self._scored.index[rows_N], steps, nats, self._scored.source[rows_N])

  def _fetch(self):
    if self._waiting is not None:
      (rows_B, step, nats), self._waiting = self._waiting, None
      nats = np.asarray(nats, np.float64)[: len(rows_B)]
      self._tell(rows_B, step, nats.reshape(len(rows_B), -1).sum(1))
      self._is_new = True

  def _tell(self, rows_B, step, nats_B):
    firsts_B = np.unique(rows_B, return_index=True)[1]
    new_B = np.sort(firsts_B[~self._is_told_N[rows_B[firsts_B]]])
    self._is_told_N[rows_B] = True
    self._rows.append(rows_B[new_B])
    self._steps.append(np.full(len(new_B), step))
    self._nats.append(nats_B[new_B])

  def _go_on(self, from_step):
    """Takes the scores of the steps until then from the folder."""
    for step in range(1, min(from_step, self._num_steps) + 1):
      rows_B = self._rows_fn(step - 1)
      self._tell(rows_B, step, np.zeros(len(rows_B)))
    expected = self.first_pass()
    if self._path.exists():
      found = storage.read_as(self._path, FirstPass.of).first(len(expected))
      if len(found) == len(expected) and found.is_told_as(expected):
        self._nats = [found.nats]
        return
    self._is_lost = True
    warn(
      "%s lacks scores of steps before %d: the codelength of this run goes no further than it.",
      *(self._path, from_step),
    )
