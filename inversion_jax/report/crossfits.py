"""What cross-fitting says: of a run, and of the rows of a comparison."""

from typing import Any

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.report import page
from inversion_jax.report.files import RunFiles
from inversion_jax.report.page import Html, element
from inversion_jax.report.rows import SideBySide

_WORDS = (
  "Usually the classifier was fitted on the images that train the inverter, so that h of those"
  " images and h of test images have two laws. Cross-fitted, the classifier learns from one half of"
  " the training images and the inverter from the other, and the other way round; each test image"
  " gets the mean of both. All three numbers are lower bounds. With half as many images to learn"
  " from, it is to be compared with both on one half: that difference is what the two laws cost."
)
_HEADER = ("NCE, nats per image", "95% interval")
_ROWS = {
  "usual": "usual: both on all images",
  "same_half": "both on one half, mean of two",
  "cross_fitted": "cross-fitted: each on the half of the other",
}


def section(run: RunFiles) -> Html:
  """The part of a run's page, empty before the crossfit stage."""
  found = _read(run)
  if found is None:
    return Html("")
  rows = [
    (words, page.with_error(nce), page.interval(nce))
    for nce, words in ((_estimate(found, f"{row}_nce_nats"), words) for row, words in _ROWS.items())
  ]
  return page.section(
    "Cross-fitting",
    element("p", sentence(found)),
    page.table(("trained on", *_HEADER), rows),
    element("p", _WORDS),
    page.step_warning(found["inverter_step"], run.summary.get("inverter_steps"), "crossfit"),
  )


def sentence(found: dict[str, Any]) -> str:
  """Both numbers and their differences, paired by image."""
  usual, crossed = (_estimate(found, f"{row}_nce_nats") for row in ("usual", "cross_fitted"))
  over_usual = _estimate(found, "cross_fitted_minus_usual_nats")
  over_same = _estimate(found, "cross_fitted_minus_same_half_nats")
  return (
    f"Cross-fitted: {page.with_error(crossed)} nats per image (usual: {page.with_error(usual)})."
    f" Paired by image, cross-fitted minus usual: {page.with_error(over_usual)} [95%"
    f" {page.interval(over_usual)}]; minus both on one half: {page.with_error(over_same)} [95%"
    f" {page.interval(over_same)}], {information.verdict(over_same)}."
  )


def comparison_section(comparison: SideBySide) -> Html:
  """The part of a comparison's page, empty where no run is cross-fitted."""
  cells = []
  for row, name in zip(comparison.rows, comparison.names, strict=True):
    for run in row.runs:
      found = _read(run)
      if found is not None:
        title = name if len(row.runs) == 1 else f"{name}, seed {run.seeds.inverter}"
        cells.append((title, *_cells(found)))
  if not cells:
    return Html("")
  header = ("layer", *_ROWS, "cross-fitted minus usual", "cross-fitted minus same half", "verdict")
  header = [name.replace("_", " ") for name in header]
  return page.section("Cross-fitting", page.table(header, cells), element("p", _WORDS))


def _cells(found):
  names = [f"{row}_nce_nats" for row in _ROWS]
  names += ["cross_fitted_minus_usual_nats", "cross_fitted_minus_same_half_nats"]
  estimates = [_estimate(found, name) for name in names]
  return *map(page.with_error, estimates), information.verdict(estimates[-1])


def _estimate(found, name):
  return information.Estimate.read(found, name, num=found["num_sources"])


def _read(run):
  path = run.folder / storage.CROSSFIT
  return storage.read_record(path) if path.exists() else None
