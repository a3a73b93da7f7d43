"""Cross-fitting: no image trains both the classifier and what is learnt from its layer.

A classifier that was fitted on an image treats it otherwise than others, so that the h that an
inverter learns from and the h that it is scored with have two laws; with a classifier that has
learnt its images by heart, very different ones. Here the classifier learns from one half of the
images and the inverter from the other, and the other way round, and every test image gets the mean
of both. Halves are fewer images, which costs nats of its own; so beside it stands the same with
both on one half.
"""

import numpy as np

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say
from inversion_jax.runs import Run
from inversion_jax.stages import controls
from inversion_jax.stages.basic import CLASSIFIER, INVERTER

NAME = "crossfit"
# The halves of the classifier and of the inverter, by the name of the run's folder.
CROSSED = {"crossed_1": (1, 2), "crossed_2": (2, 1)}
SAME = {"same_1": (1, 1), "same_2": (2, 2)}
PARTS = CROSSED | SAME


def check(run: Run):
  """Raises UserError if there is no classifier to be fitted on a half, or the halves are small."""
  if not run.has_classifier or run.config.representation.control:
    raise UserError("The crossfit stage is for a run that inverts a layer of its own classifier.")
  if run.config.classifier.half or run.config.inverter.half:
    raise UserError("The crossfit stage halves the images itself; set both fields half to 0.")
  for name in PARTS:
    for stage in (CLASSIFIER, INVERTER):
      stage.check(_part(run, name))


def _part(run, name):
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.classifier.half, config.inverter.half = PARTS[name]
  return Run(config, run.folder / NAME / name)


def act(run: Run):
  """Trains the halves and writes `crossfit.json`; about as long as training the run three times."""
  crossed_N, same_N = (
    np.mean([_nats(controls.evaluated(_part(run, name))) for name in parts], axis=0)
    for parts in (CROSSED, SAME)
  )
  usual_N, sources_N = _nats(run), run.images("test").sources

  def difference(name, nats_N, other_N):
    return information.paired_difference(other_N, nats_N, sources_N).fields(name)

  rows = {"usual": usual_N, "same_half": same_N, "cross_fitted": crossed_N}
  found = {
    "inverter_step": run.finished("inverter")["best_step"],
    "num_sources": len(np.unique(sources_N)),
    **{
      name: value
      for row, nats_N in rows.items()
      for name, value in information.mean_with_error(-nats_N, sources_N)
      .fields(f"{row}_nce_nats")
      .items()
    },
    **difference("cross_fitted_minus_usual_nats", crossed_N, usual_N),
    **difference("cross_fitted_minus_same_half_nats", crossed_N, same_N),
  }
  storage.write_json(run.folder / storage.CROSSFIT, found)
  say(
    "cross-fitted: NCE %.4g nats per image (usual: %.4g, both on one half: %.4g)",
    *(found[f"{row}_nce_nats"] for row in ("cross_fitted", "usual", "same_half")),
  )


def _nats(run):
  return storage.read_npz(run.folder / storage.NATS)["nats"]
