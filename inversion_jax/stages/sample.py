"""Draws images that the layer cannot tell from the originals, and writes `samples.npz`."""

import shutil

import numpy as np

from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run
from inversion_jax.stages import decoder
from inversion_jax.stages.drawing import draw_samples

# Batches that are done wait here until all are: a killed job goes on from them.
PARTS = "samples_unfinished"
FILES = (storage.SAMPLES,)


def made_for(run: Run) -> dict:
  """The models that draw, and what they draw."""
  return _drawn_for(run) | {"decoder_step": run.notes().get("decoder", {}).get("best_step")}


def _drawn_for(run):
  return {
    "inverter_step": run.finished("inverter")["best_step"],
    **run.config.sample.to_dict(),
  }


def check(run: Run):
  """Raises UserError if the given rows leave nothing to draw."""
  height, num_given_rows = run.images("test").image_shape[0], run.config.sample.num_given_rows
  if num_given_rows >= height:
    raise UserError(
      f"sample.num_given_rows={num_given_rows} leaves nothing to draw: the images have {height} "
      "rows."
    )


def act(run: Run):
  """Samples p(x | h) for the first test images, several times each.

  Beside them stands the decoder's reconstruction, if there is one.
  """
  path, note, wanted = (
    run.folder / storage.SAMPLES,
    run.notes().get("sample", {}),
    _drawn_for(run),
  )
  is_drawn = note | wanted == note and path.exists()
  arrays = storage.read_npz(path) if is_drawn else _samples(run)
  arrays.pop("reconstruction", None)  # Of an earlier decoder.
  decoder_step = made_for(run)["decoder_step"]
  if decoder_step is not None:
    shown = run.pairs("test").rows(np.arange(len(arrays["original"])))
    arrays["reconstruction"] = decoder.reconstructions(
      run, decoder.params_at(run, decoder_step), shown
    )
  storage.write_npz(path, arrays)
  shutil.rmtree(run.folder / PARTS, ignore_errors=True)


def _samples(run):
  """The arrays of `samples.npz`."""
  test, section = run.images("test"), run.config.sample
  num_images = min(section.num_images, len(test))
  levels_NSHWC = draw_samples(
    run,
    run.folder / PARTS,
    num_images=num_images,
    num_samples=section.num_samples,
    num_given_rows=section.num_given_rows,
  )
  return {
    "original": test.images[:num_images],
    "sample": levels_NSHWC,
    "index": test.index[:num_images],
    "label": test.labels[:num_images],
  }
