"""Cross-fitting: the network is fitted on one half of the images, its h of the other is read."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from inversion_jax.features import pairs as making
from inversion_jax.features.pairs import Pairs
from inversion_jax.inversion.fitting import fit
from inversion_jax.machine.errors import UserError
from inversion_jax.results import Result


def cross_fit(
  train: Pairs,
  test: Pairs,
  network_of: Callable[[Pairs], Callable[[np.ndarray], Any]],
  *,
  folder: str | pathlib.Path | None = None,
  **settings: Any,
) -> Result:
  """What the layer of a network tells of images that the network was not fitted on.

      result = ij.cross_fit(train, test, network_of)

  A network treats the images that it was fitted on otherwise than new ones, so a reader that learns
  from their h is scored on h of another law. Here it learns from h of images that are new to the
  network, as the test images are. Halves are fewer images: compare with what is fitted to halves.

  Args:
    train: images, with their labels, sources and levels; their own h is not looked at.
    test: images, scored once for each half.
    network_of: fits a network on one half and returns its layer, as `h` of `ij.pairs`: a function
      from images (B, H, W, C) to (B, ...).
    folder: gets a run folder for each half; None keeps everything in memory.
    settings: of `fit`; a validation set is held out of each half.

  Returns:
    The nats of the test images, each the mean over both halves, as of one model.
  """
  if {"validation", "seeds"} & settings.keys():
    raise UserError("cross_fit takes the settings of fit but validation and seeds.")
  results = []
  for fitted_on, read_from in (making.HALVES, making.HALVES[::-1]):
    layer = network_of(train.half(fitted_on).without_h())
    own = folder and pathlib.Path(folder) / f"crossed_{fitted_on}"
    model = fit(_with(layer, train.half(read_from)), folder=own, **settings)
    results.append(model.evaluate(_with(layer, test)))
  nats_N, live_nats_N = (
    np.mean([getattr(result, name) for result in results], axis=0) for name in ("nats", "live_nats")
  )
  return Result(results[0].pairs, results[0].layer, nats_N, live_nats_N, {})


def _with(layer, images):
  """The same images with h of a layer."""
  return making.pairs(
    images.images,
    layer,
    num_levels=images.num_levels,
    labels=images.labels,
    sources=images.sources,
  )
