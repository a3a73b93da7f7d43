"""What the house looks like: who imports whom, and what importing does."""

import ast
import pathlib
import re
import subprocess
import sys

import inversion_jax

PACKAGE = pathlib.Path(inversion_jax.__file__).parent
# Floors and rooms from the ground up; a module imports only what stands before it.
LADDER = [
  *("machine.errors", "machine.limits", "machine.memory", "machine.processes", "machine.progress"),
  *("machine.checksums", "machine.storage", "machine.locks", "machine.stopping"),
  "machine.workers",
  *(
    "machine.notes",
    "machine.metrics",
    "machine.checkpoints",
    "machine.placement",
    "machine.compilation",
  ),
  *("data.images", "data.batches", "data.datasets", "data.reduced", "data.loading"),
  *("information.statistics", "information.mixtures", "information.codelength"),
  *("information.diversity", "information.neighbours"),
  *(
    "features.deconvnets",
    "features.classifiers",
    "features.noise",
    "features.sources",
    "features.adapters",
    "features.wrappers",
    "features.checks",
    "features.patches",
    "features.pairs",
  ),
  *("information.densities", "information.estimators"),
  *("models.layers", "models.likelihoods", "models.pixelcnn", "models.incremental"),
  "models.gated",
  "models.upward",
  *("models.contexts", "models.inverters", "models.widening", "models.decoders", "models.gans"),
  "models.perceptual",
  *("models.optimisation", "models.sampling"),
  *(
    "fitting.costs",
    "fitting.scoring",
    "fitting.training",
    "fitting.chains",
    "fitting.descents",
    "fitting.steps",
  ),
  "fitting.first_pass",
  "fitting.sessions",
  *(
    "report",
    "results",
    "inversion",
    "config",
    "runs",
    "exact",
    "stages",
    "compare",
    "paper",
    "main",
  ),
]
FLOORS = ("machine", "data", "features", "models", "fitting", "information")


def place(dotted):
  """Where a module stands in the ladder, by its own name or its room's."""
  parts = dotted.split(".")
  name = ".".join(parts[:2]) if parts[0] in FLOORS else parts[0]
  return LADDER.index(name)


def modules():
  for path in sorted(PACKAGE.rglob("*.py")):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and (len(parts) == 1 or (parts[0] in FLOORS and len(parts) == 2)):
      continue
    yield ".".join(part for part in parts if part != "__init__"), path


def imported(path):
  """The modules of this package that a file imports, dotted, without the package's name."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("inversion_jax"):
      continue
    base = node.module.removeprefix("inversion_jax").lstrip(".")
    for alias in node.names:
      whole = f"{base}.{alias.name}".lstrip(".")
      is_module = PACKAGE.joinpath(*whole.split(".")).with_suffix(".py").exists()
      is_folder = (PACKAGE.joinpath(*whole.split(".")) / "__init__.py").exists()
      dotted = whole if is_module or is_folder else base
      # The functions of `information` itself.
      yield "information.statistics" if dotted == "information" else dotted


def test_each_module_imports_only_what_stands_before_it():
  for name, path in modules():
    own = place(name)
    above = {other for other in imported(path) if place(other) > own}
    above |= {
      other
      for other in imported(path)
      if place(other) == own and other.split(".")[:1] != name.split(".")[:1]
    }
    assert not above, f"{name} must not import {sorted(above)}"


def test_the_ladder_names_every_room():
  assert {LADDER[place(name)] for name, _ in modules()} == set(LADDER)


def test_models_and_statistics_do_not_know_the_configuration_or_files():
  for name, path in modules():
    floor, rooms = name.split(".")[0], {other.split(".")[0] for other in imported(path)}
    if floor in ("models", "features", "information", "data"):
      assert not {"config", "runs", "stages"} & rooms, name
      assert "machine.storage" not in set(imported(path)), name
    if floor == "report":
      assert not {"models", "features", "runs", "fitting"} & rooms, name


def test_the_library_imports_without_flags_or_side_effects():
  script = """
import sys
from absl import flags
import inversion_jax
from inversion_jax.features import classifiers, sources
from inversion_jax.fitting import training
from inversion_jax.models import inverters, likelihoods, sampling
assert not {"config", "workdir", "stages"} & set(flags.FLAGS)
assert not {"tensorflow", "tensorflow_datasets", "orbax"} & set(sys.modules)
assert "matplotlib.pyplot" not in sys.modules
"""
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


def room_of(name):
  return name.split(".")[0]


def arrows():
  """(room, room that it builds on), without those that others imply."""
  needs = {}
  for name, path in modules():
    others = {room_of(other) for other in imported(path)} - {room_of(name), ""}
    needs.setdefault(room_of(name), set()).update(others)

  def reached(room):
    return set.union(set(), *({other, *reached(other)} for other in needs.get(room, ())))

  return {
    (room, other)
    for room, others in needs.items()
    for other in others
    if not any(other in reached(third) for third in others - {other})
  }


def test_the_picture_of_the_house_is_true():
  page = (PACKAGE.parent / "docs" / "house.md").read_text(encoding="utf-8")
  assert set(re.findall(r"^ +(\w+) --> (\w+)$", page, re.MULTILINE)) == arrows()
  described = re.findall(r"^\| `(\w+)`", page, re.MULTILINE)
  assert described == list(dict.fromkeys(map(room_of, LADDER[::-1])))
