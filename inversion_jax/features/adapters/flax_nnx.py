"""Layers of Flax NNX models."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from inversion_jax.features.adapters import (
  BATCH_SIZE,
  Adapter,
  check_known,
  first_line,
  only,
  unit_images,
)
from inversion_jax.machine.errors import UserError


def layer(
  model: Any,
  name: str,
  *,
  transform: Callable | None = None,
  num_levels: int = 256,
  batch_size: int = BATCH_SIZE,
  folder: str | pathlib.Path | None = None,
  **settings: Any,
) -> Adapter:
  """The output of one submodule, as a function from images.

      h = ij.features.nnx(model, "encoder.conv2")

  A copy of the model as it is now runs in evaluation mode; the model itself is left alone.

  Args:
    model: an `nnx.Module`, called with one array and `settings`.
    name: of the submodule: the attributes that lead to it, joined by dots.
    transform: levels (B, H, W, C), uint8, to what the model takes; None gives levels from 0 black
      to 1 white.
    num_levels: of the images, for that.
    batch_size: images at a time.
    folder: keeps features, under a hash of the model's state and the images.
    **settings: of the call.

  Raises:
    UserError: no such submodule; when it is called, images that the model does not take.
  """
  from flax import nnx

  if not isinstance(model, nnx.Module):
    raise UserError(f"features.nnx takes an nnx.Module, not {type(model).__name__}.")
  model = nnx.clone(model)
  model.eval()
  submodules = {".".join(map(str, path)): one for path, one in nnx.iter_modules(model)}
  check_known(name, submodules)

  def compute(images_BHWC):
    given = transform(images_BHWC) if transform else unit_images(images_BHWC, num_levels)
    with _recorded(submodules[name]) as captured, jax.default_matmul_precision("highest"):
      try:
        model(given, **settings)
      except (TypeError, ValueError) as error:
        raise UserError(
          f"The network does not take these images ({first_line(error)}); give a transform from "
          "uint8 levels (B, H, W, C) to what it takes."
        ) from error
    return np.asarray(only(captured, name), np.float32)

  def content():
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model)):
      yield jax.tree_util.keystr(path).encode()
      is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
      yield np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

  return Adapter(
    name, compute, content, batch_size=batch_size, has_full_batches=True, folder=folder
  )


@contextlib.contextmanager
def _recorded(module):
  """Yields a list of what `module` gives inside; its class calls it, so the class is watched."""
  kind, captured = type(module), []
  call = kind.__call__

  def recording(self, *args, **kwargs):
    output = call(self, *args, **kwargs)
    if self is module:
      captured.append(output)
    return output

  kind.__call__ = recording
  try:
    yield captured
  finally:
    kind.__call__ = call
