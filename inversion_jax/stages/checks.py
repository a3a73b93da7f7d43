"""Questions whose answer is known, asked of a run: an inverter that fails one cannot be believed.

Each control is an ordinary run under `controls/`, trained like the run itself with something else
in the place of h.
"""

from typing import NamedTuple

import numpy as np

from inversion_jax import information
from inversion_jax.features import wrappers
from inversion_jax.information.statistics import Estimate
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run
from inversion_jax.stages import controls

# Two trainings of one model end this far apart, as a fraction of the unconditional nats; an
# interval over test images does not see it.
TRAINING_TOLERANCE = 0.02
# With x itself as h, what may be left of the unconditional nats.
COPY_TOLERANCE = 0.25


class Check(NamedTuple):
  """One question: `difference` in nats per image lies between `least` and `most`, or fails.

  Positive differences say that the run recovers more than what it is compared with. The interval
  at 95% of the difference must overlap [least, most].
  """

  name: str
  question: str
  difference: Estimate
  least: float
  most: float

  @property
  def passes(self) -> bool:
    """Whether the answer is the known one."""
    low, high = self.difference.interval()
    return low <= self.most and high >= self.least


def check(run: Run):
  """Raises UserError if a run has nothing to be checked."""
  if not run.layer or run.config.representation.control:
    raise UserError("The checks stage is for a run that inverts a layer; this one has none.")


def act(run: Run):
  """Trains the controls, writes `checks.json`, and raises UserError if a check fails.

  Takes about six times as long as training the run.
  """
  trained = {name: controls.trained(run, name, control=name) for name in wrappers.CONTROLS[1:]}
  trained[controls.PRIOR] = controls.prior(run)
  checks = _checks(run, trained)
  step = run.finished("inverter")["best_step"]
  rows = [_as_json(one) | {"inverter_step": step} for one in checks]
  storage.write_json(run.folder / storage.CHECKS, rows)
  for one in checks:
    low, high = one.difference.interval()
    say(
      "check %s: %s; %s (%.3g nats, 95%% interval %.3g to %.3g, admitted %.3g to %.3g)",
      one.name,
      "passed" if one.passes else "FAILED",
      one.question,
      one.difference.mean,
      low,
      high,
      one.least,
      one.most,
    )
  failed = [one.name for one in checks if not one.passes]
  if failed:
    raise UserError(
      f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}; see "
      f"{run.folder / storage.CHECKS}. Numbers of this run should not be used."
    )


def _checks(run, trained) -> list[Check]:
  test = run.images("test")
  nats = {name: _nats(control, control) for name, control in trained.items()}
  nats["run"] = _nats(run, run)
  nats["shuffled_scored"] = _nats(run, trained["shuffled"])
  first_row = test.image_shape[0] // 2
  tail = {
    name: _nats(trained[name], trained[name], first_row) for name in (controls.PRIOR, "top_rows")
  }
  prior_nats = float(nats[controls.PRIOR].mean())
  tolerance = TRAINING_TOLERANCE * prior_nats

  def gain(of_nats_N, over_nats_N):
    return information.paired_difference(over_nats_N, of_nats_N, test.sources)

  def near_zero(name, question, difference):
    return Check(name, question, difference, least=-tolerance, most=tolerance)

  return [
    Check(
      name="shuffled h, scored",
      question="h of other images must not help more than no h",
      difference=gain(nats["shuffled_scored"], nats[controls.PRIOR]),
      least=-np.inf,
      most=0.0,
    ),
    near_zero(
      "shuffled h, trained",
      "trained on h of other images, the model must end at the unconditional nats",
      gain(nats["shuffled"], nats[controls.PRIOR]),
    ),
    Check(
      name="copy",
      question="with x itself as h the nats must fall towards zero",
      difference=information.mean_with_error(-nats["pixels"], test.sources),
      least=-COPY_TOLERANCE * prior_nats,
      most=0.0,
    ),
    near_zero(
      "top rows",
      "the upper rows as h must leave the unconditional nats of the lower rows",
      gain(tail["top_rows"], tail[controls.PRIOR]),
    ),
    near_zero(
      "permuted h",
      "the units of h in another order must change nothing",
      gain(nats["permuted"], nats["run"]),
    ),
    near_zero(
      "rescaled h",
      "the units of h on other scales must change nothing",
      gain(nats["rescaled"], nats["run"]),
    ),
  ]


def _nats(model_of: Run, h_of: Run, first_row: int = 0):
  """-log p(x | h) of each test image: the inverter of one run, given the h of another."""
  return model_of.model.nats(h_of.pairs("test"), first_row=first_row)


def _as_json(check):
  low, high = check.difference.interval()
  return {
    "check": check.name,
    "question": check.question,
    "passes": check.passes,
    "difference_nats": check.difference.mean,
    "standard_error": check.difference.standard_error,
    "low": low,
    "high": high,
    "least": None if np.isinf(check.least) else check.least,
    "most": check.most,
  }
