"""The gallery: what each way to look inside a layer makes of the same images, in one picture and
one table.
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.report import figures, page, pictures
from inversion_jax.report.files import RunFiles
from inversion_jax.report.page import Html, element, number

CSV, PAGE = "gallery.csv", "gallery.html"
_MAX_ROWS, _MAX_SAMPLES = 8, 2


class Words(NamedTuple):
  """What a method is called, here and over its column, and what its pictures show and hide."""

  name: str
  heading: str
  shows: str
  hides: str


METHODS = {
  "nearest": Words(
    "nearest training image",
    "nearest",
    "what another image that the layer takes for this one may look like",
    "everything between the images that there are",
  ),
  "optimisation": Words(
    "optimisation (Mahendran & Vedaldi 2015)",
    "optimised",
    "how far pixels can go while h stays: it reaches h and need not look like anything",
    "which of the images with this h ever occur; the regularisers and the start choose",
  ),
  "deconvnet": Words(
    "deconvnet (Zeiler & Fergus 2014)",
    "deconvnet",
    "where in this image the activations come from",
    "what they leave open: where maxima and zeros lie is taken from the image itself, not from h",
  ),
  "guided": Words(
    "guided backpropagation (Springenberg et al. 2015)",
    "guided",
    "the same, of pixels that raise an activation at every layer",
    "the same, and it takes more of the image itself",
  ),
  "mse": Words(
    "mean-squared-error decoder (Dosovitskiy & Brox 2016b)",
    "MSE",
    "the mean of the images with this h: where it is blurred, they differ",
    "how they differ; a mean is no sample, and h of it is another one",
  ),
  "perceptual": Words(
    "perceptual decoder (Johnson et al. 2016)",
    "perceptual",
    "one image whose features are nearer to the original's than the mean's",
    "that there are others; what features do not tell it leaves blurred",
  ),
  "deepsim": Words(
    "DeePSiM (Dosovitskiy & Brox 2016a)",
    "DeePSiM",
    "one image that a discriminator takes for real besides",
    "that there are others; its details may be the discriminator's wish",
  ),
  "gan": Words(
    "stacked GAN (Huang et al. 2017)",
    "GAN",
    "several images that a discriminator takes for real",
    "how probable they are; it repeats itself, or varies what h tells",
  ),
  "gated": Words(
    "gated PixelCNN (van den Oord et al. 2016b)",
    "gated",
    "images as probable as the model finds them, and how many nats they cost",
    "what a stronger model would read from h",
  ),
  "inverter": Words(
    "conditional PixelCNN++ (Nash et al. 2019)",
    "samples",
    "images as probable as the model finds them, and how many nats they cost",
    "what a stronger model would read from h",
  ),
}

# Measure: (heading of its column, what it is).
MEASURES = {
  "feature_l1_to_original": (
    "h to original",
    "the mean over units of |h of the image - h of the original|",
  ),
  "squared_error": ("squared error", "to the original, of sub-pixels from 0 to 1"),
  "diversity": ("diversity", "the mean of |a - b| over pairs of images of one h"),
  "diversity_minus_l1_to_original": (
    "diversity missing",
    "diversity minus the distance to the original, 0 for draws of the true p(x | h), of which the "
    "original is one",
  ),
  "accuracy": ("read right", "the fraction whose label the network itself reads"),
  "other_accuracy": (
    "by another",
    "the same of a network that was trained with another seed",
  ),
  "nats": ("nats", "-log p(original | h), where the method is a density"),
}
COSTS = {
  "seconds_per_image": ("s per image", "of making one, in a batch"),
  "training_seconds": ("s training", "of the method, without the network that is looked into"),
}


def section(run: RunFiles) -> Html:
  """The part of a run's page, empty before the gallery stage."""
  if not (run.folder / storage.GALLERY).exists():
    return Html("")
  facts = storage.read_json(run.folder / storage.GALLERY)
  stale = page.step_warning(facts["inverter_step"], run.summary.get("inverter_steps"), "gallery")
  path = run.folder / storage.FIGURES / _png(facts)
  return page.section("Every way to look inside", stale, *_content(facts, path), _legend())


def write_gallery(output: pathlib.Path, run_dirs: Iterable[pathlib.Path]) -> None:
  """Writes `gallery_<layer>.png` of each run, `gallery.csv` and `gallery.html` of all.

  Args:
    output: the folder to write to.
    run_dirs: runs that have been through the gallery stage.

  Raises:
    UserError: one has not, or its files are damaged.
  """
  parts, lines = [], []
  for run_dir in run_dirs:
    facts = storage.read_json(run_dir / storage.GALLERY)
    path = output / _png(facts)
    figures.save(_figure(facts, storage.read_npz(run_dir / storage.GALLERY_IMAGES)), path)
    title = f"{facts['layer']} of {facts['dataset']}"
    parts.append(page.section(title, *_content(facts, path)))
    lines += [_line(facts, row) for row in facts["rows"]]
  header = list(dict.fromkeys(name for line in lines for name in line))
  storage.write_csv(output / CSV, header, ([line.get(name) for name in header] for line in lines))
  whole = page.page("Every way to look inside a layer", "inversion_jax", *parts, _legend())
  storage.write_text(output / PAGE, whole)


def _png(facts):
  return f"gallery_{facts['layer']}.png"


