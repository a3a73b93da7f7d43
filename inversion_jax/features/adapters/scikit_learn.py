"""Transformers of scikit-learn."""

import pathlib
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import sklearn.exceptions

from inversion_jax.features import sources
from inversion_jax.features.adapters import Adapter, first_line
from inversion_jax.machine.errors import UserError


def transformed(
  estimator: Any,
  *,
  method: str = "transform",
  transform: Callable | None = None,
  folder: str | pathlib.Path | None = None,
) -> Adapter:
  """What a fitted estimator makes of flattened images, as a function from images.

      pca = sklearn.decomposition.PCA(16).fit(images.reshape(len(images), -1))
      train, test = ij.pairs(images, ij.features.sklearn(pca)).split()

  Args:
    estimator: fitted to rows of pixels.
    method: of it: "transform", "predict_proba", "decision_function".
    transform: levels (B, H, W, C) to the rows that it takes; None gives the levels themselves, each
      image a row.
    folder: keeps features, under a hash of the estimator and the images.

  Raises:
    UserError: it has no such method; when it is called: it is not fitted, or to other rows.
  """
  name = type(estimator).__name__
  if not callable(getattr(estimator, method, None)):
    raise UserError(f"{name} has no method {method!r}; choose one with method=.")

  def compute(images_BHWC):
    rows = transform(images_BHWC) if transform else images_BHWC.reshape(len(images_BHWC), -1)
    try:
      h = getattr(estimator, method)(rows)
    except (ValueError, sklearn.exceptions.NotFittedError) as error:
      raise UserError(
        f"{name} does not take these images ({first_line(error)}); fit it to such rows, or give a "
        "transform to what it takes."
      ) from error
    return h.toarray() if hasattr(h, "toarray") else np.asarray(h)

  def content():
    yield f"{method} {joblib.hash(estimator)}".encode()

  return Adapter(name, compute, content, batch_size=sources.BATCH_SIZE, folder=folder)
