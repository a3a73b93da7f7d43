"""What planned runs will cost, before anything starts."""

import functools
import pathlib
from typing import NamedTuple

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from inversion_jax import inversion
from inversion_jax.features import classifiers
from inversion_jax.fitting import costs
from inversion_jax.machine import storage
from inversion_jax.paper.plans import Planned

# (image shape, levels) by preset, so that nothing is fetched to be listed.
SHAPES = {
  "digits": ((8, 8, 1), 17),
  "mnist": ((28, 28, 1), 256),
  "fashion_mnist": ((28, 28, 1), 256),
  "affnist": ((40, 40, 1), 256),
  "affnist/small": ((40, 40, 1), 256),
  "affnist/medium": ((40, 40, 1), 256),
  "svhn_cropped": ((32, 32, 3), 256),
  "cifar10": ((32, 32, 3), 256),
  "mnist/14": ((14, 14, 1), 256),
  "mnist/7": ((7, 7, 1), 17),
  "fashion_mnist/14": ((14, 14, 1), 256),
  "cifar10/16": ((16, 16, 3), 256),
  "affnist/10": ((10, 10, 1), 17),
}
# Of the rate of matrix products: networks of 64 filters reached 0.6 on CPUs, the digits' 0.3.
SHARE_OF_PRODUCTS = 0.5


class RunCost(NamedTuple):
  """Of training the inverter of a run."""

  num_images: int
  num_params: int
  operations_per_image: int


def cost(config: ConfigDict) -> RunCost:
  """The cost of the inverter of a run, from its configuration alone; nothing is computed."""
  section = config.inverter
  network, layer = inversion.network_of(config.to_dict()), config.representation.layer
  classifier = FrozenConfigDict(config.classifier.network)
  found = _cost(config.data.name, layer, classifier, network)
  return RunCost(section.num_steps * section.batch_size, *found)


@functools.cache
def _cost(name, layer, classifier_network, network):
  """Parameters and operations for an image; many runs differ in neither, and tracing takes time."""
  image_shape, num_levels = SHAPES[name]
  h_shape = None
  if layer:
    classifier = classifiers.Classifier(
      **classifier_network.to_dict(), num_classes=10, num_levels=num_levels
    )
    images, _ = inversion.shapes_of(1, image_shape, None)
    layers, _ = jax.eval_shape(classifier.init_with_output, jax.random.key(0), images)
    h_shape = layers[layer].shape[1:]
  return inversion.cost(network, num_levels, image_shape, h_shape)


def measured_rate(workdir: pathlib.Path, planned: list[Planned]) -> float | None:
  """Operations per second that finished runs of this folder reached, the median; None without."""
  rates = []
  for one in planned:
    path = workdir / one.folder / storage.SUMMARY
    rate = storage.read_json(path).get("train_images_per_second") if path.exists() else None
    if rate:
      rates.append(rate * cost(one.config).operations_per_image)
  return sorted(rates)[len(rates) // 2] if rates else None


def show(planned: list[Planned], workdir: pathlib.Path) -> None:
  """Prints one line a run: stages, images to train, parameters, hours."""
  finished = measured_rate(workdir, planned)
  rate = finished or SHARE_OF_PRODUCTS * costs.product_rate()
  total_hours = 0.0
  print(f"{'run':40} {'images':>13} {'parameters':>12} {'hours':>8}  stages")
  for one in planned:
    found = cost(one.config)
    hours = found.num_images * found.operations_per_image / rate / 3600
    total_hours += hours
    print(
      f"{one.folder:40} {found.num_images:13,} {found.num_params:12,} {hours:8.2f}  "
      f"{','.join(one.stages)}"
    )
  source = (
    f"measured on finished runs under {workdir}"
    if finished
    else "that are half of what matrix products reach here now, a guess until a run is finished"
  )
  print(
    f"{len(planned)} runs, about {total_hours:.2f} hours of inverter training at "
    f"{rate / 1e9:.3g} GFLOP/s, {source}. Compilation, classifiers and sampling come on top; what "
    "is done already is not deducted."
  )
