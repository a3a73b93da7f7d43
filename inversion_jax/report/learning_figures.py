"""Figures of what images cost before they were learnt, over the number of images."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from inversion_jax.information.codelength import Blocks, FirstPass
from inversion_jax.report.figures import BLUE, GREY, INK, ORANGE, RED, SKY, STYLE, WIDTH

MINUS = "\N{MINUS SIGN}"
_COLORS = (BLUE, ORANGE, RED, "#2f855a", "#6b46c1", SKY)
_REACH = 1.96  # standard errors, for 95%

Passes = Mapping[str, Sequence[FirstPass]]
Savings = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]]


def learning_figure(passes: Passes, savings: Savings, target_nats: float | None) -> Figure:
  """Left what the next image costs, right what h has saved until then, both over images told.

  Args:
    passes: by name of the row, one a seed; the last name is drawn in grey if it is not in
      `savings` and those are not empty.
    savings: `FirstPass.saving_curve` of those that have one, by the same names; may be empty.
    target_nats: drawn on the left.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if savings else 1, squeeze=False)[0]
    for place, (name, of_seeds) in enumerate(passes.items()):
      is_prior = bool(savings) and name not in savings
      color = GREY if is_prior else _COLORS[place % len(_COLORS)]
      for number, told in enumerate(of_seeds):
        blocks = told.blocks
        middles = np.sqrt(np.maximum(blocks.starts, 1) * blocks.ends)
        label = name if number == 0 else None
        # Where the initialisation saw all, there is nothing else to show.
        is_new = (blocks.starts >= told.num_seen) | (told.num_seen == len(told))
        curve = middles[is_new], blocks.mean[is_new], blocks.standard_error[is_new]
        _draw(panels[0], *curve, color, label)
      for n, mean_n, error_n in savings.get(name, ()):
        _draw(panels[1], n, mean_n, error_n, color, None)
    if target_nats is not None:
      panels[0].axhline(target_nats, color=INK, linestyle=":", linewidth=1.0, label="target")
    panels[0].set(title="The next image", ylabel="nats per image")
    if savings:
      panels[1].axhline(0.0, color=INK, linestyle=":", linewidth=0.8)
      panels[1].set(title="Saved over p(x) by then", ylabel="nats per image so far")
    for axes in panels:
      _count_images(axes, "images of the first pass")
    panels[0].legend(loc="upper right", fontsize=8)
    return figure


def _count_images(axes: Axes, label: str):
  axes.set(xscale="log", xlabel=label)
  axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))
  axes.xaxis.set_minor_locator(NullLocator())


def _draw(axes: Axes, n, mean_n, error_n, color, label):
  axes.plot(n, mean_n, color=color, label=label)
  band = {"color": color, "alpha": 0.2, "linewidth": 0}
  axes.fill_between(n, mean_n - _REACH * error_n, mean_n + _REACH * error_n, **band)


def excess_figure(curves: Mapping[str, Blocks]) -> Figure:
  """What the next image costs beyond the truth, of several tasks, both axes logarithmic.

  What is not above zero has no place there.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, blocks) in enumerate(curves.items()):
      middles = np.sqrt(np.maximum(blocks.starts, 1) * blocks.ends)
      # But the first, which the initialisation saw.
      is_above = (blocks.mean > 0) & (blocks.starts > 0)
      curve = middles[is_above], blocks.mean[is_above], blocks.standard_error[is_above]
      _draw(axes, *curve, _COLORS[place % len(_COLORS)], name)
    axes.set(yscale="log", ylabel="nats of the next image beyond the truth")
    least = min(blocks.mean[blocks.mean > 0].min() for blocks in curves.values())
    axes.set_ylim(bottom=least / 2)
    _count_images(axes, "images told, each once")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(loc="lower left", fontsize=8)
    return figure
