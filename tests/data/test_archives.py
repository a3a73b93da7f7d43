"""Archives that someone placed by hand, and sets that something prepared: none is believed."""

import gzip
import io
import json
import pathlib
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import zlib

import archives
import numpy as np
import pytest
import scipy.io

from inversion_jax.data import loading
from inversion_jax.machine.errors import UserError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
CIFAR, SVHN = "cifar-10-binary.tar.gz", "train_32x32.mat"
BOMB_BYTES = 400_000_000


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))


def content_of(name, content):
  """Replaces a file."""
  return lambda folder: (folder / name).write_bytes(content)


def idx(name, array, kind=8):
  content = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
  return content_of(name, gzip.compress(content + array.tobytes()))


def a_folder(name):
  def change(folder):
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()

  return change


def bomb():
  """Members of a gzip file follow each other: 400 MB of zeros in half a megabyte."""
  return gzip.compress(bytes(10_000_000)) * (BOMB_BYTES // 10_000_000)


def members(change):
  """Replaces the archive by one whose members (TarInfo, content) `change` has gone through."""

  def rewrite(folder):
    path = folder / CIFAR
    with tarfile.open(path) as archive:
      entries = [(entry, archive.extractfile(entry).read()) for entry in archive]
    with tarfile.open(path, "w:gz") as archive:
      for entry, content in change(entries):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))

  return rewrite


def as_kind(kind, linkname=""):
  """The test images as another kind of member."""

  def change(entries):
    for entry, content in entries:
      if entry.name.endswith("test_batch.bin"):
        entry.type, entry.linkname, content = kind, linkname, b""
      yield entry, content

  return members(change)


def with_label(label):
  def change(entries):
    for entry, content in entries:
      if entry.name.endswith("test_batch.bin"):
        content = bytes([label]) + content[1:]
      yield entry, content

  return members(change)


def renamed(prefix):
  def change(entries):
    for entry, content in entries:
      entry.name = prefix + entry.name
      yield entry, content

  return members(change)


def mat(**arrays):
  """Replaces the training file; it has 60 images."""

  def change(folder):
    found = scipy.io.loadmat(folder / SVHN)
    content = {name: arrays.get(name, found[name]) for name in ("X", "y")}
    scipy.io.savemat(folder / SVHN, content)

  return change


def objects():
  filled = np.empty((1, 1), object)
  filled[0, 0] = np.arange(3)
  return filled


