import operator
import os
import signal
import subprocess
import sys

import pytest

from inversion_jax.machine import limits, workers
from inversion_jax.machine.errors import UserError


@pytest.mark.parametrize(
  ("cores", "num", "shares"),
  [
    ((0, 1), 2, [(0,), (1,)]),
    ((0, 1, 2, 5, 7), 2, [(0, 2, 7), (1, 5)]),
    ((3,), 2, [(3,), (3,)]),
    ((0, 1), 1, [(0, 1)]),
  ],
)
def test_every_core_is_given_out_once_while_there_are_enough(cores, num, shares):
  assert workers.shares_of(cores, num) == shares


def test_as_many_work_at_once_as_was_asked_for_and_there_is_to_do(monkeypatch):
  monkeypatch.setattr(workers, "_cores", lambda: [0, 1, 2])
  assert workers.num_at_once(0, 7) == 3
  assert workers.num_at_once(0, 2) == 2
  assert workers.num_at_once(2, 7) == 2
  monkeypatch.setattr(workers.jax, "default_backend", lambda: "gpu")
  assert workers.num_at_once(0, 7) == 1
  monkeypatch.setattr(workers.jax.distributed, "is_initialized", lambda: True)
  assert workers.num_at_once(2, 7) == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be given out here")
def test_tasks_have_their_own_processes_and_cores_and_answer_in_order():
  cores = sorted(os.sched_getaffinity(0))
  with workers.side_by_side(2) as work:
    for own in work([workers.Task(name, os.sched_getaffinity, (0,)) for name in "ab"]):
      assert own <= set(cores)
      assert 1 <= len(own) <= -(-len(cores) // 2)
  with workers.side_by_side(1) as work:
    # One list after another, by the same processes.
    first, *others = (work([workers.Task("a", os.getpid, ())]) for _ in range(2))
    assert others == [first]
    products = work([workers.Task(str(n), operator.mul, (n, n)) for n in range(3)])
  assert products == [0, 1, 4]


def done_by_one(act, *args):
  with workers.side_by_side(1) as work:
    return work([workers.Task("a", act, args)])


def test_a_sentence_of_a_task_is_that_of_all_and_a_killed_one_has_its_own():
  with pytest.raises(UserError, match="colour=3 is not one of 1, 2"):
    done_by_one(limits.check_one_of, "colour", 3, (1, 2))
  with pytest.raises(UserError, match=r"was killed.*--jobs=1"):
    done_by_one(os._exit, 1)


PROGRAM = """
import time
from inversion_jax.machine import stopping, workers

def work():
  print("begun", flush=True)
  time.sleep(300)

if __name__ == "__main__":
  with stopping.heeded():
    with workers.side_by_side(2) as do:
      do([workers.Task(name, work, ()) for name in "ab"])
"""


@pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_program_that_is_stopped_or_killed_leaves_no_process_at_work(number, status, tmp_path):
  path = tmp_path / "program.py"
  path.write_text(PROGRAM, encoding="utf-8")
  program = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
  for _ in range(2):
    assert program.stdout.readline() == "begun\n"
  program.send_signal(number)
  # The pipe has its end once the last of them has.
  program.communicate(timeout=60)
  assert program.returncode == status
