"""Everything read from or written to a run folder.

Files are written under a temporary name and renamed, so that a killed run never leaves half a file,
and none of them is a pickle. Their checksums stand in a manifest beside them, and are checked when
a file is read. Of several processes each writes what the first does, all at once: what it has
written a process also sees, however late a shared disk shows it the files of the others.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from inversion_jax.machine import checksums, processes
from inversion_jax.machine.errors import UserError

CONFIG = "config.json"
NOTES = "stages.json"
METRICS = "metrics.jsonl"
NATS = "nats.npz"
MAPS = "maps.npz"
SAMPLES = "samples.npz"
SUMMARY = "summary.json"
CODELENGTH = "codelength.npz"
NEIGHBOURS = "neighbours.npz"
TABLE_1 = "neighbours.json"
CHECKS = "checks.json"
CROSSFIT = "crossfit.json"
BRACKETS = "brackets.json"
GAN = "gan.json"
GAN_SAMPLES = "gan.npz"
GALLERY = "gallery.json"
GALLERY_IMAGES = "gallery.npz"
REPORT = "report.html"
FIGURES = "figures"


# How the names of files end that are not finished.
_UNFINISHED = ".unfinished"
# What follows from deleting a file, where it is not that its stage makes it again.
_AFTER_DELETION = {
  CONFIG: "which writes it again",
  NOTES: "which notes again what is finished, and trains nothing that is",
  METRICS: "which does without: the curves of training until now are lost, and nothing else",
  CODELENGTH: "which does without: the codelength of the first pass is lost, and nothing else",
}


def make_folder(folder: pathlib.Path):
  """Makes a folder that is to be written, and those above it.

  Raises:
    UserError: it cannot be made, or a library of ours could not write there.
  """
  try:
    str(folder.absolute()).encode()
  except UnicodeEncodeError:
    raise UserError(f"{str(folder)!a} is not a name in UTF-8; choose another folder.") from None
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"The folder {folder} cannot be made ({error.strerror}); choose another one."
    ) from error


def sweep(folder: pathlib.Path):
  """Removes what jobs that were killed have left unfinished; for the owner of a folder."""
  for place in (folder, folder / FIGURES):
    for path in place.glob(f".*{_UNFINISHED}"):
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, is_recorded: bool = True) -> Iterator[pathlib.Path]:
  """Yields a temporary path that becomes `path` when the block ends without an error.

  Args:
    path: of the file.
    is_recorded: whether its checksum is kept beside it; not of what is to be given to others.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  descriptor, name = tempfile.mkstemp(_UNFINISHED, f".{path.name}.", path.parent)
  os.close(descriptor)
  temporary = pathlib.Path(name)
  try:
    yield temporary
    content = processes.from_first(temporary.read_bytes())
    _write_through(temporary, content)
    if is_recorded and path.name != checksums.FILE:
      _record(path, content)
    processes.meet()
    temporary.replace(path)
    processes.meet()
  finally:
    temporary.unlink(missing_ok=True)


def _write_through(path, content):
  """Writes, and returns once the disk has it: a name is to be given to nothing less."""
  path.chmod(0o644)
  with path.open("wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _record(path, content):
  """Puts what is about to take the place of a file into the manifest, beside what is there."""
  admitted = [content]
  if path.exists():
    there = path.read_bytes()
    # What is damaged stays so.
    if _agrees(path, there):
      admitted.append(there)
  _admit(path, admitted)


def record_appended(path: pathlib.Path):
  """Puts a file that has grown into the manifest, as it is."""
  _admit(path, [path.read_bytes()])


def _admit(path, contents):
  files = checksums.read(path.parent) | {path.name: [checksums.of(one) for one in contents]}
  write_json(path.parent / checksums.FILE, checksums.as_json(files))


def _agrees(path, content):
  return checksums.agree(path, content, grows=path.name == METRICS)


def damaged(path: pathlib.Path, why: str) -> UserError:
  """The error that names a damaged file, and says what to delete and what follows from it."""
  then = _AFTER_DELETION.get(path.name, "which makes it again")
  return UserError(f"{path} is damaged ({why}); delete it and give the same command again, {then}.")


def write_text(path: pathlib.Path, text: str, *, is_recorded: bool = True):
  """Writes `text` to `path` in one piece; see `replacing`."""
  with replacing(path, is_recorded=is_recorded) as temporary:
    temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any, *, is_recorded: bool = True):
  """Writes `value` as indented JSON in one piece; NaN and infinities are refused."""
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", is_recorded=is_recorded)


def read_bytes(path: pathlib.Path) -> bytes:
  """Reads a file. Raises UserError if it is missing, or is not what was written."""
  try:
    content = path.read_bytes()
  except FileNotFoundError:
    raise UserError(f"{path} is missing; run the stage that writes it first.") from None
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}).") from error
  if not _agrees(path, content):
    raise damaged(path, "it is not what was written")
  return content


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file. Raises UserError, naming the file, if it is missing or damaged."""
  content = read_bytes(path)
  try:
    return json.loads(content.decode())
  except ValueError:
    raise damaged(path, "it is no JSON") from None


def read_record(path: pathlib.Path) -> dict[str, Any]:
  """`read_json` of a file that holds one object."""
  value = read_json(path)
  if not isinstance(value, dict):
    raise damaged(path, "it holds no fields")
  return value


def write_csv(path: pathlib.Path, header: Iterable[str], rows: Iterable[Iterable[Any]]):
  """Writes a header and rows as CSV in one piece; None becomes an empty cell."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(header)
  writer.writerows(rows)
  write_text(path, text.getvalue())


def write_table(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]):
  """Writes one line a row under the names of all cells; a cell that a row lacks stays empty."""
  header = list(dict.fromkeys(name for row in rows for name in row))
  write_csv(path, header, ([row.get(name) for name in header] for row in rows))


def write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]):
  """Writes named arrays as a compressed NPZ file in one piece."""
  with replacing(path) as temporary, temporary.open("wb") as file:
    np.savez_compressed(file, **arrays)


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the arrays of an NPZ file. Raises UserError if it is missing, damaged or a pickle."""
  content = read_bytes(path)
  try:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except MemoryError:
    raise
  except Exception as error:  # NumPy, zipfile and zlib have no common class for damage.
    raise damaged(path, type(error).__name__) from error


def read_as(path: pathlib.Path, make: Callable[[dict[str, np.ndarray]], Any]) -> Any:
  """What `make` makes of the arrays of an NPZ file, which is damaged if it raises ValueError."""
  try:
    return make(read_npz(path))
  except ValueError as error:
    raise damaged(path, str(error)) from error


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the lines of `metrics.jsonl`; a last line cut short by a kill is left out."""
  if not path.exists():
    return []
  # A damaged byte makes its line unreadable, and no other.
  lines = read_bytes(path).decode(errors="replace").split("\n")
  records = []
  for number, line in enumerate(lines, 1):
    record = _record_of(line)
    if record is not None:
      records.append(record)
    elif number < len(lines):
      raise UserError(f"{path}, line {number}, is damaged; delete that line.")
  return records


def _record_of(line):
  try:
    record = json.loads(line)
  except json.JSONDecodeError:
    return None
  return record if isinstance(record, dict) and {"stage", "step"} <= record.keys() else None
