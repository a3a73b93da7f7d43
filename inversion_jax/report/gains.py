"""Where in an image, and in which images, h adds to what the unconditional model knows."""

import functools
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from inversion_jax.machine import storage
from inversion_jax.report import figures, gain_figures, page
from inversion_jax.report.files import Replicates, rows_of
from inversion_jax.report.gain_figures import Shown
from inversion_jax.report.page import Html, element, number
from inversion_jax.report.rows import SideBySide, information_estimate, marginal_place

CSV = "pointwise.csv"
_NUM_EXAMPLES, _NUM_EXTREMES = 10, 6
_HEADING = "Where the information is"


class Maps(NamedTuple):
  """Gains pixel by pixel of all layers, in nats; several seeds are averaged.

  `rows_n` says where the images that every run has a map of stand among all test images.
  """

  mean_LHW: np.ndarray
  marginal_HW: np.ndarray  # mean nats of every pixel under p(x)
  gain_LnHW: np.ndarray
  image_nHWC: np.ndarray
  rows_n: np.ndarray


def pointwise_nats(comparison: SideBySide) -> Float[np.ndarray, "L N"]:
  """log p(x | h) - log p(x) of every test image under each layer, in nats, averaged over seeds.

  Its mean over images is the gain of the comparison's table. Needs an unconditional run.
  """
  marginal_N = comparison.rows[marginal_place(comparison)].nce_by_seed.mean(0)
  return np.stack([layer.nce_by_seed.mean(0) - marginal_N for layer in comparison.layers])


def write_pointwise(comparison: SideBySide, parent_dir: pathlib.Path) -> None:
  """Writes `pointwise.csv`, one line a test image; nothing without an unconditional run."""
  if not _has_gains(comparison):
    return
  header = ["index", "label", *(f"{name}_nats" for name in _names(comparison))]
  nats = comparison.runs[0].nats
  columns = nats["index"], nats["label"], pointwise_nats(comparison).T
  rows = (
    [index, label, *(f"{gain:.6f}" for gain in gains)]
    for index, label, gains in zip(*columns, strict=True)
  )
  storage.write_csv(parent_dir / CSV, header, rows)


def section(comparison: SideBySide, parent_dir: pathlib.Path) -> Html:
  """The part of the page about gains; nothing without an unconditional run."""
  if not _has_gains(comparison):
    return Html("")
  gain_LN = pointwise_nats(comparison)
  maps = read_maps(comparison)
  parts = [_words(), _missing(comparison)]
  if maps is not None:
    parts.append(_mean_gains(comparison, maps, parent_dir))
    if len(maps.rows_n):
      parts.append(_examples(comparison, maps, parent_dir))
  parts.append(_pointwise(comparison, gain_LN, parent_dir))
  if maps is not None and len(maps.rows_n) > 1:
    parts.append(_tails(comparison, maps, gain_LN, parent_dir))
  return page.section(_HEADING, *parts)


def _has_gains(comparison: SideBySide) -> bool:
  return bool(comparison.layers and comparison.unconditional)


def _compared(comparison: SideBySide) -> list[Replicates]:
  """The layers, and last what they are compared with."""
  return [*comparison.layers, comparison.rows[marginal_place(comparison)]]


def read_maps(comparison: SideBySide) -> Maps | None:
  """The gains of pixels; None if a run has no maps."""
  compared = _compared(comparison)
  runs = [run for row in compared for run in row.runs]
  if not all(run.maps for run in runs):
    return None
  common_n = functools.reduce(np.intersect1d, [run.maps["index"] for run in runs])
  mean_RHW = np.stack([_over_seeds(row, lambda run: run.maps["mean_nats"]) for row in compared])
  nats_RnHW = np.stack([mapped_nats(row, common_n) for row in compared])
  first = runs[0]
  return Maps(
    mean_LHW=mean_RHW[-1] - mean_RHW[:-1],
    marginal_HW=mean_RHW[-1],
    gain_LnHW=nats_RnHW[-1] - nats_RnHW[:-1],
    image_nHWC=first.maps["image"][rows_of(first.maps["index"], common_n)],
    rows_n=rows_of(first.nats["index"], common_n),
  )


def mapped_nats(row: Replicates, index_n: Integer[np.ndarray, " n"]) -> Float[np.ndarray, "n H W"]:
  """Nats pixel by pixel of test images that all runs of a row have maps of, seeds averaged."""
  return _over_seeds(row, lambda run: run.maps["nats"][rows_of(run.maps["index"], index_n)])


def _over_seeds(row: Replicates, values) -> np.ndarray:
  return np.mean([np.asarray(values(run), np.float64) for run in row.runs], axis=0)


def _words() -> Html:
  meaning = (
    "The gain of a pixel is log p(pixel | pixels before it, h) less log p(pixel | pixels before"
    " it): what h adds to that which the pixels above and to the left already tell. The order is"
    " part of the measure: a fact about the whole image, such as its class, counts at the first"
    " pixels that would show it; after them p(x) knows it too."
  )
  status = (
    "The gain is a difference of two models' log-probabilities: an estimate, not a bound, and"
    " negative where the model of p(x | h) predicts worse than that of p(x). Its mean estimates"
    " I(pixel; h | pixels before it), which is never negative: a mean below zero is a fault of the"
    " models or chance."
  )
  return element("div", element("p", meaning), element("p", status), class_="note")


