"""A folder that is written has one owner."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator

import filelock

from inversion_jax.machine import processes, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import warn

FILE = ".lock"
# What file systems say that do not lock, as some buckets that are mounted as folders.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def owned(*folders: pathlib.Path) -> Iterator[None]:
  """Inside, no other program writes into these folders, which are made if they are not there.

  Who owns a folder may ask for it again.

  The kernel holds the lock, on NFS the server: none is left behind by a process that was killed, as
  the file is that carries it. Of several processes of one program the first holds it for all.

  Raises:
    UserError: another program owns one of them, or it cannot be made.
  """
  with contextlib.ExitStack() as stack:
    refusal = ""
    if processes.is_first():
      try:
        for folder in dict.fromkeys(folders):
          stack.enter_context(_lock(folder))
        for folder in folders:
          storage.sweep(folder)
      except UserError as error:
        refusal = str(error)
    refusal = processes.from_first(refusal.encode()).decode()
    if refusal:
      raise UserError(refusal)
    yield


@contextlib.contextmanager
def _lock(folder):
  storage.make_folder(folder)
  # Of one lock for each folder, so that its owner may ask for it again.
  lock = filelock.FileLock(folder.absolute() / FILE, timeout=0, is_singleton=True)
  try:
    lock.acquire()
  except filelock.Timeout:
    raise UserError(
      f"{folder} is being written by another process; wait until it ends, or choose another folder."
    ) from None
  except OSError as error:
    if error.errno not in _WITHOUT_LOCKS:
      raise UserError(
        f"{folder} cannot be written ({error.strerror}); choose another one."
      ) from error
    warn("%s cannot be locked (%s): let no other process write there.", folder, error.strerror)
  try:
    yield
  finally:
    lock.release()
