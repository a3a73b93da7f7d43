"""Tests run on the CPU, whatever the machine has; real data are used where they are found."""

import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
REAL_DATA_DIRS = [
  pathlib.Path(os.environ.get("TFDS_DATA_DIR", REPOSITORY)),
  REPOSITORY.parent / "shared" / "tfds",
]


@pytest.fixture(scope="session")
def real_data_dir():
  for folder in REAL_DATA_DIRS:
    if (folder / "mnist").exists() and (folder / "cifar10").exists():
      return str(folder)
  pytest.skip("real data: set TFDS_DATA_DIR to a folder with mnist and cifar10 prepared by TFDS")
