import numpy as np
import pytest
import sklearn.datasets

from inversion_jax.data import batches, loading
from inversion_jax.data.images import check_images
from inversion_jax.data.reduced import reduced
from inversion_jax.machine import progress
from inversion_jax.machine.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp("tfds"))


def epoch_rows(epoch, *, seed=0, batch_size=4, num_images=22):
  steps = num_images // batch_size
  epoch_batches = [
    batches.train_rows(step, seed=seed, batch_size=batch_size, num_images=num_images)
    for step in range(epoch * steps, (epoch + 1) * steps)
  ]
  return np.concatenate(epoch_batches)


def test_every_image_is_visited_once_per_epoch():
  for epoch in range(3):
    np.testing.assert_array_equal(np.sort(epoch_rows(epoch, num_images=20)), np.arange(20))


def test_no_image_is_visited_twice_in_an_epoch_that_batches_do_not_divide():
  for epoch in range(3):
    assert len(np.unique(epoch_rows(epoch))) == 20


def test_epochs_and_seeds_differ_in_their_order():
  assert not np.array_equal(epoch_rows(0), epoch_rows(1))
  assert not np.array_equal(epoch_rows(0), epoch_rows(0, seed=1))


def test_a_batch_depends_on_seed_and_step_alone():
  in_order = [batches.train_rows(s, seed=3, batch_size=4, num_images=22) for s in range(12)]
  batches._order.cache_clear()
  for step in reversed(range(12)):
    rows = batches.train_rows(step, seed=3, batch_size=4, num_images=22)
    np.testing.assert_array_equal(rows, in_order[step])


def test_rows_handed_out_cannot_disturb_later_batches():
  with pytest.raises(ValueError, match="read-only"):
    batches.train_rows(0, seed=0, batch_size=4, num_images=22)[:] = 0


def test_fewer_images_than_a_batch_is_the_users_error():
  with pytest.raises(UserError, match="batch_size=23 exceeds the 22 training images"):
    batches.train_rows(0, seed=0, batch_size=23, num_images=22)


@pytest.mark.parametrize(("num_rows", "num_batches"), [(1, 1), (8, 2), (9, 3), (11, 3), (0, 0)])
def test_evaluation_counts_every_row_once_in_order(num_rows, num_batches):
  pairs = list(batches.eval_batches(num_rows, 4))
  assert len(pairs) == num_batches
  assert all(len(rows_B) == len(valid_B) == 4 for rows_B, valid_B in pairs)
  counted = [row for rows_B, valid_B in pairs for row in rows_B[valid_B]]
  assert counted == list(range(num_rows))


def test_the_last_batch_is_filled_up_with_the_last_row():
  *_, (rows_B, valid_B) = batches.eval_batches(9, 4)
  assert rows_B.tolist() == [8, 8, 8, 8]
  assert valid_B.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
  ("num_train", "num_test", "ours"),
  [
    (60_000, 10_000, (55_000, 5_000, 10_000)),  # mnist
    (50_000, 1_000, (45_000, 5_000, 1_000)),  # cifar10, of whose test set a part is at hand
    (73_257, 26_032, (68_257, 5_000, 26_032)),  # svhn_cropped
    (60, 20, (54, 6, 20)),
  ],
)
def test_the_last_training_images_are_held_out_for_validation(num_train, num_test, ours):
  rows = loading.split_rows({"train": num_train, "test": num_test, "extra": 7})
  assert rows == {
    "train": ("train", range(ours[0])),
    "validation": ("train", range(ours[0], ours[0] + ours[1])),
    "test": ("test", range(ours[2])),
  }


def test_digits_are_those_of_scikit_learn_each_once(data_dir):

  expected = sklearn.datasets.load_digits()
  digits = loading.load("digits", data_dir=data_dir)
  splits = digits.train, digits.validation, digits.test
  assert [len(split.labels_N) for split in splits] == [1297, 250, 250]
  assert (digits.num_levels, digits.num_classes) == (17, 10)
  images_NHWC, labels_N, index_N, source_N = map(np.concatenate, zip(*splits, strict=True))
  np.testing.assert_array_equal(images_NHWC[..., 0], expected.images[index_N])
  np.testing.assert_array_equal(labels_N, expected.target[index_N])
  np.testing.assert_array_equal(np.sort(index_N), np.arange(1797))
  np.testing.assert_array_equal(source_N, index_N)
  assert images_NHWC.dtype == np.uint8
  assert labels_N.dtype == index_N.dtype == source_N.dtype == np.int64


