"""Inner tensors of ONNX models."""

import pathlib
from collections.abc import Callable
from typing import Any

from inversion_jax.features.adapters import (
  BATCH_SIZE,
  Adapter,
  check_known,
  first_line,
  framework,
  unit_images,
)
from inversion_jax.machine.errors import UserError


def tensor(
  model: Any,
  name: str,
  *,
  transform: Callable | None = None,
  num_levels: int = 256,
  channels_first: bool = True,
  batch_size: int = BATCH_SIZE,
  folder: str | pathlib.Path | None = None,
) -> Adapter:
  """A tensor of an ONNX model, which becomes an extra output of it, as a function from images.

      h = ij.features.onnx("network.onnx", "relu_2")

  Args:
    model: a path, or an `onnx.ModelProto`; of one input.
    name: of the tensor: an output of any node.
    transform: levels (B, C, H, W), or (B, H, W, C) without `channels_first`, uint8, to what the
      model takes; None gives float32 levels from 0 black to 1 white.
    num_levels: of the images, for that.
    channels_first: whether the model's images and maps are (B, C, H, W), as PyTorch exports them.
    batch_size: images at a time; a model made for one size gets that.
    folder: keeps features, under a hash of the model and the images.

  Raises:
    UserError: no such tensor, no model; when it is called, images that the model does not take.
  """
  onnx, runtime = framework("onnx", "onnx"), framework("onnxruntime", "onnx")
  model = _loaded(onnx, model)
  check_known(name, (output for node in model.graph.node for output in node.output), "tensor")
  if name not in {output.name for output in model.graph.output}:
    model.graph.output.append(onnx.ValueInfoProto(name=name))
  content = model.SerializeToString()
  try:
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
  except Exception as error:  # The runtime's own classes have no public common one.
    raise UserError(f"The model does not run ({first_line(error)}); export it again.") from error
  given_name, made_for = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
  is_fixed = isinstance(made_for, int)

  def compute(images_BHWC):
    given = images_BHWC if transform else unit_images(images_BHWC, num_levels)
    given = given.transpose(0, 3, 1, 2) if channels_first else given
    try:
      (h,) = session.run([name], {given_name: transform(given) if transform else given})
    except Exception as error:
      raise UserError(
        f"The model does not take these images ({first_line(error)}); give a transform, or say "
        "channels_first."
      ) from error
    return h

  return Adapter(
    name,
    compute,
    lambda: [content],
    channels_first=channels_first,
    batch_size=made_for if is_fixed else batch_size,
    has_full_batches=is_fixed,
    folder=folder,
  )


def _loaded(onnx, model):
  """A model of our own to change."""
  if isinstance(model, onnx.ModelProto):
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
  try:
    return onnx.load(str(model))
  except FileNotFoundError:
    raise UserError(f"The file {model} does not exist.") from None
  except Exception as error:  # protobuf's and onnx's classes have no common one.
    raise UserError(f"{model} is no ONNX model ({first_line(error)}).") from error
