r"""Times training steps of an untrained model; the last line is one JSON object.

    python benchmarks/training.py --height=32 --width=32 --channels=3 --filters=64 --blocks=3 \
        --batch=16 [--layer_shape=5,5,128] [--dtype=float32]

A step is the whole of it: forward and backward pass with dropout, Adam, moving average, norm of the
gradient; images come as uint8 from the device, metrics stay there.

`--compare=COMMAND` times another program in turn with this one, in the same minutes of the same
machine: after each round of `--steps` steps the command is run, whose last line must be a JSON
object with `images_per_second`. It may be this script in another checkout.

The command may add `processor_seconds_per_image` and `compile_seconds`, whose ratios follow then.

`--growth=FILE.png` draws the rate against batch, filters, blocks and image size instead, each
varied alone around the flags.

How the figures are made:

- `images_per_second` is that of the fastest of `--rounds` rounds; `ratio` is the median over the
  rounds of the rate of a round, divided by that of the command after it.
- `tflops` counts the multiplications and additions of convolutions and products (`costs`), three
  times those of the forward pass, and none that are done element by element or on padding.
- `matmul_tflops` is the fastest product of two square matrices of the same type, with XLA's own
  choice of library and that of the training step; `share_of_peak` is `tflops` over it.
- `processor_seconds_per_image` adds up all cores of the process, in the least round. Other programs
  on the machine move it less than the rate.
- `peak_memory_bytes` are arguments, results and temporaries of the compiled step, as XLA plans
  them; `compile_seconds` holds tracing.
"""

import json
import pathlib
import shlex
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import subjects
from absl import app, flags

from inversion_jax import inversion
from inversion_jax.fitting import costs
from inversion_jax.fitting.steps import Step
from inversion_jax.fitting.training import Recipe
from inversion_jax.inversion import Network

FLAGS = flags.FLAGS
flags.DEFINE_integer("steps", 5, "Steps per round.")
flags.DEFINE_integer("rounds", 3, "Rounds.")
flags.DEFINE_integer("microbatches", 1, "Parts of a batch whose gradients are added up.")
flags.DEFINE_integer("filter_multiple", 1, "Filters inside are rounded up to a multiple of it.")
flags.DEFINE_string("remat", "", "What the backward pass computes again: elementwise or blocks.")
flags.DEFINE_string("compare", "", "Command to time in turn; its last line is a JSON object.")
flags.DEFINE_string("growth", "", "Draws this figure of the rate against each size.")

# What --growth varies, each around the values of the flags.
GROWTH = {
  "batch": (4, 8, 16, 32),
  "filters": (16, 32, 64, 128),
  "blocks": (1, 2, 3, 4),
  "side": (8, 16, 32, 48),
}


class Subject:
  """A compiled training step, its batch and its state."""

  def __init__(self, network: Network, size: tuple[int, int], batch_size: int):
    noise = subjects.noise(size, batch_size)
    learnt, self.state = subjects.untrained(noise, network)
    self.batch_size, self.batch = batch_size, learnt.batch_fn(np.arange(batch_size))
    recipe = Recipe(batch_size=batch_size, num_microbatches=FLAGS.microbatches)
    h_shape = noise.features.shape if noise.features else None
    # What the network needs: filters that are added inside cost time, and do no work.
    found = inversion.cost(network, noise.num_levels, noise.image_shape, h_shape)
    self.operations = found.operations_per_image * batch_size
    self.step = Step(learnt.loss_fn, recipe, jax.random.key(1))
    start = time.monotonic()
    self.peak_memory_bytes = self.step.memory_bytes(self.state, self.batch)
    self.compile_seconds = time.monotonic() - start

  def round(self) -> tuple[float, float]:
    """Images per second of some steps, and seconds of all cores per image."""
    num_images = FLAGS.steps * self.batch_size
    start, processor_start = time.monotonic(), time.process_time()
    for _ in range(FLAGS.steps):
      self.state, metrics = self.step(self.state, self.batch)
    jax.block_until_ready(metrics)
    seconds = time.monotonic() - start
    return num_images / seconds, (time.process_time() - processor_start) / num_images

  def warm_up(self):
    """The first step, which loads what is loaded once."""
    self.state, metrics = self.step(self.state, self.batch)
    jax.block_until_ready(metrics)


def subject(*, batch: int, filters: int, blocks: int, size: tuple[int, int]) -> Subject:
  """The training step of these sizes; the rest is that of the flags."""
  network = subjects.network(
    num_filters=filters,
    num_blocks=blocks,
    remat=FLAGS.remat,
    filter_multiple=FLAGS.filter_multiple,
  )
  return Subject(network, size, batch)


