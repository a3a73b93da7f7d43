"""Small runs that several tests look at."""

import contextlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from inversion_jax import config as config_lib
from inversion_jax import stages
from inversion_jax.fitting import training
from inversion_jax.runs import Run

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
FILES = (
  *("config.json", "metrics.jsonl", "nats.npz", "maps.npz", "summary.json"),
  *("samples.npz", "report.html"),
  *("figures/samples.png", "figures/training.png", "figures/nats.png"),
  *("inverter", "classifier", "decoder", "tensorboard"),
)


def get_config(name, variant=""):
  spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


def smaller(config):
  """Smaller than smoke: the same stages on less to compile."""
  config.inverter.network.update({"num_filters": 4, "num_scales": 1})
  config.gan.network.num_scales = 1
  config.data.update({"num_train": 64, "num_validation": 10, "num_test": 21})
  return config


def run_stages(config, folder, names=stages.DEFAULT):
  run = Run(config_lib.check(config), folder)
  run.begin()
  for name in names:
    stages.STAGES[name](run)
  return run


def command(*arguments, data_dir=None, devices=1, variables=(), cwd=ROOT):
  flags = os.environ.get("XLA_FLAGS", "")
  environment = {**os.environ, **dict(variables)} | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
  }
  if data_dir:
    environment["TFDS_DATA_DIR"] = str(data_dir)
  return subprocess.run(
    [sys.executable, "-m", "inversion_jax.main", *arguments],
    **{"cwd": cwd, "env": environment, "capture_output": True, "text": True, "check": False},
  )


def sibling(finished, name, layer="fc3"):
  return Run(config_lib.for_layer(finished.config, layer), finished.folder.parent / name)


def edited(config, **fields):
  """A copy with fields by dotted name, written with __ for the dots."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
  return config


@contextlib.contextmanager
def at_step(last, act):
  """Inside, `act()` follows once training has logged step `last`."""
  fit = training.fit

  def interrupted(*args, on_log, **kwargs):
    def log(step, values):
      on_log(step, values)
      if step == last:
        act()

    return fit(*args, on_log=log, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(training, "fit", interrupted)
    yield


@contextlib.contextmanager
def killed_at_step(last):
  """Training inside is killed once step `last` has been logged."""

  def kill():
    raise KeyboardInterrupt

  with at_step(last, kill), pytest.raises(KeyboardInterrupt):
    yield


def told_to_end_at_step(last):
  """Inside, this process gets the signal of a machine that is taken away at step `last`."""
  return at_step(last, lambda: os.kill(os.getpid(), signal.SIGTERM))


def run_stage(name, run):
  """Does one stage of a run."""
  stages.STAGES[name](run)
