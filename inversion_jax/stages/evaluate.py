"""Scores the test set once, with the best models: `nats.npz`, `maps.npz`, `summary.json`."""

import shlex
import sys
import time

import jax
import numpy as np
from jaxtyping import Int

from inversion_jax import information
from inversion_jax.machine import storage
from inversion_jax.runs import Run
from inversion_jax.stages import scoring


def evaluate(run: Run):
  """Writes the nats of every test image, under the averaged and the live parameters.

  And the nats of every pixel: of `evaluate.num_maps` images, and their mean over all.
  """
  inverter_step = run.finished("inverter")["best_step"]
  decoder_step = run.progress().get("decoder", {}).get("best_step")
  made_for = {
    "inverter_step": inverter_step,
    "decoder_step": decoder_step,
    "num_maps": run.config.evaluate.num_maps,
  }
  done = {"decoder_step": None} | run.progress().get("evaluate", {})
  if done | made_for == done:
    return
  start = time.monotonic()
  test, state = run.data.test, run.restored("inverter", inverter_step)
  nats_N, live_nats_N, maps = _scores(run, state)
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
  storage.write_npz(run.folder / storage.MAPS, maps)
  seconds = time.monotonic() - start
  summary = _summary(run, state, nats_N, live_nats_N) | _decoder_summary(run, decoder_step)
  summary["seconds"] = _seconds(run) | {"evaluate": seconds}
  storage.write_json(run.folder / storage.SUMMARY, summary)
  run.note("evaluate", made_for | {"seconds": seconds})


def _scores(run, state):
  """Nats of every image under averaged and live parameters, and what `maps.npz` holds."""
  test = run.data.test
  num_images = len(test.images_NHWC)
  rows_n = mapped_rows(num_images, run.config.evaluate.num_maps)
  kept, parts, sum_HW, start = [], [], 0.0, 0
  score = scoring.pixel_scorer(run)
  for batch in score([state.ema_params, state.params], test, "evaluate"):
    parts.append([nats_BHW.sum((1, 2)) for nats_BHW in batch])
    nats_BHW, _ = batch
    here = rows_n[(rows_n >= start) & (rows_n < start + len(nats_BHW))]
    kept.append(nats_BHW[here - start].astype(np.float32))
    sum_HW = sum_HW + nats_BHW.sum(0)
    start += len(nats_BHW)
  nats_N, live_nats_N = (np.concatenate(column) for column in zip(*parts, strict=True))
  maps = {
    "index": test.index_N[rows_n],
    "image": test.images_NHWC[rows_n],
    "nats": np.concatenate(kept),
    "mean_nats": sum_HW / num_images,
  }
  return nats_N, live_nats_N, maps


def mapped_rows(num_images: int, num_maps: int) -> Int[np.ndarray, " n"]:
  """Which test images keep their maps, in order: a sample that is the same in every run.

  Not the first ones, which may come from few writers or sources; a smaller sample is part of a
  larger one.
  """
  return np.sort(np.random.default_rng(0).permutation(num_images)[:num_maps])


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
    "command": _command(),
  }


def _command():
  """What was typed, or for a console script the same as a module; launches are another module."""
  module = getattr(sys.modules["__main__"], "__spec__", None)
  name = module.name.removesuffix(".__main__") if module else "inversion_jax.main"
  return shlex.join(["python", "-m", name, *sys.argv[1:]])


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
