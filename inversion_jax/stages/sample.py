"""Draws images that the layer cannot tell from the originals, and writes `samples.npz`."""

import pathlib
import shutil
import time

import numpy as np

from inversion_jax import compilation, placement, sampling, storage, training
from inversion_jax.errors import UserError
from inversion_jax.progress import track
from inversion_jax.runs import Run

# Batches that are done wait here until all are: a killed job goes on from them.
PARTS = "samples_unfinished"


def sample(run: Run):
  """Samples p(x | h) for the first test images, several times each."""
  inverter_step = run.finished("inverter")["best_step"]
  record = {"inverter_step": inverter_step, **run.config.sample.to_dict()}
  done = run.progress().get("sample", {})
  if done | record == done:
    return
  start = time.monotonic()
  test, section = run.data.test, run.config.sample
  _check_given_rows(section.num_given_rows, test.images_NHWC.shape[1])
  num_images = min(section.num_images, len(test.images_NHWC))
  rows_M, sample_M = np.divmod(np.arange(num_images * section.num_samples), section.num_samples)
  draw = _draw_fn(run, run.restored("inverter", inverter_step).ema_params)
  parts = _Parts(run.folder / PARTS, record)
  batch_size = placement.rounded_up(section.batch_size)
  levels_MHWC = _in_batches(draw, rows_M, sample_M, batch_size, parts)
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
  parts.remove()


def _check_given_rows(num_given_rows, height):
  if num_given_rows >= height:
    raise UserError(
      f"sample.num_given_rows={num_given_rows} leaves nothing to draw: the images have {height} "
      "rows."
    )


class _Parts:
  """The batches of an unfinished job, each in a file named by its first sample."""

  def __init__(self, folder: pathlib.Path, record: dict):
    self.folder = folder
    path = folder / "record.json"
    if path.exists() and storage.read_json(path) != record:
      self.remove()  # Of another job.
    storage.write_json(path, record)

  def _path(self, start):
    return self.folder / f"{start:08d}.npz"

  def load(self, start):
    """The batch that begins with sample `start`, or None."""
    path = self._path(start)
    return storage.read_npz(path)["sample"] if path.exists() else None

  def save(self, start, levels_BHWC):
    """Keeps a batch."""
    storage.write_npz(self._path(start), {"sample": levels_BHWC})

  def remove(self):
    """Forgets all."""
    shutil.rmtree(self.folder)


def _draw_fn(run, params):
  """`draw(rows_B, sample_B)` -> uint8 levels of one sample for each of these test images."""
  test, observe, inverter = run.data.test, run.observe, run.inverter()
  root_key, section = training.key_for(run.root_key, "sample"), run.config.sample
  size = test.images_NHWC.shape[1:3]

  @placement.per_device
  def draw_batch(params, z, images_BHWC, index_B, sample_B):
    keys_B = sampling.sample_keys(root_key, index_B, sample_B)
    model = inverter.bind({"params": params})
    given_BRWC = images_BHWC[:, : section.num_given_rows] if section.num_given_rows else None
    contexts = model.contexts(z, size)
    return sampling.draw(
      model, contexts, keys_B, size, sampler=section.sampler, given_BRWC=given_BRWC
    )

  # Every process gets the whole result.
  draw_batch = compilation.jit_sampler(draw_batch, out_shardings=placement.data_parallel()[1])

  def draw(rows_B, sample_B):
    images_BHWC, index_B, sample_B = placement.put_batch(
      (test.images_NHWC[rows_B], test.index_N[rows_B], sample_B)
    )
    z = observe(images_BHWC, index_B) if observe else None
    return np.asarray(draw_batch(params, z, images_BHWC, index_B, sample_B), np.uint8)

  return draw


def _in_batches(draw, rows_M, sample_M, batch_size, parts):
  """Draws all samples in batches of one size, the last filled up."""
  num_samples = len(rows_M)
  batch_size = min(batch_size, placement.rounded_up(num_samples))
  drawn = []
  with track("sample", num_samples, unit="image") as shown:
    for start in range(0, num_samples, batch_size):
      levels_BHWC = parts.load(start)
      if levels_BHWC is None:
        picked_B = np.minimum(np.arange(start, start + batch_size), num_samples - 1)
        levels_BHWC = draw(rows_M[picked_B], sample_M[picked_B])
        parts.save(start, levels_BHWC)
      drawn.append(levels_BHWC[: num_samples - start])
      shown.update(len(drawn[-1]))
  return np.concatenate(drawn)
