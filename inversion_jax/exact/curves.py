"""Tasks seen through a channel, for which I(x; h~) is known at every strength of the noise."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from inversion_jax import information
from inversion_jax.exact import tasks
from inversion_jax.exact.tasks import Draws, Task
from inversion_jax.features.noise import Channel, Gaussian, Quantised

# Nodes of the Gauss-Hermite rule: the capacity of a noisy bit is then exact to ten digits.
NUM_NODES = 200


class Noisy(NamedTuple):
  """A task whose representation is h~, its channel, and draws of the h that the channel reads."""

  task: Task
  channel: Channel
  draw_h: Callable[[np.random.Generator, int], Float[np.ndarray, "N *map Z"]]


def noisy_bits(sigma: float) -> Noisy:
  """Textures of 16 bits; h is the map of bits as -1 or 1, h~ adds Gaussian noise.

  Bits are independent and so is their noise: I(x; h~) is 16 times that of one bit.
  """
  clean = tasks.bit_textures()

  def draw(rng, num_images):
    drawn = clean.draw(rng, num_images)
    h_tilde = drawn.h + sigma * rng.normal(size=drawn.h.shape)
    # P(bit | h~) is a logistic function of 2 h~ / sigma^2.
    log_prob_N = -np.logaddexp(0.0, -2.0 * drawn.h * h_tilde / sigma**2).sum((1, 2, 3))
    return Draws(drawn.levels_NHWC, _rescaled(h_tilde, sigma), log_prob_N)

  task = Task(
    *("noisy_bits", f"textures of 16 bits; h~: the bits plus noise of sigma {sigma:g}"),
    *(4, clean.entropy_nats, 16 * noisy_bit_nats(sigma), 0.0, draw, 0.0),
    is_deterministic=False,
    network=clean.network,
    num_steps_factor=0.3,
  )
  return Noisy(task, Gaussian(sigma), lambda rng, n: clean.draw(rng, n).h)


def noisy_bit_nats(sigma: float) -> float:
  """I(b; b + sigma * eps) of a fair bit b of -1 or 1: the capacity of the binary-input channel."""
  nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
  log_ratios = 2.0 * (1.0 + sigma * nodes) / sigma**2
  lost_nats = weights @ np.logaddexp(0.0, -log_ratios) / math.sqrt(2 * math.pi)
  return math.log(2) - lost_nats


def noisy_codes(sigma: float, num_units: int = 8) -> Noisy:
  """One of 16 digits; h is a random vector for each of them, h~ adds Gaussian noise.

  h~ is a mixture of 16 Gaussians, so that I(x; h~) is a mean over draws, to a stated error.
  """
  pool = tasks.pool(num_images=16)
  codes_KZ = np.random.default_rng(3).normal(size=(16, num_units))

  def codes_of(drawn):
    return drawn.h.argmax(1)

  def draw_all(rng, num_images):
    drawn = pool.draw(rng, num_images)
    h_tilde_NZ = codes_KZ[codes_of(drawn)] + sigma * rng.normal(size=(num_images, num_units))
    squares_NK = np.square(h_tilde_NZ[:, None] - codes_KZ).sum(-1)
    log_posterior_NK = -squares_NK / (2 * sigma**2)
    log_posterior_NK -= logsumexp(log_posterior_NK, axis=1, keepdims=True)
    log_code_N = np.take_along_axis(log_posterior_NK, codes_of(drawn)[:, None], 1)[:, 0]
    return Draws(drawn.levels_NHWC, _rescaled(h_tilde_NZ, sigma), log_code_N), log_code_N

  _, log_code_N = draw_all(np.random.default_rng(4), 100_000)
  truth = information.mean_with_error(log_code_N + math.log(16))
  task = Task(
    *("noisy_codes", f"16 digits; h~: {num_units} units for each plus noise of sigma {sigma:g}"),
    *(17, pool.entropy_nats, truth.mean, truth.standard_error),
    *(lambda rng, n: draw_all(rng, n)[0], 0.0),
    is_deterministic=False,
  )
  return Noisy(task, Gaussian(sigma), lambda rng, n: codes_KZ[codes_of(pool.draw(rng, n))])


def coarse_pixels(num_bits: int, side: int = 8) -> Noisy:
  """Independent pixels of 16 levels; h is x itself, h~ has `num_bits` bits of each pixel."""
  channel = Quantised(num_bits, 0.0, 16.0)

  def draw(rng, num_images):
    levels = rng.integers(0, 16, (num_images, side, side, 1), dtype=np.uint8)
    h_tilde = np.asarray(channel.apply(levels.astype(np.float32)))
    log_prob_N = np.full(num_images, -(side**2) * (4 - num_bits) * math.log(2))
    return Draws(levels, (h_tilde - 8.0) / 4.0, log_prob_N)

  task = Task(
    *("coarse_pixels", f"{side**2} pixels of 4 bits; h~: {num_bits} bits of each"),
    *(16, side**2 * 4 * math.log(2), side**2 * num_bits * math.log(2), 0.0, draw, 0.0),
    network={"num_scales": 1},
    num_steps_factor=0.3,
  )
  return Noisy(task, channel, lambda rng, n: np.asarray(draw(rng, n).levels_NHWC, np.float32))


def _rescaled(h_tilde, sigma):
  """Of about unit spread, as a network likes it; invertible, so no information changes."""
  return (h_tilde / math.hypot(1.0, sigma)).astype(np.float32)


SIGMAS = (0.1, 0.3, 1.0, 3.0)
BITS = (1, 2, 4)
CURVES: dict[str, tuple[Callable[..., Noisy], tuple[float, ...]]] = {
  "noisy_bits": (noisy_bits, SIGMAS),
  "noisy_codes": (noisy_codes, SIGMAS),
  "coarse_pixels": (coarse_pixels, BITS),
}
