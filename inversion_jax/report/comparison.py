"""Several runs of one test set, side by side."""

import functools
import itertools
import os
import pathlib
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from inversion_jax import information
from inversion_jax.machine import locks, storage
from inversion_jax.report import (
  crossfits,
  explorer,
  figures,
  gains,
  learning,
  page,
  pairs,
  pictures,
  replicates,
)
from inversion_jax.report.files import RunFiles, read_run
from inversion_jax.report.page import Html, element, number
from inversion_jax.report.rows import (
  SideBySide,
  comparison_rows,
  exceptions,
  information_estimate,
  is_one_network,
  marginal_place,
  side_by_side,
)

JSON = "comparison.json"
CSV = "comparison.csv"

_MAX_IMAGES = 12
_DASH = "\N{EM DASH}"


def write_comparison(
  parent_dir: pathlib.Path, run_dirs: Iterable[pathlib.Path], epsilon_nats: float = 0.0
) -> None:
  """Writes tables, `figures/` and `report.html` into `parent_dir`.

  `comparison.json` and `comparison.csv` hold one row a run, `differences.csv` one a pair of them,
  `pointwise.csv` one a test image if there is an unconditional run, `codelength.csv` one a row that
  has kept its first pass.

  Args:
    parent_dir: where the comparison goes, usually the folder above the runs.
    run_dirs: evaluated runs of one test set, from the input of the network to its output. Runs of
      the unconditional model may stand anywhere and are shown last; runs that differ only in
      their seed are one row.
    epsilon_nats: added to what `learning.target_of` counts images until.

  Raises:
    UserError: a run lacks its results, the runs were evaluated on different test images, or another
      process writes into the folder.
  """
  comparison = side_by_side([read_run(run_dir) for run_dir in run_dirs])
  with locks.owned(parent_dir):
    _write(comparison, parent_dir, epsilon_nats)


def _write(comparison: SideBySide, parent_dir: pathlib.Path, epsilon_nats: float):
  rows = comparison_rows(comparison, parent_dir)
  explored = explorer.section(comparison)
  storage.write_json(parent_dir / JSON, rows)
  storage.write_csv(parent_dir / CSV, rows[0], (row.values() for row in rows))
  pairs.write_differences(comparison, parent_dir)
  gains.write_pointwise(comparison, parent_dir)
  learning.write_codelengths(comparison, parent_dir, epsilon_nats)
  parts = [
    _opening(comparison),
    _main_table(comparison, rows, parent_dir),
    _order(comparison),
    _honest_words(comparison),
    _samples(comparison, parent_dir),
    explored,
    _nce_figure(comparison, rows, parent_dir),
    replicates.section(comparison),
    crossfits.comparison_section(comparison),
    gains.section(comparison, parent_dir),
    pairs.section(comparison, parent_dir),
    learning.section(comparison, parent_dir, epsilon_nats),
    _absolute(comparison),
    _other_numbers(comparison, rows),
  ]
  title = f"What each layer knows of {comparison.runs[0].summary['dataset']} images"
  kicker = f"inversion_jax: comparison {parent_dir.resolve().name}"
  files = {"style": explorer.STYLE, "script": explorer.SCRIPT} if explored else {}
  storage.write_text(parent_dir / storage.REPORT, page.page(title, kicker, *parts, **files))


def _opening(comparison: SideBySide) -> Html:
  run = comparison.runs[0]
  return element(
    "p",
    "Each row is one density model p(x | h) of images x given the activations h of one layer,"
    f" scored on the same {len(run.nats['nats']):,} test images of {run.summary['dataset']}. The"
    " higher its negative cross entropy (NCE), the more of the image the layer lets it recover.",
  )


def _main_table(comparison: SideBySide, rows: Sequence[dict], parent_dir: pathlib.Path) -> Html:
  header = [
    "layer",
    "NCE, nats per image",
    "95% interval",
    "bits per sub-pixel",
    "change from the row above, nats",
    "verdict at 95%",
  ]
  if comparison.unconditional:
    header.append("gain over p(x), nats (estimate)")
  cells = []
  for entry, name, row in zip(comparison.rows, comparison.names, rows, strict=True):
    seeds = f" ({len(entry.runs)} seeds)" if len(entry.runs) > 1 else ""
    cells.append(
      [
        element("span", _linked(entry.first, name, parent_dir), seeds),
        _estimate(row, "nce_nats"),
        page.interval(entry.nce),
        number(row["bits_per_dim"], 4),
        _estimate(row, "nce_minus_previous_nats"),
        row["verdict_against_previous"] or _DASH,
        _estimate(row, "information_estimate_nats"),
      ][: len(header)]
    )
  legend = (
    f"± is one standard error over {_error_covers(comparison)}; changes and gains are paired image"
    " by image. Verdicts allow for all pairs of rows looked at."
  )
  return Html(page.table(header, cells) + element("p", legend, class_="legend"))


