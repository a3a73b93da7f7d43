"""What a run survives: processes killed at any moment, and damage to every file that they leave.

    python benchmarks/faults.py [--kills=100] [--flips=200] [--seed=0] [--output=runs/faults]

A run of the digits, far too small to learn anything, is done once undisturbed. Then the same
command is killed (SIGKILL) at a random moment of a random stage, and given again, until it ends;
training saves after every step, so that many of the moments are within the writing of a checkpoint.
Then, in copies of the finished run, one bit of a file is flipped or its end cut off, and all that
reads a run reads it: the next start of the command, a restart of each training, `ij.load`, the
comparison.

The last line is one JSON object. `lost`: commands that could not go on after a kill. `different`:
runs that were killed and ended in other nats, samples or parameters than the undisturbed one.
`half_written`: files under their final name, after a kill, that are not what was to be written.
`seen`: damage that ended in a sentence which names the file, or in a warning and an older
checkpoint; `harmless`: that changed nothing that was read; `silent`: that changed a number without
a word; `tracebacks`: that ended in another error.
"""

import collections
import contextlib
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import logging as absl_logging

from inversion_jax import inversion, main, stages
from inversion_jax.fitting import sessions
from inversion_jax.inversion import folders
from inversion_jax.machine import checkpoints, checksums, progress, storage
from inversion_jax.machine.checkpoints import Checkpoints
from inversion_jax.machine.errors import Parser, UserError
from inversion_jax.report.files import read_run
from inversion_jax.runs import Run
from inversion_jax.stages import classifier, decoder

MODELS = ("classifier", "inverter", "decoder")
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "digits_fc3.py"
FIELDS = {
  "data.num_train": 64,
  "data.num_validation": 10,
  "data.num_test": 21,
  "inverter.network.num_filters": 4,
  "inverter.network.num_scales": 1,
  **{f"{model}.num_steps": 10 for model in MODELS},
  **{f"{model}.validate_every": 1 for model in MODELS},
}
# So often is one run killed; then it is let go on to its end.
MOST_KILLS = 5
PATIENCE_SECONDS = 300.0
# What says how fast, when or where a run was, and not what it found.
NOT_FOUND = ("seconds", "command", "train_images_per_second")


def run_all(arguments=None):
  """Kills, damages, and prints what became of it."""
  given = _parser().parse_args(arguments)
  output = given.output
  # A process that has not touched a device can be forked: no trial imports anything.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  jax.config.update("jax_compilation_cache_dir", str((output / "compiled").absolute()))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  rng = np.random.default_rng(given.seed)
  shutil.rmtree(output / "killed", ignore_errors=True)
  whole = output / "undisturbed"
  shutil.rmtree(whole, ignore_errors=True)
  first = _Trial(whole)
  _expect(first.wait() == 0, f"the undisturbed run failed, see {first.log}")
  # Once more, since the first has compiled.
  shutil.rmtree(whole)
  windows = _windows(_Trial(whole))
  found = _kill_often(given.kills, whole, windows, output, rng)
  found |= _in_child(_damage_often, given.flips, whole, output, int(rng.integers(2**31)))
  print(json.dumps(found))


def _parser():
  parser = Parser("benchmarks.faults", __doc__)
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--flips", type=int, default=200)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/faults"))
  return parser


def _expect(holds, sentence):
  if not holds:
    raise SystemExit(f"faults: {sentence}.")


class _Trial:
  """One call of the command, in a process of its own."""

  def __init__(self, folder: pathlib.Path):
    self.log = folder.with_name(f"{folder.name}.log")
    self.log.parent.mkdir(parents=True, exist_ok=True)
    self.log.write_text("")
    self.code = None
    self.start = time.monotonic()
    self.pid = os.fork()
    if self.pid == 0:
      _command(folder, self.log)

  def announced(self):
    """The stages that have begun."""
    return re.findall(r"^[\d:]+ .*: (\w+)$", self.log.read_text(errors="replace"), re.MULTILINE)

  def is_over(self):
    if self.code is None:
      pid, status = os.waitpid(self.pid, os.WNOHANG)
      self.code = os.waitstatus_to_exitcode(status) if pid else None
    return self.code is not None

  def wait(self, until=lambda: False):
    """The exit status, or None once `until` holds."""
    while not self.is_over():
      if until():
        return None
      _expect(time.monotonic() < self.start + PATIENCE_SECONDS, f"a run hangs, see {self.log}")
      time.sleep(0.005)
    return self.code

  def kill(self):
    os.kill(self.pid, signal.SIGKILL)
    os.waitpid(self.pid, 0)


