"""Signals that ask a program to end: it saves after the step that it is in; elsewhere it just ends.

Machines that are taken away send SIGTERM some seconds before, a person at the keyboard SIGINT.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

import jax
from jax.experimental import multihost_utils

from inversion_jax.machine.progress import say

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
  """The program ends because a signal asked it to; not an error."""

  def __init__(self, number: int):
    super().__init__(128 + number)
    self.number = number


# A signal finds a process, not a function.
_asked: int | None = None
_is_stepping = False


@contextlib.contextmanager
def heeded(numbers: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
  """Inside, signals end the program as this module says; for programs, not for a library.

  Args:
    numbers: the signals.

  Raises:
    SystemExit: with 128 + the number of the signal, as shells have it.
  """
  global _asked
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, _ask) for number in numbers}
  try:
    yield
  except Stopped as stopped:
    say("%s: ended; the same command goes on from here.", signal.Signals(stopped.number).name)
    sys.exit(stopped.code)
  finally:
    _asked = None
    for number, handler in before.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def stepping() -> Iterator[None]:
  """Inside, a signal waits until the caller asks `check`."""
  global _is_stepping
  before, _is_stepping = _is_stepping, True
  try:
    yield
  finally:
    _is_stepping = before


def is_asked(step: int) -> bool:
  """Whether to save and `stop` after this step; the processes of one program agree on which.

  To be called after every step.
  """
  global _asked
  if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step):
    # JAX has taken the signal, and told the other processes.
    _asked = signal.SIGTERM
  return _asked is not None


def stop():
  """Ends the program, after what `is_asked` has asked for is done."""
  raise Stopped(_asked)


def _ask(number, frame):
  del frame
  global _asked
  # Alone a process of several cannot stop between steps; and who asks twice means it.
  is_waiting = _is_stepping and _asked is None and not jax.distributed.is_initialized()
  _asked = number
  if not is_waiting:
    raise Stopped(number)
