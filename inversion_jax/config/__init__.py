"""Defaults, presets for each data set, variants, and checks of an experiment's configuration."""

from ml_collections import ConfigDict

from inversion_jax.config.defaults import BEST_STEP, NO_LAYER, default
from inversion_jax.config.presets import PRESETS, finish, for_layer, preset
from inversion_jax.config.saved import (
  FREE_FIELDS,
  classifier_identity,
  differences,
  leaves,
  restored,
)
from inversion_jax.config.validity import DTYPES, check

__all__ = [
  "BEST_STEP",
  "DTYPES",
  "FREE_FIELDS",
  "NO_LAYER",
  "PRESETS",
  "ConfigDict",
  "check",
  "classifier_identity",
  "default",
  "differences",
  "finish",
  "for_layer",
  "leaves",
  "preset",
  "restored",
]
