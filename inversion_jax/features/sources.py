"""Sources of h: a layer of our classifier, any function of images, arrays that others have stored.

A source is read in two steps, so that all of them are trained on alike: `fetch` gives, on the host,
what there is to know of some images, and `encode` turns that into h on the devices. Each says of
itself what it can do: stored features have no h for an image that they have never seen.
"""

import abc
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from inversion_jax.data import batches
from inversion_jax.machine import memory, placement
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say, track


class Features(abc.ABC):
  """What every source of h has.

  Attributes:
    name: of h, as a person reads it: "fc3".
    shape: of the h of one image: (Z,), or (rows, columns, Z) for a map.
    can_encode: whether there is an h of images that the source was not made with.
    is_differentiable: whether `encode` is a function of the pixels that JAX can differentiate.
  """

  name: str
  shape: tuple[int, ...]
  can_encode: bool
  is_differentiable: bool

  @abc.abstractmethod
  def fetch(self, images_BHWC: UInt8[np.ndarray, "B H W C"], rows_B: Int[np.ndarray, " B"]) -> Any:
    """What `encode` needs, on the host: arrays with the images' axis first.

    Args:
      images_BHWC: the images.
      rows_B: where each stands in the set that the source belongs to.
    """

  @abc.abstractmethod
  def encode(self, fetched: Any) -> Float[Array, "B ..."]:
    """h of what `fetch` gave; a pure function, for use inside compiled ones."""

  def encode_images(self, images_BHWC: UInt8[np.ndarray, "B H W C"]) -> Float[Array, "B ..."]:
    """h of any images, also of such as the source was not made with.

    Raises:
      UserError: it knows no others.
    """
    raise UserError(
      f"{self.name} is stored: there is no h of images that were not stored with it, which this "
      "needs; give the function that computes it."
    )

  @functools.cached_property
  def compiled(self) -> Callable[[Any], Float[Array, "B ..."]]:
    """`encode`, compiled."""
    return jax.jit(self.encode)

  def of(
    self, images_BHWC: UInt8[np.ndarray, "B H W C"], rows_B: Int[np.ndarray, " B"]
  ) -> Float[Array, "B ..."]:
    """h of some images; arguments as of `fetch`."""
    return self.compiled(self.fetch(images_BHWC, rows_B))

  def in_batches(
    self,
    images_NHWC: UInt8[np.ndarray, "N H W C"],
    rows_N: Int[np.ndarray, " N"],
    batch_size: int,
  ) -> Float[np.ndarray, "N ..."]:
    """h of all images, in memory; every batch is full, since another shape may round otherwise."""
    parts = [
      np.asarray(self.of(images_NHWC[picked_B], rows_N[picked_B]))[is_valid_B]
      for picked_B, is_valid_B in batches.eval_batches(len(images_NHWC), batch_size)
    ]
    return np.concatenate(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer(Features):
  """A layer of a network that gives all its activations by name.

  It runs in float32 at full matrix precision: shortened products would make h, and so the
  information in it, depend on the device.

  Attributes:
    layers_fn: images to activations by name.
    name: which of them.
    image_shape: rows, columns, colours; only to learn the shape of h.
  """

  layers_fn: Callable[[Shaped[Array, "B H W C"]], Mapping[str, Float[Array, "B ..."]]]
  name: str
  image_shape: tuple[int, int, int]
  can_encode = True
  is_differentiable = True

  @functools.cached_property
  def shape(self) -> tuple[int, ...]:
    """Of the h of one image."""
    image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.uint8)
    return jax.eval_shape(self.layers_fn, image)[self.name].shape[1:]

  def fetch(self, images_BHWC, rows_B):
    """The images themselves."""
    del rows_B
    return images_BHWC

  def encode(self, fetched):
    """The activations."""
    with jax.default_matmul_precision("highest"):
      return self.layers_fn(fetched)[self.name]

  def encode_images(self, images_BHWC):
    """The activations, from the host's images."""
    return self.compiled(placement.put_batch(images_BHWC))


