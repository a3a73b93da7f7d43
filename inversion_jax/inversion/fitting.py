"""From pairs to a trained inverter: what is learnt, and the defaults and checks around it."""

import contextlib
import dataclasses
import functools
import operator
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from inversion_jax.features import checks
from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting import sessions
from inversion_jax.fitting.chains import Chain
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.inversion import first_pass, folders, programs
from inversion_jax.inversion.folders import NAME
from inversion_jax.inversion.mixing import Mixture, mixture
from inversion_jax.inversion.model import Inversion, pixel_nats, words_of
from inversion_jax.inversion.networks import Network, beginning, suited
from inversion_jax.inversion.observed import AS_IT_IS, Observed
from inversion_jax.machine import compilation, limits, locks, placement, progress
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say
from inversion_jax.models import inverters
from inversion_jax.models.inverters import amortised, from_decoder
from inversion_jax.results import DECODER, NOISE, PRIOR, UNCONDITIONAL

# Enough images for the statistics that set scale and bias of every layer.
NUM_INIT_IMAGES = 128
BATCH_SIZE = 128


def subject(
  train: Pairs,
  validation: Pairs,
  network: Network,
  *,
  observed: Observed = AS_IT_IS,
  seed: int = 0,
  start_from: Inversion | None = None,
  decoder_params: Any = None,
  batch_size: int = BATCH_SIZE,
  codelength: bool = True,
) -> sessions.Subject:
  """What the training of an inverter is: its beginning, its loss, its data, its validation.

  Arguments are those of `fitted`.
  """
  inverter = network.inverter(train.num_levels, train.image_shape[-1])
  root_key = jax.random.key(seed)
  clean, held_out = observed.clean(train), observed.scored(validation, root_key)
  seen = observed.scored(train, root_key)
  first = first_batch(seen)

  def read(params, batch, key):
    z = None if batch["h"] is None else observed.fresh(batch["h"], key)
    size = train.image_shape[:2]
    return inverters.read(inverter, params, z, size, train=True, rngs={"dropout": key})

  def validate(state: TrainState):
    scored = pixel_nats(inverter, [state.ema_params], held_out, batch_size, "validate")
    nats_N = np.concatenate([nats_BHW.sum((1, 2)) for (nats_BHW,) in scored])
    return nats_N.mean(), {"validation_nats_per_image": nats_N.mean()}

  return sessions.Subject(
    name=NAME,
    init_fn=beginning(inverter),
    first_batch=first,
    loss_fn=Chain(
      inverters.NAMES,
      read,
      programs.loss(inverter, network.filter_multiple),
      seen_of=operator.itemgetter("image"),
    ),
    batch_fn=clean.batch,
    num_images=len(train),
    validate=validate,
    start_from=_start_fn(start_from, decoder_params),
    advice="raise num_microbatches, lower batch_size, or set the network's remat",
    facts={
      "image_shape": list(train.image_shape),
      "num_levels": train.num_levels,
      "h_shape": list(train.features.shape) if train.features else None,
      "num_train_images": len(train),
      "begun_with": _begun_with(start_from, decoder_params, observed),
    },
    scored=first_pass.scored(seen, inverter, len(first[0]), batch_size) if codelength else None,
  )


def _begun_with(start_from, decoder_params, observed):
  """What the codelength of the first pass does not charge."""
  is_there = {
    PRIOR: start_from is not None,
    DECODER: decoder_params is not None,
    NOISE: observed.channel is not None,
  }
  return [name for name, is_so in is_there.items() if is_so]


def _start_fn(start_from, decoder_params):
  """Makes the parameters that training begins with from the initialised ones; None is those."""
  if start_from is None and decoder_params is None:
    return None

  def start(params):
    params = params if start_from is None else amortised(params, start_from.params)
    return params if decoder_params is None else from_decoder(params, decoder_params)

  return start


def first_batch(seen: Pairs) -> tuple:
  """The images, and their h as a model sees it, that the initialisation is done on."""
  first = seen.rows(np.arange(min(NUM_INIT_IMAGES, len(seen))))
  return first.images, first.features.of(first.images, first.index) if first.features else None


def fitted(
  train: Pairs,
  validation: Pairs,
  network: Network,
  recipe: Recipe,
  *,
  observed: Observed = AS_IT_IS,
  seed: int = 0,
  order_seed: int | None = None,
  folder: pathlib.Path | None = None,
  start_from: Inversion | None = None,
  decoder_params: Any = None,
  batch_size: int = BATCH_SIZE,
  codelength: bool = True,
) -> Inversion:
  """Trains an inverter as it is told, without defaults or checks of what it is given.

  Args:
    train, validation: pairs; the best step is the one with the fewest validation nats.
    network: its size and kind.
    recipe: how it is trained.
    observed: how h reaches it.
    seed: of initialisation, order, dropout and noise.
    order_seed: of the order alone; None is `seed`.
    folder: a run folder, resumed if it has been begun; None keeps everything in memory.
    start_from: a trained p(x) of the same network, whose function it begins with.
    decoder_params: of a trained decoder of the reader's parts, with which the reader begins.
    batch_size: of validation and scoring.
    codelength: whether every image of the first pass is scored before it is learnt.
  """
  if folder and sessions.is_finished(folder, NAME, recipe.num_steps):
    # Nothing is compiled to find that nothing is left to do.
    return folders.restored(
      folder,
      image_shape=train.image_shape,
      num_levels=train.num_levels,
      h_shape=train.features.shape if train.features else None,
      observed=observed,
    )
  batch_size = placement.rounded_up(batch_size)
  learnt = subject(
    train,
    validation,
    network,
    observed=observed,
    seed=seed,
    start_from=start_from,
    decoder_params=decoder_params,
    batch_size=batch_size,
    codelength=codelength,
  )
  trained = sessions.train(learnt, recipe, seed=seed, order_seed=order_seed, folder=folder)
  return Inversion(
    inverter=network.inverter(train.num_levels, train.image_shape[-1]),
    params=trained.ema_params,
    live_params=trained.params,
    observed=observed,
    layer=train.features.name if train.features else UNCONDITIONAL,
    image_shape=train.image_shape,
    num_levels=train.num_levels,
    h_shape=train.features.shape if train.features else None,
    seed=seed,
    note=trained.note,
    recipe=recipe,
    batch_size=batch_size,
    folder=folder,
    first_pass=trained.first_pass,
  )


