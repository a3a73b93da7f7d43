"""Models of one test set, side by side."""

import pathlib
import re
from collections.abc import Mapping

from inversion_jax import report
from inversion_jax.features.pairs import Pairs
from inversion_jax.inversion.mixing import Mixture
from inversion_jax.inversion.model import Inversion
from inversion_jax.machine import locks, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.results import UNCONDITIONAL, Comparison

MADE_BY_COMPARE = "inversion_jax.compare"
RUNS = "runs"


def compare(
  models: Mapping[str, Inversion | Mixture],
  test: Pairs | Mapping[str, Pairs],
  *,
  output: str | pathlib.Path | None = None,
) -> Comparison:
  """Scores models on the same test images, and says which tells more of them, and how surely.

      ij.compare({"mine": model, "p(x)": prior}, test, output="runs/comparison")

  Args:
    models: by the names that they are to have, from the input of a network to its output. The
      members of a mixture are taken for replicates: one row, whose error covers images and seeds,
      and one for their mixture.
    test: pairs for all of them, or by the same names where each has an h of its own; those of a
      p(x) need none.
    output: a folder for tables, figures and `report.html`; None writes nothing.

  Raises:
    UserError: no models, a name without pairs, or pairs of different images.
  """
  if not isinstance(models, Mapping) or not models:
    raise UserError('compare takes models by name, such as {"mine": model, "p(x)": prior}.')
  results = {}
  for name, model in models.items():
    if isinstance(model, Mixture):
      found = model.evaluate(_of_name(name, test))
      results[name] = found.pooled
      results[_mixture_name(name, model)] = found
    elif isinstance(model, Inversion):
      results[name] = model.evaluate(_pairs_of(name, model, test), save=False)
    else:
      raise UserError(f"The model {name!r} is no fitted model but {type(model).__name__}.")
  comparison = Comparison(results, _codelengths(models))
  if output is not None:
    _write(comparison, models, pathlib.Path(output))
  return comparison


def _codelengths(models):
  """Those of single models that kept their first pass; each member of a mixture has its own."""
  return {
    name: model.codelength
    for name, model in models.items()
    if isinstance(model, Inversion) and model.codelength
  }


def _mixture_name(name, model):
  return f"{name}, mixture of {len(model.members)}"


def _of_name(name, test):
  if not isinstance(test, Mapping):
    return test
  if name not in test:
    raise UserError(f"test has no pairs for the model {name!r}, only for {', '.join(test)}.")
  return test[name]


def _pairs_of(name, model, test):
  test = _of_name(name, test)
  if not isinstance(test, Pairs):
    raise UserError(f"test takes pairs(x, h), not {type(test).__name__}.")
  return test.without_h() if model.h_shape is None else test


def _write(comparison, models, output):
  if (output / storage.CONFIG).exists():
    raise UserError(f"{output} is the folder of a run; choose another output.")
  with locks.owned(output):
    _write_owned(comparison, models, output)


def _write_owned(comparison, models, output):
  folders = []
  for place, (name, model) in enumerate(models.items()):
    plain = f"{place}_{re.sub(r'[^A-Za-z0-9_-]+', '_', name)}"
    for number, (member, result) in enumerate(_members(comparison, name, model)):
      folder = output / RUNS / (f"{plain}_{number}" if isinstance(model, Mixture) else plain)
      config = {"made_by": MADE_BY_COMPARE, "name": name, "seed": member.seed}
      storage.write_json(folder / storage.CONFIG, config)
      layer = result.layer if result.layer == UNCONDITIONAL else name
      result.save(folder, {**member.facts(), "layer": layer})
      if member.codelength:
        storage.write_npz(folder / storage.CODELENGTH, member.codelength.first_pass.arrays)
      folders.append(folder)
  report.write_comparison(output, folders)


def _members(comparison, name, model):
  """(model, result) of a model, or of each member of a mixture."""
  if not isinstance(model, Mixture):
    return [(model, comparison.results[name])]
  mixed = comparison.results[_mixture_name(name, model)]
  return zip(model.members, mixed.members, strict=True)
