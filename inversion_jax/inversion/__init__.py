"""Fit, score and sample p(x | h) from arrays, without a configuration.

    train, test = pairs(x, h).split(test=1_000)
    model = fit(train, folder="runs/mine")
    print(model.evaluate(test))
    images = model.sample(test.h[:8], num=4)

The only place where initialisation, loss, step and score of an inverter meet. Nothing here knows
how an experiment is laid out.
"""

from inversion_jax.inversion.comparing import compare
from inversion_jax.inversion.crossing import cross_fit
from inversion_jax.inversion.fitting import first_batch, fit, fitted, subject
from inversion_jax.inversion.folders import (
  FREE_FIELDS,
  NAME,
  REPLICATE,
  STATISTICS,
  fit_statistics,
  load,
  network_of,
  restored,
  saved_standardiser,
)
from inversion_jax.inversion.hub import pull, push
from inversion_jax.inversion.mixing import Mixture, mixture
from inversion_jax.inversion.model import Inversion, mapped_rows
from inversion_jax.inversion.networks import (
  BEFORE,
  DTYPES,
  MODULE_FIELDS,
  VECTOR_DROPOUT,
  WEIGHT_DECAY,
  Cost,
  Network,
  cost,
  param_shapes,
  shapes_of,
  suited,
)
from inversion_jax.inversion.observed import AS_IT_IS, Observed

__all__ = [
  "AS_IT_IS",
  "BEFORE",
  "DTYPES",
  "FREE_FIELDS",
  "MODULE_FIELDS",
  "NAME",
  "REPLICATE",
  "STATISTICS",
  "VECTOR_DROPOUT",
  "WEIGHT_DECAY",
  "Cost",
  "Inversion",
  "Mixture",
  "Network",
  "Observed",
  "compare",
  "cost",
  "cross_fit",
  "first_batch",
  "fit",
  "fit_statistics",
  "fitted",
  "load",
  "mapped_rows",
  "mixture",
  "network_of",
  "param_shapes",
  "pull",
  "push",
  "restored",
  "saved_standardiser",
  "shapes_of",
  "subject",
  "suited",
]
