"""The processes of one program, as on a TPU pod: all run the same code and see the same folders.

Each decides by what it finds in a folder what there is left to do, and all must decide alike: a
process that skipped what the others compute together would leave them waiting. So a folder changes
only while all of them wait: `storage` sees to it, and whatever else changes one is done `by_first`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from inversion_jax.machine.errors import UserError


def join():
  """Makes this process one of those of the cluster that it was started in.

  Raises:
    UserError: it was not started in one that JAX knows.
  """
  try:
    jax.distributed.initialize()
  except ValueError as error:
    raise UserError(
      f"--distributed found no cluster ({str(error).rstrip('.')}): start every process by Slurm, on"
      " a TPU pod or in another cluster that JAX knows, or leave it out."
    ) from error


def is_first() -> bool:
  """Whether this process speaks for all; true of one that is alone."""
  # A lone process must not start its accelerator only to learn this.
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def meet():
  """Returns once every process has called it as often as this one."""
  if jax.distributed.is_initialized():
    multihost_utils.sync_global_devices("inversion_jax")


def by_first(act: Callable, *args: Any):
  """The first process acts, while all others wait."""
  meet()
  if is_first():
    act(*args)
  meet()


def from_first(content: bytes) -> bytes:
  """What the first process calls this with, in all of them."""
  if not jax.distributed.is_initialized():
    return content
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
  # One program for all sizes up to a power of two.
  padded = np.zeros(1 << max(size, 1 << 10).bit_length(), np.uint8)
  if is_first():
    padded[:size] = np.frombuffer(content, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size].tobytes()


@contextlib.contextmanager
def first_goes_ahead() -> Iterator[None]:
  """The first process runs the block alone, then the others do, and find what it made."""
  if not is_first():
    meet()
  try:
    yield
  finally:
    if is_first():
      meet()