def measured(timed: Subject) -> dict:
  """Times rounds of steps, in turn with the other command if there is one."""
  timed.warm_up()
  rounds, others = [], []
  for _ in range(FLAGS.rounds):
    rounds.append(timed.round())
    line = f"{rounds[-1][0]:.4g} images/s"
    if FLAGS.compare:
      others.append(other_program())
      line += f", the other {others[-1]['images_per_second']:.4g}"
    print(line, flush=True)
  rates, processor_seconds = zip(*rounds, strict=True)
  rate = max(rates)
  result = {
    "images_per_second": rate,
    "tflops": 1e-12 * rate * timed.operations / timed.batch_size,
    "processor_seconds_per_image": min(processor_seconds),
    "peak_memory_bytes": timed.peak_memory_bytes,
    "compile_seconds": timed.compile_seconds,
  }
  return result | (compared(result, rates, others) if others else {})


def other_program() -> dict:
  """What the command of `--compare` measured: its last line."""
  output = subprocess.run(shlex.split(FLAGS.compare), capture_output=True, text=True, check=True)
  return json.loads(output.stdout.strip().splitlines()[-1])


def compared(result: dict, rates: Sequence[float], others: list[dict]) -> dict:
  """The ratios to the other command, of which more than one is better here."""
  other_rates = [other["images_per_second"] for other in others]
  ratios = [rate / other for rate, other in zip(rates, other_rates, strict=True)]
  found = {
    "ratio": statistics.median(ratios),
    "ratios": ratios,
    "other_images_per_second": max(other_rates),
  }
  for name, key in (
    ("processor_ratio", "processor_seconds_per_image"),
    ("compile_ratio", "compile_seconds"),
  ):
    if all(key in other for other in others):
      found[name] = min(other[key] for other in others) / result[key]
  return found


def growth(path: pathlib.Path) -> dict:
  """Draws the rate against each size, and prints it as a table."""
  centre = {
    "batch": FLAGS.batch,
    "filters": FLAGS.filters,
    "blocks": FLAGS.blocks,
    "side": FLAGS.height,
  }
  print("| varied | value | images/s | TFLOP/s | MB | compile s |\n|---|---|---|---|---|---|")
  rows = []
  for name, values in GROWTH.items():
    for value in values:
      row = {"varied": name, "value": value} | _row(**(centre | {name: value}))
      rows.append(row)
      print(
        f"| {name} | {value} | {row['images_per_second']:.4g} | {row['tflops']:.3f} "
        f"| {row['peak_memory_bytes'] / costs.MB:.0f} | {row['compile_seconds']:.0f} |",
        flush=True,
      )
  _draw(rows, centre, path)
  return {"growth": rows}


def _row(*, side, **fields) -> dict[str, Any]:
  return measured(subject(size=(side, side), **fields))


def _draw(rows, centre, path):
  figure, axes = plt.subplots(1, len(GROWTH), figsize=(12, 3), sharey=True, layout="constrained")
  for axis, (name, values) in zip(axes, GROWTH.items(), strict=True):
    rates = [row["images_per_second"] for row in rows if row["varied"] == name]
    axis.loglog(values, rates, "o-")
    axis.set_xticks(values, [str(value) for value in values])
    axis.xaxis.minorticks_off()
    others = ", ".join(f"{key} {value}" for key, value in centre.items() if key != name)
    axis.set_xlabel(f"{name}\n({others})")
    axis.grid(visible=True, alpha=0.3)
  axes[0].set_ylabel("training images per second")
  figure.savefig(path, dpi=150)


def main(argv):
  """Runs the benchmark."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
  if FLAGS.growth:
    result = growth(pathlib.Path(FLAGS.growth))
  else:
    size = (FLAGS.height, FLAGS.width)
    timed = subject(batch=FLAGS.batch, filters=FLAGS.filters, blocks=FLAGS.blocks, size=size)
    result = measured(timed) | {"matmul_tflops": 1e-12 * costs.product_rate(FLAGS.dtype)}
    result |= {
      "share_of_peak": result["tflops"] / result["matmul_tflops"],
      "size": [*size, FLAGS.channels],
      "batch": FLAGS.batch,
      "microbatches": FLAGS.microbatches,
      "filters": FLAGS.filters,
      "blocks": FLAGS.blocks,
      "filter_multiple": FLAGS.filter_multiple,
      "remat": FLAGS.remat,
    }
  result |= {"dtype": FLAGS.dtype, "device": subjects.device_name()}
  print(json.dumps(result | {"jax_version": jax.__version__}))


if __name__ == "__main__":
  app.run(main)
