"""Figures, drawn on matplotlib's own objects: no pyplot, no window, no state left behind."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.report.files import curve

DPI = 192  # twice the 96 of a web page, which shows figures at half their pixels: sharp everywhere
WIDTH = 9.4  # inches

INK, GREY, PALE = "#1f2933", "#7b8794", "#d9dee4"
BLUE, ORANGE, SKY, RED = "#1f5fa8", "#d9730d", "#8fb8e0", "#c0392b"
# Ink is readable on each.
VERDICT_COLORS = {"higher": SKY, "lower": "#f2b27a", "not resolved": "#eceff2"}

STYLE = {
  "font.family": "sans-serif",
  "font.size": 9,
  "text.color": INK,
  "text.parse_math": False,
  "axes.edgecolor": GREY,
  "axes.labelcolor": INK,
  "axes.titlesize": 9.5,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.titlepad": 9,
  "axes.linewidth": 0.7,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.grid.axis": "y",
  "axes.axisbelow": True,
  "grid.color": PALE,
  "grid.linewidth": 0.6,
  "xtick.color": GREY,
  "ytick.color": GREY,
  "xtick.labelcolor": INK,
  "ytick.labelcolor": INK,
  "legend.facecolor": "white",
  "legend.edgecolor": "none",
  "lines.linewidth": 1.4,
}


class _Curve(NamedTuple):
  key: str
  label: str
  color: str
  marker: str = ""


class _Panel(NamedTuple):
  title: str
  unit: str
  curves: tuple[_Curve, ...]
  scale: str = "linear"
  factor: float = 1.0


_NATS = _Panel(
  "Codelength",
  "nats per image",
  (
    _Curve("train_nats_per_image", "train", SKY),
    _Curve("validation_live_nats_per_image", "validation, live parameters", ORANGE, "o"),
    _Curve("validation_nats_per_image", "validation, averaged parameters", BLUE, "o"),
  ),
)
_GRADIENT = _Panel("Gradient", "norm", (_Curve("grad_norm", "", GREY),), "log")
_RATE = _Panel("Learning rate", "per step", (_Curve("learning_rate", "", GREY),))
PANELS = {
  "inverter": (
    _NATS,
    _GRADIENT,
    _RATE,
  ),
  "decoder": (
    _Panel(
      "Squared error",
      "per sub-pixel, from 0 to 1",
      (
        _Curve("train_mse_per_sub_pixel", "train", SKY),
        _Curve("validation_mse_per_sub_pixel", "validation, averaged parameters", BLUE, "o"),
      ),
      "log",
    ),
    _GRADIENT,
    _RATE,
  ),
  "classifier": (
    _NATS._replace(title="Cross entropy of the label"),
    _Panel(
      "Accuracy",
      "% of images",
      (
        _Curve("train_accuracy", "train", SKY),
        _Curve("validation_accuracy", "validation", BLUE, "o"),
      ),
      factor=100.0,
    ),
    _RATE,
  ),
}


def error_bars(estimates: Sequence[information.Estimate]) -> Float[np.ndarray, "2 N"]:
  """Below and above each mean, to the ends of its 95% interval, which is longer towards a tail."""
  means_N = np.array([estimate.mean for estimate in estimates])
  lows_N, highs_N = np.array([estimate.interval() for estimate in estimates]).T
  return np.stack([means_N - lows_N, highs_N - means_N])


def save(figure: Figure, path: pathlib.Path):
  """Writes a PNG in one piece; equal figures give equal bytes."""
  with storage.replacing(path) as temporary, matplotlib.rc_context(STYLE):
    figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def nats_figure(nats_N: Float[np.ndarray, " N"], mean: information.Estimate, given: str) -> Figure:
  """Histogram of the codelengths of the test images, in nats, with the mean and its interval.

  `given` is the representation as it is written in log p(x | h), or empty for p(x).
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    num_bins = int(np.clip(np.sqrt(len(nats_N)), 5, 60))
    axes.hist(nats_N, bins=num_bins, color=SKY, edgecolor="white")
    low, high = mean.interval()
    axes.axvspan(low, high, color=ORANGE, alpha=0.25, linewidth=0, label="95% interval of the mean")
    axes.axvline(mean.mean, color=ORANGE, label="mean")
    axes.set(xlabel=f"\N{MINUS SIGN}log p(x{given}), nats per image", ylabel="test images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right")
    return figure


def training_figure(
  metrics: Sequence[Mapping[str, Any]], stages: Sequence[str], evaluated_step: int | None
) -> Figure:
  """One row of panels for each stage; the step that was evaluated is marked on the inverter's."""
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(WIDTH, 2.9 * len(stages)), layout="constrained")
    rows = figure.subfigures(len(stages), 1, squeeze=False)[:, 0]
    for stage, row in zip(stages, rows, strict=True):
      row.suptitle(stage.capitalize(), x=0.012, ha="left", fontsize=11, fontweight="bold")
      all_axes = row.subplots(1, 3, width_ratios=(2, 1.2, 1.2))
      for axes, panel in zip(all_axes, PANELS[stage], strict=True):
        _draw_panel(axes, panel, metrics, stage)
      if stage == "inverter" and evaluated_step is not None:
        all_axes[0].axvline(evaluated_step, color=INK, linewidth=0.8, linestyle=":")
        all_axes[0].plot([], [], ":", color=INK, linewidth=0.8, label="evaluated step")
      if all_axes[0].get_legend_handles_labels()[0]:
        all_axes[0].legend(loc="upper right", fontsize=8)
    return figure


