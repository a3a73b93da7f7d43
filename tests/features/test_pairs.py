"""What a user may give as images and features, and what is refused in a sentence."""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from inversion_jax.features import patches
from inversion_jax.features.pairs import pairs, validate
from inversion_jax.fitting.training import Recipe
from inversion_jax.inversion import Network, compare, fit
from inversion_jax.machine.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 17, (60, 6, 6, 1)).astype(np.uint8)
H = RNG.normal(size=(60, 3)).astype(np.float32)


def centred(images):
  """As batch normalisation in training mode."""
  rows = images.reshape(len(images), -1).astype(np.float32)
  return rows - rows.mean(0)


class Wide:
  """A function whose features are kept in a file."""

  def __init__(self, folder):
    self.kept_at = lambda images: folder / "h.npy"

  def __call__(self, images):
    return np.broadcast_to(np.float32(1), (len(images), 10**13))


def with_value(value):
  h = H.copy()
  h[7, 1] = value
  return h


def file_of(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  return path


def saved(tmp_path, name, **arrays):
  path = tmp_path / name
  np.savez(path, **arrays)
  return path


# Each is a mistake and the words that must be in its sentence.
MISTAKES = {
  "floats as images": (lambda _: pairs(X / 16.0, H), "must be uint8 levels, not float64"),
  "no axis of colours": (lambda _: pairs(X[..., 0], H), "must have the shape (N, H, W, C)"),
  "colours first": (lambda _: pairs(X.transpose(0, 3, 1, 2), H), "C 1 to 4"),
  "images of five colours": (lambda _: pairs(X.repeat(5, -1), H), "C 1 to 4, not (60, 6, 6, 5)"),
  "images without rows": (lambda _: pairs(X[:, :0], H), "x has no images"),
  "a patch larger than the images": (
    lambda _: pairs(X, H, patch=7),
    "patch=7 must be a number of pixels, or (rows, columns), within images of 6 x 6",
  ),
  "half a patch": (lambda _: pairs(X, H, patch=2.5), "patch=2.5 must be a number of pixels"),
  "a patch of three sides": (lambda _: pairs(X, H, patch=(2, 2, 1)), "patch=(2, 2, 1) must be"),
  "no images": (lambda _: pairs(X[:0], H[:0]), "has no images"),
  "a list of lists": (lambda _: pairs([[1, 2], [3]], H), "cannot be made an array"),
  "levels above num_levels": (lambda _: pairs(X, H, num_levels=8), "levels below 8"),
  "num_levels of one": (lambda _: pairs(X, H, num_levels=1), "integer from 2 to 256"),
  "num_levels as a word": (lambda _: pairs(X, H, num_levels="17"), "integer from 2 to 256"),
  "fewer features": (lambda _: pairs(X, H[:-1]), "has 59 rows for 60 images"),
  "a number for each image": (lambda _: pairs(X, H[:, 0]), "not of shape (60,)"),
  "a sequence": (lambda _: pairs(X, H[:, None]), "not of shape (60, 1, 3)"),
  "no units": (lambda _: pairs(X, H[:, :0]), "not of shape (60, 0)"),
  "words": (lambda _: pairs(X, H.astype(str)), "must be numbers"),
  "complex numbers": (lambda _: pairs(X, H + 1j), "must be numbers, not complex64"),
  "NaN": (lambda _: pairs(X, with_value(np.nan)), "h is not finite in row 7"),
  "infinity": (lambda _: pairs(X, with_value(np.inf)), "h is not finite in row 7"),
  "beyond float32": (lambda _: pairs(X, H.astype(float) * 1e40), "beyond float32"),
  "constant": (lambda _: pairs(X, np.ones((60, 3))), "the same for every image"),
  "objects": (lambda _: pairs(X, H.astype(object)), "array of Python objects"),
  "a file that is not there": (lambda at: pairs(X, at / "h.npy"), "does not exist"),
  "a pickle": (
    lambda at: pairs(X, file_of(at, "h.npy", pickle.dumps(H.tolist()))),
    "pickles are not read",
  ),
  "an archive of objects": (
    lambda at: pairs(saved(at, "mine.npz", x=X, h=H.astype(object))),
    "holds Python objects",
  ),
  "an archive without x": (lambda at: pairs(saved(at, "mine.npz", images=X)), "it must hold x"),
  "an archive as h": (lambda at: pairs(X, saved(at, "h.npz", h=H)), "holds several arrays"),
  "an archive with more": (
    lambda at: pairs(saved(at, "mine.npz", x=X, h=H, z=H)),
    "holds x, h, z; it must hold x",
  ),
  "a text file": (lambda at: pairs(X, file_of(at, "h.npy", b"1,2,3")), "not a NumPy file"),
  "a function that gives one number": (lambda _: pairs(X, lambda x: 1.0), "a row for each"),
  "a function of changing shape": (
    lambda _: pairs(np.repeat(X, 5, 0), lambda x: np.ones((len(x), len(x)))),
    "of one shape",
  ),
  "a function that normalises by the batch": (
    lambda _: fit(pairs(X, centred, patch=3), quiet=True),
    "depends on the images that are computed with it; put the network into evaluation mode",
  ),
  "the same, only looked at": (
    lambda _: validate(centred, X),
    "centred of an image depends on the images that are computed with it",
  ),
  "a layer too wide for memory": (
    lambda _: pairs(X, lambda x: np.broadcast_to(np.float32(1), (len(x), 10**13))),
    "60 images, 10,000,000,000,000 numbers each, needs 2.4e+06 GB of memory",
  ),
  "a layer too wide for the disk": (
    lambda at: pairs(X, Wide(at)),
    "choose another folder or a narrower layer",
  ),
  "a test set that was trained on": (
    lambda _: validate(H, X, test=X[:20]),
    "20 of the 20 test pairs are among the training pairs",
  ),
  "features that nothing is known of": (lambda _: validate(None, X), "validate needs features"),
  "labels as floats": (lambda _: pairs(X, H, labels=H[:, 0]), "labels must be 60 integers"),
  "too few sources": (lambda _: pairs(X, H, sources=np.arange(3)), "sources must be 60 integers"),
  "a test set of all": (lambda _: pairs(X, H).split(test=60), "cannot be held out"),
  "half a test image": (lambda _: pairs(X, H).split(test=2.5), "test=2.5 must be"),
  "arrays to fit": (lambda _: fit(X), "fit takes pairs(x, h), not ndarray"),
  "too few pairs": (lambda _: fit(pairs(X[:15], H[:15])), "too few to hold a tenth"),
  "validation of another h": (
    lambda _: fit(pairs(X, H), validation=pairs(X, H[:, :2])),
    "make both from one set",
  ),
  "validation of brighter images": (
    lambda _: fit(pairs(X, H), validation=pairs(X + 1, H)),
    "give num_levels to pairs",
  ),
  "validation that was trained on": (
    lambda _: fit(pairs(X, H), validation=pairs(X[:20], H[:20])),
    "are among the training pairs",
  ),
  "a network as a word": (lambda _: fit(pairs(X, H), network="big"), "network takes a Network"),
  "a recipe as a number": (lambda _: fit(pairs(X, H), recipe=3), "recipe takes a Recipe"),
  "no steps": (lambda _: fit(pairs(X, H), num_steps=0), "num_steps=0 must be above zero"),
  "a seed as a word": (lambda _: fit(pairs(X, H), seed="a"), "seed='a' must be a number"),
  "half a seed": (lambda _: fit(pairs(X, H), seed=0.5), "seed=0.5 must be a whole number"),
  "a start from nothing": (
    lambda _: fit(pairs(X, H), start_from="runs/prior"),
    "start_from takes a fitted p(x)",
  ),
  "a number for a model": (
    lambda _: compare({"mine": 3}, pairs(X, H)),
    "'mine' is no fitted model but int",
  ),
  "models without names": (lambda _: compare([3], pairs(X, H)), "takes models by name"),
  "an unknown context": (lambda _: Network(context="both"), "context='both' is not one of"),
  "a dropout of one": (lambda _: Network(dropout_rate=1.0), "must be at least 0 and below 1"),
  "a decay of no kind": (lambda _: Recipe(decay="fast"), "decay='fast' is not one of"),
  "a folder that is a file": (
    lambda at: fit(pairs(X, H), folder=file_of(at, "run", b""), quiet=True),
    "cannot be",
  ),
}


def print_sentences():
  """Makes every mistake, and prints what is raised, by mistake, as JSON."""
  raised = {}
  for mistake, (make, _) in MISTAKES.items():
    with tempfile.TemporaryDirectory() as folder:
      try:
        make(pathlib.Path(folder))
      except Exception as error:
        raised[mistake] = [type(error).__name__, str(error)]
  print(json.dumps(raised))


@pytest.fixture(scope="module")
def sentences():
  """As a user meets them: without the type checker of the tests, which would speak first."""
  script = "import test_pairs; test_pairs.print_sentences()"
  here = pathlib.Path(__file__).parent
  path = os.pathsep.join([str(here), str(here.parents[1])])
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, sentences):
  _, words = MISTAKES[mistake]
  kind, sentence = sentences[mistake]
  assert kind == UserError.__name__, sentence
  assert words in sentence
  assert "\n" not in sentence
  assert sentence.endswith(".")


