"""Configurations as run folders keep them: what may change in a folder, what runs may share."""

import dataclasses
import typing
from collections.abc import Iterator

import ml_collections
from ml_collections import ConfigDict

from inversion_jax import inversion
from inversion_jax.config.defaults import MODELS, default
from inversion_jax.config.seeds import classifier_seed
from inversion_jax.models.optimisation import Descent

# Fields that only say how long, how often or where: a later run of a folder may change them.
FREE_FIELDS = (
  "data.dir",
  *(f"{section}.{field}" for section in MODELS for field in inversion.FREE_FIELDS),
  "gan.entropy_weights",
  "inverter.filter_multiple",
  "inverter.codelength",
  "inverter.network.remat",
  "evaluate.batch_size",
  "brackets.sigmas",
  "brackets.bits",
  "evaluate.num_maps",
  "sample.num_images",
  "sample.num_samples",
  "sample.batch_size",
  "sample.sampler",
  "sample.num_given_rows",
  "neighbours.num_images",
  "neighbours.num_samples",
  "neighbours.num_shown",
  "neighbours.num_many",
  *(f"optimisation.{field.name}" for field in dataclasses.fields(Descent)),
  "gallery.num_images",
  "gallery.num_samples",
  "gallery.entropy_weight",
)


# What newer fields were in folders that do not name them, where their default is something else.
BEFORE = {f"inverter.network.{name}": value for name, value in inversion.BEFORE.items()}


def leaves(config: ConfigDict | dict, prefix: str = "") -> Iterator[tuple[str, typing.Any]]:
  """All fields as (dotted name, value); lists are given as tuples."""
  for name, value in sorted(config.items()):
    if isinstance(value, ml_collections.ConfigDict | dict):
      yield from leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value


def restored(saved: dict) -> ConfigDict:
  """The configuration that was written as `saved`; fields newer than it are as they were."""
  config = default()
  config.update_from_flattened_dict(BEFORE)
  for field, value in leaves(saved):
    config.update_from_flattened_dict({field: value})
  return config


def differences(saved: dict, config: ConfigDict) -> list[str]:
  """What `config` would change in a folder that was begun with `saved`, but may not, in words.

  A section that `saved` has not heard of belongs to a stage that cannot have run there.
  """
  # A field that is newer than the folder had its default there.
  old, new = dict(leaves(default())) | BEFORE | dict(leaves(saved)), dict(leaves(config))
  new_sections = {name for name in config if isinstance(config[name], ConfigDict)} - saved.keys()
  return [
    f"{field} is {old.get(field)!r} there and {new.get(field)!r} here"
    for field in sorted(old.keys() | new.keys())
    if field not in FREE_FIELDS
    and field.partition(".")[0] not in new_sections
    and old.get(field) != new.get(field)
  ]


def classifier_identity(config: ConfigDict | dict) -> dict[str, typing.Any]:
  """All that decides what the classifier becomes: runs that agree in it can share one."""
  # A field that is newer than a folder had its default there.
  fields = dict(leaves(default())) | dict(leaves(config))
  decisive = {
    field: value
    for field, value in fields.items()
    if field.startswith("classifier.")
    or (field.startswith("data.") and field not in ("data.dir", "data.num_test"))
  }
  return decisive | {"classifier.seed": classifier_seed(config)}
