"""What the machine has room for."""

import os
import pathlib
import re
import shutil

from inversion_jax.machine.errors import UserError

GB = 1e9
_MEMINFO = pathlib.Path("/proc/meminfo")


def machine_bytes() -> int:
  """Memory of the machine, all of it."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes() -> int:
  """Memory that programs may still take; all of it where the system does not say."""
  if _MEMINFO.exists():
    found = re.search(r"MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(encoding="ascii"))
    if found:
      return 1024 * int(found[1])
  return machine_bytes()


def check_room(num_bytes: int, what: str, advice: str, folder: pathlib.Path | None = None):
  """Raises UserError if `what` does not fit into memory, or on the disk of `folder`."""
  free = free_bytes() if folder is None else shutil.disk_usage(folder).free
  if num_bytes > free:
    place = "of memory" if folder is None else f"in {folder}"
    raise UserError(
      f"{what} needs {num_bytes / GB:.3g} GB {place}, where {free / GB:.3g} GB are free; {advice}."
    )
