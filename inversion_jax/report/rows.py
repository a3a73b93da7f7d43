"""The numbers of a comparison: one row a run or its seeds, and what their order says."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from inversion_jax import information
from inversion_jax.machine.errors import UserError
from inversion_jax.report.files import (
  UNCONDITIONAL,
  Replicates,
  RunFiles,
  model_settings,
  same_model_key,
)

_REFERENCE = "conv1"


@dataclasses.dataclass(frozen=True)
class SideBySide:
  """Rows of the same test images; `layers` run from the input to the output of the network."""

  layers: list[Replicates]
  unconditional: list[Replicates]

  @property
  def rows(self) -> list[Replicates]:
    """All rows in the order of the table."""
    return self.layers + self.unconditional

  @property
  def runs(self) -> list[RunFiles]:
    """The first run of every row."""
    return [row.first for row in self.rows]

  @functools.cached_property
  def names(self) -> list[str]:
    """One name a row; rows of one layer are told apart by the ends of their folders' paths."""
    plain = [run.layer_name for run in self.runs]
    return [
      name if plain.count(name) == 1 else f"{name} ({self._path_end(place)})"
      for place, name in enumerate(plain)
    ]

  def _path_end(self, place: int) -> str:
    parts = [run.folder.resolve().parts for run in self.runs]
    depth = 1
    while sum(other[-depth:] == parts[place][-depth:] for other in parts) > 1:
      depth += 1
    return "/".join(parts[place][-depth:])

  @functools.cached_property
  def differences(self) -> list[information.Difference]:
    """NCE(a) - NCE(b) in nats per image for all pairs of rows a before b, judged together."""
    return information.all_differences(
      [row.nce_by_seed for row in self.rows],
      self.rows[0].sources,
      [row.seeds for row in self.rows],
    )

  def difference(self, a: int, b: int) -> information.Difference:
    """NCE(a) - NCE(b), by places in the table; its verdict allows for all pairs looked at."""
    for found in self.differences:
      if (found.first, found.second) == (a, b):
        return found
      if (found.first, found.second) == (b, a):
        return found.reversed()
    raise KeyError((a, b))


class Exceeds(NamedTuple):
  """A layer that scores higher than one before it, by `gain` nats per image."""

  downstream: Replicates
  upstream: Replicates
  gain: information.Estimate


def side_by_side(runs: Sequence[RunFiles]) -> SideBySide:
  """Puts runs side by side, seeds of one model as one row, unconditional models last.

  Raises:
    UserError: no runs, one run twice, or runs of different test images.
  """
  if not runs:
    raise UserError("A comparison needs at least one run folder; none was given.")
  folders = [run.folder.resolve() for run in runs]
  for place, run in enumerate(runs):
    if folders[place] in folders[:place]:
      raise UserError(f"{run.folder} was given twice; name each run once.")
  for run in runs[1:]:
    _check_same_images(runs[0], run)
  rows = _replicates(runs)
  return SideBySide(
    [row for row in rows if row.layer != UNCONDITIONAL],
    [row for row in rows if row.layer == UNCONDITIONAL],
  )


def _replicates(runs: Sequence[RunFiles]) -> list[Replicates]:
  """Rows in the order of their first runs; one seed twice is a repetition and joins nothing."""
  groups: dict[str, list[RunFiles]] = {}
  for run in runs:
    groups.setdefault(same_model_key(run.config), []).append(run)
  rows = []
  for group in groups.values():
    if len({run.seeds for run in group}) == len(group):
      # In one order everywhere: rows of the same seeds are paired.
      rows.append(Replicates(tuple(sorted(group, key=_order_of_seeds))))
    else:
      rows += [Replicates((run,)) for run in group]
  return rows


def _order_of_seeds(run: RunFiles) -> list[int]:
  return [-1 if seed is None else seed for seed in run.seeds]


def _check_same_images(first: RunFiles, run: RunFiles):
  same = all(first.summary[key] == run.summary[key] for key in ("dataset", "image_shape"))
  same = same and first.summary["num_levels"] == run.summary["num_levels"]
  same = same and all(
    np.array_equal(first.nats[name], run.nats[name]) for name in ("index", "label")
  )
  if not same:
    raise UserError(
      f"{first.folder} and {run.folder} were evaluated on different test images, or in another"
      " order; compare runs of one data set and one test split."
    )
  if not np.array_equal(first.sources, run.sources):
    raise UserError(
      f"{first.folder} and {run.folder} disagree on which test images share a source; run the"
      " evaluate stage of both again."
    )


def is_one_network(layers: Sequence[Replicates]) -> bool:
  """Whether the rows invert different layers of one and the same network, seed by seed."""
  networks = [sorted(_network(run) for run in row.runs) for row in layers]
  distinct = len({run.layer for run in layers}) == len(layers)
  return distinct and all(network == networks[0] for network in networks)


