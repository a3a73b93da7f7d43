"""Noise channels h -> h~, through which the information that a layer carries is a real quantity.

A deterministic network keeps nearly every image apart, so that I(x; h) is H(x) whatever the layer.
Through noise or through few bits, I(x; h~) is finite, differs from layer to layer, and has a known
conditional p(h~ | h) = p(h~ | x), since h is a function of x. A channel is a frozen dataclass with
two members:

- `apply(h, key)`: one draw of h~, of the shape of h;
- `log_prob(h_tilde, h)`: nats of each row, its units together.

Source: section 3.3 of the paper; Saxe et al. (2018), ICLR; Goldfeld et al. (2019), ICML.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from inversion_jax.machine.errors import UserError

# float32 still tells the bins apart, and `log_prob` their centres.
MAX_BITS = 16
# How far from its bin's centre a value may be and count as that centre, in bins.
CENTRE_TOLERANCE = 0.01


@runtime_checkable
class Channel(Protocol):
  """What the estimators need from noise."""

  def apply(self, h: Array, key: Array) -> Array:
    """One draw of h~ given h, unit by unit."""

  def log_prob(self, h_tilde: Array, h: Array) -> Array:
    """log p(h~ | h) of each row, in nats."""


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """h~ = h + sigma * eps with eps ~ N(0, I); `sigma` has the unit of h as given.

  One sigma means the same for two layers only if both are standardised: scaling h up by two is
  the same as halving the noise.
  """

  sigma: float

  def __post_init__(self):
    if not (math.isfinite(self.sigma) and self.sigma > 0):
      raise UserError(f"The sigma of a noise channel must be positive, not {self.sigma}.")

  def apply(
    self, h: Float[Array | np.ndarray, "*axes"], key: Key[Array, ""]
  ) -> Float[Array, "*axes"]:
    """Returns h plus independent noise on every unit, in float32."""
    h = jnp.asarray(h, jnp.float32)
    return h + self.sigma * jax.random.normal(key, h.shape)

  def log_prob(
    self,
    h_tilde: Float[Array | np.ndarray, "#B *units"],
    h: Float[Array | np.ndarray, "#B *units"],
  ) -> Float[Array, " B"]:
    """log p(h~ | h): the log density of each row, in nats; rows broadcast."""
    standard = (jnp.asarray(h_tilde, jnp.float32) - jnp.asarray(h, jnp.float32)) / self.sigma
    nats_of_units = -0.5 * jnp.square(standard) - math.log(self.sigma * math.sqrt(2 * math.pi))
    return nats_of_units.sum(tuple(range(1, standard.ndim)))


@dataclasses.dataclass(frozen=True)
class Quantised:
  """h~ is the centre of the bin of h: 2^bits equal bins per unit from `low` to `high`.

  What lies beyond `low` and `high` belongs to the edge bins. The channel has no randomness, so
  I(x; h~) is the entropy of h~, at most bits * log(2) nats per unit.
  """

  bits: int
  low: float
  high: float

  def __post_init__(self):
    if not 1 <= self.bits <= MAX_BITS:
      raise UserError(f"The bits of a quantised channel must be 1 to {MAX_BITS}, not {self.bits}.")
    if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
      raise UserError(
        f"A quantised channel needs finite low < high; low is {self.low}, high {self.high}."
      )

  @property
  def width(self) -> float:
    """Of one bin, in units of h."""
    return (self.high - self.low) / 2**self.bits

  def apply(
    self, h: Float[Array | np.ndarray, "*axes"], key: Key[Array, ""] | None = None
  ) -> Float[Array, "*axes"]:
    """Returns bin centres, in float32; `key` is not used, every channel has one."""
    del key
    return self.low + (self._bins(h) + 0.5) * self.width

  def log_prob(
    self,
    h_tilde: Float[Array | np.ndarray, "#B *units"],
    h: Float[Array | np.ndarray, "#B *units"],
  ) -> Float[Array, " B"]:
    """log P(h~ | h), a probability: 0 where all units of a row fall on h~, else -inf."""
    # A compiled centre may differ from an eager one in the last digit; another bin is far away.
    distance_bins = jnp.abs(jnp.asarray(h_tilde, jnp.float32) - self.apply(h)) / self.width
    is_same = (distance_bins < CENTRE_TOLERANCE).all(tuple(range(1, distance_bins.ndim)))
    return jnp.where(is_same, 0.0, -jnp.inf)

  def _bins(self, h):
    bins = jnp.floor((jnp.asarray(h, jnp.float32) - self.low) / self.width)
    return jnp.clip(bins, 0, 2**self.bits - 1)


# A standardised unit lies within; what lies beyond belongs to the outermost bins.
RANGE = 4.0


def make(sigma: float, bits: int) -> Channel | None:
  """The channel of standardised units with this noise or this many bits; None with neither."""
  if sigma and bits:
    raise UserError(f"sigma={sigma} and bits={bits} are two channels; set one of them to 0.")
  if sigma:
    return Gaussian(sigma)
  return Quantised(bits, -RANGE, RANGE) if bits else None


def observed(
  channel: Channel | None, z: Float[Array, "B *map Z"], keys_B: Key[Array, " B"]
) -> Float[Array, "B *map Z"]:
  """What comes out of the channel, each row by its own key, brought back to about unit spread.

  The factor is known and changes no information; without it noise would also be a larger input.
  """
  if channel is None:
    return z
  scale = math.hypot(1.0, channel.sigma) if isinstance(channel, Gaussian) else 1.0
  return jax.vmap(channel.apply)(z, keys_B) / scale
