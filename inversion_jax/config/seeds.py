"""Seeds of a run's parts, and replicates: runs that differ in seeds alone."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from inversion_jax import inversion
from inversion_jax.config.defaults import SEEDED
from inversion_jax.machine.limits import SAME_SEED


def classifier_seed(config: ConfigDict | Mapping[str, Any]) -> int:
  """The seed of everything random in the training of the classifier."""
  return _own(config, "classifier", "seed")


def order_seed(config: ConfigDict | Mapping[str, Any]) -> int:
  """The seed of the order in which the inverter visits the training images."""
  return _own(config, "inverter", "order_seed")


def _own(config, section, field):
  """A seed of a part; a folder older than the field has the run's."""
  seed = config[section].get(field, SAME_SEED)
  return config["seed"] if seed == SAME_SEED else seed


def replicates(config: ConfigDict) -> dict[str, ConfigDict]:
  """The configurations of `config.seeds` ordinary runs, by the names of their folders.

  A single one has no folder of its own: its name is "". If everything varies, `seed_3` has the
  configuration that `seed=3` gives.
  """
  if config.seeds == 1:
    return {"": config}
  return {
    f"{inversion.REPLICATE}{config.seed + number}": _replicate(config, number)
    for number in range(config.seeds)
  }


def _replicate(config, number):
  firsts = {
    "classifier": classifier_seed(config),
    "order": order_seed(config),
    "inverter": config.seed,
  }
  varied = config.vary.split(",")
  seeds = {part: first + number * (part in varied) for part, first in firsts.items()}
  single = config.copy_and_resolve_references()
  with single.unlocked():
    single.update({"seeds": 1, "vary": ",".join(SEEDED), "seed": seeds["inverter"]})
    # As short as it can be said, so that a replicate where all agree is the ordinary run.
    single.classifier.seed = _shortest(seeds["classifier"], single.seed)
    single.inverter.order_seed = _shortest(seeds["order"], single.seed)
  return single


def _shortest(seed, of_run):
  return SAME_SEED if seed == of_run else seed
