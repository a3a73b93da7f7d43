"""Steps that an inverter saves by beginning from a trained p(x), at equal validation nats.

    python benchmarks/amortising.py --output=runs/amortising [--preset=digits] [--num_steps=400]

Trains p(x) once, then every layer's inverter twice, from scratch and with `inverter.start_from`, at
a constant rate of learning (a decay would tie the curve to its end), and compares the validation
curves of their averaged parameters. `steps_to_equal` is where the amortised curve reaches what the
one from scratch has after `--at` steps; null if it never does. The steps of p(x) are not in it: all
models that begin from it share them.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
from absl import app, flags, logging
from matplotlib.figure import Figure

from inversion_jax import config as config_lib
from inversion_jax import stages
from inversion_jax.machine import progress, storage
from inversion_jax.report import figures
from inversion_jax.report.files import curve
from inversion_jax.runs import Run

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "runs/amortising", "Folder of the runs, the figure and the table.")
flags.DEFINE_string("preset", "digits", "Data set and sizes, one of config.PRESETS.")
flags.DEFINE_list("layers", ["conv1", "conv2", "fc3", "logits"], "Layers of the classifier.")
flags.DEFINE_integer("num_steps", 400, "Of every inverter.")
flags.DEFINE_list("at", ["50", "100", "200", "400"], "Steps from scratch to be equalled.")

Curve = Sequence[tuple[int, float]]


def main(argv):
  """Trains, draws and prints one JSON object as the last line."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
  progress.show_lines()
  # Orbax narrates every file it writes.
  logging.set_verbosity(logging.WARNING)
  output = pathlib.Path(FLAGS.output)
  prior = _trained(output / "prior", config_lib.preset(FLAGS.preset), ("inverter",))
  curves = {}
  for layer in FLAGS.layers:
    for name, start_from in (("from scratch", ""), ("from p(x)", str(prior))):
      config = config_lib.preset(FLAGS.preset, layer)
      every = max(FLAGS.num_steps // 40, 1)
      config.inverter.update({"num_steps": FLAGS.num_steps, "validate_every": every})
      config.inverter.update({"decay": "none", "patience": 0, "start_from": start_from})
      folder = output / f"{layer}_{'amortised' if start_from else 'scratch'}"
      curves[layer, name] = _curve(_trained(folder, config, ("classifier", "inverter")))
  figures.save(_figure(curves), output / "amortising.png")
  rows = [row for layer in FLAGS.layers for row in _rows(layer, curves)]
  storage.write_json(output / "amortising.json", rows)
  print(json.dumps(rows))


def _trained(folder: pathlib.Path, config: Any, names: Sequence[str]) -> pathlib.Path:
  run = Run(config_lib.check(config), folder)
  run.begin()
  for name in names:
    stages.STAGES[name](run)
  return folder


def _curve(folder: pathlib.Path) -> Curve:
  """(step, validation nats) of the inverter."""
  lines = storage.read_metrics(folder / storage.METRICS)
  return list(zip(*curve(lines, "inverter", "validation_nats_per_image"), strict=True))


def _rows(layer: str, curves: dict[tuple[str, str], Curve]) -> list[dict[str, Any]]:
  scratch, amortised = curves[layer, "from scratch"], curves[layer, "from p(x)"]
  rows = []
  for at in map(int, FLAGS.at):
    nats = [value for step, value in scratch if step <= at][-1]
    reached = next((step for step, value in amortised if value <= nats), None)
    at_same = [value for step, value in amortised if step <= at][-1]
    rows.append(
      {"layer": layer, "steps": at, "nats_from_scratch": nats, "nats_from_prior": at_same}
      | {"steps_to_equal": reached}
    )
  return rows


def _figure(curves: dict[tuple[str, str], Curve]) -> Figure:
  with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(figures.WIDTH, 3.0), layout="constrained")
    all_axes = figure.subplots(1, len(FLAGS.layers), squeeze=False)[0]
    for axes, layer in zip(all_axes, FLAGS.layers, strict=True):
      for name, color in (("from scratch", figures.BLUE), ("from p(x)", figures.RED)):
        axes.plot(*zip(*curves[layer, name], strict=True), color=color, label=name)
      # An untrained model is far above all that is to be seen.
      _, nats_of_prior = curves[layer, "from p(x)"][0]
      axes.set(title=layer, xlabel="steps", ylim=(0, 1.3 * nats_of_prior))
    all_axes[0].set_ylabel("validation nats per image")
    all_axes[0].legend()
  return figure


if __name__ == "__main__":
  app.run(main)
