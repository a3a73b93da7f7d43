"""The report of one run."""

import math
import pathlib
from typing import Any

import numpy as np

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.report import (
  answers,
  crossfits,
  figures,
  gallery,
  learning,
  page,
  pictures,
  table_1,
)
from inversion_jax.report.bounds import brackets_section
from inversion_jax.report.files import UNCONDITIONAL, RunFiles, read_run, settings
from inversion_jax.report.page import Html, element, number

_MAX_ROWS, _MAX_SAMPLES = 16, 8
_NUM_EXTREMES = 5

# Key of summary.json: (how a person calls it, unit).
_NAMES = {
  "dataset": ("data set", ""),
  "layer": ("layer", ""),
  "image_shape": ("image, height x width x colours", "sub-pixels"),
  "num_levels": ("levels of a sub-pixel", ""),
  "representation_shape": ("representation", "units"),
  "num_test_images": ("test images", ""),
  "nce_nats": ("NCE, averaged parameters", "nats per image"),
  "nce_nats_standard_error": ("its standard error", "nats per image"),
  "nce_live_nats": ("NCE, live parameters", "nats per image"),
  "nce_live_nats_standard_error": ("its standard error", "nats per image"),
  "bits_per_dim": ("codelength", "bits per sub-pixel"),
  "classifier_test_accuracy": ("classifier's test accuracy, as a fraction", ""),
  "classifier_step": ("classifier read at step", ""),
  "reader": ("reader of h (the paper's is projection)", ""),
  "decoder_mse": ("decoder's squared error, sub-pixels from 0 to 1", "per sub-pixel"),
  "decoder_mse_standard_error": ("its standard error", "per sub-pixel"),
  "decoder_steps": ("decoder evaluated at step", ""),
  "inverter_num_params": ("parameters of the inverter", ""),
  "inverter_steps": ("inverter evaluated at step", ""),
  "inverter_train_steps": ("inverter trained until step", ""),
  "codelength_nats": ("codelength of the first pass", "nats"),
  "codelength_nats_per_image": ("codelength of the first pass", "nats per image"),
  "codelength_nats_per_image_standard_error": ("its standard error", "nats per image"),
  "codelength_num_images": ("images of the first pass", ""),
  "num_train_images": ("training images", ""),
  "codelength_not_charged": ("what the codelength does not charge", ""),
  "train_images_per_second": ("training speed", "images per second"),
  "seed": ("seed", ""),
  "seconds": ("time of each stage", "seconds"),
  "devices": ("devices", ""),
  "jax_version": ("JAX", ""),
}


def write_run_report(run_dir: pathlib.Path) -> None:
  """Writes `report.html` and its figures into a run folder that has been evaluated.

  The page is one file with its pictures inside. Parts whose input does not exist (no samples yet,
  no classifier of its own) are left out or said to be missing.

  Raises:
    UserError: the configuration, summary or nats are missing, damaged or contradict each other.
  """
  run = read_run(run_dir)
  parts = [
    _opening(run),
    _headline(run),
    _honest_words(run),
    _samples(run),
    table_1.section(run),
    gallery.section(run),
    _images(run),
    _brackets(run),
    answers.section(run),
    crossfits.section(run),
    _training(run),
    learning.single(run),
    page.section("Result in full", page.facts(_summary_rows(run.summary))),
    _configuration(run),
    _command(run),
  ]
  kicker = f"inversion_jax: run {run_dir.resolve().name}"
  storage.write_text(run_dir / storage.REPORT, page.page(_title(run), kicker, *parts))


def _given(run: RunFiles) -> str:
  return "" if run.layer == UNCONDITIONAL else f" | {run.layer}"


def _title(run: RunFiles) -> str:
  if run.layer == UNCONDITIONAL:
    return f"What can be known of {run.summary['dataset']} images without a layer"
  return f"What {run.layer} still knows of {run.summary['dataset']} images"


