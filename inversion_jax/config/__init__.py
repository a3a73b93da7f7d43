"""Defaults, presets for each data set, variants, and checks of an experiment's configuration."""

from ml_collections import ConfigDict

from inversion_jax.config.defaults import BEST_STEP, NO_LAYER, STORED_LAYER, default, is_file
from inversion_jax.config.fields import set_field
from inversion_jax.config.files import file_of
from inversion_jax.config.presets import PRESETS, finish, for_layer, preset, with_recipe_of
from inversion_jax.config.saved import (
  FREE_FIELDS,
  classifier_identity,
  differences,
  leaves,
  restored,
)
from inversion_jax.config.seeds import classifier_seed, order_seed, replicates
from inversion_jax.config.validity import check, inverter_field, named

__all__ = [
  "BEST_STEP",
  "FREE_FIELDS",
  "NO_LAYER",
  "PRESETS",
  "STORED_LAYER",
  "ConfigDict",
  "check",
  "classifier_identity",
  "classifier_seed",
  "default",
  "differences",
  "file_of",
  "finish",
  "for_layer",
  "inverter_field",
  "is_file",
  "leaves",
  "named",
  "order_seed",
  "preset",
  "replicates",
  "restored",
  "set_field",
  "with_recipe_of",
]
