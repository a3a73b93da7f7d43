"""Everything read from or written to a run folder.

Files are written under a temporary name and renamed, so that a killed run never leaves half a file,
and none of them is a pickle. Of several processes each writes the same, all at once: what it has
written a process also sees, however late a shared disk shows it the files of the others.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from inversion_jax.machine import processes
from inversion_jax.machine.errors import UserError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
NATS = "nats.npz"
MAPS = "maps.npz"
SAMPLES = "samples.npz"
SUMMARY = "summary.json"
NEIGHBOURS = "neighbours.npz"
TABLE_1 = "neighbours.json"
CHECKS = "checks.json"
BRACKETS = "brackets.json"
GAN = "gan.json"
GAN_SAMPLES = "gan.npz"
GALLERY = "gallery.json"
GALLERY_IMAGES = "gallery.npz"
REPORT = "report.html"
FIGURES = "figures"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path that becomes `path` when the block ends without an error."""
  path.parent.mkdir(parents=True, exist_ok=True)
  descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
  os.close(descriptor)
  temporary = pathlib.Path(name)
  try:
    yield temporary
    temporary.chmod(0o644)
    processes.meet()
    temporary.replace(path)
    processes.meet()
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str):
  """Writes `text` to `path` in one piece."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any):
  """Writes `value` as indented JSON in one piece; NaN and infinities are refused."""
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file. Raises UserError, naming the file, if it is missing or damaged."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"{path} is missing; run the stage that writes it first.") from None
  except (json.JSONDecodeError, UnicodeDecodeError):
    raise UserError(f"{path} is damaged; delete it and run its stage again.") from None


def write_csv(path: pathlib.Path, header: Iterable[str], rows: Iterable[Iterable[Any]]):
  """Writes a header and rows as CSV in one piece; None becomes an empty cell."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(header)
  writer.writerows(rows)
  write_text(path, text.getvalue())


def write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]):
  """Writes named arrays as a compressed NPZ file in one piece."""
  with replacing(path) as temporary, temporary.open("wb") as file:
    np.savez_compressed(file, **arrays)


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the arrays of an NPZ file. Raises UserError if it is missing, damaged or a pickle."""
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except FileNotFoundError:
    raise UserError(f"{path} is missing; run the stage that writes it first.") from None
  except PermissionError:
    raise
  except Exception as error:  # NumPy, zipfile and zlib have no common class for damage.
    raise UserError(
      f"{path} is damaged ({type(error).__name__}); delete it and run its stage again."
    ) from error


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the lines of `metrics.jsonl`; a last line cut short by a kill is left out."""
  # A damaged byte makes its line unreadable, and no other.
  text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
  lines = text.splitlines()
  records = []
  for number, line in enumerate(lines, 1):
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      if number < len(lines):
        raise UserError(f"{path}, line {number}, is damaged; delete that line.") from None
  return records
