"""What the builders share: fetching the official archives, and PNG without TensorFlow."""

import contextlib
import gzip
import hashlib
import io
import pathlib
import posixpath
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import warn

# TFDS's own folder, below `<data_dir>/downloads`, for archives that were fetched by hand.
MANUAL = "manual"
PROBE_SECONDS = 20
# Of every set that comes in archives.
NUM_CLASSES = 10
# Of MATLAB's files: what stands before the first element, and the kind of a compressed one.
MAT_HEADER, MAT_COMPRESSED = 128, 15
CHUNK = 1 << 20


class UnreachableError(Exception):
  """The server of an archive did not answer."""


def file_name(url: str) -> str:
  """The name under which the archive at `url` is looked for in the folder of manual downloads."""
  return posixpath.basename(url)


def fetch(
  dl_manager: tfds.download.DownloadManager,
  urls: Mapping[str, str],
  url_infos: Mapping[str, Any],
  subfolder: str = "",
) -> dict[str, pathlib.Path]:
  """Returns the archives under the keys of their `urls`: those placed by hand, or downloads.

  A file of the same name in `<data_dir>/downloads/manual`, in `subfolder` there, is used without a
  download; a log line says so if it is not the file whose SHA-256 is published in `url_infos`. What
  is downloaded has to match it.

  Raises:
    UnreachableError: no answer to a first small request. TFDS alone would retry for minutes.
  """
  folder = pathlib.Path(dl_manager.download_dir) / MANUAL / subfolder
  placed = {key: folder / file_name(url) for key, url in urls.items()}
  placed = {key: path for key, path in placed.items() if path.exists()}
  for key, path in placed.items():
    if not path.is_file():
      raise UserError(f"{path} is a folder; put the archive of this name in its place.")
    published = url_infos.get(urls[key])
    if published and _sha256(path) != published.checksum:
      warn("%s is used, though its SHA-256 is not the published one.", path)
  missing = {key: url for key, url in urls.items() if key not in placed}
  if not missing:
    return placed
  _probe(next(iter(missing.values())))
  downloads = dl_manager.download(missing)
  return placed | {key: pathlib.Path(path) for key, path in downloads.items()}


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
  """Turns what a damaged archive raises into a UserError that names the file."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # tarfile, zlib, NumPy and SciPy have no common class for damage.
    words = str(error).partition("\n")[0] or type(error).__name__
    raise UserError(f"{path} is damaged ({words}); delete it and run again.") from error


def unpacked(path: pathlib.Path, most_bytes: int) -> bytes:
  """What a gzip file holds.

  Args:
    path: of the file.
    most_bytes: of the published file's content; no more are ever unpacked.

  Raises:
    UserError: it is damaged, empty, or holds more.
  """
  with reading(path), gzip.open(path) as file:
    content = file.read(most_bytes + 1)
  if not content:
    raise UserError(f"{path} is damaged (it is empty); delete it and run again.")
  if len(content) > most_bytes:
    raise _too_large(path, most_bytes)
  return content


def check_compressed(path: pathlib.Path, most_bytes: int):
  """Raises UserError if the compressed parts of a MATLAB file unpack to more than `most_bytes`.

  What is not compressed cannot be more than the file. SciPy would unpack first, and then see.
  """
  num_bytes = 0
  with reading(path), path.open("rb") as file:
    order = ">" if file.read(MAT_HEADER)[-2:] == b"MI" else "<"
    while len(tag := file.read(8)) == 8:
      kind, size = struct.unpack(f"{order}2I", tag)
      if kind != MAT_COMPRESSED:
        file.seek(size, io.SEEK_CUR)
        continue
      unpacker, content = zlib.decompressobj(), file.read(size)
      while content and num_bytes <= most_bytes:
        num_bytes += len(unpacker.decompress(content, CHUNK))
        content = unpacker.unconsumed_tail
  if num_bytes > most_bytes:
    raise _too_large(path, most_bytes)


def _too_large(path, most_bytes):
  return UserError(
    f"{path} unpacks to more than the {most_bytes:,} bytes of the published file; put that file in "
    "its place."
  )


def check_examples(
  path: pathlib.Path, images: np.ndarray, labels: np.ndarray, image_shape: tuple[int, ...]
):
  """Raises UserError unless these are levels of this shape, each with a digit as its label.

  Args:
    path: the file that they come from.
    images: (N, *image_shape), uint8.
    labels: (N,), whole numbers below `NUM_CLASSES`.
    image_shape: as the set has it.
  """
  if images.dtype != np.uint8 or images.shape[1:] != image_shape:
    raise UserError(
      f"{path} holds {images.dtype} of shape {images.shape}, not levels (N, "
      f"{', '.join(map(str, image_shape))}); put the published file in its place."
    )
  if labels.shape != images.shape[:1]:
    raise UserError(
      f"{path} has {len(images):,} images for {labels.size:,} labels; put the published files in "
      "their place."
    )
  is_class = np.isin(labels, np.arange(NUM_CLASSES))
  if not is_class.all():
    raise UserError(
      f"{path} has the label {labels[~is_class][0]:g}, which is none of {NUM_CLASSES} classes; put "
      "the published file in its place."
    )


def encode_png(image_HWC: UInt8[np.ndarray, "H W C"]) -> bytes:
  """PNG of an image of one or three colours; lossless."""
  file = io.BytesIO()
  squeezed = image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC
  PIL.Image.fromarray(squeezed).save(file, format="PNG")
  return file.getvalue()


def decode_png(encoded: bytes, shape_HWC: tuple[int, int, int]) -> UInt8[np.ndarray, "H W C"]:
  """The inverse of `encode_png`. Raises ValueError if the image has not the shape it must have."""
  height, width, _ = shape_HWC
  with PIL.Image.open(io.BytesIO(encoded)) as image:
    # Asked before the pixels are unpacked.
    if (image.height, image.width) != (height, width):
      raise ValueError(f"an image is {image.height}x{image.width}, not {height}x{width}")
    return np.asarray(image).reshape(shape_HWC)


def _sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _probe(url: str):
  try:
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
      pass
  except urllib.error.HTTPError:
    pass  # An answer, though not a welcome one: the download itself will say more.
  except OSError as error:
    raise UnreachableError(f"{url}: {getattr(error, 'reason', error)}") from error
