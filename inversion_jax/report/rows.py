"""The numbers of a comparison: one row a run, and what their order says."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from inversion_jax import information
from inversion_jax.errors import UserError
from inversion_jax.report.runs import UNCONDITIONAL, Run

_REFERENCE = "conv1"


class Comparison(NamedTuple):
  """Runs of the same test images, row by row; `layers` run from the input to the output."""

  layers: list[Run]
  unconditional: list[Run]

  @property
  def runs(self) -> list[Run]:
    """All runs in the order of the table."""
    return self.layers + self.unconditional

  @property
  def names(self) -> list[str]:
    """One name a run; runs of one layer are told apart by their folders."""
    plain = [run.layer_name for run in self.runs]
    return [
      name if plain.count(name) == 1 else f"{name} ({run.folder.resolve().name})"
      for name, run in zip(plain, self.runs, strict=True)
    ]


class Exceeds(NamedTuple):
  """A layer that scores higher than one before it, by `gain` nats per image."""

  downstream: Run
  upstream: Run
  gain: information.Estimate


def compare(runs: Sequence[Run]) -> Comparison:
  """Puts runs side by side, unconditional models last.

  Raises:
    UserError: no runs, or runs of different test images.
  """
  if not runs:
    raise UserError("A comparison needs at least one run folder; none was given.")
  for run in runs[1:]:
    _check_same_images(runs[0], run)
  return Comparison(
    [run for run in runs if run.layer != UNCONDITIONAL],
    [run for run in runs if run.layer == UNCONDITIONAL],
  )


def _check_same_images(first: Run, run: Run):
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


def nce_gain(upstream: Run, run: Run) -> information.Estimate:
  """NCE(run) - NCE(upstream) in nats per image, paired image by image."""
  return information.paired_difference(upstream.nats["nats"], run.nats["nats"], upstream.sources)


def is_one_network(layers: Sequence[Run]) -> bool:
  """Whether the runs invert different layers of one and the same network."""
  networks = [
    (run.config.get("classifier"), run.config.get("data"), run.summary.get("classifier_step"))
    for run in layers
  ]
  distinct = len({run.layer for run in layers}) == len(layers)
  return distinct and all(network == networks[0] for network in networks)


def exceptions(layers: Sequence[Run]) -> list[Exceeds]:
  """Layers that score higher than one before them, where the 95% interval says so.

  Every decoder of a layer is one of all layers before it, so a higher score further down means that
  the model upstream is undertrained or handicapped.
  """
  found = []
  for place, downstream in enumerate(layers):
    for upstream in layers[:place]:
      gain = nce_gain(upstream, downstream)
      if information.verdict(gain) == "higher":
        found.append(Exceeds(downstream, upstream, gain))
  return found


def comparison_rows(comparison: Comparison, parent_dir: pathlib.Path) -> list[dict[str, Any]]:
  """One row a run, units in the names; None where a number does not exist."""
  rows = []
  for place, run in enumerate(comparison.runs):
    rows.append(
      {
        "run": os.path.relpath(run.folder, parent_dir).replace(os.sep, "/"),
        "layer": run.layer,
        "nce_nats": run.summary["nce_nats"],
        "nce_nats_standard_error": run.summary["nce_nats_standard_error"],
        "nce_relative_to_conv1": _relative(run, comparison.layers),
        "bits_per_dim": run.summary["bits_per_dim"],
        **_difference_to_previous(comparison, place),
        "nce_envelope_nats": _envelope(comparison.layers, place),
        **_information_estimate(comparison, place),
        "classifier_test_accuracy": run.summary.get("classifier_test_accuracy"),
        "inverter_steps": run.summary.get("inverter_steps"),
        "seconds": _total_seconds(run),
      }
    )
  return rows


def _relative(run: Run, layers: Sequence[Run]) -> float | None:
  """NCE over the magnitude of conv1's, as in the paper's figure 5a."""
  sizes = [abs(layer.summary["nce_nats"]) for layer in layers if layer.layer == _REFERENCE]
  return run.summary["nce_nats"] / sizes[0] if sizes and sizes[0] > 0 else None


def _difference_to_previous(comparison: Comparison, place: int) -> dict[str, Any]:
  gain = verdict = None
  if 0 < place < len(comparison.layers):
    gain = nce_gain(comparison.layers[place - 1], comparison.layers[place])
    verdict = information.verdict(gain)
  return _fields("nce_minus_previous_nats", gain) | {"verdict_against_previous": verdict}


def _envelope(layers: Sequence[Run], place: int) -> float | None:
  """The best bound of a layer: its own or that of a layer computed from it."""
  if place >= len(layers) or not is_one_network(layers):
    return None
  return max(layer.summary["nce_nats"] for layer in layers[place:])


def _information_estimate(comparison: Comparison, place: int) -> dict[str, Any]:
  """What a layer saves against p(x): both terms are upper bounds, so this is no bound."""
  gain = None
  if place < len(comparison.layers) and comparison.unconditional:
    gain = nce_gain(comparison.unconditional[0], comparison.layers[place])
  return _fields("information_estimate_nats", gain)


def _fields(name: str, estimate: information.Estimate | None) -> dict[str, float | None]:
  mean, standard_error, _ = estimate or (None, None, None)
  return {name: mean, f"{name}_standard_error": standard_error}


def _total_seconds(run: Run) -> float | None:
  seconds = run.summary.get("seconds")
  return sum(seconds.values()) if isinstance(seconds, dict) else seconds
