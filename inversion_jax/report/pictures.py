"""Grids of small pictures, exact to the pixel."""

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Integer, Num, UInt8
from matplotlib.figure import Figure
from PIL import Image

from inversion_jax.report.figures import DPI, GREY, STYLE


class Column(NamedTuple):
  """A heading, under it in each of N rows S pictures side by side, and a note at the foot."""

  heading: str
  levels: Integer[np.ndarray, "N S H W C"]
  note: str = ""


_ROOM = 1780  # pixels across for pictures and gaps
_LARGEST_TILE = 192
_LABEL_WIDTH, _HEADING_HEIGHT, _NOTE_HEIGHT = 150, 52, 30  # the note's: of one line
_GAP, _COLUMN_GAP, _MARGIN = 6, 30, 8


def grid_figure(columns: Sequence[Column], row_names: Sequence[str], num_levels: int) -> Figure:
  """Pictures in rows, enlarged by a whole number with every level shown as it is.

  Each picture is placed pixel by pixel, never resampled; level 0 is black, the highest white.
  """
  boxes, width, scale = _column_boxes(columns)
  _, _, rows_high, _, _ = columns[0].levels.shape
  pitch = rows_high * scale + _GAP
  note_lines = max(len(column.note.splitlines()) for column in columns)
  foot = _HEADING_HEIGHT + pitch * len(row_names)
  height = foot + _NOTE_HEIGHT * note_lines + _MARGIN
  with matplotlib.rc_context(STYLE):
    # Half a pixel more, as the canvas rounds down.
    figure = Figure(figsize=((width + 0.5) / DPI, (height + 0.5) / DPI), dpi=DPI)
    for column, left in zip(columns, boxes, strict=True):
      figure.text(
        left / width, 1 - 34 / height, column.heading, fontsize=9, fontweight="bold", va="baseline"
      )
      figure.text(left / width, 1 - foot / height, column.note, fontsize=8, va="top")
      for row, levels_SHWC in enumerate(column.levels):
        strip = _strip(levels_SHWC, scale, num_levels)
        top = _HEADING_HEIGHT + row * pitch
        figure.figimage(strip, left, height - top - len(strip), origin="upper")
    for row, name in enumerate(row_names):
      middle = _HEADING_HEIGHT + row * pitch + rows_high * scale / 2
      figure.text(_MARGIN / width, 1 - middle / height, name, fontsize=8, color=GREY, va="center")
    return figure


def row_names(index_N: Integer[np.ndarray, " N"], label_N: Integer[np.ndarray, " N"]) -> list[str]:
  """What stands beside rows of test images."""
  return [f"test {index}\nlabel {label}" for index, label in zip(index_N, label_N, strict=True)]


def _column_boxes(columns: Sequence[Column]) -> tuple[list[int], int, int]:
  """(left edges, width of the figure, enlargement), in pixels."""
  num_tiles = sum(column.levels.shape[1] for column in columns)
  wide = columns[0].levels.shape[3]
  room = _ROOM - _LABEL_WIDTH - _COLUMN_GAP * (len(columns) - 1) - _GAP * num_tiles
  scale = max(1, min(_LARGEST_TILE, room // num_tiles) // wide)
  lefts, edge = [], _LABEL_WIDTH
  for column in columns:
    lefts.append(edge)
    pictures = column.levels.shape[1] * (wide * scale + _GAP) - _GAP
    # A bold letter of the heading takes 15 pixels, one of the note 11.
    note_letters = max(map(len, column.note.splitlines()), default=0)
    edge += max(pictures, 15 * len(column.heading), 11 * note_letters) + _COLUMN_GAP
  return lefts, edge - _COLUMN_GAP + _MARGIN, scale


def _strip(levels_SHWC: np.ndarray, scale: int, num_levels: int) -> np.ndarray:
  """The pictures of one row of one column side by side, as RGB bytes with white gaps."""
  large_SHWC = as_bytes(levels_SHWC, num_levels).repeat(scale, axis=1).repeat(scale, axis=2)
  padded_SHWC = np.pad(as_rgb(large_SHWC), ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
  return np.concatenate(padded_SHWC, axis=1)[:, :-_GAP]


def sheet(tiles_NHWC: UInt8[np.ndarray, "N H W C"], palette: bytes = b"") -> bytes:
  """A PNG file of pictures side by side in about as many rows as columns, each pixel once.

  Picture `n` stands in row `n // columns`, column `n % columns`: no side is too long for a browser.

  Args:
    tiles_NHWC: bytes of colours or, with a palette, numbers of its colours.
    palette: red, green and blue of each colour.
  """
  num, high, wide, colours = tiles_NHWC.shape
  columns = math.isqrt(num - 1) + 1
  rows = -(-num // columns)
  filled_NHWC = np.pad(tiles_NHWC, ((0, rows * columns - num), (0, 0), (0, 0), (0, 0)))
  grid_RHKWC = filled_NHWC.reshape(rows, columns, high, wide, colours).swapaxes(1, 2)
  whole_HWC = grid_RHKWC.reshape(rows * high, columns * wide, colours)
  picture = Image.fromarray(whole_HWC[..., 0] if colours == 1 else as_rgb(whole_HWC))
  if palette:
    picture.putpalette(palette)
  file = io.BytesIO()
  picture.save(file, "PNG", optimize=True)
  return file.getvalue()


def as_bytes(levels: Integer[np.ndarray, "..."], num_levels: int) -> UInt8[np.ndarray, "..."]:
  """Level 0 as 0, the highest as 255."""
  return np.rint(levels * (255.0 / (num_levels - 1))).clip(0, 255).astype(np.uint8)


def as_rgb(pixels_C: Num[np.ndarray, "*axes C"]) -> Num[np.ndarray, "*axes 3"]:
  """One channel as grey, two as red and green, of four the first three."""
  *axes, num_colours = pixels_C.shape
  if num_colours == 1:
    return np.broadcast_to(pixels_C, (*axes, 3))
  missing = np.zeros((*axes, max(0, 3 - num_colours)), pixels_C.dtype)
  return np.concatenate([pixels_C[..., :3], missing], axis=-1)
