"""Defaults, presets for each data set, variants, and checks of an experiment's configuration."""

import dataclasses
import typing
from collections.abc import Callable, Iterator

import ml_collections
from ml_collections import ConfigDict

from inversion_jax import (
  channels,
  classifiers,
  contexts,
  datasets,
  gans,
  likelihoods,
  pixelcnn,
  representations,
  sampling,
  training,
)
from inversion_jax.decoders import Decoder
from inversion_jax.errors import UserError

# Fields that only say how long, how often or where: a later run of a folder may change them.
FREE_FIELDS = (
  "data.dir",
  *(
    f"{section}.{field}"
    for section in ("classifier", "inverter", "decoder", "gan")
    for field in ("num_steps", "log_every", "validate_every", "patience", "num_microbatches")
  ),
  "gan.entropy_weights",
  "inverter.filter_multiple",
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
)
DTYPES = ("float32", "bfloat16")
NO_LAYER = ""
BEST_STEP = -1


def default() -> ConfigDict:
  """The configuration that every file of `configs/` starts from: the paper's, on MNIST."""
  config = ConfigDict()
  config.seed = 0
  config.dtype = "float32"  # of the inverter's activations; "bfloat16" for accelerators
  config.layers = ()  # several layers: one run for each, compared
  config.data = ConfigDict(
    {
      "name": "mnist",
      "dir": "",  # "" is $TFDS_DATA_DIR, or ~/tensorflow_datasets
      "num_train": 0,  # use the first images alone; 0 is all
      "num_validation": 0,
      "num_test": 0,
    }
  )
  config.classifier = _recipe(learning_rate=3e-4, decay="none", ema_decay=0.0, batch_size=128)
  config.classifier.update(
    {
      "patience": 20,
      "num_train": 0,  # train the classifier on the first images alone; 0 is all
      "snapshot_steps": (0, 100, 1_000, 10_000, 100_000),
    }
  )
  config.classifier.network = _fields_of(
    classifiers.Classifier, kind="conv", without=("num_classes", "num_levels")
  )
  config.representation = ConfigDict(
    {
      "layer": "conv2",  # "" is no layer: the unconditional model p(x)
      "step": BEST_STEP,  # of the classifier: one of its snapshot_steps, or -1, its best
      "control": "",  # of the checks: "shuffled", "permuted", "pixels" or "top_rows" in place of h
      "sigma": 0.0,  # noise on each standardised unit of h, which makes I(x; h) a real quantity
      "bits": 0,  # or few bits for each unit
    }
  )
  config.inverter = _recipe()
  # Filters are rounded up to a multiple while training; it is the same model. 64 is for GPUs.
  config.inverter.filter_multiple = 1
  config.inverter.likelihood = ConfigDict(
    {"name": "auto", "num_components": 10, "min_log_scale": -7.0}
  )
  # Folder of a trained p(x) with the same network, to begin from in place of random weights.
  config.inverter.start_from = ""
  config.inverter.network = ConfigDict(
    {
      "num_filters": 64,
      "num_blocks": 3,
      "num_scales": 3,
      "dropout_rate": 0.5,
      "context": "projection",  # the paper's; or "encoder"
      "context_dropout_rate": 0.0,
      "resize_method": "bilinear",
      "remat": "",  # computed again to save memory: "elementwise" or "blocks"; not felt on CPUs
    }
  )
  config.decoder = _recipe(num_steps=20_000, decay="cosine", ema_decay=0.999)
  config.decoder.network = _fields_of(Decoder, without=("num_channels",))
  config.gan = _gan()
  config.evaluate = ConfigDict(
    {
      "batch_size": 128,
      "num_maps": 1_000,  # test images whose nats are kept pixel by pixel
    }
  )
  config.brackets = ConfigDict(  # of the brackets stage, one further inverter for each channel
    {"sigmas": (0.1, 0.3, 1.0, 3.0), "bits": (1, 3)}
  )
  config.sample = ConfigDict(
    {
      "num_images": 10,
      "num_samples": 8,
      "batch_size": 80,
      "sampler": "auto",  # or "cached" (what auto is), "fixed_point", "ancestral"
      "num_given_rows": 0,  # complete the test images from their first rows
    }
  )
  # Table 1 compares the first test images with so many samples each.
  # Figure 2 shows the closest of `num_many` samples of the first `num_shown`; 0 is none.
  config.neighbours = ConfigDict(
    {"num_images": 500, "num_samples": 10, "num_shown": 8, "num_many": 0}
  )
  return config


