"""Layers of networks of other frameworks, as functions from images to arrays.

One module a framework, which imports it when a layer is asked for.
"""

import dataclasses
import difflib
import hashlib
import importlib
import math
import pathlib
import re
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from inversion_jax.machine.errors import UserError

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
  """A layer of a network, as `pairs(x, h)` takes it.

  Attributes:
    name: of the layer.
    compute: images to its activations, in the framework's own layout.
    content: the parts of the network that make h what it is, as bytes; its parameters.
    channels_first: whether maps are (B, C, H, W).
    batch_size: images at a time.
    has_full_batches: whether the last batch is filled up, for what is compiled for one shape.
    folder: keeps what was computed; None does not.
  """

  name: str
  compute: Callable[[UInt8[np.ndarray, "B H W C"]], Any]
  content: Callable[[], Iterable[bytes]]
  channels_first: bool = False
  batch_size: int = BATCH_SIZE
  has_full_batches: bool = False
  folder: str | pathlib.Path | None = None

  def __call__(self, images_NHWC: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N ..."]:
    """h of any images: a vector or a map for each, see `arranged`."""
    parts = []
    for start in range(0, len(images_NHWC), self.batch_size):
      images_BHWC = images_NHWC[start : start + self.batch_size]
      num_images = len(images_BHWC)
      if self.has_full_batches:
        missing = self.batch_size - num_images
        images_BHWC = np.concatenate([images_BHWC, images_BHWC[-1:].repeat(missing, axis=0)])
      h = np.asarray(self.compute(images_BHWC))[:num_images]
      parts.append(arranged(h, images_NHWC.shape[1:3], self.channels_first, self.name))
    return np.concatenate(parts)

  def kept_at(self, images_NHWC: UInt8[np.ndarray, "N H W C"]) -> pathlib.Path | None:
    """The file for h of these images: its name is a hash of the network and of them."""
    if self.folder is None:
      return None
    digest = hashlib.blake2b(f"{self.name} {images_NHWC.shape}".encode(), digest_size=16)
    for part in (*self.content(), np.ascontiguousarray(images_NHWC).tobytes()):
      digest.update(part)
    folder = pathlib.Path(self.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', self.name)}_{digest.hexdigest()}.npy"


def arranged(
  h: np.ndarray, size: tuple[int, int], channels_first: bool, name: str
) -> Float[np.ndarray, "N ..."]:
  """Activations as vectors (N, Z) or maps (N, rows, columns, Z), float32.

  - Maps with channels first get them last; maps of one cell become vectors.
  - Tokens (N, T, Z): if T, or T less a few that stand before them (of a class), is a grid of the
    shape of the image, they become that map, and those before it further channels of every
    cell. Else all tokens together are one vector. Nothing is left out.
  - One number an image becomes a vector of one unit.

  Args:
    h: with the images' axis first.
    size: rows and columns of the images.
    channels_first: whether maps are (N, C, H, W).
    name: of the layer, for the sentence.

  Raises:
    UserError: h is none of these.
  """
  if not 1 <= h.ndim <= 4:
    raise UserError(
      f"The layer {name!r} gives an array of shape {h.shape} for {len(h) if h.ndim else 0} images; "
      "choose one that gives vectors, maps or tokens."
    )
  h = h.astype(np.float32, copy=False)
  if h.ndim == 1:
    return h[:, None]
  if h.ndim == 3:
    return _of_tokens(h, size)
  if h.ndim == 4:
    h = h.transpose(0, 2, 3, 1) if channels_first else h
    return h.reshape(len(h), -1) if h.shape[1:3] == (1, 1) else h
  return h


# Tokens that may stand before those of the grid: of the class, of distillation, registers.
MAX_EXTRA_TOKENS = 5


def _of_tokens(h_NTZ, size):
  num_images, num_tokens, _ = h_NTZ.shape
  for num_extra in range(min(MAX_EXTRA_TOKENS + 1, num_tokens - 1)):
    rows = math.sqrt((num_tokens - num_extra) * size[0] / size[1])
    columns = (num_tokens - num_extra) / rows
    if rows.is_integer() and columns.is_integer():
      grid = h_NTZ[:, num_extra:].reshape(num_images, int(rows), int(columns), -1)
      extra = h_NTZ[:, :num_extra].reshape(num_images, 1, 1, -1)
      extra = np.broadcast_to(extra, (*grid.shape[:3], extra.shape[-1]))
      return np.concatenate([grid, extra], axis=-1)
  return h_NTZ.reshape(num_images, -1)


def framework(name: str, extra: str) -> types.ModuleType:
  """The module `name`, or UserError saying how it is installed."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"{name} cannot be imported ({error}); pip install 'inversion_jax[{extra}]'."
    ) from error


def check_known(name: str, known: Iterable[str], what: str = "layer"):
  """Raises UserError, naming the nearest ones, unless `name` is one of `known`."""
  known = [one for one in known if one]
  if name in known:
    return
  near = difflib.get_close_matches(name, known, 5, 0.4) or known[:10]
  raise UserError(f"The network has no {what} {name!r}; there are {', '.join(near)}, among others.")


def only(found: list, name: str) -> Any:
  """What was captured, or UserError if the layer did not run once."""
  if len(found) != 1:
    raise UserError(
      f"The layer {name!r} runs {len(found)} times in a pass; name one that runs once, such as the "
      "one that holds it."
    )
  return found[0]


def first_line(error: BaseException) -> str:
  """What an error of a framework says, in one line."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(".")


def unit_images(images_BHWC: UInt8[np.ndarray, "B H W C"], num_levels: int) -> np.ndarray:
  """What a network is given without a transform: levels from 0 black to 1 white, float32."""
  return images_BHWC.astype(np.float32) / (num_levels - 1)
