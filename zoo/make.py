"""Makes the models of this folder again, in runs/zoo: a quarter of an hour on one core.

    python zoo/make.py [digits_fc3 ...]

Run it again to go on where it was interrupted.
"""

import dataclasses
import pathlib
import sys

import numpy as np
from ml_collections import ConfigDict

from inversion_jax import config as config_lib
from inversion_jax import stages
from inversion_jax.machine import progress, storage
from inversion_jax.runs import Run

ZOO, RUNS = pathlib.Path(__file__).parent, pathlib.Path("runs/zoo")
LAYERS = ("conv1", "conv2", "fc3", "logits")
TEST = "digits.npz"
# So that all of them together are a few MB; the experiments of configs/ have twice this and more.
SMALL = {"num_filters": 16, "reader_filters": 24, "reader_units": 128, "reader_places": 16}
REDUCED = (
  "The network is reduced, so that it fits into a repository; larger ones reach more nats (see the "
  "experiments in `configs/`)."
)
ABOUT_H = (
  "h is {layer} of the classifier of `configs/digits.py`, seed 0 (test accuracy {accuracy:.1%}): "
  "`digits.npz` beside this folder holds it for all test images."
)


def make(config: ConfigDict, name: str) -> Run:
  """Trains and scores one model, unless that is done, and saves it as `name`."""
  config.inverter.network.update(SMALL)
  run = Run(config_lib.check(config), RUNS / name)
  run.begin()
  for stage in ("classifier", "inverter", "evaluate") if run.layer else ("inverter", "evaluate"):
    stages.STAGES[stage](run)
  model = run.model
  # The average is what scores and samples; without the other parameters the file is half as long.
  dataclasses.replace(model, live_params=model.params).save(ZOO / name, about=_about(run))
  return run


def _about(run):
  if not run.layer:
    return REDUCED
  accuracy = storage.read_json(run.folder / storage.SUMMARY)["classifier_test_accuracy"]
  return f"{ABOUT_H.format(layer=run.layer, accuracy=accuracy)} {REDUCED}"


def write_test(runs: dict[str, Run]):
  """Leaves the test images and their h in every layer, raw, row by row."""
  test = {layer: run.pairs("test") for layer, run in runs.items()}
  images = test[LAYERS[0]]
  h = {layer: pairs.h for layer, pairs in test.items()}
  with storage.replacing(ZOO / TEST, is_recorded=False) as path, path.open("wb") as file:
    np.savez_compressed(file, x=images.images, labels=images.labels, **h)


def configs() -> dict[str, ConfigDict]:
  """What is made, by the name of its folder."""
  digits = {f"digits_{layer}": config_lib.preset("digits", layer) for layer in LAYERS}
  mnist = config_lib.preset("mnist/14")
  mnist.inverter.update({"num_steps": 1_500, "validate_every": 500})
  mnist.data.update({"num_validation": 250, "num_test": 1_000})
  return {**digits, "digits_prior": config_lib.preset("digits"), "mnist_14_prior": mnist}


if __name__ == "__main__":
  progress.show_lines()
  wanted = sys.argv[1:] or list(configs())
  made = {name: make(configs()[name], name) for name in wanted}
  layers = {run.layer: run for run in made.values()}
  if set(LAYERS) <= set(layers):
    write_test({layer: layers[layer] for layer in LAYERS})
