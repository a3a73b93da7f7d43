"""Where arrays live: batches are split over all devices, everything else is on each of them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from inversion_jax.machine.errors import UserError


def data_parallel() -> tuple[NamedSharding, NamedSharding]:
  """(sharding of a batch, sharding of a state): first axis split, or replicated."""
  mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
  return NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Places host arrays; every process holds the whole array and gives its devices their part."""

  def put_array(array):
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

  return jax.tree.map(put_array, tree)


def replicated_shapes(tree: Any) -> Any:
  """Shapes and types of `tree`, as of arrays that lie on every device."""
  _, replicated = data_parallel()
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), tree
  )


def jit_gathered(fn: Callable) -> Callable:
  """Compiles `fn` so that every process gets its whole result."""
  return jax.jit(fn, out_shardings=data_parallel()[1])


def per_device(fn: Callable) -> Callable:
  """`fn(state, *batch)` such that each device works on its part of the batch alone.

  For loops whose length depends on the data: no device waits for another.
  """
  (batch, state) = data_parallel()
  specs = (state.spec, batch.spec)

  # A program has the name of its function.
  @functools.wraps(fn)
  def split(tree, *batch_trees):
    in_specs = (specs[0], *(specs[1],) * len(batch_trees))
    # The loops start from constants, which the check would have to be told to be per device.
    run = jax.shard_map(fn, mesh=batch.mesh, in_specs=in_specs, out_specs=specs[1], check_vma=False)
    return run(tree, *batch_trees)

  return split


def put_batch(tree: Any) -> Any:
  """Places a batch, split over all devices."""
  return put(tree, data_parallel()[0])


def check_batch_size(batch_size: int, num_images: int, field: str, num_parts: int = 1):
  """Raises UserError, naming `field`, if there are too few images or devices cannot share them.

  Each of `num_parts` parts of a batch is shared by all devices.
  """
  if batch_size > num_images:
    raise UserError(
      f"{field}={batch_size} exceeds the {num_images} training images; choose a smaller one."
    )
  if batch_size < 1 or batch_size % (num_parts * jax.device_count()):
    parts = f"{num_parts} microbatches over " if num_parts > 1 else ""
    raise UserError(
      f"{field}={batch_size} cannot be split over {parts}{jax.device_count()} devices; "
      f"choose a positive multiple of {num_parts * jax.device_count()}."
    )


def rounded_up(batch_size: int) -> int:
  """The smallest batch, not below `batch_size`, that the devices can share."""
  return math.ceil(batch_size / jax.device_count()) * jax.device_count()
