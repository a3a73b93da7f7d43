"""Draws from the inverter of a run; a job that was killed goes on from the batches it had done."""

import pathlib
import shutil

import numpy as np
from jaxtyping import UInt8

from inversion_jax.machine import processes, storage
from inversion_jax.runs import Run


def draw_samples(
  run: Run,
  folder: pathlib.Path,
  *,
  num_images: int,
  num_samples: int,
  num_given_rows: int = 0,
) -> UInt8[np.ndarray, "N S H W C"]:
  """Draws `num_samples` images from p(x | h) for each of the first `num_images` test images.

  A sample is a function of the run, the image and the number of the sample: other stages that draw
  the same get the same.

  Args:
    run: whose inverter, sampler and batch size for sampling are used.
    folder: where finished batches wait for the rest; the caller removes it when all is written.
    num_images, num_samples: as above.
    num_given_rows: rows of the test image that each sample begins with.
  """
  section, model = run.config.sample, run.model
  record = {
    "inverter_step": model.note["best_step"],
    "num_images": num_images,
    "num_samples": num_samples,
    "batch_size": section.batch_size,
    "sampler": section.sampler,
    "num_given_rows": num_given_rows,
  }
  return model.draw(
    run.pairs("test").rows(np.arange(num_images)),
    num_samples,
    sampler=section.sampler,
    batch_size=section.batch_size,
    num_given_rows=num_given_rows,
    parts=_Parts(folder, record),
  )


class _Parts:
  """The batches of an unfinished job, each in a file named by its first sample."""

  def __init__(self, folder: pathlib.Path, record: dict):
    self.folder = folder
    path = folder / "record.json"
    is_ours = path.exists() and storage.read_json(path) == record
    # Not whether there is a folder: another process may just be making it.
    if not is_ours and any(folder.glob("*.npz")):
      processes.by_first(shutil.rmtree, folder)  # Of another job, or none knows of which.
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
