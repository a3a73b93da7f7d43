import base64
import csv
import html
import html.parser
import json
import math
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.report import (
  figures,
  files,
  page,
  pictures,
  write_comparison,
  write_run_report,
  write_table_1,
)
from inversion_jax.report.rows import nce_gain

DIGITS = load_digits()
NUM_TEST = 250
TEST_ROWS = np.arange(1547, 1797)
NATS = {"conv1": 26.4, "conv2": 43.1, "fc3": 68.3, "logits": 74.8, "none": 79.1}


def draw_nats(layer, mean=None):
  """Codelengths of exactly this mean; most of what makes an image hard is shared by all layers."""
  mean = NATS[layer] if mean is None else mean
  shared_N = np.random.default_rng(0).gamma(9.0, 2.0, NUM_TEST)
  own_N = np.random.default_rng(list(NATS).index(layer)).normal(0.0, 1.5, NUM_TEST)
  nats_N = shared_N + own_N
  return nats_N + mean - nats_N.mean()


def draw_samples(layer, num_images=6, num_samples=8):
  """Digits with as much of them replaced as the layer forgets."""
  rng = np.random.default_rng(len(layer))
  original_NHWC = DIGITS.images[TEST_ROWS[:num_images], :, :, None].astype(np.uint8)
  others_NSHWC = DIGITS.images[rng.integers(0, 1500, (num_images, num_samples)), ..., None]
  forgotten = {"conv1": 0.1, "conv2": 0.3, "fc3": 0.6, "logits": 0.75, "none": 1.0}[layer]
  mixed = (1 - forgotten) * original_NHWC[:, None] + forgotten * others_NSHWC
  return {
    "original": original_NHWC,
    "sample": np.rint(mixed).astype(np.uint8),
    "index": TEST_ROWS[:num_images],
    "label": DIGITS.target[TEST_ROWS[:num_images]],
  }


def training_lines(stage, num_steps, end):
  lines = []
  for step in range(20, num_steps + 1, 20):
    nats = end + 90 * np.exp(-step / 60) + 6 * np.exp(-step / 300)
    noise = np.random.default_rng((num_steps, step)).normal(0, 1.2)
    lines.append(
      {
        "stage": stage,
        "step": step,
        "train_nats_per_image": nats - 1 + noise,
        "grad_norm": 3 * np.exp(-step / 400) + 0.2 + abs(noise) / 20,
        "learning_rate": 1.5e-3 * (1 + np.cos(np.pi * step / num_steps)),
        "images_per_second": 640.0,
      }
    )
    if stage == "classifier":
      lines[-1]["train_accuracy"] = 1 - 0.9 * np.exp(-step / 80)
    if step % 100 == 0:
      lines.append(
        {
          "stage": stage,
          "step": step,
          "validation_nats_per_image": nats + 0.5,
          "validation_live_nats_per_image": nats + 1.5 + noise / 3,
        }
      )
      if stage == "classifier":
        lines[-1]["validation_accuracy"] = 1 - 0.95 * np.exp(-step / 80)
  return lines


def fake_config(layer):
  return {
    "seed": 0,
    "dtype": "float32",
    "layers": ["conv1", "conv2", "fc3", "logits"],
    "data": {"name": "digits", "num_validation": 250, "resize": "none"},
    "classifier": {"num_steps": 400, "batch_size": 64, "network": {"dropout_rate": 0.25}},
    "representation": {"layer": "" if layer == "none" else layer, "step": None},
    "inverter": {"num_steps": 500, "network": {"num_filters": 32, "likelihood": "categorical"}},
    "sample": {"num_images": 6, "num_samples": 8},
    "evaluate": {"batch_size": 125},
  }


def fake_summary(layer, nats_N):
  error = nats_N.std(ddof=1) / np.sqrt(NUM_TEST)
  return {
    "dataset": "digits",
    "layer": layer,
    "num_levels": 17,
    "image_shape": [8, 8, 1],
    "num_test_images": NUM_TEST,
    "nce_nats": -nats_N.mean(),
    "nce_nats_standard_error": error,
    "nce_live_nats": -nats_N.mean() - 1.25,
    "nce_live_nats_standard_error": error,
    "bits_per_dim": nats_N.mean() / (64 * np.log(2)),
    "classifier_test_accuracy": None if layer == "none" else 0.984,
    "classifier_step": None if layer == "none" else 400,
    "inverter_num_params": 412_345,
    "inverter_steps": 400,
    "inverter_train_steps": 500,
    "train_images_per_second": 641.2,
    "jax_version": "0.10.2",
    "devices": "1 x cpu",
    "seed": 0,
    "seconds": {"classifier": 4.25, "inverter": 40.0, "evaluate": 2.0},
    "representation_shape": [4, 4, 32],
  }


