"""Layers in order under each reader: what they tell above p(x), at the end and as it was learnt.

Figure 5a of Nash et al. (2019) with what it lacks: p(x), replicates, a second reader, codelengths.
"""

import pathlib
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from inversion_jax import information, report
from inversion_jax.config import NO_LAYER
from inversion_jax.machine import storage
from inversion_jax.paper import plans
from inversion_jax.paper.plans import Scale
from inversion_jax.report import figures, learning
from inversion_jax.report.files import RunFiles, curve, read_run
from inversion_jax.report.rows import SideBySide, marginal_place, side_by_side

# By how much validation falls over this last part of training says how near the end it is.
_LAST_PART = 0.2


def draw(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """`ranking.png`, its numbers as CSV, and a comparison of all runs of each set."""
  compared, rows = {}, []
  for dataset in scale.datasets:
    folders = _folders(workdir, scale, dataset)
    report.write_comparison(output / f"ranking_{dataset.replace('/', '_')}", folders)
    compared[dataset] = side_by_side([read_run(folder) for folder in folders])
    rows += _rows(compared[dataset], scale, dataset)
  figures.save(_figure(compared, scale), output / "ranking.png")
  storage.write_table(output / "ranking.csv", rows)


def _folders(workdir, scale, dataset):
  names = [plans.ranking_name(*place) for place in plans.ranking_places(scale)]
  return [root / dataset / name for name in names for root in plans.roots(workdir, scale)]


def _rows(comparison: SideBySide, scale: Scale, dataset: str) -> list[dict[str, Any]]:
  """One row for each layer under each reader, in the order of the places, p(x) last."""
  saved = {row.name: row.saved for row in learning.rows_of(comparison)}
  rows = []
  for place, (layer, reader) in enumerate(plans.ranking_places(scale)):
    row = comparison.rows[place]
    cells = {
      "dataset": dataset,
      "reader": reader,
      "layer": layer or "none",
      "num_seeds": len(row.runs),
      **_estimate("nce_nats", row.nce),
    }
    if layer != NO_LAYER:
      prior = comparison.difference(place, marginal_place(comparison))
      cells |= _estimate("minus_prior_nats", prior.estimate) | {"over_prior": prior.verdict}
      cells |= _estimate("codelength_saved_nats", saved.get(comparison.names[place]))
      if layer != scale.layers[0]:
        before = comparison.difference(place, place - 1)
        cells |= _estimate("minus_layer_before_nats", before.estimate)
        cells |= {"verdict": before.verdict}
      cells |= _minus_other_reader(comparison, scale, place)
    cells["percent_of_last_fifth"] = max(last_part_percent(run) for run in row.runs)
    rows.append(cells)
  return rows


def _minus_other_reader(comparison, scale, place):
  """The first reader minus the second, on the rows of the first."""
  places = plans.ranking_places(scale)
  layer, reader = places[place]
  others = [at for at, (one, by) in enumerate(places) if one == layer and by != reader]
  if not others or others[0] < place:
    return {}
  difference = comparison.difference(place, others[0])
  return _estimate("minus_other_reader_nats", difference.estimate) | {
    "over_other_reader": difference.verdict
  }


def last_part_percent(run: RunFiles) -> float:
  """By how many percent validation nats fell over the last fifth of training; 0 if they rose."""
  steps, nats = curve(run.metrics, "inverter", "validation_nats_per_image")
  begin = (1.0 - _LAST_PART) * steps[-1]
  early = [value for step, value in zip(steps, nats, strict=True) if step <= begin]
  best_before = min(early, default=nats[0])
  return 100.0 * (best_before - min(nats)) / best_before


def _estimate(name: str, estimate: information.Estimate | None) -> dict[str, float]:
  if estimate is None:
    return {}
  low, high = estimate.interval()
  return {name: estimate.mean, f"{name}_low": low, f"{name}_high": high}


def _figure(compared: dict[str, SideBySide], scale: Scale) -> Figure:
  with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(max(5.0, 3.0 * len(compared)), 3.4), layout="constrained")
    all_axes = figure.subplots(1, len(compared), squeeze=False)[0]
    for axes, (dataset, comparison) in zip(all_axes, compared.items(), strict=True):
      _draw_set(axes, comparison, scale)
      axes.set(title=dataset)
    all_axes[0].set_ylabel("NCE above p(x), nats per image")
    all_axes[0].legend()
  return figure


def _draw_set(axes, comparison, scale):
  prior = marginal_place(comparison)
  found: dict[str, list] = {}
  for place, (layer, reader) in enumerate(plans.ranking_places(scale)):
    if layer != NO_LAYER:
      found.setdefault(reader, []).append(comparison.difference(place, prior).estimate)
  for reader, gains in found.items():
    means = [gain.mean for gain in gains]
    errors = figures.error_bars(gains)
    axes.errorbar(scale.layers, means, errors, marker="o", capsize=3, label=reader)
  axes.axhline(0.0, color=figures.GREY, linewidth=0.8)
