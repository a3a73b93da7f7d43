"""What a report knows of a run: the files of its folder, read and checked."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from inversion_jax import information
from inversion_jax.information import mixtures
from inversion_jax.machine import limits, storage
from inversion_jax.machine.errors import UserError

UNCONDITIONAL = "none"  # `layer` in summary.json of the model p(x), which sees no representation

# Patterns of fields that do not change what the inverter learns: places, ways to compute the same,
# and what is done beside it or afterwards. Another seed is another draw of the same model.
NOT_THE_MODEL = (
  "seed",
  "seeds",
  "vary",
  "classifier.seed",
  "inverter.order_seed",
  "data.dir",
  "data.num_test",
  "*.log_every",
  "*.num_microbatches",
  "inverter.filter_multiple",
  "inverter.codelength",
  "inverter.network.remat",
  "decoder.*",
  "gan.*",
  "perceptual.*",
  "deepsim.*",
  "gated.*",
  "optimisation.*",
  "gallery.*",
  "evaluate.*",
  "sample.*",
  "neighbours.*",
  "brackets.*",
)

# Fields of a summary, and what they are.
_REQUIRED = {
  "dataset": str,
  "layer": str,
  "num_levels": int,
  "image_shape": list,
  "nce_nats": int | float,
  "nce_nats_standard_error": int | float,
  "bits_per_dim": int | float,
}


# Where a run says that a part has a seed of its own, in the order of `Seeds`.
SEED_FIELDS = (("classifier", "seed"), ("inverter", "order_seed"))


class Seeds(NamedTuple):
  """What a run derived its random choices from, part by part."""

  classifier: int | None
  order: int | None
  inverter: int | None


def _own_seed(config, section, field, seed):
  found = config.get(section, {}).get(field, limits.SAME_SEED)
  return seed if found == limits.SAME_SEED else found


class RunFiles(NamedTuple):
  """The files of one run folder; all rows are test images, every image once."""

  folder: pathlib.Path
  config: dict[str, Any]
  summary: dict[str, Any]
  nats: dict[str, np.ndarray]  # `index`, `label`, `nats`, perhaps `live_nats` and `source`
  samples: dict[str, np.ndarray]  # empty before the sample stage
  metrics: list[dict[str, Any]]
  # `index`, `image`, `nats` of some images, `mean_nats` of all; empty in runs older than these
  maps: dict[str, np.ndarray]
  checks: list[dict[str, Any]]  # empty before the checks stage

  @property
  def layer(self) -> str:
    """The inverted layer, or "none" for the unconditional model."""
    return self.summary["layer"]

  @property
  def layer_name(self) -> str:
    """The layer as a person reads it."""
    return "none (p(x))" if self.layer == UNCONDITIONAL else self.layer

  @property
  def seeds(self) -> Seeds:
    """From which every random choice of the run was derived; None where none is known."""
    seed = self.config.get("seed")
    return Seeds(*(_own_seed(self.config, *field, seed) for field in SEED_FIELDS), seed)

  @property
  def sources(self) -> np.ndarray:
    """What each test image was made from; rows of one source are not independent."""
    return self.nats.get("source", self.nats["index"])

  @property
  def nce(self) -> information.Estimate:
    """The negative cross entropy in nats per image."""
    return information.mean_with_error(-self.nats["nats"], self.sources)

  def gain_over(self, other: "RunFiles") -> information.Estimate:
    """NCE of this run minus NCE of `other`, in nats per image, paired image by image."""
    return information.paired_difference(other.nats["nats"], self.nats["nats"], self.sources)


class Replicates(NamedTuple):
  """Runs of one model with different seeds: one row of a comparison, usually of one run."""

  runs: tuple[RunFiles, ...]

  @property
  def first(self) -> RunFiles:
    """The run that stands for the others where they agree."""
    return self.runs[0]

  @property
  def layer(self) -> str:
    """The inverted layer, or "none" for the unconditional model."""
    return self.first.layer

  @property
  def seeds(self) -> tuple[Seeds, ...]:
    """Of each run, in order."""
    return tuple(run.seeds for run in self.runs)

  @property
  def varied(self) -> tuple[str, ...]:
    """The parts whose seeds differ from run to run; of p(x) there is no classifier."""
    parts = [part for part in Seeds._fields if part != "classifier" or self.layer != UNCONDITIONAL]
    return tuple(part for part in parts if len({getattr(s, part) for s in self.seeds}) > 1)

  @property
  def nce_by_seed(self) -> np.ndarray:
    """log p(x given h) in nats of each test image under the model of each seed."""
    return -np.stack([run.nats["nats"] for run in self.runs]).astype(np.float64)

  @property
  def sources(self) -> np.ndarray:
    """As of a run."""
    return self.first.sources

  @property
  def nce(self) -> information.Estimate:
    """The negative cross entropy in nats per image; several seeds count in its error."""
    return information.mean_over_seeds(self.nce_by_seed, self.sources)

  @property
  def mixture(self) -> information.Estimate:
    """NCE of the runs' models as one density, in nats per image; its error is that of images."""
    return information.mean_with_error(-mixtures.mixture_nats(-self.nce_by_seed), self.sources)

  @property
  def pixel_mixture(self) -> information.Estimate | None:
    """As `mixture`, of the mean of the probabilities of each pixel; None without all maps."""
    maps = [run.maps.get("nats", np.zeros(0)) for run in self.runs]
    if any(len(nats_NHW) != len(self.sources) for nats_NHW in maps):
      return None
    nats_MNP = np.stack([nats_NHW.reshape(len(nats_NHW), -1) for nats_NHW in maps])
    nats_N = mixtures.nats_along(nats_MNP, share=1.0).sum(1)
    return information.mean_with_error(-nats_N, self.sources)

  def mean(self, key: str) -> float | int | None:
    """The mean over seeds of a number in the summary; None where one lacks it."""
    values = [run.summary.get(key) for run in self.runs]
    if None in values:
      return None
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def settings(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
  """All fields of a nested configuration under the dotted names that the command line takes."""
  fields = []
  for name, value in config.items():
    if isinstance(value, Mapping):
      fields += settings(value, f"{prefix}{name}.")
    else:
      fields.append((prefix + name, value))
  return fields


def model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that decide, with the seed, what the inverter learns, under their dotted names.

  What is off (0, "" or empty) is left out: a run older than a field does not have it.
  """
  return {
    name: value
    for name, value in settings(config)
    if value not in (0, "", []) and not any(fnmatchcase(name, field) for field in NOT_THE_MODEL)
  }


def same_model_key(config: Mapping[str, Any]) -> str:
  """Equal for configurations of one model, whose runs differ in nothing but their seed."""
  return json.dumps(model_settings(config), sort_keys=True)


def read_run(run_dir: pathlib.Path) -> RunFiles:
  """Reads a run folder that has been evaluated.

  Raises:
    UserError: a file is missing or damaged, or the files belong to different evaluations.
  """
  samples_path, maps_path = run_dir / storage.SAMPLES, run_dir / storage.MAPS
  checks_path = run_dir / storage.CHECKS
  run = RunFiles(
    folder=run_dir,
    config=storage.read_record(run_dir / storage.CONFIG),
    summary=storage.read_record(run_dir / storage.SUMMARY),
    nats=storage.read_npz(run_dir / storage.NATS),
    samples=storage.read_npz(samples_path) if samples_path.exists() else {},
    metrics=storage.read_metrics(run_dir / storage.METRICS),
    maps=storage.read_npz(maps_path) if maps_path.exists() else {},
    checks=storage.read_json(checks_path) if checks_path.exists() else [],
  )
  _check(run)
  return run


def _check_types(run: RunFiles):
  """What other programs may have written: arrays of one number an image, and words and numbers."""
  for name, array in run.nats.items():
    kinds = "f" if name.endswith("nats") else "iu"
    if array.ndim != 1 or array.dtype.kind not in kinds:
      raise UserError(
        f"{run.folder / storage.NATS} holds {name} as {array.dtype} of shape {array.shape}, not "
        "one number an image; run the evaluate stage again."
      )
  for name, kind in _REQUIRED.items():
    value = run.summary.get(name)
    if name in run.summary and (isinstance(value, bool) or not isinstance(value, kind)):
      raise UserError(
        f"{run.folder / storage.SUMMARY} has {name}={value!r}, which cannot be; run the evaluate "
        "stage again."
      )


def _check(run: RunFiles):
  _check_types(run)
  lengths = {name: len(run.nats.get(name, ())) for name in ("index", "label", "nats")}
  if len(set(lengths.values())) > 1:
    raise UserError(
      f"{run.folder / storage.NATS} lacks index, label or nats of some images; delete it and run"
      " the evaluate stage again."
    )
  missing = [key for key in _REQUIRED if key not in run.summary]
  if missing:
    raise UserError(
      f"{run.folder / storage.SUMMARY} lacks {', '.join(missing)}; delete it and run the evaluate"
      " stage again."
    )
  for name, value in _following(run).items():
    said = run.summary.get(name, value)
    # Room for a summary averaged in single precision.
    if not isinstance(said, int | float) or not math.isclose(said, value, rel_tol=1e-5):
      raise UserError(
        f"{run.folder / storage.SUMMARY} says {name}={said}, but from {storage.NATS} follows"
        f" {value:.8g}; delete it and run the evaluate stage again."
      )
  if run.maps and not _maps_agree(run):
    raise UserError(
      f"{run.folder / storage.MAPS} belongs to another evaluation than {storage.NATS}; delete it"
      " and run the evaluate stage again."
    )


def _following(run: RunFiles) -> dict[str, Any]:
  """The numbers of a summary that follow from the nats."""
  nce = run.nce
  numbers = {
    "num_test_images": len(run.nats["nats"]),
    "nce_nats": nce.mean,
    "nce_nats_standard_error": nce.standard_error,
    "bits_per_dim": information.bits_per_dim(-nce.mean, run.summary["image_shape"]),
  }
  if "live_nats" in run.nats:
    live = information.mean_with_error(-run.nats["live_nats"], run.sources)
    numbers |= {
      "nce_live_nats": live.mean,
      "nce_live_nats_standard_error": live.standard_error,
    }
  return numbers


def _maps_agree(run: RunFiles) -> bool:
  """Whether the pixels of every map add up to the image's nats, and those of the mean to theirs."""
  nats_N = run.nats["nats"]
  rows_n = rows_of(run.nats["index"], run.maps["index"])
  sums_n = run.maps["nats"].sum((1, 2), dtype=np.float64)
  close = {"rtol": 1e-4, "atol": 1e-4}
  return np.allclose(sums_n, nats_N[rows_n], **close) and np.allclose(
    run.maps["mean_nats"].sum(), nats_N.mean(), **close
  )


def rows_of(index_N: np.ndarray, wanted_n: np.ndarray) -> np.ndarray:
  """Where each of `wanted_n` stands in `index_N`; any row for one that is not in it."""
  order = np.argsort(index_N, kind="stable")
  places = np.searchsorted(index_N, wanted_n, sorter=order)
  return order[np.minimum(places, len(index_N) - 1)]


def curve(metrics: Iterable[dict[str, Any]], stage: str, key: str) -> tuple[list, list]:
  """(steps, values) of one quantity, in order of steps.

  A resumed run repeats the steps since its last checkpoint; the later line is the one it went on
  from.
  """
  value_at = {
    record["step"]: record[key]
    for record in metrics
    if record.get("stage") == stage and record.get(key) is not None
  }
  steps = sorted(value_at)
  return steps, [value_at[step] for step in steps]
