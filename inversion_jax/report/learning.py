"""What the training images cost before they were learnt: of one run, and side by side."""

import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from inversion_jax import information
from inversion_jax.information.codelength import Bounded, FirstPass, over_seeds
from inversion_jax.machine import storage
from inversion_jax.report import figures, page
from inversion_jax.report.files import RunFiles
from inversion_jax.report.learning_figures import learning_figure
from inversion_jax.report.page import Html, element, number
from inversion_jax.report.rows import SideBySide, marginal_place

CSV = "codelength.csv"
FIGURE = "learning.png"
_DASH = "\N{EM DASH}"
_ESTIMATES = ("codelength_nats_per_image", "saved_nats_per_image")
_BOUNDED = ("images_until_target", "surplus_nats")
_COLUMNS = ("row", "num_seeds", "num_images", "num_train_images")
_COLUMNS += tuple(f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high"))
_COLUMNS += ("is_paired", "target_nats")
_COLUMNS += tuple(f"{name}{end}" for name in _BOUNDED for end in ("", "_low", "_high"))
_COLUMNS += ("is_target_reached", "not_charged")
_MEANING = (
  "NCE says what each model can use at the end of its training. The codelength also charges for"
  " learning to read: every image of the first pass over the training images is scored before the"
  " step that learns from it. The images until the target say how soon a layer is read: after so"
  " many, the next one costs no more than the target; the surplus is what came together above it"
  " until then."
)


class Row(NamedTuple):
  """A row of the comparison whose runs have all kept their first pass."""

  name: str
  runs: tuple[RunFiles, ...]
  passes: list[FirstPass]
  priors: list[FirstPass]  # of p(x), one for each; empty for p(x) itself and without one

  @property
  def per_image(self) -> information.Estimate:
    """The codelength, nats per image."""
    return over_seeds([told.per_image for told in self.passes])

  @property
  def saved(self) -> information.Estimate | None:
    """Nats per image less than p(x)."""
    if not self.priors:
      return None
    return over_seeds(
      [told.saved_over(prior) for told, prior in zip(self.passes, self.priors, strict=True)]
    )

  @property
  def is_paired(self) -> bool:
    """Whether p(x) was told the same images in the same order."""
    return all(told.is_told_as(prior) for told, prior in zip(self.passes, self.priors, strict=True))

  @property
  def num_images(self) -> int:
    """Of the shortest pass."""
    return min(map(len, self.passes))

  @property
  def num_train_images(self) -> int:
    """Of the training set, of which a pass may leave some out."""
    return self.runs[0].summary.get("num_train_images", self.num_images)

  @property
  def not_charged(self) -> str:
    """In words, what the codelengths leave out."""
    return "; ".join(self.runs[0].summary.get("codelength_not_charged", ()))

  def images_until(self, target_nats: float) -> Bounded:
    """See `FirstPass.images_until`; of several seeds the mean, and the ends that cover all."""
    return _together([told.images_until(target_nats) for told in self.passes])

  def surplus(self, target_nats: float) -> Bounded:
    """See `FirstPass.surplus`; of several seeds as `images_until`."""
    return _together([told.surplus(target_nats) for told in self.passes])

  def reaches(self, target_nats: float) -> bool:
    """Whether all passes come to the target."""
    return all(told.reaches(target_nats) for told in self.passes)


def _together(numbers):
  values, lows, highs = zip(*numbers, strict=True)
  return Bounded(float(np.mean(values)), min(lows), max(highs))


class Target(NamedTuple):
  """What the next image is to cost at most, in nats, and where that is taken from, in words."""

  nats: float
  words: str


def first_pass(run: RunFiles) -> FirstPass | None:
  """What a run has kept of its first pass; None if it has not.

  Raises:
    UserError: the file is damaged.
  """
  path = run.folder / storage.CODELENGTH
  return storage.read_as(path, FirstPass.of) if path.exists() else None


def rows_of(comparison: SideBySide) -> list[Row]:
  """The rows whose runs have all kept their first pass, p(x) last."""
  kept = {}
  for place, row in enumerate(comparison.rows):
    passes = [first_pass(run) for run in row.runs]
    if all(told is not None for told in passes):
      kept[place] = passes
  prior = marginal_place(comparison) if comparison.unconditional else None
  return [
    Row(
      comparison.names[place],
      comparison.rows[place].runs,
      passes,
      [_closest(told, kept[prior]) for told in passes]
      if prior in kept and place < len(comparison.layers)
      else [],
    )
    for place, passes in kept.items()
  ]


def _closest(told, priors):
  """The p(x) that was told the same in the same order, or else the first one."""
  return next((prior for prior in priors if told.is_told_as(prior)), priors[0])


def target_of(comparison: SideBySide, epsilon_nats: float) -> Target:
  """`epsilon_nats` above what p(x) costs once it is trained, or above the worst of the rows."""
  if comparison.unconditional:
    nats = -comparison.rows[marginal_place(comparison)].nce.mean
    words = "what a test image costs the trained p(x)"
  else:
    nats = max(-row.nce.mean for row in comparison.rows)
    words = "what a test image costs the trained model that has the most nats"
  if epsilon_nats:
    words = f"{number(epsilon_nats, 2)} nats above {words}"
  return Target(nats + epsilon_nats, words)


def write_codelengths(comparison: SideBySide, parent_dir: pathlib.Path, epsilon_nats: float = 0.0):
  """Writes `codelength.csv`, one line a row, if any has kept its first pass."""
  rows = rows_of(comparison)
  if rows:
    target = target_of(comparison, epsilon_nats)
    storage.write_csv(parent_dir / CSV, _COLUMNS, (_fields(row, target) for row in rows))


def _fields(row, target):
  numbers = [row.images_until(target.nats), row.surplus(target.nats)]
  return (
    *(row.name, len(row.runs), row.num_images, row.num_train_images),
    *(field for estimate in (row.per_image, row.saved) for field in _with_ends(estimate)),
    *(row.is_paired if row.priors else None, target.nats),
    *(None if math.isinf(field) else field for bounded in numbers for field in bounded),
    *(row.reaches(target.nats), row.not_charged),
  )


def _with_ends(estimate):
  return (None,) * 3 if estimate is None else (estimate.mean, *estimate.interval())


def section(comparison: SideBySide, parent_dir: pathlib.Path, epsilon_nats: float = 0.0) -> Html:
  """The part of a comparison's page: figure, table, and what the three numbers answer."""
  rows = rows_of(comparison)
  if not rows:
    return Html("")
  target = target_of(comparison, epsilon_nats)
  path = parent_dir / storage.FIGURES / FIGURE
  figure = learning_figure(
    {row.name: row.passes for row in rows},
    {
      row.name: [a.saving_curve(b) for a, b in zip(row.passes, row.priors, strict=True)]
      for row in rows
      if row.priors
    },
    target.nats,
  )
  figures.save(figure, path)
  caption = (
    "Left: what the next image costs a model that has read those before it once, from the first"
    " image after the initialisation on. Right: what h has saved over p(x) in all images until"
    " then, those of the initialisation included. Bands: 95% over other images. The curves end"
    f" where the first pass does; later passes are repetition. Target: {target.words}."
  )
  return page.section(
    "How easily each layer is read",
    element("p", _MEANING),
    page.picture(path, "Nats of the next image over the images of the first pass", caption),
    _table(rows, target),
    *(element("p", words) for words in _remarks(comparison, rows)),
  )


def _table(rows, target):
  header = (
    "layer",
    "images told",
    "codelength, nats per image",
    "saved over p(x), nats per image",
    f"images until {number(target.nats, 2)} nats",
    "surplus until then, nats",
  )
  cells = []
  for row in rows:
    until, surplus = row.images_until(target.nats), row.surplus(target.nats)
    part = "" if row.num_images == row.num_train_images else f" of {row.num_train_images:,}"
    cells.append(
      (
        row.name,
        f"{row.num_images:,}{part}",
        page.with_error(row.per_image),
        _saved(row),
        _until(until, row),
        f"{'' if row.reaches(target.nats) else 'over '}{number(surplus.value, 0)}"
        f" ({number(surplus.low, 0)} to {number(surplus.high, 0)})",
      )
    )
  legend = (
    "± is one standard error over other images, and over seeds where a row has several; in brackets"
    " 95%. Not in it without seeds: another order of the images."
  )
  return Html(page.table(header, cells) + element("p", legend, class_="legend"))


def _saved(row):
  if row.saved is None:
    return _DASH
  return page.with_error(row.saved) + ("" if row.is_paired else " (not paired)")


def _until(until, row):
  more = f"more than {row.num_images:,}"
  if math.isinf(until.value):
    return more if math.isinf(until.low) else f"{more} ({number(until.low, 0)} or more)"
  high = "more" if math.isinf(until.high) else number(until.high, 0)
  return f"{number(until.value, 0)} ({number(until.low, 0)} to {high})"


def _remarks(comparison, rows):
  names = {row.name for row in rows}
  missing = [name for name in comparison.names if name not in names]
  if missing:
    yield f"Without a codelength: {', '.join(missing)}."
  by_words: dict[str, list[str]] = {}
  for row in rows:
    by_words.setdefault(row.not_charged, []).append(row.name)
  for words, named in by_words.items():
    whose = "all" if len(by_words) == 1 else ", ".join(named)
    if words:
      yield f"Not charged, of {whose}: {words}."
  yield (
    "h of the training images is given to both sides, and so is the network that makes it, which"
    " may have been trained on these images: h of them can tell more than h of others would."
  )


def single(run: RunFiles) -> Html:
  """The part of one run's page."""
  told = first_pass(run)
  if told is None:
    return Html("")
  path = run.folder / storage.FIGURES / FIGURE
  nats = -run.nce.mean
  figures.save(learning_figure({run.layer_name: [told]}, {}, nats), path)
  num_train = run.summary.get("num_train_images", len(told))
  caption = (
    "What the next image costs a model that has read those before it once. Band: 95% over other"
    " images. Target: what a test image costs the trained model."
  )
  return page.section(
    "While it learnt",
    element("p", _sentence(told, num_train)),
    page.picture(path, "Nats of the next image over the images of the first pass", caption),
    *_not_charged(run.summary),
  )


def _sentence(told, num_train):
  part = "all" if len(told) == num_train else f"{len(told):,} of the"
  return (
    f"The first pass over {part} {num_train:,} training images, each scored before the step that"
    f" learnt from it, cost {page.with_error(told.per_image)} nats per image,"
    f" {number(told.total_nats, 0)} in all: a codelength of the images that charges for the"
    f" learning. The {told.num_seen:,} that the initialisation saw cost log(levels) for each"
    " sub-pixel."
  )


def _not_charged(summary: dict[str, Any]):
  words = summary.get("codelength_not_charged")
  return [element("p", f"Not charged: {'; '.join(words)}.")] if words else []