def fake_run(
  folder, layer="conv2", nats_N=None, *, samples=True, stages=("classifier", "inverter")
):
  """Writes the files of a run as the other stages would."""
  nats_N = draw_nats(layer) if nats_N is None else nats_N
  storage.write_json(folder / storage.CONFIG, fake_config(layer))
  storage.write_json(folder / storage.SUMMARY, fake_summary(layer, nats_N))
  rows = {"index": TEST_ROWS, "label": DIGITS.target[TEST_ROWS], "source": TEST_ROWS}
  storage.write_npz(folder / storage.NATS, rows | {"nats": nats_N, "live_nats": nats_N + 1.25})
  if samples:
    storage.write_npz(folder / storage.SAMPLES, draw_samples(layer))
  lines = [
    line
    for stage in stages
    for line in training_lines(stage, 500, 0.1 if stage == "classifier" else nats_N.mean())
  ]
  storage.write_text(folder / storage.METRICS, "".join(json.dumps(line) + "\n" for line in lines))
  return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
  folder = fake_run(tmp_path_factory.mktemp("runs") / "digits_conv2")
  write_run_report(folder)
  return folder


@pytest.fixture(scope="module")
def parent_dir(tmp_path_factory):
  parent = tmp_path_factory.mktemp("digits")
  # The unconditional model is given first, to see it put last.
  folders = [fake_run(parent / layer, layer, stages=()) for layer in ("none", *list(NATS)[:4])]
  storage.write_text(parent / "conv1" / storage.REPORT, "written before")
  write_comparison(parent, folders)
  return parent


def read_page(folder):
  return (folder / storage.REPORT).read_text(encoding="utf-8")


def words(html_text):
  """The text of a page as a reader sees it."""
  return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", html_text)))


def read_rows(parent):
  return storage.read_json(parent / "comparison.json")


