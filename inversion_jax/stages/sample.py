"""Draws images that the layer cannot tell from the originals, and writes `samples.npz`."""

import shutil
import time

import jax
import numpy as np

from inversion_jax.machine import placement, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.models import decoders
from inversion_jax.runs import Run
from inversion_jax.stages.drawing import draw_samples

# Batches that are done wait here until all are: a killed job goes on from them.
PARTS = "samples_unfinished"


def sample(run: Run):
  """Samples p(x | h) for the first test images, several times each.

  Beside them stands the decoder's reconstruction, if there is one.
  """
  inverter_step = run.finished("inverter")["best_step"]
  record = {"inverter_step": inverter_step, **run.config.sample.to_dict()}
  decoder_step = run.progress().get("decoder", {}).get("best_step")
  done = run.progress().get("sample", {})
  path = run.folder / storage.SAMPLES
  is_drawn = done | record == done and path.exists()
  if is_drawn and done.get("decoder_step") == decoder_step:
    return
  start = time.monotonic()
  arrays = storage.read_npz(path) if is_drawn else _samples(run, inverter_step)
  arrays.pop("reconstruction", None)  # Of an earlier decoder.
  if decoder_step is not None:
    arrays["reconstruction"] = _reconstructions(run, decoder_step, arrays)
  storage.write_npz(path, arrays)
  seconds = time.monotonic() - start + (done["seconds"] if is_drawn else 0.0)
  run.note("sample", record | {"decoder_step": decoder_step, "seconds": seconds})
  shutil.rmtree(run.folder / PARTS, ignore_errors=True)


def _reconstructions(run, step, arrays):
  """What the decoder makes of the h of the original images, as levels."""
  params, size = run.restored("decoder", step).ema_params, arrays["original"].shape[1:3]
  replicated = placement.data_parallel()[1]
  images_and_index = placement.put((arrays["original"], arrays["index"]), replicated)

  @jax.jit
  def reconstruct(params, z):
    images_BHWC = run.decoder().apply({"params": params}, z, size)
    return decoders.to_levels(images_BHWC, run.data.num_levels)

  return np.asarray(reconstruct(params, run.observe(*images_and_index)), np.uint8)


def _samples(run, inverter_step):
  """The arrays of `samples.npz`."""
  test, section = run.data.test, run.config.sample
  _check_given_rows(section.num_given_rows, test.images_NHWC.shape[1])
  num_images = min(section.num_images, len(test.images_NHWC))
  levels_NSHWC = draw_samples(
    run,
    run.folder / PARTS,
    inverter_step=inverter_step,
    num_images=num_images,
    num_samples=section.num_samples,
    num_given_rows=section.num_given_rows,
  )
  return {
    "original": test.images_NHWC[:num_images],
    "sample": levels_NSHWC,
    "index": test.index_N[:num_images],
    "label": test.labels_N[:num_images],
  }


def _check_given_rows(num_given_rows, height):
  if num_given_rows >= height:
    raise UserError(
      f"sample.num_given_rows={num_given_rows} leaves nothing to draw: the images have {height} "
      "rows."
    )
