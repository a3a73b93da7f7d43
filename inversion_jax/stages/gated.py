"""The gated PixelCNN beside the inverter: an ordinary run, of the same images and classifier."""

from inversion_jax.machine import locks
from inversion_jax.runs import Run
from inversion_jax.stages.basic import CLASSIFIER, EVALUATE, INVERTER

# Two deep, as the other members are: so it finds the classifier of the run to copy.
FOLDER = "gallery/gated"


def member(run: Run) -> Run:
  """The run whose inverter is the gated network, as the `gated` section has it."""
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    recipe = {name: value for name, value in config.gated.items() if name != "network"}
    config.inverter.update(recipe)
    config.inverter.update({"start_from": "", "start_reader_from_decoder": False})
    config.inverter.network.update(config.gated.network)
  return Run(config, run.folder / FOLDER)


def train(run: Run):
  """Trains it, and scores the test set with it."""
  gated = member(run)
  with locks.owned(gated.folder):
    gated.begin()
    for stage in (CLASSIFIER, INVERTER, EVALUATE):
      stage(gated)
