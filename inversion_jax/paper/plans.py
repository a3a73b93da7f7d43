"""What to run for each figure and table: plain lists of runs, which share classifiers and folders.

Source: Nash et al. (2019), section 5 and appendix A.
"""

import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

from inversion_jax import config as config_lib
from inversion_jax import stages
from inversion_jax.machine.errors import UserError

LAYERS = ("conv1", "conv2", "fc3", "logits")
PAPERS_READER = "projection"
READERS = ("decoder", PAPERS_READER)
PRIOR = "prior"
KINDS = ("conv", "pool", "dense")
SHARED = "shared"
# Section 5.3: the overfitted classifier sees so many images, and no dropout.
NUM_OVERFITTED = 100


class Planned(NamedTuple):
  """One run: where it goes under the working folder, what it is, and which stages it needs."""

  folder: str
  config: ConfigDict
  stages: tuple[str, ...]


class Scale(NamedTuple):
  """How large the experiments are.

  Attributes:
    datasets: of figures 1, 2, 5a and Table 1; the names of presets.
    single: the set of figures 3 and 5b.
    moved: the set of figure 4, whose digits lie anywhere.
    num_many: samples of an image from which figure 2 takes the closest.
    snapshots: classifier updates of figure 5b.
    amortised_steps: of a density model of figure 5b, which begins from p(x).
    variant: of the presets.
    adapt: changes to a configuration.
    reader: of h, one of `contexts.MODES`; "" leaves that of the configurations.
    fields: last changes, (name, value) as the command line has them.
    layers: of the classifier, in its order; figures 2 to 4 are of fc3.
    num_seeds: replicates of every run, each with its own classifier, order and inverter.
  """

  datasets: tuple[str, ...]
  single: str
  num_many: int
  snapshots: tuple[int, ...]
  amortised_steps: int
  variant: str = ""
  adapt: Callable[[ConfigDict], None] = lambda config: None
  reader: str = ""
  fields: tuple[tuple[str, str], ...] = ()
  layers: tuple[str, ...] = LAYERS
  num_seeds: int = 1
  moved: str = "affnist"


def _miniature(config: ConfigDict):
  """affNIST at reduced size: fewer digits, a narrow inverter. The digits are small as they are."""
  config.gan.entropy_weights = (0.0, 10.0, 30.0)
  if config.data.name != "affnist":
    return
  config.data.name = "affnist/medium"
  config.classifier.update({"num_steps": 1500, "validate_every": 250, "snapshot_steps": (0,)})
  config.classifier.update({"learning_rate": 1e-3, "patience": 0})
  config.classifier.network.update(
    {"num_filters": (16, 16), "num_dense_units": 256, "dropout_rate": 0.25}
  )
  config.inverter.network.update({"num_filters": 16, "num_blocks": 1, "dropout_rate": 0.1})
  config.inverter.update(
    {"num_steps": 2000, "batch_size": 16, "learning_rate": 3e-3, "decay": "cosine"}
  )
  config.inverter.update({"ema_decay": 0.98, "validate_every": 500, "log_every": 100})
  config.decoder.network.update({"num_filters": 16, "num_units": 128})
  config.decoder.update({"num_steps": 300, "validate_every": 150, "ema_decay": 0.98})
  config.sample.update({"num_images": 16, "num_samples": 8, "batch_size": 64})


SCALES = {
  "paper": Scale(
    datasets=("mnist", "svhn", "cifar10"),
    single="mnist",
    num_many=1024,
    snapshots=(0, 100, 1_000, 10_000, 100_000),
    amortised_steps=25_000,
  ),
  "miniature": Scale(
    datasets=("digits",),
    single="digits",
    num_many=1024,
    snapshots=(0, 20, 100, 500),
    amortised_steps=300,
    adapt=_miniature,
  ),
  # Sets that two cores can learn to the end: means of 2x2 and 4x4 pixels.
  "coarse": Scale(
    datasets=("mnist/7", "mnist/14", "fashion_mnist/14", "cifar10/16"),
    single="mnist/7",
    moved="affnist/10",
    num_many=1024,
    snapshots=(0, 20, 100, 1_500),
    amortised_steps=600,
    adapt=_miniature,
  ),
  "smoke": Scale(
    datasets=("digits",),
    single="digits",
    num_many=8,
    snapshots=(0, 3),
    amortised_steps=2,
    variant="smoke",
  ),
}


def layers(scale: Scale, *further: str) -> list[Planned]:
  """Every layer of every set, through the default stages and `further` ones."""
  return [
    _layer(scale, dataset, layer, *further) for dataset in scale.datasets for layer in scale.layers
  ]


def closest_samples(scale: Scale) -> list[Planned]:
  """Figure 2: fc3 of every set, with many samples of a few images."""
  return [_layer(scale, dataset, "fc3", "neighbours") for dataset in scale.datasets]


def gans(scale: Scale) -> list[Planned]:
  """Figure 3: a stacked GAN given fc3."""
  return [_layer(scale, scale.single, "fc3", "gan")]


def gallery(scale: Scale) -> list[Planned]:
  """Every way to look inside each layer of one set."""
  return [_layer(scale, scale.single, layer, "gallery") for layer in scale.layers]


def ranking(scale: Scale) -> list[Planned]:
  """Every layer under each reader, and p(x), of every set."""
  return [
    _ranked(scale, dataset, layer, reader)
    for dataset in scale.datasets
    for layer, reader in ranking_places(scale)
  ]


def ranking_places(scale: Scale) -> list[tuple[str, str]]:
  """(layer, reader), from the input to the output under each reader; p(x), which has none, last."""
  readers = (scale.reader,) if scale.reader else READERS
  layers = [(layer, reader) for reader in readers for layer in scale.layers]
  return [*layers, (config_lib.NO_LAYER, "")]