def _linked(run: RunFiles, name: str, parent_dir: pathlib.Path) -> Any:
  if not (run.folder / storage.REPORT).exists():
    return name
  target = os.path.relpath(run.folder / storage.REPORT, parent_dir).replace(os.sep, "/")
  return element("a", name, href=urllib.parse.quote(target))


def _estimate(row: dict[str, Any], key: str) -> str:
  if row[key] is None:
    return _DASH
  return page.with_error(information.Estimate.read(row, key))


def _maybe(value: float | int | None, decimals: int) -> str:
  return _DASH if value is None else number(value, decimals)


def _order(comparison: SideBySide) -> Html:
  """What the order of the layers says, and whether any loses to p(x)."""
  layers = comparison.layers
  paragraphs = []
  found = []
  if len(layers) > 1 and is_one_network(layers):
    found = exceptions(comparison)
    paragraphs.append(element("p", *_order_words(comparison, found)))
  elif len(layers) > 1:
    paragraphs.append(
      element(
        "p", "These are not different layers of one network, so no order is expected of them."
      )
    )
  losers = [
    layer.layer for place, layer in enumerate(layers) if _loses_to_marginal(place, comparison)
  ]
  if losers:
    paragraphs.append(
      element(
        "p",
        f"Exception flagged: {', '.join(losers)} scores lower than p(x), which sees no activations;"
        " its model is undertrained or handicapped.",
      )
    )
  if not paragraphs:
    return Html("")
  return element("div", *paragraphs, class_="note warning" if found or losers else "note")


def _loses_to_marginal(place: int, comparison: SideBySide) -> bool:
  return bool(comparison.unconditional) and (
    comparison.difference(place, marginal_place(comparison)).verdict == "lower"
  )


def _order_words(comparison: SideBySide, found) -> list[Any]:
  layers = comparison.layers
  order = f"Expected order {' > '.join(run.layer for run in layers)}: "
  if found:
    pairs = "; ".join(
      f"{case.downstream.layer} scores higher than {case.upstream.layer} by"
      f" {page.with_error(case.gain)} nats"
      for case in found
    )
    return [
      element("strong", f"{order}exception flagged. "),
      f"{pairs}. Whatever a layer tells can be computed from the layers before it, so the model"
      " upstream is undertrained or handicapped, and the layer further down gives it the better"
      " bound (the envelope below).",
    ]
  unresolved = [
    f"{first.layer} and {second.layer}"
    for place, (first, second) in enumerate(itertools.pairwise(layers))
    if comparison.difference(place + 1, place).verdict != "lower"
  ]
  if unresolved:
    return [
      element("strong", f"{order}not contradicted. "),
      f"Not resolved at 95%: {'; '.join(unresolved)}.",
    ]
  return [element("strong", f"{order}holds. "), "Every step is resolved at 95%."]


def _honest_words(comparison: SideBySide) -> Html:
  bound = element(
    "p",
    element("strong", "Usable information (lower bound). "),
    "H(x) + NCE is at most I(x; h), and H(x), the entropy of the images, is one constant for all"
    " rows. So the rows compare lower bounds: what models of this family can use of each layer"
    " (predictive V-information, Xu et al. 2020). A difference of two rows is not a difference of"
    " mutual informations, nor an amount that the network threw away: for a deterministic network"
    " on discrete images the true I(x; h) is almost always H(x), whatever the layer.",
  )
  marginal = (
    "The gain over p(x) is the difference of two upper bounds: an estimate of the information, not"
    " a bound. "
    if comparison.unconditional
    else ""
  )
  spread = f"{marginal}Errors cover the choice of {_error_covers(comparison)}."
  return element("div", bound, element("p", spread), class_="note")


def _error_covers(comparison: SideBySide) -> str:
  """What the errors of all rows include, in words."""
  several = [len(row.runs) > 1 for row in comparison.rows]
  if all(several):
    return f"test images and the seeds of {replicates.varied(comparison.rows)}"
  if any(several):
    return "test images, and the seed of the training only in rows of several seeds"
  return "test images, not the seed of the training"


def _absolute(comparison: SideBySide) -> Html:
  """H(x) and I(x; h) in nats, as the estimates that they are."""
  if not comparison.unconditional or not comparison.layers:
    return Html("")
  marginal = comparison.rows[marginal_place(comparison)].nce
  entropy = -marginal
  cells = [("H(x)", "upper bound", page.with_error(entropy), page.interval(entropy), _DASH)]
  for place in range(len(comparison.layers)):
    estimate = information_estimate(comparison, place)
    share = f"{number(100 * estimate.mean / entropy.mean, 1)}%" if entropy.mean > 0 else _DASH
    name = f"I(x; h), {comparison.names[place]}"
    cells.append((name, "estimate", page.with_error(estimate), page.interval(estimate), share))
  words = (
    "H(x) is estimated by the codelength of p(x), which is at least H(x), and H(x | h) by that of"
    " p(x | h), which is at least H(x | h). I(x; h) is H(x) less H(x | h); the difference of these"
    " upper bounds may be above or below it, so it is an estimate, neither an upper nor a lower"
    f" bound. Intervals cover {_error_covers(comparison)}, not how far the models are from the"
    " truth."
  )
  header = ("quantity", "what the number is", "nats per image", "95% interval", "part of H(x)")
  return page.section(
    "Absolute estimates", page.table(header, cells, num_names=2), element("p", words)
  )


