"""Draws from the inverter of a run; a job that was killed goes on from the batches it had done."""

import pathlib
import shutil

import numpy as np
from jaxtyping import UInt8

from inversion_jax.fitting import training
from inversion_jax.machine import compilation, placement, processes, storage
from inversion_jax.machine.progress import track
from inversion_jax.models import sampling
from inversion_jax.runs import Run


def draw_samples(
  run: Run,
  folder: pathlib.Path,
  *,
  inverter_step: int,
  num_images: int,
  num_samples: int,
  num_given_rows: int = 0,
) -> UInt8[np.ndarray, "N S H W C"]:
  """Draws `num_samples` images from p(x | h) for each of the first `num_images` test images.

  A sample is a function of the run, the image and the number of the sample: other stages that draw
  the same get the same.

  Args:
    run: whose sampler and batch size for sampling are used.
    folder: where finished batches wait for the rest; the caller removes it when all is written.
    inverter_step: of the checkpoint that draws.
    num_images, num_samples: as above.
    num_given_rows: rows of the test image that each sample begins with.
  """
  section = run.config.sample
  record = {
    "inverter_step": inverter_step,
    "num_images": num_images,
    "num_samples": num_samples,
    "batch_size": section.batch_size,
    "sampler": section.sampler,
    "num_given_rows": num_given_rows,
  }
  rows_M, sample_M = np.divmod(np.arange(num_images * num_samples), num_samples)
  draw = _draw_fn(run, run.restored("inverter", inverter_step).ema_params, num_given_rows)
  batch_size = placement.rounded_up(section.batch_size)
  levels_MHWC = _in_batches(draw, rows_M, sample_M, batch_size, _Parts(folder, record))
  return levels_MHWC.reshape(num_images, num_samples, *levels_MHWC.shape[1:])


class _Parts:
  """The batches of an unfinished job, each in a file named by its first sample."""

  def __init__(self, folder: pathlib.Path, record: dict):
    self.folder = folder
    path = folder / "record.json"
    if path.exists() and storage.read_json(path) != record:
      processes.by_first(shutil.rmtree, folder)  # Of another job.
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


def _draw_fn(run, params, num_given_rows):
  """`draw(rows_B, sample_B)` -> uint8 levels of one sample for each of these test images."""
  test, observe, inverter = run.data.test, run.observe, run.inverter()
  root_key, sampler = training.key_for(run.root_key, "sample"), run.config.sample.sampler
  size = test.images_NHWC.shape[1:3]

  @placement.per_device
  def draw_batch(params, z, images_BHWC, index_B, sample_B):
    keys_B = sampling.sample_keys(root_key, index_B, sample_B)
    model = inverter.bind({"params": params})
    given_BRWC = images_BHWC[:, :num_given_rows] if num_given_rows else None
    contexts = model.contexts(z, size)
    return sampling.draw(model, contexts, keys_B, size, sampler=sampler, given_BRWC=given_BRWC)

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
