"""I(x; h~) of a layer seen through noise or few bits, from both sides, over the strength of it.

For each channel an ordinary run under `controls/` trains an inverter on h~, and the estimators work
on the same activations. All of these inverters have the recipe of p(x): behind much noise h tells
next to nothing, and what a shorter recipe leaves unlearnt of p(x) would be taken for its silence.
"""

import time

import numpy as np
from jaxtyping import Float

from inversion_jax import config as config_lib
from inversion_jax import information
from inversion_jax.features import noise
from inversion_jax.fitting import training
from inversion_jax.information import estimators
from inversion_jax.information.estimators import Measured
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run
from inversion_jax.stages import controls
from inversion_jax.stages.records import only_for_layers

# Pairwise methods compare all rows with all.
MAX_ROWS = 2_000
# Not the p(x) of the checks, which learns as the layer does.
PRIOR = "brackets_prior"


def check(run: Run):
  """Raises UserError if a run has no layer, no channel to see it through, or others' controls."""
  only_for_layers("brackets")(run)
  if not _strengths(run):
    raise UserError("brackets.sigmas and brackets.bits are both empty; give at least one channel.")
  for control in (_prior(run), *(_seen_through(run, strength) for strength in _strengths(run))):
    control.check_folder()


def _strengths(run):
  section = run.config.brackets
  return [{"sigma": sigma} for sigma in section.sigmas] + [{"bits": bits} for bits in section.bits]


def _prior(run):
  return _control(run, PRIOR, layer=config_lib.NO_LAYER)


def _seen_through(run, strength):
  return _control(run, _name(strength), **strength)


def _name(strength):
  return "_".join(f"{field}_{value:g}" for field, value in strength.items())


def _control(run, name, **changes):
  like = config_lib.with_recipe_of(run.config, config_lib.NO_LAYER)
  return controls.named(run, name, like, **changes)


def act(run: Run):
  """Trains one inverter for each channel of the configuration, and writes `brackets.json`."""
  run.fit_statistics()
  prior_nats_N = _nats(controls.evaluated(_prior(run)))
  h_NZ, fit_h_NZ = activations(run, "test"), activations(run, "train")
  rows = []
  for strength in _strengths(run):
    start = time.monotonic()
    saving_N = prior_nats_N - _nats(controls.evaluated(_seen_through(run, strength)))
    saved = information.mean_with_error(saving_N, run.images("test").sources)
    # H(x) is itself the model's, so that this is the difference of two upper bounds.
    inverter = Measured(
      method="inverter",
      nats=saved.mean,
      standard_error=saved.standard_error,
      kind=estimators.ESTIMATE,
      ceiling_nats=None,
      seconds=time.monotonic() - start,
    )
    channel = noise.make(strength.get("sigma", 0.0), strength.get("bits", 0))
    say("%s %s: other estimators", run.folder, _name(strength))
    key = training.key_for(run.root_key, "brackets")
    others = estimators.compare_all(h_NZ, channel, key, fit_h=fit_h_NZ)
    rows += [{**strength, **measured.as_json()} for measured in (inverter, *others)]
    storage.write_json(run.folder / storage.BRACKETS, rows)


def _nats(run):
  return storage.read_npz(run.folder / storage.NATS)["nats"]


def activations(run: Run, split: str) -> Float[np.ndarray, "N Z"]:
  """Standardised units of up to `MAX_ROWS` images, one of each source so that rows do not depend
  on each other, in random order.
  """
  seen = run.observed.clean(run.pairs(split))
  _, rows_M = np.unique(seen.sources, return_index=True)
  chosen = seen.rows(np.random.default_rng(run.config.seed).permutation(rows_M)[:MAX_ROWS])
  return chosen.h.reshape(len(chosen), -1)
