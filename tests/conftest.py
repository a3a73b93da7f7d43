"""Tests run on the CPU, whatever the machine has; real data are used where they are found."""

import atexit
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

import pytest

EMITTERS = "xla_cpu_use_fusion_emitters"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The programs are small and run a few times: most of the tests' time would go into optimising them.
# Runs of the README and cells of the site, and tests with `as_users_compile`, are optimised.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith("0.10."):
  # The emitters before these take a third of the time where nothing is optimised; later versions
  # have no others.
  os.environ.setdefault("XLA_FLAGS", f"--{EMITTERS}=false")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # Many tests run the same small programs, in several processes, which inherit this.
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="inversion_jax_compiled_")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
  atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Each goes to one process; the longest begin first, so that none waits for another at the end.
LONGEST = ("test_inverters", "test_main", "test_sampling", "test_plans", "test_fit", "test_train")
LONGEST += ("test_further", "test_gallery", "test_exact", "test_readme", "test_estimators")

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
REAL_DATA_DIRS = [
  pathlib.Path(os.environ.get("TFDS_DATA_DIR", REPOSITORY)),
  REPOSITORY.parent / "shared" / "tfds",
]


@pytest.fixture
def as_users_compile(monkeypatch):
  """Our programs are compiled in the test as they are elsewhere."""
  import jax

  from inversion_jax.machine import compilation

  on_cpu, name = compilation._on_cpu, "jax_disable_most_optimizations"
  monkeypatch.setattr(compilation, "_on_cpu", lambda **own: on_cpu(**own, **{EMITTERS: True}))
  was_disabled = jax.config.values[name]
  jax.config.update(name, False)
  yield
  jax.config.update(name, was_disabled)


@pytest.fixture(scope="session")
def real_data_dir():
  for folder in REAL_DATA_DIRS:
    if (folder / "mnist").exists() and (folder / "cifar10").exists():
      return str(folder)
  pytest.skip("real data: set TFDS_DATA_DIR to a folder with mnist and cifar10 prepared by TFDS")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, data_dir):
  """A finished run of the digits, under a folder where its siblings may stand."""
  import run_examples

  config = run_examples.smaller(run_examples.get_config("digits_fc3", "smoke"))
  config.data.dir = str(data_dir)
  return run_examples.run_stages(config, tmp_path_factory.mktemp("runs") / "fc3")


def pytest_collection_modifyitems(items):
  places = {name: place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))