class Balance(html.parser.HTMLParser):
  """Fails on a tag closed out of order, and collects what is left open and all addresses."""

  def __init__(self):
    super().__init__()
    self.open, self.addresses = [], []

  def handle_starttag(self, tag, attrs):
    self.addresses += [value for name, value in attrs if name in ("src", "href")]
    if tag not in ("meta", "img"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def read_picture(path):
  """A PNG as one integer a pixel."""
  return packed(np.asarray(Image.open(path).convert("RGB")))


def packed(rgb_HWC):
  return rgb_HWC.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def enlarged(levels_HWC, scale, num_levels=17):
  """A picture as it should stand in a figure: level 0 black, the highest white, in squares."""
  bytes_HWC = np.rint(levels_HWC * 255.0 / (num_levels - 1)).astype(np.uint8)
  rgb_HWC = np.broadcast_to(bytes_HWC, (*bytes_HWC.shape[:2], 3))
  return packed(rgb_HWC).repeat(scale, 0).repeat(scale, 1)


def find(block_HW, picture_HW):
  """All places (top, left) where the block stands in the picture, exactly."""
  (height, width), (high, wide) = block_HW.shape, picture_HW.shape
  if height > high or width > wide:
    return []
  rng = np.random.default_rng(0)
  probes = [(0, 0), *zip(rng.integers(height, size=60), rng.integers(width, size=60), strict=True)]
  probes.sort(key=lambda probe: block_HW[probe] == 0)  # black is everywhere: look there last
  row, column = probes[0]
  window_HW = picture_HW[row : high - height + row + 1, column : wide - width + column + 1]
  places = np.argwhere(window_HW == block_HW[row, column])
  for row, column in probes[1:]:
    there = picture_HW[places[:, 0] + row, places[:, 1] + column]
    places = places[there == block_HW[row, column]]
  return [
    (top, left)
    for top, left in places.tolist()
    if np.array_equal(picture_HW[top : top + height, left : left + width], block_HW)
  ]


def scale_of(levels_HWC, picture_HW, num_levels=17):
  """By how much the picture enlarges this image."""
  scales = range(40, 0, -1)
  return next(s for s in scales if find(enlarged(levels_HWC, s, num_levels), picture_HW))


@pytest.mark.parametrize("folder", ["run_dir", "parent_dir"])
def test_the_page_is_one_well_formed_file(folder, request):
  folder = request.getfixturevalue(folder)
  text = read_page(folder)
  balance = Balance()
  balance.feed(text)
  assert balance.open == []
  assert "http" not in text
  assert "<script" not in text
  pictures_found = [address for address in balance.addresses if address.startswith("data:")]
  for path in (folder / storage.FIGURES).iterdir():
    assert f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" in pictures_found
  assert len(pictures_found) == len(list((folder / storage.FIGURES).iterdir()))


def test_the_run_report_leads_with_the_number_and_its_error(run_dir):
  summary = storage.read_json(run_dir / storage.SUMMARY)
  error = summary["nce_nats_standard_error"]
  shown = words(read_page(run_dir))
  assert f"\N{MINUS SIGN}43.10 ± {error:.2f} nats per image" in shown
  assert f"{43.1 / 64 / math.log(2):.4f} bits per sub-pixel" in shown
  assert (
    f"\N{MINUS SIGN}{43.1 + 1.96 * error:.2f} to \N{MINUS SIGN}{43.1 - 1.96 * error:.2f}" in shown
  )
  assert "Usable information (lower bound)." in shown
  assert "98.4% test accuracy" in shown


def test_the_run_report_names_the_easiest_and_the_hardest_images(run_dir):
  nats = storage.read_npz(run_dir / storage.NATS)
  shown = words(read_page(run_dir))
  easiest, hardest = nats["nats"].argmin(), nats["nats"].argmax()
  for heading, row in (
    ("Fewest nats: best predicted", easiest),
    ("Most nats: least expected", hardest),
  ):
    expected = f"{nats['index'][row]} {nats['label'][row]} {nats['nats'][row]:.2f}"
    assert f"{heading} test image label nats {expected}" in shown


def test_every_setting_is_printed_under_its_command_line_name(run_dir):
  shown = words(read_page(run_dir))
  assert "inverter.network.num_filters 32" in shown
  assert "representation.step None" in shown
  assert "classifier.network.dropout_rate 0.25" in shown


def test_samples_are_shown_pixel_by_pixel(run_dir):
  samples = draw_samples("conv2")
  picture = read_picture(run_dir / storage.FIGURES / "samples.png")
  scale = scale_of(samples["original"][0], picture)
  originals = [find(enlarged(image, scale), picture) for image in samples["original"]]
  assert [len(places) for places in originals] == [1] * 6
  tops, lefts = zip(*(places[0] for places in originals), strict=True)
  assert len(set(lefts)) == 1, "originals stand in one column"
  assert len(set(np.diff(tops))) == 1, "rows stand in order, evenly"
  assert tops[1] - tops[0] > 8 * scale, "rows do not touch"
  for row in range(6):
    places = [find(enlarged(image, scale), picture)[0] for image in samples["sample"][row]]
    assert {top for top, _ in places} == {tops[row]}
    assert np.all(np.diff([lefts[0], *(left for _, left in places)]) > 8 * scale)


def test_levels_reach_from_black_to_white():
  levels = np.arange(17, dtype=np.uint8).reshape(1, 1, 1, 17, 1)
  strip = pictures._strip(levels[0], 1, 17)
  assert strip[0, 0].tolist() == [0, 0, 0]
  assert strip[0, 16].tolist() == [255, 255, 255]
  assert strip[0, 8].tolist() == [128, 128, 128]


@pytest.mark.parametrize(
  ("shape", "scale"),
  [((8, 8, 1), 24), ((28, 28, 1), 6), ((32, 32, 3), 6), ((40, 40, 1), 4), ((128, 96, 3), 2)],
)
def test_pictures_of_all_sizes_are_enlarged_to_fit_a_page(shape, scale, tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (2, 5, *shape), dtype=np.uint8)
  columns = [pictures.Column("original", images[:, :1]), pictures.Column("samples", images[:, 1:])]
  figures.save(pictures.grid_figure(columns, ["a", "b"], 256), tmp_path / "grid.png")
  picture = read_picture(tmp_path / "grid.png")
  assert 700 <= picture.shape[1] <= 1800
  assert scale_of(images[1, 4], picture, 256) == scale


def test_a_note_stands_under_its_pictures(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (2, 2, 8, 8, 1), dtype=np.uint8)
  sizes = {}
  for note in ("", "0.123\n0.456"):
    figure = pictures.grid_figure([pictures.Column("a", images, note)], ["0", "1"], 256)
    figures.save(figure, tmp_path / "grid.png")
    picture = read_picture(tmp_path / "grid.png")
    sizes[note] = picture.shape[0]
    assert scale_of(images[1, 1], picture, 256)
  assert sizes["0.123\n0.456"] == sizes[""] + 60
  # The new rows hold the ink of the note.
  assert (picture[-60:] < 0x808080).any()


def test_figures_fill_the_page_and_are_not_blank(run_dir):
  for name in ("samples", "training", "nats"):
    picture = Image.open(run_dir / storage.FIGURES / f"{name}.png")
    assert 900 <= picture.width <= 1840
    assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_a_second_report_has_the_same_bytes(run_dir):
  before = read_page(run_dir)
  write_run_report(run_dir)
  assert read_page(run_dir) == before


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


def test_curves_of_the_training_figure_are_those_of_the_log():
  lines = training_lines("inverter", 200, 40.0) + training_lines("classifier", 200, 0.1)
  figure = figures.training_figure(lines, ["inverter", "classifier"], 100)
  drawn = {axes.get_title(loc="left"): axes for axes in figure.get_axes()}
  accuracy = drawn["Accuracy"].get_lines()[1]
  assert accuracy.get_ydata() == pytest.approx(
    [100 * line["validation_accuracy"] for line in lines if "validation_accuracy" in line]
  )
  marked = [line.get_xdata() for line in drawn["Codelength"].get_lines()]
  assert [100, 100] in [list(x) for x in marked], "the evaluated step is marked"
  assert drawn["Codelength"].get_ylabel() == "nats per image"


def test_values_are_escaped(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=())
  config, summary = (storage.read_json(folder / name) for name in (storage.CONFIG, storage.SUMMARY))
  storage.write_json(folder / storage.CONFIG, config | {"note": '<b>bold</b> & "more"'})
  storage.write_json(
    folder / storage.SUMMARY, summary | {"<i>new": "<img src=x>", "dataset": "a<b"}
  )
  write_run_report(folder)
  text = read_page(folder)
  assert "<b>" not in text
  assert "<img src=x>" not in text
  assert "&lt;i&gt;new" in text
  assert "<title>What conv2 still knows of a&lt;b images</title>" in text


def test_a_run_that_read_a_classifier_says_so(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=("inverter",))
  write_run_report(folder)
  assert "The classifier was trained elsewhere" in read_page(folder)


def test_the_unconditional_model_is_not_called_a_bound_on_information(tmp_path):
  folder = fake_run(tmp_path / "run", "none", stages=())
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "Entropy (upper bound)." in shown
  assert "lower bound" not in shown
  assert "classifier was trained" not in shown
  assert "samples of the model, which sees no original" in shown


def test_a_report_without_samples_or_log_says_what_is_missing(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=())
  (folder / storage.METRICS).unlink()
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "run the sample stage" in shown
  assert "No training was recorded here." in shown


def test_the_command_is_printed_where_it_is_known(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False, stages=())
  summary = storage.read_json(folder / storage.SUMMARY)
  command = "python -m inversion_jax.main --config=configs/digits_conv2.py"
  storage.write_json(folder / storage.SUMMARY, summary | {"command": command})
  write_run_report(folder)
  assert read_page(folder).count(command) == 1


@pytest.mark.parametrize("name", [storage.SUMMARY, storage.NATS, storage.CONFIG])
def test_a_missing_file_is_named(name, tmp_path):
  folder = fake_run(tmp_path / "run", samples=False)
  (folder / name).unlink()
  with pytest.raises(UserError, match=f"{name} is missing"):
    write_run_report(folder)


def test_a_summary_of_other_nats_is_refused(tmp_path):
  folder = fake_run(tmp_path / "run")
  summary = storage.read_json(folder / storage.SUMMARY)
  storage.write_json(folder / storage.SUMMARY, summary | {"nce_nats": -43.2})
  with pytest.raises(UserError, match=r"nce_nats=-43.2, the mean of nats.npz is -43.1"):
    write_run_report(folder)


def test_an_incomplete_summary_is_refused(tmp_path):
  folder = fake_run(tmp_path / "run")
  summary = storage.read_json(folder / storage.SUMMARY)
  del summary["num_levels"]
  storage.write_json(folder / storage.SUMMARY, summary)
  with pytest.raises(UserError, match="lacks num_levels; run the evaluate stage again"):
    write_run_report(folder)


def test_comparison_rows_hold_the_paired_differences(parent_dir):
  rows = read_rows(parent_dir)
  assert [row["layer"] for row in rows] == list(NATS)
  assert [row["nce_nats"] for row in rows] == pytest.approx([-nats for nats in NATS.values()])
  assert rows[1]["nce_minus_previous_nats"] == pytest.approx(26.4 - 43.1)
  # Each layer adds noise of deviation 1.5 of its own; the rest is shared and cancels.
  expected = 1.5 * math.sqrt(2 / NUM_TEST)
  assert rows[1]["nce_minus_previous_nats_standard_error"] == pytest.approx(expected, rel=0.2)
  assert [row["verdict_against_previous"] for row in rows] == [
    None,
    "lower",
    "lower",
    "lower",
    None,
  ]


def test_the_relative_figure_is_the_papers(parent_dir):
  relative = [row["nce_relative_to_conv1"] for row in read_rows(parent_dir)]
  assert relative[0] == -1.0
  assert relative[1] == pytest.approx(-43.1 / 26.4)


def test_gains_over_the_unconditional_model_are_called_estimates(parent_dir):
  rows = read_rows(parent_dir)
  assert [row["information_estimate_nats"] for row in rows[:4]] == pytest.approx(
    [79.1 - NATS[layer] for layer in list(NATS)[:4]]
  )
  assert rows[4]["information_estimate_nats"] is None
  shown = words(read_page(parent_dir))
  assert "none (p(x))" in shown
  assert "an estimate of the information, not a bound" in shown


def test_the_csv_says_what_the_json_says(parent_dir):
  with (parent_dir / "comparison.csv").open(newline="", encoding="utf-8") as file:
    table = list(csv.DictReader(file))
  rows = read_rows(parent_dir)
  assert [list(row) for row in table] == [list(row) for row in rows]
  for written, row in zip(table, rows, strict=True):
    for key, value in row.items():
      if isinstance(value, float):
        assert float(written[key]) == value
      else:
        assert written[key] == ("" if value is None else str(value))


def test_an_order_that_holds_is_said_to_hold(parent_dir):
  shown = words(read_page(parent_dir))
  assert "Expected order conv1 > conv2 > fc3 > logits: holds. Every step is resolved" in shown
  assert "xception" not in shown


def test_the_comparison_links_to_reports_that_exist(parent_dir):
  text = read_page(parent_dir)
  assert '<a href="conv1/report.html">conv1</a>' in text
  assert "conv2/report.html" not in text


def test_the_comparison_shows_one_image_through_all_layers(parent_dir):
  picture = read_picture(parent_dir / storage.FIGURES / "samples.png")
  original = draw_samples("conv1")["original"][2]
  scale = scale_of(original, picture)
  ((top, left),) = find(enlarged(original, scale), picture)
  for layer in NATS:
    ((sample_top, sample_left),) = find(
      enlarged(draw_samples(layer)["sample"][2, 0], scale), picture
    )
    assert sample_top == top
    assert sample_left > left
    left = sample_left


def compare_two(parent, upstream_nats_N, downstream_nats_N, layers=("conv2", "fc3")):
  folders = [
    fake_run(parent / f"{place}_{layer}", layer, nats_N, samples=False, stages=())
    for place, (layer, nats_N) in enumerate(
      zip(layers, (upstream_nats_N, downstream_nats_N), strict=True)
    )
  ]
  write_comparison(parent, folders)
  return read_rows(parent), words(read_page(parent))


def test_a_layer_above_its_upstream_is_flagged(tmp_path):
  rows, shown = compare_two(tmp_path, draw_nats("conv2", 50.0), draw_nats("fc3", 47.0))
  assert rows[1]["verdict_against_previous"] == "higher"
  assert (
    "Expected order conv2 > fc3: exception flagged. fc3 scores higher than conv2 by 3.0" in shown
  )
  # Every decoder of fc3 is one of conv2.
  assert [row["nce_envelope_nats"] for row in rows] == pytest.approx([-47.0, -47.0])
  assert [row["nce_relative_to_conv1"] for row in rows] == [None, None]


def test_a_difference_within_the_noise_is_not_resolved(tmp_path):
  rows, shown = compare_two(tmp_path, draw_nats("conv2", 50.0), draw_nats("fc3", 49.95))
  assert rows[1]["verdict_against_previous"] == "not resolved"
  assert "not contradicted. Not resolved at 95%: conv2 and fc3." in shown


def test_no_order_is_expected_of_one_layer_twice(tmp_path):
  nats_N = draw_nats("fc3")
  rows, shown = compare_two(tmp_path, nats_N, nats_N - 5.0, ("fc3", "fc3"))
  assert "no order is expected" in shown
  assert "fc3 (0_fc3)" in shown
  assert "fc3 (1_fc3)" in shown
  assert rows[0]["nce_envelope_nats"] is None


def test_a_layer_below_the_unconditional_model_is_flagged(tmp_path):
  layers = ("logits", "none")
  _, shown = compare_two(tmp_path, draw_nats("logits", 80.0), draw_nats("none", 79.0), layers)
  assert "Exception flagged: logits scores lower than p(x)" in shown


def test_versions_of_one_source_widen_the_error(tmp_path):
  folder = fake_run(tmp_path / "run", samples=False)
  arrays = storage.read_npz(folder / storage.NATS)
  arrays["source"] = np.argsort(np.argsort(arrays["nats"])) // 10
  storage.write_npz(folder / storage.NATS, arrays)
  run = files.read_run(folder)
  # Ten rows that agree count nearly as one.
  assert run.nce.standard_error > 2.5 * run.summary["nce_nats_standard_error"]
  assert run.nce.num == 25


def test_paired_errors_respect_sources(tmp_path):
  folders = [fake_run(tmp_path / layer, layer, samples=False) for layer in ("conv1", "conv2")]
  arrays = [storage.read_npz(folder / storage.NATS) for folder in folders]
  difference_N = arrays[0]["nats"] - arrays[1]["nats"]
  source_N = np.argsort(np.argsort(difference_N)) // 10
  for folder, array in zip(folders, arrays, strict=True):
    storage.write_npz(folder / storage.NATS, array | {"source": source_N})
  naive = information.mean_with_error(difference_N).standard_error
  gain = nce_gain(*map(files.read_run, folders))
  assert gain.standard_error > 2.5 * naive


def test_samples_are_matched_by_image_not_by_row(tmp_path):
  folders = [fake_run(tmp_path / layer, layer, stages=()) for layer in ("conv1", "conv2")]
  samples = draw_samples("conv2")
  samples["reconstruction"] = 16 - samples["original"]
  backwards = {name: values[::-1][:4] for name, values in samples.items()}
  storage.write_npz(folders[1] / storage.SAMPLES, backwards)
  write_comparison(tmp_path, folders)
  picture = read_picture(tmp_path / storage.FIGURES / "samples.png")
  scale = scale_of(samples["original"][2], picture)
  assert not find(enlarged(samples["original"][0], scale), picture), "only conv1 has this image"
  for row in range(2, 6):
    ((top, _),) = find(enlarged(samples["original"][row], scale), picture)
    ((sample_top, left),) = find(enlarged(samples["sample"][row, 0], scale), picture)
    ((mse_top, mse_left),) = find(enlarged(samples["reconstruction"][row], scale), picture)
    assert sample_top == mse_top == top
    assert mse_left < left
  assert "MSE: the single image" in words(read_page(tmp_path))


@pytest.mark.parametrize("change", ["rows", "order", "dataset"])
def test_other_test_images_are_refused(change, tmp_path):
  first, second = (fake_run(tmp_path / layer, layer, samples=False) for layer in ("conv1", "fc3"))
  arrays = storage.read_npz(second / storage.NATS)
  summary = storage.read_json(second / storage.SUMMARY)
  if change == "rows":
    arrays["index"] = arrays["index"] - 1
  elif change == "order":
    arrays = {name: values[::-1] for name, values in arrays.items()}
  else:
    summary["dataset"] = "mnist"
  storage.write_npz(second / storage.NATS, arrays)
  storage.write_json(second / storage.SUMMARY, summary)
  with pytest.raises(UserError, match=r"conv1 and .*fc3 were evaluated on different test images"):
    write_comparison(tmp_path, [first, second])
  assert not (tmp_path / "comparison.json").exists()


def test_nothing_cannot_be_compared(tmp_path):
  with pytest.raises(UserError, match="at least one run folder"):
    write_comparison(tmp_path, [])


def test_numbers_show_two_figures_of_their_error():
  estimate = information.Estimate
  assert page.with_error(estimate(-6217.7183, 0.0912, 9)) == "\N{MINUS SIGN}6,217.718 ± 0.091"
  assert page.with_error(estimate(3.14159, 12.3, 9)) == "3 ± 12"
  assert page.with_error(estimate(1.5, 0.0, 9)) == "1.50 ± 0.00"


def fake_neighbours(folder, layer="conv2", l1=(0.05, 0.02, 0.018), inverter_step=400):
  """Writes what the neighbours stage would; `l1` are the means of 1NN, IM-S, IM-NN."""
  rows = {
    name: {"mean_l1": mean, "standard_error": 0.001, "low": mean - 0.002, "high": mean + 0.002}
    for name, mean in zip(("1NN", "IM-S", "IM-NN"), l1, strict=True)
  }
  differences = [
    {
      "first": first,
      "second": second,
      "mean_l1": rows[first]["mean_l1"] - rows[second]["mean_l1"],
      "standard_error": 0.0005,
    }
    for first, second in (("1NN", "IM-S"), ("1NN", "IM-NN"), ("IM-S", "IM-NN"))
  ]
  table = {
    **{"dataset": "digits", "layer": layer, "num_images": 250, "num_samples": 8},
    **{"mean_absolute_h": 0.31, "inverter_step": inverter_step},
    **{"rows": rows, "differences": differences},
  }
  storage.write_json(folder / storage.TABLE_1, table)
  samples = draw_samples(layer)
  nearest = DIGITS.images[:36, :, :, None].reshape(6, 6, 8, 8, 1).astype(np.uint8)
  # The last sample is the closest, the one before it the second.
  sample_l1 = np.tile(np.arange(8.0, 0.0, -1.0), (6, 1))
  storage.write_npz(
    folder / storage.NEIGHBOURS, samples | {"nearest": nearest, "sample_l1": sample_l1}
  )
  return folder


def test_the_report_shows_neighbours_once_they_are_measured(tmp_path):
  folder = fake_neighbours(fake_run(tmp_path / "run"))
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "IM-NN the closest of 8 samples 0.0180 ± 0.0010" in shown
  assert "digits conv2 1NN minus IM-S 0.03000 ± 0.00050 0.02902 to 0.03098 higher" in shown
  assert "measures the error of the model, not an invariance of the layer" in shown
  assert "run the neighbours stage again" not in shown
  picture = read_picture(folder / storage.FIGURES / "neighbours.png")
  samples = draw_samples("conv2")
  scale = scale_of(samples["original"][0], picture)
  lefts = [
    find(enlarged(image, scale), picture)[0][1]
    for image in (samples["original"][0], samples["sample"][0, 7], samples["sample"][0, 6])
  ]
  assert lefts == sorted(lefts)
  assert not find(enlarged(samples["sample"][0, 0], scale), picture), "six of eight are shown"


def test_neighbours_of_another_inverter_are_called_that(tmp_path):
  folder = fake_neighbours(fake_run(tmp_path / "run"), inverter_step=300)
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "inverter of step 300, which is not the one evaluated here" in shown


def test_table_1_has_a_column_a_layer_and_its_least_in_bold(tmp_path):
  folders = [
    fake_neighbours(tmp_path / "conv2", "conv2", (0.05, 0.02, 0.018)),
    fake_neighbours(tmp_path / "fc3", "fc3", (0.1, 0.15, 0.12)),
  ]
  write_table_1(tmp_path, folders)
  rows = list(csv.reader((tmp_path / "table_1.csv").read_text().splitlines()))
  assert rows[0] == [
    *("row", "digits conv2", "digits conv2 standard error"),
    *("digits fc3", "digits fc3 standard error"),
  ]
  assert [row[0] for row in rows[1:4]] == ["1NN", "IM-S", "IM-NN"]
  assert [float(row[3]) for row in rows[1:4]] == [0.1, 0.15, 0.12]
  assert rows[4][0] == "1NN minus IM-S"
  assert float(rows[4][3]) == pytest.approx(-0.05)
  text = (tmp_path / "table_1.html").read_text()
  assert re.findall(r"<strong>([^<]*)</strong>", text) == ["0.1000 ± 0.0010", "0.0180 ± 0.0010"]
  shown = words(text)
  assert "digits fc3 1NN minus IM-S \N{MINUS SIGN}0.05000 ± 0.00050" in shown
  assert "test images" in shown


def test_table_1_needs_measured_runs(tmp_path):
  with pytest.raises(UserError, match=r"neighbours\.json is missing; run the stage"):
    write_table_1(tmp_path, [fake_run(tmp_path / "run")])


def fake_check(name, passes, **numbers):
  row = {"check": name, "question": f"what {name} must do", "passes": passes}
  row |= {"difference_nats": -75.5, "standard_error": 2.5, "low": -80.4, "high": -70.6}
  return row | {"least": None, "most": 0.0} | numbers


def test_checks_are_shown_once_there_are_some(tmp_path):
  folder = fake_run(tmp_path / "conv2", stages=())
  write_run_report(folder)
  assert "<h2>Checks</h2>" not in read_page(folder)
  checks = [
    fake_check("shuffled", True),
    fake_check("copy", True, difference_nats=-17.0, low=-17.3, high=-16.7, least=-20.22),
  ]
  storage.write_json(folder / storage.CHECKS, checks)
  write_run_report(folder)
  shown = words(read_page(folder))
  assert "All 2 passed." in shown
  assert (
    "shuffled passed what shuffled must do \N{MINUS SIGN}75.5 ± 2.5 \N{MINUS SIGN}80.4 to"
    " \N{MINUS SIGN}70.6 at most 0.00" in shown
  )
  assert "\N{MINUS SIGN}20.22 to 0.00" in shown


def test_a_failed_check_is_a_warning(tmp_path):
  folder = fake_run(tmp_path / "conv2", stages=())
  checks = [fake_check("shuffled", True), fake_check("copy", False)]
  storage.write_json(folder / storage.CHECKS, checks)
  write_run_report(folder)
  text = read_page(folder)
  assert "1 of 2 failed: copy. Numbers of this run should not be used." in words(text)
  assert "note warning" in text
  assert "<strong>FAILED</strong>" in text


@pytest.mark.parametrize(("step", "is_stale"), [(300, True), (400, False)])
def test_checks_of_another_step_say_so(step, is_stale, tmp_path):
  folder = fake_run(tmp_path / "conv2", stages=())
  storage.write_json(folder / storage.CHECKS, [fake_check("shuffled", True, inverter_step=step)])
  write_run_report(folder)
  text = read_page(folder)
  said = "Of the inverter of step 300, which is not the one evaluated here: run the checks stage"
  assert (said in words(text)) == is_stale
  assert ("note warning" in text) == is_stale


WALL_TIME = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "wall_time.py"
VALIDATIONS = [(0, 9000.0, 0.0), (100, 300.0, 36.0), (200, 250.0, 72.0)]


def wall_time(*arguments):
  command = [sys.executable, WALL_TIME, *arguments]
  return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def timed_run(tmp_path):
  folder = tmp_path / "prior"
  fake_run(folder, "none")
  lines = [
    {"stage": "inverter", "step": step, "validation_nats_per_image": nats, "seconds": seconds}
    for step, nats, seconds in VALIDATIONS
  ]
  storage.write_text(folder / storage.METRICS, "".join(json.dumps(line) + "\n" for line in lines))
  return folder


def test_wall_time_draws_bits_per_sub_pixel_against_hours(timed_run, tmp_path):
  path = tmp_path / "curves.png"
  done = wall_time(timed_run, f"--output={path}")
  assert done.returncode == 0, done.stderr
  with path.with_suffix(".csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["run"] for row in rows] == ["prior", "prior"]
  np.testing.assert_allclose([float(row["hours"]) for row in rows], [0.01, 0.02])
  bits = [nats / (64 * np.log(2)) for _, nats, _ in VALIDATIONS[1:]]
  np.testing.assert_allclose([float(row["bits_per_dim"]) for row in rows], bits, rtol=1e-5)
  (end,) = json.loads(done.stdout.splitlines()[-1])
  assert end["hours"] == pytest.approx(0.02)
  assert end["validation_bits_per_dim"] == pytest.approx(bits[-1])
  with Image.open(path) as image:
    assert len(image.convert("RGB").getcolors(100_000)) > 10


def test_wall_time_says_what_is_missing(timed_run, tmp_path):
  (timed_run / storage.METRICS).write_text("")
  done = wall_time(timed_run, f"--output={tmp_path / 'curves.png'}")
  assert done.returncode != 0
  assert "no seconds of validations" in done.stdout + done.stderr
  assert "Traceback" not in done.stderr
