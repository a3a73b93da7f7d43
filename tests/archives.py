"""Small archives in the official formats, and a server for them on the loopback interface.

`write_svhn(manual_folder(data_dir))` is all it takes to have `data.load("svhn_cropped",
data_dir=...)` prepare a set without a network, in this process or in another one.
"""

import contextlib
import functools
import gzip
import http.server
import io
import pathlib
import struct
import tarfile
import threading

import numpy as np
import scipy.io

CIFAR_NAMES = [f"class_{number}" for number in range(10)]


def manual_folder(data_dir: pathlib.Path) -> pathlib.Path:
  """The folder in which the builders look for archives before they download any."""
  folder = data_dir / "downloads" / "manual"
  folder.mkdir(parents=True, exist_ok=True)
  return folder


def write_mnist(folder, num_train=60, num_test=20, seed=0):
  """Writes four IDX files; returns {split: (images_NHWC, labels_N)}. Ink is in the middle 20x20."""
  written = {}
  for split, prefix, num in (("train", "train", num_train), ("test", "t10k", num_test)):
    images_NHWC, labels_N = random_images(split, num, (28, 28, 1), seed)
    images_NHWC[:, :4] = images_NHWC[:, 24:] = images_NHWC[:, :, :4] = images_NHWC[:, :, 24:] = 0
    content = struct.pack(">4i", 2051, num, 28, 28) + images_NHWC.tobytes()
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    content = struct.pack(">2i", 2049, num) + labels_N.astype(np.uint8).tobytes()
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    written[split] = images_NHWC, labels_N
  return written


def write_fashion_mnist(folder, num_train=60, num_test=20):
  """As `write_mnist`, whose names of files it shares: other images, in a folder of their own."""
  (folder / "fashion_mnist").mkdir(exist_ok=True)
  return write_mnist(folder / "fashion_mnist", num_train, num_test, seed=1)


def write_cifar10(folder, num_train=60, num_test=20):
  """Writes the binary archive; returns {split: (images_NHWC, labels_N)}."""
  written = {
    split: random_images(split, num, (32, 32, 3))
    for split, num in (("train", num_train), ("test", num_test))
  }
  files = {"batches.meta.txt": "\n".join([*CIFAR_NAMES, "", ""]).encode()}
  for number, part in enumerate(np.array_split(_cifar_rows(*written["train"]), 5), 1):
    files[f"data_batch_{number}.bin"] = part.tobytes()
  files["test_batch.bin"] = _cifar_rows(*written["test"]).tobytes()
  with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
    for name, content in files.items():
      entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
      entry.size = len(content)
      archive.addfile(entry, io.BytesIO(content))
  return written


def write_svhn(folder, num_train=60, num_test=20):
  """Writes both MATLAB files; returns {split: (images_NHWC, labels_N)}."""
  written = {}
  for split, num in (("train", num_train), ("test", num_test)):
    images_NHWC, labels_N = random_images(split, num, (32, 32, 3))
    content = {"X": np.moveaxis(images_NHWC, 0, -1), "y": np.where(labels_N, labels_N, 10)[:, None]}
    scipy.io.savemat(folder / f"{split}_32x32.mat", content)
    written[split] = images_NHWC, labels_N
  return written


def random_images(split, num, shape_HWC, seed=0):
  """Noise around one brightness per label, so that there is something to learn."""
  rng = np.random.default_rng(len(split) + seed)
  labels_N = rng.integers(10, size=num)
  noise_NHWC = rng.integers(60, size=(num, *shape_HWC))
  return (20 * labels_N[:, None, None, None] + noise_NHWC).astype(np.uint8), labels_N


@contextlib.contextmanager
def serve(folder):
  """Yields the URL, ending in a slash, at which the files of `folder` can be downloaded."""

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  handler = functools.partial(Handler, directory=str(folder))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      yield f"http://127.0.0.1:{server.server_port}/"
    finally:
      server.shutdown()
      thread.join()


def _cifar_rows(images_NHWC, labels_N):
  planes = images_NHWC.transpose(0, 3, 1, 2).reshape(len(images_NHWC), -1)
  return np.concatenate([labels_N[:, None].astype(np.uint8), planes], axis=1)
