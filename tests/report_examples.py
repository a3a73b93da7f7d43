"""Run folders as the stages would leave them, made up, and readers of pages and pictures."""

import html
import json
import re

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from inversion_jax.machine import storage

DIGITS = load_digits()
NUM_TEST = 250
TEST_ROWS = np.arange(1547, 1797)
NATS = {"conv1": 26.4, "conv2": 43.1, "fc3": 68.3, "logits": 74.8, "none": 79.1}


def draw_nats(layer, mean=None):
  """Codelengths of exactly this mean; most of what makes an image hard is shared by all layers."""
  mean = NATS[layer] if mean is None else mean
  shared_N = np.random.default_rng(0).gamma(9.0, 2.0, NUM_TEST)
  own_N = np.random.default_rng(list(NATS).index(layer)).normal(0.0, 1.5, NUM_TEST)
  nats_N = shared_N + own_N
  return nats_N + mean - nats_N.mean()


def draw_samples(layer, num_images=6, num_samples=8):
  """Digits with as much of them replaced as the layer forgets."""
  rng = np.random.default_rng(len(layer))
  original_NHWC = DIGITS.images[TEST_ROWS[:num_images], :, :, None].astype(np.uint8)
  others_NSHWC = DIGITS.images[rng.integers(0, 1500, (num_images, num_samples)), ..., None]
  forgotten = {"conv1": 0.1, "conv2": 0.3, "fc3": 0.6, "logits": 0.75, "none": 1.0}[layer]
  mixed = (1 - forgotten) * original_NHWC[:, None] + forgotten * others_NSHWC
  return {
    "original": original_NHWC,
    "sample": np.rint(mixed).astype(np.uint8),
    "index": TEST_ROWS[:num_images],
    "label": DIGITS.target[TEST_ROWS[:num_images]],
  }


def training_lines(stage, num_steps, end):
  lines = []
  for step in range(20, num_steps + 1, 20):
    nats = end + 90 * np.exp(-step / 60) + 6 * np.exp(-step / 300)
    noise = np.random.default_rng((num_steps, step)).normal(0, 1.2)
    lines.append(
      {
        "stage": stage,
        "step": step,
        "train_nats_per_image": nats - 1 + noise,
        "grad_norm": 3 * np.exp(-step / 400) + 0.2 + abs(noise) / 20,
        "learning_rate": 1.5e-3 * (1 + np.cos(np.pi * step / num_steps)),
        "images_per_second": 640.0,
      }
    )
    if stage == "classifier":
      lines[-1]["train_accuracy"] = 1 - 0.9 * np.exp(-step / 80)
    if step % 100 == 0:
      lines.append(
        {
          "stage": stage,
          "step": step,
          "validation_nats_per_image": nats + 0.5,
          "validation_live_nats_per_image": nats + 1.5 + noise / 3,
        }
      )
      if stage == "classifier":
        lines[-1]["validation_accuracy"] = 1 - 0.95 * np.exp(-step / 80)
  return lines


def fake_config(layer):
  return {
    "seed": 0,
    "dtype": "float32",
    "layers": ["conv1", "conv2", "fc3", "logits"],
    "data": {"name": "digits", "num_validation": 250, "resize": "none"},
    "classifier": {"num_steps": 400, "batch_size": 64, "network": {"dropout_rate": 0.25}},
    "representation": {"layer": "" if layer == "none" else layer, "step": None},
    "inverter": {"num_steps": 500, "network": {"num_filters": 32, "likelihood": "categorical"}},
    "sample": {"num_images": 6, "num_samples": 8},
    "evaluate": {"batch_size": 125},
  }


def fake_summary(layer, nats_N):
  error = nats_N.std(ddof=1) / np.sqrt(NUM_TEST)
  return {
    "dataset": "digits",
    "layer": layer,
    "num_levels": 17,
    "image_shape": [8, 8, 1],
    "num_test_images": NUM_TEST,
    "nce_nats": -nats_N.mean(),
    "nce_nats_standard_error": error,
    "nce_live_nats": -nats_N.mean() - 1.25,
    "nce_live_nats_standard_error": error,
    "bits_per_dim": nats_N.mean() / (64 * np.log(2)),
    "classifier_test_accuracy": None if layer == "none" else 0.984,
    "classifier_step": None if layer == "none" else 400,
    "inverter_num_params": 412_345,
    "inverter_steps": 400,
    "inverter_train_steps": 500,
    "train_images_per_second": 641.2,
    "jax_version": "0.10.2",
    "devices": "1 x cpu",
    "seed": 0,
    "seconds": {"classifier": 4.25, "inverter": 40.0, "evaluate": 2.0},
    "representation_shape": [4, 4, 32],
  }


