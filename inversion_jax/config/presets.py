"""What each data set, layer and variant changes in the default."""

import dataclasses
import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from inversion_jax import inversion
from inversion_jax.config.defaults import MODELS, NO_LAYER, default
from inversion_jax.config.saved import leaves
from inversion_jax.fitting.training import Recipe
from inversion_jax.machine.errors import UserError


def use_mnist(config: ConfigDict):
  """Appendix A for MNIST: 32/32 filters, a categorical inverter of 64 filters, dropout 0.5."""
  config.data.name = "mnist"


def use_fashion(config: ConfigDict):
  """Fashion-MNIST, which the paper does not have: as MNIST, whose size and archives it shares."""
  use_mnist(config)
  config.data.name = "fashion_mnist"


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
  _invert_digits(config)
  config.decoder.network.update({"num_filters": 32, "num_scales": 2, "num_units": 128})
  config.decoder.update(
    {
      "learning_rate": 3e-3,
      "num_steps": 300,
      "ema_decay": 0.98,
      "log_every": 50,
      "validate_every": 300,
    }
  )
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
  _train_rivals_of_digits(config)
  # One program scores all.
  config.evaluate.batch_size = config.inverter.batch_size


def use_mnist_14(config: ConfigDict):
  """MNIST in 2x2 means: a reduced inverter, as `_use_coarser` has it."""
  _use_coarser(config, "mnist/14", num_filters=(16, 32))


def use_mnist_7(config: ConfigDict):
  """MNIST in 4x4 means of 17 levels, with one pooling."""
  _use_coarser(config, "mnist/7", num_filters=(16, 32), pool_sizes=(1, 2), num_scales=2)


def use_fashion_mnist_14(config: ConfigDict):
  """Fashion-MNIST in 2x2 means."""
  _use_coarser(config, "fashion_mnist/14", num_filters=(16, 32))


def use_cifar10_16(config: ConfigDict):
  """CIFAR-10 in 2x2 means."""
  _use_coarser(config, "cifar10/16", num_filters=(64, 128))


def use_affnist_10(config: ConfigDict):
  """Part of affNIST in 4x4 means of 17 levels, on which three networks differ in position."""
  _use_coarser(config, "affnist/10", num_filters=(16, 32), pool_sizes=(1, 2))
  config.classifier.network.update({"num_dense_units": 512, "dropout_rate": 0.25})
  config.sample.update({"num_images": 64, "num_samples": 8, "batch_size": 256})


def _use_coarser(config, name, num_filters, pool_sizes=(2, 2), num_scales=3):
  config.data.name = name
  config.classifier.network.update(
    {"num_filters": num_filters, "kernel_size": 3, "padding": "SAME", "pool_sizes": pool_sizes}
  )
  config.classifier.update(
    {"batch_size": 64, "learning_rate": 1e-3, "decay": "cosine", "num_steps": 1_500, "patience": 0}
  )
  config.classifier.update({"validate_every": 500, "snapshot_steps": (0,)})
  config.inverter.network.update({"num_filters": 16, "num_blocks": 1, "dropout_rate": 0.1})
  config.inverter.network.num_scales = num_scales
  config.inverter.update(
    {"batch_size": 16, "learning_rate": 2e-3, "decay": "cosine", "num_steps": 4_000}
  )
  config.inverter.update({"ema_decay": 0.98, "validate_every": 400, "log_every": 50})
  config.decoder.network.update({"num_filters": 32, "num_units": 128, "num_scales": num_scales})
  config.decoder.update({"num_steps": 1_000, "validate_every": 250, "ema_decay": 0.98})


def _train_rivals_of_digits(config):
  """The gallery's: decoders as long as the plain one, the gated network as long as the inverter."""
  config.perceptual.update(
    {
      "learning_rate": 3e-3,
      "num_steps": 300,
      "ema_decay": 0.98,
      "log_every": 50,
      "validate_every": 150,
    }
  )
  config.deepsim.update(
    {
      "learning_rate": 1e-3,
      "num_steps": 1000,
      "ema_decay": 0.98,
      "log_every": 100,
      "validate_every": 250,
    }
  )
  config.gated.network.update({"num_filters": 32, "num_blocks": 5, "dropout_rate": 0.3})
  config.gated.update(
    {
      "batch_size": 64,
      "learning_rate": 5e-3,
      "decay": "cosine",
      "num_steps": 700,
      "ema_decay": 0.98,
      "log_every": 50,
      "validate_every": 100,
      "weight_decay": inversion.WEIGHT_DECAY,
    }
  )


def use_features(config: ConfigDict):
  """Images and features of a file, `data.name`: the reduced network that `ij.fit` takes, too."""
  config.data.name = "features.npz"
  network, recipe = inversion.suited((32, 32), (256,))
  config.inverter.network.update({name: getattr(network, name) for name in inversion.MODULE_FIELDS})
  config.inverter.update(dataclasses.asdict(recipe))
  config.decoder.update({"num_steps": 1_000, "validate_every": 250, "ema_decay": 0.98})


