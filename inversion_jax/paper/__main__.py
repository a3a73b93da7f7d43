r"""Runs the experiments of the paper and draws its figures and tables.

launch/figure_5a --miniature      # one figure, on the digits, in minutes
launch/paper --list               # the runs of everything and what they cost; starts nothing
launch/paper                      # everything, at the paper's size
launch/figure_5a --miniature --jobs=2    # two runs at the same time, in a process each
launch/ranking --coarse --set=mnist/14 --seeds=3    # of one set, with replicates
launch/figure_5b --coarse --layers=conv2,fc3        # of some layers

Fields of the configurations are changed in all runs, as in --config.inverter.num_steps=1000.

An interrupted or failed launch goes on where it was when it is started again: runs that are done
are skipped. Figures go to WORKDIR/figures, each with a CSV of its numbers.

launch/paper --part=shared        # on several machines that see one WORKDIR: what runs share, then
launch/paper --part=2/8           # each machine its part of the runs, then
launch/paper                      # the figures; launch/slurm does all three
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from absl import logging as absl_logging

from inversion_jax import config as config_lib
from inversion_jax.machine import locks, progress, stopping
from inversion_jax.machine.errors import Parser, UserError, as_sentences
from inversion_jax.machine.progress import warn
from inversion_jax.models import contexts
from inversion_jax.paper import listing, plans, running
from inversion_jax.paper.experiments import EXPERIMENTS, FURTHER

_FIELD = "--config."
# Fields that a launch sets run by run, and the option that it has for each.
_OPTIONS = {
  "data.name": "--set",
  "inverter.network.context": "--reader",
  "layers": "--layers",
  "representation.layer": "--layers",
  "seeds": "--seeds",
}


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs what the command line names; returns 1 if anything failed."""
  given, fields = _parsed(arguments)
  scale = _scale(given, fields)
  parts = ("paper", "" if given.scale == "paper" else given.scale, given.reader or "")
  workdir = given.workdir or pathlib.Path("runs") / "_".join(filter(None, parts))
  names = list(EXPERIMENTS) if given.experiment == "paper" else [given.experiment]
  with as_sentences(workdir, "--workdir"):
    planned = plans.merged(one for name in names for one in _experiment(name).plan(scale))
    planned = plans.replicated(planned, scale)
    if given.part:
      planned = plans.part(planned, given.part)
  if given.list:
    listing.show(planned, workdir)
    return 0
  failed = running.go_through_all(planned, workdir, given.jobs)
  undrawn = given.part is None and [
    name for name in names if not _is_drawn(name, scale, workdir, failed)
  ]
  for folder in failed:
    print(f"{workdir / folder} failed; see above, and start again to go on.")
  return 1 if failed or undrawn else 0


def _parsed(arguments):
  """What the command line says, and the fields that it changes, as (name, value)."""
  parser = _parser()
  given, others = parser.parse_known_args(arguments)
  fields = []
  for word in others:
    name, is_given, value = word.removeprefix(_FIELD).partition("=")
    if not (word.startswith(_FIELD) and is_given):
      parser.error(f"{word} is not known; fields are changed as in {_FIELD}inverter.num_steps=1000")
    if name in _OPTIONS:
      parser.error(f"{_FIELD}{name} differs from run to run; use {_OPTIONS[name]}")
    fields.append((name, value))
  if given.seeds < 1:
    parser.error(f"--seeds={given.seeds} leaves nothing to run; give 1 or more")
  return given, tuple(fields)


def _scale(given, fields) -> plans.Scale:
  scale = plans.SCALES[given.scale]
  if given.set:
    scale = scale._replace(datasets=(given.set,), single=given.set)
  return scale._replace(
    reader=given.reader or "",
    fields=fields,
    layers=tuple(layer for layer in plans.LAYERS if layer in given.layers),
    num_seeds=given.seeds,
  )


def _experiment(name):
  return (EXPERIMENTS | FURTHER)[name]


def _parser():
  parser = Parser("inversion_jax.paper", __doc__)
  parser.add_argument(
    "experiment",
    choices=("paper", *EXPERIMENTS, *FURTHER),
    help=f"paper is all of them but {', '.join(FURTHER)}",
  )
  parser.add_argument(
    "--miniature",
    action="store_const",
    const="miniature",
    dest="scale",
    default="paper",
    help="the same experiment on digits and few affNIST images, for a laptop",
  )
  parser.add_argument(
    "--smoke",
    action="store_const",
    const="smoke",
    dest="scale",
    help="the whole path at no useful size, in minutes",
  )
  parser.add_argument(
    "--coarse",
    action="store_const",
    const="coarse",
    dest="scale",
    help="the same on means of 2x2 and 4x4 pixels, which two cores can learn to the end",
  )
  parser.add_argument(
    "--set", choices=_sets(), help="one set in the place of all but that of figure 4"
  )
  parser.add_argument(
    "--layers",
    type=_layers,
    default=plans.LAYERS,
    help="some of them, as conv2,fc3; not of figures 2 to 4, which are of fc3",
  )
  parser.add_argument(
    "--seeds",
    type=int,
    default=1,
    help="replicates of every run, each with its own classifier; figures 4 and 5 pool them",
  )
  parser.add_argument(
    "--reader",
    choices=contexts.MODES,
    help="of h: projection is the paper's own; default: that of the configurations, decoder",
  )
  parser.add_argument(
    "--jobs",
    type=int,
    default=1,
    help="runs at the same time, each in a process with its share of the cores; 0: one a core",
  )
  parser.add_argument("--part", help="shared, or I/N: some of the runs; draws nothing")
  parser.add_argument("--list", action="store_true", help="print runs and costs, start nothing")
  parser.add_argument("--workdir", type=pathlib.Path, help="default: runs/paper[_SCALE][_READER]")
  return parser


def _sets() -> list[str]:
  """The sets that have layers of the paper's classifier; files of features have not."""
  names = sorted(config_lib.PRESETS)
  return [name for name in names if not config_lib.is_file(config_lib.preset(name).data.name)]


def _layers(text: str) -> list[str]:
  """Layers of a list; errors of the parser carry the name of this function."""
  found = text.split(",")
  unknown = [layer for layer in found if layer not in plans.LAYERS]
  if unknown:
    known = ", ".join(plans.LAYERS)
    raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {known}")
  return found


def _is_drawn(name, scale, workdir, failed):
  experiment = _experiment(name)
  needed = plans.replicated(experiment.plan(scale), scale)
  missing = [one.folder for one in needed if one.folder in failed]
  if missing:
    warn("%s is not drawn: %s failed.", name, ", ".join(missing))
    return False
  output = workdir / "figures"
  try:
    with locks.owned(output):
      experiment.draw(workdir, output, scale)
  except UserError as error:
    warn("%s is not drawn: %s", name, error)
    return False
  print(f"{experiment.title}: {', '.join(sorted(map(str, output.glob(f'{name}[._]*'))))}")
  return True


if __name__ == "__main__":
  progress.show_lines()
  # Orbax narrates every error that it raises as well.
  absl_logging.set_verbosity(absl_logging.FATAL)
  with stopping.heeded():
    sys.exit(main())
