"""The deconvnet against one written by hand, and what guided backpropagation leaves of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inversion_jax.features import deconvnets
from inversion_jax.features.classifiers import Classifier
from inversion_jax.machine.errors import UserError

SIZE, FIELDS = 7, {"num_filters": (3, 4), "kernel_size": 3, "num_units": 5, "padding": "SAME"}
LEVELS = jnp.float32(np.random.default_rng(0).integers(0, 17, (2, SIZE, SIZE, 1)))


@functools.cache
def network(backward="deconvnet", kind="conv"):
  """(the classifier, its parameters): no bias is zero, as it should not matter."""
  classifier = Classifier(kind, 3, 17, pool_sizes=(1, 2), num_dense_units=6, **FIELDS)
  shapes = jax.eval_shape(classifier.init, jax.random.key(0), LEVELS)["params"]
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
  return classifier.clone(backward=backward), params


def layer_fn(layer, backward="deconvnet", kind="conv"):
  classifier, params = network(backward, kind)
  return lambda levels: classifier.apply({"params": params}, levels)[layer]


def padded(x_HWC):
  return np.pad(x_HWC, ((1, 1), (1, 1), (0, 0)))


def convolved(x_HWC, part):
  """(pixels, rows, columns) by 3x3 with zeros around: each place the sum of its window."""
  x = padded(x_HWC)
  out = np.zeros((*x_HWC.shape[:2], part["kernel"].shape[-1]))
  for row in range(x_HWC.shape[0]):
    for column in range(x_HWC.shape[1]):
      window = x[row : row + 3, column : column + 3, :, None]
      out[row, column] = (window * part["kernel"]).sum((0, 1, 2)) + part["bias"]
  return out


def transposed(y_HWF, part):
  """Each place gives its window back, weighted by the kernel."""
  x = padded(np.zeros((*y_HWF.shape[:2], part["kernel"].shape[2])))
  for row in range(y_HWF.shape[0]):
    for column in range(y_HWF.shape[1]):
      x[row : row + 3, column : column + 3] += part["kernel"] @ y_HWF[row, column]
  return x[1:-1, 1:-1]


def pooled(x_HWF):
  """(maxima of 2x2 blocks, and the places that had them, the first of equals)."""
  rows, columns, features = x_HWF.shape[0] // 2, x_HWF.shape[1] // 2, x_HWF.shape[2]
  maxima, switches = np.zeros((rows, columns, features)), np.zeros(x_HWF.shape, bool)
  for row, column, feature in np.ndindex(rows, columns, features):
    block = x_HWF[2 * row : 2 * row + 2, 2 * column : 2 * column + 2, feature]
    down, right = np.unravel_index(block.argmax(), (2, 2))
    maxima[row, column, feature] = block.max()
    switches[2 * row + down, 2 * column + right, feature] = True
  return maxima, switches


def by_hand(levels_HWC, mask_of):
  """Zeiler and Fergus's deconvnet of conv2, in float64."""
  _, params = network()
  first = np.maximum(convolved(levels_HWC / 16, params["conv1"]), 0)
  maxima, switches = pooled(np.maximum(convolved(first, params["conv2"]), 0))
  kept = maxima * mask_of(maxima)
  unpooled = np.zeros((*first.shape[:2], 4))
  rows, columns = 2 * kept.shape[0], 2 * kept.shape[1]
  unpooled[:rows, :columns] = kept.repeat(2, axis=0).repeat(2, axis=1)
  unpooled *= switches
  back = transposed(np.maximum(unpooled, 0), params["conv2"])
  return transposed(np.maximum(back, 0), params["conv1"]) / 16


def mask(h_HWF, place):
  chosen = np.zeros_like(h_HWF)
  chosen[place] = 1
  return chosen


@pytest.mark.parametrize(
  ("choose", "place"),
  [
    (deconvnets.one_unit(1, 2, 3), (1, 2, 3)),
    (deconvnets.one_map(3), (..., 3)),
    (deconvnets.whole, ...),
  ],
  ids=["unit", "map", "whole"],
)
def test_the_deconvnet_is_the_one_written_by_hand(choose, place):
  found = deconvnets.projected(layer_fn("conv2"), LEVELS, choose)
  expected = np.stack([by_hand(levels, lambda h: mask(h, place)) for levels in np.asarray(LEVELS)])
  assert np.abs(expected).max() > 1e-3
  np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_every_rectifier_of_a_network_is_the_deconvnet_s():
  _, params = network(kind="dense")
  logits = np.asarray(layer_fn("logits", kind="dense")(LEVELS), np.float64)
  passed = logits @ params["logits"]["kernel"].T
  for name in ("fc3", "dense2", "dense1"):
    passed = np.maximum(passed, 0) @ params[name]["kernel"].T
  found = deconvnets.projected(layer_fn("logits", kind="dense"), LEVELS)
  np.testing.assert_allclose(found, passed.reshape(LEVELS.shape) / 16, rtol=1e-3, atol=1e-6)
  assert np.abs(passed).max() > 1e-2


@pytest.mark.parametrize("kind", ["conv", "pool", "dense"])
def test_every_classifier_has_the_same_activations_and_three_derivatives(kind):
  pictures = {}
  for backward in deconvnets.BACKWARDS:
    fn = layer_fn("logits", backward, kind)
    np.testing.assert_array_equal(fn(LEVELS), layer_fn("logits", "gradient", kind)(LEVELS))
    pictures[backward] = np.asarray(deconvnets.projected(fn, LEVELS))
  logits, pull_back = jax.vjp(layer_fn("logits", "gradient", kind), LEVELS)
  np.testing.assert_array_equal(pictures["gradient"], pull_back(logits)[0])
  for other in ("deconvnet", "guided"):
    assert not np.allclose(pictures["gradient"], pictures[other])
  assert not np.allclose(pictures["deconvnet"], pictures["guided"])


@pytest.mark.parametrize(
  ("backward", "expected"), [("gradient", [0, -2, 3]), ("deconvnet", [1, 0, 3])]
)
def test_what_a_rectifier_passes_back(backward, expected):
  x, passed = np.float32([-1, 1, 1]), np.float32([1, -2, 3])
  _, pull_back = jax.vjp(deconvnets.rectifier(backward), x)
  np.testing.assert_array_equal(pull_back(passed)[0], np.float32(expected))
  _, pull_back = jax.vjp(deconvnets.rectifier("guided"), x)
  np.testing.assert_array_equal(pull_back(passed)[0], np.float32([0, 0, 3]))


def test_another_derivative_is_a_sentence():
  with pytest.raises(UserError, match="backward='forward' is not one of 'gradient', 'deconvnet'"):
    network()[0].clone(backward="forward").init(jax.random.key(0), LEVELS)
