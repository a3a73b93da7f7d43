r"""How much of h each reader uses, and how soon: nats against steps and seconds of training.

    python benchmarks/reading.py --output=runs/reading [--h=x,conv1,conv2,fc3,logits,none] \
        [--readers=projection,decoder] [--seeds=0,1,2] [--fields=inverter.learning_rate=5e-3,...]

Every row is an ordinary run under `--output`: it goes on where it was, and its `report.html` can be
looked at. Readers of one h and seed read the same classifier. "x" is the image itself as h, of
which nothing should be left; "none" is p(x). `minus_prior_nats` is the test NCE minus that of p(x)
of the same seed, paired by image: below zero, the reader is at fault and not h.

`--preset=cifar10/16` or `mnist/14` are larger images, read by reduced inverters. `--fields` change
the configuration of the inverters; results of other fields belong into another `--output`.
`--part=1/2` trains some of the runs, for processes side by side; once all parts are done, a call
without it prints the table. Seconds include compilation and validation. The last line is one JSON
object.
"""

import json
import pathlib
from typing import Any

from absl import app, flags, logging

from inversion_jax import config as config_lib
from inversion_jax.machine import progress
from inversion_jax.machine.errors import as_sentences
from inversion_jax.report.files import RunFiles, curve, read_run
from inversion_jax.runs import Run
from inversion_jax.stages import STAGES

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "runs/reading", "Folder of the runs.")
flags.DEFINE_string("preset", "digits", "Data set and sizes, one of config.PRESETS.")
flags.DEFINE_list("h", ["x", "conv1", "conv2", "fc3", "logits", "none"], "What is read.")
flags.DEFINE_list("readers", ["projection", "decoder"], "Values of inverter.network.context.")
flags.DEFINE_list("seeds", ["0"], "Each trains a classifier and its inverters.")
flags.DEFINE_list("fields", [], "Further fields of the configuration, as name=value.")
flags.DEFINE_string("part", "", "Trains some of the runs, as 1/2, and prints nothing.")

PIXELS, NONE = "x", "none"


def main(argv):
  """Trains what is not trained, and prints the table."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
  progress.show_lines()
  # Orbax narrates every file it writes.
  logging.set_verbosity(logging.WARNING)
  output = pathlib.Path(FLAGS.output)
  with as_sentences(output, "--output"):
    places = _places()
    part, num_parts = map(int, (FLAGS.part or "1/1").split("/"))
    for place in places[part - 1 :: num_parts]:
      _train(output, *place)
    if FLAGS.part:
      return
    rows = [_row(output, *place) for place in places]
  _print(rows)
  print(json.dumps(rows))


def _places() -> list[tuple[str, str, int]]:
  """(h, reader, seed) of every run; p(x) has no reader."""
  return [
    (h, reader, int(seed))
    for seed in FLAGS.seeds
    for h in FLAGS.h
    for reader in (FLAGS.readers if h != NONE else [NONE])
  ]


def _folder(output, h, reader, seed):
  return output / f"{FLAGS.preset.replace('/', '_')}_{h}_{reader}_{seed}"


def _train(output: pathlib.Path, h: str, reader: str, seed: int):
  layer = {PIXELS: "conv1", NONE: config_lib.NO_LAYER}.get(h, h)
  config = config_lib.preset(FLAGS.preset, layer)
  config.seed = seed
  if h == PIXELS:
    config.representation.control = "pixels"
  if h != NONE:
    config.inverter.network.context = reader
  for field in FLAGS.fields:
    name, _, value = field.partition("=")
    config_lib.set_field(config, name, value)
  run = Run(config_lib.check(config), _folder(output, h, reader, seed))
  run.begin()
  for stage in ("classifier", "inverter", "evaluate"):
    progress.say("%s: %s", run.folder, stage)
    STAGES[stage](run)


def _row(output: pathlib.Path, h: str, reader: str, seed: int) -> dict[str, Any]:
  run = read_run(_folder(output, h, reader, seed))
  prior = _folder(output, NONE, NONE, seed)
  gain = run.gain_over(read_run(prior)) if h != NONE and prior.exists() else None
  steps, seconds = curve(run.metrics, "inverter", "seconds")
  _, validation_nats = curve(run.metrics, "inverter", "validation_nats_per_image")
  return {
    "h": h,
    "reader": reader,
    "seed": seed,
    **run.nce.fields("nce_nats"),
    **(gain.fields("minus_prior_nats") if gain else {}),
    "train_nats": _train_nats(run),
    "best_step": run.summary["inverter_steps"],
    "steps": steps,
    "seconds": seconds,
    "validation_nats": validation_nats,
  }


def _train_nats(run: RunFiles) -> float:
  """Of the last line of training: far below the validation's, the reader has learnt by heart."""
  return curve(run.metrics, "inverter", "train_nats_per_image")[1][-1]


def _print(rows: list[dict[str, Any]]):
  print("| h | reader | seeds | NCE, nats | minus p(x) | validation at the end | train | s |")
  print("|---|---|---|---|---|---|---|---|")
  for h, reader in dict.fromkeys((row["h"], row["reader"]) for row in rows):
    of = [row for row in rows if (row["h"], row["reader"]) == (h, reader)]

    def mean(key, of=of):
      values = [row[key] for row in of if key in row]
      values = [value[-1] if isinstance(value, list) else value for value in values]
      return f"{sum(values) / len(values):.2f}" if values else ""

    print(
      f"| {h} | {reader} | {len(of)} | {mean('nce_nats')} | {mean('minus_prior_nats')} "
      f"| {mean('validation_nats')} | {mean('train_nats')} | {mean('seconds')} |"
    )


if __name__ == "__main__":
  app.run(main)