def _opening(run: RunFiles) -> Html:
  dataset, layer = run.summary["dataset"], run.layer
  if layer == UNCONDITIONAL:
    return element(
      "p",
      f"A density model learned p(x), the distribution of {dataset} images x, without seeing any"
      " activations. It is the yardstick for the models p(x | h): what they save against it is what"
      " a layer tells.",
    )
  return element(
    "p",
    f"A density model learned p(x | h), the distribution of {dataset} images x given the"
    f" activations h of the layer {layer} of a trained network. Its samples show which images the"
    " layer cannot tell from the original, and the probability that it gives to the true image"
    " measures how much of the image the layer lets it recover.",
  )


def _headline(run: RunFiles) -> Html:
  summary = run.summary
  nce = run.nce
  live = summary.get("nce_live_nats")
  remark = "nats per image, ± one standard error"
  shown = [
    ("Negative cross entropy (NCE)", page.with_error(nce), remark),
    ("95% interval", page.interval(nce), "nats per image, over test images"),
    ("Codelength", number(summary["bits_per_dim"], 4), "bits per sub-pixel"),
  ]
  accuracy = summary.get("classifier_test_accuracy")
  if accuracy is not None:
    shown.append(("Classifier", f"{100 * accuracy:.1f}%", "test accuracy"))
  boxes = page.numbers(shown)
  if live is None:
    return boxes
  text = (
    f"With the live parameters instead of their moving average: {number(live, 2)} nats per image."
  )
  return Html(boxes + element("p", text))


def _honest_words(run: RunFiles) -> Html:
  if run.layer == UNCONDITIONAL:
    meaning = (
      element("strong", "Entropy (upper bound). "),
      "Minus the NCE bounds the entropy H(x) of the images from above. What a model p(x | h) saves"
      " against it is the difference of two upper bounds: an estimate of the information of a"
      " layer, not a bound.",
    )
  else:
    meaning = (
      element("strong", "Usable information (lower bound). "),
      "H(x) + NCE is at most the mutual information I(x; h): up to the constant H(x), the entropy"
      " of the images, the NCE bounds it from below, and a higher NCE means that the layer lets"
      " this model recover more. It is not the mutual information itself. For a deterministic"
      " network on discrete images I(x; h) is almost always H(x), whatever the layer; what varies"
      " is the information that a model of this family can use (predictive V-information, Xu et"
      " al. 2020). A low NCE may also mean a weak or briefly trained model.",
    )
  spread = (
    "The interval covers the choice of test images. Training again with another seed would move"
    " the number too, and the interval does not include that."
  )
  return element("div", element("p", *meaning), element("p", spread), class_="note")


def _samples(run: RunFiles) -> Html:
  heading = "Samples"
  if not run.samples:
    return page.section(heading, element("p", "Not drawn yet: run the sample stage."))
  path = run.folder / storage.FIGURES / "samples.png"
  columns, names = _sample_columns(run)
  figures.save(pictures.grid_figure(columns, names, run.summary["num_levels"]), path)
  drawn = (
    "samples of the model, which sees no original"
    if run.layer == UNCONDITIONAL
    else f"images drawn from p(x{_given(run)}). What they share with it, {run.layer} tells; what"
    " varies among them, the model cannot read from that layer"
  )
  caption = f"Each row: one test image, then {drawn}. Enlarged without smoothing."
  num_given_rows = run.config["sample"].get("num_given_rows", 0)
  if num_given_rows:
    caption += f" The first {num_given_rows} rows of each are the test image's, the rest is drawn."
  if "reconstruction" in run.samples:
    caption += " MSE: the single image with the least expected squared error."
  num_images = len(run.samples["original"])
  if num_images > _MAX_ROWS:
    caption += f" The first {_MAX_ROWS} of {num_images} images."
  return page.section(heading, page.picture(path, "Test images and samples of the model", caption))


def _sample_columns(run: RunFiles) -> tuple[list[pictures.Column], list[str]]:
  rows = {name: values[:_MAX_ROWS] for name, values in run.samples.items()}
  columns = [pictures.Column("original", rows["original"][:, None])]
  if "reconstruction" in rows:
    columns.append(pictures.Column("MSE", rows["reconstruction"][:, None]))
  samples = rows["sample"][:, :_MAX_SAMPLES]
  columns.append(pictures.Column(f"samples from p(x{_given(run)})", samples))
  return columns, pictures.row_names(rows["index"], rows["label"])


