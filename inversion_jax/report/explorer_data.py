"""What the page to explore knows: nats of all test images, and sheets of pictures of some."""

import base64
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from inversion_jax.report import gain_figures, gains, pictures
from inversion_jax.report.files import Replicates, RunFiles, rows_of
from inversion_jax.report.rows import SideBySide, marginal_place

# Of pixels before compression, once for originals with their gains and once for samples: what one
# file may weigh. Room for 400 images of 32x32x3 beside five rows, for thousands of 8x8.
MAX_BYTES = 3_000_000
_DECIMALS = 3  # of nats


def data(comparison: SideBySide) -> dict[str, Any]:
  """All that the script is told, as JSON has it; nothing if no run has kept a picture.

  Test images are numbered by their rows in `nats.npz`. `baseline` is the row that the others' gains
  are over. A sheet is a PNG file with pictures side by side, `each` of every image in `images`.
  """
  originals = _originals(comparison)
  if not originals:
    return {}
  first = comparison.runs[0]
  kept = list(originals)
  sampled = _sampled(comparison, kept)
  nats = [-row.nce_by_seed.mean(0) for row in comparison.rows]
  of_layers = nats[: len(comparison.layers)]
  gain_sheets, limit = _gain_sheets(comparison, kept)
  return {
    "index": first.nats["index"].tolist(),
    "label": first.nats["label"].tolist(),
    "shape": first.summary["image_shape"],
    "baseline": baseline(comparison),
    "gain_limit": limit,
    "disagreement": _rounded(disagreement(of_layers)) if len(of_layers) > 1 else [],
    "originals": _level_sheet(first, originals),
    "rows": [
      {
        "name": name,
        "nats": _rounded(nats_N),
        "gains": gain_sheet,
        "reconstructions": _drawn(run, "reconstruction", sampled),
        "samples": _drawn(run, "sample", sampled),
      }
      for name, nats_N, gain_sheet, run in zip(
        comparison.names, nats, gain_sheets, comparison.runs, strict=True
      )
    ],
  }


def baseline(comparison: SideBySide) -> int:
  """The place of the row that gains are over: p(x) where there is one, else the first."""
  return marginal_place(comparison) if comparison.unconditional else 0


def disagreement(nats_LN: Sequence[Float[np.ndarray, " N"]]) -> Float[np.ndarray, " N"]:
  """How differently layers find an image hard: the deviation of their nats less their means.

  Zero where an image is as far above or below the mean in every layer.
  """
  centred_LN = np.stack([nats_N - nats_N.mean() for nats_N in nats_LN])
  return centred_LN.std(axis=0)


def _rounded(nats_N: np.ndarray) -> list[float]:
  return np.round(nats_N, _DECIMALS).tolist()


def _of_images(run: RunFiles, arrays: Mapping[str, np.ndarray], name: str) -> Iterator[tuple]:
  """(row of a test image, what an array of some test images has of it)."""
  if name in arrays:
    is_known = np.isin(arrays["index"], run.nats["index"])
    rows_n = rows_of(run.nats["index"], arrays["index"][is_known])
    yield from zip(rows_n.tolist(), arrays[name][is_known], strict=True)


def _originals(comparison: SideBySide) -> dict[int, np.ndarray]:
  """The test images that a run has kept, as many as there is room for, those sampled first."""
  found = {}
  for files, name in (("samples", "original"), ("maps", "image")):
    for run in comparison.runs:
      for row, image_HWC in _of_images(run, getattr(run, files), name):
        found.setdefault(row, image_HWC)
  high, wide, colours = comparison.runs[0].summary["image_shape"]
  room = MAX_BYTES // (high * wide * (colours + len(comparison.rows)))
  return dict(list(found.items())[: max(1, room)])


def _sampled(comparison: SideBySide, kept: Sequence[int]) -> list[int]:
  """The images whose samples and reconstructions are shown, as many as there is room for."""
  drawn = set()
  bytes_each = 0
  for run in comparison.runs:
    for name in ("sample", "reconstruction"):
      drawn |= {row for row, _ in _of_images(run, run.samples, name)}
      bytes_each += run.samples[name][0].size if name in run.samples else 0
  room = MAX_BYTES // max(1, bytes_each)
  return [row for row in kept if row in drawn][: max(1, room)]


def _drawn(run: RunFiles, name: str, sampled: Sequence[int]) -> dict[str, Any] | None:
  """A sheet of what was drawn of some images; None if nothing was."""
  found = dict(_of_images(run, run.samples, name))
  rows = {row: found[row] for row in sampled if row in found}
  return _level_sheet(run, rows) if rows else None


def _level_sheet(run: RunFiles, levels_of: Mapping[int, np.ndarray]) -> dict[str, Any]:
  """A sheet of levels (H, W, C), or several (S, H, W, C), of each image."""
  levels = np.stack(list(levels_of.values()))
  tiles_NHWC = levels.reshape(-1, *levels.shape[-3:])
  png = pictures.sheet(pictures.as_bytes(tiles_NHWC, run.summary["num_levels"]))
  return _sheet(list(levels_of), png, len(tiles_NHWC) // len(levels))


def _sheet(images: Sequence[int], png: bytes, each: int = 1) -> dict[str, Any]:
  return {"images": images, "each": each, "png": base64.b64encode(png).decode()}


def _gain_sheets(comparison: SideBySide, kept: Sequence[int]) -> tuple[list, float]:
  """A sheet of gains a row, or None, and the nats at the ends of their common scale.

  The scale ends at the 99.5th percentile of the magnitudes, and more is shown as its end.
  """
  base = comparison.rows[baseline(comparison)]
  maps = [None if row is base else _gain_maps(row, base, kept) for row in comparison.rows]
  sizes = [np.abs(gain_nHW).ravel() for _, gain_nHW in filter(None, maps)]
  limit = float(np.quantile(np.concatenate(sizes), 0.995)) if sizes else 0.0
  sheets = [found and _sheet(found[0], gain_figures.gain_sheet(found[1], limit)) for found in maps]
  return sheets, limit


def _gain_maps(
  row: Replicates, base: Replicates, kept: Sequence[int]
) -> tuple[list[int], np.ndarray] | None:
  """(images, nats of `base` less nats of `row` pixel by pixel); None where there are none."""
  runs = (*row.runs, *base.runs)
  if not all(run.maps for run in runs):
    return None
  index_N = row.first.nats["index"]
  common_n = functools.reduce(
    np.intersect1d, [run.maps["index"] for run in runs], index_N[np.array(kept)]
  )
  gain_nHW = gains.mapped_nats(base, common_n) - gains.mapped_nats(row, common_n)
  return (rows_of(index_N, common_n).tolist(), gain_nHW) if len(common_n) else None
