"""Work side by side: processes of one machine, each with its own share of the cores.

A step of a small model does not fill two cores, and XLA compiles mostly on one: two processes of
one core each get further than one process of two.
"""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import jax
from absl import logging as absl_logging

from inversion_jax.machine import progress, stopping
from inversion_jax.machine.errors import UserError


def num_at_once(wanted: int, num_tasks: int) -> int:
  """How many of `num_tasks` are worked on at the same time.

  Args:
    wanted: by the user; 0 leaves it to the machine: one for each core, and on accelerators, or
      where cores cannot be given out, one.
    num_tasks: how many there are.
  """
  if jax.distributed.is_initialized():
    return 1  # The processes of a cluster do everything together.
  if wanted == 0:
    wanted = len(_cores()) if _can_share() else 1
  return max(1, min(wanted, num_tasks))


class Task(NamedTuple):
  """What one process does: `act(*args)`, a function of a module and what can be pickled.

  Each line that it says begins with its name.
  """

  name: str
  act: Callable[..., Any]
  args: tuple


@contextlib.contextmanager
def side_by_side(num: int) -> Iterator[Callable[[Sequence[Task]], list]]:
  """`num` processes, each with its share of the cores, for one list of tasks after another.

      with side_by_side(2) as work:
        results = work(tasks)

  `work` gives what the tasks returned, in their order.

  Raises:
    UserError: a process was killed. What a task raises is raised once those that have been begun
      are done.
  """
  context = multiprocessing.get_context("spawn")
  shares = context.SimpleQueue()
  for share in shares_of(_cores(), num):
    shares.put(share)
  with concurrent.futures.ProcessPoolExecutor(
    num, context, _begin, (shares, absl_logging.get_verbosity())
  ) as pool:
    # They import what they need while it is found out what they shall do.
    for _ in range(num):
      pool.submit(os.getpid)

    def work(tasks):
      futures = [pool.submit(_act, *task) for task in tasks]
      return [future.result() for future in futures]

    try:
      yield work
    except BrokenProcessPool as error:
      raise UserError(
        "One of the processes that work side by side was killed, often for want of memory; what is "
        "done is kept: start again with --jobs=1."
      ) from error
    except (SystemExit, KeyboardInterrupt):
      # They save after the step that they are in.
      for worker in multiprocessing.active_children():
        worker.terminate()
      raise
    finally:
      pool.shutdown(cancel_futures=True)


def shares_of(cores: Sequence[int], num: int) -> list[tuple[int, ...]]:
  """The cores of each of `num` processes; with more processes than cores they take turns."""
  return [tuple(cores[place % len(cores) :: num]) for place in range(num)]


def _cores():
  return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def _can_share():
  return hasattr(os, "sched_setaffinity") and jax.default_backend() == "cpu"


def _begin(shares, verbosity):
  absl_logging.set_verbosity(verbosity)
  # Of the keyboard's signals the first process tells; what it no longer can, they see.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  share = shares.get()
  if hasattr(os, "sched_setaffinity"):
    # Before JAX has counted the cores.
    os.sched_setaffinity(0, share)


def _end_with_parent():
  """A process whose parent was killed would wait for work, and own its folders, for ever."""
  multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
  os.kill(os.getpid(), signal.SIGKILL)


def _act(name, act, args):
  progress.show_lines(name)
  with stopping.heeded((signal.SIGTERM,)):
    return act(*args)
