"""The other estimators on the tasks, to see where each breaks."""

import jax
import numpy as np

from inversion_jax.exact.tasks import Task
from inversion_jax.features.noise import Gaussian
from inversion_jax.information import estimators

NUM_IMAGES = 1_000
# Small against the distance of two codes: of the information that h holds, next to none is lost.
SIGMA = 0.1


def estimates(task: Task, seed: int = 0) -> dict[str, dict]:
  """What each method says about I(x; h), by method, in nats.

  Methods with a noise channel see h + 0.1 eps. They need p(h | x), that is h = f(x): where h is
  itself random given x, only the discretisation can be computed, and it takes the noise for
  information.
  """
  h = task.draw(np.random.default_rng((seed, 2)), NUM_IMAGES).h
  if task.is_deterministic:
    measured = estimators.compare_all(h, Gaussian(SIGMA), jax.random.key(seed))
  else:
    measured = [estimators.discretisation(h.reshape(len(h), -1))]
  return {one.method: {k: v for k, v in one.as_json().items() if k != "method"} for one in measured}
