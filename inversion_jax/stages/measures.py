"""What is measured of images that stand for the h of test images, whoever made them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from inversion_jax import information
from inversion_jax.information import diversity, neighbours
from inversion_jax.runs import Run
from inversion_jax.stages import classifier

NUM_VARIANCE_IMAGES = 1000


def variances(run: Run, encode_fn: Callable) -> Any:
  """Of activations over the first training images, the mean over units: a number for each array."""
  activations = jax.jit(encode_fn)(run.images("train").images[:NUM_VARIANCE_IMAGES])
  return jax.tree.map(lambda h: float(np.asarray(h, np.float64).var(0).mean()), activations)


def of_samples(
  run: Run,
  samples_NSHWC: UInt8[np.ndarray, "N S H W C"],
  encode: Callable | None,
  readers: Mapping[str, Run],
) -> dict[str, Float[np.ndarray, " N"]]:
  """Means over the samples of each of the first test images; pixels as fractions of their range.

  Args:
    run: whose test images they stand for.
    samples_NSHWC: S images for each.
    encode: images to h (N, U); None where images have none but the stored one.
    readers: by the name of the measure, runs whose classifiers read the images: the fraction that
      is read as the label.
  """
  num_images, num_samples = samples_NSHWC.shape[:2]
  test = run.images("test").rows(np.arange(num_images))
  scale = test.num_levels - 1
  # One image for each h has no diversity.
  pairwise_N = diversity.pairwise_l1(samples_NSHWC) if num_samples > 1 else np.zeros(num_images)
  to_original_N = diversity.l1_to_originals(samples_NSHWC, test.images)
  measured = {
    "diversity": pairwise_N / scale,
    "l1_to_original": to_original_N / scale,
    "diversity_minus_l1_to_original": (pairwise_N - to_original_N) / scale,
    "squared_error": _squared_error(samples_NSHWC, test.images) / scale**2,
  }
  rows_M = np.repeat(np.arange(num_images), num_samples)
  images_MHWC = samples_NSHWC.reshape(-1, *samples_NSHWC.shape[2:])

  def by_image(values_M):
    return np.asarray(values_M, np.float64).reshape(num_images, num_samples).mean(1)

  if encode:
    h_MU = encode(test.images)[rows_M]
    measured["feature_l1_to_original"] = by_image(neighbours.l1_distance(encode(images_MHWC), h_MU))
  labelled = dataclasses.replace(test.rows(rows_M), images=images_MHWC)
  for name, reader in readers.items():
    is_correct_M, _ = classifier.scorer(reader)(reader.classifier_params(), labelled)
    measured[name] = by_image(is_correct_M)
  return measured


def _squared_error(samples_NSHWC, images_NHWC):
  gap_NSHWC = samples_NSHWC.astype(np.float64) - images_NHWC[:, None]
  return np.square(gap_NSHWC).mean((1, 2, 3, 4))


def means(run: Run, measured: Mapping[str, Float[np.ndarray, " N"]]) -> dict[str, float]:
  """Each of the measures and its standard error over test images, for a row of a table."""
  row = {}
  for name, values_N in measured.items():
    sources_N = run.images("test").sources[: len(values_N)]
    row |= information.mean_with_error(values_N, sources_N).fields(name)
  return row
