"""How far the samples for one h lie from each other, and from the image that h was taken of."""

import itertools

import numpy as np
from jaxtyping import Float, UInt8


def pairwise_l1(samples_NSHWC: UInt8[np.ndarray, "N S H W C"]) -> Float[np.ndarray, " N"]:
  """The mean over all pairs of an image's samples of |a - b|, in levels, the mean over sub-pixels.

  Needs two samples of each image, S > 1.
  """
  pairs = list(itertools.combinations(range(samples_NSHWC.shape[1]), 2))
  samples_SNHWC = samples_NSHWC.swapaxes(0, 1)
  return sum(_l1(samples_SNHWC[a], samples_SNHWC[b]) for a, b in pairs) / len(pairs)


def l1_to_originals(
  samples_NSHWC: UInt8[np.ndarray, "N S H W C"], images_NHWC: UInt8[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
  """The mean over an image's samples of |sample - image|, in levels, the mean over sub-pixels.

  An image is itself one draw from the true p(x | h). So if the samples are draws from it too, they
  lie on average as far from the image as from each other: a `pairwise_l1` below this says that the
  samples vary too little.
  """
  samples_SNHWC = samples_NSHWC.swapaxes(0, 1)
  return np.mean([_l1(samples_NHWC, images_NHWC) for samples_NHWC in samples_SNHWC], axis=0)


def _l1(a_NHWC, b_NHWC):
  return np.abs(a_NHWC.astype(np.float64) - b_NHWC).mean((1, 2, 3))