def ranking_name(layer: str, reader: str) -> str:
  """The folder of one of them."""
  return f"{reader}_{layer}" if layer else PRIOR


def _ranked(scale, dataset, layer, reader):
  config = config_lib.preset(dataset, layer, scale.variant)
  names = ("classifier", "inverter", "evaluate") if layer else ("inverter", "evaluate")
  scale = scale._replace(reader=reader)
  return _planned(scale, f"{dataset}/{ranking_name(layer, reader)}", config, names)


def architectures(scale: Scale) -> list[Planned]:
  """Figure 4: fc3 of three networks on affNIST."""
  planned = []
  for kind in KINDS:
    config = config_lib.preset(scale.moved, "fc3", scale.variant, kind=kind)
    planned.append(_planned(scale, f"{scale.moved}/{kind}_fc3", config, stages.DEFAULT))
  return planned


def dynamics(scale: Scale) -> list[Planned]:
  """Figure 5b: every layer after some classifier updates, of a regular and an overfitted network.

  All density models begin from one p(x) with projections of h at zero.
  """
  folder = f"{scale.single}/dynamics"
  prior = config_lib.preset(scale.single, config_lib.NO_LAYER, scale.variant)
  planned = [_planned(scale, f"{folder}/{PRIOR}", prior, ("inverter", "evaluate"))]
  for regime, layer, step in dynamics_places(scale):
    config = config_lib.preset(scale.single, layer, scale.variant)
    config.representation.step = step
    config.classifier.update(
      {"snapshot_steps": scale.snapshots, "num_steps": max(scale.snapshots), "patience": 0}
    )
    if regime == "overfitted":
      batch_size = min(config.classifier.batch_size, NUM_OVERFITTED // 2)
      config.classifier.update({"num_train": NUM_OVERFITTED, "batch_size": batch_size})
      config.classifier.network.dropout_rate = 0.0
    config.inverter.update({"num_steps": scale.amortised_steps, "start_from": f"{folder}/{PRIOR}"})
    name = f"{folder}/{dynamics_name(regime, layer, step)}"
    planned.append(_planned(scale, name, config, ("classifier", "inverter", "evaluate")))
  return planned


def dynamics_places(scale: Scale) -> list[tuple[str, str, int]]:
  """(regime, layer, classifier updates) of figure 5b."""
  return [
    (regime, layer, step)
    for regime in ("regular", "overfitted")
    for layer in scale.layers
    for step in scale.snapshots
  ]


def dynamics_name(regime: str, layer: str, step: int) -> str:
  """The folder of one of them."""
  return f"{regime}_{layer}_{step}"


def _layer(scale, dataset, layer, *further):
  config = config_lib.preset(dataset, layer, scale.variant)
  if layer == "fc3":
    # Figure 2 shows the closest of many samples of a few images.
    config.neighbours.update({"num_shown": 4 if scale.variant else 8, "num_many": scale.num_many})
    if not scale.variant:
      # Figure 3 measures diversity, which ten images leave vague.
      config.sample.update({"num_images": 250, "batch_size": 250})
  return _planned(scale, f"{dataset}/{layer}", config, (*stages.DEFAULT, *further))


def _planned(scale, folder, config, names):
  scale.adapt(config)
  if scale.reader:
    config.inverter.network.context = scale.reader
  for name, value in scale.fields:
    config_lib.set_field(config, name, value)
  return Planned(folder, config, tuple(names))


def replicated(planned: Iterable[Planned], scale: Scale) -> list[Planned]:
  """Each run once for every seed, under a folder of the seed if there are several."""
  expanded = []
  for one in planned:
    one.config.seeds = scale.num_seeds
    for name, config in config_lib.replicates(one.config).items():
      if config.inverter.start_from:
        config.inverter.start_from = _under(name, config.inverter.start_from)
      expanded.append(one._replace(folder=_under(name, one.folder), config=config))
  return expanded


def roots(workdir: pathlib.Path, scale: Scale) -> list[pathlib.Path]:
  """Where the folders of the runs of each seed begin."""
  config = config_lib.default()
  config.seeds = scale.num_seeds
  return [workdir / name for name in config_lib.replicates(config)]


def _under(name, folder):
  return pathlib.PurePosixPath(name, folder).as_posix()


def merged(planned: Iterable[Planned]) -> list[Planned]:
  """Each folder once, with all stages that anything asks of it, the report last."""
  wanted: dict[str, Planned] = {}
  for one in planned:
    before = wanted.get(one.folder, one)
    names = {*before.stages, *one.stages}
    ordered = sorted(names, key=_ORDER.index)
    wanted[one.folder] = before._replace(stages=tuple(ordered))
  return list(wanted.values())


def part(planned: Iterable[Planned], name: str) -> list[Planned]:
  """Some of the runs, for several machines that share a folder.

  Args:
    planned: all of them, each folder once.
    name: "shared" for what several runs need, which has to be done before: classifiers, and models
      that others begin from. "2/8" for the second of eight parts.

  Raises:
    UserError: another name.
  """
  planned = list(planned)
  if name == SHARED:
    begun_from = {one.config.inverter.start_from for one in planned}
    return [
      one if one.folder in begun_from else one._replace(stages=("classifier",))
      for one in planned
      if one.folder in begun_from or "classifier" in one.stages
    ]
  place, _, num_parts = name.partition("/")
  if not (place.isdecimal() and num_parts.isdecimal() and 1 <= int(place) <= int(num_parts)):
    raise UserError(f"--part={name} is neither {SHARED!r} nor one of a number of parts, as 2/8.")
  return planned[int(place) - 1 :: int(num_parts)]


# The report shows what the others left, so it comes last.
_ORDER = [*(name for name in stages.STAGES if name != "report"), "report"]
