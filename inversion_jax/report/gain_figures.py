"""Figures of where h helps: pixel by pixel, and image by image. All gains are in nats."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from inversion_jax.report.figures import BLUE, GREY, INK, ORANGE, SKY, STYLE, WIDTH
from inversion_jax.report.pictures import as_rgb, sheet

MINUS = "\N{MINUS SIGN}"
# The colours of the verdicts: blue where h helps, orange where it hurts, white where neither.
GAIN_COLORS = LinearSegmentedColormap.from_list(
  "gain", ("#6b3604", ORANGE, "#ffffff", BLUE, "#0a2647")
)
NUM_SHADES = 255  # of a sheet: as many on either side of white
_PICTURES = STYLE | {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}
_UNIT = "gain, nats per pixel"


class Shown(NamedTuple):
  """A test image in a row of pictures, and what is written above it."""

  levels_HWC: Integer[np.ndarray, "H W C"]
  text: str


def mean_gain_figure(
  names: Sequence[str], mean_gain_LHW: Float[np.ndarray, "L H W"], totals: Sequence[str]
) -> Figure:
  """The mean gain of every pixel, one picture a layer, all on one scale centred at zero.

  `totals` is what stands under each picture: the sum over its pixels.
  """
  limit = float(np.abs(mean_gain_LHW).max())
  columns = max(4, min(len(names), 6))
  rows = -(-len(names) // columns)
  height, width = mean_gain_LHW.shape[1:]
  row_inches = 0.6 + (WIDTH - 1.2) / columns * height / width
  with matplotlib.rc_context(_PICTURES):
    figure = Figure(figsize=(WIDTH, row_inches * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False)
    used = all_axes.flat[: len(names)]
    for axes, name, gain_HW, total in zip(used, names, mean_gain_LHW, totals, strict=True):
      _show_gain(axes, gain_HW, limit)
      axes.set_title(name)
      axes.set_xlabel(total, fontsize=8.5)
    for axes in all_axes.flat[len(names) :]:
      axes.remove()
    _color_bar(figure, used, limit)
    return figure


def examples_figure(
  names: Sequence[str],
  images: Sequence[Shown],
  gain_LnHW: Float[np.ndarray, "L n H W"],
  num_levels: int,
) -> Figure:
  """Test images side by side and under each its gain for every layer, all on one scale.

  The scale ends at the 99.5th percentile of the magnitudes shown, and more is shown as its end.
  """
  limit = float(np.quantile(np.abs(gain_LnHW), 0.995))
  num_rows, num_columns = 1 + len(names), len(images)
  with matplotlib.rc_context(_PICTURES):
    figure = Figure(figsize=(WIDTH, 0.3 + 0.86 * num_rows), layout="constrained")
    axes_of = figure.subplots(num_rows, num_columns, squeeze=False)
    for column, image in enumerate(images):
      _show_image(axes_of[0, column], image, num_levels)
      for layer, gain_nHW in enumerate(gain_LnHW):
        _show_gain(axes_of[1 + layer, column], gain_nHW[column], limit)
    for row, name in enumerate(("x", *names)):
      axes_of[row, 0].set_ylabel(name, fontweight="bold", rotation=0, ha="right", va="center")
    _color_bar(figure, axes_of[1:], limit, extend="both")
    return figure


def tails_figure(
  names: Sequence[str],
  least: Sequence[Sequence[Shown]],
  most: Sequence[Sequence[Shown]],
  num_levels: int,
) -> Figure:
  """One row a layer: the images with the least gain on the left, with the most on the right."""
  num_each = len(least[0])
  with matplotlib.rc_context(_PICTURES):
    figure = Figure(figsize=(WIDTH, 0.35 + 0.9 * len(names)), layout="constrained")
    halves = figure.subfigures(1, 2, wspace=0.04, width_ratios=(1.1, 1))
    for half, heading, rows in zip(halves, ("least gain", "most gain"), (least, most), strict=True):
      half.suptitle(heading, fontsize=9.5, fontweight="bold")
      axes_of = half.subplots(len(names), num_each, squeeze=False)
      for row_axes, row in zip(axes_of, rows, strict=True):
        for axes, image in zip(row_axes, row, strict=True):
          _show_image(axes, image, num_levels)
      if rows is least:
        for axes, name in zip(axes_of[:, 0], names, strict=True):
          axes.set_ylabel(name, fontweight="bold", rotation=0, ha="right", va="center")
    return figure


def pointwise_figure(names: Sequence[str], gain_LN: Float[np.ndarray, "L N"]) -> Figure:
  """A histogram a layer of the gains of all test images, on one axis, with mean and zero."""
  bins = np.histogram_bin_edges(gain_LN, bins=int(np.clip(np.sqrt(gain_LN.size), 10, 80)))
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(WIDTH, 0.7 + 0.95 * len(names)), layout="constrained")
    all_axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name, gain_N in zip(all_axes, names, gain_LN, strict=True):
      axes.hist(gain_N, bins=bins, color=SKY)
      axes.axvline(0.0, color=INK, linewidth=0.8, linestyle=":")
      axes.axvline(gain_N.mean(), color=ORANGE)
      axes.set_ylabel(name, fontweight="bold", rotation=0, ha="right", va="center")
      axes.set_yticks([])
      text = f"mean {gain_N.mean():.2f}\n{100 * (gain_N < 0).mean():.1f}% below zero"
      text = text.replace("-", MINUS)
      place = {"ha": "right", "va": "top", "transform": axes.transAxes}
      axes.text(1.0, 0.95, text, fontsize=8, color=GREY, **place)
    all_axes[-1].set_xlabel(f"log p(x | h) {MINUS} log p(x), nats per image")
    return figure


def gain_sheet(gain_nHW: Float[np.ndarray, "n H W"], limit: float) -> bytes:
  """A PNG file of gains in their colours, side by side; `limit` nats have the last colour."""
  side = (NUM_SHADES - 1) // 2
  shade_nHW = np.rint(side + side * np.clip(gain_nHW / (limit or 1.0), -1.0, 1.0))
  palette = GAIN_COLORS.resampled(NUM_SHADES)(range(NUM_SHADES), bytes=True)[:, :3]
  return sheet(shade_nHW[..., None].astype(np.uint8), palette.tobytes())


def _show_image(axes: Axes, image: Shown, num_levels: int):
  unit_HWC = image.levels_HWC / (num_levels - 1)
  axes.imshow(as_rgb(unit_HWC), vmin=0.0, vmax=1.0, interpolation="nearest")
  axes.set_title(image.text, fontsize=7.5, fontweight="normal", loc="center", pad=3)
  _bare(axes)


def _show_gain(axes: Axes, gain_HW: np.ndarray, limit: float):
  scale = {"vmin": -limit, "vmax": limit}
  axes.imshow(gain_HW, cmap=GAIN_COLORS, interpolation="nearest", **scale)
  _bare(axes)


def _bare(axes: Axes):
  axes.set(xticks=[], yticks=[])
  axes.spines[:].set(color="#d9dee4", linewidth=0.5)


def _color_bar(figure: Figure, axes, limit: float, extend: str = "neither"):
  scale = matplotlib.colors.Normalize(-limit, limit)
  mappable = matplotlib.cm.ScalarMappable(scale, GAIN_COLORS)
  bar = figure.colorbar(mappable, ax=axes, extend=extend, fraction=0.03, pad=0.01)
  bar.outline.set_linewidth(0.5)
  bar.set_label(_UNIT)