def _invert_digits(config):
  """How h is read where there are 1,297 images to learn from: small batches, much decay.

  Batches of 32 come as far in 450 steps as batches of 64 in 300, with a second moment of Adam that
  forgets within a hundred steps. All layers have one network, which compiles once. Without h there
  is more to learn from the pixels: p(x) has more steps, at a rate at which h is read behind noise.
  """
  layer = config.representation.layer
  config.inverter.network.update(
    {
      "num_filters": 16,
      "num_blocks": 1,
      "num_scales": 2,
      "dropout_rate": 0.2,
      "reader_filters": 40,
      "reader_even": True,
    }
  )
  config.inverter.update(
    {
      "batch_size": 32,
      "learning_rate": 5e-3,
      "decay": "cosine",
      "num_steps": 450,
      "adam_b2": 0.99,
      "weight_decay": inversion.WEIGHT_DECAY / 2,
      "ema_decay": 0.98,
      "log_every": 30,
      # Validation and a checkpoint take as long as 20 steps.
      "validate_every": 225,
    }
  )
  if layer in ("fc3", "logits"):
    config.inverter.network.reader_dropout_rate = inversion.VECTOR_DROPOUT
  elif layer == NO_LAYER:
    config.inverter.update({"num_steps": 720, "learning_rate": 3e-3, "validate_every": 180})


PRESETS: dict[str, Callable[[ConfigDict], None]] = {
  "digits": use_digits,
  "mnist": use_mnist,
  "fashion": use_fashion,
  "affnist": use_affnist,
  "svhn": use_svhn,
  "cifar10": use_cifar10,
  "mnist/14": use_mnist_14,
  "mnist/7": use_mnist_7,
  "fashion_mnist/14": use_fashion_mnist_14,
  "cifar10/16": use_cifar10_16,
  "affnist/10": use_affnist_10,
  "features": use_features,
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
  # A typo in a file of configurations must not become a new field.
  return config.lock()


def _shrink(config):
  if config.data.name == "affnist":
    config.data.name = "affnist/small"
  config.data.update({"num_train": 256, "num_validation": 40, "num_test": 40})
  for section in (config[name] for name in MODELS):
    section.update({"batch_size": 16, "num_steps": 6, "log_every": 2, "validate_every": 3})
  config.classifier.snapshot_steps = (0,)
  config.gan.entropy_weights = (0.0, 10.0)
  config.gan.network.update({"num_filters": 4, "num_units": 16, "num_noise": 4})
  config.classifier.network.num_dense_units = 64
  # Two resolutions still halve and double; the third would only take longer to compile.
  config.inverter.network.update({"num_filters": 8, "num_blocks": 1, "num_scales": 2})
  config.inverter.network.update({"reader_filters": 8, "reader_units": 16, "reader_places": 4})
  config.inverter.network.reader_direct = 2
  config.inverter.likelihood.num_components = 2
  config.decoder.network.update({"num_filters": 8, "num_units": 16})
  config.gated.network.update({"num_filters": 4, "num_blocks": 2})
  config.optimisation.num_steps = 5
  config.gallery.update({"num_images": 4, "num_samples": 2})
  config.evaluate.batch_size = 16
  config.sample.update({"num_images": 2, "num_samples": 2, "batch_size": 4})
  config.neighbours.update({"num_images": 4, "num_samples": 2})


@functools.cache
def _preset_names() -> dict[str, str]:
  """By the data that they prepare for."""
  return {preset(name).data.name: name for name in PRESETS}


def for_layer(config: ConfigDict, layer: str) -> ConfigDict:
  """The configuration of one layer out of `config.layers`.

  Fields that the preset has otherwise for that layer follow it, unless they were changed.
  """
  single = config.copy_and_resolve_references()
  with single.unlocked():
    single.layers = ()
    single.representation.layer = layer
    name = _preset_names().get(config.data.name)
    if name:
      before, after = (
        dict(leaves(preset(name, one))) for one in (config.representation.layer, layer)
      )
      given = dict(leaves(config))
      single.update_from_flattened_dict(
        {
          name: value
          for name, value in after.items()
          if value != before[name] and given[name] == before[name]
        }
      )
  return single


def with_recipe_of(config: ConfigDict, layer: str) -> ConfigDict:
  """The configuration with its inverter trained as the preset trains that of another layer.

  It takes the fields of a `Recipe` and the dropout of the causal network; the reader stays. A field
  that was changed stays as it was given, as in `for_layer`.
  """
  changed, other = config.copy_and_resolve_references(), for_layer(config, layer).inverter
  changed.inverter.update({field.name: other[field.name] for field in dataclasses.fields(Recipe)})
  changed.inverter.network.dropout_rate = other.network.dropout_rate
  return changed
