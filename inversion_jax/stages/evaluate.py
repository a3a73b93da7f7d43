"""Scores the test set once, with the best models, and writes `nats.npz` and `summary.json`."""

import shlex
import sys
import time

import jax
import numpy as np

from inversion_jax import information, storage
from inversion_jax.runs import Run
from inversion_jax.stages import scoring


def evaluate(run: Run):
  """Writes the nats of every test image, under the averaged and the live parameters."""
  inverter_step = run.finished("inverter")["best_step"]
  decoder_step = run.progress().get("decoder", {}).get("best_step")
  steps = {"inverter_step": inverter_step, "decoder_step": decoder_step}
  done = {"decoder_step": None} | run.progress().get("evaluate", {})
  if done | steps == done:
    return
  start = time.monotonic()
  test, state = run.data.test, run.restored("inverter", inverter_step)
  score = scoring.inverter_scorer(run)
  nats_N, live_nats_N = score([state.ema_params, state.params], test, "evaluate")
  storage.write_npz(
    run.folder / storage.NATS,
    {
      "index": test.index_N,
      "label": test.labels_N,
      "source": test.source_N,
      "nats": nats_N,
      "live_nats": live_nats_N,
    },
  )
  seconds = time.monotonic() - start
  summary = _summary(run, state, nats_N, live_nats_N) | _decoder_summary(run, decoder_step)
  summary["seconds"] = _seconds(run) | {"evaluate": seconds}
  storage.write_json(run.folder / storage.SUMMARY, summary)
  run.note("evaluate", steps | {"seconds": seconds})


def _summary(run, state, nats_N, live_nats_N):
  test = run.data.test
  image_shape = test.images_NHWC.shape[1:]
  nats = information.mean_with_error(nats_N, test.source_N)
  live_nats = information.mean_with_error(live_nats_N, test.source_N)
  return {
    "dataset": run.data.name,
    "layer": run.layer or "none",
    "num_test_images": len(nats_N),
    "image_shape": list(image_shape),
    "num_levels": run.data.num_levels,
    "nce_nats": -nats.mean,
    "nce_nats_standard_error": nats.standard_error,
    "nce_live_nats": -live_nats.mean,
    "nce_live_nats_standard_error": live_nats.standard_error,
    "bits_per_dim": information.bits_per_dim(nats.mean, image_shape),
    "representation_shape": _representation_shape(run),
    "classifier_test_accuracy": _classifier_test_accuracy(run),
    "classifier_step": run.classifier_step(),
    "inverter_num_params": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    "inverter_steps": int(state.step),
    "inverter_train_steps": run.progress()["inverter"]["step"],
    "inverter_batch_size": run.config.inverter.batch_size,
    "train_images_per_second": _train_images_per_second(run),
    "dtype": run.config.dtype,
    "jax_version": jax.__version__,
    "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "seed": run.config.seed,
    "command": shlex.join(["python", "-m", "inversion_jax.main", *sys.argv[1:]]),
  }


def _decoder_summary(run, step):
  if step is None:
    return {}
  test = run.data.test
  (mse_N,) = scoring.decoder_scorer(run)(run.restored("decoder", step).ema_params, test)
  mse = information.mean_with_error(mse_N, test.source_N)
  return {
    "decoder_mse": mse.mean,
    "decoder_mse_standard_error": mse.standard_error,
    "decoder_steps": step,
  }


def _representation_shape(run):
  if not run.layer:
    return None
  return list(jax.eval_shape(run.represent, run.data.test.images_NHWC[:1]).shape[1:])


def _classifier_test_accuracy(run):
  if not run.layer:
    return None
  params = run.restored("classifier", run.classifier_step()).ema_params
  is_correct_N, _ = scoring.classifier_scorer(run)(params, run.data.test)
  return float(is_correct_N.mean())


def _train_images_per_second(run):
  """The median over the log, so that one slow stretch does not count."""
  rates = [
    record["images_per_second"]
    for record in storage.read_metrics(run.folder / storage.METRICS)
    if record["stage"] == "inverter" and "images_per_second" in record
  ]
  return float(np.median(rates)) if rates else None


def _seconds(run):
  return {stage: record["seconds"] for stage, record in run.progress().items()}