def _images(run: RunFiles) -> Html:
  path = run.folder / storage.FIGURES / "nats.png"
  nats_N = run.nats["nats"]
  mean = information.mean_with_error(nats_N, run.sources)
  figures.save(figures.nats_figure(nats_N, mean, _given(run)), path)
  order = np.argsort(nats_N, kind="stable")
  tables = element(
    "div",
    _extremes(run, "Fewest nats: best predicted", order[:_NUM_EXTREMES]),
    _extremes(run, "Most nats: least expected", order[::-1][:_NUM_EXTREMES]),
    class_="pair",
  )
  caption = "Codelengths of all test images; their mean is minus the NCE."
  return page.section(
    "Image by image", page.picture(path, "Histogram of nats per test image", caption), tables
  )


def _extremes(run: RunFiles, title: str, rows: np.ndarray) -> Html:
  index_N, label_N, nats_N = (run.nats[name] for name in ("index", "label", "nats"))
  cells = [(index_N[row], label_N[row], number(nats_N[row], 2)) for row in rows]
  return element(
    "div", element("h3", title), page.table(("test image", "label", "nats"), cells, num_names=0)
  )


def _brackets(run: RunFiles) -> Html:
  path = run.folder / storage.BRACKETS
  if not path.exists():
    return Html("")
  figure_path = run.folder / storage.FIGURES / "brackets.png"
  return brackets_section(storage.read_json(path), run.layer, figure_path)


def _training(run: RunFiles) -> Html:
  stages = [
    stage
    for stage in ("inverter", "decoder", "classifier")
    if any(record.get("stage") == stage for record in run.metrics)
  ]
  missing = ""
  if run.layer != UNCONDITIONAL and "classifier" not in stages:
    missing = element("p", "The classifier was trained elsewhere; this run only read it.")
  if not stages:
    return page.section("Training", element("p", "No training was recorded here."), missing)
  path = run.folder / storage.FIGURES / "training.png"
  figure = figures.training_figure(run.metrics, stages, run.summary.get("inverter_steps"))
  figures.save(figure, path)
  caption = "Lower codelengths and errors are better. Steep starts leave the panel at the top."
  return page.section("Training", page.picture(path, "Training curves", caption), missing)


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
  ordered = [key for key in _NAMES if key in summary]
  ordered += [key for key in summary if key not in _NAMES and key != "command"]
  rows = []
  for key in ordered:
    name, unit = _NAMES.get(key, (key, ""))
    value = _plain(summary[key], key)
    rows.append((name, value if value == "none" else f"{value} {unit}".strip()))
  return rows


def _plain(value: Any, key: str = "") -> str:
  """A value of the summary as a person writes it; nothing is rounded that could be wanted."""
  if value is None or (isinstance(value, float) and not math.isfinite(value)):
    return "none"
  if isinstance(value, float):
    return f"{value:.6g}"
  if isinstance(value, dict):
    return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
  if isinstance(value, list):
    return (" x " if key.endswith("shape") else ", ").join(map(_plain, value))
  return (
    f"{value:,}" if isinstance(value, int) and key.startswith(("num", "inverter")) else str(value)
  )


def _configuration(run: RunFiles) -> Html:
  fields = settings(run.config)
  text = (
    "Every setting of the run, those that the paper leaves open included, under the name by which"
    " the command line changes it (--config.name=value)."
  )
  rows = [(element("code", name), element("code", repr(value))) for name, value in fields]
  return page.section(
    "Configuration", element("p", text), page.folded(f"{len(fields)} settings", page.facts(rows))
  )


def _command(run: RunFiles) -> Html:
  command = run.summary.get("command")
  if command:
    return page.section("To reproduce", element("pre", command))
  pattern = "python -m inversion_jax.main --config=CONFIGURATION_FILE --workdir=NEW_FOLDER"
  text = "with a configuration file that holds the settings above."
  return page.section("To reproduce", element("pre", pattern), element("p", text))
