"""Draws images that the layer cannot tell from the originals, and writes `samples.npz`."""

import functools
import time

import jax
import numpy as np

from inversion_jax import placement, sampling, storage, training
from inversion_jax.progress import track
from inversion_jax.runs import Run


def sample(run: Run):
  """Samples p(x | h) for the first test images, several times each."""
  inverter_step = run.finished("inverter")["best_step"]
  record = {"inverter_step": inverter_step, **run.config.sample.to_dict()}
  done = run.progress().get("sample", {})
  if done | record == done:
    return
  start = time.monotonic()
  test, section = run.data.test, run.config.sample
  num_images = min(section.num_images, len(test.images_NHWC))
  rows_M, sample_M = np.divmod(np.arange(num_images * section.num_samples), section.num_samples)
  draw = _draw_fn(run, run.restored("inverter", inverter_step).ema_params)
  levels_MHWC = _in_batches(draw, rows_M, sample_M, placement.rounded_up(section.batch_size))
  image_shape = test.images_NHWC.shape[1:]
  storage.write_npz(
    run.folder / storage.SAMPLES,
    {
      "original": test.images_NHWC[:num_images],
      "sample": levels_MHWC.reshape(num_images, section.num_samples, *image_shape),
      "index": test.index_N[:num_images],
      "label": test.labels_N[:num_images],
    },
  )
  run.note("sample", record | {"seconds": time.monotonic() - start})


def _draw_fn(run, params):
  """`draw(rows_B, sample_B)` -> uint8 levels of one sample for each of these test images."""
  test, represent, inverter = run.data.test, run.represent, run.inverter()
  root_key = training.key_for(run.root_key, "sample")
  size = test.images_NHWC.shape[1:3]

  @functools.partial(jax.jit, out_shardings=placement.data_parallel()[1])
  def draw_batch(params, z, index_B, sample_B):
    keys_B = sampling.sample_keys(root_key, index_B, sample_B)
    contexts = inverter.apply({"params": params}, z, size, method="contexts")

    def head_fn(levels_BHWC):
      return inverter.apply({"params": params}, levels_BHWC, contexts, method="head")

    return sampling.ancestral(head_fn, inverter.likelihood, keys_B, size)

  def draw(rows_B, sample_B):
    images_BHWC, index_B, sample_B = placement.put_batch(
      (test.images_NHWC[rows_B], test.index_N[rows_B], sample_B)
    )
    z = represent(images_BHWC) if represent else None
    return np.asarray(draw_batch(params, z, index_B, sample_B), np.uint8)

  return draw


def _in_batches(draw, rows_M, sample_M, batch_size):
  """Draws all samples in batches of one size, the last filled up."""
  num_samples = len(rows_M)
  batch_size = min(batch_size, placement.rounded_up(num_samples))
  parts = []
  with track("sample", num_samples, unit="image") as shown:
    for start in range(0, num_samples, batch_size):
      picked_B = np.minimum(np.arange(start, start + batch_size), num_samples - 1)
      num_new = min(batch_size, num_samples - start)
      parts.append(draw(rows_M[picked_B], sample_M[picked_B])[:num_new])
      shown.update(num_new)
  return np.concatenate(parts)