def _missing(comparison: SideBySide) -> Html:
  folders = [str(run.folder) for row in _compared(comparison) for run in row.runs if not run.maps]
  if not folders:
    return Html("")
  return element(
    "p",
    f"Pixels and images are not shown, for want of {storage.MAPS} in {', '.join(folders)}: run the"
    " evaluate stage there again.",
  )


def _names(comparison: SideBySide) -> list[str]:
  return comparison.names[: len(comparison.layers)]


def _mean_gains(comparison: SideBySide, maps: Maps, parent_dir: pathlib.Path) -> Html:
  path = parent_dir / storage.FIGURES / "gains_mean.png"
  totals = [
    f"sum {page.with_error(information_estimate(comparison, place))}"
    for place in range(len(comparison.layers))
  ]
  figures.save(gain_figures.mean_gain_figure(_names(comparison), maps.mean_LHW, totals), path)
  caption = (
    f"Mean gain of every pixel over all {len(comparison.runs[0].nats['nats']):,} test images, one"
    " scale for all layers. Under each: the sum over its pixels, in nats per image, which is the"
    f" gain over p(x) of the first table.{_upper_rows(comparison, maps)}"
  )
  return page.picture(path, "Mean gain of every pixel, for each layer", caption)


def _upper_rows(comparison: SideBySide, maps: Maps) -> str:
  """How much of the gain the first half of the rows has, for layers that surely gain."""
  height = maps.mean_LHW.shape[1]

  def share(nats_HW):
    return f"{number(100 * nats_HW[: height // 2].sum() / nats_HW.sum(), 0)}%"

  shares = [
    f"{name} {share(gain_HW)}"
    for place, (name, gain_HW) in enumerate(zip(_names(comparison), maps.mean_LHW, strict=True))
    if information_estimate(comparison, place).interval()[0] > 0
  ]
  if not shares:
    return ""
  return (
    f" Part of it in the first {height // 2} of the {height} rows: {', '.join(shares)}; of the nats"
    f" of p(x) itself, {share(maps.marginal_HW)}."
  )


def _examples(comparison: SideBySide, maps: Maps, parent_dir: pathlib.Path) -> Html:
  path = parent_dir / storage.FIGURES / "gains_examples.png"
  nats = comparison.runs[0].nats
  _, firsts = np.unique(nats["label"][maps.rows_n], return_index=True)
  shown = firsts[:_NUM_EXAMPLES]
  images = [
    Shown(maps.image_nHWC[place], f"test {nats['index'][maps.rows_n[place]]}") for place in shown
  ]
  figure = gain_figures.examples_figure(
    _names(comparison),
    images,
    maps.gain_LnHW[:, shown],
    comparison.runs[0].summary["num_levels"],
  )
  figures.save(figure, path)
  caption = (
    "Test images, the first of each label, and the gain of their pixels for each layer, on one"
    " scale; one in 200 of the pixels shown lies beyond its ends."
  )
  return page.picture(path, "Test images and the gain of their pixels for each layer", caption)


def _pointwise(comparison: SideBySide, gain_LN: np.ndarray, parent_dir: pathlib.Path) -> Html:
  path = parent_dir / storage.FIGURES / "gains_pointwise.png"
  figures.save(gain_figures.pointwise_figure(_names(comparison), gain_LN), path)
  caption = (
    "Pointwise information of every test image, the sum of the gains of its pixels: log p(x | h)"
    " less log p(x). Height: number of images, each layer on a scale of its own. Orange: the mean,"
    f" the gain over p(x) of the first table. The numbers, image by image: {CSV}."
  )
  return page.picture(path, "Histograms of pointwise information", caption)


def _tails(
  comparison: SideBySide, maps: Maps, gain_LN: np.ndarray, parent_dir: pathlib.Path
) -> Html:
  path = parent_dir / storage.FIGURES / "gains_tails.png"
  nats, num_all = comparison.runs[0].nats, gain_LN.shape[1]
  label_n = nats["label"][maps.rows_n]

  def shown(gain_n, places):
    texts = (f"{number(gain_n[place], 1)} ({label_n[place]})" for place in places)
    return [Shown(maps.image_nHWC[place], text) for place, text in zip(places, texts, strict=True)]

  least, most = [], []
  for gain_n in gain_LN[:, maps.rows_n]:
    for side, places in zip((least, most), tails(gain_n, _NUM_EXTREMES), strict=True):
      side.append(shown(gain_n, places))
  num_levels = comparison.runs[0].summary["num_levels"]
  figures.save(gain_figures.tails_figure(_names(comparison), least, most, num_levels), path)
  among = "all" if len(maps.rows_n) == num_all else f"{len(maps.rows_n):,} of the {num_all:,}"
  caption = (
    f"The images of least and of most pointwise information for each layer, among {among} test"
    " images. Above each: nats, and its label in brackets."
  )
  return page.picture(path, "Images with the least and the most pointwise information", caption)


def tails(gain_n: Float[np.ndarray, " n"], num_each: int) -> tuple[np.ndarray, np.ndarray]:
  """Places of the least values, rising, and of the most, falling; none is in both."""
  order = np.argsort(gain_n, kind="stable")
  num_each = min(num_each, len(order) // 2)
  return order[:num_each], order[::-1][:num_each]