def _samples(comparison: SideBySide, parent_dir: pathlib.Path) -> Html:
  heading = "One image, seen by each layer"
  drawn = [
    (run, name) for run, name in zip(comparison.runs, comparison.names, strict=True) if run.samples
  ]
  common = _common_images([run for run, _ in drawn])
  if not len(common):
    return page.section(heading, element("p", "The runs have no samples of a common test image."))
  columns, names = _sample_columns(drawn, common)
  path = parent_dir / storage.FIGURES / "samples.png"
  num_levels = comparison.runs[0].summary["num_levels"]
  figures.save(pictures.grid_figure(columns, names, num_levels), path)
  caption = (
    "Each row: one test image, then images drawn by the model of each layer. What varies among them"
    " is what the model cannot read from that layer."
  )
  if any("reconstruction" in run.samples for run, _ in drawn):
    caption += " MSE: the single image with the least expected squared error given the layer."
  alt = f"Samples of {', '.join(name for _, name in drawn)} for {len(names)} test images"
  return page.section(heading, page.picture(path, alt, caption))


def _common_images(runs: Sequence[RunFiles]) -> np.ndarray:
  """Indices of test images that every run has samples of, in the order of the first run."""
  if not runs:
    return np.zeros(0, np.int64)
  indices = [run.samples["index"] for run in runs]
  common = functools.reduce(np.intersect1d, indices)
  return indices[0][np.isin(indices[0], common)][:_MAX_IMAGES]


def _sample_columns(
  drawn: Sequence[tuple[RunFiles, str]], common: np.ndarray
) -> tuple[list[pictures.Column], list[str]]:
  rows_of = [
    [int(np.flatnonzero(run.samples["index"] == index)[0]) for index in common] for run, _ in drawn
  ]
  shown = 3 if len(drawn) <= 4 else 2
  first, first_rows = drawn[0][0].samples, rows_of[0]
  columns = [pictures.Column("original", first["original"][first_rows][:, None])]
  for (run, name), rows in zip(drawn, rows_of, strict=True):
    heading, levels_NSHWC = name, run.samples["sample"][rows][:, :shown]
    if "reconstruction" in run.samples:
      heading = f"{name}: MSE, samples"
      reconstruction_N1HWC = run.samples["reconstruction"][rows][:, None]
      levels_NSHWC = np.concatenate([reconstruction_N1HWC, levels_NSHWC[:, :2]], axis=1)
    columns.append(pictures.Column(heading, levels_NSHWC))
  return columns, pictures.row_names(first["index"][first_rows], first["label"][first_rows])


def _nce_figure(comparison: SideBySide, rows: Sequence[dict], parent_dir: pathlib.Path) -> Html:
  path = parent_dir / storage.FIGURES / "nce.png"
  relative = [row["nce_relative_to_conv1"] for row in rows]
  estimates = [row.nce for row in comparison.rows]
  figure = figures.nce_figure(comparison.names, estimates, relative, len(comparison.layers))
  figures.save(figure, path)
  caption = f"Bars: 95% intervals over {_error_covers(comparison)}."
  if any(relative):
    caption += " Right: as in figure 5a of the paper."
  return page.section("Layer by layer", page.picture(path, "NCE of each layer", caption))


def _other_numbers(comparison: SideBySide, rows: Sequence[dict]) -> Html:
  header = (
    "layer",
    "envelope, nats per image",
    "NCE relative to conv1",
    "classifier's test accuracy",
    "inverter evaluated at step",
    "time, seconds",
  )
  cells = [
    (
      name,
      _maybe(row["nce_envelope_nats"], 2),
      _maybe(row["nce_relative_to_conv1"], 3),
      _maybe(row["classifier_test_accuracy"], 4),
      _maybe(row["inverter_steps"], 0),
      _maybe(row["seconds"], 0),
    )
    for name, row in zip(comparison.names, rows, strict=True)
  ]
  text = (
    "The envelope is the best bound known for a layer: its own, or that of a layer computed from"
    f" it. The same numbers for programs: {JSON} and {CSV}; all pairs: {pairs.CSV}."
  )
  return page.section("Other numbers", page.table(header, cells), element("p", text))
