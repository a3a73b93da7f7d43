"""Runs one experiment from nothing to a report.

    python -m inversion_jax.main --config=configs/digits.py

Every field of the configuration can be changed, as in --config.inverter.num_steps=1000. Run it
again to go on where it was interrupted.
"""

import pathlib

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from inversion_jax import config as config_lib
from inversion_jax import report, stages
from inversion_jax.machine import locks, processes, progress, stopping, storage
from inversion_jax.machine.errors import UserError, as_sentences, exit_with
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "File of configs/, with :smoke for a minute's version.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run. Default: runs/<name of the config file>[_<variant>]."
)
_STAGES = flags.DEFINE_list(
  "stages",
  list(stages.DEFAULT),
  "Stages to run, in this order. Besides these there are checks (controls with a known answer), "
  "brackets (the layer through noise and few bits, from both sides), neighbours (Table 1) and gan "
  "(figure 3); the report shows them if it comes after them.",
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Join the other processes of a cluster (jax.distributed.initialize)."
)


def main(_):
  """Runs the stages of every layer, then compares the layers if there are several."""
  if _DISTRIBUTED.value:
    processes.join()
  config, workdir = config_lib.check(_CONFIG.value), _workdir()
  unknown = [stage for stage in _STAGES.value if stage not in stages.STAGES]
  if unknown or not _STAGES.value:
    raise UserError(f"--stages knows {', '.join(stages.STAGES)}, not {', '.join(unknown)!r}.")
  say("%d devices: %s", jax.device_count(), jax.devices()[0].device_kind)
  runs = [Run(config_lib.for_layer(config, layer), workdir / layer) for layer in config.layers] or [
    Run(config, workdir)
  ]
  with locks.owned(workdir, *(run.folder for run in runs)):
    _run_all(runs, workdir)
  if "report" in _STAGES.value and processes.is_first():
    print(f"The report is {workdir / storage.REPORT}")


def _run_all(runs, workdir):
  for run in runs:
    run.begin()
  for run in runs:
    for stage in _STAGES.value:
      say("%s: %s", run.folder, stage)
      stages.STAGES[stage](run)
  are_layers = runs[0].folder != workdir
  if are_layers and "neighbours" in _STAGES.value:
    report.write_table_1(workdir, [run.folder for run in runs])
  if are_layers and "report" in _STAGES.value:
    report.write_comparison(workdir, [run.folder for run in runs])


def _workdir():
  if _WORKDIR.value:
    return pathlib.Path(_WORKDIR.value)
  path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
  name = pathlib.Path(path).stem
  return pathlib.Path("runs") / (f"{name}_{variant}" if variant else name)


def _parse_flags(argv):
  """Parses the command line; what is wrong with it ends in one sentence."""
  try:
    left_over = flags.FLAGS(argv, known_only=False)
    if flags.FLAGS["config"].value is None:
      raise UserError("--config is missing; give one of the files in configs/.")
    path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not pathlib.Path(path).is_file():
      raise UserError(f"--config={path} does not exist; give one of the files in configs/.")
    if len(left_over) > 1:
      raise UserError(f"{left_over[1]!r} is not a flag; did you mean --{left_over[1]}?")
    return left_over
  except UserError as error:
    exit_with(_last_line(error))
  except (AttributeError, KeyError) as error:
    # ml_collections gives the repr of a KeyError's text: the field, then a suggestion.
    words = str(error.args[0]).strip("'\"").replace("\\'", "'").replace("\\n", ". ")
    exit_with(f"The configuration has no field {words}")
  except (flags.Error, TypeError) as error:
    exit_with(f"The command line was not understood: {_last_line(error).rstrip('.')}. See --help.")


def _last_line(error):
  """The sentence of an error; ml_collections puts the traceback of a config file before it."""
  lines = str(error.args[0] if error.args else error).strip().splitlines()
  return lines[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")


def _guarded(argv):
  """Runs `main`; a user's error ends in its sentence, a bug keeps its traceback."""
  if not flags.FLAGS["verbosity"].present:
    # Orbax narrates every file it writes, and every error that it raises as well.
    absl_logging.set_verbosity(absl_logging.FATAL)
  with as_sentences(_workdir(), "--workdir"), stopping.heeded():
    main(argv)


def run():
  """The console script."""
  progress.show_lines()
  app.run(_guarded, flags_parser=_parse_flags)


if __name__ == "__main__":
  run()
