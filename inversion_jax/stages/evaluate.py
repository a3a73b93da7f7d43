"""Scores the test set once, with the best models: `nats.npz`, `maps.npz`, `summary.json`."""

import pathlib
import shlex
import sys
import time

import inversion_jax
from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.runs import Run
from inversion_jax.stages import classifier, decoder

FILES = (storage.NATS, storage.MAPS, storage.SUMMARY)


def made_for(run: Run) -> dict:
  """The models that are scored, and how many maps are kept."""
  return {
    "inverter_step": run.finished("inverter")["best_step"],
    "decoder_step": run.notes().get("decoder", {}).get("best_step"),
    "num_maps": run.config.evaluate.num_maps,
  }


def check(run: Run):
  """Raises UserError if the test images are too few for an interval."""
  run.check_evidence(len(run.images("test")), "data.num_test")


def act(run: Run):
  """Writes the nats of every test image, under the averaged and the live parameters.

  And the nats of every pixel: of `evaluate.num_maps` images, and their mean over all.
  """
  start = time.monotonic()
  model = run.model
  result = model.score(run.pairs("test"), num_maps=run.config.evaluate.num_maps)
  facts = model.facts() | _classifier_facts(run) | _decoder_facts(run) | {"command": _command()}
  facts["seconds"] |= {"evaluate": time.monotonic() - start}
  result.save(run.folder, facts)


def _classifier_facts(run):
  if not run.has_classifier:
    return {"classifier_test_accuracy": None, "classifier_step": None}
  is_correct_N, _ = classifier.scorer(run)(run.classifier_params(), run.images("test"))
  return {
    "classifier_test_accuracy": float(is_correct_N.mean()),
    "classifier_step": run.classifier_step(),
  }


def _decoder_facts(run):
  step = made_for(run)["decoder_step"]
  if step is None:
    return {}
  test = run.pairs("test")
  mse = information.mean_with_error(
    decoder.scorer(run)(decoder.params_at(run, step), test), test.sources
  )
  return {
    "decoder_mse": mse.mean,
    "decoder_mse_standard_error": mse.standard_error,
    "decoder_steps": step,
  }


def _command():
  """What was typed, or for a console script the same as a module; launches are another module."""
  root = pathlib.Path(inversion_jax.__file__).parents[1]
  program = pathlib.Path(sys.argv[0]).absolute().with_suffix("")
  # Not `__main__`, which in a process that works side by side with others is another.
  is_ours = program.is_relative_to(root / inversion_jax.__name__)
  name = ".".join(program.relative_to(root).parts) if is_ours else "inversion_jax.main"
  return shlex.join(["python", "-m", name.removesuffix(".__main__"), *sys.argv[1:]])
