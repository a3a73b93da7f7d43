"""What stands between a source of h and the inverter: a shift and scale, a control, noise."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from inversion_jax.data import batches
from inversion_jax.features import noise
from inversion_jax.features.sources import Features

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
  features: Features,
  images_NHWC: UInt8[np.ndarray, "N H W C"],
  rows_N: Int[np.ndarray, " N"],
  batch_size: int,
) -> Standardiser:
  """Mean and spread of each unit (for maps: of each channel) over the first training images."""
  num_images = min(len(images_NHWC), NUM_STATISTICS_IMAGES)
  count, total_Z, total_squares_Z = 0, 0.0, 0.0
  for picked_B, is_valid_B in batches.eval_batches(num_images, batch_size):
    h = np.asarray(features.of(images_NHWC[picked_B], rows_N[picked_B]), np.float64)[is_valid_B]
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


class Wrapped(Features):
  """A source seen through something; what it does not change it takes from the source."""

  source: Features

  @property
  def name(self) -> str:
    """Of the source."""
    return self.source.name

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the h of one image."""
    return self.source.shape

  @property
  def can_encode(self) -> bool:
    """As the source."""
    return self.source.can_encode

  @property
  def is_differentiable(self) -> bool:
    """As the source."""
    return self.source.is_differentiable

  def fetch(self, images_BHWC, rows_B):
    """What the source fetches."""
    return self.source.fetch(images_BHWC, rows_B)


@dataclasses.dataclass(frozen=True, eq=False)
class Standardised(Wrapped):
  """h with mean zero and spread one, unit by unit."""

  source: Features
  standardiser: Standardiser

  def encode(self, fetched):
    """Standardised h."""
    return self.standardiser(self.source.encode(fetched))


@dataclasses.dataclass(frozen=True, eq=False)
class Noisy(Wrapped):
  """h through a noise channel; the noise of an image belongs to its row."""

  source: Features
  channel: noise.Channel
  root_key: Key[Array, ""]

  def fetch(self, images_BHWC, rows_B):
    """What the source fetches, and the rows."""
    return self.source.fetch(images_BHWC, rows_B), np.asarray(rows_B)

  def encode(self, fetched):
    """h~, each row by its own key."""
    fetched, rows_B = fetched
    keys_B = jax.vmap(lambda row: jax.random.fold_in(self.root_key, row))(rows_B)
    return noise.observed(self.channel, self.source.encode(fetched), keys_B)


# What can stand in for h, to test an inverter where the answer is known.
CONTROLS = ("", "shuffled", "permuted", "rescaled", "pixels", "top_rows")
# The factors of "rescaled", from the first unit to the last.
FACTORS = 1e-2, 1e2


@dataclasses.dataclass(frozen=True, eq=False)
class OtherImage(Wrapped):
  """Control "shuffled": h of the image before it in the batch, which knows nothing of x."""

  source: Features

  def encode(self, fetched):
    """h of other images."""
    return jnp.roll(self.source.encode(fetched), 1, axis=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Permuted(Wrapped):
  """Control "permuted": the units in another order, which know as much as h."""

  source: Features

  def encode(self, fetched):
    """h with its units reversed."""
    return self.source.encode(fetched)[..., ::-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Rescaled(Wrapped):
  """Control "rescaled": each unit times a factor of its own, which know as much as h."""

  source: Features

  def encode(self, fetched):
    """h with its units between a hundredth and a hundred times as large."""
    return self.source.encode(fetched) * jnp.geomspace(*FACTORS, self.shape[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels(Features):
  """Controls "pixels", x itself, and "top_rows".

  The latter is the upper half of x and a channel that marks it: it knows what a causal model of the
  lower half has seen anyway.
  """

  name: str
  image_shape: tuple[int, int, int]
  can_encode = True
  is_differentiable = True

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the pixels, and the mark."""
    height, width, num_colours = self.image_shape
    return height, width, num_colours + (self.name == "top_rows")

  def fetch(self, images_BHWC, rows_B):
    """The images."""
    del rows_B
    return images_BHWC

  def encode(self, fetched):
    """The images as floats."""
    pixels = jnp.asarray(fetched, jnp.float32)
    if self.name == "pixels":
      return pixels
    height = pixels.shape[1]
    is_top = (jnp.arange(height) < height // 2).astype(jnp.float32)[:, None, None]
    is_top = jnp.broadcast_to(is_top, (*pixels.shape[:3], 1))
    return jnp.concatenate([pixels * is_top, is_top], axis=-1)


def controlled(features: Features, control: str, image_shape: tuple[int, int, int]) -> Features:
  """`features`, or what one of `CONTROLS` puts in their place."""
  if control == "shuffled":
    return OtherImage(features)
  if control == "permuted":
    return Permuted(features)
  if control == "rescaled":
    return Rescaled(features)
  return Pixels(control, image_shape) if control else features
