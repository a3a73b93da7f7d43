import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import archives
import numpy as np
import pytest
from tensorflow_datasets.core import hashing
from tensorflow_datasets.datasets.svhn_cropped import svhn_cropped_dataset_builder
from tensorflow_datasets.image_classification import cifar, mnist

from inversion_jax.data import datasets, loading
from inversion_jax.data.datasets import affnist, digits
from inversion_jax.machine.errors import UserError

WRITERS = {
  "mnist": archives.write_mnist,
  "fashion_mnist": archives.write_fashion_mnist,
  "cifar10": archives.write_cifar10,
  "svhn_cropped": archives.write_svhn,
}
OFFICIAL = {
  "mnist": mnist.MNIST,
  "fashion_mnist": mnist.FashionMNIST,
  "cifar10": cifar.Cifar10,
  "svhn_cropped": svhn_cropped_dataset_builder.Builder,
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """Nothing here may look into, or write to, the folders of whoever runs the tests."""
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  return tmp_path / "home"


def builder_of(name):
  return datasets.KNOWN[name].builder


def point_to(monkeypatch, name, base_url):
  """Makes the builder of `name` download from `base_url`, where no checksums are published."""
  builder = builder_of(name)
  urls = {key: base_url + url.rsplit("/", 1)[1] for key, url in builder.URLS.items()}
  monkeypatch.setattr(builder, "URLS", urls)
  return builder


def in_tfds_order(images_NHWC, labels_N, split):
  """The examples in the order in which TFDS writes keys 0, 1, ...: that of their salted hashes."""
  hasher = hashing.Hasher(split)
  order = sorted(range(len(labels_N)), key=hasher.hash_key)
  return images_NHWC[order], labels_N[order]


def assert_holds(loaded, written):
  parts = {"train": (loaded.train, loaded.validation), "test": (loaded.test,)}
  for official, splits in parts.items():
    images_NHWC, labels_N = in_tfds_order(*written[official], official)
    np.testing.assert_array_equal(np.concatenate([s.images_NHWC for s in splits]), images_NHWC)
    np.testing.assert_array_equal(np.concatenate([s.labels_N for s in splits]), labels_N)
    index_N = np.concatenate([s.index_N for s in splits])
    np.testing.assert_array_equal(index_N, np.arange(len(labels_N)))


@pytest.mark.parametrize("name", WRITERS)
def test_downloaded_archives_are_loaded_exactly_in_the_official_order(name, tmp_path, monkeypatch):
  (tmp_path / "served").mkdir()
  written = WRITERS[name](tmp_path / "served")
  with archives.serve(tmp_path / "served" / getattr(builder_of(name), "FOLDER", "")) as url:
    point_to(monkeypatch, name, url)
    loaded = loading.load(name, data_dir=str(tmp_path / "tfds"))
  assert [len(split.labels_N) for split in loaded[1:4]] == [54, 6, 20]
  assert (loaded.num_levels, loaded.num_classes) == (256, 10)
  assert_holds(loaded, written)
  again = loading.load(name, data_dir=str(tmp_path / "tfds"))  # The server is gone.
  assert_holds(again, written)


@pytest.mark.parametrize("name", WRITERS)
def test_archives_placed_by_hand_need_no_network(name, tmp_path, monkeypatch):
  monkeypatch.setattr(datasets.archives, "_probe", lambda url: pytest.fail(f"{url} was asked for"))
  written = WRITERS[name](archives.manual_folder(tmp_path))
  assert_holds(loading.load(name, data_dir=str(tmp_path)), written)


def test_tfds_data_dir_is_used_when_no_folder_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
  loading.load("digits")
  assert (tmp_path / "elsewhere" / "digits").exists()


def test_fashion_and_digits_lie_side_by_side(tmp_path):
  folder = archives.manual_folder(tmp_path)
  written = {name: WRITERS[name](folder) for name in ("mnist", "fashion_mnist")}
  for name, content in written.items():
    assert_holds(loading.load(name, data_dir=str(tmp_path)), content)
  assert not np.array_equal(written["mnist"]["test"][0], written["fashion_mnist"]["test"][0])
  builder = builder_of("fashion_mnist")(data_dir=tmp_path)
  assert f"into {folder / 'fashion_mnist'}," in datasets._how_to_place("fashion_mnist", builder, "")


@pytest.mark.parametrize("name", WRITERS)
def test_builders_differ_from_the_official_ones_in_their_reader_alone(name, tmp_path):
  ours = datasets.KNOWN[name].builder(data_dir=tmp_path)
  official = OFFICIAL[name](data_dir=tmp_path)
  assert ours.info.full_name == official.info.full_name
  assert ours.info.features.to_json() == official.info.features.to_json()
  assert ours.data_dir == official.data_dir


@pytest.mark.parametrize("name", WRITERS)
def test_every_official_archive_has_a_published_checksum(name):
  builder = datasets.KNOWN[name].builder
  for url in builder.URLS.values():
    assert len(builder.url_infos[url].checksum) == 64
    assert builder.url_infos[url].filename == datasets.archives.file_name(url)


def test_a_download_that_is_not_the_published_file_is_refused(tmp_path, monkeypatch):
  (tmp_path / "served").mkdir()
  archives.write_svhn(tmp_path / "served")
  builder = datasets.KNOWN["svhn_cropped"].builder
  published = list(builder.url_infos.values())[-1]
  with archives.serve(tmp_path / "served") as url:
    point_to(monkeypatch, "svhn_cropped", url)
    monkeypatch.setattr(builder, "url_infos", dict.fromkeys(builder.URLS.values(), published))
    with pytest.raises(UserError, match="svhn_cropped is not the published file"):
      loading.load("svhn_cropped", data_dir=str(tmp_path / "tfds"))


def test_a_missing_set_without_network_tells_which_files_to_put_where(tmp_path, monkeypatch):
  with archives.serve(tmp_path) as url:
    pass  # Gone again: nobody listens at this port.
  point_to(monkeypatch, "svhn_cropped", url)
  with pytest.raises(UserError) as error:
    loading.load("svhn_cropped", data_dir=str(tmp_path / "tfds"))
  sentence = str(error.value)
  assert f"svhn_cropped is not in {tmp_path / 'tfds'} and cannot be downloaded" in sentence
  assert f"{url}train_32x32.mat, {url}test_32x32.mat" in sentence
  assert f"into {tmp_path / 'tfds' / 'downloads' / 'manual'}" in sentence
  assert "config.data.dir or TFDS_DATA_DIR" in sentence


def test_an_archive_gone_from_its_server_tells_the_same(tmp_path, monkeypatch):
  with archives.serve(tmp_path) as url:
    point_to(monkeypatch, "cifar10", url)
    with pytest.raises(UserError, match=r"cifar10 is not in .* cannot be downloaded \(.*404"):
      loading.load("cifar10", data_dir=str(tmp_path / "tfds"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_archive_is_named(name, tmp_path):
  folder = archives.manual_folder(tmp_path)
  WRITERS[name](folder)
  for path in filter(pathlib.Path.is_file, folder.rglob("*")):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(UserError, match=rf"{folder}.* is damaged .*; delete it and run again"):
    loading.load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["svhn", "mnist/small", "affnist/tiny", ""])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
  with pytest.raises(UserError) as error:
    loading.load(name)
  known = (
    "affnist, affnist/full, affnist/medium, affnist/small, cifar10, digits, fashion_mnist, mnist, "
    "svhn_cropped"
  )
  assert f"data.name={name!r} is not a known data set; choose from {known}." == str(error.value)


def test_an_interrupted_preparation_leaves_nothing_and_is_repeated(tmp_path, monkeypatch):
  def interrupted(self, digits, rows):
    yield from list(generate(self, digits, rows))[:100]
    raise KeyboardInterrupt

  generate = digits.Digits._generate_examples
  with monkeypatch.context() as patch:
    patch.setattr(digits.Digits, "_generate_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
      loading.load("digits", data_dir=str(tmp_path))
  assert not list(tmp_path.glob("digits/*"))
  assert len(loading.load("digits", data_dir=str(tmp_path)).train.labels_N) == 1297


def test_a_set_that_another_process_prepared_meanwhile_is_used(tmp_path, monkeypatch):
  prepare = digits.Digits.download_and_prepare

  def late(self, **kwargs):
    generate = self._generate_examples

    def overtaken(*args):
      if not (tmp_path / "digits" / "1.0.0").exists():
        prepare(digits.Digits(data_dir=tmp_path), **kwargs)
      return generate(*args)

    self._generate_examples = overtaken
    prepare(self, **kwargs)

  monkeypatch.setattr(digits.Digits, "download_and_prepare", late)
  assert len(loading.load("digits", data_dir=str(tmp_path)).train.labels_N) == 1297
  assert [path.name for path in tmp_path.glob("digits/*")] == ["1.0.0"]


def test_a_read_only_folder_is_left_alone_and_home_used_instead(tmp_path, home):
  folder = tmp_path / "read_only"
  folder.mkdir(mode=0o555)
  loading.load("digits", data_dir=str(folder))
  assert not list(folder.iterdir())
  assert (home / "tensorflow_datasets" / "digits").exists()
  loading.load("digits", data_dir=str(folder))


def test_no_folder_to_write_to_is_the_users_error(tmp_path, home):
  for path in (tmp_path / "read_only", home / "tensorflow_datasets"):
    path.mkdir(parents=True, mode=0o555)
  with pytest.raises(UserError, match=r"cannot be written to; set config\.data\.dir"):
    loading.load("digits", data_dir=str(tmp_path / "read_only"))


def test_a_damaged_prepared_set_is_named(tmp_path):
  loading.load("digits", data_dir=str(tmp_path))
  (path,) = tmp_path.rglob("digits-test.array_record*")
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(UserError, match=f"{path.parent} is damaged .* delete that folder"):
    loading.load("digits", data_dir=str(tmp_path))


def test_a_set_prepared_in_a_format_of_tensorflow_is_named(tmp_path):
  loading.load("digits", data_dir=str(tmp_path))
  (path,) = tmp_path.rglob("dataset_info.json")
  path.write_text(path.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match=f"{path.parent} holds another format than array_record"):
    loading.load("digits", data_dir=str(tmp_path))


# TensorFlow looks installed, as far as anyone asks, and cannot be imported.
WITHOUT_TENSORFLOW = """
import importlib.machinery, sys

class Finder:
  def find_spec(name, path=None, target=None):
    if name == "tensorflow":
      return importlib.machinery.ModuleSpec(name, Finder)
  def create_module(spec):
    raise AssertionError("tensorflow was imported")
  def exec_module(module):
    pass

sys.meta_path.insert(0, Finder)
from inversion_jax.data import loading
for name in ("digits", "svhn_cropped", "mnist", "fashion_mnist", "cifar10", "affnist/small"):
  loading.load(name, data_dir=sys.argv[1])
assert "tensorflow" not in sys.modules
print("done", end="")
"""


def test_tensorflow_is_never_imported_and_nothing_is_printed(tmp_path):
  for write in WRITERS.values():
    write(archives.manual_folder(tmp_path))
  result = subprocess.run(
    [sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path)],
    env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.stdout == "done", result.stderr
  lines = result.stderr.splitlines()
  assert len(lines) == 11, result.stderr
  assert all("SHA-256 is not the published one" in line for line in lines)


@pytest.fixture(scope="module")
def small_affnist(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("tfds")
  written = archives.write_mnist(archives.manual_folder(data_dir))
  return data_dir, written, loading.load("affnist/small", data_dir=str(data_dir))


def test_affnist_keeps_the_label_and_source_of_every_digit(small_affnist):
  _, written, loaded = small_affnist
  labels = {split: in_tfds_order(*written[split], split)[1] for split in ("train", "test")}
  sources = {"train": range(50), "validation": range(50, 60), "test": range(20)}
  for split, rows in sources.items():
    part = getattr(loaded, split)
    values, counts = np.unique(part.source_N, return_counts=True)
    assert values.tolist() == list(rows)
    assert set(counts) == {4}
    official = labels["test" if split == "test" else "train"]
    np.testing.assert_array_equal(part.labels_N, official[part.source_N])
    np.testing.assert_array_equal(part.index_N, np.arange(len(part.labels_N)))
  assert loaded.train.images_NHWC.shape == (200, 40, 40, 1)


def test_affnist_has_no_two_equal_images(small_affnist):
  *_, loaded = small_affnist
  images = {image.tobytes() for split in loaded[1:4] for image in split.images_NHWC}
  assert len(images) == 4 * 80


def test_affnist_comes_out_the_same_on_another_day(small_affnist, tmp_path):
  data_dir, _, loaded = small_affnist
  shutil.copytree(data_dir / "mnist", tmp_path / "mnist")
  again = loading.load("affnist/small", data_dir=str(tmp_path))
  for before, after in zip(loaded[1:4], again[1:4], strict=True):
    for array, other in zip(before, after, strict=True):
      np.testing.assert_array_equal(array, other)


def test_small_affnist_is_the_beginning_of_the_full_one(tmp_path, monkeypatch):
  archives.write_mnist(archives.manual_folder(tmp_path), num_train=12, num_test=6)
  configs = dict(affnist.Affnist.builder_configs)
  configs["small"] = dataclasses.replace(configs["small"], num_train=3, num_test=2)
  monkeypatch.setattr(affnist.Affnist, "builder_configs", configs)
  whole = loading.load("affnist", data_dir=str(tmp_path))
  part = loading.load("affnist/small", data_dir=str(tmp_path))
  assert [len(split.labels_N) for split in whole[1:4]] == [320, 64, 192]
  assert [len(split.labels_N) for split in part[1:4]] == [12, 8, 8]
  for many, few in zip(whole[1:4], part[1:4], strict=True):
    assert {i.tobytes() for i in few.images_NHWC} <= {i.tobytes() for i in many.images_NHWC}


@pytest.mark.parametrize("extent", [(20, 20), (20, 6), (1, 1)])
def test_no_ink_of_an_affnist_digit_falls_off_the_canvas(extent):
  digit_HW = np.zeros((28, 28), np.uint8)
  digit_HW[4 : 4 + extent[0], 4 : 4 + extent[1]] = 255
  margin, reached = 30, np.zeros((40, 40), bool)
  for version in range(300):
    affine = affnist.affine_map(digit_HW, "train", 0, version)
    canvas_HW = affnist.render(digit_HW, affine, margin=margin)
    inside_HW = canvas_HW[margin:-margin, margin:-margin]
    assert canvas_HW.sum(dtype=int) == inside_HW.sum(dtype=int) > 0
    np.testing.assert_array_equal(inside_HW, affnist.render(digit_HW, affine))
    reached |= inside_HW > 0
  # And every translation that this allows does occur: ink gets to all four edges.
  assert reached[0].any()
  assert reached[-1].any()
  assert reached[:, 0].any()
  assert reached[:, -1].any()


def test_affine_maps_stay_within_the_published_ranges_and_fill_them():
  digit_HW = np.pad(np.full((10, 10), 255, np.uint8), 9)
  maps = [affnist.affine_map(digit_HW, "test", source, 0).matrix for source in range(500)]
  degrees, shears, scales = zip(*map(parts_of, maps), strict=True)
  for values, low, high in ((degrees, -20, 20), (shears, -0.2, 0.2), (scales, 0.8, 1.2)):
    slack = 0.02 * (high - low)
    assert low <= np.min(values) < low + slack
    assert high - slack < np.max(values) <= high


def parts_of(matrix):
  """Degrees, shear and scales of rotation @ shear @ scales: its QR decomposition."""
  rotation, triangle = np.linalg.qr(matrix)
  signs = np.sign(np.diag(triangle))
  rotation, triangle = rotation * signs, triangle * signs[:, None]
  scales = np.diag(triangle)
  return np.rad2deg(np.arctan2(rotation[1, 0], rotation[0, 0])), triangle[0, 1] / scales[1], scales


def test_a_map_moves_ink_to_where_it_says():
  digit_HW = np.zeros((28, 28), np.uint8)
  digit_HW[6:16, 13:21] = 200
  affine = affnist.affine_map(digit_HW, "train", 5, 1)
  canvas_HW = affnist.render(digit_HW, affine).astype(float)
  centre = np.array([(canvas_HW.sum(axis=1 - axis) * np.arange(40)).sum() for axis in (0, 1)])
  expected = affine.matrix @ [10.5, 16.5] + affine.offset
  np.testing.assert_allclose(centre / canvas_HW.sum(), expected, atol=0.1)


def test_mnist_is_the_real_one(real_data_dir):
  loaded = loading.load("mnist", data_dir=real_data_dir, num_validation=100, num_test=100)
  assert [len(split.labels_N) for split in loaded[1:4]] == [55_000, 100, 100]
  assert loaded.validation.index_N[0] == 55_000
  assert loaded.train.images_NHWC.mean() / 255 == pytest.approx(0.1307, abs=5e-4)


def test_cifar10_is_the_real_one(real_data_dir):
  loaded = loading.load(
    "cifar10", data_dir=real_data_dir, num_train=2000, num_validation=9, num_test=100
  )
  means = loaded.train.images_NHWC.mean(axis=(0, 1, 2)) / 255
  np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=0.02)
  assert loaded.validation.index_N[0] == 45_000


def test_a_small_affnist_of_real_digits_is_ready_at_once(real_data_dir, home):
  loaded = loading.load("affnist/small", data_dir=real_data_dir)
  assert [len(split.labels_N) for split in loaded[1:4]] == [2000, 400, 400]
  assert loaded.validation.source_N.min() == 50_000
