"""All pairs of a comparison: a table for programs, a table and a matrix for people."""

import pathlib
from collections.abc import Iterator
from typing import Any

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.report import figures, page
from inversion_jax.report.page import Html, element
from inversion_jax.report.rows import SideBySide

CSV = "differences.csv"
_COLUMNS = (
  "a",
  "b",
  "difference_nats",
  "standard_error_nats",
  "low_nats",
  "high_nats",
  "simultaneous_low_nats",
  "simultaneous_high_nats",
  "adjusted_p_value",
  "verdict",
  "error_covers",
)
_MAX_PAIRS = 15


def write_differences(comparison: SideBySide, parent_dir: pathlib.Path) -> None:
  """Writes `differences.csv`: NCE(a) - NCE(b) in nats per image, one line a pair.

  `low` and `high` are the 95% interval of this pair alone; the simultaneous ones hold for all pairs
  at once, and so do the p-value and the verdict (see `information.all_differences`).
  """
  storage.write_csv(parent_dir / CSV, _COLUMNS, _rows(comparison))


def _rows(comparison: SideBySide) -> Iterator[tuple[Any, ...]]:
  for difference in comparison.differences:
    estimate, a, b = difference.estimate, difference.first, difference.second
    yield (
      comparison.names[a],
      comparison.names[b],
      estimate.mean,
      estimate.standard_error,
      *estimate.interval(),
      *difference.simultaneous_interval,
      difference.adjusted_p_value,
      difference.verdict,
      _covers(comparison, a, b),
    )


def _covers(comparison: SideBySide, a: int, b: int) -> str:
  """What the error includes: a single run cannot tell how its seed moves it."""
  several = [place for place in (a, b) if len(comparison.rows[place].runs) > 1]
  if len(several) == 2:
    return "images and seeds"
  return f"images and seeds of {comparison.names[several[0]]}" if several else "images"


def section(comparison: SideBySide, parent_dir: pathlib.Path) -> Html:
  """The part of the page about pairs; nothing where there is a single row."""
  if not comparison.differences:
    return Html("")
  path = parent_dir / storage.FIGURES / "differences.png"
  figures.save(figures.differences_figure(comparison.names, _cells(comparison)), path)
  caption = (
    "Blue: the row scores higher; orange: lower; grey: the test images do not resolve it, or are"
    " too few. ± is one standard error."
  )
  table = _table(comparison)
  if len(comparison.differences) > _MAX_PAIRS:
    table = page.folded(f"{len(comparison.differences)} pairs", table)
  return page.section(
    "All pairs",
    page.picture(path, "Differences of NCE of all pairs, by verdict", caption),
    table,
    element("p", _legend(comparison), class_="legend"),
  )


def _cells(comparison: SideBySide):
  cells = {(each.first, each.second): each for each in comparison.differences}
  return cells | {(b, a): each.reversed() for (a, b), each in cells.items()}


def _table(comparison: SideBySide) -> Html:
  header = (
    "a",
    "b",
    "NCE(a) \N{MINUS SIGN} NCE(b), nats",
    "95% interval of this pair",
    "95% interval, all pairs at once",
    "adjusted p-value",
    "verdict: a is",
  )
  cells = [
    (
      comparison.names[each.first],
      comparison.names[each.second],
      page.with_error(each.estimate),
      page.interval(each.estimate),
      page.range_of(each.simultaneous_interval, each.estimate),
      _p_value(each.adjusted_p_value),
      each.verdict,
    )
    for each in comparison.differences
  ]
  return page.table(header, cells, num_names=2)


def _p_value(value: float) -> str:
  return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _legend(comparison: SideBySide) -> str:
  num_pairs = len(comparison.differences)
  first = comparison.rows[0]
  num_sources = len(set(first.sources.tolist()))
  clusters = (
    f" The {len(first.sources):,} test images come from {num_sources:,} sources; images of one"
    " source count as one piece of evidence."
    if num_sources < len(first.sources)
    else ""
  )
  few = " ".join(["", *filter(None, {information.reservation(num_sources)})])
  seeds = sorted({_covers(comparison, each.first, each.second) for each in comparison.differences})
  return (
    f"Verdicts and p-values allow for looking at {num_pairs} pairs: if no two rows differed, the"
    " chance of any verdict other than not resolved would be 5% (step-down largest score, Romano"
    f" & Wolf 2005).{few} Paired image by image.{clusters} Errors cover {'; '.join(seeds)}."
  )
