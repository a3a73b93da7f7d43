"""Checks of a configuration, each ending in a sentence that names the field."""

from ml_collections import ConfigDict

from inversion_jax.config.defaults import BEST_STEP, NO_LAYER
from inversion_jax.config.saved import leaves
from inversion_jax.data import datasets
from inversion_jax.features import classifiers, noise, representations
from inversion_jax.fitting import training
from inversion_jax.machine.errors import UserError
from inversion_jax.models import contexts, likelihoods, pixelcnn, sampling

DTYPES = ("float32", "bfloat16")


def check(config: ConfigDict) -> ConfigDict:
  """Returns `config`, or raises UserError naming the field. Runs after command-line overrides."""
  layers = classifiers.LAYERS_OF_KIND.get(config.classifier.network.kind)
  _one_of("classifier.network.kind", config.classifier.network.kind, classifiers.LAYERS_OF_KIND)
  for layer in (config.representation.layer, *config.layers):
    _one_of("representation.layer", layer, (NO_LAYER, *layers))
  _one_of("dtype", config.dtype, DTYPES)
  _one_of("inverter.network.context", config.inverter.network.context, contexts.MODES)
  _one_of(
    "inverter.network.resize_method",
    config.inverter.network.resize_method,
    contexts.RESIZE_METHODS,
  )
  _one_of("inverter.network.remat", config.inverter.network.remat, pixelcnn.REMATS)
  _one_of("inverter.likelihood.name", config.inverter.likelihood.name, likelihoods.NAMES)
  control = config.representation.control
  _one_of("representation.control", control, representations.CONTROLS)
  noise.make(config.representation.sigma, config.representation.bits)
  for bits in config.brackets.bits:
    _one_of("brackets.bits", bits, range(1, noise.MAX_BITS + 1))
  _one_of("sample.sampler", config.sample.sampler, sampling.SAMPLERS)
  _one_of("data.name", config.data.name, datasets.names())
  for section in ("classifier", "inverter", "decoder", "gan"):
    _one_of(f"{section}.decay", config[section].decay, training.DECAYS)
    _one_of(f"{section}.algorithm", config[section].algorithm, training.ALGORITHMS)
  if config.representation.step not in (BEST_STEP, *config.classifier.snapshot_steps):
    raise UserError(
      f"representation.step={config.representation.step} is not kept; use -1 for the best step or "
      f"one of classifier.snapshot_steps={tuple(config.classifier.snapshot_steps)}."
    )
  _check_numbers(config)
  return config


def _one_of(field, value, admitted):
  if value not in admitted:
    names = ", ".join(repr(name) for name in admitted)
    raise UserError(f"{field}={value!r} is not one of {names}.")


POSITIVE = ("batch_size", "num_microbatches", "num_steps", "learning_rate")
POSITIVE += ("log_every", "validate_every")
POSITIVE += ("filter_multiple", "num_filters", "num_blocks", "num_scales", "num_components")
POSITIVE += ("num_images", "num_samples", "num_noise", "num_units", "num_dense_units")
POSITIVE += ("reader_filters", "reader_blocks", "reader_units")
POSITIVE += ("kernel_size", "pool_sizes", "sigmas")
RATES = ("dropout_rate", "context_dropout_rate", "reader_dropout_rate")
RATES += ("ema_decay", "adam_b1", "adam_b2")
NOT_NEGATIVE = ("num_train", "num_validation", "num_test", "patience", "seed", "snapshot_steps")
NOT_NEGATIVE += ("warmup_steps", "clip_norm", "weight_decay")
NOT_NEGATIVE += ("num_given_rows", "num_maps", "num_shown", "num_many")
NOT_NEGATIVE += ("adversarial_weight", "conditional_weight", "entropy_weights")


def _check_numbers(config):
  for path, value in leaves(config):
    name = path.rpartition(".")[-1]
    values = value if isinstance(value, tuple) else (value,)
    if name in POSITIVE and not all(number > 0 for number in values):
      raise UserError(f"{path}={value} must be above zero.")
    if name in RATES and not all(0 <= number < 1 for number in values):
      raise UserError(f"{path}={value} must be at least 0 and below 1.")
    if name in NOT_NEGATIVE and not all(number >= 0 for number in values):
      raise UserError(f"{path}={value} must not be below zero.")
