"""What a stage is: what it needs, what it was made for, what it does."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run


def _nothing(run: Run) -> None:
  del run


def _none(run: Run) -> tuple:
  del run
  return ()


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of a run; called, it does what is not done.

  Attributes:
    name: as `--stages` and the notes have it.
    act: does it.
    applies: whether there is anything to do in this run.
    needs: stages of a run that must be finished before, if they apply to it.
    check: raises UserError if it is not for this run, from the configuration and the data alone.
    finished: whether nothing is left to do, of a stage that notes itself what it has done.
    made_for: all that the files depend on: when that changes, they are made again. None acts each
      time, and notes nothing.
    files: what it leaves; one that is missing is made again.
  """

  name: str
  act: Callable[[Run], Any]
  applies: Callable[[Run], bool] = lambda run: True
  needs: Callable[[Run], tuple["Stage", ...]] = _none
  check: Callable[[Run], None] = _nothing
  finished: Callable[[Run], bool] = lambda run: False
  made_for: Callable[[Run], dict[str, Any]] | None = None
  files: tuple[str, ...] = ()

  def __call__(self, run: Run):
    """Does the stage, unless it is done.

    Raises:
      UserError: it is not for this run, or one before it is not finished.
    """
    if not self.applies(run):
      return
    is_done = self.is_done(run)
    if not is_done:
      self.check(run)
    for needed in self.needed(run):
      run.finished(needed.name)
    if self.made_for is None:
      self.act(run)
      return
    if is_done:
      return
    made_for, start = self.made_for(run), time.monotonic()
    self.act(run)
    run.note(self.name, made_for | {"seconds": time.monotonic() - start})

  def needed(self, run: Run) -> list["Stage"]:
    """The stages that must be finished before."""
    return [stage for stage in self.needs(run) if stage.applies(run)]

  def is_done(self, run: Run) -> bool:
    """Whether nothing is left to do."""
    if self.made_for is None:
      return self.finished(run)
    notes = run.notes()
    note = notes.get(self.name)
    if note is None or any(stage.name not in notes for stage in self.needed(run)):
      return False
    if not all((run.folder / name).exists() for name in self.files):
      return False
    # What a note of an older version does not tell was not there.
    return all(note.get(name) == value for name, value in self.made_for(run).items())


def only_for_layers(name: str) -> Callable[[Run], None]:
  """A check that the run inverts a layer as it is: no control, no channel."""

  def check(run):
    if not run.layer or run.config.representation.control or run.channel:
      raise UserError(f"The {name} stage is for a run that inverts a layer as it is.")

  return check


def only_with_encoder(name: str) -> Callable[[Run], None]:
  """A check that the run inverts a layer as it is, of which new images have one too."""
  is_layer = only_for_layers(name)

  def check(run):
    is_layer(run)
    if not run.has_classifier:
      raise UserError(
        f"The {name} stage needs h of images that it makes, and stored features have none; leave "
        "it out, or invert a layer of the classifier."
      )

  return check
