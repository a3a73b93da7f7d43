"""What is read of a run folder, and what is refused."""

import numpy as np
import pytest
from report_examples import fake_config, fake_run

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.report import files, write_run_report


@pytest.mark.parametrize("name", [storage.SUMMARY, storage.NATS, storage.CONFIG])
def test_a_missing_file_is_named(name, tmp_path):
  folder = fake_run(tmp_path / "run", samples=False)
  (folder / name).unlink()
  with pytest.raises(UserError, match=f"{name} is missing"):
    write_run_report(folder)


def test_a_summary_of_other_nats_is_refused(tmp_path):
  folder = fake_run(tmp_path / "run")
  summary = storage.read_json(folder / storage.SUMMARY)
  for name in ("nce_nats", "nce_live_nats_standard_error", "bits_per_dim", "num_test_images"):
    storage.write_json(folder / storage.SUMMARY, summary | {name: summary[name] * 1.001})
    with pytest.raises(UserError, match=rf"{name}=.*, but from nats.npz follows .*; delete it"):
      write_run_report(folder)


def test_an_incomplete_summary_is_refused(tmp_path):
  folder = fake_run(tmp_path / "run")
  summary = storage.read_json(folder / storage.SUMMARY)
  del summary["num_levels"]
  storage.write_json(folder / storage.SUMMARY, summary)
  with pytest.raises(UserError, match="lacks num_levels; delete it and run the evaluate"):
    write_run_report(folder)


ROWS = 250
ODD_ARRAYS = {
  "one number": {"nats": np.float64(43.1)},
  "whole numbers": {"nats": np.arange(ROWS)},
  "words": {"nats": np.full(ROWS, "43.1")},
  "a table": {"nats": np.zeros((ROWS, 2))},
  "complex numbers": {"nats": np.zeros(ROWS, complex)},
  "half an index": {"index": np.arange(ROWS) + 0.5},
  "labels as words": {"label": np.full(ROWS, "seven")},
  "sources as floats": {"source": np.zeros(ROWS)},
  "dates": {"live_nats": np.full(ROWS, "2020-01-01", "datetime64[D]")},
}


@pytest.mark.parametrize("case", ODD_ARRAYS)
def test_odd_types_in_the_nats_are_refused(case, tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=())
  arrays = storage.read_npz(folder / storage.NATS)
  storage.write_npz(folder / storage.NATS, arrays | ODD_ARRAYS[case])
  (name,) = ODD_ARRAYS[case]
  with pytest.raises(UserError, match=rf"nats\.npz holds {name} as .*; run the evaluate stage"):
    write_run_report(folder)


@pytest.mark.parametrize(
  ("file", "content", "words"),
  [
    (storage.CONFIG, [], "config.json is damaged .it holds no fields"),
    (storage.SUMMARY, "nothing", "summary.json is damaged .it holds no fields"),
    (storage.SUMMARY, {"nce_nats": "-43"}, "has nce_nats='-43', which cannot be"),
    (storage.SUMMARY, {"bits_per_dim": None}, "has bits_per_dim=None"),
    (storage.SUMMARY, {"layer": 3}, "has layer=3"),
    (storage.SUMMARY, {"image_shape": 8}, "has image_shape=8"),
    (storage.SUMMARY, {"num_levels": True}, "has num_levels=True"),
  ],
)
def test_odd_types_in_records_are_refused(file, content, words, tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=())
  if isinstance(content, dict):
    content = storage.read_json(folder / file) | content
  storage.write_json(folder / file, content)
  with pytest.raises(UserError, match=words):
    write_run_report(folder)


def test_the_line_written_after_a_resume_wins():
  lines = [
    {"stage": "inverter", "step": 10, "train_nats_per_image": 5.0},
    {"stage": "inverter", "step": 20, "train_nats_per_image": 4.0},
    {"stage": "classifier", "step": 20, "train_nats_per_image": 0.1},
    {"stage": "inverter", "step": 20, "validation_nats_per_image": 6.0},
    {"stage": "inverter", "step": 10, "train_nats_per_image": 5.5},
    {"stage": "inverter", "step": 30, "train_nats_per_image": None},
  ]
  assert files.curve(lines, "inverter", "train_nats_per_image") == ([10, 20], [5.5, 4.0])
  assert files.curve(lines, "inverter", "validation_nats_per_image") == ([20], [6.0])


def from_sources(folder, source_N):
  """Gives the test images of a run other sources, and its summary the errors that follow."""
  arrays = storage.read_npz(folder / storage.NATS) | {"source": source_N}
  storage.write_npz(folder / storage.NATS, arrays)
  errors = {
    f"nce_{prefix}nats_standard_error": information.mean_with_error(
      arrays[f"{prefix}nats"], source_N
    ).standard_error
    for prefix in ("", "live_")
  }
  summary = storage.read_json(folder / storage.SUMMARY)
  storage.write_json(folder / storage.SUMMARY, summary | errors)


def test_versions_of_one_source_widen_the_error(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False)
  arrays = storage.read_npz(folder / storage.NATS)
  naive = files.read_run(folder).nce.standard_error
  from_sources(folder, np.argsort(np.argsort(arrays["nats"])) // 10)
  run = files.read_run(folder)
  # Ten rows that agree count nearly as one.
  assert run.nce.standard_error > 2.5 * naive
  assert run.nce.num == 25


def test_paired_errors_respect_sources(tmp_path):
  folders = [fake_run(tmp_path / layer, layer, samples=False) for layer in ("conv1", "conv2")]
  arrays = [storage.read_npz(folder / storage.NATS) for folder in folders]
  difference_N = arrays[0]["nats"] - arrays[1]["nats"]
  source_N = np.argsort(np.argsort(difference_N)) // 10
  for folder in folders:
    from_sources(folder, source_N)
  naive = information.mean_with_error(difference_N).standard_error
  first, second = map(files.read_run, folders)
  assert second.gain_over(first).standard_error > 2.5 * naive


def key(field, value):
  """Of the example's configuration with one field changed or added."""
  config = fake_config("conv2")
  *sections, name = field.split(".")
  section = config
  for each in sections:
    section = section.setdefault(each, {})
  section[name] = value
  return files.same_model_key(config)


SAME = files.same_model_key(fake_config("conv2"))


@pytest.mark.parametrize(
  "field",
  [
    *("seed", "data.dir", "data.num_test", "evaluate.batch_size", "sample.num_images"),
    *("neighbours.num_many", "brackets.bits", "decoder.network.num_filters", "gan.entropy_weights"),
    *("classifier.log_every", "inverter.num_microbatches", "inverter.network.remat"),
  ],
)
def test_what_the_inverter_does_not_learn_from_is_not_the_model(field):
  assert key(field, 7) == SAME


@pytest.mark.parametrize(
  "field",
  [
    *("inverter.network.num_filters", "inverter.num_steps", "inverter.validate_every", "dtype"),
    *("classifier.network.dropout_rate", "data.num_validation", "representation.step"),
    *("inverter.start_from", "representation.layer", "a_newer_section.field"),
  ],
)
def test_what_the_inverter_learns_from_is_the_model(field):
  assert key(field, 7) != SAME


@pytest.mark.parametrize("off", [0, 0.0, "", [], False])
def test_a_run_older_than_a_field_has_it_off(off):
  assert key("representation.newer", off) == SAME
