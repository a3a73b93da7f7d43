"""Layers that are seen through noise: bounds of I(x; h~) from both sides, beside the inverter's.

Training an inverter leaves one number that depends on how well it reads; through noise the quantity
is real, and what is below and above it needs no inverter.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from inversion_jax import information
from inversion_jax.features.noise import Gaussian
from inversion_jax.fitting import training
from inversion_jax.information import densities, estimators
from inversion_jax.runs import Run
from inversion_jax.stages import brackets

# Quick enough for every snapshot; the autoregressive one is for few units.
FAMILIES = (densities.GaussianDensity, densities.GaussianMixtureDensity)


class Sides(NamedTuple):
  """Nats of I(x; h~) of one run; `lower` cannot exceed `ceiling`, which is log of the rows."""

  lower: float
  upper: float
  ceiling: float


def sides(run: Run) -> Sides:
  """InfoNCE with the known channel, and the cross entropy of a density fitted on training rows.

  Only for a run whose layer is seen through Gaussian noise.
  """
  channel, key = run.channel, training.key_for(run.root_key, "brackets")
  h_NZ, fit_h_NZ = (brackets.activations(run, split) for split in ("test", "train"))
  lower = estimators.infonce(h_NZ, channel, key, batch_size=len(h_NZ))
  density = estimators.fit_density(fit_h_NZ, channel, key, FAMILIES)
  upper = estimators.density_upper(h_NZ, channel, key, density.log_prob)
  return Sides(lower.nats, upper.nats, lower.ceiling_nats)


def of_seeds(folders: Sequence[pathlib.Path]) -> list[Sides]:
  """Those of the runs of each seed; none if their layers are not seen through Gaussian noise."""
  runs = [Run.load(folder) for folder in folders]
  return [sides(run) for run in runs if isinstance(run.channel, Gaussian)]


def cells(now_S: Sequence[Sides], before_S: Sequence[Sides]) -> dict[str, float]:
  """Cells of a row of figure 5b: both sides over seeds, and their change since another row."""
  if not now_S:
    return {}
  found = {"ceiling_nats": now_S[0].ceiling}
  for name in ("lower", "upper"):
    values_S, earlier_S = (
      np.array([getattr(one, name) for one in row]) for row in (now_S, before_S)
    )
    found |= _over_seeds(name, values_S)
    found |= _over_seeds(f"{name}_since_before", values_S - earlier_S)
  return found


def _over_seeds(name: str, values_S: Float[np.ndarray, " S"]) -> dict[str, float]:
  """The mean with its interval, in which images count as far as they differ between seeds."""
  found = {f"{name}_nats": float(values_S.mean())}
  if len(values_S) > 1:
    # Student's alone: a few seeds tell nothing of their skewness.
    low, high = information.mean_with_error(values_S)._replace(skewness=0.0).interval()
    found |= {f"{name}_low": low, f"{name}_high": high}
  return found