def test_features_come_from_arrays_files_and_functions_alike(tmp_path):
  np.save(tmp_path / "h.npy", H)
  np.savez(tmp_path / "mine.npz", x=X, h=H)
  rows = {image.tobytes(): h for image, h in zip(X, H, strict=True)}

  def compute(images):
    return [rows[image.tobytes()] for image in images]

  for made in (
    pairs(X, H),
    pairs(X, tmp_path / "h.npy"),
    pairs(X, str(tmp_path / "h.npy")),
    pairs(X, compute),
    pairs(tmp_path / "mine.npz"),
  ):
    np.testing.assert_array_equal(made.h, H)
    assert (made.num_levels, made.features.shape) == (17, (3,))
  assert pairs(X, compute).features.can_encode
  assert not pairs(X, H).features.can_encode
  np.testing.assert_array_equal(pairs(X, compute).features.encode_images(X[:4]), H[:4])
  with pytest.raises(UserError, match="stored: there is no h of images"):
    pairs(X, H).features.encode_images(X[:4])


def test_a_split_keeps_rows_together_and_each_in_one_part():
  sources = np.arange(60) // 4
  train, test = pairs(X, H, labels=np.arange(60), sources=sources).split(test=10, seed=1)
  assert not set(train.sources) & set(test.sources)
  assert sorted([*train.index, *test.index]) == list(range(60))
  np.testing.assert_array_equal(test.h, H[test.index])
  np.testing.assert_array_equal(test.labels, test.index)
  again, other = (pairs(X, H, sources=sources).split(test=10, seed=seed)[1] for seed in (1, 2))
  np.testing.assert_array_equal(again.index, test.index)
  assert not np.array_equal(other.index, test.index)
  _, last = pairs(X, H).split(test=5, seed=None)
  np.testing.assert_array_equal(last.index, np.arange(55, 60))


