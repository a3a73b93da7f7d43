"""What a training step costs before it is paid: operations, bytes."""

import concurrent.futures
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.stages import Compiled
from jax.typing import DTypeLike

from inversion_jax.machine import compilation, memory
from inversion_jax.machine.errors import UserError
from inversion_jax.models.layers import Conv3x3, WeightNormConv

MB, GB = 1e6, memory.GB
# Layers whose operations are counted.
COUNTED = (WeightNormConv, Conv3x3, nn.Dense, nn.Conv)


def forward_operations(apply_fn: Callable, *args: Any) -> int:
  """Operations of all convolutions and products in one call of `apply_fn(*args)`.

  Args:
    apply_fn: calls a Linen module; it is traced, not run, so `args` may be shapes.
    *args: what it gets.

  A multiplication and the addition that follows it are two operations. What is done element by
  element is not counted, nor the zeros around an image: this is what the network needs.
  """
  counted = []

  def count(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if context.method_name == "__call__" and isinstance(context.module, COUNTED):
      counted.extend(_operations(context.module, x, result) for x in args)
    return result

  with nn.intercept_methods(count):
    # JAX remembers what it has traced, so a function that it has seen would not be traced again.
    jax.eval_shape(lambda *args: apply_fn(*args), *args)
  return sum(counted)


def train_operations(apply_fn: Callable, *args: Any) -> int:
  """Operations of forward and backward pass: each product has two gradients of its own size."""
  return 3 * forward_operations(apply_fn, *args)


def _operations(module, x, y):
  """Of one layer; the taps of a kernel that lie outside the image cost nothing."""
  if isinstance(module, nn.Dense):
    taps = math.prod(x.shape[:-1])
  elif getattr(module, "doubling", ""):
    # The transposed convolution of stride 2: each position of its input meets the whole kernel.
    taps = math.prod(x.shape[:-1]) * math.prod(module.kernel_size)
  else:
    taps = x.shape[0] * math.prod(
      _taps(*sizes)
      for sizes in zip(x.shape[1:], y.shape[1:], module.kernel_size, _before(module), strict=False)
    )
  return 2 * taps * x.shape[-1] * y.shape[-1]


def _before(module):
  """Rows and columns of padding before the image."""
  if module.padding == "SAME":
    return [(length - 1) // 2 for length in module.kernel_size]
  return [before for before, _ in module.padding]


def _taps(input_size, output_size, kernel_size, before):
  """Pairs of an output and a tap of the kernel that fall inside the input, along one axis."""
  stride = -(-input_size // output_size)
  positions = (stride * i + j - before for i in range(output_size) for j in range(kernel_size))
  return sum(0 <= position < input_size for position in positions)


def product_rate(dtype: DTypeLike = jnp.float32) -> float:
  """Operations per second of the fastest product of two square matrices, measured now.

  With XLA's own choice of library and with that of the training step.
  """
  side = 2048 if jax.default_backend() == "cpu" else 8192
  matrix = jnp.ones((side, side), dtype)

  def product(state, matrix):
    return state @ matrix, None

  fastest = []
  for compiled in (jax.jit(product), compilation.jit_step(product)):
    state, _ = compiled(matrix + 0, matrix)
    for _ in range(8):
      start = time.monotonic()
      state, _ = jax.block_until_ready(compiled(state, matrix))
      fastest.append(time.monotonic() - start)
  return 2 * side**3 / min(fastest)


def program_bytes(executable: Compiled) -> int:
  """Memory of a compiled program on each device: arguments, results, temporaries."""
  usage = executable.memory_analysis()
  sizes = usage.argument_size_in_bytes, usage.output_size_in_bytes, usage.temp_size_in_bytes
  return sum(sizes) - usage.alias_size_in_bytes


def held_bytes(tree: Any) -> int:
  """Memory of arrays, or of their shapes, on each device that they lie on."""

  def of_leaf(leaf):
    sharding = getattr(leaf, "sharding", None)
    shape = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
    return math.prod(shape) * leaf.dtype.itemsize

  return sum(map(of_leaf, jax.tree.leaves(tree)))


class Compiling(NamedTuple):
  """A program on its way, and the bytes that lie beside it while it runs."""

  future: concurrent.futures.Future
  num_beside: int

  @property
  def num_bytes(self) -> int:
    """Memory of both on each device, once it is compiled."""
    return program_bytes(self.future.result()) + self.num_beside


def device_bytes() -> int:
  """Memory of one device: what its allocator may use, or, on a CPU, what the machine has."""
  device = jax.local_devices()[0]
  statistics = device.memory_stats() or {}
  if "bytes_limit" in statistics:
    return statistics["bytes_limit"]
  return memory.machine_bytes() // jax.local_device_count()


def check_memory(num_bytes: int, what: str, advice: str):
  """Raises UserError if `what` needs more memory than a device has."""
  if num_bytes > device_bytes():
    raise UserError(
      f"{what} needs {num_bytes / GB:.3g} GB on each device, which has {device_bytes() / GB:.3g} "
      f"GB; {advice}."
    )


@contextlib.contextmanager
def memory_errors(what: str, advice: str) -> Iterator[None]:
  """Turns an allocator's failure into a sentence."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise UserError(f"{what} does not fit into the memory of a device; {advice}.") from error