def fit(
  train: Pairs,
  *,
  validation: Pairs | None = None,
  folder: str | pathlib.Path | None = None,
  network: Network | None = None,
  recipe: Recipe | None = None,
  num_steps: int | None = None,
  start_from: Inversion | None = None,
  seed: int = 0,
  codelength: bool = True,
  seeds: int = 1,
  quiet: bool = False,
) -> Inversion | Mixture:
  """Learns p(x | h) of the images and features in `train`, or p(x) where they have no h.

  h is standardised, a tenth is held out for validation, and the step with the fewest validation
  nats is kept.

  Args:
    train: from `pairs`.
    validation: pairs by which the best step is chosen; None holds out the last tenth of `train`.
    folder: a run folder, which goes on where it was; None keeps everything in memory.
    network, recipe: None are those that suit the size of the images on a laptop, see `suited`.
    num_steps: in the place of the recipe's.
    start_from: a fitted p(x) to begin from.
    seed: of everything random.
    codelength: score every image of the first pass before it is learnt, see `Inversion.codelength`.
    seeds: replicates, of the seeds `seed`, `seed` + 1, ...: their mixture, whose `members` are the
      models; each has a folder `seed_...` of its own.
    quiet: show no progress.

  Raises:
    UserError: in one sentence, what is wrong with the data, the folder or the settings.
  """
  _check_kind("fit", train, Pairs, "pairs(x, h)")
  limits.check_integer("seed", seed, limits.SEED)
  limits.check_integer("seeds", seeds, limits.ABOVE_ZERO)
  if start_from is not None:
    _check_start(start_from, train)
  folder = folder and pathlib.Path(folder)
  if seeds > 1:
    same = {"validation": validation, "network": network, "recipe": recipe}
    same |= {"num_steps": num_steps, "start_from": start_from, "quiet": quiet}
    same |= {"codelength": codelength}
    return _replicates(functools.partial(fit, train, **same), range(seed, seed + seeds), folder)
  network, recipe = _settings(train, network, recipe, num_steps)
  network.check_images(train.image_shape)
  train, validation = train.held_out() if validation is None else (train, validation)
  _check_validation(train, validation)
  if len(train) < recipe.batch_size:
    recipe = dataclasses.replace(recipe, batch_size=placement.rounded_up(len(train) // 2))
  with progress.shown(quiet), locks.owned(folder) if folder else contextlib.nullcontext():
    seen = checks.fingerprints(train)
    checks.tell(checks.check_apart(seen, validation, "validation"))
    if folder:
      folders.begin(folder, folders.settings(train, network, recipe, seed))
    say(
      "%d images to train on, %d to validate on; %s; %s",
      len(train),
      len(validation),
      network,
      recipe,
    )
    observed = Observed(folders.fit_statistics(train, folder)) if train.features else AS_IT_IS
    model = fitted(
      train,
      validation,
      network,
      recipe,
      observed=observed,
      seed=seed,
      folder=folder,
      start_from=start_from,
      codelength=codelength,
    )
  return dataclasses.replace(model, train=frozenset(seen))


def _replicates(fit_one, seeds, folder):
  """The mixture of models of some seeds, which find what the first has compiled."""
  with contextlib.ExitStack() as stack:
    above = folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    stack.enter_context(compilation.kept_in(above / compilation.FOLDER))
    return mixture(
      [
        fit_one(seed=seed, folder=folder and folder / f"{folders.REPLICATE}{seed}")
        for seed in seeds
      ]
    )


def _settings(train, network, recipe, num_steps):
  """Network and recipe as given, or as they suit the images."""
  suited_network, suited_recipe = suited(
    train.image_shape, train.features.shape if train.features else None
  )
  network, recipe = network or suited_network, recipe or suited_recipe
  _check_kind("network", network, Network, "a Network")
  _check_kind("recipe", recipe, Recipe, "a Recipe")
  if num_steps is not None:
    recipe = dataclasses.replace(recipe, num_steps=num_steps)
  return network, recipe


def _check_kind(name, given, kind, words):
  if not isinstance(given, kind):
    raise UserError(f"{name} takes {words}, not {type(given).__name__}.")


def _check_start(start_from, train):
  _check_kind("start_from", start_from, Inversion, "a fitted p(x)")
  if start_from.h_shape is not None or start_from.image_shape != train.image_shape:
    raise UserError(
      f"start_from must be a p(x) of images of shape {train.image_shape}, not {start_from!r}."
    )


def _check_validation(train, validation):
  _check_kind("validation", validation, Pairs, "pairs(x, h)")
  ours, theirs = (of.features.shape if of.features else None for of in (train, validation))
  if ours != theirs or train.image_shape != validation.image_shape:
    raise UserError(
      f"The training pairs are images {train.image_shape} with {words_of(ours)}, the validation "
      f"pairs {validation.image_shape} with {words_of(theirs)}; make both from one set."
    )
  if validation.num_levels > train.num_levels:
    raise UserError(
      f"The validation images have {validation.num_levels} levels, the training images "
      f"{train.num_levels}; give num_levels to pairs."
    )
