"""Replicates of the inverter on a task, and their mixture: no density exceeds the truth."""

import contextlib
import dataclasses
import pathlib
import tempfile

import numpy as np

from inversion_jax import information, inversion
from inversion_jax.exact import measure
from inversion_jax.exact.tasks import Task
from inversion_jax.fitting.training import Recipe
from inversion_jax.information import mixtures
from inversion_jax.information.statistics import Estimate
from inversion_jax.machine import compilation

# Of the members' weights, spread evenly after each pixel; fixed beforehand.
SHARES = (0.0, 0.1, 1.0)


@dataclasses.dataclass(frozen=True)
class Mixed:
  """What a mixture misses of a task, in nats; each a mean of log p(x | h) - log q(x | h).

  Attributes:
    task: of known log p(x | h).
    gaps: of the members.
    mixture_gaps: of their mixture, by its share.
    over_best: what the mixture of whole images is above its best member, image by image.
    largest_loss: of an image against the member that is best for it; never above log(members).
  """

  task: Task
  gaps: tuple[Estimate, ...]
  mixture_gaps: dict[float, Estimate]
  over_best: Estimate
  largest_loss: float

  @property
  def is_valid(self) -> bool:
    """Whether no density exceeds the truth by more than three standard errors."""
    gaps = (*self.gaps, *self.mixture_gaps.values())
    return all(gap.mean >= -3.0 * gap.standard_error for gap in gaps)

  def as_json(self) -> dict:
    """The numbers, in nats."""
    return {
      "task": self.task.name,
      "truth_nats": self.task.truth_nats,
      "member_gap_nats": [gap.mean for gap in self.gaps],
      "mixtures": [
        {"share": share, **gap.fields("gap_nats")} for share, gap in self.mixture_gaps.items()
      ],
      **self.over_best.fields("over_best_nats"),
      "largest_loss_nats": self.largest_loss,
      "is_valid": self.is_valid,
    }


def measured(task: Task, recipe: Recipe, seed: int, num_members: int) -> Mixed:
  """Trains inverters of several seeds on the same draws of a task, and mixes them."""
  train, test, validation = measure.draws(task, recipe, seed)
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    stack.enter_context(compilation.kept_in(folder))
    members = [
      measure.fitted(task, recipe, train, validation, seed + number)
      for number in range(num_members)
    ]
    batches = inversion.mixture(members).pixel_nats(measure.pairs_of(task, test))
    nats_MNP = np.concatenate(list(batches), axis=1)
  nats_MN = nats_MNP.sum(2)
  by_share = {share: mixtures.nats_along(nats_MNP, share).sum(1) for share in SHARES}
  gaps = [information.mean_with_error(test.log_prob_N + nats_N) for nats_N in nats_MN]
  best_N = nats_MN[np.argmin([gap.mean for gap in gaps])]
  return Mixed(
    task,
    tuple(gaps),
    {
      share: information.mean_with_error(test.log_prob_N + nats_N)
      for share, nats_N in by_share.items()
    },
    information.paired_difference(best_N, by_share[0.0]),
    float((by_share[0.0] - nats_MN.min(0)).max()),
  )
