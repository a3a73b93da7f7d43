"""Distributions of one pixel given the network's head: discretised logistic mixture, categorical.

A likelihood is a frozen dataclass of plain functions on arrays, with the same five members:

- `num_features`: the number of head outputs per pixel, F;
- `linear_features`: which of them a linear path from h may move;
- `log_prob(head_F, levels_C)`: nats of one pixel, all its colours together;
- `noise(key)`: the randomness of one pixel, independent of the head;
- `draw(head_F, noise)`: the pixel which that randomness selects.

All leading axes broadcast. Noise and head are kept apart so that different samplers, given the same
noise, must produce the same image. Levels are integers 0..num_levels-1; the head is float32.
"""

import dataclasses
import functools
import operator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key, Shaped

from inversion_jax.machine.errors import UserError


@runtime_checkable
class Likelihood(Protocol):
  """What the rest of the program needs from a distribution of pixels."""

  num_levels: int
  num_colours: int

  @property
  def num_features(self) -> int:
    """Head outputs per pixel, F."""

  @property
  def linear_features(self) -> tuple[int, int]:
    """(first, one after the last) of the outputs that h may move by a linear path."""

  def log_prob(self, head_F: Array, levels_C: Array) -> Array:
    """log p(pixel | head), in nats."""

  def noise(self, key: Array) -> Any:
    """The randomness of one pixel."""

  def draw(self, head_F: Array, noise: Any) -> Array:
    """The pixel that `noise` selects."""


def to_unit(levels: Integer[Array | np.ndarray, "*axes"], num_levels: int) -> Float[Array, "*axes"]:
  """Maps levels 0..num_levels-1 to floats evenly spaced from -1 to 1."""
  return jnp.asarray(levels, jnp.float32) * (2.0 / (num_levels - 1)) - 1.0


def to_levels(unit: Float[Array, "*axes"], num_levels: int) -> Int[Array, "*axes"]:
  """Rounds floats to the nearest level; what lies beyond -1 and 1 belongs to the edge levels."""
  scaled = jnp.round((unit + 1.0) * ((num_levels - 1) / 2.0))
  return jnp.clip(scaled, 0, num_levels - 1).astype(jnp.int32)


def check_levels(
  levels_BHWC: Shaped[Array | np.ndarray, "..."], num_levels: int, num_colours: int
) -> None:
  """Refuses what are no images: integer levels 0..num_levels-1, (B, H, W, C) with C colours.

  Type and shape are known while JAX traces. Values are looked at where there are any: those of a
  compiled function's arguments are not, so the check costs it nothing.

  Raises:
    UserError: says what was given instead.
  """
  dtype, shape, top = levels_BHWC.dtype, levels_BHWC.shape, num_levels - 1
  if not jnp.issubdtype(dtype, jnp.integer):
    raise UserError(
      f"Images are integer levels from 0 to {top}, not {dtype}; scale them to that range, round "
      "them and give them an integer type."
    )
  if len(shape) != 4 or shape[-1] != num_colours:
    raise UserError(
      f"Images have shape (B, H, W, {num_colours}), not {shape}; rearrange them, or give the "
      "likelihood another num_colours."
    )
  limits = jnp.iinfo(dtype)
  if (limits.min >= 0 and limits.max <= top) or not _has_values(levels_BHWC):
    return
  # Within a trace JAX would otherwise make the two reductions a part of the program.
  with jax.ensure_compile_time_eval():
    low, high = map(int, jax.device_get((levels_BHWC.min(), levels_BHWC.max())))
  if low < 0 or high > top:
    raise UserError(
      f"Images have levels from 0 to {top}, not from {low} to {high}; rescale them, or give the "
      "likelihood another num_levels."
    )


def _has_values(array):
  """Whether this process can read the elements: they are no placeholders, and none is elsewhere."""
  if isinstance(array, jax.core.Tracer) or not array.size:
    return False
  return isinstance(array, np.ndarray) or array.is_fully_addressable