def _network(run: RunFiles) -> str:
  """All that decides what the network became whose layer is inverted."""
  fields = {
    name: value
    for name, value in model_settings(run.config).items()
    if name.startswith(("classifier.", "data."))
  }
  return json.dumps(
    [run.seeds.classifier, fields, run.summary.get("classifier_step")], sort_keys=True
  )


def exceptions(comparison: SideBySide) -> list[Exceeds]:
  """Layers that score higher than one before them, where the verdict at 95% says so.

  Every decoder of a layer is one of all layers before it, so a higher score further down means that
  the model upstream is undertrained or handicapped.
  """
  found = []
  for place, downstream in enumerate(comparison.layers):
    for before, upstream in enumerate(comparison.layers[:place]):
      difference = comparison.difference(place, before)
      if difference.verdict == "higher":
        found.append(Exceeds(downstream, upstream, difference.estimate))
  return found


def comparison_rows(comparison: SideBySide, parent_dir: pathlib.Path) -> list[dict[str, Any]]:
  """One row a table's row, units in the names; None where a number does not exist."""
  rows = []
  for place, row in enumerate(comparison.rows):
    nce = row.nce
    low, high = nce.interval()
    codelength = -nce.mean
    rows.append(
      {
        "run": "; ".join(_relative_path(run, parent_dir) for run in row.runs),
        "layer": row.layer,
        "num_seeds": len(row.runs),
        "seeds_vary": " ".join(row.varied),
        **_fields("nce_nats", nce),
        "nce_nats_seed_error": nce.seed_error if len(row.runs) > 1 else None,
        **_fields("nce_mixture_nats", row.mixture if len(row.runs) > 1 else None),
        **_fields("nce_pixel_mixture_nats", row.pixel_mixture if len(row.runs) > 1 else None),
        "nce_nats_low": low,
        "nce_nats_high": high,
        "nce_relative_to_conv1": _relative(nce.mean, comparison.layers),
        "bits_per_dim": information.bits_per_dim(codelength, row.first.summary["image_shape"]),
        **_difference_to_previous(comparison, place),
        "nce_envelope_nats": _envelope(comparison.layers, place),
        **_information_estimate(comparison, place),
        "classifier_test_accuracy": row.mean("classifier_test_accuracy"),
        "inverter_steps": row.mean("inverter_steps"),
        "seconds": _total_seconds(row),
      }
    )
  return rows


def _relative_path(run: RunFiles, parent_dir: pathlib.Path) -> str:
  return os.path.relpath(run.folder, parent_dir).replace(os.sep, "/")


def _relative(nce_nats: float, layers: Sequence[Replicates]) -> float | None:
  """NCE over the magnitude of conv1's, as in the paper's figure 5a."""
  sizes = [abs(layer.nce.mean) for layer in layers if layer.layer == _REFERENCE]
  return nce_nats / sizes[0] if sizes and sizes[0] > 0 else None


def _difference_to_previous(comparison: SideBySide, place: int) -> dict[str, Any]:
  gain = verdict = None
  if 0 < place < len(comparison.layers):
    difference = comparison.difference(place, place - 1)
    gain, verdict = difference.estimate, difference.verdict
  return _fields("nce_minus_previous_nats", gain) | {"verdict_against_previous": verdict}


def _envelope(layers: Sequence[Replicates], place: int) -> float | None:
  """The best bound of a layer: its own or that of a layer computed from it."""
  if place >= len(layers) or not is_one_network(layers):
    return None
  return max(layer.nce.mean for layer in layers[place:])


def marginal_place(comparison: SideBySide) -> int:
  """The place of the best unconditional model, whose bound of H(x) is the closest."""
  places = range(len(comparison.layers), len(comparison.rows))
  return max(places, key=lambda place: comparison.rows[place].nce.mean)


def information_estimate(comparison: SideBySide, place: int) -> information.Estimate | None:
  """What a layer saves against p(x): both terms are upper bounds, so this is no bound.

  None for the unconditional models themselves, and where there is none.
  """
  if place >= len(comparison.layers) or not comparison.unconditional:
    return None
  return comparison.difference(place, marginal_place(comparison)).estimate


def _information_estimate(comparison: SideBySide, place: int) -> dict[str, Any]:
  return _fields("information_estimate_nats", information_estimate(comparison, place))


def _fields(name: str, estimate: information.Estimate | None) -> dict[str, float | None]:
  return estimate.fields(name) if estimate else {name: None, f"{name}_standard_error": None}


def _total_seconds(row: Replicates) -> float | None:
  seconds = [run.summary.get("seconds") for run in row.runs]
  totals = [sum(part.values()) if isinstance(part, dict) else part for part in seconds]
  return None if None in totals else sum(totals)
