"""A part of the comparison's page to explore: pick a test image, and see it through every row.

Without scripts nothing of it is shown, and the rest of the page tells all that it did.
"""

import collections
import pathlib
from collections.abc import Iterable
from typing import Any

from matplotlib.colors import to_hex

from inversion_jax.report import explorer_data, page
from inversion_jax.report.gain_figures import GAIN_COLORS
from inversion_jax.report.page import Html, element, number
from inversion_jax.report.rows import SideBySide

STYLE, SCRIPT = (
  pathlib.Path(__file__).with_name(f"explorer.{end}").read_text(encoding="utf-8")
  for end in ("css", "js")
)
DATA = "explorer-data"


def section(comparison: SideBySide) -> Html:
  """What `SCRIPT` fills and `STYLE` shows; nothing if no run has kept a test image."""
  data = explorer_data.data(comparison)
  if not data:
    return Html("")
  return Html(
    "\n"
    + element(
      "section",
      element("h2", "Image by image"),
      _controls(data),
      element("div", id="strip", role="listbox", tabindex=0, aria_label="Test images to pick"),
      _picked(data),
      _legend(comparison, data),
      page.data_block(DATA, data),
      id="explorer",
      hidden="",
    )
  )


def _controls(data: dict[str, Any]) -> Html:
  choices = [
    _choice("sort by", "sort", _orders(data)),
    _choice("order", "direction", [("falling", "most first"), ("rising", "least first")]),
    _choice("label", "label", _labels(data)),
    _choice("show", "shown", _shown(data)),
  ]
  steps = [
    element("button", word, type="button", id=name, aria_label=f"{name} image")
    for name, word in (("previous", "\N{LEFTWARDS ARROW}"), ("next", "\N{RIGHTWARDS ARROW}"))
  ]
  place = element("output", id="place")
  return element("div", *choices, element("span", *steps, place, class_="steps"), class_="controls")


def _choice(words: str, name: str, options: Iterable[tuple[str, str]]) -> Html:
  written = (element("option", option, value=value) for value, option in options)
  return element("label", element("span", words), element("select", *written, id=name))


def _orders(data: dict[str, Any]) -> list[tuple[str, str]]:
  """What the images can be sorted by."""
  names = {place: row["name"] for place, row in enumerate(data["rows"])}
  orders = [("index", "test order"), ("label", "label")]
  orders += [(f"nats-{row}", f"nats: {name}") for row, name in names.items()]
  del names[data["baseline"]]
  orders += [(f"gain-{row}", f"gain: {name}") for row, name in names.items()]
  if data["disagreement"]:
    orders.append(("disagreement", "disagreement of layers"))
  return orders


def _labels(data: dict[str, Any]) -> list[tuple[str, str]]:
  options = [("", "all")]
  for label, count in sorted(collections.Counter(data["label"]).items()):
    options.append((str(label), f"{'unknown' if label < 0 else label} ({count:,})"))
  return options


def _shown(data: dict[str, Any]) -> list[tuple[str, str]]:
  """Which images there are to pick from; the page begins with the first choice."""
  num_all, pictured = len(data["index"]), set(data["originals"]["images"])
  sampled = {image for row in data["rows"] if row["samples"] for image in row["samples"]["images"]}
  choices = [("all", num_all, "all")]
  if len(pictured) < num_all:
    choices.insert(0, ("pictured", len(pictured), "with a picture"))
  if 0 < len(sampled) < num_all:
    choices.append(("sampled", len(sampled), "with samples"))
  return [(name, f"{words} ({num:,})") for name, num, words in choices]


def _picked(data: dict[str, Any]) -> Html:
  """The picked image, and a table whose cells the script fills."""
  parts = {"nats": "nats"}
  if len(data["rows"]) > 1:
    parts["gains"] = "gain"
  for part, name in (("reconstructions", "MSE"), ("samples", "samples")):
    if any(row[part] for row in data["rows"]):
      parts[part] = name
  header = element("tr", *(element("th", name, scope="col") for name in ("", *parts.values())))
  lines = (
    element(
      "tr",
      element("th", row["name"], scope="row"),
      *(element("td", data_part=part, data_name=name) for part, name in parts.items()),
    )
    for row in data["rows"]
  )
  words = element("div", element("h3", id="which", aria_live="polite"), element("p", id="about"))
  original = element("div", element("div", id="original"), words, class_="original")
  table = element("table", element("thead", header), element("tbody", *lines))
  return element("div", original, table, id="picked")


def _legend(comparison: SideBySide, data: dict[str, Any]) -> Html:
  rows = data["rows"]
  words = [
    "Nats: \N{MINUS SIGN}log p(x | h) of this image. Bars begin at 0 and share one scale for all"
    " images; the tick is the mean of the row."
  ]
  if len(rows) > 1:
    words.append(
      f"Gain: nats of {rows[data['baseline']]['name']} less nats of the row, of the whole image and"
      " pixel by pixel."
    )
  if any(row["reconstructions"] for row in rows):
    words.append("MSE: the single image with the least expected squared error.")
  if any(len(row.runs) > 1 for row in comparison.rows):
    words.append("Nats and gains are means over seeds; pictures are of the first.")
  if data["disagreement"]:
    words.append(
      "Disagreement of layers: the standard deviation, over layers, of the image's nats less the"
      " layer's mean."
    )
  words.append("A dot: there are samples. Arrow keys move on; the address keeps the pick.")
  return element("div", _scale(data["gain_limit"]), element("p", " ".join(words)), class_="legend")


def _scale(limit: float) -> Html:
  """The colours of gains, and the nats at their ends; nothing without maps of pixels."""
  if not limit:
    return Html("")
  colors = ", ".join(to_hex(GAIN_COLORS(place / 8)) for place in range(9))
  bar = element("span", class_="colors", style=f"background: linear-gradient(to right, {colors})")
  low, high = number(-limit, 2), number(limit, 2)
  return element("p", f"{low} ", bar, f" {high} nats per pixel, and beyond")