def _command(folder, log):
  """Becomes the command, and does not return."""
  descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
  for stream in (1, 2):
    os.dup2(descriptor, stream)
  fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
  sys.argv = ["main", f"--config={CONFIG}:smoke", *fields, f"--workdir={folder}"]
  try:
    main.run()
  except SystemExit as ended:
    os._exit(ended.code or 0)
  finally:
    sys.stderr.flush()
    os._exit(1)


def _windows(trial):
  """Seconds that each stage of an undisturbed run takes."""
  begins = {}

  def has_begun():
    return len(trial.announced()) > len(begins)

  while trial.wait(has_begun) is None:
    begins.update({name: time.monotonic() for name in trial.announced() if name not in begins})
  _expect(trial.code == 0, f"the undisturbed run failed, see {trial.log}")
  ends = [*list(begins.values())[1:], time.monotonic()]
  return {name: end - begin for (name, begin), end in zip(begins.items(), ends, strict=True)}


def _kill_often(num_kills, whole, windows, output, rng):
  count = collections.Counter(kills=0, lost=0, different=0, half_written=0)
  expected, number = _fingerprint(whole), 0
  moments = collections.Counter()
  while count["kills"] < num_kills:
    number += 1
    folder = output / "killed" / f"{number:03d}"
    names = sorted(rng.choice(list(windows), MOST_KILLS), key=list(windows).index)
    for name in [*names[: num_kills - count["kills"]], None]:
      trial = _Trial(folder)
      if name:
        moment = rng.uniform(0, windows[name])
        if trial.wait(lambda name=name, trial=trial: name in trial.announced()) is None:
          time.sleep(moment)
      else:
        trial.wait()
      if trial.is_over():
        break
      trial.kill()
      count["kills"] += 1
      moments[trial.announced()[-1]] += 1
      count["half_written"] += len(_half_written(folder))
    if trial.code != 0:
      count["lost"] += 1
      progress.say("%s: lost, see %s", folder, trial.log)
    elif _fingerprint(folder) != expected:
      count["different"] += 1
      progress.say("%s: different", folder)
    else:
      shutil.rmtree(folder)
    progress.say("%d kills: %s, in %s", count["kills"], dict(count), dict(moments))
  return dict(count)


def _half_written(folder):
  """Files under their final name that are not what was to be written."""
  broken = []
  for path in folder.rglob("*"):
    if path.name.startswith(".") or not path.is_file():
      continue
    if not checksums.agree(path, path.read_bytes(), grows=path.name == storage.METRICS):
      broken.append(path)
  for model in MODELS:
    for step in checkpoints.saved_steps(folder / model):
      try:
        json.loads((folder / model / str(step) / checkpoints.RECORD).read_bytes())
      except (OSError, ValueError):
        broken.append(folder / model / str(step))
  for path in broken:
    progress.say("half written: %s", path)
  return broken


def _fingerprint(folder):
  """All that a run found, without what says how long it took."""
  notes = storage.read_json(folder / storage.NOTES)
  summary = storage.read_json(folder / storage.SUMMARY)
  arrays = {
    name: checksums.of_arrays(storage.read_npz(folder / name))
    for name in (storage.NATS, storage.MAPS, storage.SAMPLES, folders.STATISTICS)
  }
  records = {
    model: json.loads(
      (folder / model / str(notes[model]["best_step"]) / checkpoints.RECORD).read_bytes()
    )
    for model in MODELS
  }
  lines = {
    (line["stage"], line["step"], name): value
    for line in storage.read_metrics(folder / storage.METRICS)
    for name, value in line.items()
    if not name.endswith(("seconds", "per_second"))
  }
  kept = {name: value for name, value in summary.items() if name not in NOT_FOUND}
  return kept, arrays, records, lines


def _in_child(act, *arguments):
  """What `act` gives, from a process of its own."""
  read, write = os.pipe()
  pid = os.fork()
  if pid == 0:
    code = 1
    try:
      found = act(*arguments)
      os.write(write, json.dumps(found).encode())
      code = 0
    except BaseException:
      logging.exception("failed")
    finally:
      os._exit(code)
  os.close(write)
  with os.fdopen(read, "rb") as pipe:
    content = pipe.read()
  _, status = os.waitpid(pid, 0)
  _expect(status == 0, "the damage could not be done")
  return json.loads(content)


class Damage(NamedTuple):
  """One bit flipped, or, without a bit, the end of the file cut off there."""

  path: pathlib.Path  # in the run
  place: int
  bit: int | None

  def apply(self, folder):
    """Does it in a copy of the run."""
    path = folder / self.path
    content = bytearray(path.read_bytes())
    if self.bit is None:
      path.write_bytes(content[: self.place])
    else:
      content[self.place] ^= 1 << self.bit
      path.write_bytes(content)

  def __str__(self):
    done = "cut" if self.bit is None else f"bit {self.bit} flipped"
    return f"{self.path}, byte {self.place}: {done}"


