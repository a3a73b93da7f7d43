"""x -> h: a layer of a classifier, or any function of images, standardised."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from inversion_jax.data import batches

EncodeFn = Callable[[UInt8[Array, "B H W C"]], Float[Array, "B *map Z"]]
# Enough for a mean and a spread of each unit to a few parts in a thousand.
NUM_STATISTICS_IMAGES = 10_000
# Units whose spread is below this fraction of the largest are dead: they stay at zero.
DEAD_RATIO = 1e-6


class Standardiser(NamedTuple):
  """An invertible shift and scale of each unit; it changes no information about x.

  Without it an inverter of small activations shows how hard they are to optimise on, not what
  they know.
  """

  mean_Z: Float[np.ndarray, " Z"]
  std_Z: Float[np.ndarray, " Z"]

  def __call__(self, h: Float[Array, "B *map Z"]) -> Float[Array, "B *map Z"]:
    """Returns (h - mean) / std, float32."""
    return (h - self.mean_Z) / self.std_Z


def fit_standardiser(
  encode_fn: EncodeFn, images_NHWC: UInt8[np.ndarray, "N H W C"], batch_size: int
) -> Standardiser:
  """Mean and spread of each unit (for maps: of each channel) over the first training images."""
  num_images = min(len(images_NHWC), NUM_STATISTICS_IMAGES)
  count, total_Z, total_squares_Z = 0, 0.0, 0.0
  for rows, valid in batches.eval_batches(num_images, batch_size):
    h = np.asarray(encode_fn(images_NHWC[rows]), np.float64)[valid]
    rows_MZ = h.reshape(-1, h.shape[-1])
    count += len(rows_MZ)
    total_Z = total_Z + rows_MZ.sum(0)
    total_squares_Z = total_squares_Z + np.square(rows_MZ).sum(0)
  mean_Z = total_Z / count
  std_Z = np.sqrt(np.maximum(total_squares_Z / count - np.square(mean_Z), 0.0))
  is_alive_Z = std_Z > DEAD_RATIO * std_Z.max()
  return Standardiser(
    mean_Z.astype(np.float32), np.where(is_alive_Z, std_Z, 1.0).astype(np.float32)
  )


# What can stand in for h, to test an inverter where the answer is known.
CONTROLS = ("", "shuffled", "permuted", "pixels", "top_rows")


def controlled(encode_fn: EncodeFn, control: str) -> EncodeFn:
  """`encode_fn`, or what a control puts in its place.

  - "": nothing;
  - "shuffled": h of another image, the one before it in the batch: knows nothing of x;
  - "permuted": the units in another order: knows as much as h;
  - "pixels": x itself: knows everything;
  - "top_rows": the upper half of x, and a channel that marks it: knows what a causal model of the
    lower half has seen anyway.
  """

  def encode(levels_BHWC):
    if control == "shuffled":
      return jnp.roll(encode_fn(levels_BHWC), 1, axis=0)
    if control == "permuted":
      return encode_fn(levels_BHWC)[..., ::-1]
    pixels = jnp.asarray(levels_BHWC, jnp.float32)
    if control == "pixels":
      return pixels
    height = pixels.shape[1]
    is_top = (jnp.arange(height) < height // 2).astype(jnp.float32)[:, None, None]
    is_top = jnp.broadcast_to(is_top, (*pixels.shape[:3], 1))
    return jnp.concatenate([pixels * is_top, is_top], axis=-1)

  return encode if control else encode_fn


def layer_encoder(layers_fn: Callable[[Shaped[Array, "B H W C"]], dict], layer: str) -> EncodeFn:
  """The encoder of one layer of a network that returns all its activations by name.

  It runs in float32 at full matrix precision: shortened products would make h, and so the
  information in it, depend on the device.
  """

  def encode(images_BHWC):
    with jax.default_matmul_precision("highest"):
      return layers_fn(images_BHWC)[layer]

  return jax.jit(encode)
