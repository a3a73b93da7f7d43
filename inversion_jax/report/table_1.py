"""Table 1 of the paper: samples and nearest training images, compared in the space of a layer."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.report import figures, page, pictures
from inversion_jax.report.files import RunFiles
from inversion_jax.report.page import Html, element

CSV, PAGE = "table_1.csv", "table_1.html"
ROWS = {
  "1NN": "the nearest training image",
  "IM-S": "one sample",
  "IM-NN": "the closest of {num_samples} samples",
}
_MAX_IMAGES, _MAX_SAMPLES = 8, 6


def section(run: RunFiles) -> Html:
  """The part of a run's page, empty before the neighbours stage."""
  path = run.folder / storage.TABLE_1
  if not path.exists():
    return Html("")
  table = storage.read_json(path)
  rows = [
    (name, words.format_map(table), page.with_error(_estimate(table["rows"][name])))
    for name, words in ROWS.items()
  ]
  return page.section(
    "Neighbours in the layer's own space",
    _explanation([table]),
    page.table(("", "distance to", "mean L1"), rows, num_names=2),
    _differences([table]),
    page.step_warning(table["inverter_step"], run.summary.get("inverter_steps"), "neighbours"),
    _pictures(run),
  )


def write_table_1(output_dir: pathlib.Path, run_dirs: Iterable[pathlib.Path]) -> None:
  """Writes the paper's Table 1, a column a run, as `table_1.csv` and `table_1.html`.

  Args:
    output_dir: where both files go.
    run_dirs: runs that have been through the neighbours stage, in the order of the columns.

  Raises:
    UserError: a run has no `neighbours.json`, or a damaged one.
  """
  tables = [storage.read_json(run_dir / storage.TABLE_1) for run_dir in run_dirs]
  names = [
    name for table in tables for name in (_heading(table), f"{_heading(table)} standard error")
  ]
  storage.write_csv(output_dir / CSV, ["row", *names], _csv_rows(tables))
  rows = [[name, *(_cell(table, name) for table in tables)] for name in ROWS]
  parts = [
    _explanation(tables),
    page.table(["mean L1", *map(_heading, tables)], rows),
    element("p", "Bold: the least of its column. ± is one standard error over test images."),
    page.section("Differences, paired by image", _differences(tables)),
  ]
  title = "Comparing images in representation space"
  document = page.page(title, f"inversion_jax: Table 1 {output_dir.resolve().name}", *parts)
  storage.write_text(output_dir / PAGE, document)


def _heading(table: dict[str, Any]) -> str:
  return f"{table['dataset']} {table['layer']}"


def _estimate(record: dict[str, Any], num_images: int = 0) -> information.Estimate:
  return information.Estimate.read(record, "mean_l1", "standard_error", num=num_images)


def _cell(table: dict[str, Any], name: str) -> Html:
  text = page.with_error(_estimate(table["rows"][name]))
  least = min(table["rows"], key=lambda row: table["rows"][row]["mean_l1"])
  return element("strong" if name == least else "span", text)


def _csv_rows(tables: Sequence[dict[str, Any]]) -> Iterator[list]:
  """Means and standard errors: a row for each kind of image, then one for each difference."""

  def row(name, records):
    return [name, *(record[key] for record in records for key in ("mean_l1", "standard_error"))]

  for name in ROWS:
    yield row(name, [table["rows"][name] for table in tables])
  for place, difference in enumerate(tables[0]["differences"] if tables else ()):
    name = f"{difference['first']} minus {difference['second']}"
    yield row(name, [table["differences"][place] for table in tables])


def _explanation(tables: Sequence[dict[str, Any]]) -> Html:
  counts = sorted({table["num_images"] for table in tables})
  sizes = ", ".join(f"{_heading(table)} {table['mean_absolute_h']:.3g}" for table in tables)
  images = " or ".join(f"{count:,}" for count in counts)
  return element(
    "div",
    element(
      "p",
      f"The mean absolute difference over the units of a layer, between h of a test image and h of"
      f" another image, on {images} test images. 1NN: the training image that is nearest by this"
      " distance. IM-S: a sample of p(x | h), rounded to levels and encoded again. IM-NN: the"
      " closest of several samples, IM-S among them, so it cannot be farther than IM-S. Mean"
      f" absolute h, for scale: {sizes}.",
    ),
    element(
      "p",
      "For a deterministic layer every sample of the true p(x | h) would have distance zero. The"
      " distance of a sample measures the error of the model, not an invariance of the layer.",
    ),
    class_="note",
  )


def _differences(tables: Sequence[dict[str, Any]]) -> Html:
  rows = []
  for table in tables:
    for record in table["differences"]:
      estimate = _estimate(record, table["num_images"])
      rows.append(
        (
          _heading(table),
          f"{record['first']} minus {record['second']}",
          page.with_error(estimate),
          page.interval(estimate),
          information.verdict(estimate),
        )
      )
  header = ("layer", "difference", "mean L1", "95% interval", "verdict at 95%")
  return page.table(header, rows, num_names=2)


def _pictures(run: RunFiles) -> Html:
  arrays = storage.read_npz(run.folder / storage.NEIGHBOURS)
  rows = {name: values[:_MAX_IMAGES] for name, values in arrays.items()}
  closest = np.argsort(rows["sample_l1"], axis=1, kind="stable")[:, :_MAX_SAMPLES]
  samples = np.take_along_axis(rows["sample"], closest[:, :, None, None, None], axis=1)
  columns = [
    pictures.Column("original", rows["original"][:, None]),
    pictures.Column("nearest training images", rows["nearest"]),
    pictures.Column("closest samples", samples),
  ]
  names = pictures.row_names(rows["index"], rows["label"])
  path = run.folder / storage.FIGURES / "neighbours.png"
  figures.save(pictures.grid_figure(columns, names, run.summary["num_levels"]), path)
  caption = (
    "Each row: a test image, the training images nearest to it in the space of the layer, and the"
    f" closest of its {arrays['sample'].shape[1]} samples, each nearest first."
  )
  return page.picture(path, "Nearest training images and closest samples", caption)
