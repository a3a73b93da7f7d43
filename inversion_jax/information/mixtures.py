"""Several densities of the same images as one, exactly: their mixture.

The mean of M densities with fixed weights 1 / M is a density. Written pixel by pixel its weights
move: before each pixel, a member weighs as much as the pixels before it speak for it (Bayes). Both
ways give an image the same nats, by the chain rule. An image costs at most log(M) nats more than
under the member that is best for it, and on average over images no more than the mean over members
(Jensen).

Members that do not differ by much can be told apart by nobody, and a mixture of whole images then
gains little. With a `share` the weights forget: after each pixel, that part of them is spread
evenly over all members again (fixed share, Herbster & Warmuth 1998, Machine Learning 32). It is the
density of a reader that changes to a random member after a pixel with that probability; at 1, each
pixel has the plain mean of the members' probabilities. Any share that was chosen without a look at
the test images gives an exact density.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp


def mixture_nats(nats_MN: Float[np.ndarray, "M N"]) -> Float[np.ndarray, " N"]:
  """-log of the mean over M densities of the probability of each image, from its nats."""
  return np.log(len(nats_MN)) - logsumexp(-nats_MN.astype(np.float64), axis=0)


def weights_along(
  nats_MNP: Float[np.ndarray, "M N P"], share: float = 0.0
) -> Float[np.ndarray, "M N P"]:
  """The weight of each density before each pixel.

  Args:
    nats_MNP: of each pixel given those before it, pixels in raster order.
    share: of the weights that is spread evenly after each pixel, from 0 to 1.

  Returns:
    Weights; over the first axis they add up to 1.
  """
  num_members, num_images, num_pixels = nats_MNP.shape
  log_weights_MNP = np.empty(nats_MNP.shape)
  log_weights_MN = np.full((num_members, num_images), -np.log(num_members))
  for pixel in range(num_pixels):
    log_weights_MNP[..., pixel] = log_weights_MN
    seen_MN = log_weights_MN - nats_MNP[..., pixel]
    log_weights_MN = _shared(seen_MN - logsumexp(seen_MN, axis=0), share)
  return np.exp(log_weights_MNP)


def _shared(log_weights_MN, share):
  if share == 0:
    return log_weights_MN
  even = np.log(share / len(log_weights_MN))
  if share == 1:
    return np.full_like(log_weights_MN, even)
  return np.logaddexp(log_weights_MN + np.log1p(-share), even)


def nats_along(
  nats_MNP: Float[np.ndarray, "M N P"], share: float = 0.0
) -> Float[np.ndarray, "N P"]:
  """-log of the mixture's probability of each pixel given those before it.

  Arguments as of `weights_along`. Without a share they add up to the `mixture_nats` of the image.
  """
  weights_MNP = weights_along(nats_MNP, share)
  return -logsumexp(-nats_MNP.astype(np.float64), axis=0, b=weights_MNP)
