"""Layers of PyTorch modules."""

import contextlib
import pathlib
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from inversion_jax.features.adapters import (
  BATCH_SIZE,
  Adapter,
  check_known,
  first_line,
  framework,
  only,
  unit_images,
)
from inversion_jax.machine.errors import UserError


def layer(
  module: Any,
  name: str,
  *,
  transform: Callable | None = None,
  num_levels: int = 256,
  device: Any = None,
  batch_size: int = BATCH_SIZE,
  folder: str | pathlib.Path | None = None,
) -> Adapter:
  """The output of one submodule, as a function from images.

      h = ij.features.torch(resnet, "layer3", transform=lambda x: (x / 255 - mean) / std)
      train, test = ij.pairs(images, h).split(test=1_000)

  The module runs in evaluation mode and without gradients, and is left in the mode it was in. What
  the submodule gives is copied at once, since the next one may change it in place. Maps become
  (N, rows, columns, Z), tokens a map or a vector: see `adapters.arranged`. Of several tensors the
  first is taken.

  Args:
    module: a `torch.nn.Module`, called with one tensor.
    name: of the submodule, as `module.named_modules()` has it.
    transform: levels (B, C, H, W), a uint8 tensor, to what the module takes; None gives levels from
      0 black to 1 white.
    num_levels: of the images, for that.
    device: moves the module there; None leaves it where it is.
    batch_size: images at a time.
    folder: keeps features, under a hash of the module's state and the images.

  Raises:
    UserError: no such submodule; when it is called, images that the module does not take.
  """
  torch = framework("torch", "torch")
  if not isinstance(module, torch.nn.Module):
    raise UserError(f"features.torch takes a torch.nn.Module, not {type(module).__name__}.")
  submodules = dict(module.named_modules())
  check_known(name, submodules)
  if device is not None:
    module.to(device)

  def compute(images_BHWC):
    place = next((tensor.device for tensor in module.state_dict().values()), "cpu")
    if transform is None:
      given = torch.from_numpy(unit_images(images_BHWC, num_levels)).permute(0, 3, 1, 2)
    else:
      given = torch.from_numpy(np.array(images_BHWC.transpose(0, 3, 1, 2)))
    captured = []

    def keep(_, __, output):
      # A copy: an operation in place may come next.
      captured.append(_tensor_of(torch, output, name).detach().clone())

    hook = submodules[name].register_forward_hook(keep)
    try:
      with _evaluating(module), torch.no_grad():
        module((transform(given) if transform else given.contiguous()).to(place))
    except UserError:
      raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
      raise UserError(
        f"The network does not take these images ({first_line(error)}); give a transform from "
        "uint8 tensors (B, C, H, W) to what it takes."
      ) from error
    finally:
      hook.remove()
    return only(captured, name).float().cpu().numpy()

  def content():
    for key, tensor in module.state_dict().items():
      yield key.encode()
      yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

  return Adapter(name, compute, content, channels_first=True, batch_size=batch_size, folder=folder)


def _tensor_of(torch, output, name):
  if isinstance(output, dict):
    output = tuple(output.values())
  first = output[0] if isinstance(output, tuple | list) and output else output
  if not isinstance(first, torch.Tensor):
    raise UserError(
      f"The layer {name!r} gives {type(first).__name__}, no tensor; name one inside it."
    )
  return first


@contextlib.contextmanager
def _evaluating(module):
  """Evaluation mode inside; afterwards every submodule is in the mode it was in."""
  modes = [(part, part.training) for part in module.modules()]
  module.eval()
  try:
    yield
  finally:
    for part, is_training in modes:
      part.training = is_training


def weights(path: str | pathlib.Path) -> dict[str, Any]:
  """The tensors of a `.pth` or `.pt` file, on the CPU; no code that it may hold is run.

      module.load_state_dict(ij.features.torch_weights("network.pth"))

  Raises:
    UserError: the file is missing or damaged, or holds more than tensors.
  """
  torch = framework("torch", "torch")
  try:
    with warnings.catch_warnings():
      # Of pickles that torch has not written: they are refused below.
      warnings.simplefilter("ignore")
      return torch.load(path, map_location="cpu", weights_only=True)
  except FileNotFoundError:
    raise UserError(f"The file {path} does not exist.") from None
  except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
    raise UserError(
      f"{path} is damaged or holds more than tensors, which may be code and is not run; ask its "
      "makers for a state_dict."
    ) from error
