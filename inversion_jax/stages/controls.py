"""Further runs that a stage trains to compare its own run with."""

from ml_collections import ConfigDict

from inversion_jax import config as config_lib
from inversion_jax.machine import locks
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run
from inversion_jax.stages.basic import CLASSIFIER, EVALUATE, INVERTER

FOLDER = "controls"
PRIOR = "prior"


def prior(run: Run) -> Run:
  """The unconditional model p(x) of the same data, trained and evaluated."""
  return trained(run, PRIOR, layer=config_lib.NO_LAYER)


def trained(run: Run, name: str, **changes) -> Run:
  """The run `named`, trained and evaluated; what is done is not done again."""
  return evaluated(named(run, name, **changes))


def named(run: Run, name: str, like: ConfigDict | None = None, **changes) -> Run:
  """The run `controls/<name>`, not begun: `run` with another representation.

  `changes` are fields of the configuration's `representation`. With `like`, the configuration is
  that one but for them, and not the run's.
  """
  config = (like or run.config).copy_and_resolve_references()
  with config.unlocked():
    config.representation.update(changes)
  return Run(config, run.folder / FOLDER / name)


def evaluated(control: Run) -> Run:
  """A run, trained and evaluated."""
  with locks.owned(control.folder):
    control.begin()
    for stage in (CLASSIFIER, INVERTER, EVALUATE):
      say("%s: %s", control.folder, stage.name)
      stage(control)
  return control
