"""The inverter of a run."""

import pathlib

from inversion_jax import inversion
from inversion_jax.fitting import sessions
from inversion_jax.inversion import Inversion
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run
from inversion_jax.stages import decoder

NAME = inversion.NAME


def train(run: Run):
  """Trains p(x | h), or p(x) without a layer."""
  run.fit_statistics()
  observed = run.observed
  if sessions.is_finished(run.folder, NAME, run.config.inverter.num_steps):
    return
  inversion.fitted(
    run.pairs("train"),
    run.pairs("validation"),
    run.network(),
    run.recipe(NAME),
    observed=observed,
    seed=run.config.seed,
    folder=run.folder,
    start_from=_start(run),
    decoder_params=_decoder_params(run),
    batch_size=run.eval_batch_size,
  )


def _decoder_params(run):
  """Of the run's own decoder, if the reader begins from it."""
  if not run.config.inverter.start_reader_from_decoder:
    return None
  return decoder.params_at(run, run.finished("decoder")["best_step"])


def _start(run: Run) -> Inversion | None:
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
  return marginal.model
