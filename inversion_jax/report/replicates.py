"""Runs of several seeds in a comparison: what their errors are made of, and all of a row as one."""

import math
from collections.abc import Sequence

from inversion_jax import information
from inversion_jax.report import page
from inversion_jax.report.files import UNCONDITIONAL, Replicates
from inversion_jax.report.page import Html, element, number
from inversion_jax.report.rows import SideBySide

_HEADER = (
  "row",
  "NCE, nats per image",
  "95% interval",
  "± of the images",
  "± of the seeds",
  "above the mean of its readers, nats",
)


def section(comparison: SideBySide) -> Html:
  """The part of the page about rows of several seeds; nothing where there is none."""
  several = [
    (row, name)
    for row, name in zip(comparison.rows, comparison.names, strict=True)
    if len(row.runs) > 1
  ]
  if not several:
    return Html("")
  cells = [line for row, name in several for line in _lines(row, name)]
  rows = [row for row, _ in several]
  words = [element("p", text) for text in (_errors_words(rows), *_mixture_words(rows))]
  return page.section("Replicates", page.table(_HEADER, cells), *words)


def _lines(row: Replicates, name: str) -> list[tuple]:
  nce, mixture, by_pixel = row.nce, row.mixture, row.pixel_mixture
  best = max(
    (information.mean_with_error(values_N, row.sources) for values_N in row.nce_by_seed),
    key=lambda estimate: estimate.mean,
  )
  num = len(row.runs)
  lines = [
    (f"{name}: {num} seeds ({_listed(row.varied)})", *_cells(nce), ""),
    (f"{name}: best of {num}", *_cells(best), ""),
    (f"{name}: mixture of {num}", *_cells(mixture), number(mixture.mean - nce.mean, 2)),
  ]
  if by_pixel:
    title = f"{name}: mixture of {num}, pixel by pixel"
    lines.append((title, *_cells(by_pixel), number(by_pixel.mean - nce.mean, 2)))
  return lines


def _cells(estimate: information.Estimate) -> tuple[str, ...]:
  image_error = math.sqrt(estimate.standard_error**2 - estimate.seed_error**2)
  seed_error = number(estimate.seed_error, 2) if estimate.seed_error else "not in it"
  return page.with_error(estimate), page.interval(estimate), number(image_error, 2), seed_error


def _errors_words(rows: Sequence[Replicates]) -> str:
  return (
    f"Between runs of a row the seeds of {varied(rows)} differ. The interval covers the choice of"
    " the images and of these seeds; where two rows have the same seeds they are compared seed by"
    " seed, image by image. The best of several is chosen by these test images, and so a little too"
    " good."
  )


def _mixture_words(rows: Sequence[Replicates]) -> list[str]:
  words = [
    "A mixture is the mean of the probabilities that all readers of a row give to a whole image:"
    " one exact density, never worse than the mean of its readers, and at most log(number of"
    " readers) nats worse than the best of them. Pixel by pixel it is the mean of the probabilities"
    " of each pixel given those before it, an exact density as well; it is given where the maps of"
    " all test images are kept. Intervals of mixtures cover the images alone."
  ]
  if any("classifier" in row.varied and row.layer != UNCONDITIONAL for row in rows):
    words.append(
      "Where classifiers differ, a mixture reads the layers of all of them: it bounds what they"
      " tell together, not what one does."
    )
  return words


def varied(rows: Sequence[Replicates]) -> str:
  """Whose seeds differ between the runs of a row, in words."""
  kinds = {_listed(row.varied): None for row in rows if len(row.runs) > 1}
  return " or of ".join(kinds)


def _listed(parts: Sequence[str]) -> str:
  return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else "nothing"