@dataclasses.dataclass(frozen=True, eq=False)
class Stored(Features):
  """Features that lie in an array, or a memory-mapped file, row by row those of the images."""

  h: Shaped[np.ndarray, "N ..."]
  name: str = "h"
  can_encode = False
  is_differentiable = False

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the h of one image."""
    return self.h.shape[1:]

  def fetch(self, images_BHWC, rows_B):
    """The rows of the array, in float32."""
    del images_BHWC
    return np.asarray(self.h[rows_B], np.float32)

  def encode(self, fetched):
    """What was stored."""
    return jnp.asarray(fetched)


@dataclasses.dataclass(frozen=True, eq=False)
class Computed(Stored):
  """The results of any function from images to an array, computed once on the host and kept.

  Attributes:
    h: of all images of a set, as `computed` makes it.
    name: as a person reads it.
    function: images (B, H, W, C) to an array (B, ...).
  """

  function: Callable[[UInt8[np.ndarray, "B H W C"]], Any] = None
  can_encode = True

  def encode_images(self, images_BHWC):
    """What the function gives."""
    return jnp.asarray(called(self.function, images_BHWC), jnp.float32)


BATCH_SIZE = 256
# Of a layer's spread. Another batch or another day rounds otherwise, dropout or a batch's own mean
# moves h by tenths.
TOLERANCE, FLOOR = 1e-2, 1e-3
NUM_COMPARED = 8


def computed(
  function: Callable, images_NHWC: UInt8[np.ndarray, "N H W C"], name: str = ""
) -> Computed:
  """The features that `function` gives of all images: a PyTorch module, a transformer, a model.

  It is called with uint8 images (B, H, W, C) of at most 256 at a time and must return an array, or
  what NumPy takes for one, with a row for each. If it has a method `kept_at(images_NHWC)` that
  names a file, the features are kept there and read from there the next time.

  Raises:
    UserError: it gives no such array, or one for which there is no room.
  """
  path = function.kept_at(images_NHWC) if hasattr(function, "kept_at") else None
  if path and _is_current(path, function, images_NHWC):
    say("features of %s are read from %s", name or function, path)
    h = np.load(path, mmap_mode="r", allow_pickle=False)
  else:
    h = _filled(function, images_NHWC, path)
  name = name or getattr(function, "name", "")
  name = name or getattr(function, "__name__", type(function).__name__)
  return Computed(h, "h" if name == "<lambda>" else name, function)


def _filled(function, images_NHWC, path):
  """h of all images, in memory or in the file `path`, which is there only once it is whole."""
  temporary = path and path.with_name(f".{os.getpid()}.{path.name}")
  h = None
  try:
    with track("features", len(images_NHWC), unit="image") as shown:
      for start in range(0, len(images_NHWC), BATCH_SIZE):
        images_BHWC = images_NHWC[start : start + BATCH_SIZE]
        part = called(function, images_BHWC)
        if h is None:
          h = _room((len(images_NHWC), *part.shape[1:]), part.dtype, temporary)
        if part.shape[1:] != h.shape[1:]:
          raise UserError(
            f"h of one batch has the shape {part.shape}, of another {h.shape[1:]} an image; the "
            "function must give every image an h of one shape."
          )
        h[start : start + len(part)] = part
        shown.update(len(images_BHWC))
    if path is None:
      return h
    h.flush()
    temporary.replace(path)
  finally:
    if temporary:
      temporary.unlink(missing_ok=True)
  return np.load(path, mmap_mode="r", allow_pickle=False)


def _room(shape, dtype, path):
  """An array to be filled, in memory or mapped to a file."""
  num_bytes = math.prod(shape) * dtype.itemsize
  what = f"h of {shape[0]:,} images, {math.prod(shape[1:]):,} numbers each,"
  if path is None:
    memory.check_room(
      num_bytes, what, "take fewer images or a narrower layer, pool it, or keep it in a file"
    )
    return np.empty(shape, dtype)
  memory.check_room(num_bytes, what, "choose another folder or a narrower layer", path.parent)
  return np.lib.format.open_memmap(path, "w+", dtype, shape)


def _is_current(path, function, images_NHWC):
  """Whether a file holds what the function gives, as far as the first images tell."""
  if not path.exists():
    return False
  try:
    kept = np.load(path, mmap_mode="r", allow_pickle=False)
  except (ValueError, EOFError, OSError):
    return False
  now = called(function, images_NHWC[:NUM_COMPARED])
  return kept.shape == (len(images_NHWC), *now.shape[1:]) and not differ(kept[: len(now)], now)


def differ(h: Shaped[np.ndarray, "N ..."], other: Shaped[np.ndarray, "N ..."]) -> bool:
  """Whether two arrays of the same images differ by more than rounding, see `TOLERANCE`."""
  if h.shape != other.shape:
    return True
  h, other = np.asarray(h, np.float64), np.asarray(other, np.float64)
  spread = np.sqrt(np.square(h - h.mean(0)).mean())
  # Of images that are all alike nothing but rounding is left.
  spread = max(spread, FLOOR * np.sqrt(np.square(h).mean()))
  distance = np.sqrt(np.square(h - other).mean())
  return bool(distance > TOLERANCE * spread)


def called(function: Callable, images_BHWC: UInt8[np.ndarray, "B H W C"]) -> np.ndarray:
  """`function(images_BHWC)` as an array of numbers with a row for each image."""
  h = np.asarray(function(images_BHWC))
  if h.dtype.kind not in "fiub" or h.ndim < 2 or len(h) != len(images_BHWC):
    raise UserError(
      f"The function of the features gave {h.dtype} of shape {h.shape} for {len(images_BHWC)} "
      "images; it must give an array of numbers (images, ...), with a row for each."
    )
  return h
