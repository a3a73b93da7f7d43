"""Pages, pictures and figures as such, whatever they tell."""

import base64
import html.parser
import re

import numpy as np
import pytest
from PIL import Image
from report_examples import (
  fake_check,
  fake_neighbours,
  fake_run,
  read_page,
  read_picture,
  scale_of,
  training_lines,
)

from inversion_jax import information, report
from inversion_jax.machine import checksums, storage
from inversion_jax.report import figures, page, pictures


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


@pytest.mark.parametrize(
  ("folder", "scripts"),
  [
    ("run_dir", []),
    ("parent_dir", ['<script type="application/json" id="explorer-data">', "<script>"]),
  ],
)
def test_the_page_is_one_well_formed_file(folder, scripts, request):
  folder = request.getfixturevalue(folder)
  text = read_page(folder)
  balance = Balance()
  balance.feed(text)
  assert balance.open == []
  assert "://" not in text
  assert re.findall("<script[^>]*>", text) == scripts
  pictures_found = [address for address in balance.addresses if address.startswith("data:")]
  for path in (folder / storage.FIGURES).glob("*.png"):
    assert f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" in pictures_found
  assert len(pictures_found) == len(list((folder / storage.FIGURES).glob("*.png")))


HOSTILE = "\"'><evil onload='x'>&$_{"


def poisoned(value, name=""):
  """Every text of a record, which may have come from anywhere, with markup behind it."""
  if isinstance(value, dict):
    return {key: poisoned(one, key) for key, one in value.items()}
  if isinstance(value, list):
    return [poisoned(one, name) for one in value]
  return value + HOSTILE if isinstance(value, str) and name not in ("first", "second") else value


def test_no_name_in_a_file_or_of_a_folder_becomes_markup(tmp_path):
  names = {"conv1": f"conv1{HOSTILE}", "fc3": f"fc3{HOSTILE}", "none": "none"}
  folders = [tmp_path / f"run_{layer}{HOSTILE}" for layer in names]
  for folder, layer in zip(folders, names, strict=True):
    fake_run(folder, layer)
    if layer != "none":
      fake_neighbours(folder, layer)
      storage.write_json(folder / storage.CHECKS, [fake_check("copy", passes=False)])
    for path in set(folder.glob("*.json")) - {folder / checksums.FILE}:
      record = poisoned(storage.read_json(path))
      if "layer" in record:
        record["layer"] = names[layer]
      storage.write_json(path, record)
    config = storage.read_json(folder / storage.CONFIG)
    storage.write_json(folder / storage.CONFIG, config | {HOSTILE: {HOSTILE: HOSTILE}})
    report.write_run_report(folder)
  report.write_comparison(tmp_path, folders)
  report.write_table_1(tmp_path, folders[:2])
  pages = list(tmp_path.rglob("*.html"))
  assert len(pages) == 5
  for path in pages:
    text = path.read_text(encoding="utf-8")
    found = Tags()
    found.feed(text)
    assert "evil" not in found.tags, path
    assert "onload" not in found.attributes, path
    assert "&lt;evil" in text, "it is shown as what it is"


class Tags(html.parser.HTMLParser):
  """Collects the names of all tags and attributes."""

  def __init__(self):
    super().__init__()
    self.tags, self.attributes = set(), set()

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes |= {name for name, _ in attrs}


def test_levels_reach_from_black_to_white():
  levels = np.arange(17, dtype=np.uint8).reshape(1, 1, 1, 17, 1)
  strip = pictures._strip(levels[0], 1, 17)
  assert strip[0, 0].tolist() == [0, 0, 0]
  assert strip[0, 16].tolist() == [255, 255, 255]
  assert strip[0, 8].tolist() == [128, 128, 128]


def test_images_of_any_colours_are_shown_in_three():
  pixels_4 = np.array([10, 20, 30, 40])
  assert pictures.as_rgb(pixels_4[:1]).tolist() == [10, 10, 10]
  assert pictures.as_rgb(pixels_4[:2]).tolist() == [10, 20, 0]
  assert pictures.as_rgb(pixels_4).tolist() == [10, 20, 30]


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


def test_numbers_show_two_figures_of_their_error():
  estimate = information.Estimate
  assert page.with_error(estimate(-6217.7183, 0.0912, 9)) == "\N{MINUS SIGN}6,217.718 ± 0.091"
  assert page.with_error(estimate(3.14159, 12.3, 9)) == "3 ± 12"
  assert page.with_error(estimate(1.5, 0.0, 9)) == "1.50 ± 0.00"