def test_a_limit_keeps_the_first_images_and_decodes_no_others(data_dir, monkeypatch):
  whole = loading.load("digits", data_dir=data_dir)
  decoded = []
  decode = loading.archives.decode_png
  monkeypatch.setattr(
    loading.archives, "decode_png", lambda *args: decoded.append(1) or decode(*args)
  )
  part = loading.load("digits", data_dir=data_dir, num_train=30, num_validation=8, num_test=7)
  assert len(decoded) == 30 + 8 + 7
  for split, num in (("train", 30), ("validation", 8), ("test", 7)):
    for few, many in zip(getattr(part, split), getattr(whole, split), strict=True):
      np.testing.assert_array_equal(few, many[:num])


def test_reading_that_takes_long_is_reported_in_plain_lines(data_dir, monkeypatch, caplog):
  monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
  monkeypatch.setattr(loading, "CHUNK", 100)
  monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
  with caplog.at_level("INFO", logger="inversion_jax"):
    loading.load("digits", data_dir=data_dir)
  assert "reading digits train: 1200 of 1297" in caplog.text


def test_the_last_line_of_progress_is_written_once(monkeypatch, caplog):
  monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
  monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
  with (
    caplog.at_level("INFO", logger="inversion_jax"),
    progress.track("counting", 2) as shown,
  ):
    shown.update(1)
    shown.update(1)
  assert caplog.text.count("counting: 2 of 2") == 1


IMAGES_NHWC = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
  ("images", "sentence"),
  [
    (IMAGES_NHWC.astype(np.float32), "mine must be uint8 levels, not float32"),
    (IMAGES_NHWC.tolist(), "mine must be uint8 levels, not list"),
    (IMAGES_NHWC[0], r"mine must have the shape \(N, H, W, C\), not \(4, 4, 3\)"),
    (np.zeros((2, 4, 4, 5), np.uint8), r"mine must have .* C 1 to 4, not \(2, 4, 4, 5\)"),
    (IMAGES_NHWC + np.uint8(17), "mine must have levels below 17, but one is 17"),
  ],
)
def test_unfit_images_are_refused_in_one_sentence(images, sentence):
  with pytest.raises(UserError, match=sentence):
    check_images(images, 17, name="mine")


def test_fit_images_are_accepted():
  check_images(IMAGES_NHWC + np.uint8(16), 17)
  check_images(IMAGES_NHWC[..., :1] + np.uint8(255))
  check_images(IMAGES_NHWC[:0])


def test_a_reduced_set_is_the_means_of_blocks_in_its_own_levels():
  rng = np.random.default_rng(0)
  images_NHWC = rng.integers(0, 256, (3, 8, 4, 3), dtype=np.uint8)
  halved = reduced(images_NHWC, 2, 256, 256)
  assert halved.shape == (3, 4, 2, 3)
  assert halved.dtype == np.uint8
  assert halved[1, 2, 1, 0] == np.rint(images_NHWC[1, 4:6, 2:4, 0].mean())
  white = np.full((1, 4, 4, 1), 255, np.uint8)
  assert reduced(white, 4, 256, 17).item() == 16
  assert reduced(white // 2, 4, 256, 17).item() == 8


def test_reduced_sets_are_loaded_by_name(real_data_dir):
  limits = {"num_train": 5, "num_validation": 3, "num_test": 2}
  whole = loading.load("mnist", data_dir=real_data_dir, **limits)
  small = loading.load("mnist/7", data_dir=real_data_dir, **limits)
  assert small.num_levels == 17
  assert small.name == "mnist/7"
  np.testing.assert_array_equal(small.test.images_NHWC, reduced(whole.test.images_NHWC, 4, 256, 17))
  np.testing.assert_array_equal(small.train.labels_N, whole.train.labels_N)
  assert set(loading.REDUCTIONS) < set(loading.names())
