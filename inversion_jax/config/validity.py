"""Checks of a configuration, each ending in a sentence that names the field.

What a record knows of its own fields it says itself; here its words get the names of the
configuration.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from inversion_jax import inversion
from inversion_jax.config.defaults import BEST_STEP, MODELS, NO_LAYER, STORED_LAYER, is_file
from inversion_jax.data import datasets
from inversion_jax.features import classifiers, noise, wrappers
from inversion_jax.fitting.training import Recipe
from inversion_jax.machine import limits
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.limits import ABOVE_ZERO, FRACTION, NOT_NEGATIVE, Limit
from inversion_jax.models import sampling
from inversion_jax.models.optimisation import Descent

# Fields that belong to no record that checks itself.
LIMITS: dict[Limit, tuple[str, ...]] = {
  ABOVE_ZERO: (
    "classifier.network.num_filters",
    "classifier.network.kernel_size",
    "classifier.network.pool_sizes",
    "classifier.network.num_dense_units",
    "classifier.network.num_units",
    "decoder.network.num_filters",
    "decoder.network.num_blocks",
    "decoder.network.num_scales",
    "decoder.network.num_units",
    "gan.network.num_filters",
    "gan.network.num_scales",
    "gan.network.num_units",
    "gan.network.num_noise",
    "evaluate.batch_size",
    "brackets.sigmas",
    "sample.num_images",
    "sample.num_samples",
    "sample.batch_size",
    "neighbours.num_images",
    "neighbours.num_samples",
    "gallery.num_images",
    "gallery.num_samples",
  ),
  FRACTION: ("classifier.network.dropout_rate",),
  NOT_NEGATIVE: (
    "seed",
    "data.num_train",
    "data.num_validation",
    "data.num_test",
    "classifier.num_train",
    "classifier.snapshot_steps",
    "representation.sigma",
    "representation.bits",
    "gan.adversarial_weight",
    "gan.conditional_weight",
    "gan.entropy_weights",
    "perceptual.image_weight",
    "perceptual.feature_weight",
    "perceptual.adversarial_weight",
    "deepsim.image_weight",
    "deepsim.feature_weight",
    "deepsim.adversarial_weight",
    "gallery.entropy_weight",
    "evaluate.num_maps",
    "sample.num_given_rows",
    "neighbours.num_shown",
    "neighbours.num_many",
  ),
}


def check(config: ConfigDict) -> ConfigDict:
  """Returns `config`, or raises UserError naming the field. Runs after command-line overrides."""
  _check_layers(config)
  for limit, fields in LIMITS.items():
    for field in fields:
      limits.check_number(field, _value(config, field), limit)
  with _named(_inverter_field):
    inversion.network_of(config.to_dict())
  with _named("optimisation.{}".format):
    Descent(**config.optimisation)
  names = {field.name for field in dataclasses.fields(Recipe)}
  for model in MODELS:
    with _named(f"{model}.{{}}".format):
      Recipe(**{name: config[model][name] for name in names})
  limits.check_one_of("representation.control", config.representation.control, wrappers.CONTROLS)
  noise.make(config.representation.sigma, config.representation.bits)
  for bits in config.brackets.bits:
    limits.check_one_of("brackets.bits", bits, range(1, noise.MAX_BITS + 1))
  limits.check_one_of("sample.sampler", config.sample.sampler, sampling.SAMPLERS)
  if config.representation.step not in (BEST_STEP, *config.classifier.snapshot_steps):
    raise UserError(
      f"representation.step={config.representation.step} is not kept; use -1 for the best step or "
      f"one of classifier.snapshot_steps={tuple(config.classifier.snapshot_steps)}."
    )
  return config


def _check_layers(config):
  kind, name = config.classifier.network.kind, config.data.name
  limits.check_one_of("classifier.network.kind", kind, classifiers.LAYERS_OF_KIND)
  layers = (STORED_LAYER,) if is_file(name) else classifiers.LAYERS_OF_KIND[kind]
  for layer in (config.representation.layer, *config.layers):
    limits.check_one_of("representation.layer", layer, (NO_LAYER, *layers))
  if not is_file(name):
    limits.check_one_of("data.name", name, datasets.names())


def _value(config: ConfigDict, field: str) -> Any:
  for part in field.split("."):
    config = config[part]
  return config


@contextlib.contextmanager
def _named(field_of: Callable[[str], str]) -> Iterator[None]:
  """Gives the field that a record's sentence begins with its name in the configuration."""
  try:
    yield
  except UserError as error:
    name, _, rest = str(error).partition("=")
    raise UserError(f"{field_of(name)}={rest}") from error


def _inverter_field(name):
  if name == "dtype":
    return name
  if name == "filter_multiple":
    return f"inverter.{name}"
  if name in ("likelihood", "num_components", "min_log_scale"):
    return f"inverter.likelihood.{name.replace('likelihood', 'name')}"
  return f"inverter.network.{name}"
