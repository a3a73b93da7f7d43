"""Images with their h: what is fitted, and what is scored."""

import dataclasses
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from inversion_jax.data.images import check_images
from inversion_jax.features import checks, patches, sources
from inversion_jax.features.sources import Features
from inversion_jax.machine import placement
from inversion_jax.machine.errors import UserError

# As the sets that have no validation split: the last tenth, 5,000 at most.
HELD_OUT_FRACTION, MAX_HELD_OUT = 10, 5_000
HALVES = (1, 2)
# Levels are counted from the images only below this; brighter ones are taken for 256 levels.
MAX_COUNTED_LEVELS = 128
NO_LABEL = -1
ARCHIVE = ".npz"
# What NumPy, zipfile and zlib raise of a file that is none of theirs, or damaged, or too large.
DAMAGE = (ValueError, EOFError, OSError, RuntimeError, KeyError, SyntaxError, MemoryError)
DAMAGE += (zipfile.BadZipFile, zlib.error, tokenize.TokenError)
# What an archive may hold beside `x`.
_PARTS = ("h", "labels", "sources", "num_levels")


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
  """Images and the source of their h, row by row; made by `pairs`.

  Attributes:
    images: uint8 levels, (N, H, W, C).
    features: the source of h; None for the unconditional model p(x).
    index: where each image stands in the set that it comes from, which the source goes by, too.
    labels: of each image, -1 if unknown.
    sources: images made from one original share a number; elsewhere equal to `index`.
    num_levels: values of a sub-pixel, 0 to num_levels - 1.
    dataset: a name for it.
  """

  images: UInt8[np.ndarray, "N H W C"]
  features: Features | None
  index: Int[np.ndarray, " N"]
  labels: Int[np.ndarray, " N"]
  sources: Int[np.ndarray, " N"]
  num_levels: int
  dataset: str = "images"

  def __len__(self) -> int:
    return len(self.images)

  def __repr__(self) -> str:
    given = f"h {self.features.shape} of {self.features.name}" if self.features else "no h"
    shape = " x ".join(map(str, self.image_shape))
    return f"Pairs({len(self)} images {shape}, {self.num_levels} levels, {given})"

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Rows, columns, colours."""
    return self.images.shape[1:]

  @property
  def h(self) -> np.ndarray:
    """h of all images, in memory, (N, ...)."""
    if self.features is None:
      raise UserError("These pairs have no h; they are for the unconditional model p(x).")
    return self.features.in_batches(self.images, self.index, sources.BATCH_SIZE)

  def rows(self, rows: Int[np.ndarray, " M"]) -> "Pairs":
    """Some of the pairs."""
    parts = {name: getattr(self, name)[rows] for name in ("images", "index", "labels", "sources")}
    return dataclasses.replace(self, **parts)

  def without_h(self) -> "Pairs":
    """The same images for the unconditional model p(x)."""
    return dataclasses.replace(self, features=None)

  def seen_through(self, wrap: Callable[[Features], Features]) -> "Pairs":
    """The same images with their source wrapped; unchanged without one."""
    return dataclasses.replace(self, features=wrap(self.features)) if self.features else self

  def split(self, test: int | None = None, seed: int | None = 0) -> tuple["Pairs", "Pairs"]:
    """(pairs to train on, pairs to test on), each row in one of them.

    Args:
      test: how many are tested on; None is a tenth of them.
      seed: of the choice; None takes the last ones. Images of one source stay together.
    """
    num_test = len(self) // HELD_OUT_FRACTION if test is None else test
    if isinstance(num_test, bool) or not isinstance(num_test, int | np.integer):
      raise UserError(f"test={num_test!r} must be a whole number of pairs.")
    if not 2 <= num_test <= len(self) - 2:
      raise UserError(
        f"test={num_test} of {len(self)} pairs cannot be held out: both parts need at least two."
      )
    order_N = np.arange(len(self))
    if seed is not None:
      order_N = np.random.default_rng(seed).permutation(len(self))
    is_test_N = np.zeros(len(self), bool)
    is_test_N[order_N[-num_test:]] = True
    # Versions of one original would let the test images be learnt by heart.
    is_test_N = np.isin(self.sources, self.sources[is_test_N])
    return self.rows(np.flatnonzero(~is_test_N)), self.rows(np.flatnonzero(is_test_N))

  def half(self, number: int) -> "Pairs":
    """Half 1 or half 2 of the pairs, which together are all; images of one source stay together."""
    sources = np.unique(self.sources)
    order = np.random.default_rng(0).permutation(len(sources))
    chosen = sources[order[HALVES.index(number) :: len(HALVES)]]
    return self.rows(np.flatnonzero(np.isin(self.sources, chosen)))

  def held_out(self, num: int | None = None) -> tuple["Pairs", "Pairs"]:
    """(pairs to train on, the last `num` to validate on): None is a tenth, 5,000 at most."""
    num_held_out = num or min(MAX_HELD_OUT, len(self) // HELD_OUT_FRACTION)
    if num_held_out < 2:
      raise UserError(
        f"{len(self)} pairs are too few to hold a tenth of them out for validation; give 20 or "
        "more, or validation=."
      )
    return self.split(num_held_out, seed=None)

  def batch(self, rows_B: Int[np.ndarray, " B"]) -> dict[str, Any]:
    """{"image": levels, "h": h or None} of some rows, on the devices."""
    images_BHWC = self.images[rows_B]
    placed_BHWC = placement.put_batch(images_BHWC)
    if self.features is None:
      return {"image": placed_BHWC, "h": None}
    fetched = self.features.fetch(images_BHWC, self.index[rows_B])
    is_image = fetched is images_BHWC
    placed = placed_BHWC if is_image else placement.put_batch(fetched)
    return {"image": placed_BHWC, "h": self.features.compiled(placed)}


def pairs(
  x: Any,
  h: Any = None,
  *,
  num_levels: int | None = None,
  labels: Any = None,
  sources: Any = None,
  name: str = "",
  patch: int | tuple[int, int] | None = None,
) -> Pairs:
  """Images with what is known of them, checked; what is odd about them is shown, see `validate`.

      train, test = ij.pairs(x, h).split(test=1_000)

  Args:
    x: uint8 levels (N, H, W, C), C 1 to 4, or the path of an `.npy` file of them, or of an `.npz`
      file that holds `x`, `h` and perhaps `labels` and `sources`.
    h: of each image, (N, Z) or (N, rows, columns, Z): an array of any framework that NumPy reads,
      the path of an `.npy` file (read as it is needed), or any function from images to such an
      array, which is called on all of them now; see `ij.features` for layers of networks. None for
      the unconditional model p(x).
    num_levels: values of a sub-pixel; counted from the images if they are dark, else 256.
    labels: an integer for each image, shown in reports.
    sources: images made from one original share a number: they are never split, and count as one
      piece of evidence.
    name: of the features, for titles.
    patch: cuts large images into patches of so many rows and columns, which share the source of
      their image; of a map each gets the cells that lie over it, of a vector the whole.

  Raises:
    UserError: in one sentence, what is wrong with them.
  """
  made, remarks = _made(x, h, num_levels, labels, sources, name)
  checks.tell(remarks)
  return made if patch is None else _in_patches(made, patch)


def validate(features: Any, images: Any, *, test: Any = None) -> list[str]:
  """What is odd about features of images, a sentence each with its remedy; nothing is learnt.

      for remark in ij.validate(ij.features.torch(module, "layer3"), images): print(remark)

  `pairs` looks at the same things unasked, so that nothing reaches `fit` unseen. h must be finite
  numbers of one shape that tell images apart and fit into memory. Of a function, h must not depend
  on the batch. Remarks are made of constant and repeated units, of a function that differs when it
  is called again, of levels that no image takes, of few test images that are among the images.

  Args:
    features: as `h` of `pairs`.
    images: as its `x`.
    test: images that a model is to be tested on.

  Raises:
    UserError: what would make numbers wrong, or nothing at all.
  """
  if features is None:
    raise UserError("validate needs features, an array or a function from images.")
  made, remarks = _made(images, features, None, None, None, "")
  if test is not None:
    unseen, _ = _made(test, None, None, None, None, "")
    seen = checks.fingerprints(made.without_h())
    remarks += checks.check_apart(seen, unseen, "test")
  return remarks


def _made(x, h, num_levels, labels, sources, name):
  """(pairs, remarks on them)."""
  if isinstance(x, str | pathlib.Path) and str(x).endswith(ARCHIVE):
    return _of_archive(pathlib.Path(x), h, num_levels, labels, sources, name)
  images = array_of(x, "x")
  check_images(images, _checked_levels(num_levels), name="x")
  if not images.size:
    raise UserError("x has no images; give at least a few dozen.")
  index = np.arange(len(images))
  num_levels = num_levels or _counted_levels(images)
  remarks, features = checks.check_levels(images, num_levels), None
  if h is not None:
    features = _features(h, images, name)
    remarks += checks.check_features(features.h, len(images))
    remarks += checks.check_function(features, images)
  made = Pairs(
    images=images,
    features=features,
    index=index,
    labels=_integers(labels, len(images), "labels", np.full(len(images), NO_LABEL)),
    sources=_integers(sources, len(images), "sources", index),
    num_levels=num_levels,
  )
  return made, remarks


def _in_patches(whole, patch):
  """The pairs of patches of some pairs."""
  tiles = patches.tiling(whole.image_shape[:2], patch)
  num, features = tiles.num_patches, whole.features
  return dataclasses.replace(
    whole,
    images=tiles.cut(whole.images),
    features=features and patches.Patched(features.h, features.name, tiles),
    index=np.arange(num * len(whole)),
    labels=whole.labels.repeat(num),
    sources=whole.sources.repeat(num),
  )


def _of_archive(path, h, num_levels, labels, sources, name):
  """`pairs` of the arrays in a file; what is given beside it comes first."""
  with _loaded(path, "x") as archive:
    unknown = set(archive.files) - {"x", *_PARTS}
    if "x" not in archive.files or unknown:
      raise UserError(
        f"{path} holds {', '.join(archive.files) or 'nothing'}; it must hold x, and may hold "
        f"{', '.join(_PARTS)}."
      )
    given = {"h": h, "labels": labels, "sources": sources, "num_levels": num_levels}
    try:
      found = {part: archive[part] for part in ("x", *_PARTS) if part in archive.files}
    except DAMAGE as error:
      raise UserError(f"{path} is damaged or holds Python objects ({error}).") from error
  if "num_levels" in found:
    found["num_levels"] = _scalar(found["num_levels"], path)
  given = found | {part: value for part, value in given.items() if value is not None}
  parts = (given.get(part) for part in ("x", "h", "num_levels", "labels", "sources"))
  made, remarks = _made(*parts, name)
  return dataclasses.replace(made, dataset=path.stem), remarks


def _scalar(array, path):
  if array.size != 1 or array.dtype.kind not in "iu":
    raise UserError(f"num_levels in {path} must be one integer, not {array.dtype} {array.shape}.")
  return int(array.reshape(()))


def array_of(given: Any, name: str) -> np.ndarray:
  """An array from what a user gives: an array of any framework, or the path of an `.npy` file.

  Raises:
    UserError: it is no array, or a file that is missing, damaged or a pickle.
  """
  if isinstance(given, str | pathlib.Path):
    given = _memory_mapped(pathlib.Path(given), name)
  try:
    array = np.asarray(given)
  except (ValueError, TypeError) as error:
    raise UserError(f"{name} cannot be made an array: {error}; give one.") from error
  if array.dtype.kind == "O":
    raise UserError(
      f"{name} is an array of Python objects; give an array of numbers, all rows of one shape."
    )
  return array


def _memory_mapped(path, name):
  loaded = _loaded(path, name)
  if not isinstance(loaded, np.ndarray):
    raise UserError(f"{name}: {path} holds several arrays; load it and give one of them.")
  return loaded


def _loaded(path, name):
  """What NumPy finds in a file, mapped where that can be done; never a pickle."""
  try:
    return np.load(path, mmap_mode="r", allow_pickle=False)
  except FileNotFoundError:
    raise UserError(f"{name}: the file {path} does not exist.") from None
  except DAMAGE as error:
    raise UserError(
      f"{name}: {path} is not a NumPy file of numbers ({error}); pickles are not read."
    ) from error


def _features(h, images, name):
  is_function = callable(h) and not hasattr(h, "__array__")
  if is_function:
    return sources.computed(h, images, name)
  return sources.Stored(array_of(h, "h"), name or "h")


def _integers(given, num_images, name, default):
  if given is None:
    return default
  array = array_of(given, name)
  if array.dtype.kind not in "iu" or array.shape != (num_images,):
    raise UserError(
      f"{name} must be {num_images} integers, one for each image, not {array.dtype} of shape "
      f"{array.shape}."
    )
  return array.astype(np.int64)


def _checked_levels(num_levels):
  if num_levels is None:
    return 256
  if isinstance(num_levels, bool) or not isinstance(num_levels, int) or not 2 <= num_levels <= 256:
    raise UserError(f"num_levels={num_levels!r} must be an integer from 2 to 256.")
  return num_levels


def _counted_levels(images):
  highest = int(images.max())
  return max(2, highest + 1) if highest < MAX_COUNTED_LEVELS else 256
