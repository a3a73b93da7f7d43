"""A folder has one owner, and none once it is killed."""

import errno
import os
import signal
import subprocess
import sys

import filelock
import pytest
from run_examples import ROOT, command

from inversion_jax.machine import locks
from inversion_jax.machine.errors import UserError

OWNER = """
import pathlib, sys
from inversion_jax.machine import locks
with locks.owned(pathlib.Path(sys.argv[1])):
  print("owned", flush=True)
  sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
  owner = subprocess.Popen(
    [sys.executable, "-c", OWNER, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  with owner:
    assert owner.stdout.readline() == b"owned\n"
    with (
      pytest.raises(UserError, match=r"is being written by another process; wait until it ends"),
      locks.owned(tmp_path / "free", tmp_path),
    ):
      pass
    # What was to be owned besides is free again.
    with locks.owned(tmp_path / "free"):
      pass
    owner.send_signal(signal.SIGKILL)
  with locks.owned(tmp_path):
    pass


def test_a_command_on_a_folder_that_is_written_is_refused(tmp_path, data_dir):
  folder = tmp_path / "run"
  with locks.owned(folder):
    done = command(f"--config={ROOT}/configs/digits_fc3.py:smoke", f"--workdir={folder}")
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith(f"inversion_jax: {folder} is being written by")
  assert not (folder / "config.json").exists()


def test_where_nothing_can_be_locked_work_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
  def unsupported(self):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
  with locks.owned(tmp_path):
    pass
  assert "cannot be locked (No locks available)" in caplog.text
