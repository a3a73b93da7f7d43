"""Signals end a program where it can be gone on from."""

import os
import signal

import pytest

from inversion_jax.machine import stopping


def told(number, *, is_stepping=True, times=1):
  """(status, steps done) of a program that gets a signal in its third step, or outside of any."""
  done = []

  def work():
    if not is_stepping:
      os.kill(os.getpid(), number)
      pytest.fail("went on")
    with stopping.stepping():
      for step in range(1, 9):
        for _ in range(times if step == 3 else 0):
          os.kill(os.getpid(), number)
        done.append(step)
        if stopping.is_asked(step):
          stopping.stop()

  with pytest.raises(SystemExit) as ended, stopping.heeded():
    work()
  return ended.value.code, done


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_ends_the_program_after_the_step_that_it_is_in(number):
  assert told(number) == (128 + number, [1, 2, 3])
  # Outside of steps, and where someone asks twice, at once.
  assert told(number, is_stepping=False) == (128 + number, [])
  assert told(number, times=2) == (128 + number, [1, 2])


def test_without_a_program_a_signal_is_what_it_was():
  before = [signal.getsignal(number) for number in stopping.SIGNALS]
  with stopping.heeded():
    assert [signal.getsignal(number) for number in stopping.SIGNALS] != before
  assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