def log_one_minus_exp_minus_exp(log_width: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
  """log(1 - exp(-w)) for w = exp(log_width), with a derivative that is finite everywhere."""
  width = jnp.exp(log_width)
  # Below, 1 - exp(-w) = w (1 - w/2 + ...) to float32; the exact branch would divide by zero there.
  is_narrow = log_width < -10.0
  exact = jnp.log(-jnp.expm1(-jnp.where(is_narrow, 1.0, width)))
  return jnp.where(is_narrow, log_width - 0.5 * width, exact)


def logistic_log_prob(
  levels: Integer[Array | np.ndarray, "*#axes"],
  mean: Float[Array, "*#axes"],
  log_scale: Float[Array, "*#axes"],
  num_levels: int,
) -> Float[Array, "..."]:
  """Nats of a logistic rounded to the grid of `num_levels` values from -1 to 1.

  Level k has the mass of the logistic between the midpoints to its neighbours; the first and the
  last level take the tails, so the masses sum to one at any mean and scale. Interior masses use
  log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), which is exact where the two
  sigmoids agree to all digits.

  Source: Salimans et al. (2017), section 2.1, without the approximation of its implementation.
  """
  half_bin_unit = 1.0 / (num_levels - 1)
  centred = to_unit(levels, num_levels) - mean
  inverse_scale = jnp.exp(-log_scale)
  log_below_upper = jax.nn.log_sigmoid((centred + half_bin_unit) * inverse_scale)
  log_above_lower = jax.nn.log_sigmoid(-(centred - half_bin_unit) * inverse_scale)
  log_width = jnp.log(2.0 * half_bin_unit) - log_scale
  interior = log_below_upper + log_above_lower + log_one_minus_exp_minus_exp(log_width)
  # The edges are decided by the integer: a float comparison with 1 can miss them.
  edge_or_interior = jnp.where(levels == num_levels - 1, log_above_lower, interior)
  return jnp.where(levels == 0, log_below_upper, edge_or_interior)


@dataclasses.dataclass(frozen=True)
class LogisticMixture:
  """Mixture of discretised logistics; colours share the component and depend on those before.

  Head, with K components and C colours: K mixture logits, then C x K means, C x K log-scales and a
  coefficient through tanh for each pair of colours, P x K: the first in the second, the first in
  the third, the second in the third, and so on (red in green, red in blue, green in blue). That is
  3 K features for one colour, 10 K for three and 15 K for four.

  `min_log_scale` keeps scales from collapsing; with 256 levels -7 puts a floor of 0.027 nats under
  every interior sub-pixel.

  Source: Salimans et al. (2017), sections 2.1 and 2.2.
  """

  num_levels: int = 256
  num_colours: int = 3
  num_components: int = 10
  min_log_scale: float = -7.0

  def __post_init__(self):
    if self.num_colours < 1:
      raise UserError(f"A logistic mixture has 1 colour or more, not {self.num_colours}.")

  @property
  def num_coefficients(self) -> int:
    """P, pairs of colours: 0, 1, 3 or 6 for 1 to 4 colours."""
    return self.num_colours * (self.num_colours - 1) // 2

  @property
  def num_features(self) -> int:
    """Head outputs per pixel, F."""
    return self.num_components * (1 + 2 * self.num_colours + self.num_coefficients)

  @property
  def linear_features(self) -> tuple[int, int]:
    """The means of every component and colour."""
    return self.num_components, self.num_components * (1 + self.num_colours)

  def parameters(self, head_F: Float[Array, "*#axes F"]) -> tuple[Array, Array, Array, Array]:
    """Splits the head into logits (K), means (C, K), log-scales (C, K), coefficients (P, K)."""
    axes, colours = head_F.shape[:-1], self.num_colours
    parts = head_F.astype(jnp.float32).reshape(*axes, -1, self.num_components)
    logits_K = parts[..., 0, :]
    means_CK = parts[..., 1 : 1 + colours, :]
    log_scales_CK = parts[..., 1 + colours : 1 + 2 * colours, :]
    coefficients_PK = jnp.tanh(parts[..., 1 + 2 * colours :, :])
    return logits_K, means_CK, jnp.maximum(log_scales_CK, self.min_log_scale), coefficients_PK

  def conditional_means(self, means_CK, coefficients_PK, unit_C):
    """Shifts each colour's means by the colours before it, (..., C, K)."""
    if self.num_colours == 1:
      return means_CK
    shifts_K = [jnp.zeros_like(coefficients_PK[..., 0, :] * unit_C[..., :1])]
    for colour in range(1, self.num_colours):
      # Pairs in the order of the head: (0, 1), (0, 2), (1, 2), ...
      first = colour * (colour - 1) // 2
      products_K = [
        coefficients_PK[..., first + before, :] * unit_C[..., before, None]
        for before in range(colour)
      ]
      shifts_K.append(functools.reduce(operator.add, products_K))
    return means_CK + jnp.stack(shifts_K, axis=-2)

  def log_prob(
    self, head_F: Float[Array, "*#axes F"], levels_C: Integer[Array | np.ndarray, "*#axes C"]
  ) -> Float[Array, "..."]:
    """log p(pixel | head), in nats, summed over the colours of the pixel."""
    logits_K, means_CK, log_scales_CK, coefficients_PK = self.parameters(head_F)
    unit_C = to_unit(levels_C, self.num_levels)
    means_CK = self.conditional_means(means_CK, coefficients_PK, unit_C)
    nats_CK = logistic_log_prob(levels_C[..., None], means_CK, log_scales_CK, self.num_levels)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits_K) + nats_CK.sum(-2), axis=-1)

  def noise(self, key: Key[Array, ""]) -> dict[str, Array]:
    """Gumbel noise for the component, logistic noise for each colour."""
    component_key, colour_key = jax.random.split(key)
    return {
      "component_K": jax.random.gumbel(component_key, (self.num_components,)),
      "colour_C": jax.random.logistic(colour_key, (self.num_colours,)),
    }

  def draw(self, head_F: Float[Array, "*#axes F"], noise: dict[str, Array]) -> Int[Array, "... C"]:
    """The pixel that `noise` selects.

    Each colour is rounded to the grid before it shifts the next one, as in training: the rounded
    logistic has exactly the discretised law.
    """
    logits_K, means_CK, log_scales_CK, coefficients_PK = self.parameters(head_F)
    chosen = jnp.argmax(logits_K + noise["component_K"], axis=-1)[..., None, None]
    mean_C, log_scale_C, coefficient_P = (
      jnp.take_along_axis(array, chosen, axis=-1)[..., 0]
      for array in (means_CK, log_scales_CK, coefficients_PK)
    )
    offset_C = jnp.exp(log_scale_C) * noise["colour_C"]
    levels, unit = [], []
    for colour in range(self.num_colours):
      mean = mean_C[..., colour]
      first = colour * (colour - 1) // 2
      for before in range(colour):
        mean = mean + coefficient_P[..., first + before] * unit[before]
      levels.append(to_levels(mean + offset_C[..., colour], self.num_levels))
      unit.append(to_unit(levels[-1], self.num_levels))
    return jnp.stack(levels, axis=-1)