def _draw_panel(axes: Axes, panel: _Panel, metrics, stage: str):
  drawn = []
  for line in panel.curves:
    steps, values = curve(metrics, stage, line.key)
    if steps:
      values = panel.factor * np.asarray(values, np.float64)
      drawn.append((np.asarray(steps), values))
      axes.plot(steps, values, color=line.color, label=line.label, marker=line.marker, ms=3)
  axes.set(title=panel.title, xlabel="step", ylabel=panel.unit, yscale=panel.scale)
  if panel.scale == "log":
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
  if not drawn:
    axes.text(0.5, 0.5, "not recorded", color=GREY, ha="center", transform=axes.transAxes)
    return
  if panel.title == "Accuracy":
    axes.legend(loc="lower right", fontsize=8)
  if panel.unit == "nats per image":
    _hide_first_steps(axes, drawn)


def _hide_first_steps(axes: Axes, drawn):
  """Lets the steep start leave the panel, so that the rest of the curve can be read."""
  end = max(steps[-1] for steps, _ in drawn)
  late = np.concatenate([values[steps >= end / 20] for steps, values in drawn])
  late = late[np.isfinite(late)]
  if len(late) and late.max() > late.min():
    margin = 0.06 * (late.max() - late.min())
    axes.set_ylim(late.min() - margin, late.max() + margin)


def nce_figure(
  names: Sequence[str],
  estimates: Sequence[information.Estimate],
  relative: Sequence[float | None],
  num_layers: int,
) -> Figure:
  """NCE by layer in nats with 95% intervals, and relative to conv1 where there is one.

  The first `num_layers` bars are layers, joined in their order; the rest are unconditional models.
  """
  with matplotlib.rc_context(STYLE):
    has_relative = any(value is not None for value in relative)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    all_axes = figure.subplots(1, 1 + has_relative, squeeze=False)[0]
    means = [estimate.mean for estimate in estimates]
    errors_2N = error_bars(estimates)
    decimals = 1 if max(map(abs, means)) < 1000 else 0
    _draw_layers(all_axes[0], names, means, errors_2N, num_layers, decimals)
    all_axes[0].set(title="Negative cross entropy", ylabel="nats per image")
    if has_relative:
      size = abs(next(mean / value for mean, value in zip(means, relative, strict=True) if value))
      _draw_layers(all_axes[1], names, relative, errors_2N / size, num_layers, 2)
      all_axes[1].set(title="Relative to conv1", ylabel="NCE / |NCE of conv1|")
    return figure


def differences_figure(
  names: Sequence[str], cells: Mapping[tuple[int, int], information.Difference]
) -> Figure:
  """A matrix of differences in nats, row minus column, coloured by verdict.

  `cells` has every (row, column) but the diagonal. Beyond a dozen rows the errors, beyond two dozen
  all numbers are left to the table.
  """
  with matplotlib.rc_context(STYLE | {"axes.grid": False}):
    num = len(names)
    figure = Figure(figsize=(WIDTH, 1.6 + max(1.2, 0.52 * min(num, 16))), layout="constrained")
    axes = figure.subplots()
    for (row, column), cell in cells.items():
      color = VERDICT_COLORS.get(cell.verdict, VERDICT_COLORS["not resolved"])
      axes.add_patch(Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, color=color, linewidth=0))
      if num <= 24:
        text = _cell_text(cell.estimate, with_error=num <= 12)
        size = float(np.clip(88 / num, 4.5, 9))
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=INK)
    for verdict, color in VERDICT_COLORS.items():
      axes.plot([], [], "s", color=color, ms=8, label=verdict)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="row against column")
    axes.set(xlim=(-0.5, num - 0.5), ylim=(num - 0.5, -0.5))
    axes.set_title("NCE of row minus NCE of column, nats per image", pad=12)
    slanted = {"rotation": 25, "ha": "right"} if sum(map(len, names)) > 45 else {}
    axes.set_xticks(range(num), names, **slanted)
    axes.set_yticks(range(num), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _cell_text(estimate: information.Estimate, with_error: bool) -> str:
  error = estimate.standard_error
  decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 3)) if error > 0 else 2
  text = f"{estimate.mean:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
  return f"{text}\n± {error:.{decimals}f}" if with_error else text


def _draw_layers(axes: Axes, names, values, errors_2N, num_layers, decimals):
  places = np.arange(len(names))
  axes.plot(places[:num_layers], values[:num_layers], color=SKY, linewidth=1.2, zorder=1)
  for place, value, error_2 in zip(places, values, errors_2N.T, strict=True):
    color = BLUE if place < num_layers else GREY
    axes.errorbar(
      place, value, error_2[:, None], fmt="o", color=color, ms=5, capsize=4, elinewidth=1.2
    )
    text = f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    label = axes.annotate(text, (place, value), (7, 4), textcoords="offset points", fontsize=8.5)
    label.set_path_effects([withStroke(linewidth=3, foreground="white")])
  slanted = {"rotation": 25, "ha": "right"} if sum(map(len, names)) > 45 else {}
  axes.set_xticks(places, names, **slanted)
  axes.set_xlim(-0.4, len(names) - 0.25)
  axes.margins(y=0.12)
