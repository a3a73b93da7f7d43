"""What h must be, and what is odd about it: found before anything is learnt from it.

What makes numbers wrong is a UserError; what costs time or may be meant is a remark, a sentence
that is shown and goes no further.
"""

from collections.abc import Iterator, Set
from typing import Any

import numpy as np
from jaxtyping import UInt8

from inversion_jax.features import sources
from inversion_jax.features.sources import Computed, Features, called, differ
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import warn

# More of a set than this among the training pairs is a mistake; real sets hold a few images twice.
SHARED_FRACTION = 10
NUM_RECOMPUTED = 32
# Images of 256 levels that take fewer than this many were scaled to white.
FEW_LEVELS, NUM_COUNTED = 33, 1_000


def check_features(h: np.ndarray, num_images: int, name: str = "h") -> list[str]:
  """Remarks on features that are stored or were computed.

  Raises:
    UserError: they are no finite numbers, a vector or a map for each image, or they are the same
      for all.
  """
  if h.dtype.kind not in "fiub":
    raise UserError(f"{name} must be numbers, not {h.dtype}; convert them to float32.")
  if h.ndim not in (2, 4) or 0 in h.shape[1:]:
    raise UserError(
      f"{name} must be a vector (N, Z) or a map (N, rows, columns, Z) for each image, not of shape "
      f"{h.shape}; flatten or rearrange it."
    )
  if len(h) != num_images:
    raise UserError(
      f"{name} has {len(h):,} rows for {num_images:,} images; give one row for each image, in the "
      "same order."
    )
  return list(_remarks_on_values(h, name))


def _remarks_on_values(h, name) -> Iterator[str]:
  low_Z, high_Z = np.full(h.shape[1:], np.inf), np.full(h.shape[1:], -np.inf)
  rng, mixed_Z = np.random.default_rng(0), 0.0
  for start in range(0, len(h), sources.BATCH_SIZE):
    rows = np.asarray(h[start : start + sources.BATCH_SIZE], np.float64)
    bad = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(1))
    if len(bad):
      raise UserError(
        f"{name} is not finite in row {start + bad[0]}; mend or drop such rows of x and h."
      )
    if np.abs(rows).max() > np.finfo(np.float32).max:
      raise UserError(f"{name} has values beyond float32; scale them down.")
    low_Z, high_Z = np.minimum(low_Z, rows.min(0)), np.maximum(high_Z, rows.max(0))
    # One random mixture of all values of a unit: equal units have equal ones, digit by digit.
    weights = rng.normal(size=(*rows.shape[:-1], 1))
    mixed_Z = mixed_Z + (rows * weights).reshape(-1, h.shape[-1]).sum(0)
  if len(h) == 1:
    return
  is_constant_Z = (low_Z == high_Z).reshape(-1, h.shape[-1]).all(0)
  if is_constant_Z.all():
    raise UserError(
      f"{name} is the same for every image, so it tells nothing; check what made it, or leave it "
      "out for p(x)."
    )
  if is_constant_Z.any():
    yield (
      f"{name}: {is_constant_Z.sum()} of {h.shape[-1]} units are the same for every image, dead "
      "perhaps; they tell nothing and may be dropped."
    )
  alive_Z = mixed_Z[~is_constant_Z]
  num_repeated = len(alive_Z) - len(np.unique(alive_Z))
  if num_repeated:
    yield (
      f"{name}: {num_repeated} of {h.shape[-1]} units repeat another one in every image; they tell "
      "nothing new and may be dropped."
    )


def check_function(features: Features, images_NHWC: UInt8[np.ndarray, "N H W C"]) -> list[str]:
  """Remarks on the function that features come from, if any; it is called a few times.

  Args:
    features: of the images, row by row.
    images_NHWC: the images.

  Raises:
    UserError: h of an image depends on the images that are computed with it.
  """
  if not isinstance(features, Computed):
    return []
  images_BHWC, name = images_NHWC[:NUM_RECOMPUTED], features.name
  first, again = (called(features.function, images_BHWC) for _ in range(2))
  if differ(first, again):
    return [
      f"{name} differs when it is computed again for the same images; put the network into "
      "evaluation mode, as dropout may be on, unless this noise is meant."
    ]
  half = called(features.function, images_BHWC[: max(1, len(images_BHWC) // 2)])
  if differ(half, first[: len(half)]) or differ(first, features.h[: len(first)]):
    raise UserError(
      f"{name} of an image depends on the images that are computed with it; put the network into "
      "evaluation mode, as batch normalisation may be in training mode."
    )
  return []


def check_levels(images_NHWC: UInt8[np.ndarray, "N H W C"], num_levels: int) -> list[str]:
  """A remark if images of many levels take only few of them."""
  counts_L = np.bincount(images_NHWC[:NUM_COUNTED].ravel(), minlength=256)
  num_taken = int((counts_L > 0).sum())
  if num_levels < 256 or num_taken >= FEW_LEVELS or len(images_NHWC) < 2:
    return []
  return [
    f"x takes only {num_taken} of {num_levels} levels; number them from 0 without gaps, as "
    "np.unique(x, return_inverse=True) does, so that none is learnt to be absent."
  ]


def fingerprints(of: Any) -> set[int]:
  """A number for every row of some `Pairs`: of the same images with the same h it is the same."""
  images_ND = np.ascontiguousarray(of.images).reshape(len(of), -1)
  found = set()
  for start in range(0, len(of), sources.BATCH_SIZE):
    rows = slice(start, start + sources.BATCH_SIZE)
    h = np.asarray(of.features.fetch(of.images[rows], of.index[rows])) if of.features else None
    for place, image_D in enumerate(images_ND[rows]):
      found.add(hash((image_D.tobytes(), b"" if h is None else h[place].tobytes())))
  return found


def check_apart(train: Set[int], other: Any, what: str) -> list[str]:
  """A remark on few of the `other` pairs that are among those trained on.

  Args:
    train: `fingerprints` of the pairs trained on.
    other: pairs that must be new.
    what: how to call them.

  Raises:
    UserError: they are many.
  """
  num_shared = sum(
    bool(fingerprints(other.rows(np.array([row]))) & train) for row in range(len(other))
  )
  words = f"{num_shared} of the {len(other)} {what} pairs are among the training pairs"
  if num_shared * SHARED_FRACTION > len(other):
    raise UserError(f"{words}, so their nats would be too few; hold them out with .split().")
  return [f"{words}; drop them."] if num_shared else []


def tell(remarks: list[str]):
  """Shows remarks, each in a line."""
  for remark in remarks:
    warn("%s", remark)
