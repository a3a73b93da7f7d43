"""Samples from an autoregressive model of images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from inversion_jax.likelihoods import Likelihood

HeadFn = Callable[[Int[Array, "B H W C"]], Float[Array, "B H W F"]]


def sample_keys(
  root_key: Key[Array, ""], index_B: Int[Array, " B"], sample_B: Int[Array, " B"]
) -> Key[Array, " B"]:
  """The key of each (image, sample): a function of nothing else, whatever the batch."""

  def key_of(index, sample):
    return jax.random.fold_in(jax.random.fold_in(root_key, index), sample)

  return jax.vmap(key_of)(index_B, sample_B)


def pixel_noise(likelihood: Likelihood, keys_B: Key[Array, " B"], pixel: Int[Array, ""]):
  """The randomness of one pixel of every image; `pixel` counts in raster order."""
  return jax.vmap(lambda key: likelihood.noise(jax.random.fold_in(key, pixel)))(keys_B)


def ancestral(
  head_fn: HeadFn,
  likelihood: Likelihood,
  keys_B: Key[Array, " B"],
  size: tuple[int, int],
) -> Int[Array, "B H W C"]:
  """Draws images pixel by pixel in raster order; costs H * W passes of the whole network.

  Args:
    head_fn: the network with h bound; its head at a pixel depends on the pixels before it alone.
    likelihood: draws one pixel given its head.
    keys_B: one key per image.
    size: rows, columns.

  Returns:
    int32 levels. Every sub-pixel is rounded to its level before it is used again, so that the
    network never sees a value that is not one of an image's.

  Source: Nash et al. (2019), section 3.2.
  """
  height, width = size

  def draw_pixel(pixel, levels_BHWC):
    row, column = pixel // width, pixel % width
    head_BF = head_fn(levels_BHWC)[:, row, column]
    levels_BC = likelihood.draw(head_BF, pixel_noise(likelihood, keys_B, pixel))
    return levels_BHWC.at[:, row, column].set(levels_BC)

  blank = jnp.zeros((len(keys_B), height, width, likelihood.num_channels), jnp.int32)
  return lax.fori_loop(0, height * width, draw_pixel, blank)
