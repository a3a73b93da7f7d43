"""What the intervals and verdicts cover with few test images and under skew, by simulation.

    python benchmarks/coverage.py

Values whose true mean is 0 are drawn again and again: how often does the 95% interval of their mean
hold 0, and how often is one of ten differences of five rows called higher or lower? In the families
the first row is exact, and what the others lose against it has the law. The last line is one JSON
object with all fractions.
"""

import json
import math

import numpy as np
from absl import app, flags

from inversion_jax import information
from inversion_jax.information import statistics

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_means", 20_000, "Means of each law and number of rows.")
flags.DEFINE_integer("num_families", 4_000, "Families of verdicts of each.")
flags.DEFINE_integer("num_draws", 2_000, "Of the law of the largest score, of each family.")
LAWS = {
  "normal": lambda rng, shape: rng.normal(size=shape),
  "log-normal": lambda rng, shape: rng.lognormal(size=shape) - math.exp(0.5),
}
NUM_IMAGES = (30, 40, 60, 250)
NUM_ROWS = 5


def covered(draw, num_images):
  """The fraction of intervals of single means that hold the true one, 0."""
  hits = 0
  for values_N in draw(np.random.default_rng(0), (FLAGS.num_means, num_images)):
    low, high = information.mean_with_error(values_N).interval()
    hits += low <= 0 <= high
  return hits / FLAGS.num_means


def wrong(draw, num_images):
  """The fraction of families in which some verdict finds a difference."""
  rng, found = np.random.default_rng(0), 0
  for _ in range(FLAGS.num_families):
    rows_KN = draw(rng, (NUM_ROWS, num_images))
    rows_KN[0] = 0.0
    differences = information.all_differences(list(rows_KN[:, None]))
    found += any(each.verdict in ("higher", "lower") for each in differences)
  return found / FLAGS.num_families


def main(argv):
  """Prints a table and the object."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
  statistics._NUM_DRAWS = FLAGS.num_draws
  print("| law | images | a mean is covered | a family errs |\n|---|---|---|---|")
  record = []
  for law, draw in LAWS.items():
    for num_images in NUM_IMAGES:
      row = {"law": law, "num_images": num_images}
      row |= {"covered": covered(draw, num_images), "wrong": wrong(draw, num_images)}
      record.append(row)
      print(f"| {law} | {num_images} | {row['covered']:.1%} | {row['wrong']:.1%} |", flush=True)
  print(json.dumps(record))


if __name__ == "__main__":
  app.run(main)
