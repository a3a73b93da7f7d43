"""The command that compares runs, on small folders made here."""

import csv
import json

import numpy as np
import pytest

from inversion_jax import compare, information
from inversion_jax.machine import storage
from inversion_jax.report import figures
from inversion_jax.report.files import read_run
from inversion_jax.report.pairs import _cells
from inversion_jax.report.rows import side_by_side

NUM_IMAGES = 320
LAYERS = {"conv1": 20.0, "conv2": 30.0, "fc3": 50.0}


def fake_run(folder, layer, mean_nats, seed=0, *, own_seed=None, per_source=1, **config):
  """A run folder whose codelengths are mostly shared by all runs, as those of one test set are."""
  shared_N = np.random.default_rng(0).gamma(9.0, 2.0, NUM_IMAGES)
  own_N = np.random.default_rng(abs(hash_of(folder, own_seed))).normal(0.0, 1.0, NUM_IMAGES)
  own_N = own_N[::per_source].repeat(per_source)
  nats_N = shared_N + own_N
  nats_N += mean_nats - nats_N.mean()
  index_N = np.arange(NUM_IMAGES)
  rows = {"index": index_N, "label": index_N % 10, "source": index_N // per_source}
  storage.write_npz(folder / storage.NATS, rows | {"nats": nats_N})
  base = {"seed": seed, "representation": {"layer": layer}, "classifier": {"num_steps": 4}}
  storage.write_json(folder / storage.CONFIG, base | config)
  summary = {"dataset": "digits", "layer": layer or "none", "num_levels": 17}
  nce = information.mean_with_error(-nats_N, rows["source"])
  summary |= {"nce_nats": nce.mean, "nce_nats_standard_error": nce.standard_error}
  summary |= {"image_shape": [8, 8, 1], "bits_per_dim": -nce.mean / (64 * np.log(2))}
  storage.write_json(folder / storage.SUMMARY, summary)
  return folder


def hash_of(folder, own_seed):
  return own_seed if own_seed is not None else sum(map(ord, folder.name))


def run_compare(*arguments):
  """The exit status of the command line, in this process."""
  try:
    compare.main([str(argument) for argument in arguments])
  except SystemExit as stop:
    return stop.code
  return 0


def read_csv(path):
  with path.open(newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def layers_dir(tmp_path_factory):
  parent = tmp_path_factory.mktemp("runs")
  runs = [fake_run(parent / layer, layer, nats) for layer, nats in LAYERS.items()]
  runs.append(fake_run(parent / "marginal", "", 60.0))
  assert run_compare(*runs) == 0
  return parent / "comparison"


def test_the_comparison_stands_beside_the_first_run_with_all_its_files(layers_dir):
  found = {path.relative_to(layers_dir).as_posix() for path in layers_dir.rglob("*.*")}
  assert found == {
    *("comparison.json", "comparison.csv", "differences.csv", "pointwise.csv", "report.html"),
    *("figures/nce.png", "figures/differences.png", "figures/gains_pointwise.png"),
    *("checksums.json", "figures/checksums.json", ".lock"),
  }


def test_every_pair_has_its_difference_and_verdict(layers_dir):
  rows = read_csv(layers_dir / "differences.csv")
  assert [(row["a"], row["b"]) for row in rows][:3] == [
    ("conv1", "conv2"),
    ("conv1", "fc3"),
    ("conv1", "none (p(x))"),
  ]
  assert len(rows) == 6
  assert float(rows[0]["difference_nats"]) == pytest.approx(10.0)
  assert {row["verdict"] for row in rows} == {"higher"}
  for row in rows:
    low, high = float(row["low_nats"]), float(row["high_nats"])
    assert float(row["simultaneous_low_nats"]) < low < float(row["difference_nats"]) < high
    assert high < float(row["simultaneous_high_nats"])
    error = float(row["standard_error_nats"])
    # Longer than by the normal law, as few images and skew have it.
    assert 1.0 < (high - low) / (2 * 1.959964 * error) < 1.02
    assert float(row["adjusted_p_value"]) < 1e-4
    assert row["error_covers"] == "images"


def test_the_page_shows_pairs_and_absolute_estimates(layers_dir):
  text = (layers_dir / "report.html").read_text(encoding="utf-8")
  assert "<h2>All pairs</h2>" in text
  assert "<h2>Absolute estimates</h2>" in text
  section = text[text.index("<h2>Absolute estimates</h2>") :]
  assert "an estimate, neither an upper nor a lower bound" in section
  # H(x) = 60, conv1 leaves 20: 40 nats, two thirds.
  assert "I(x; h), conv1" in section
  assert "66.7%" in section
  assert "I(x; h), none" not in section


def test_absolute_estimates_need_an_unconditional_model(tmp_path):
  runs = [fake_run(tmp_path / layer, layer, nats) for layer, nats in LAYERS.items()]
  assert run_compare(*runs, f"--output={tmp_path / 'out'}") == 0
  text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
  assert "Absolute estimates" not in text
  rows = storage.read_json(tmp_path / "out" / "comparison.json")
  assert {row["information_estimate_nats"] for row in rows} == {None}


def test_the_best_unconditional_model_is_the_estimate_of_the_entropy(tmp_path):
  runs = [fake_run(tmp_path / "conv1", "conv1", 20.0)]
  runs += [fake_run(tmp_path / "worse", "", 66.0), fake_run(tmp_path / "better", "", 60.0)]
  # Not seeds of one configuration: the same seed twice.
  assert run_compare(*runs) == 0
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  assert rows[0]["information_estimate_nats"] == pytest.approx(40.0)


def test_seeds_are_one_row_with_their_spread_in_its_error(tmp_path):
  means = {0: 29.0, 1: 30.0, 2: 31.0}
  runs = [fake_run(tmp_path / f"conv2_{seed}", "conv2", nats, seed) for seed, nats in means.items()]
  # Other seeds, so that nothing of them is shared.
  other = [fake_run(tmp_path / f"fc3_{seed}", "fc3", 28.0 + seed, seed) for seed in range(3, 6)]
  assert run_compare(*runs, *other) == 0
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  assert [(row["layer"], row["num_seeds"]) for row in rows] == [("conv2", 3), ("fc3", 3)]
  assert rows[0]["nce_nats"] == pytest.approx(-30.0)
  assert rows[0]["run"] == "../conv2_0; ../conv2_1; ../conv2_2"
  (pair,) = read_csv(tmp_path / "comparison" / "differences.csv")
  assert float(pair["difference_nats"]) == pytest.approx(2.0)
  # Seeds alone: variance 1 of each side over three.
  assert float(pair["standard_error_nats"]) == pytest.approx(np.sqrt(2 / 3), rel=0.02)
  assert pair["error_covers"] == "images and seeds"
  # Without the seeds the difference would be twenty errors.
  assert pair["verdict"] == "not resolved"
  assert "(3 seeds)" in (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")


def test_rows_of_the_same_seeds_are_compared_seed_by_seed(tmp_path):
  runs = [
    fake_run(tmp_path / f"{layer}_{seed}", layer, nats + 5 * seed, seed)
    for layer, nats in (("conv2", 30.0), ("fc3", 31.0))
    for seed in range(3)
  ]
  # Given in another order, they are paired all the same; what a seed does to both rows cancels.
  assert run_compare(*runs[:3], *reversed(runs[3:])) == 0
  (pair,) = read_csv(tmp_path / "comparison" / "differences.csv")
  assert float(pair["difference_nats"]) == pytest.approx(1.0)
  assert float(pair["standard_error_nats"]) < 0.1
  assert pair["verdict"] == "higher"
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  # Alone, a row's interval has both parts.
  assert rows[0]["nce_nats_seed_error"] == pytest.approx(5 / np.sqrt(3))
  assert rows[0]["nce_nats_standard_error"] > rows[0]["nce_nats_seed_error"]
  assert rows[0]["seeds_vary"] == "classifier order inverter"


def test_runs_of_one_classifier_and_several_inverters_are_one_row_that_says_so(tmp_path):
  runs = [
    fake_run(
      tmp_path / f"{layer}_{seed}",
      layer,
      nats + seed,
      seed,
      classifier={"num_steps": 4, "seed": 0},
      inverter={"order_seed": 0},
    )
    for layer, nats in (("conv2", 30.0), ("fc3", 31.0))
    for seed in range(3)
  ]
  assert run_compare(*runs) == 0
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  assert [row["seeds_vary"] for row in rows] == ["inverter", "inverter"]
  assert None not in [row["nce_envelope_nats"] for row in rows]
  text = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
  assert "the seeds of inverter differ" in text
  assert "it bounds what they tell together" not in text


def test_several_seeds_have_a_row_for_their_mixture(tmp_path):
  runs = [fake_run(tmp_path / f"conv2_{seed}", "conv2", 30.0 + seed, seed) for seed in range(2)]
  assert run_compare(*runs) == 0
  (row,) = storage.read_json(tmp_path / "comparison" / "comparison.json")
  first_N, second_N = (storage.read_npz(run / storage.NATS)["nats"] for run in runs)
  expected = np.log((np.exp(-first_N) + np.exp(-second_N)) / 2).mean()
  assert row["nce_mixture_nats"] == pytest.approx(expected)
  assert row["nce_nats"] < row["nce_mixture_nats"]
  text = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
  assert "conv2: mixture of 2" in text
  assert row["nce_pixel_mixture_nats"] is None, "no maps"
  assert "it bounds what they tell together" in text


def test_with_all_maps_seeds_are_mixed_pixel_by_pixel_too(tmp_path):
  runs = [fake_run(tmp_path / f"conv2_{seed}", "conv2", 30.0 + seed, seed) for seed in range(2)]
  maps = []
  for seed, run in enumerate(runs):
    nats = storage.read_npz(run / storage.NATS)
    # What one seed tells best, in the left half of an image, the other tells worst.
    share_HW = np.full((8, 8), 1 / 96)
    share_HW[:, seed * 4 : seed * 4 + 4] = 1 / 48
    maps.append(nats["nats"][:, None, None] * share_HW)
    whole = {"index": nats["index"], "nats": maps[-1], "mean_nats": maps[-1].mean(0)}
    storage.write_npz(run / storage.MAPS, whole)
  assert run_compare(*runs) == 0
  (row,) = storage.read_json(tmp_path / "comparison" / "comparison.json")
  expected = np.log(np.exp(-np.stack(maps)).mean(0)).sum((1, 2)).mean()
  assert row["nce_pixel_mixture_nats"] == pytest.approx(expected, rel=1e-6)
  assert row["nce_mixture_nats"] < row["nce_pixel_mixture_nats"]
  text = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
  assert "conv2: mixture of 2, pixel by pixel" in text


@pytest.mark.parametrize(
  "second",
  [
    {"seed": 1, "dtype": "bfloat16"},
    {"seed": 1, "inverter": {"network": {"num_filters": 32}}},
    {"seed": 0},
  ],
  ids=["precision", "filters", "seed twice"],
)
def test_only_runs_that_differ_in_nothing_but_the_seed_are_one_row(second, tmp_path):
  first = {"dtype": "float32", "inverter": {"network": {"num_filters": 64}}}
  runs = [
    fake_run(tmp_path / "a", "conv2", 30.0, **first),
    fake_run(tmp_path / "b", "conv2", 31.0, **first | second),
  ]
  assert run_compare(*runs) == 0
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  assert [row["num_seeds"] for row in rows] == [1, 1]
  pairs = read_csv(tmp_path / "comparison" / "differences.csv")
  assert (pairs[0]["a"], pairs[0]["b"]) == ("conv2 (a)", "conv2 (b)")


def test_what_the_inverter_does_not_learn_from_does_not_set_its_seeds_apart(tmp_path):
  runs = [
    fake_run(
      tmp_path / f"{layer}_{seed}",
      layer,
      30.0,
      seed,
      data={"name": "digits", "dir": f"{layer}/{seed}"},
      decoder={"num_steps": seed},
      evaluate={"num_maps": seed},
      brackets={"bits": [seed]},
      neighbours={"num_many": seed},
    )
    for layer in ("conv2", "fc3")
    for seed in range(2)
  ]
  assert run_compare(*runs) == 0
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  assert [row["num_seeds"] for row in rows] == [2, 2]
  # Nor do the folders of the images make two networks of one.
  assert None not in [row["nce_envelope_nats"] for row in rows]


def test_a_single_seed_against_several_is_said(tmp_path):
  runs = [fake_run(tmp_path / f"conv2_{seed}", "conv2", 30.0 + seed, seed) for seed in range(2)]
  assert run_compare(*runs, fake_run(tmp_path / "fc3", "fc3", 50.0)) == 0
  (pair,) = read_csv(tmp_path / "comparison" / "differences.csv")
  assert pair["error_covers"] == "images and seeds of conv2"


def test_rows_of_equal_folder_names_are_told_apart(tmp_path):
  folders = [tmp_path / name / "run" / "conv2" for name in ("a", "b")]
  runs = [fake_run(folder, "conv2", 30.0, own_seed=1) for folder in folders]
  assert run_compare(*runs, f"--output={tmp_path / 'out'}") == 0
  (pair,) = read_csv(tmp_path / "out" / "differences.csv")
  assert (pair["a"], pair["b"]) == ("conv2 (a/run/conv2)", "conv2 (b/run/conv2)")
  # The same numbers twice: no difference, and no division by the error that is zero.
  assert (float(pair["difference_nats"]), pair["verdict"]) == (0.0, "not resolved")
  assert float(pair["adjusted_p_value"]) == 1.0


def test_sources_widen_the_errors_of_pairs(tmp_path):
  errors = []
  for per_source in (1, 32):
    parent = tmp_path / str(per_source)
    runs = [
      fake_run(parent / layer, layer, 30.0, per_source=per_source) for layer in ("conv1", "conv2")
    ]
    assert run_compare(*runs) == 0
    (pair,) = read_csv(parent / "comparison" / "differences.csv")
    errors.append(float(pair["standard_error_nats"]))
    assert (pair["verdict"] == "no verdict") == (per_source == 32)
  # 32 equal rows a source are one: sqrt(32) = 5.7, give or take what ten sources say.
  assert 3.5 < errors[1] / errors[0] < 8
  text = (parent / "comparison" / "report.html").read_text(encoding="utf-8")
  assert "come from 10 sources" in text
  assert "No verdicts: 10 independent test images are too few" in text
  assert "Every step is resolved" not in text


def test_a_layer_above_its_upstream_is_flagged(tmp_path):
  runs = [fake_run(tmp_path / "conv2", "conv2", 50.0), fake_run(tmp_path / "fc3", "fc3", 47.0)]
  assert run_compare(*runs) == 0
  text = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
  assert "exception flagged" in text
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  assert [row["nce_nats"] for row in rows] == pytest.approx([-50.0, -47.0])
  assert [row["nce_envelope_nats"] for row in rows] == pytest.approx([-47.0, -47.0])


def test_networks_of_other_seeds_have_no_envelope(tmp_path):
  runs = [fake_run(tmp_path / "conv2", "conv2", 50.0), fake_run(tmp_path / "fc3", "fc3", 47.0, 1)]
  assert run_compare(*runs) == 0
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  assert [row["nce_envelope_nats"] for row in rows] == [None, None]


def test_one_run_alone_has_a_report_and_no_pairs(tmp_path):
  assert run_compare(fake_run(tmp_path / "conv2", "conv2", 30.0)) == 0
  assert read_csv(tmp_path / "comparison" / "differences.csv") == []
  assert "All pairs" not in (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")


def other_images(folder):
  arrays = storage.read_npz(folder / storage.NATS)
  storage.write_npz(folder / storage.NATS, arrays | {"index": arrays["index"] + 1})


def other_sources(folder):
  arrays = storage.read_npz(folder / storage.NATS)
  source_N = arrays["source"] // 2
  storage.write_npz(folder / storage.NATS, arrays | {"source": source_N})
  error = information.mean_with_error(arrays["nats"], source_N).standard_error
  summary = storage.read_json(folder / storage.SUMMARY)
  storage.write_json(folder / storage.SUMMARY, summary | {"nce_nats_standard_error": error})


def fewer_labels(folder):
  arrays = storage.read_npz(folder / storage.NATS)
  storage.write_npz(folder / storage.NATS, arrays | {"label": arrays["label"][1:]})


def not_evaluated(folder):
  (folder / storage.NATS).unlink()


def not_a_run(folder):
  (folder / storage.CONFIG).unlink()


@pytest.mark.parametrize(
  ("break_run", "sentence"),
  [
    (other_images, "were evaluated on different test images"),
    (other_sources, "disagree on which test images share a source"),
    (fewer_labels, "nats.npz lacks index, label or nats of some images"),
    (not_evaluated, "nats.npz is missing; run the stage that writes it first."),
    (not_a_run, "is not the folder of a run: it has no config.json."),
  ],
)
def test_runs_that_cannot_be_compared_end_in_a_sentence(break_run, sentence, tmp_path, capsys):
  runs = [fake_run(tmp_path / layer, layer, nats) for layer, nats in LAYERS.items()]
  break_run(runs[1])
  assert run_compare(*runs) == 2
  printed = capsys.readouterr().err
  assert sentence in printed
  assert "conv2" in printed
  assert printed.count("\n") == 1
  assert not (tmp_path / "comparison").exists()


def test_mistakes_on_the_command_line_end_in_a_sentence(tmp_path, capsys):
  run = fake_run(tmp_path / "conv2", "conv2", 30.0)
  storage.write_text(tmp_path / "file", "")
  for arguments, sentence in (
    ((), "arguments are required: RUN"),
    ((run, tmp_path / "nowhere"), "nowhere is not a folder"),
    ((run, tmp_path / "conv2" / ".." / "conv2"), "was given twice"),
    ((run, "--epsilon=nan"), "'nan' is no number of nats"),
    ((run, "--ouput=x"), "unrecognized arguments: --ouput=x"),
    ((run, f"--output={run}"), "is the folder of a run; choose another --output."),
    ((run, f"--output={tmp_path / 'file' / 'x'}"), "cannot be made (Not a directory)"),
    ((run, f"--output={tmp_path / 'file'}"), "; choose another"),
    ((run, "--output=/proc/comparison"), "; choose another"),
  ):
    assert run_compare(*arguments) == 2, arguments
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1
  assert json.loads((run / storage.CONFIG).read_text()), "the run is untouched"
  assert not (run / storage.REPORT).exists()


def test_the_matrix_shows_both_directions_in_the_colours_of_the_verdicts(tmp_path):
  means = {"conv1": 50.0, "conv2": 45.0, "fc3": 45.0}
  folders = [fake_run(tmp_path / layer, layer, nats) for layer, nats in means.items()]
  comparison = side_by_side([read_run(folder) for folder in folders])
  figure = figures.differences_figure(comparison.names, _cells(comparison))
  (axes,) = figure.get_axes()
  colours = {
    (round(patch.get_y() + 0.47), round(patch.get_x() + 0.48)): patch.get_facecolor()
    for patch in axes.patches
  }
  texts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
  assert colours[0, 1] == colours[0, 2] != colours[1, 0] == colours[2, 0]
  assert colours[1, 2] == colours[2, 1]
  assert texts[0, 1].startswith("\N{MINUS SIGN}5.0")
  assert texts[1, 0].startswith("+5.0")
  assert len(texts) == 6