def _figure(facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> Figure:
  columns = [pictures.Column("original", arrays["original"][:_MAX_ROWS, None])]
  for row in facts["rows"]:
    shown = arrays[row["method"]][:_MAX_ROWS, :_MAX_SAMPLES]
    columns.append(pictures.Column(METHODS[row["method"]].heading, shown))
  names = pictures.row_names(arrays["index"][:_MAX_ROWS], arrays["label"][:_MAX_ROWS])
  return pictures.grid_figure(columns, names, facts["num_levels"])


def _content(facts: Mapping[str, Any], path: pathlib.Path) -> Iterator[Html]:
  caption = (
    f"Each row: one test image, and what each method makes of its {facts['layer']}; two of those "
    "that make several. Of deconvnet and guided backpropagation what is above zero, the largest "
    "white: they are no images, and no measure of images is about them."
  )
  yield page.picture(path, "Images by every method", caption)
  yield _table(facts)
  yield element("p", _reading(facts))
  if facts["left_out"]:
    names = ", ".join(METHODS[name].name for name in facts["left_out"])
    yield element(
      "p", f"Left out, as they differentiate h by the pixels, which stored h do not allow: {names}."
    )


def _table(facts) -> Html:
  rows = facts["rows"]
  measures = [name for name in MEASURES if any(name in row for row in rows)]
  header = ["", *(MEASURES[name][0] for name in measures), *(cost[0] for cost in COSTS.values())]
  cells = [
    [
      METHODS[row["method"]].name,
      *(page.with_error(_estimate(row, name)) if name in row else "" for name in measures),
      *(f"{row[name]:.2g}" for name in COSTS),
    ]
    for row in rows
  ]
  words = (
    f"Means over {facts['num_images']} test images and {facts['num_samples']} images of each by "
    "those that make several, ± one standard error over test images."
  )
  return Html(page.table(header, cells) + element("p", words, class_="legend"))


def _estimate(row: Mapping[str, Any], name: str, num_images: int = 0) -> information.Estimate:
  return information.Estimate.read(row, name, num=num_images)


def _reading(facts) -> str:
  """What the numbers say, in sentences: each difference is paired by image."""
  rows = {row["method"]: row for row in facts["rows"]}
  nearer = _nearer(rows, facts["num_images"])
  return " ".join(filter(None, (nearer, _than_the_mean(rows), _repeats(rows), _nats_beside(rows))))


def _nearer(rows, num_images):
  name, sides = "feature_l1_to_original_minus_nearest", {}
  for key, row in rows.items():
    if name in row["differences"]:
      verdict = information.verdict(_estimate(row["differences"], name, num_images))
      side = {"lower": "nearer", "higher": "farther"}.get(verdict, verdict)
      sides.setdefault(side, []).append(METHODS[key].heading)
  if not sides:
    return ""
  words = "; ".join(f"{side}: {', '.join(names)}" for side, names in sides.items())
  return f"Against the nearest training image, distance of h to the original's is {words}."


def _than_the_mean(rows):
  name, sentences = "feature_l1_to_original_minus_mse", []
  for key in ("perceptual", "deepsim"):
    if key in rows and name in rows[key]["differences"]:
      gap = _estimate(rows[key]["differences"], name)
      sentences.append(
        f"{METHODS[key].heading} minus MSE in distance of h: {number(gap.mean, 4)} "
        f"({page.interval(gap)})."
      )
  return " ".join(sentences)


def _repeats(rows):
  name = "diversity_minus_l1_to_original"
  gaps = [
    f"{METHODS[key].heading} {page.with_error(_estimate(rows[key], name))}"
    for key in ("optimisation", "gan", "gated", "inverter")
    if key in rows
  ]
  return f"Diversity against a true sampler's, which is 0: {', '.join(gaps)}." if gaps else ""


def _nats_beside(rows):
  name = "nats_minus_inverter"
  if "gated" not in rows or name not in rows["gated"]["differences"]:
    return ""
  gap = _estimate(rows["gated"]["differences"], name)
  seconds = [f"{rows[key]['training_seconds']:.0f} s" for key in ("gated", "inverter")]
  return (
    f"The gated network needs {number(gap.mean, 2)} ({page.interval(gap)}) nats per image more "
    f"than PixelCNN++, after {seconds[0]} of training against {seconds[1]}."
  )


def _legend() -> Html:
  rows = [(words.name, words.shows, words.hides) for words in METHODS.values()]
  wrapped = [
    (name, *(element("span", text, class_="wrap") for text in rest)) for name, *rest in rows
  ]
  measures = [(heading, words) for heading, words in (MEASURES | COSTS).values()]
  return page.section(
    "What each shows, and what each hides",
    page.table(("", "shows", "hides"), wrapped, num_names=3),
    page.folded("The measures", page.facts(measures)),
  )


def _line(facts, row: Mapping[str, Any]) -> dict[str, Any]:
  """A line of the CSV: every mean with its 95% interval, every difference too."""
  line = {"dataset": facts["dataset"], "layer": facts["layer"], "method": row["method"]}
  values = {name: row for name in MEASURES if name in row}
  values |= {
    name: row["differences"] for name in row["differences"] if not name.endswith("_standard_error")
  }
  for name, where in values.items():
    low, high = _estimate(where, name, facts["num_images"]).interval()
    line |= {name: where[name], f"{name}_low": low, f"{name}_high": high}
  return line | {name: row[name] for name in COSTS}
