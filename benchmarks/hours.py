"""Prints how long the inverter of each configuration trains, from a rate that was measured.

    python benchmarks/hours.py --tflops=0.1

`--tflops` is that of `training.py` on the device in question, at a size like those of the table:
small networks use a device less well. Hours are `num_steps` of the configuration, so an upper
bound where training stops early; validation, sampling and the classifier are not in them.
"""

import pathlib
import runpy

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import ShapeDtypeStruct

from inversion_jax import costs, likelihoods
from inversion_jax.classifiers import Classifier
from inversion_jax.inverters import Inverter

FLAGS = flags.FLAGS
flags.DEFINE_float("tflops", None, "Rate of training.", required=True)
flags.DEFINE_string("configs", "configs", "Folder of the configurations.")

NUM_LEVELS = {"digits": 17}  # of the others: 256
IMAGE_SHAPES = {
  "digits": (8, 8, 1),
  "mnist": (28, 28, 1),
  "affnist": (40, 40, 1),
  "svhn_cropped": (32, 32, 3),
  "cifar10": (32, 32, 3),
}


def operations_per_image(config) -> int:
  """Operations of forward and backward pass of the inverter, for one image."""
  shape = IMAGE_SHAPES[config.data.name]
  image = ShapeDtypeStruct((1, *shape), jnp.uint8)
  likelihood = likelihoods.make(
    **config.inverter.likelihood.to_dict(),
    num_levels=NUM_LEVELS.get(config.data.name, 256),
    num_channels=shape[-1],
  )
  inverter = Inverter(likelihood, **config.inverter.network.to_dict())
  z = _representation(config, image) if config.representation.layer else None
  params = jax.eval_shape(inverter.init, jax.random.key(0), image, z)["params"]

  def apply(params, image, z):
    return inverter.apply({"params": params}, image, z)

  return costs.train_operations(apply, params, image, z)


def _representation(config, image):
  classifier = Classifier(**config.classifier.network.to_dict(), num_classes=10, num_levels=256)
  layers, _ = jax.eval_shape(classifier.init_with_output, jax.random.key(0), image)
  return layers[config.representation.layer]


def main(argv):
  """Prints the table."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
  print("| configuration | GFLOP per image | batch | steps | images/s | hours |")
  print("|---|---|---|---|---|---|")
  for path in sorted(pathlib.Path(FLAGS.configs).glob("*_*.py")):
    config = runpy.run_path(str(path))["get_config"]()
    operations, inverter = operations_per_image(config), config.inverter
    rate = 1e12 * FLAGS.tflops / operations
    hours = inverter.batch_size * inverter.num_steps / rate / 3600
    print(
      f"| `{path.stem}` | {operations / 1e9:.3g} | {inverter.batch_size} | {inverter.num_steps:,} "
      f"| {rate:.3g} | {hours:.3g} |",
      flush=True,
    )


if __name__ == "__main__":
  app.run(main)
