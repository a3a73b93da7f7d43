"""Table 1: samples, encoded again, against the nearest training images in the layer's own space."""

import shutil
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from inversion_jax import information
from inversion_jax.data import batches
from inversion_jax.fitting import scoring
from inversion_jax.information import neighbours
from inversion_jax.machine import placement, storage
from inversion_jax.runs import Run
from inversion_jax.stages.drawing import draw_samples
from inversion_jax.stages.records import only_with_encoder

PARTS, MANY_PARTS = "neighbours_unfinished", "closest_unfinished"
# As many as figure 2 of the paper shows.
NUM_NEAREST = 6


FILES = (storage.NEIGHBOURS, storage.TABLE_1)


def made_for(run: Run) -> dict:
  """The model that draws, and how much."""
  return {
    "inverter_step": run.finished("inverter")["best_step"],
    **run.config.neighbours.to_dict(),
  }


def check(run: Run):
  """Raises UserError if h of new images cannot be had, or images are too few for an interval."""
  only_with_encoder("neighbours")(run)
  run.check_evidence(run.config.neighbours.num_images, "neighbours.num_images")


def act(run: Run):
  """Writes `neighbours.npz`, with the distances of every image, and `neighbours.json`, their means.

  Distances are those of the layer as it is, before standardisation, and a mean over its units.
  Samples are rounded to levels like any image before they go back through the classifier.
  """
  arrays, h_NU = _distances(run)
  storage.write_npz(run.folder / storage.NEIGHBOURS, arrays)
  train = run.images("train")
  table = {
    "dataset": train.dataset,
    "layer": run.layer,
    "num_images": len(arrays["index"]),
    "num_samples": arrays["sample"].shape[1],
    "num_train_images": len(train),
    "num_units": h_NU.shape[1],
    "mean_absolute_h": float(np.abs(h_NU).mean()),
    "inverter_step": run.finished("inverter")["best_step"],
    "classifier_step": run.classifier_step(),
    "seed": run.config.seed,
    **_table(arrays),
  }
  storage.write_json(run.folder / storage.TABLE_1, table)
  for parts in (PARTS, MANY_PARTS):
    shutil.rmtree(run.folder / parts, ignore_errors=True)


def _distances(run):
  """The arrays of `neighbours.npz`, and h of the test images."""
  train, test, section = run.images("train"), run.images("test"), run.config.neighbours
  num_images = min(section.num_images, len(test))
  samples_NSHWC = draw_samples(
    run, run.folder / PARTS, num_images=num_images, num_samples=section.num_samples
  )
  encode, originals_NHWC = encoder(run), test.images[:num_images]
  h_NU = encode(originals_NHWC)
  near = nearest_train(run, encode, h_NU, NUM_NEAREST)
  arrays = {
    "index": test.index[:num_images],
    "label": test.labels[:num_images],
    "source": test.sources[:num_images],
    "original": originals_NHWC,
    "sample": samples_NSHWC,
    "sample_l1": _sample_l1(run, encode, samples_NSHWC, h_NU),
    "nearest": train.images[near.rows_MK],
    "nearest_index": train.index[near.rows_MK],
    "nearest_label": train.labels[near.rows_MK],
    "nearest_l1": near.l1_MK.astype(np.float64),
  }
  if section.num_many:
    num_shown = min(section.num_shown, num_images)
    arrays |= _closest(run, encode, h_NU[:num_shown])
  return arrays, h_NU


def nearest_train(
  run: Run, encode: Callable, h_NU: Float[np.ndarray, "N U"], num_nearest: int
) -> neighbours.Nearest:
  """The training images nearest to each h, by the layer's own distance."""
  train = run.images("train")
  return neighbours.nearest(
    h_NU,
    lambda rows_B: encode(train.images[rows_B]),
    len(train),
    run.eval_batch_size,
    num_nearest,
  )


def _sample_l1(run, encode, samples_NSHWC, h_NU):
  """The distance of each sample to its image, (N, S)."""
  num_samples = samples_NSHWC.shape[1]
  samples_MHWC = samples_NSHWC.reshape(-1, *samples_NSHWC.shape[2:])

  def score_rows(rows_M):
    return (neighbours.l1_distance(encode(samples_MHWC[rows_M]), h_NU[rows_M // num_samples]),)

  (l1_M,) = scoring.scores(score_rows, len(samples_MHWC), run.eval_batch_size, "encode samples")
  return l1_M.reshape(samples_NSHWC.shape[:2])


def _closest(run, encode, h_NU):
  """Figure 2: of many samples of the first images, the closest."""
  samples_NSHWC = draw_samples(
    run,
    run.folder / MANY_PARTS,
    num_images=len(h_NU),
    num_samples=run.config.neighbours.num_many,
  )
  l1_NS = _sample_l1(run, encode, samples_NSHWC, h_NU)
  order_NK = np.argsort(l1_NS, axis=1, kind="stable")[:, :NUM_NEAREST]
  return {
    "closest": np.take_along_axis(samples_NSHWC, order_NK[:, :, None, None, None], axis=1),
    "closest_l1": np.take_along_axis(l1_NS, order_NK, axis=1),
  }


def encoder(run: Run) -> Callable:
  """images (N, H, W, C) -> h (N, U), not standardised, the same on every device."""
  features, batch_size = run.features, run.eval_batch_size
  gather = placement.jit_gathered(lambda h: h.reshape(len(h), -1))

  def encode(levels_NHWC):
    # Full batches alone, since another shape of a batch may round h differently.
    parts = [
      np.asarray(gather(features.encode_images(levels_NHWC[picked_B])))[is_valid_B]
      for picked_B, is_valid_B in batches.eval_batches(len(levels_NHWC), batch_size)
    ]
    return np.concatenate(parts)

  return encode


def _table(arrays):
  """Means over images of 1NN, IM-S and IM-NN, and their differences, paired by image."""
  l1_N = {
    "1NN": arrays["nearest_l1"][:, 0],
    "IM-S": arrays["sample_l1"][:, 0],
    "IM-NN": arrays["sample_l1"].min(axis=1),
  }
  source_N = arrays["source"]
  rows = {
    name: _as_json(information.mean_with_error(values_N, source_N))
    for name, values_N in l1_N.items()
  }
  differences = [
    {"first": first, "second": second}
    | _as_json(information.paired_difference(l1_N[first], l1_N[second], source_N))
    for first, second in (("1NN", "IM-S"), ("1NN", "IM-NN"), ("IM-S", "IM-NN"))
  ]
  return {"rows": rows, "differences": differences}


def _as_json(estimate):
  low, high = estimate.interval()
  return {
    "mean_l1": estimate.mean,
    "standard_error": estimate.standard_error,
    "low": low,
    "high": high,
  }
