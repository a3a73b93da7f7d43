"""Replicates on the cores of one machine: as many at once as it has cores, against one on all.

    python benchmarks/side_by_side.py [--num_steps=60] [--num_filters=16] [--rounds=2]

Prints, for each round, the training images per second of both ways and their ratio. Both ways are
timed in turn, since a machine that others use is not the same a minute later.
"""

import argparse
import os
import pathlib
import tempfile

import sklearn.datasets

import inversion_jax as ij
from inversion_jax.machine import compilation, workers


def images_per_second(folder: pathlib.Path, seed: int, num_steps: int, num_filters: int) -> float:
  """The rate of one small p(x) of digits; what it compiles is kept beside it."""
  digits = sklearn.datasets.load_digits().images[:600].astype("uint8")[..., None]
  with compilation.kept_in(folder / compilation.FOLDER):
    model = ij.fit(
      ij.pairs(digits, num_levels=17),
      folder=folder / f"{os.getpid()}_{seed}",
      network=ij.Network(num_filters=num_filters, num_blocks=1, num_scales=2),
      recipe=ij.Recipe(num_steps=num_steps, log_every=10, validate_every=10**6, decay="cosine"),
      seed=seed,
      quiet=True,
    )
  return model.facts()["train_images_per_second"]


def main():
  """Times both ways."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--num_steps", type=int, default=60)
  parser.add_argument("--num_filters", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=2)
  given = parser.parse_args()
  num = len(os.sched_getaffinity(0))
  with tempfile.TemporaryDirectory() as folder:

    def rate(num_at_once):
      settings = given.num_steps, given.num_filters
      tasks = [
        workers.Task(str(seed), images_per_second, (pathlib.Path(folder), seed, *settings))
        for seed in range(num_at_once)
      ]
      with workers.side_by_side(num_at_once) as work:
        return sum(work(tasks))

    for _ in range(given.rounds):
      one, several = rate(1), rate(num)
      print(
        f"one on {num} cores: {one:.0f} images/s; {num} at once on one core each: {several:.0f}"
        f" images/s in all; {several / one:.2f} times",
        flush=True,
      )


if __name__ == "__main__":
  main()
