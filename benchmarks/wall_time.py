"""Bits/dim of trained models against the time their training took, beside what is published.

    python benchmarks/wall_time.py runs/cifar10/prior [MORE_RUNS ...] --output=wall_time.png

Reads the validation lines of run folders that were evaluated; nothing is trained. Their seconds
include compilation and validation; the classifier's training, if any, is not in them. The averaged
parameters are scored, as everywhere. The last line printed is one JSON object.
"""

import json
import pathlib

import matplotlib
from absl import app, flags
from matplotlib.figure import Figure

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError, as_sentences
from inversion_jax.report import figures
from inversion_jax.report.files import RunFiles, curve, read_run

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "wall_time.png", "The figure; its numbers lie beside it as CSV.")

# (hours, bits/dim) of the unconditional model on CIFAR-10 with eight Titan X; README of
# github.com/openai/pixel-cnn.
PUBLISHED_DATASET = "cifar10"
PUBLISHED = ((10.0, 3.00), (120.0, 2.92))

Curve = list[tuple[float, float]]


def main(argv):
  """Draws, writes the CSV and prints where every curve ends."""
  if len(argv) < 2:
    raise app.UsageError("Name at least one run folder.")
  path = pathlib.Path(FLAGS.output)
  with as_sentences(path, "--output"):
    runs = [read_run(pathlib.Path(name)) for name in argv[1:]]
    curves = [_curve(run) for run in runs]
    figures.save(_figure(runs, curves), path)
    named = list(zip(runs, curves, strict=True))
    rows = [(run.folder.name, *point) for run, points in named for point in points]
    storage.write_csv(path.with_suffix(".csv"), ("run", "hours", "bits_per_dim"), rows)
  ends = [
    {"run": run.folder.name, "hours": points[-1][0], "validation_bits_per_dim": points[-1][1]}
    | {"test_bits_per_dim": run.summary["bits_per_dim"]}
    for run, points in named
  ]
  print(json.dumps(ends))


def _curve(run: RunFiles) -> Curve:
  """(hours, validation bits/dim) of the inverter, without the untrained model."""
  # Only validations tell their seconds.
  steps, seconds = curve(run.metrics, "inverter", "seconds")
  nats_at = dict(zip(*curve(run.metrics, "inverter", "validation_nats_per_image"), strict=True))
  points = [
    (since / 3600, information.bits_per_dim(nats_at[step], run.summary["image_shape"]))
    for step, since in zip(steps, seconds, strict=True)
    if step > 0
  ]
  if not points:
    raise UserError(
      f"{run.folder / storage.METRICS} tells no seconds of validations; train again with"
      " inverter.validate_every of at most inverter.num_steps."
    )
  return points


def _figure(runs: list[RunFiles], curves: list[Curve]) -> Figure:
  with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(0.66 * figures.WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    colors = (figures.BLUE, figures.ORANGE, figures.RED, figures.SKY)
    for place, (run, points) in enumerate(zip(runs, curves, strict=True)):
      label = f"{run.summary['dataset']}, {run.layer_name}, on {run.summary['devices']}"
      color = colors[place % len(colors)]
      axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, label=label)
    if any(run.summary["dataset"] == PUBLISHED_DATASET for run in runs):
      label = "published p(x), 8 Titan X"
      axes.plot(*zip(*PUBLISHED, strict=True), "*", color=figures.INK, markersize=9, label=label)
    axes.set(xscale="log", xlabel="hours of training", ylabel="validation bits per sub-pixel")
    # The style has no mathematics, which logarithmic axes would write their powers in.
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()
  return figure


if __name__ == "__main__":
  app.run(main)
