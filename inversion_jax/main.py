"""Runs one experiment from nothing to a report.

    python -m inversion_jax.main --config=configs/digits.py
    inversion-jax --config=digits

Every field of the configuration can be changed, as in --config.inverter.num_steps=1000. Run it
again to go on where it was interrupted.
"""

import pathlib
import sys
import traceback

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from inversion_jax import config as config_lib
from inversion_jax import report, stages
from inversion_jax.machine import compilation, locks, processes, progress, stopping, storage
from inversion_jax.machine.errors import UserError, as_sentences, exit_with
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "File of configs/ or its name, with :smoke for a minute's.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run. Default: runs/<name of the config file>[_<variant>]."
)
_STAGES = flags.DEFINE_list(
  "stages",
  list(stages.DEFAULT),
  "Stages to run, in this order. Besides these there are checks (controls with a known answer), "
  "brackets (the layer through noise and few bits, from both sides), crossfit (classifier and "
  "inverter on different halves of the training images), neighbours (Table 1), gan "
  "(figure 3) and gallery (every way to look inside; perceptual, deepsim and gated train parts of "
  "it); the report shows them if it comes after them.",
)
_JOBS = flags.DEFINE_integer(
  "jobs",
  0,
  "Layers and replicates at the same time, each in a process with its share of the cores. 0: on a "
  "CPU one for each core, else one.",
  lower_bound=0,
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Join the other processes of a cluster (jax.distributed.initialize)."
)


def main(_):
  """Runs the stages of every layer and replicate, then compares them if there are several."""
  if _DISTRIBUTED.value:
    processes.join()
  config, workdir = config_lib.check(_CONFIG.value), _workdir()
  unknown = [stage for stage in _STAGES.value if stage not in stages.STAGES]
  if unknown or not _STAGES.value:
    raise UserError(f"--stages knows {', '.join(stages.STAGES)}, not {', '.join(unknown)!r}.")
  say("%d devices: %s", jax.device_count(), jax.devices()[0].device_kind)
  replicates = list(_replicates(config, workdir))
  stages.check([run for _, runs in replicates for run in runs], _STAGES.value)
  with locks.owned(workdir):
    _run_all(replicates, workdir)
  if "report" in _STAGES.value and processes.is_first():
    print(f"The report is {workdir / storage.REPORT}")


def _replicates(config, workdir):
  """(folder, runs in it) of every replicate: its layers below the folder, or the run that it is."""
  for name, one in config_lib.replicates(config).items():
    folder = workdir / name
    layers = [Run(config_lib.for_layer(one, layer), folder / layer) for layer in one.layers]
    yield folder, layers or [Run(one, folder)]


def _run_all(replicates, workdir):
  runs = [run for _, runs in replicates for run in runs]
  # Replicates differ in numbers that their programs are given, layers in what reads them.
  compiled = workdir / compilation.FOLDER if len(runs) > 1 else None
  stages.go_through_all(runs, _STAGES.value, _JOBS.value, compiled)
  if "neighbours" in _STAGES.value:
    for folder, layers in replicates:
      if layers[0].folder != folder:
        report.write_table_1(folder, [run.folder for run in layers])
  if "report" in _STAGES.value and runs[0].folder != workdir:
    report.write_comparison(workdir, [run.folder for run in runs])


def _workdir():
  if _WORKDIR.value:
    return pathlib.Path(_WORKDIR.value)
  path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
  name = pathlib.Path(path).stem
  return pathlib.Path("runs") / (f"{name}_{variant}" if variant else name)


def _parse_flags(argv):
  """Parses the command line; what is wrong with it ends in one sentence."""
  # ml_collections warns of what ends in a sentence below.
  absl_logging.set_verbosity(absl_logging.ERROR)
  path = None
  try:
    argv, path = _with_file(argv)
    left_over = flags.FLAGS(argv, known_only=False)
    # ml_collections keeps an OSError of the file until the first field is looked at.
    getattr(flags.FLAGS["config"].value, "lock", None)
    if path is None and flags.FLAGS["config"].value is None:
      raise UserError("--config is missing; give one of the files in configs/, or its name.")
    if len(left_over) > 1:
      raise UserError(f"{left_over[1]!r} is not a flag; did you mean --{left_over[1]}?")
    return left_over
  except SystemExit:
    sys.exit(0)  # Help was asked for, and is no mistake.
  except Exception as error:
    exit_with(_sentence_of(error, path))


def _with_file(argv):
  """The command line with the path of the file that --config names, and that path if it does.

  It is looked at before absl is, so that what is wrong with it ends in our words.
  """
  for place, word in enumerate(argv):
    name, is_whole, value = word.partition("=")
    if name in ("--config", "-config"):
      after = place + 1 if is_whole else place + 2
      given, *variant = (value if is_whole else "".join(argv[place + 1 : after])).split(":", 1)
      path = config_lib.file_of(given)
      return [*argv[:place], f"{name}={':'.join([str(path), *variant])}", *argv[after:]], path
  return argv, None


def _sentence_of(error, path):
  """What a user reads of an error that was met on the command line; raises it again if a bug."""
  chain = [error]
  while chain[0].__cause__ or chain[0].__context__:
    # absl and ml_collections wrap what a file raised.
    chain.insert(0, chain[0].__cause__ or chain[0].__context__)
  for first in chain:
    if isinstance(first, UserError):
      return first
    line = path and _line_in(path, first)
    if line or isinstance(first, SyntaxError):
      words = f"{type(first).__name__}: {_words_of(first)}"
      return (
        f"--config={path} cannot be read, line {line or 1}: {words.rstrip('.')}; mend the file."
      )
  if isinstance(error, AttributeError | KeyError):
    if "get_config" in str(error):
      return f"--config={path} has no function get_config; write it as the files in configs/ do."
    return f"The configuration has no field {_words_of(error)}"
  if isinstance(error, flags.Error | TypeError | ValueError):
    return f"The command line was not understood: {_words_of(error).rstrip('.')}. See --help."
  raise error


def _line_in(path, error):
  """The last line of the file that an error has passed, None if it comes from elsewhere."""
  if isinstance(error, SyntaxError) and pathlib.Path(error.filename or "") == path:
    return error.lineno
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if pathlib.Path(frame.filename) == path]
  return lines[-1] if lines else None


def _words_of(error):
  """The text of an error in one line; ml_collections gives a repr of it for a missing field."""
  text = error.msg if isinstance(error, SyntaxError) else str(error)
  if isinstance(error, AttributeError | KeyError):
    text = str(error.args[0]).strip("'\"").replace("\\'", "'").replace("\\n", "\n")
  return ". ".join(line for line in text.splitlines() if line)


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
