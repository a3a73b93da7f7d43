"""What planned runs will cost, before anything starts."""

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from inversion_jax.features import classifiers
from inversion_jax.fitting import costs
from inversion_jax.machine import storage
from inversion_jax.models import likelihoods
from inversion_jax.models.inverters import Inverter
from inversion_jax.paper.plans import Planned

# (image shape, levels) by preset, so that nothing is fetched to be listed.
SHAPES = {
  "digits": ((8, 8, 1), 17),
  "mnist": ((28, 28, 1), 256),
  "affnist": ((40, 40, 1), 256),
  "affnist/small": ((40, 40, 1), 256),
  "affnist/medium": ((40, 40, 1), 256),
  "svhn_cropped": ((32, 32, 3), 256),
  "cifar10": ((32, 32, 3), 256),
}
# Of the rate of matrix products: networks of 64 filters reached 0.6 on CPUs, the digits' 0.3.
SHARE_OF_PRODUCTS = 0.5


class Cost(NamedTuple):
  """Of training one inverter."""

  num_images: int
  num_params: int
  operations_per_image: int


def cost(config: ConfigDict) -> Cost:
  """The cost of the inverter of a run, from its configuration alone; nothing is computed."""
  section = config.inverter
  networks = (config.classifier.network, section.likelihood, section.network)
  num_params, operations = _size(
    config.data.name, config.representation.layer, *map(FrozenConfigDict, networks)
  )
  return Cost(section.num_steps * section.batch_size, num_params, operations)


@functools.cache
def _size(name, layer, classifier_network, likelihood, network):
  """Parameters and operations for an image; many runs differ in neither, and tracing takes time."""
  image_shape, num_levels = SHAPES[name]
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8)
  z = None
  if layer:
    classifier = classifiers.Classifier(
      **classifier_network.to_dict(), num_classes=10, num_levels=num_levels
    )
    layers, _ = jax.eval_shape(classifier.init_with_output, jax.random.key(0), images)
    z = layers[layer]
  likelihood = likelihoods.make(
    **likelihood.to_dict(), num_levels=num_levels, num_colours=image_shape[-1]
  )
  inverter = Inverter(likelihood, **network.to_dict())
  variables = jax.eval_shape(inverter.init, jax.random.key(0), images, z)
  operations = costs.train_operations(inverter.apply, variables, images, z)
  return sum(leaf.size for leaf in jax.tree.leaves(variables)), operations // 2


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
