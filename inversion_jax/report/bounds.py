"""I(x; h~) from both sides, over the strength of a channel, as a figure and a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from inversion_jax import information
from inversion_jax.information.estimators import LOWER, UPPER
from inversion_jax.report import figures, page
from inversion_jax.report.page import Html, element

Rows = Sequence[Mapping[str, Any]]

COLORS = {LOWER: figures.BLUE, UPPER: figures.ORANGE}
MARKERS = {
  "inverter": "o",
  "infonce": "v",
  "kde_lower": "s",
  "leave_one_out_upper": "^",
  "density_upper": "D",
  "capacity": "_",
  "kde_upper": "s",
  "kraskov": "x",
  "discretisation": "+",
}
HEADER = ("channel", "method", "what it is", "nats", "95% interval", "ceiling", "seconds")


def brackets_figure(panels: Mapping[str, Rows]) -> Figure:
  """One panel for each kind of channel and title; nats on a logarithmic axis.

  Lower bounds are blue, upper bounds orange, estimates grey; bars are 95% intervals. Rows that know
  `truth_nats` add a black line.
  """
  with matplotlib.rc_context(figures.STYLE):
    height = 3.6 + 0.16 * len(MARKERS)
    figure = Figure(figsize=(figures.WIDTH, height), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, rows) in zip(all_axes, panels.items(), strict=True):
      _draw(axes, title, rows)
    handles = {}
    for axes in all_axes:
      labels = axes.get_legend_handles_labels()
      handles |= dict(zip(labels[1], labels[0], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw(axes, title, rows):
  unit = "sigma" if "sigma" in rows[0] else "bits"
  strengths = sorted({row[unit] for row in rows})
  for method, marker in MARKERS.items():
    drawn = [row for row in rows if row["method"] == method and row["nats"] is not None]
    # A logarithmic axis has no place for estimates below zero.
    drawn = [row for row in drawn if row["nats"] > 0]
    if not drawn:
      continue
    kind = drawn[0]["kind"]
    below, above = figures.error_bars([_estimate(row) for row in drawn])
    axes.errorbar(
      [strengths.index(row[unit]) for row in drawn],
      [row["nats"] for row in drawn],
      [np.minimum(below, [0.99 * row["nats"] for row in drawn]), above],
      color=COLORS.get(kind, figures.GREY),
      label=f"{method} ({kind})",
      linewidth=1.8 if method == "inverter" else 0.9,
      linestyle="-" if kind in COLORS else ":",
      marker=marker,
      markersize=6 if method == "inverter" else 4.5,
      elinewidth=0.9,
    )
  truths = {row[unit]: row["truth_nats"] for row in rows if "truth_nats" in row}
  if truths:
    places = [strengths.index(strength) for strength in truths]
    axes.plot(places, list(truths.values()), "--", color=figures.INK, label="truth", linewidth=1.2)
  axes.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
  name = "sigma of the noise" if unit == "sigma" else "bits of each unit"
  axes.set(title=title, xlabel=name, ylabel="nats per image", yscale="log")
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
  axes.yaxis.set_minor_locator(NullLocator())


def brackets_section(rows: Rows, layer: str, path) -> Html:
  """The part of a run's report; the figure is written to `path`."""
  panels = {
    title: chosen
    for title, chosen in (
      ("Through noise", [row for row in rows if "sigma" in row]),
      ("Through few bits", [row for row in rows if "bits" in row]),
    )
    if chosen
  }
  figures.save(brackets_figure(panels), path)
  text = (
    f"I(x; h\N{COMBINING TILDE}) where h\N{COMBINING TILDE} is {layer}, standardised, with noise on"
    " each unit or with few bits for each. This is a real quantity, unlike I(x; h) of a"
    " deterministic layer, and has bounds from both sides. What the inverter says is H(x) + NCE"
    " with H(x) taken from the unconditional model: the difference of two upper bounds, so an"
    " estimate. A value at its ceiling says that the images are too few, not that the information"
    " is that much."
  )
  table = page.table(HEADER, [_cells(row) for row in rows], num_names=3)
  caption = (
    "Blue: lower bounds. Orange: upper bounds. Grey: estimates. Bars: 95% intervals. Values of zero"
    " or less have no place on this axis; they are among the values below."
  )
  return page.section(
    "Through noise and few bits",
    element("p", text),
    page.picture(path, "Both sides of the information over the noise", caption),
    page.folded(f"{len(rows)} values", table),
  )


def _cells(row):
  channel = f"sigma {row['sigma']:g}" if "sigma" in row else f"{row['bits']} bits"
  nats = "infinite" if row["nats"] is None else page.number(row["nats"], 2)
  interval = "none"
  if row["nats"] is not None and row["standard_error"] is not None:
    interval = page.interval(_estimate(row))
  ceiling = "none" if row["ceiling_nats"] is None else page.number(row["ceiling_nats"], 2)
  return channel, row["method"], row["kind"], nats, interval, ceiling, f"{row['seconds']:.1f}"


def _estimate(row):
  return information.Estimate.read(row, "nats", "standard_error")
