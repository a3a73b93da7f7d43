"""What the house looks like: who imports whom, and what importing does."""

import ast
import pathlib
import subprocess
import sys

import inversion_jax

PACKAGE = pathlib.Path(inversion_jax.__file__).parent
# From the ground up; a module imports only what stands before it.
LADDER = [
  "errors",
  "processes",
  "progress",
  "storage",
  "metrics",
  "checkpoints",
  "placement",
  "compilation",
  "batches",
  "datasets",
  "data",
  "classifiers",
  "representations",
  "layers",
  "likelihoods",
  "pixelcnn",
  "incremental",
  "contexts",
  "inverters",
  "decoders",
  "gans",
  "widening",
  "costs",
  "training",
  "evaluation",
  "sampling",
  "neighbours",
  "information",
  "diversity",
  "channels",
  "densities",
  "estimators",
  "config",
  "runs",
  "report",
  "exact",
  "stages",
  "compare",
  "paper",
  "main",
]
MODELS = LADDER[LADDER.index("classifiers") : LADDER.index("training")]


def modules():
  for path in sorted(PACKAGE.rglob("*.py")):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room != "__init__":
      yield room, path


def rooms_imported(path):
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("inversion_jax"):
      _, _, room = node.module.partition(".")
      names = [room] if room else [alias.name for alias in node.names]
      yield from (name.split(".")[0] for name in names)


def test_each_module_imports_only_what_stands_before_it():
  for room, path in modules():
    above = {
      name
      for name in rooms_imported(path)
      if name != room and LADDER.index(name) >= LADDER.index(room)
    }
    assert not above, f"{path.name} must not import {sorted(above)}"


def test_the_ladder_names_every_room():
  assert {room for room, _ in modules()} == set(LADDER)


def test_models_and_statistics_do_not_know_the_configuration_or_files():
  for room, path in modules():
    if room in (
      "layers",
      "pixelcnn",
      "incremental",
      "contexts",
      "inverters",
      "decoders",
      "gans",
      "widening",
      "classifiers",
      "likelihoods",
    ):
      assert not {"config", "storage", "runs"} & set(rooms_imported(path)), path.name
    if room in ("sampling", "neighbours", "information", "diversity"):
      assert not {"inverters", "config", "storage", "runs"} & set(rooms_imported(path)), path.name
    if room == "report":
      models = {"inverters", "decoders", "gans", "classifiers", "runs", "checkpoints"}
      assert not models & set(rooms_imported(path)), path.name


def test_the_library_imports_without_flags_or_side_effects():
  script = """
import sys
from absl import flags
import inversion_jax
from inversion_jax import classifiers, inverters, likelihoods, representations, sampling, training
assert not {"config", "workdir", "stages"} & set(flags.FLAGS)
assert not {"tensorflow", "tensorflow_datasets", "orbax"} & set(sys.modules)
assert "matplotlib.pyplot" not in sys.modules
"""
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
