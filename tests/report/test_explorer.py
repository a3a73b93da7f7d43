"""The part of a comparison's page that a reader explores: its data, and itself in a browser."""

import base64
import io
import json
import re

import browsers
import numpy as np
import pytest
from PIL import Image
from report_examples import DIGITS, TEST_ROWS, draw_samples, fake_run, read_page

from inversion_jax.machine import storage
from inversion_jax.report import explorer, explorer_data, page, write_comparison
from inversion_jax.report.files import read_run
from inversion_jax.report.page import Html
from inversion_jax.report.rows import side_by_side

LAYERS = ("conv2", "fc3", "none")
MAPPED_ROWS = np.arange(0, 250, 2)
HOSTILE = "</script><script>document.title = 'evil'</script><!--"


def add_maps(folder):
  """Writes nats of every second image pixel by pixel, as the evaluate stage would."""
  nats_N = storage.read_npz(folder / storage.NATS)["nats"]
  share_NHW = np.random.default_rng(len(folder.name)).gamma(2.0, 1.0, (len(nats_N), 8, 8))
  nats_NHW = nats_N[:, None, None] * share_NHW / share_NHW.sum((1, 2), keepdims=True)
  arrays = {"index": TEST_ROWS[MAPPED_ROWS], "nats": nats_NHW[MAPPED_ROWS].astype(np.float32)}
  arrays["image"] = DIGITS.images[TEST_ROWS[MAPPED_ROWS], :, :, None].astype(np.uint8)
  storage.write_npz(folder / storage.MAPS, arrays | {"mean_nats": nats_NHW.mean(0)})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  parent = tmp_path_factory.mktemp("explored")
  made = [fake_run(parent / layer, layer, stages=()) for layer in LAYERS]
  for folder in made:
    add_maps(folder)
  samples = draw_samples("fc3")
  samples["reconstruction"] = 16 - samples["original"]
  storage.write_npz(made[1] / storage.SAMPLES, samples)
  return made


@pytest.fixture(scope="module")
def comparison(folders):
  return side_by_side([read_run(folder) for folder in folders])


@pytest.fixture(scope="module")
def data(comparison):
  return explorer_data.data(comparison)


@pytest.fixture(scope="module")
def nats(comparison):
  return np.stack([run.nats["nats"] for run in comparison.runs])


@pytest.fixture(scope="module")
def address(folders):
  """Of the whole page of the comparison."""
  parent = folders[0].parent
  write_comparison(parent, folders)
  return (parent / storage.REPORT).as_uri()


