"""What a run says while it works: a bar on a terminal, plain lines elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import tqdm

from inversion_jax.machine import processes

SECONDS_BETWEEN_LINES = 15.0
_LOGGER = logging.getLogger("inversion_jax")


def say(message: str, *values):
  """One plain line, `message % values`, to whoever listens to the logger "inversion_jax".

  Of several processes the first speaks.
  """
  if processes.is_first():
    _LOGGER.info(message, *values)


def warn(message: str, *values):
  """As `say`, for what a user should know even where nobody listens."""
  if processes.is_first():
    _LOGGER.warning(message, *values)


class _AroundBars(logging.Handler):
  """Writes lines to standard error without tearing a progress bar."""

  def emit(self, record):
    tqdm.tqdm.write(self.format(record), file=sys.stderr)


def show_lines(speaker: str = ""):
  """Shows what is said on standard error; for programs, a library leaves it to its user.

  Args:
    speaker: what each line begins with, where several processes write to one terminal; then
      progress is lines there, too.
  """
  global _is_one_of_many
  if not _LOGGER.handlers:
    _LOGGER.addHandler(_AroundBars())
    _LOGGER.propagate = False
  words = f"{speaker}: " if speaker else ""
  for handler in _LOGGER.handlers:
    if isinstance(handler, _AroundBars):
      handler.setFormatter(logging.Formatter(f"%(asctime)s {words}%(message)s", "%H:%M:%S"))
  _is_one_of_many = bool(speaker)
  _LOGGER.setLevel(logging.INFO)


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[None]:
  """Shows lines inside where nobody listens yet, as a program does; or, `quiet`, nothing at all."""
  global _quiet
  before, _quiet = (_quiet, _LOGGER.level, list(_LOGGER.handlers), _LOGGER.propagate), quiet
  if quiet:
    _LOGGER.setLevel(logging.ERROR)
  elif not _LOGGER.hasHandlers():
    show_lines()
  try:
    yield
  finally:
    _quiet, level, _LOGGER.handlers[:], _LOGGER.propagate = before
    _LOGGER.setLevel(level)


_quiet = _is_one_of_many = False


@runtime_checkable
class Progress(Protocol):
  """What the loops see."""

  def update(self, num_done: int, **values: float):
    """Counts `num_done` more units and shows the latest values."""


class _Bar:
  def __init__(self, description, total, initial, unit):
    self.bar = tqdm.tqdm(
      desc=description, total=total, initial=initial, unit=unit, dynamic_ncols=True
    )

  def update(self, num_done, **values):
    if values:
      self.bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
    self.bar.update(num_done)

  def close(self):
    self.bar.close()


class _Lines:
  def __init__(self, description, total, initial, unit):
    self.description, self.total, self.unit = description, total, unit
    self.initial = self.done = self.shown = initial
    self.values = {}
    self.start = self.last_line = time.monotonic()

  def update(self, num_done, **values):
    self.done += num_done
    self.values |= values
    now = time.monotonic()
    if now - self.last_line >= SECONDS_BETWEEN_LINES:
      self.last_line = now
      self._write(now - self.start)

  def _write(self, seconds):
    self.shown = self.done
    rate = (self.done - self.initial) / max(seconds, 1e-9)
    left_seconds = (self.total - self.done) / rate if rate else float("inf")
    values = "".join(f", {name} {value:.4g}" for name, value in self.values.items())
    say(
      "%s: %d of %d, %.3g %s/s, %.0f s left%s",
      self.description,
      self.done,
      self.total,
      rate,
      self.unit,
      left_seconds,
      values,
    )

  def close(self):
    seconds = time.monotonic() - self.start
    if seconds >= SECONDS_BETWEEN_LINES and self.shown != self.done:
      self._write(seconds)


@contextlib.contextmanager
def track(description: str, total: int, *, initial: int = 0, unit: str = "step") -> Iterator:
  """Yields a `Progress` over `total` units, of which `initial` were done before."""
  has_bar = sys.stderr.isatty() and processes.is_first() and not (_quiet or _is_one_of_many)
  shown = (_Bar if has_bar else _Lines)(description, total, initial, unit)
  try:
    yield shown
  finally:
    shown.close()
