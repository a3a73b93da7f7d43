"""Figure 3: samples of GANs, of the inverter and nearest neighbours, with their diversity."""

import pathlib
from collections.abc import Mapping
from typing import Any

from inversion_jax.machine import storage
from inversion_jax.report import figures, pictures

_MAX_ROWS, _SHOWN = 8, 4


def write_figure_3(output: pathlib.Path, run_dir: pathlib.Path) -> None:
  """Writes `figure_3.png` and `figure_3.csv`, whose rows are the groups of the picture.

  Args:
    output: the folder to write to.
    run_dir: a run with a finished gan stage.

  Raises:
    UserError: the gan stage has not been run, or its files are damaged.

  Source: Nash et al. (2019), figure 3.
  """
  rows = storage.read_json(run_dir / storage.GAN)
  arrays = storage.read_npz(run_dir / storage.GAN_SAMPLES)
  num_levels = storage.read_json(run_dir / storage.SUMMARY)["num_levels"]
  groups = [*arrays["gan"], arrays["sample"], arrays["nearest"]]
  columns = [pictures.Column("original", arrays["original"][:_MAX_ROWS, None], _NOTE_NAMES)]
  for row, samples in zip(rows, groups, strict=True):
    column = pictures.Column(_heading(row), samples[:_MAX_ROWS, :_SHOWN], _note(row))
    columns.append(column)
  names = pictures.row_names(arrays["index"][:_MAX_ROWS], arrays["label"][:_MAX_ROWS])
  figures.save(pictures.grid_figure(columns, names, num_levels), output / "figure_3.png")
  storage.write_csv(output / "figure_3.csv", rows[0], (row.values() for row in rows))


_MEASURES = {
  "diversity": "diversity",
  "l1_to_original": "to original",
  "feature_l1_to_original": "h to original",
  "accuracy": "accuracy",
}
_NOTE_NAMES = "\n".join(_MEASURES.values())


def _heading(row: Mapping[str, Any]) -> str:
  return row["samples"].replace("entropy weight", "weight").replace(" training images", "")


def _note(row: Mapping[str, Any]) -> str:
  return "\n".join(f"{row[key]:.3f} ± {row[f'{key}_standard_error']:.3f}" for key in _MEASURES)