def fake_run(
  folder, layer="conv2", nats_N=None, *, samples=True, stages=("classifier", "inverter")
):
  """Writes the files of a run as the other stages would."""
  nats_N = draw_nats(layer) if nats_N is None else nats_N
  storage.write_json(folder / storage.CONFIG, fake_config(layer))
  storage.write_json(folder / storage.SUMMARY, fake_summary(layer, nats_N))
  rows = {"index": TEST_ROWS, "label": DIGITS.target[TEST_ROWS], "source": TEST_ROWS}
  storage.write_npz(folder / storage.NATS, rows | {"nats": nats_N, "live_nats": nats_N + 1.25})
  if samples:
    storage.write_npz(folder / storage.SAMPLES, draw_samples(layer))
  lines = [
    line
    for stage in stages
    for line in training_lines(stage, 500, 0.1 if stage == "classifier" else nats_N.mean())
  ]
  storage.write_text(folder / storage.METRICS, "".join(json.dumps(line) + "\n" for line in lines))
  return folder


def fake_neighbours(folder, layer="conv2", l1=(0.05, 0.02, 0.018), inverter_step=400):
  """Writes what the neighbours stage would; `l1` are the means of 1NN, IM-S, IM-NN."""
  rows = {
    name: {"mean_l1": mean, "standard_error": 0.001, "low": mean - 0.002, "high": mean + 0.002}
    for name, mean in zip(("1NN", "IM-S", "IM-NN"), l1, strict=True)
  }
  differences = [
    {
      "first": first,
      "second": second,
      "mean_l1": rows[first]["mean_l1"] - rows[second]["mean_l1"],
      "standard_error": 0.0005,
    }
    for first, second in (("1NN", "IM-S"), ("1NN", "IM-NN"), ("IM-S", "IM-NN"))
  ]
  table = {
    **{"dataset": "digits", "layer": layer, "num_images": 250, "num_samples": 8},
    **{"mean_absolute_h": 0.31, "inverter_step": inverter_step},
    **{"rows": rows, "differences": differences},
  }
  storage.write_json(folder / storage.TABLE_1, table)
  samples = draw_samples(layer)
  nearest = DIGITS.images[:36, :, :, None].reshape(6, 6, 8, 8, 1).astype(np.uint8)
  # The last sample is the closest, the one before it the second.
  sample_l1 = np.tile(np.arange(8.0, 0.0, -1.0), (6, 1))
  storage.write_npz(
    folder / storage.NEIGHBOURS, samples | {"nearest": nearest, "sample_l1": sample_l1}
  )
  return folder


def fake_check(name, passes, **numbers):
  row = {"check": name, "question": f"what {name} must do", "passes": passes}
  row |= {"difference_nats": -75.5, "standard_error": 2.5, "low": -80.4, "high": -70.6}
  return row | {"least": None, "most": 0.0} | numbers


def read_page(folder):
  return (folder / storage.REPORT).read_text(encoding="utf-8")


def words(html_text):
  """The text of a page as a reader sees it."""
  return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", html_text)))


def read_picture(path):
  """A PNG as one integer a pixel."""
  return packed(np.asarray(Image.open(path).convert("RGB")))


def packed(rgb_HWC):
  return rgb_HWC.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def enlarged(levels_HWC, scale, num_levels=17):
  """A picture as it should stand in a figure: level 0 black, the highest white, in squares."""
  bytes_HWC = np.rint(levels_HWC * 255.0 / (num_levels - 1)).astype(np.uint8)
  rgb_HWC = np.broadcast_to(bytes_HWC, (*bytes_HWC.shape[:2], 3))
  return packed(rgb_HWC).repeat(scale, 0).repeat(scale, 1)


def find(block_HW, picture_HW):
  """All places (top, left) where the block stands in the picture, exactly."""
  (height, width), (high, wide) = block_HW.shape, picture_HW.shape
  if height > high or width > wide:
    return []
  rng = np.random.default_rng(0)
  probes = [(0, 0), *zip(rng.integers(height, size=60), rng.integers(width, size=60), strict=True)]
  probes.sort(key=lambda probe: block_HW[probe] == 0)  # black is everywhere: look there last
  row, column = probes[0]
  window_HW = picture_HW[row : high - height + row + 1, column : wide - width + column + 1]
  places = np.argwhere(window_HW == block_HW[row, column])
  for row, column in probes[1:]:
    there = picture_HW[places[:, 0] + row, places[:, 1] + column]
    places = places[there == block_HW[row, column]]
  return [
    (top, left)
    for top, left in places.tolist()
    if np.array_equal(picture_HW[top : top + height, left : left + width], block_HW)
  ]


def scale_of(levels_HWC, picture_HW, num_levels=17):
  """By how much the picture enlarges this image."""
  scales = range(40, 0, -1)
  return next(s for s in scales if find(enlarged(levels_HWC, s, num_levels), picture_HW))
