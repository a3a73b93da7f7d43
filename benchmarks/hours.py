"""Prints how long the inverter of each configuration trains, from a rate that was measured.

    python benchmarks/hours.py --tflops=0.1

`--tflops` is that of `training.py` on the device in question, at a size like those of the table:
small networks use a device less well. Hours are `num_steps` of the configuration, so an upper
bound where training stops early; validation, sampling and the classifier are not in them.
"""

import pathlib
import runpy

from absl import app, flags

from inversion_jax.paper.listing import cost

FLAGS = flags.FLAGS
flags.DEFINE_float("tflops", None, "Rate of training.", required=True)
flags.DEFINE_string("configs", "configs", "Folder of the configurations.")


def main(argv):
  """Prints the table."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
  print("| configuration | GFLOP per image | batch | steps | images/s | hours |")
  print("|---|---|---|---|---|---|")
  for path in sorted(pathlib.Path(FLAGS.configs).glob("*_*.py")):
    config = runpy.run_path(str(path))["get_config"]()
    found, inverter = cost(config), config.inverter
    rate = 1e12 * FLAGS.tflops / found.operations_per_image
    print(
      f"| `{path.stem}` | {found.operations_per_image / 1e9:.3g} | {inverter.batch_size} "
      f"| {inverter.num_steps:,} | {rate:.3g} | {found.num_images / rate / 3600:.3g} |",
      flush=True,
    )


if __name__ == "__main__":
  app.run(main)