def tiles(sheet, size=8):
  """The pictures of a sheet as RGB, (images, each, H, W, 3)."""
  picture = Image.open(io.BytesIO(base64.b64decode(sheet["png"]))).convert("RGB")
  grid = np.asarray(picture)
  cut = grid.reshape(grid.shape[0] // size, size, grid.shape[1] // size, size, 3).swapaxes(1, 2)
  num = len(sheet["images"])
  return cut.reshape(-1, size, size, 3)[: num * sheet["each"]].reshape(num, -1, size, size, 3)


def grey(levels):
  """Levels as they should be seen, without the axis of colours."""
  return np.rint(levels[..., 0] * (255 / 16)).astype(np.uint8)


def test_the_sheets_show_what_the_files_hold(data):
  images = np.array(data["originals"]["images"])
  assert images[:6].tolist() == list(range(6)), "those sampled come first"
  assert sorted(images) == sorted({*range(6), *MAPPED_ROWS.tolist()})
  shown = tiles(data["originals"])[:, 0, :, :, 0]
  np.testing.assert_array_equal(shown, grey(DIGITS.images[TEST_ROWS[images], :, :, None]))
  for row, layer in zip(data["rows"], LAYERS, strict=True):
    assert row["samples"]["images"] == list(range(6))
    samples = grey(draw_samples(layer)["sample"])
    np.testing.assert_array_equal(tiles(row["samples"])[..., 0], samples)
  assert [bool(row["reconstructions"]) for row in data["rows"]] == [False, True, False]
  inverted = grey(16 - draw_samples("fc3")["original"])
  np.testing.assert_array_equal(tiles(data["rows"][1]["reconstructions"])[:, 0, ..., 0], inverted)


def test_gains_are_blue_where_the_row_predicts_better_than_the_baseline(data, comparison):
  maps = [run.maps["nats"].astype(np.float64) for run in comparison.runs]
  for row in (0, 1):
    sheet, gain_nHW = data["rows"][row]["gains"], maps[2] - maps[row]
    order = np.searchsorted(MAPPED_ROWS, sheet["images"])
    red, _, blue = np.moveaxis(tiles(sheet)[:, 0].astype(int), -1, 0)
    is_clear = np.abs(gain_nHW[order]) > 0.02 * data["gain_limit"]
    np.testing.assert_array_equal((blue > red)[is_clear], (gain_nHW[order] > 0)[is_clear])
  sizes = np.abs(np.stack([maps[2] - maps[0], maps[2] - maps[1]]))
  assert (sizes > data["gain_limit"]).mean() == pytest.approx(0.005, abs=0.001)
  assert data["rows"][2]["gains"] is None


def test_nats_are_told_of_all_test_images(data, comparison, nats):
  assert data["index"] == TEST_ROWS.tolist()
  assert data["label"] == DIGITS.target[TEST_ROWS].tolist()
  np.testing.assert_allclose([row["nats"] for row in data["rows"]], nats, atol=5e-4)
  assert data["baseline"] == 2
  assert data["disagreement"] == pytest.approx(
    explorer_data.disagreement(list(nats[:2])).tolist(), abs=5e-4
  )


def test_layers_disagree_where_their_nats_deviate_differently():
  nats_N = np.array([1.0, 2.0, 6.0])
  assert explorer_data.disagreement([nats_N, nats_N + 10]) == pytest.approx(np.zeros(3))
  assert explorer_data.disagreement([nats_N, 6 - nats_N]) == pytest.approx([2.0, 1.0, 3.0])


def test_without_p_of_x_gains_are_over_the_first_row(folders):
  comparison = side_by_side([read_run(folder) for folder in folders[:2]])
  data = explorer_data.data(comparison)
  assert data["baseline"] == 0
  assert [bool(row["gains"]) for row in data["rows"]] == [False, True]
  assert "nats of conv2 less nats of the row" in explorer.section(comparison)


def test_p_of_x_alone_can_be_explored(folders):
  part = explorer.section(side_by_side([read_run(folders[2])]))
  assert "nats: none (p(x))" in part
  for word in ("gain", "disagreement of"):
    assert word not in part.split("<script")[0]


def test_a_page_holds_no_more_pictures_than_it_has_room_for(comparison, monkeypatch):
  monkeypatch.setattr(explorer_data, "MAX_BYTES", 64 * (1 + 3) * 10)
  data = explorer_data.data(comparison)
  assert len(data["originals"]["images"]) == 10
  assert data["originals"]["images"][:6] == list(range(6))
  mapped = sorted(set(data["originals"]["images"]) & set(MAPPED_ROWS.tolist()))
  assert [row["gains"]["images"] for row in data["rows"][:2]] == [mapped] * 2
  # Eight samples in each of three rows, and a reconstruction in one.
  monkeypatch.setattr(explorer_data, "MAX_BYTES", 64 * 25 * 2 + 1)
  samples = [row["samples"]["images"] for row in explorer_data.data(comparison)["rows"]]
  assert samples == [[0, 1]] * 3


def test_without_pictures_there_is_nothing_to_explore(tmp_path):
  folder = fake_run(tmp_path / "conv2", samples=False, stages=())
  write_comparison(tmp_path, [folder])
  assert "<script" not in read_page(tmp_path)
  assert "script-src 'none'" in read_page(tmp_path)


def test_no_text_ends_the_block_of_data():
  block = page.data_block("name", {"key": HOSTILE, "<": [1.5, None]})
  inside = block.removeprefix('<script type="application/json" id="name">')
  inside = inside.removesuffix("</script>")
  assert "<" not in inside
  assert json.loads(inside) == {"key": HOSTILE, "<": [1.5, None]}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  with browsers.opened(tmp_path_factory.mktemp("browser")) as found:
    yield found


def test_the_page_opens_with_the_first_sampled_image(browser, address, data, nats):
  browser.open(address)
  assert browser.find("#which").text == f"Test image {TEST_ROWS[0]}"
  original = grey(draw_samples("conv2")["original"][0]).ravel()
  np.testing.assert_array_equal(browser.red("#original canvas"), [original])
  samples = [grey(draw_samples(layer)["sample"][0]).reshape(8, 64) for layer in LAYERS]
  found = browser.red("td[data-part=samples] canvas")
  np.testing.assert_array_equal(found, np.concatenate(samples))
  inverted = grey(16 - draw_samples("fc3")["original"][0]).ravel()
  np.testing.assert_array_equal(browser.red("td[data-part=reconstructions] canvas"), [inverted])
  gains = [tiles(row["gains"]) for row in data["rows"][:2]]
  ranks = [row["gains"]["images"].index(0) for row in data["rows"][:2]]
  expected = [gain[rank, 0, ..., 0].ravel() for gain, rank in zip(gains, ranks, strict=True)]
  np.testing.assert_array_equal(browser.red("td[data-part=gains] canvas"), expected)
  assert [float(text) for text in browser.texts("td[data-part=nats]")] == pytest.approx(
    nats[:, 0], abs=0.006
  )
  assert len(browser.red("#strip canvas")) == 128, "six sampled ones, and half of the others"


def test_nothing_is_asked_of_the_network_and_nothing_fails(browser, address):
  browser.open(address)
  browser.red("#picked canvas")
  browser.choose("sort", "disagreement")
  browser.red("#picked canvas")
  requests = browser.requests()
  assert address in requests
  assert {url.split(":")[0] for url in requests} <= {"file", "data"}
  assert [url for url in requests if url.startswith("file:")] == [address]
  assert browser.errors() == []


def test_a_click_picks_another_image(browser, address):
  browser.open(address)
  before = browser.red("#picked canvas")
  browser.find("#strip > div:nth-child(4)").click()
  assert browser.find("#which").text == f"Test image {TEST_ROWS[3]}"
  assert browser.find("#about").text == f"label {DIGITS.target[TEST_ROWS[3]]}"
  assert browser.find("#place").text == "4 of 128"
  after = browser.red("#picked canvas")
  original = grey(draw_samples("conv2")["original"][3]).ravel()
  np.testing.assert_array_equal(after[0], original)
  # The fourth has no map: no gains are shown.
  assert len(after) == len(before) - 2
  assert browser.ask("location.hash") == f"#image={TEST_ROWS[3]}"
  browser.find("#strip > div:nth-child(9)").click()
  texts = browser.ask(
    "[...document.querySelectorAll('td[data-part=samples]')].map(e => e.innerText)"
  )
  assert texts == ["not sampled"] * 3


def test_images_are_sorted_and_filtered(browser, address, nats):
  browser.open(address)
  browser.choose("shown", "all")
  browser.choose("sort", "nats-1")
  assert browser.listed()[:200] == np.argsort(-nats[1], kind="stable")[:200].tolist()
  assert browser.find("#which").text == f"Test image {TEST_ROWS[np.argmax(nats[1])]}"
  browser.choose("direction", "rising")
  assert browser.listed()[0] == np.argmin(nats[1])
  browser.choose("sort", "gain-0")
  assert browser.listed()[0] == np.argmin(nats[2] - nats[0])
  browser.choose("label", "3")
  threes = np.flatnonzero(DIGITS.target[TEST_ROWS] == 3)
  assert sorted(browser.listed()) == threes.tolist()
  assert browser.find("#place").text == f"1 of {len(threes)}"
  browser.choose("shown", "sampled")
  assert browser.listed() == [row for row in threes if row < 6]
  browser.choose("label", "0")
  assert (browser.listed(), browser.find("#place").text) == ([], "0 of 0")
  assert not browser.find("#picked").is_displayed()
  assert browser.errors() == []


def test_keys_move_among_images(browser, address):
  browser.open(address)
  browser.press("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT")
  assert browser.find("#which").text == f"Test image {TEST_ROWS[1]}"
  browser.find("#strip > div").click()
  browser.ask("document.getElementById('strip').focus()")
  browser.press("ARROW_DOWN")
  tops = browser.ask("[...document.querySelectorAll('#strip > div')].map(e => e.offsetTop)")
  chosen = browser.ask("document.querySelector('[aria-selected=true]').offsetTop")
  assert chosen == sorted(set(tops))[1]
  browser.press("END")
  assert browser.find("#place").text == "128 of 128"
  assert browser.ask("document.querySelectorAll('[aria-selected=true]').length") == 1


def test_a_link_leads_to_its_image_and_order(browser, address, nats):
  browser.open(f"{address}#image={TEST_ROWS[7]}&sort=nats-0&direction=rising")
  assert browser.find("#which").text == f"Test image {TEST_ROWS[7]}"
  # The eighth has no picture, so all images are shown.
  assert browser.listed()[0] == np.argmin(nats[0])
  assert browser.ask("location.hash").endswith("sort=nats-0&direction=rising&shown=all")
  browser.open(f"{address}#sort=nats-1&shown=all")
  assert browser.find("#which").text == f"Test image {TEST_ROWS[np.argmax(nats[1])]}"
  browser.open(f"{address}#image=none&sort={HOSTILE}")
  assert browser.find("#which").text == f"Test image {TEST_ROWS[0]}"
  assert browser.errors() == []


@pytest.mark.parametrize("width", [320, 400, 1000])
def test_no_window_is_too_narrow(width, browser, address):
  browser.open(address, width=width)
  browser.red("#picked canvas")
  assert browser.ask("document.documentElement.scrollWidth") <= width


def test_paper_shows_the_picked_image_without_controls(browser, address):
  browser.open(address, media="print")
  assert len(browser.red("#picked canvas")) == 1 + 3 * 8 + 1 + 2
  assert browser.find("#picked table").is_displayed()
  assert not browser.find("#strip").is_displayed()
  assert not browser.find("#sort").is_displayed()


@pytest.mark.usefixtures("address")
def test_without_scripts_the_page_is_what_it_was(browser, folders, tmp_path):
  # Cut out: a browser that is told to run none may be told too late.
  whole = (folders[0].parent / storage.REPORT).read_text()
  without, num_scripts = re.subn(r"<script>.*?</script>", "", whole, flags=re.DOTALL)
  assert num_scripts == 1
  (tmp_path / storage.REPORT).write_text(without)
  browser.open((tmp_path / storage.REPORT).as_uri())
  assert not browser.find("#explorer").is_displayed()
  assert browser.find("figure img").is_displayed()
  assert browser.errors() == []


def test_names_are_texts_in_the_browser_too(browser, folders, tmp_path):
  runs = [read_run(folder) for folder in folders]
  runs[1] = runs[1]._replace(summary=runs[1].summary | {"layer": HOSTILE})
  part = explorer.section(side_by_side(runs))
  whole = page.page("t", "k", part, style=explorer.STYLE, script=explorer.SCRIPT)
  (tmp_path / "page.html").write_text(whole, encoding="utf-8")
  browser.open((tmp_path / "page.html").as_uri())
  assert browser.find("tbody tr:nth-child(2) th").text == HOSTILE
  assert browser.ask("document.title") == "t"
  assert browser.errors() == []


def test_the_policy_stops_scripts_and_pictures_that_are_not_of_the_page(browser, tmp_path):
  strange = Html(
    "<script>document.title = 'evil'</script><b onclick='document.title = 1'>b</b>"
    "<img src='http://127.0.0.1:9/a.png'><img src='b.png'>"
  )
  whole = page.page("t", "k", strange, script="document.body.dataset.ran = 'yes';")
  (tmp_path / "page.html").write_text(whole, encoding="utf-8")
  browser.open((tmp_path / "page.html").as_uri())
  browser.find("b").click()
  assert (browser.ask("document.title"), browser.ask("document.body.dataset.ran")) == ("t", "yes")
  assert len([error for error in browser.errors() if "Content Security Policy" in error]) >= 3
  assert not [url for url in browser.requests() if url.endswith(".png")]
