"""A report of one run and one of five, written once for all tests that only read them."""

import pytest
from report_examples import NATS, fake_run

from inversion_jax.machine import storage
from inversion_jax.report import write_comparison, write_run_report


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
  folder = fake_run(tmp_path_factory.mktemp("runs") / "digits_conv2")
  write_run_report(folder)
  return folder


@pytest.fixture(scope="session")
def parent_dir(tmp_path_factory):
  parent = tmp_path_factory.mktemp("digits")
  # The unconditional model is given first, to see it put last.
  folders = [fake_run(parent / layer, layer, stages=()) for layer in ("none", *list(NATS)[:4])]
  storage.write_text(parent / "conv1" / storage.REPORT, "written before")
  write_comparison(parent, folders)
  return parent
