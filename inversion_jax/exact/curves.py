"""Tasks seen through a channel, for which I(x; h~) is known at every strength of the noise.

`CURVES` holds them; `rows` measures one from both sides.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from inversion_jax import information
from inversion_jax.exact import measure, tasks
from inversion_jax.exact.tasks import Draws, Task
from inversion_jax.features.noise import Channel, Gaussian, Quantised
from inversion_jax.fitting import training
from inversion_jax.information import estimators
from inversion_jax.machine.progress import say

# Nodes of the Gauss-Hermite rule: the capacity of a noisy bit is then exact to ten digits.
NUM_NODES = 200
# Images that the other estimators see, and further ones on which they fit densities.
NUM_ROWS, NUM_FIT_ROWS = 2_000, 4_000
# Of float32 sums over all pixels.
ROUNDING_NATS = 1e-3


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
    name="noisy_bits",
    description=f"textures of 16 bits; h~: the bits plus noise of sigma {sigma:g}",
    num_levels=clean.num_levels,
    entropy_nats=clean.entropy_nats,
    truth_nats=16 * noisy_bit_nats(sigma),
    draw=draw,
    least_nats=0.0,
    is_deterministic=False,
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

  def draw(rng, num_images):
    drawn = pool.draw(rng, num_images)
    h_tilde_NZ = codes_KZ[codes_of(drawn)] + sigma * rng.normal(size=(num_images, num_units))
    squares_NK = np.square(h_tilde_NZ[:, None] - codes_KZ).sum(-1)
    log_posterior_NK = -squares_NK / (2 * sigma**2)
    log_posterior_NK -= logsumexp(log_posterior_NK, axis=1, keepdims=True)
    log_code_N = np.take_along_axis(log_posterior_NK, codes_of(drawn)[:, None], 1)[:, 0]
    return Draws(drawn.levels_NHWC, _rescaled(h_tilde_NZ, sigma), log_code_N)

  # Each of the 16 has one image, so log p(x | h~) is that of its code, and log p(x) is -log 16.
  log_code_N = draw(np.random.default_rng(4), 100_000).log_prob_N
  truth = information.mean_with_error(log_code_N + math.log(16))
  task = Task(
    name="noisy_codes",
    description=f"16 digits; h~: {num_units} units for each plus noise of sigma {sigma:g}",
    num_levels=pool.num_levels,
    entropy_nats=pool.entropy_nats,
    truth_nats=truth.mean,
    truth_standard_error=truth.standard_error,
    draw=draw,
    least_nats=0.0,
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
    name="coarse_pixels",
    description=f"{side**2} pixels of 4 bits; h~: {num_bits} bits of each",
    num_levels=16,
    entropy_nats=side**2 * 4 * math.log(2),
    truth_nats=side**2 * num_bits * math.log(2),
    draw=draw,
    least_nats=0.0,
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


def rows(curve: str, recipe: training.Recipe, seed: int = 0) -> list[dict[str, Any]]:
  """What every method says at every strength of one of `CURVES`, beside the truth, in nats.

  `sigma` or `bits` of a row says how strong its channel is.
  """
  make, strengths = CURVES[curve]
  found = []
  for strength in strengths:
    noisy = make(strength)
    say("%s: %s", curve, noisy.task.description)
    common = {"curve": curve, **_strength(noisy.channel)}
    truth = {
      "truth_nats": noisy.task.truth_nats,
      "truth_standard_error": noisy.task.truth_standard_error,
    }
    measured = _measured(noisy, recipe, seed)
    found += [{**common, **one.as_json(), **truth} for one in measured]
  return found


def _measured(noisy, recipe, seed):
  """The bound of a trained inverter, then the other estimators."""
  result = measure.measure(noisy.task, recipe, seed)
  bound = estimators.Measured(
    method="inverter",
    nats=result.bound.mean,
    standard_error=result.bound.standard_error,
    kind=estimators.LOWER,
    ceiling_nats=None,
    seconds=result.seconds,
  )
  h = noisy.draw_h(np.random.default_rng((seed, 3)), NUM_ROWS)
  fit_h = noisy.draw_h(np.random.default_rng((seed, 4)), NUM_FIT_ROWS)
  others = estimators.compare_all(h, noisy.channel, jax.random.key(seed), fit_h=fit_h)
  return [bound, *others]


def _strength(channel):
  return {"sigma": channel.sigma} if isinstance(channel, Gaussian) else {"bits": channel.bits}


def strength_of(row: dict[str, Any]) -> str:
  """The channel of a row, in words."""
  return f"sigma {row['sigma']:g}" if "sigma" in row else f"{row['bits']} bits"


def violations(found: list[dict[str, Any]], num_errors: float = 3.0) -> list[str]:
  """The bounds that lie on the wrong side of the truth by more than their errors, in words."""
  wrong = []
  for row in found:
    if row["nats"] is None:
      continue
    error = np.hypot(row["standard_error"] or 0.0, row["truth_standard_error"])
    allowed = num_errors * error + ROUNDING_NATS
    excess = row["nats"] - row["truth_nats"]
    above = row["kind"] == estimators.LOWER and excess > allowed
    below = row["kind"] == estimators.UPPER and -excess > allowed
    if above or below:
      wrong.append(
        f"{row['curve']} at {strength_of(row)}: {row['method']} gives {row['nats']:.4g} nats, "
        f"the truth is {row['truth_nats']:.4g}"
      )
  return wrong
