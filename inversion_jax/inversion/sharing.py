"""A model as three files that can be given to others: what it is, its numbers, and its card.

    model.save("mine", result=model.evaluate(test))
    model = ij.load("mine")
    ij.push("mine", "user/mine")
    model = ij.pull("user/mine")

None of them is a pickle, so that a stranger's model runs no code of his.
"""

import dataclasses
import pathlib
import subprocess
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

import inversion_jax
from inversion_jax import information
from inversion_jax.features import noise
from inversion_jax.features.wrappers import Standardiser
from inversion_jax.fitting.training import Recipe
from inversion_jax.information import Estimate
from inversion_jax.inversion.model import Inversion
from inversion_jax.inversion.networks import BEFORE, MODULE_FIELDS, Network, param_shapes
from inversion_jax.inversion.observed import AS_IT_IS, Observed
from inversion_jax.machine import placement, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.models.likelihoods import Categorical
from inversion_jax.report import page
from inversion_jax.results import UNCONDITIONAL, Result

WEIGHTS = "model.safetensors"
CARD = "README.md"
MADE_BY_SAVE = "inversion_jax.save"
# What stands before the path of a parameter in the file of numbers.
AVERAGED, LIVE, STATISTICS = "averaged", "live", "statistics"
# Of the note of a training.
NOTED = ("step", "best_step", "stopped_early", "seconds")


def save(
  model: Inversion, folder: str | pathlib.Path, result: Result | None = None, about: str = ""
):
  """Writes `config.json`, `model.safetensors` and a card, `README.md`; see `Inversion.save`."""
  folder = pathlib.Path(folder)
  path = folder / storage.CONFIG
  if path.exists() and storage.read_json(path).get("made_by") != MADE_BY_SAVE:
    raise UserError(f"{folder} is the folder of a run; choose another one to save the model in.")
  config = _config(model, result) | {"about": about}
  try:
    storage.write_json(path, config, is_recorded=False)
    with storage.replacing(folder / WEIGHTS, is_recorded=False) as temporary:
      safetensors.numpy.save_file(_numbers(model), temporary)
    storage.write_text(folder / CARD, card(config), is_recorded=False)
  except OSError as error:
    raise UserError(
      f"The model cannot be saved in {folder} ({error.strerror}); choose another folder."
    ) from error


def _config(model, result):
  """All of a model but its numbers, and what its card says."""
  channel = model.observed.channel
  return {
    "made_by": MADE_BY_SAVE,
    "version": inversion_jax.__version__,
    "commit": _commit(),
    "layer": model.layer,
    "image_shape": list(model.image_shape),
    "num_levels": model.num_levels,
    "h_shape": None if model.h_shape is None else list(model.h_shape),
    "network": _network_fields(model.inverter),
    "num_params": model.num_params,
    "channel": {"sigma": getattr(channel, "sigma", 0.0), "bits": getattr(channel, "bits", 0)},
    "recipe": dataclasses.asdict(model.recipe),
    "seed": model.seed,
    "batch_size": model.batch_size,
    "note": {name: model.note[name] for name in NOTED},
    "result": _facts(model, result),
  }


def _network_fields(inverter):
  """The fields of the `Network` that makes this module, "auto" decided."""
  likelihood = inverter.likelihood
  fields = {name: getattr(inverter, name) for name in MODULE_FIELDS}
  fields["dtype"] = jnp.dtype(inverter.dtype).name
  if isinstance(likelihood, Categorical):
    return fields | {"likelihood": "categorical"}
  return fields | {
    "likelihood": "logistic_mixture",
    "num_components": likelihood.num_components,
    "min_log_scale": likelihood.min_log_scale,
  }


def _facts(model, result):
  """Data and nats of test images; those that the model's run folder holds without a result."""
  if result is not None:
    nce, data, num = result.nce, result.pairs.dataset, len(result.nats)
  elif model.folder and (model.folder / storage.SUMMARY).exists():
    summary = storage.read_json(model.folder / storage.SUMMARY)
    nats = storage.read_npz(model.folder / storage.NATS)
    nce = information.mean_with_error(-nats["nats"], nats.get("source"))
    data, num = summary["dataset"], summary["num_test_images"]
  else:
    return None
  low, high = nce.interval()
  ends = {"nce_nats_low": low, "nce_nats_high": high}
  return {"data": data, "num_test_images": num, **nce.fields("nce_nats"), **ends}


def _numbers(model):
  """The arrays of a model by name; where the live parameters are the average, they are once."""
  numbers = {AVERAGED: model.params}
  if model.live_params is not model.params:
    numbers[LIVE] = model.live_params
  if model.observed.standardiser:
    numbers[STATISTICS] = model.observed.standardiser._asdict()
  flat = flatten_dict(numbers, sep="/")
  return {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}


