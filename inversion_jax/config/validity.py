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
from inversion_jax.config.defaults import (
  BEST_STEP,
  MODELS,
  NO_LAYER,
  SEEDED,
  STORED_LAYER,
  default,
  is_file,
)
from inversion_jax.config.saved import leaves
from inversion_jax.data import loading
from inversion_jax.features import classifiers, noise, pairs, wrappers
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
    "decoder.network.taper",
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
    "data.num_train",
    "data.num_validation",
    "data.num_test",
    "classifier.num_train",
    "classifier.snapshot_steps",
    "representation.sigma",
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


# What the tuples hold, and how many of it where that is not free.
ELEMENTS: dict[str, tuple[type, int | None]] = {
  "layers": (str, None),
  "classifier.snapshot_steps": (int, None),
  "classifier.network.num_filters": (int, classifiers.NUM_CONV_LAYERS),
  "classifier.network.pool_sizes": (int, classifiers.NUM_CONV_LAYERS),
  "gan.entropy_weights": (float, None),
  "perceptual.comparator_layers": (str, None),
  "deepsim.comparator_layers": (str, None),
  "brackets.sigmas": (float, None),
  "brackets.bits": (int, None),
}
# More is a typing error.
MAX_SEEDS = 1_000
WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "True or False"}


def check(config: Any) -> ConfigDict:
  """Returns `config`, or raises UserError naming the field. Runs after command-line overrides.

  Args:
    config: what a file of configurations returned.
  """
  _check_types(config)
  _check_layers(config)
  limits.check_number("seed", config.seed, limits.SEED)
  _check_seeds(config)
  for limit, fields in LIMITS.items():
    for field in fields:
      limits.check_number(field, _value(config, field), limit)
  with named(inverter_field):
    inversion.network_of(config.to_dict())
  with named("optimisation.{}".format):
    Descent(**config.optimisation)
  names = {field.name for field in dataclasses.fields(Recipe)}
  for model in MODELS:
    with named(f"{model}.{{}}".format):
      Recipe(**{name: config[model][name] for name in names})
  limits.check_one_of(
    "classifier.network.padding", config.classifier.network.padding, classifiers.PADDINGS
  )
  limits.check_one_of("representation.control", config.representation.control, wrappers.CONTROLS)
  limits.check_number(
    "representation.bits", config.representation.bits, limits.within(0, noise.MAX_BITS)
  )
  with named("representation.{}".format):
    noise.make(config.representation.sigma, config.representation.bits)
  for bits in config.brackets.bits:
    limits.check_one_of("brackets.bits", bits, range(1, noise.MAX_BITS + 1))
  limits.check_one_of("sample.sampler", config.sample.sampler, sampling.SAMPLERS)
  for model in ("classifier", "inverter"):
    limits.check_one_of(f"{model}.half", config[model].half, (0, *pairs.HALVES))
  _check_step(config)
  if config.inverter.start_reader_from_decoder:
    _check_decoder(config)
  return config


def _check_types(config):
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"get_config of the --config file returns {type(config).__name__}; let it return a "
      "configuration, as the files in configs/ do."
    )
  expected, given = dict(leaves(default())), dict(leaves(config))
  for field in sorted(expected.keys() ^ given.keys()):
    has = "lacks the field" if field in expected else "has the unknown field"
    raise UserError(f"The configuration {has} {field}; begin it from config.default().")
  for field, default_value in expected.items():
    if field in ELEMENTS:
      _check_tuple(field, given[field])
    else:
      _check_type(field, given[field], type(default_value))


def _check_type(field, value, kind):
  # What is whole is a number as well; a truth value is neither.
  is_right = type(value) is kind or (kind is float and type(value) is int)
  if not is_right:
    raise UserError(f"{field}={value!r} must be {WORDS[kind]}.")


