"""I(x; h~) of a layer seen through noise or few bits, from both sides, over the strength of it.

For each channel an ordinary run under `controls/` trains an inverter on h~, and the estimators work
on the same activations.
"""

import time

import jax
import numpy as np

from inversion_jax import information
from inversion_jax.data import batches
from inversion_jax.features import noise
from inversion_jax.fitting import training
from inversion_jax.information import estimators
from inversion_jax.information.estimators import Measured
from inversion_jax.machine import placement, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run
from inversion_jax.stages import controls

# Pairwise methods compare all rows with all.
MAX_ROWS = 2_000


def run_brackets(run: Run):
  """Trains one inverter for each channel of the configuration, and writes `brackets.json`."""
  if not run.layer or run.config.representation.control or run.channel:
    raise UserError("The brackets stage is for a run that inverts a layer as it is.")
  run.finished("classifier")
  section = run.config.brackets
  strengths = [{"sigma": sigma} for sigma in section.sigmas]
  strengths += [{"bits": bits} for bits in section.bits]
  if not strengths:
    raise UserError("brackets.sigmas and brackets.bits are both empty; give at least one channel.")
  prior_nats_N = _nats(controls.prior(run))
  h_NZ, fit_h_NZ = _activations(run, run.data.test), _activations(run, run.data.train)
  rows = []
  for strength in strengths:
    name = "_".join(f"{field}_{value:g}" for field, value in strength.items())
    start = time.monotonic()
    saving_N = prior_nats_N - _nats(controls.trained(run, name, **strength))
    saved = information.mean_with_error(saving_N, run.data.test.source_N)
    # H(x) is itself the model's, so that this is the difference of two upper bounds.
    inverter = Measured(
      *("inverter", saved.mean, saved.standard_error),
      *(estimators.ESTIMATE, None, time.monotonic() - start),
    )
    channel = noise.make(strength.get("sigma", 0.0), strength.get("bits", 0))
    say("%s %s: other estimators", run.folder, name)
    key = training.key_for(run.root_key, "brackets")
    others = estimators.compare_all(h_NZ, channel, key, fit_h=fit_h_NZ)
    rows += [{**strength, **measured.as_json()} for measured in (inverter, *others)]
    storage.write_json(run.folder / storage.BRACKETS, rows)


def _nats(run):
  return storage.read_npz(run.folder / storage.NATS)["nats"]


def _activations(run, split):
  """Standardised units of up to `MAX_ROWS` images, one of each source so that rows do not depend
  on each other, in random order.
  """
  _, rows_M = np.unique(split.source_N, return_index=True)
  rows_M = np.random.default_rng(run.config.seed).permutation(rows_M)[:MAX_ROWS]
  batch_size = placement.rounded_up(run.config.evaluate.batch_size)
  parts = [
    np.asarray(run.represent(split.images_NHWC[rows_M[picked_B]]))[is_valid_B]
    for picked_B, is_valid_B in batches.eval_batches(len(rows_M), batch_size)
  ]
  h = jax.device_get(np.concatenate(parts))
  return h.reshape(len(h), -1)