def _commit():
  """Of this program, where it runs from a checkout of its own; else ""."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / ".git").exists():
    return ""
  command = ["git", "-C", str(root), "rev-parse", "HEAD"]
  try:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return ""


def card(config: dict[str, Any]) -> str:
  """What a person reads of a saved model: Markdown, with the header that hubs look for."""
  height, width, colours = config["image_shape"]
  is_prior = config["h_shape"] is None
  given = "" if is_prior else f" | {config['layer']}"
  h = "none, the unconditional model" if is_prior else f"{config['layer']} {config['h_shape']}"
  result, note = config["result"], config["note"]
  rows = {
    "data": result["data"] if result else "not said",
    "images": f"{height} x {width} x {colours}, {config['num_levels']} levels",
    "h": h,
    "network": _size(config),
    "nats": _nats(result),
    "training": f"{note['best_step']:,} steps of {config['recipe']['batch_size']} images, "
    f"{note['seconds'] / 3600:.2g} hours",
    "made by": f"inversion_jax {config['version']}, commit {config['commit'] or 'not known'}",
  }
  table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
  known = "" if is_prior else " given what a layer of a network knows of them"
  about = f"\n{config['about']}\n" if config.get("about") else ""
  use = "model.sample(num=4)" if is_prior else "model.sample(h, num=4)"
  return f"""---
library_name: inversion_jax
tags: [density-estimation, interpretability]
---

# p(x{given})

The density of images{known}, learnt by inversion_jax.
{about}
| | |
|---|---|
{table}

NCE is E[log p(x{given})] over test images: plus the entropy of the images it bounds the information
in h about them from below, by what a model of this kind can use.

    import inversion_jax as ij

    model = ij.load("the folder of this file")
    images = {use}
"""


def _size(config):
  network, num_params = config["network"], config["num_params"]
  return (
    f"{network['architecture']}, filters {network['num_filters']}, blocks {network['num_blocks']}, "
    f"scales {network['num_scales']}; {num_params:,} parameters"
  )


def _nats(result):
  if not result:
    return "not said"
  nce, ends = Estimate.read(result, "nce_nats"), (result["nce_nats_low"], result["nce_nats_high"])
  return (
    f"NCE {page.with_error(nce)} per image [95% {page.range_of(ends, nce)}], "
    f"{result['num_test_images']:,} test images"
  )


def is_saved(folder: pathlib.Path) -> bool:
  """Whether `save` has made this folder."""
  return (folder / WEIGHTS).exists()


def loaded(folder: pathlib.Path) -> Inversion:
  """The model of a folder that `save` has made.

  Raises:
    UserError: a file is missing, damaged, of another model or of a newer version.
  """
  config = storage.read_json(folder / storage.CONFIG)
  try:
    h_shape = None if config["h_shape"] is None else tuple(config["h_shape"])
    image_shape = tuple(config["image_shape"])
    network = Network(**BEFORE | config["network"])
    inverter = network.inverter(config["num_levels"], image_shape[-1])
    model = Inversion(
      inverter=inverter,
      params=None,
      live_params=None,
      observed=AS_IT_IS,
      layer=config["layer"] if h_shape else UNCONDITIONAL,
      image_shape=image_shape,
      num_levels=config["num_levels"],
      h_shape=h_shape,
      seed=config["seed"],
      note=config["note"],
      recipe=Recipe(**config["recipe"]),
      batch_size=placement.rounded_up(config["batch_size"]),
    )
    channel = noise.make(**config["channel"])
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f"{folder / storage.CONFIG} is damaged or of a newer version ({error!r}); fetch the model "
      "again, or update inversion_jax."
    ) from error
  return _with_numbers(model, channel, folder / WEIGHTS)


def _with_numbers(model, channel, path):
  """`model` with the arrays of a file, which must be those of its network."""
  shapes = param_shapes(model.inverter, model.image_shape, model.h_shape)
  expected = {AVERAGED: shapes}
  if model.h_shape:
    statistics = jax.ShapeDtypeStruct(model.h_shape[-1:], jnp.float32)
    expected[STATISTICS] = dict.fromkeys(Standardiser._fields, statistics)
  try:
    found = safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(f"{path} is missing or damaged; fetch the model again.") from error
  if any(name.startswith(f"{LIVE}/") for name in found):
    expected[LIVE] = shapes
  wanted = {name: leaf.shape for name, leaf in flatten_dict(expected, sep="/").items()}
  if {name: array.shape for name, array in found.items()} != wanted:
    raise UserError(f"{path} holds another network than its {storage.CONFIG}; fetch both again.")
  numbers = unflatten_dict(found, sep="/")
  params = placement.put(numbers[AVERAGED], placement.data_parallel()[1])
  live = params
  if LIVE in numbers:
    live = placement.put(numbers[LIVE], placement.data_parallel()[1])
  observed = AS_IT_IS
  if model.h_shape:
    observed = Observed(Standardiser(**numbers[STATISTICS]), channel)
  return dataclasses.replace(model, params=params, live_params=live, observed=observed)
