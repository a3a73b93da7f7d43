"""Layers of Flax Linen modules."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from inversion_jax.features.adapters import (
  BATCH_SIZE,
  Adapter,
  check_known,
  first_line,
  only,
  unit_images,
)
from inversion_jax.machine.errors import UserError

CALL = "__call__"
INTERMEDIATES = "intermediates"


def layer(
  module: nn.Module,
  variables: Mapping[str, Any],
  name: str,
  *,
  transform: Callable | None = None,
  num_levels: int = 256,
  batch_size: int = BATCH_SIZE,
  folder: str | pathlib.Path | None = None,
  **settings: Any,
) -> Adapter:
  """The output of one submodule, or a value that is sown, as a function from images.

      h = ij.features.flax(resnet, variables, "stage2.block1", train=False)

  It is compiled, and computed at full matrix precision, without which h would depend on the device.

  Args:
    module: called with one array and `settings`.
    variables: of the module: {"params": ..., "batch_stats": ...}.
    name: of the submodule, its names joined by dots; or the name of what is sown.
    transform: levels (B, H, W, C), uint8, to what the module takes, in JAX; None gives levels from
      0 black to 1 white.
    num_levels: of the images, for that.
    batch_size: images at a time.
    folder: keeps features, under a hash of `variables`, `settings` and the images.
    **settings: of the call, such as train=False for evaluation mode.

  Raises:
    UserError: when it is called: no such layer, a module in training mode, images it does not take.
  """

  @jax.jit
  def outputs(variables, images_BHWC):
    given = transform(images_BHWC) if transform else images_BHWC
    _, state = module.apply(
      variables, given, capture_intermediates=True, mutable=[INTERMEDIATES], **settings
    )
    found = flatten_dict(state[INTERMEDIATES])
    by_name = {".".join(part for part in path if part != CALL): path for path in found}
    check_known(name, by_name)
    return only(list(found[by_name[name]]), name)

  def compute(images_BHWC):
    given = images_BHWC if transform else unit_images(images_BHWC, num_levels)
    try:
      with jax.default_matmul_precision("highest"):
        return np.asarray(outputs(variables, given), np.float32)
    except flax.errors.FlaxError as error:
      raise UserError(
        f"The network does not run as it is called ({first_line(error)}); call it in evaluation "
        "mode, as by train=False, with a transform that gives what it takes."
      ) from error

  def content():
    yield repr(sorted(settings.items())).encode()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
      yield jax.tree_util.keystr(path).encode()
      yield np.asarray(leaf).tobytes()

  return Adapter(
    name, compute, content, batch_size=batch_size, has_full_batches=True, folder=folder
  )