def _recipe(**changes) -> ConfigDict:
  return ConfigDict(dataclasses.asdict(training.Recipe(**changes)))


def _gan() -> ConfigDict:
  """The rival of figure 3, as its source has it: Huang et al. (2017) and their implementation."""
  config = _recipe(
    batch_size=100,
    num_steps=100_000,
    learning_rate=1e-4,
    decay="none",
    adam_b1=0.5,
    ema_decay=0.999,
  )
  config.update(
    {
      "adversarial_weight": 1.0,
      "conditional_weight": 1.0,
      "entropy_weights": (0.0, 10.0, 30.0, 100.0),  # one GAN for each; the source's is 10
    }
  )
  config.network = _fields_of(gans.Gan, without=("num_levels", "image_shape"))
  return config


def _fields_of(module: type, without=(), **changes) -> ConfigDict:
  """The attributes of a Linen module as a section, so that both always have the same names."""
  fields = {
    field.name: changes.get(field.name, field.default)
    for field in dataclasses.fields(module)
    if field.name not in (*without, "parent", "name")
  }
  return ConfigDict(fields)


def use_mnist(config: ConfigDict):
  """Appendix A for MNIST: 32/32 filters, a categorical inverter of 64 filters, dropout 0.5."""
  config.data.name = "mnist"


def use_affnist(config: ConfigDict):
  """Section 5.2 and appendix A: as MNIST, on 40x40 images."""
  use_mnist(config)
  config.data.name = "affnist"


def use_svhn(config: ConfigDict):
  """Appendix A for SVHN: 64/128 filters, a logistic-mixture inverter of 196 filters."""
  config.data.name = "svhn_cropped"
  _use_colour(config)


def use_cifar10(config: ConfigDict):
  """Appendix A for CIFAR-10: as SVHN, and dropout 0.2 on the projected fc3."""
  config.data.name = "cifar10"
  _use_colour(config)
  if config.representation.layer == "fc3":
    config.inverter.network.context_dropout_rate = 0.2


def _use_colour(config):
  config.classifier.network.num_filters = (64, 128)
  config.inverter.network.num_filters = 196
  if config.representation.layer == "conv1":
    config.inverter.network.dropout_rate = 0.1


def use_digits(config: ConfigDict):
  """The embedded default, sized for a laptop: 8x8 images, 3x3 kernels, one pooling, two scales."""
  config.data.name = "digits"
  config.classifier.network.update(
    {
      "num_filters": (16, 32),
      "kernel_size": 3,
      "padding": "SAME",
      "pool_sizes": (1, 2),
      "num_units": 64,
      "dropout_rate": 0.25,
    }
  )
  config.classifier.update(
    {
      "batch_size": 64,
      "learning_rate": 2e-3,
      "decay": "cosine",
      "num_steps": 500,
      "log_every": 50,
      "validate_every": 100,
      "patience": 0,
      "snapshot_steps": (0, 100),
    }
  )
  config.inverter.network.update({"num_filters": 32, "num_blocks": 1, "num_scales": 2})
  config.inverter.update(
    {
      "batch_size": 64,
      "learning_rate": 3e-3,
      "decay": "cosine",
      "num_steps": 300,
      "ema_decay": 0.98,
      "log_every": 20,
      "validate_every": 60,
    }
  )
  config.decoder.network.update({"num_filters": 32, "num_scales": 2, "num_units": 128})
  config.decoder.update(
    {
      "learning_rate": 3e-3,
      "num_steps": 300,
      "ema_decay": 0.98,
      "log_every": 50,
      "validate_every": 150,
    }
  )
  if config.representation.layer == NO_LAYER:
    # Without h there is more to learn from the pixels; it is flat after this.
    config.inverter.num_steps = 500
  config.gan.network.update({"num_filters": 16, "num_units": 128, "num_noise": 16})
  config.gan.update(
    {
      "batch_size": 64,
      "learning_rate": 1e-3,
      "num_steps": 2000,
      "ema_decay": 0.99,
      "log_every": 100,
      "validate_every": 500,
    }
  )
  config.evaluate.batch_size = 250


PRESETS: dict[str, Callable[[ConfigDict], None]] = {
  "digits": use_digits,
  "mnist": use_mnist,
  "affnist": use_affnist,
  "svhn": use_svhn,
  "cifar10": use_cifar10,
}


