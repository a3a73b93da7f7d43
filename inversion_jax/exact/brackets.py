"""Both sides of a known I(x; h~), over the strength of the noise."""

from typing import Any

import jax
import numpy as np

from inversion_jax.exact import curves, measure
from inversion_jax.features.noise import Channel, Gaussian
from inversion_jax.fitting import training
from inversion_jax.information import estimators
from inversion_jax.machine.progress import say

NUM_ROWS, NUM_FIT_ROWS = 2_000, 4_000


def rows(curve: str, recipe: training.Recipe, seed: int = 0) -> list[dict[str, Any]]:
  """What every method says at every strength of one of `curves.CURVES`; see `row`."""
  make, strengths = curves.CURVES[curve]
  found = []
  for strength in strengths:
    noisy = make(strength)
    say("%s: %s", curve, noisy.task.description)
    result = measure.measure(noisy.task, recipe, seed)
    bound = estimators.Measured(
      *("inverter", result.bound.mean, result.bound.standard_error),
      *(estimators.LOWER, None, result.seconds),
    )
    truth = {
      "truth_nats": noisy.task.truth_nats,
      "truth_standard_error": noisy.task.truth_standard_error,
    }
    h, fit_h = (noisy.draw_h(_rng(seed, part), n) for part, n in ((3, NUM_ROWS), (4, NUM_FIT_ROWS)))
    others = estimators.compare_all(h, noisy.channel, jax.random.key(seed), fit_h=fit_h)
    found += [
      {"curve": curve, **row(noisy.channel, measured), **truth} for measured in (bound, *others)
    ]
  return found


def row(channel: Channel, measured: estimators.Measured) -> dict[str, Any]:
  """One method through one channel, in nats; `sigma` or `bits` says how strong the channel is."""
  is_noise = isinstance(channel, Gaussian)
  strength = {"sigma": channel.sigma} if is_noise else {"bits": channel.bits}
  return {**strength, **measured.as_json()}


def violations(found: list[dict[str, Any]], num_errors: float = 3.0) -> list[str]:
  """The bounds that lie on the wrong side of the truth by more than their errors, in words."""
  wrong = []
  for one in found:
    if one["nats"] is None:
      continue
    error = np.hypot(one["standard_error"] or 0.0, one["truth_standard_error"])
    excess = one["nats"] - one["truth_nats"]
    above = one["kind"] == estimators.LOWER and excess > num_errors * error + ROUNDING_NATS
    below = one["kind"] == estimators.UPPER and -excess > num_errors * error + ROUNDING_NATS
    if above or below:
      wrong.append(
        f"{one['curve']} at {strength_of(one)}: {one['method']} gives {one['nats']:.4g} nats, "
        f"the truth is {one['truth_nats']:.4g}"
      )
  return wrong


# Of float32 sums over all pixels.
ROUNDING_NATS = 1e-3


def strength_of(one: dict[str, Any]) -> str:
  """The channel of a row, in words."""
  return f"sigma {one['sigma']:g}" if "sigma" in one else f"{one['bits']} bits"


def _rng(seed, part):
  return np.random.default_rng((seed, part))