def test_halves_are_all_images_once_and_keep_sources_together():
  images = np.random.default_rng(0).integers(0, 16, (30, 4, 4, 1), dtype=np.uint8)
  made = pairs(images, num_levels=16, sources=np.arange(30) // 3)
  first, second = made.half(1), made.half(2)
  assert sorted([*first.index, *second.index]) == list(range(30))
  assert len(first) == len(second) == 15
  assert not set(first.sources) & set(second.sources)
  # Not the first half of a set that may be sorted.
  assert first.index.max() > 15


def test_constant_units_are_told_and_kept(caplog):
  h = H.copy()
  h[:, 2] = 4.0
  assert pairs(X, h).features.shape == (3,)
  assert "1 of 3 units are the same for every image" in caplog.text


def test_what_is_odd_is_a_sentence_with_its_remedy():
  repeated = np.concatenate([H, H[:, :2], np.ones((60, 1), np.float32)], axis=1)
  dead, twice = validate(repeated, X)
  assert dead.startswith("h: 1 of 6 units are the same for every image")
  assert twice.startswith("h: 2 of 6 units repeat another one in every image")
  noise = np.random.default_rng(1)
  (again,) = validate(lambda x: noise.normal(size=(len(x), 3)), X)
  assert "differs when it is computed again" in again
  assert "dropout" in again
  (levels,) = validate(H, 255 * (X > 8).astype(np.uint8))
  assert levels.startswith("x takes only 2 of 256 levels; number them from 0")
  (shared,) = validate(H[:50], X[:50], test=np.concatenate([X[50:], X[50:], X[:1]]))
  assert shared.startswith("1 of the 21 test pairs are among the training pairs")
  for remark in (dead, twice, again, levels, shared):
    assert remark.endswith(".")
    assert "\n" not in remark


def test_nothing_is_said_of_ordinary_features():
  def pixels(images):
    # Rounds otherwise for other batches, as products on an accelerator do.
    return images.reshape(len(images), -1) * (1.0 + 1e-4 * len(images))

  assert validate(H, X, test=16 - X) == []
  assert validate(lambda x: x / 16.0, X) == []
  assert validate(pixels, X) == []
  # Two images that are alike, and one alone.
  for few in (np.repeat(X[:1], 2, 0), X[:1]):
    assert validate(lambda x: [[1.0 + i, len(x) * 1e-6 - i] for i in range(len(x))], few) == []
  # Maps that share values here and there, but no channel.
  assert validate(np.stack([X[..., 0], X[..., 0] // 2], axis=-1), X) == []


def test_patches_have_the_cells_of_a_map_that_lie_over_them():
  images = RNG.integers(0, 256, (20, 9, 13, 2)).astype(np.uint8)
  labels = np.arange(20)
  # h is the image itself: a patch of it is the h of that patch.
  whole = pairs(images, images.astype(np.float32), labels=labels)
  made = pairs(images, images.astype(np.float32), labels=labels, patch=(4, 3))
  assert (len(made), made.image_shape, made.features.shape) == (20 * 2 * 4, (4, 3, 2), (4, 3, 2))
  np.testing.assert_array_equal(made.h, made.images)
  np.testing.assert_array_equal(made.images[1 * 8 + 4 + 2], images[1, 4:8, 6:9])
  np.testing.assert_array_equal(made.labels, labels.repeat(8))
  np.testing.assert_array_equal(made.sources, whole.sources.repeat(8))
  train, test = made.split(test=16)
  assert not set(train.sources) & set(test.sources)
  np.testing.assert_array_equal(test.h, test.images)


@pytest.mark.parametrize(("size", "patch"), [(6, 2), (32, 10), (32, 16), (17, 4), (9, 9)])
def test_cells_of_any_grid_cover_their_patch_and_are_equally_many(size, patch):
  tiles = patches.tiling((size, 50), (patch, 7))
  for num_cells in range(1, 2 * size):
    firsts, num = tiles.cells(0, num_cells)
    assert len(firsts) == size // patch
    for place, first in enumerate(firsts):
      assert 0 <= first <= num_cells - num
      assert first * size <= place * patch * num_cells
      assert (first + num) * size >= (place + 1) * patch * num_cells


def test_patches_share_the_vector_of_their_image():
  images = np.zeros((2, 32, 48, 1), np.uint8)
  vectors = pairs(images, np.arange(10, dtype=np.float32).reshape(2, 5), patch=16)
  np.testing.assert_array_equal(vectors.h[5:7], [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