def mat_bomb():
  """A compressed element that claims to be, and is, 400 MB of zeros."""
  stream = io.BytesIO()
  scipy.io.savemat(stream, {"X": np.zeros(1, np.uint8)}, do_compression=True)
  packer = zlib.compressobj(9)
  packed = b"".join(packer.compress(bytes(10_000_000)) for _ in range(BOMB_BYTES // 10_000_000))
  packed += packer.flush()
  return stream.getvalue()[:128] + struct.pack("<2I", 15, len(packed)) + packed


IMAGES = np.zeros((60, 28, 28), np.uint8)
# Which set, what is done to its archives, the file that is named, and words of the sentence.
CASES = {
  "an empty gz": ("mnist", content_of(TRAIN_IMAGES, b""), TRAIN_IMAGES, "it is empty"),
  "a gz of nothing": ("mnist", content_of(TRAIN_LABELS, gzip.compress(b"")), TRAIN_LABELS, "empty"),
  "no gz": ("mnist", content_of(TRAIN_IMAGES, b"<html>"), TRAIN_IMAGES, "is damaged"),
  "no idx": ("mnist", content_of(TRAIN_IMAGES, gzip.compress(b"text")), TRAIN_IMAGES, "no IDX"),
  "a header alone": (
    "mnist",
    content_of(TRAIN_IMAGES, gzip.compress(bytes([0, 0, 8, 3, 0]))),
    TRAIN_IMAGES,
    "is damaged",
  ),
  "sizes that promise more": (
    "mnist",
    content_of(TRAIN_IMAGES, gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12)),
    TRAIN_IMAGES,
    "is damaged",
  ),
  "fewer labels": ("mnist", idx(TRAIN_LABELS, np.zeros(59, np.uint8)), TRAIN_IMAGES, "59 labels"),
  "labels of 200": (
    "mnist",
    idx(TRAIN_LABELS, np.full(60, 200, np.uint8)),
    TRAIN_IMAGES,
    "label 200, which is none of 10",
  ),
  "images of 20x20": (
    "mnist",
    idx(TRAIN_IMAGES, IMAGES[:, :20, :20]),
    TRAIN_IMAGES,
    "(60, 20, 20)",
  ),
  "labels as images": ("mnist", idx(TRAIN_IMAGES, IMAGES[:, 0, 0]), TRAIN_IMAGES, "shape (60,)"),
  "an idx of floats": ("mnist", idx(TRAIN_IMAGES, IMAGES, kind=13), TRAIN_IMAGES, "no IDX file"),
  "a pickle": ("mnist", content_of(TRAIN_IMAGES, pickle.dumps(IMAGES)), TRAIN_IMAGES, "is damaged"),
  "a folder": ("mnist", a_folder(TRAIN_IMAGES), TRAIN_IMAGES, "is a folder"),
  "a gz bomb": ("mnist", content_of(TRAIN_IMAGES, bomb()), TRAIN_IMAGES, "unpacks to more than"),
  "a tar bomb": ("cifar10", content_of(CIFAR, bomb()), CIFAR, "unpacks to more than"),
  "an empty tar": ("cifar10", members(lambda entries: ()), CIFAR, "not found"),
  "no tar": ("cifar10", content_of(CIFAR, gzip.compress(b"text")), CIFAR, "is damaged"),
  "a folder as member": ("cifar10", as_kind(tarfile.DIRTYPE), CIFAR, "no regular file"),
  "a link to a file": ("cifar10", as_kind(tarfile.SYMTYPE, "/etc/passwd"), CIFAR, "no regular"),
  "a hard link to itself": (
    "cifar10",
    as_kind(tarfile.LNKTYPE, "cifar-10-batches-bin/test_batch.bin"),
    CIFAR,
    "no regular file",
  ),
  "a device": ("cifar10", as_kind(tarfile.CHRTYPE), CIFAR, "no regular file"),
  "members above the folder": ("cifar10", renamed("../../../"), CIFAR, "not found"),
  "members at absolute paths": ("cifar10", renamed("/tmp/"), CIFAR, "not found"),
  "half an image": (
    "cifar10",
    members(lambda entries: [(entry, content[:-1]) for entry, content in entries]),
    CIFAR,
    "is damaged",
  ),
  "a label of 200": ("cifar10", with_label(200), CIFAR, "label 200"),
  "floats in a mat": ("svhn_cropped", mat(X=np.zeros((32, 32, 3, 60))), SVHN, "X is double"),
  "a mat of 20x20": (
    "svhn_cropped",
    mat(X=np.zeros((20, 20, 3, 60), np.uint8)),
    SVHN,
    "of shape (60, 20, 20, 3)",
  ),
  "a mat of objects": ("svhn_cropped", mat(X=objects()), SVHN, "X is cell"),
  "labels of objects": ("svhn_cropped", mat(y=objects()), SVHN, "y is cell"),
  "labels as words": ("svhn_cropped", mat(y=np.array(["a"])), SVHN, "y is char"),
  "fewer labels in a mat": ("svhn_cropped", mat(y=np.ones((59, 1))), SVHN, "59 labels"),
  "half labels": ("svhn_cropped", mat(y=np.full((60, 1), 2.5)), SVHN, "label 2.5"),
  "labels from zero": ("svhn_cropped", mat(y=np.full((60, 1), 0.0)), SVHN, "label 10"),
  "labels that are no number": ("svhn_cropped", mat(y=np.full((60, 1), np.nan)), SVHN, "label nan"),
  "a mat of version 7.3": (
    "svhn_cropped",
    content_of(SVHN, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" * 64),
    SVHN,
    "HDF",
  ),
  "an empty mat": ("svhn_cropped", content_of(SVHN, b""), SVHN, "is damaged"),
  "a mat bomb": ("svhn_cropped", content_of(SVHN, mat_bomb()), SVHN, "unpacks to more than"),
}
WRITERS = {
  "mnist": archives.write_mnist,
  "cifar10": archives.write_cifar10,
  "svhn_cropped": archives.write_svhn,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """The archives as they should be, by name of the set."""
  folders = {name: tmp_path_factory.mktemp(name) for name in WRITERS}
  for name, folder in folders.items():
    WRITERS[name](folder)
  return folders


@pytest.mark.parametrize("case", CASES)
def test_an_archive_that_is_not_the_published_one_is_a_sentence(case, written, tmp_path):
  name, change, file, words = CASES[case]
  folder = tmp_path / "data" / "downloads" / "manual"
  shutil.copytree(written[name], folder)
  change(folder)
  outside = set(tmp_path.iterdir())
  tracemalloc.start()
  with pytest.raises(UserError) as error:
    loading.load(name, data_dir=str(tmp_path / "data"))
  _, most_bytes = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert str(folder / file) in str(error.value)
  assert words in str(error.value)
  assert "\n" not in str(error.value)
  # A bomb is not unpacked to its end, in memory or on the disk.
  assert most_bytes < BOMB_BYTES
  assert set(tmp_path.iterdir()) <= outside | {tmp_path / "home"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prepared")
  loading.load("digits", data_dir=str(folder))
  return folder


def info(**changes):
  """Other values in `dataset_info.json`, of a split after its name."""

  def change(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
      split, _, field = name.partition("__")
      if field:
        (found,) = (one for one in content["splits"] if one["name"] == split)
        found[field] = value
      else:
        content[name] = value
    path.write_text(json.dumps(content), encoding="utf-8")

  return change


def text(cut=None):
  return lambda path: path.write_bytes(path.read_bytes()[:cut])


def without(split):
  def change(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    content["splits"] = [one for one in content["splits"] if one["name"] != split]
    path.write_text(json.dumps(content), encoding="utf-8")

  return change


PREPARED = {
  "empty": (text(0), "cannot be read"),
  "cut": (text(300), "cannot be read"),
  "a list": (lambda path: path.write_text("[]"), "cannot be read"),
  "another version": (info(version="2.0.0"), "Proto version: 2.0.0"),
  "another set": (info(name="mnist"), "holds another set than digits"),
  "a name that is a path": (info(name="../../mnist"), "holds another set than digits"),
  "a template that is a path": (info(train__filepathTemplate="../{SPLIT}"), "holds another set"),
  "no test split": (without("test"), "has no split train or test, only train, validation"),
  "fewer than none": (info(test__shardLengths=["-5"]), "is empty"),
  "more than there are": (info(test__shardLengths=["9999"]), "is damaged"),
  "more than fit into memory": (info(train__shardLengths=["999999999999999"]), "is damaged"),
  "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
}


@pytest.mark.parametrize("case", PREPARED)
def test_a_prepared_set_that_is_not_what_it_says_is_a_sentence(case, prepared, tmp_path):
  change, words = PREPARED[case]
  shutil.copytree(prepared / "digits", tmp_path / "digits")
  change(tmp_path / "digits" / "1.0.0" / "dataset_info.json")
  with pytest.raises(UserError) as error:
    loading.load("digits", data_dir=str(tmp_path))
  sentence = str(error.value)
  assert words in sentence
  assert str(tmp_path / "digits") in sentence
  assert "delete that folder and run again" in sentence
  assert "\n" not in sentence


def test_no_code_of_a_prepared_set_is_run(prepared, tmp_path):
  """TFDS can build a set from `features.json`, which names classes; ours come from the program."""
  shutil.copytree(prepared / "digits", tmp_path / "digits")
  path = tmp_path / "digits" / "1.0.0" / "features.json"
  path.write_text(path.read_text().replace("tensorflow_datasets.core", "os.system"))
  assert len(loading.load("digits", data_dir=str(tmp_path)).test.images_NHWC) == 250


def test_a_data_folder_that_is_a_file_is_not_passed_over(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match=r"file is a file; set config\.data\.dir to a folder"):
    loading.load("digits", data_dir=str(tmp_path / "file"))


def test_a_data_folder_that_cannot_be_read_says_so(prepared, tmp_path):
  shutil.copytree(prepared / "digits", tmp_path / "data" / "digits")
  (tmp_path / "data").chmod(0o311)
  with pytest.raises(UserError, match=r"data cannot be read; change its permissions"):
    loading.load("digits", data_dir=str(tmp_path / "data"))
  assert pathlib.Path(tmp_path / "data").exists()