def _damage_often(num_flips, whole, output, seed):
  absl_logging.set_verbosity(absl_logging.FATAL)
  count = collections.Counter(flips=0, seen=0, harmless=0, silent=0, tracebacks=0)
  rng = np.random.default_rng(seed)
  copy = output / "damaged"
  warnings = _Warnings()
  logging.getLogger("inversion_jax").addHandler(warnings)
  _copy(whole, copy)
  readers = _Readers(copy)
  expected = readers.read(copy)
  paths = [
    path.relative_to(whole)
    for path in sorted(whole.rglob("*"))
    if path.is_file() and path.stat().st_size and path.name != ".lock"
  ]
  kinds = collections.defaultdict(list)
  for path in paths:
    kinds[_kind(path)].append(path)
  names = sorted(kinds)
  for number in range(num_flips):
    # Each kind of file as often, however many there are of it.
    same_kind = kinds[names[number % len(names)]]
    path = same_kind[int(rng.integers(len(same_kind)))]
    place = int(rng.integers((whole / path).stat().st_size))
    damage = Damage(path, place, None if rng.random() < 0.25 else int(rng.integers(8)))
    _copy(whole, copy)
    damage.apply(copy)
    warnings.lines.clear()
    verdict, words = _verdict(readers, copy, expected, damage, warnings)
    count["flips"] += 1
    count[verdict] += 1
    progress.say("%s: %s %s", damage, verdict, words)
  return dict(count)


def _verdict(readers, copy, expected, damage, warnings):
  try:
    found = readers.read(copy)
  except UserError as error:
    words = str(error)
  except Exception as error:
    return "tracebacks", repr(error)
  else:
    words = " ".join(warnings.lines)
    if not words:
      return ("harmless", "") if found == expected else ("silent", str(damage))
  # The file itself, or the checkpoint that it belongs to.
  named = any(str(copy / part) in words for part in (damage.path, *damage.path.parents[:-1]))
  return ("seen", words) if named else ("silent", f"another file is named: {words}")


class _Warnings(logging.Handler):
  def __init__(self):
    super().__init__(logging.WARNING)
    self.lines = []

  def emit(self, record):
    self.lines.append(self.format(record))


def _kind(path):
  """Files of one kind are read alike: those of a checkpoint by their name without numbers."""
  parts = [re.sub(r"[0-9a-f]{8,}|\d+", "#", part) for part in path.parts]
  return "/".join(parts[1:] if parts[0] in MODELS else parts)


def _copy(source, target):
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(source, target)


class _Readers:
  """All that reads a run; what is compiled is compiled once."""

  def __init__(self, folder: pathlib.Path):
    run = Run.load(folder)
    recipes = {model: run.recipe(model) for model in MODELS}
    subjects = {"classifier": classifier.subject(run), "decoder": decoder.subject(run)}
    subjects["inverter"] = inversion.subject(
      run.pairs("train"), run.pairs("validation"), run.network(), observed=run.observed
    )
    self.shapes = {model: sessions.state_shape(subjects[model], recipes[model]) for model in MODELS}
    self.best_modes = {model: subjects[model].best_mode for model in MODELS}

  def read(self, folder):
    """What is found in a run: by its next start, by training that goes on, and by who compares."""
    run = Run.load(folder)
    run.begin()
    for name in stages.DEFAULT:
      # The report reads what `read_run` does.
      if name != "report":
        stages.STAGES[name](run)
    compared = read_run(folder)
    statistics = storage.read_npz(folder / folders.STATISTICS)
    arrays = [compared.nats, compared.samples, compared.maps, statistics]
    model = inversion.load(folder)
    decoder_params = decoder.params_at(run, run.finished("decoder")["best_step"])
    params = [model.params, model.live_params, run.classifier_params(), decoder_params]
    newest = []
    for name, shape in self.shapes.items():
      with Checkpoints(folder / name, self.best_modes[name]) as kept:
        newest.append((kept.best(), kept.restore_newest(shape)))
    summary = {name: value for name, value in compared.summary.items() if name not in NOT_FOUND}
    return (
      summary,
      compared.config,
      compared.metrics,
      checksums.of_arrays(arrays),
      checksums.of_arrays(params),
      [(best, step, checksums.of_arrays(state)) for best, (step, state) in newest],
    )


if __name__ == "__main__":
  progress.show_lines()
  with contextlib.suppress(KeyboardInterrupt):
    run_all()
