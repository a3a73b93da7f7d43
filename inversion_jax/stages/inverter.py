"""The inverter of a run."""

import pathlib
from typing import Any

from inversion_jax import config as config_lib
from inversion_jax import inversion
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.models.inverters import Inverter
from inversion_jax.runs import Run
from inversion_jax.stages import decoder

NAME = inversion.NAME


def check(run: Run):
  """Raises UserError if the images are too few or too small for it, or it has nowhere to begin."""
  images, network = run.images("train"), run.network()
  run.check_batch_size(NAME, len(images))
  with config_lib.named(config_lib.inverter_field):
    network.check_images(images.image_shape)
    module(run)
  marginal = _marginal(run)
  if marginal:
    marginal.finished(NAME)


def module(run: Run) -> Inverter:
  """The inverter, without its parameters."""
  images = run.images("train")
  return run.network().inverter(images.num_levels, images.image_shape[-1])


def begins_with_decoder(run: Run) -> bool:
  """Whether the reader begins from the run's own decoder."""
  return run.config.inverter.start_reader_from_decoder


def param_shapes(run: Run) -> Any:
  """Shapes and types of its parameters; nothing is computed."""
  return inversion.param_shapes(module(run), run.images("train").image_shape, run.h_shape)


def train(run: Run):
  """Trains p(x | h), or p(x) without a layer."""
  run.fit_statistics()
  observed = run.observed
  if run.is_trained(NAME):
    return
  marginal = _marginal(run)
  inversion.fitted(
    run.pairs("train"),
    run.pairs("validation"),
    run.network(),
    run.recipe(NAME),
    observed=observed,
    seed=run.config.seed,
    order_seed=config_lib.order_seed(run.config),
    folder=run.folder,
    start_from=marginal and marginal.model,
    decoder_params=_decoder_params(run),
    batch_size=run.eval_batch_size,
    codelength=run.config.inverter.codelength,
  )


def _decoder_params(run):
  """Of the run's own decoder, if the reader begins from it."""
  if not begins_with_decoder(run):
    return None
  return decoder.params_at(run, run.finished("decoder")["best_step"])


def _marginal(run: Run) -> Run | None:
  """The trained unconditional run that this one starts from."""
  if not run.config.inverter.start_from:
    return None
  folder = pathlib.Path(run.config.inverter.start_from)
  if not (folder / storage.CONFIG).exists():
    raise UserError(f"inverter.start_from={folder} is not the folder of a run.")
  marginal = Run.load(folder)
  if marginal.layer or marginal.config.data.name != run.config.data.name:
    raise UserError(
      f"inverter.start_from={marginal.folder} inverts {marginal.layer or 'no layer'} of "
      f"{marginal.config.data.name}; give an unconditional run of {run.config.data.name}."
    )
  ours, theirs = run.network(), marginal.network()
  for name in ("num_filters", "num_blocks", "num_scales"):
    if getattr(theirs, name) != getattr(ours, name):
      raise UserError(
        f"inverter.start_from={folder} has {name}={getattr(theirs, name)}, which is "
        f"{getattr(ours, name)} here; give a run of the same inverter.network."
      )
  return marginal