# A head of this many logits a pixel is what one colour of 4,096 levels would have.
MAX_VALUES = 4_096
# Up to this many values of a pixel, "auto" gives each its own logit: binary images of any colours.
FEW_VALUES = 16


@dataclasses.dataclass(frozen=True)
class Categorical:
  """A softmax over the values of a pixel: the levels of one colour, or of all colours together.

  Several colours of few levels count as one number, the first colour the highest digit.

  Source: van den Oord et al. (2016c); the paper's choice for MNIST (appendix A).
  """

  num_levels: int = 256
  num_colours: int = 1

  def __post_init__(self):
    if self.num_values > MAX_VALUES:
      raise UserError(
        f"likelihood='categorical' is for one colour or few levels, not for {self.num_colours} "
        f"colours of {self.num_levels} levels; use likelihood='logistic_mixture'."
      )

  @property
  def num_values(self) -> int:
    """Of a pixel, L."""
    return self.num_levels**self.num_colours

  @property
  def num_features(self) -> int:
    """Head outputs per pixel, F: one logit per value."""
    return self.num_values

  @property
  def linear_features(self) -> tuple[int, int]:
    """All logits."""
    return 0, self.num_values

  @property
  def _places(self):
    """What a level of each colour counts."""
    return [self.num_levels**power for power in reversed(range(self.num_colours))]

  def log_prob(
    self, head_F: Float[Array, "*#axes L"], levels_C: Integer[Array | np.ndarray, "*#axes C"]
  ) -> Float[Array, "..."]:
    """log p(pixel | head), in nats."""
    log_probs_L = jax.nn.log_softmax(head_F.astype(jnp.float32))
    value = jnp.asarray(levels_C, jnp.int32)
    if self.num_colours > 1:
      value = (value * jnp.array(self._places)).sum(-1, keepdims=True)
    return jnp.take_along_axis(log_probs_L, value, axis=-1)[..., 0]

  def noise(self, key: Key[Array, ""]) -> Float[Array, " L"]:
    """Gumbel noise for each value."""
    return jax.random.gumbel(key, (self.num_values,))

  def draw(
    self, head_F: Float[Array, "*#axes L"], noise: Float[Array, "*#axes L"]
  ) -> Int[Array, "... C"]:
    """The levels that `noise` selects."""
    value = jnp.argmax(head_F.astype(jnp.float32) + noise, axis=-1)[..., None]
    if self.num_colours > 1:
      value = value // jnp.array(self._places) % self.num_levels
    return value.astype(jnp.int32)


NAMES = ("auto", "categorical", "logistic_mixture")


def make(
  name: str, *, num_levels: int, num_colours: int, num_components: int, min_log_scale: float
) -> Likelihood:
  """Builds a likelihood by name.

  "auto" is categorical for grey and for binary images (up to `FEW_VALUES` of a pixel), else a
  mixture.
  """
  if name == "auto":
    is_few = num_colours == 1 or num_levels**num_colours <= FEW_VALUES
    name = "categorical" if is_few else "logistic_mixture"
  if name == "categorical":
    return Categorical(num_levels, num_colours)
  if name == "logistic_mixture":
    return LogisticMixture(num_levels, num_colours, num_components, min_log_scale)
  raise UserError(
    f"likelihood={name!r} is not known; use 'auto', 'categorical' or 'logistic_mixture'."
  )
