"""An inverter's files in a run folder: what it was begun with, and how it is read again."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inversion_jax.features import noise, sources, wrappers
from inversion_jax.features.pairs import Pairs
from inversion_jax.features.wrappers import Standardiser
from inversion_jax.fitting import sessions
from inversion_jax.fitting.training import Recipe
from inversion_jax.inversion import sharing
from inversion_jax.inversion.model import NAME, Inversion
from inversion_jax.inversion.networks import BEFORE, MODULE_FIELDS, Network, param_shapes
from inversion_jax.inversion.observed import AS_IT_IS, Observed
from inversion_jax.machine import notes, placement, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.results import UNCONDITIONAL

STATISTICS = "representation.npz"
# How the folders of replicates are named, before their seed.
REPLICATE = "seed_"
# What a folder that `fit` has begun may change.
FREE_FIELDS = ("num_steps", "log_every", "validate_every", "patience", "num_microbatches")
MADE_BY_FIT = "inversion_jax.fit"
NUM_DIGEST_IMAGES = 128


def begin(folder: pathlib.Path, begun_with: dict[str, Any]):
  """Claims the folder, or raises UserError if it belongs to something else."""
  path = folder / storage.CONFIG
  if path.exists():
    before = storage.read_record(path)
    changes = [name for name in begun_with if _fixed(before.get(name)) != _fixed(begun_with[name])]
    if changes:
      raise UserError(
        f"{folder} belongs to another fit (other {', '.join(changes)}); choose another folder or "
        "delete that one."
      )
  storage.write_json(path, begun_with)


def _fixed(section):
  """What may not change in a folder."""
  if not isinstance(section, dict):
    return section
  fixed = {name: value for name, value in section.items() if name not in FREE_FIELDS}
  return fixed | {"network": BEFORE | fixed["network"]} if "network" in fixed else fixed


def settings(train: Pairs, network: Network, recipe: Recipe, seed: int) -> dict[str, Any]:
  """What `config.json` of a folder that `fit` makes holds, under a run's own names of fields."""
  fields = dataclasses.asdict(network)
  digest = hashlib.blake2b(np.ascontiguousarray(train.images).tobytes(), digest_size=8)
  if train.features:
    rows = slice(NUM_DIGEST_IMAGES)
    h = train.features.fetch(train.images[rows], train.index[rows])
    digest.update(np.ascontiguousarray(h).tobytes())
  return {
    "made_by": MADE_BY_FIT,
    "seed": seed,
    "dtype": fields["dtype"],
    "data": {"name": train.dataset, "num_train": len(train), "digest": digest.hexdigest()},
    "representation": {"layer": train.features.name if train.features else ""},
    "inverter": {
      **dataclasses.asdict(recipe),
      "filter_multiple": fields["filter_multiple"],
      "likelihood": {
        "name": fields["likelihood"],
        "num_components": fields["num_components"],
        "min_log_scale": fields["min_log_scale"],
      },
      "network": {name: fields[name] for name in MODULE_FIELDS},
    },
  }


def network_of(config: Mapping[str, Any]) -> Network:
  """The network that a run's configuration describes; fields newer than it have their defaults."""
  section = config["inverter"]
  likelihood = dict(section["likelihood"])
  return Network(
    **BEFORE | section["network"],
    likelihood=likelihood.pop("name"),
    **likelihood,
    filter_multiple=section.get("filter_multiple", 1),
    dtype=config["dtype"],
  )


def _recipe_of(section):
  names = {field.name for field in dataclasses.fields(Recipe)}
  return Recipe(**{name: value for name, value in section.items() if name in names})


def fit_statistics(
  train: Pairs,
  folder: pathlib.Path | None,
  batch_size: int = sources.BATCH_SIZE,
  facts: Mapping[str, np.ndarray] | None = None,
) -> Standardiser:
  """Mean and spread of h over the training pairs, or as the folder has them; kept there.

  Args:
    train: pairs with h.
    folder: a run folder; None keeps nothing.
    batch_size: images at a time.
    facts: what is kept beside them.
  """
  if folder and (folder / STATISTICS).exists():
    return saved_standardiser(folder)
  found = wrappers.fit_standardiser(train.features, train.images, train.index, batch_size)
  if folder:
    storage.write_npz(folder / STATISTICS, {**found._asdict(), **(facts or {})})
  return found


def saved_standardiser(folder: pathlib.Path) -> Standardiser:
  """The standardisation that the models of a folder were begun with."""
  statistics = storage.read_npz(folder / STATISTICS)
  return Standardiser(statistics["mean_Z"], statistics["std_Z"])


def load(folder: str | pathlib.Path) -> Inversion:
  """The trained model of a folder: of `fit`, of the command line, or of `model.save`.

  Raises:
    UserError: it is not the folder of a run with a finished inverter, or a file is damaged.
  """
  folder = pathlib.Path(folder)
  if not (folder / storage.CONFIG).exists():
    raise UserError(f"{folder} is not the folder of a run: it has no {storage.CONFIG}.")
  if sharing.is_saved(folder):
    return sharing.loaded(folder)
  config, note = storage.read_record(folder / storage.CONFIG), notes.finished(folder, NAME)
  if "image_shape" not in note:
    # Of a version that did not note them.
    summary = storage.read_json(folder / storage.SUMMARY)
    shapes = summary["image_shape"], summary["num_levels"], summary["representation_shape"]
    note |= dict(zip(("image_shape", "num_levels", "h_shape"), shapes, strict=True))
  h_shape = None if note["h_shape"] is None else tuple(note["h_shape"])
  observed = AS_IT_IS
  if h_shape:
    section = config["representation"]
    channel = noise.make(section.get("sigma", 0.0), section.get("bits", 0))
    observed = Observed(saved_standardiser(folder), channel)
  return restored(
    folder,
    image_shape=tuple(note["image_shape"]),
    num_levels=note["num_levels"],
    h_shape=h_shape,
    observed=observed,
  )


def restored(
  folder: pathlib.Path,
  *,
  image_shape: Sequence[int],
  num_levels: int,
  h_shape: Sequence[int] | None,
  observed: Observed,
) -> Inversion:
  """The trained model of a folder whose shapes are known; the optimiser's state is not read.

  Args:
    folder: of a run with a finished inverter.
    image_shape, num_levels: of its images.
    h_shape: of the h of one image; None for p(x).
    observed: how h reaches it.
  """
  config, note = storage.read_record(folder / storage.CONFIG), notes.finished(folder, NAME)
  network = network_of(config)
  inverter = network.inverter(num_levels, image_shape[-1])
  like = placement.replicated_shapes(param_shapes(inverter, image_shape, h_shape))
  parts = sessions.saved_parts(
    folder, NAME, note["best_step"], {"ema_params": like, "params": like}
  )
  return Inversion(
    inverter=inverter,
    params=parts["ema_params"],
    live_params=parts["params"],
    observed=observed,
    layer=config["representation"]["layer"] or UNCONDITIONAL,
    image_shape=tuple(image_shape),
    num_levels=num_levels,
    h_shape=h_shape,
    seed=config["seed"],
    note=note,
    recipe=_recipe_of(config["inverter"]),
    batch_size=placement.rounded_up(config.get("evaluate", {}).get("batch_size", 250)),
    folder=folder,
  )
