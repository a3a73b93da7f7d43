"""Images whose h is a given one, found by descending on the pixels: the oldest way to invert.

Source: Mahendran & Vedaldi (2015), "Understanding deep image representations by inverting them",
sections 2 and 3.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, Key

from inversion_jax.machine import compilation, limits
from inversion_jax.machine.progress import track

AnyArray = Array | np.ndarray
# Spread of the noise from which an image begins, pixels from -1 to 1.
START_SPREAD = 0.1
TINY = 1e-8


@dataclasses.dataclass(frozen=True)
class Descent:
  """How pixels are changed until their h is the wanted one.

  Attributes:
    num_steps, learning_rate: of Adam, whose rate falls to zero along a cosine.
    alpha: the power of the norm that keeps pixels between black and white; the source's is 6.
    alpha_weight: of that norm; 0 leaves it out.
    variation_power: beta of the total variation; the source's is 1 or 2.
    variation_weight: of the total variation, which keeps images smooth; 0 leaves it out.
    jitter: each step first moves the image by up to so many pixels each way, around its edges, so
      that its h has to be the wanted one a little to the side as well; 0 is the source's.
  """

  num_steps: int = 300
  learning_rate: float = 0.05
  alpha: float = 6.0
  alpha_weight: float = 1e-3
  variation_power: float = 2.0
  variation_weight: float = 1e-3
  jitter: int = 0

  def __post_init__(self):
    limits.check_fields(self, ("num_steps", "learning_rate"), limits.ABOVE_ZERO)
    limits.check_fields(self, ("alpha", "variation_power"), limits.ABOVE_ZERO)
    names = ("alpha_weight", "variation_weight", "jitter")
    limits.check_fields(self, names, limits.NOT_NEGATIVE)


class Found(NamedTuple):
  """Levels of the images, and what is left of `distance` before they were rounded to levels."""

  levels_BHWC: Integer[Array, "B H W C"]
  distance_B: Float[Array, " B"]


def distance(h: Float[Array, "B ..."], wanted_h: Float[Array, "B ..."]) -> Float[Array, " B"]:
  """|h - wanted|^2 / |wanted|^2, the source's equation 2."""
  squares, of_wanted = (jnp.square(x).reshape(len(x), -1).sum(-1) for x in (h - wanted_h, wanted_h))
  return squares / jnp.maximum(of_wanted, TINY)


def alpha_norm(unit_BHWC: Float[AnyArray, "B H W C"], alpha: float) -> Float[Array, " B"]:
  """The mean of |pixel|^alpha: small between black and white, -1 to 1, and steep beyond them."""
  return (jnp.abs(unit_BHWC) ** alpha).mean((1, 2, 3))


def total_variation(unit_BHWC: Float[AnyArray, "B H W C"], power: float) -> Float[Array, " B"]:
  """The mean of |gradient|^power over pixels; there is nothing beyond the last row and column."""
  down = jnp.diff(unit_BHWC, axis=1, append=unit_BHWC[:, -1:])
  right = jnp.diff(unit_BHWC, axis=2, append=unit_BHWC[:, :, -1:])
  # The root of zero has no derivative.
  return ((jnp.square(down) + jnp.square(right) + TINY) ** (power / 2)).mean((1, 2, 3))


def invert(
  encode_fn: Callable[[Float[Array, "B H W C"]], Float[Array, "B ..."]],
  wanted_h: Float[Array, "B ..."],
  keys_B: Key[Array, " B"],
  *,
  image_shape: tuple[int, int, int],
  num_levels: int,
  descent: Descent,
) -> Found:
  """Finds an image for each h.

  Images do not meet: what is found for one depends on its h and its key alone. The loop over steps
  is the host's: in a compiled loop, convolutions are several times slower on CPUs.

  Args:
    encode_fn: h of float levels, differentiable.
    wanted_h: B of them; the same one may stand there several times, for several starts.
    keys_B: of the noise that each image begins with, and of its jitter.
    image_shape: H, W, C.
    num_levels: of a sub-pixel.
    descent: how.
  """
  half = (num_levels - 1) / 2

  def loss(unit_BHWC, wanted_h, step):
    missed_B = distance(
      encode_fn((_moved(unit_BHWC, keys_B, step, descent.jitter) + 1) * half), wanted_h
    )
    if descent.alpha_weight:
      missed_B += descent.alpha_weight * alpha_norm(unit_BHWC, descent.alpha)
    if descent.variation_weight:
      variation_B = total_variation(unit_BHWC, descent.variation_power)
      missed_B += descent.variation_weight * variation_B
    return missed_B.sum()

  # Adam works number by number, so that the images of a batch stay apart.
  optimizer = optax.adam(optax.cosine_decay_schedule(descent.learning_rate, descent.num_steps))

  @compilation.jit_step
  def descend(state, wanted_h, step):
    unit_BHWC, opt_state = state
    updates, opt_state = optimizer.update(jax.grad(loss)(unit_BHWC, wanted_h, step), opt_state)
    return optax.apply_updates(unit_BHWC, updates), opt_state

  unit_BHWC = START_SPREAD * jax.vmap(lambda key: jax.random.normal(key, image_shape))(keys_B)
  state = (unit_BHWC, optimizer.init(unit_BHWC))
  with track("optimisation", descent.num_steps) as shown:
    for step in range(descent.num_steps):
      state = descend(state, wanted_h, step)
      shown.update(1)
  unit_BHWC, _ = state
  distance_B = distance(jax.jit(encode_fn)((unit_BHWC + 1) * half), wanted_h)
  levels_BHWC = jnp.rint(jnp.clip((unit_BHWC + 1) * half, 0, num_levels - 1))
  return Found(levels_BHWC.astype(jnp.uint8), distance_B)


def _moved(unit_BHWC, keys_B, step, most):
  """Each image by its own random number of pixels, the same way whatever stands beside it."""
  if not most:
    return unit_BHWC

  def move(key, unit_HWC):
    shifts = jax.random.randint(jax.random.fold_in(key, step), (2,), -most, most + 1)
    return jnp.roll(unit_HWC, shifts, axis=(0, 1))

  return jax.vmap(move)(keys_B, unit_BHWC)
