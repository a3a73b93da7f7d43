"""What the builders share: fetching the official archives, and PNG without TensorFlow."""

import contextlib
import hashlib
import io
import pathlib
import posixpath
import tarfile
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
  except (
    EOFError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
    tarfile.TarError,
    zlib.error,
  ) as error:
    raise UserError(f"{path} is damaged ({error}); delete it and run again.") from error


def encode_png(image_HWC: UInt8[np.ndarray, "H W C"]) -> bytes:
  """PNG of an image of one or three colours; lossless."""
  file = io.BytesIO()
  squeezed = image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC
  PIL.Image.fromarray(squeezed).save(file, format="PNG")
  return file.getvalue()


def decode_png(encoded: bytes) -> UInt8[np.ndarray, "H W C"]:
  """The inverse of `encode_png`."""
  with PIL.Image.open(io.BytesIO(encoded)) as image:
    pixels = np.asarray(image)
  return pixels.reshape(*pixels.shape[:2], -1)


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