def preset(name: str, layer: str = NO_LAYER, variant: str = "", kind: str = "conv") -> ConfigDict:
  """The configuration of one layer of one data set; what a file in `configs/` returns.

  Args:
    name: one of `PRESETS`.
    layer: of the classifier; "" for the unconditional model.
    variant: "" or "smoke".
    kind: of the classifier.
  """
  config = default()
  config.representation.layer = layer
  config.classifier.network.kind = kind
  PRESETS[name](config)
  return finish(config, variant)


def finish(config: ConfigDict, variant: str = "") -> ConfigDict:
  """Applies a variant: "" as it is, "smoke" the same path in a minute on two CPU cores."""
  if variant == "smoke":
    _shrink(config)
  elif variant:
    raise UserError(f"The configuration has no variant {variant!r}; leave it out or use 'smoke'.")
  return config


def _shrink(config):
  if config.data.name == "affnist":
    config.data.name = "affnist/small"
  config.data.update({"num_train": 256, "num_validation": 40, "num_test": 40})
  for section in (config.classifier, config.inverter, config.decoder, config.gan):
    section.update({"batch_size": 16, "num_steps": 6, "log_every": 2, "validate_every": 3})
  config.classifier.snapshot_steps = (0,)
  config.gan.entropy_weights = (0.0, 10.0)
  config.gan.network.update({"num_filters": 4, "num_units": 16, "num_noise": 4})
  config.classifier.network.num_dense_units = 64
  # Two resolutions still halve and double; the third would only take longer to compile.
  config.inverter.network.update({"num_filters": 8, "num_blocks": 1, "num_scales": 2})
  config.inverter.likelihood.num_components = 2
  config.decoder.network.update({"num_filters": 8, "num_units": 16})
  config.evaluate.batch_size = 16
  config.sample.update({"num_images": 2, "num_samples": 2, "batch_size": 4})
  config.neighbours.update({"num_images": 4, "num_samples": 2})


def for_layer(config: ConfigDict, layer: str) -> ConfigDict:
  """The configuration of one layer out of `config.layers`."""
  single = config.copy_and_resolve_references()
  with single.unlocked():
    single.layers = ()
    single.representation.layer = layer
  return single


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
  channels.make(config.representation.sigma, config.representation.bits)
  _one_of("sample.sampler", config.sample.sampler, sampling.SAMPLERS)
  _one_of("data.name", config.data.name, datasets.names())
  for section in ("classifier", "inverter", "decoder", "gan"):
    _one_of(f"{section}.decay", config[section].decay, training.DECAYS)
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


POSITIVE = (
  "batch_size",
  "num_microbatches",
  "num_steps",
  "learning_rate",
  "log_every",
  "validate_every",
)
POSITIVE += ("filter_multiple", "num_filters", "num_blocks", "num_scales", "num_components")
POSITIVE += ("num_images", "num_samples", "num_noise", "num_units", "num_dense_units")
POSITIVE += ("kernel_size", "pool_sizes")
RATES = ("dropout_rate", "context_dropout_rate", "ema_decay", "adam_b1", "adam_b2")
NOT_NEGATIVE = ("num_train", "num_validation", "num_test", "patience", "seed", "snapshot_steps")
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


def leaves(config: ConfigDict | dict, prefix: str = "") -> Iterator[tuple[str, typing.Any]]:
  """All fields as (dotted name, value); lists are given as tuples."""
  for name, value in sorted(config.items()):
    if isinstance(value, ml_collections.ConfigDict | dict):
      yield from leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value


def restored(saved: dict) -> ConfigDict:
  """The configuration that was written as `saved`; fields newer than it have their defaults."""
  config = default()
  for field, value in leaves(saved):
    config.update_from_flattened_dict({field: value})
  return config


def differences(saved: dict, config: ConfigDict) -> list[str]:
  """What `config` would change in a folder that was begun with `saved`, but may not, in words.

  A section that `saved` has not heard of belongs to a stage that cannot have run there.
  """
  # A field that is newer than the folder had its default there.
  old, new = dict(leaves(default())) | dict(leaves(saved)), dict(leaves(config))
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
  return {
    field: value
    for field, value in leaves(config)
    if field == "seed"
    or field.startswith("classifier.")
    or (field.startswith("data.") and field not in ("data.dir", "data.num_test"))
  }