def _check_tuple(field, values):
  kind, length = ELEMENTS[field]
  if not isinstance(values, tuple):
    raise UserError(f"{field}={values!r} must be a tuple, such as ({values!r},).")
  for value in values:
    _check_type(field, value, kind)
  if length is not None and len(values) != length:
    raise UserError(f"{field}={values} must have {length} values, one for each convolution.")


def _check_seeds(config):
  for field in ("classifier.seed", "inverter.order_seed"):
    if _value(config, field) != limits.SAME_SEED:
      limits.check_number(field, _value(config, field), limits.SEED)
  limits.check_number("seeds", config.seeds, limits.within(1, MAX_SEEDS))
  limits.check_number("seed", config.seed + config.seeds - 1, limits.SEED)
  given = config.vary.split(",")
  for part in given:
    limits.check_one_of("vary", part, SEEDED)
  has_layer = config.representation.layer or config.layers
  if config.seeds > 1 and given == ["classifier"] and (not has_layer or is_file(config.data.name)):
    raise UserError(
      "vary=classifier leaves all replicates alike, since the run trains no classifier; vary the "
      "order or the inverter."
    )


def _check_step(config):
  step, section = config.representation.step, config.classifier
  if step not in (BEST_STEP, *section.snapshot_steps):
    raise UserError(
      f"representation.step={step} is not kept; use -1 for the best step or one of "
      f"classifier.snapshot_steps={tuple(section.snapshot_steps)}."
    )
  if step > section.num_steps:
    raise UserError(
      f"representation.step={step} is beyond classifier.num_steps={section.num_steps}; train for "
      "that long, or choose an earlier one."
    )


def _check_decoder(config):
  """The reader begins with the decoder's parts, so both must have the same."""
  network, decoder = config.inverter.network, config.decoder.network
  parts = {
    "residual": True,
    "num_filters": network.reader_filters,
    "num_blocks": network.reader_blocks,
    "num_scales": network.num_scales,
    "num_units": network.reader_units,
    "taper": network.reader_taper,
  }
  for name, value in parts.items():
    if decoder[name] != value:
      raise UserError(
        f"decoder.network.{name}={decoder[name]} must be {value}, as the reader's, for "
        "inverter.start_reader_from_decoder."
      )
  has_layer = config.representation.layer or config.layers
  if not has_layer or network.context != "decoder":
    raise UserError(
      "inverter.start_reader_from_decoder needs a layer and inverter.network.context=decoder."
    )


def _check_layers(config):
  kind, name = config.classifier.network.kind, config.data.name
  limits.check_one_of("classifier.network.kind", kind, classifiers.LAYERS_OF_KIND)
  layers = (STORED_LAYER,) if is_file(name) else classifiers.LAYERS_OF_KIND[kind]
  limits.check_one_of("representation.layer", config.representation.layer, (NO_LAYER, *layers))
  for place, layer in enumerate(config.layers):
    limits.check_one_of("layers", layer, layers)
    if layer in config.layers[:place]:
      raise UserError(f"layers={config.layers} has {layer} twice; name each layer once.")
  if not is_file(name):
    limits.check_one_of("data.name", name, loading.names())


def _value(config: ConfigDict, field: str) -> Any:
  for part in field.split("."):
    config = config[part]
  return config


@contextlib.contextmanager
def named(field_of: Callable[[str], str]) -> Iterator[None]:
  """Gives the field that a record's sentence begins with its name in the configuration."""
  try:
    yield
  except UserError as error:
    name, _, rest = str(error).partition("=")
    raise UserError(f"{field_of(name)}={rest}") from error


def inverter_field(name: str) -> str:
  """What the configuration calls a field of `inversion.Network`."""
  if name == "dtype":
    return name
  if name == "filter_multiple":
    return f"inverter.{name}"
  if name in ("likelihood", "num_components", "min_log_scale"):
    return f"inverter.likelihood.{name.replace('likelihood', 'name')}"
  return f"inverter.network.{name}"
