"""Fit, score and sample p(x | h) from arrays, without a configuration.

    train, test = pairs(x, h).split(test=1_000)
    model = fit(train, folder="runs/mine")
    print(model.evaluate(test))
    images = model.sample(test.h[:8], num=4)

Nothing here knows how an experiment is laid out.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from inversion_jax.features import noise, pairs, sources, wrappers
from inversion_jax.features.pairs import Pairs
from inversion_jax.features.wrappers import Standardiser
from inversion_jax.fitting import scoring, sessions, training
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.machine import compilation, limits, notes, placement, progress, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say, track
from inversion_jax.models import contexts, likelihoods, pixelcnn, sampling
from inversion_jax.models.inverters import Inverter, amortised
from inversion_jax.models.widening import apply_widened
from inversion_jax.results import UNCONDITIONAL, Result

NAME = "inverter"
STATISTICS = "representation.npz"
# Enough images for the statistics that set scale and bias of every layer.
NUM_INIT_IMAGES = 128
# What a folder that `fit` has begun may not change.
FREE_FIELDS = ("num_steps", "log_every", "validate_every", "patience", "num_microbatches")
DTYPES = ("float32", "bfloat16")
MADE_BY_FIT = "inversion_jax.fit"


# Fields of `Network` by the values they may have.
NETWORK_COUNTS = ("num_filters", "num_blocks", "num_scales", "num_components", "filter_multiple")
NETWORK_COUNTS += ("reader_filters", "reader_blocks", "reader_units")
NETWORK_RATES = ("dropout_rate", "context_dropout_rate", "reader_dropout_rate")


@dataclasses.dataclass(frozen=True)
class Network:
  """The size and kind of an inverter; defaults are the paper's for MNIST (appendix A).

  Attributes:
    num_filters, num_blocks, num_scales, dropout_rate, context_dropout_rate: see `PixelCNN`.
    context: how h is brought in, "projection" (the paper's), "encoder" or "decoder".
    resize_method: of a spatial h in the first two, see `ContextEncoder`.
    reader_filters, reader_blocks, reader_units, reader_dropout_rate: of the third, see `Reader`.
    remat: what the backward pass computes again, "", "elementwise" or "blocks".
    likelihood: of a pixel, "auto", "categorical" or "logistic_mixture".
    num_components, min_log_scale: of the mixture.
    filter_multiple: filters are rounded up to a multiple while training; the same model.
    dtype: of the activations, "float32" or "bfloat16".
  """

  num_filters: int = 64
  num_blocks: int = 3
  num_scales: int = 3
  dropout_rate: float = 0.5
  context: str = "projection"
  context_dropout_rate: float = 0.0
  resize_method: str = "bilinear"
  reader_filters: int = 48
  reader_blocks: int = 1
  reader_units: int = 512
  reader_dropout_rate: float = 0.0
  remat: str = ""
  likelihood: str = "auto"
  num_components: int = 10
  min_log_scale: float = -7.0
  filter_multiple: int = 1
  dtype: str = "float32"

  def __post_init__(self):
    limits.check_fields(self, NETWORK_COUNTS, limits.ABOVE_ZERO)
    limits.check_fields(self, NETWORK_RATES, limits.FRACTION)
    limits.check_one_of("context", self.context, contexts.MODES)
    limits.check_one_of("resize_method", self.resize_method, contexts.RESIZE_METHODS)
    limits.check_one_of("remat", self.remat, pixelcnn.REMATS)
    limits.check_one_of("likelihood", self.likelihood, likelihoods.NAMES)
    limits.check_one_of("dtype", self.dtype, DTYPES)

  def inverter(self, num_levels: int, num_colours: int) -> Inverter:
    """The Flax module for images of so many levels and colours."""
    likelihood = likelihoods.make(
      self.likelihood,
      num_levels=num_levels,
      num_colours=num_colours,
      num_components=self.num_components,
      min_log_scale=self.min_log_scale,
    )
    fields = {name: getattr(self, name) for name in MODULE_FIELDS}
    return Inverter(likelihood, **fields, dtype=jnp.dtype(self.dtype))


# Those of `Network` that are attributes of `Inverter` under the same name.
MODULE_FIELDS = ("num_filters", "num_blocks", "num_scales", "dropout_rate", "context")
MODULE_FIELDS += ("context_dropout_rate", "resize_method", "remat")
MODULE_FIELDS += ("reader_filters", "reader_blocks", "reader_units", "reader_dropout_rate")


def suited(image_shape: Sequence[int], *, has_h: bool) -> tuple[Network, Recipe]:
  """A network and a recipe that a laptop trains in minutes on images of this size.

  Up to 16x16 those of `configs/digits.py`; above, a reduced one of the README's table. The paper's
  are `Network()` and `Recipe()`, with 196 filters for colour: hours to days on an accelerator.
  """
  recipe = Recipe(decay="cosine", learning_rate=3e-3, ema_decay=0.98, log_every=20)
  if max(image_shape[:2]) <= 16:
    # Without h there is more to learn from the pixels.
    num_steps = 300 if has_h else 500
    recipe = dataclasses.replace(recipe, num_steps=num_steps, validate_every=60)
    return Network(num_filters=32, num_blocks=1, num_scales=2), recipe
  return Network(num_filters=32, num_blocks=1, dropout_rate=0.1), dataclasses.replace(
    recipe,
    batch_size=32,
    num_steps=2_500,
    learning_rate=2e-3,
    ema_decay=0.99,
    validate_every=250,
  )


class Observed(NamedTuple):
  """How h reaches an inverter: standardised, then through a noise channel; either may be None."""

  standardiser: Standardiser | None = None
  channel: noise.Channel | None = None

  def clean(self, of: Pairs) -> Pairs:
    """Pairs whose h is standardised; fresh noise is drawn in training, at each step."""
    if self.standardiser is None:
      return of
    return of.seen_through(lambda source: wrappers.Standardised(source, self.standardiser))

  def scored(self, of: Pairs, root_key: Array) -> Pairs:
    """Pairs whose h is as it is scored: the noise of an image belongs to its index."""
    if self.channel is None:
      return self.clean(of)
    key = training.key_for(root_key, "channel")
    return self.clean(of).seen_through(lambda source: wrappers.Noisy(source, self.channel, key))

  def fresh(self, h: Array, key: Array) -> Array:
    """h of a training batch through noise drawn now."""
    if self.channel is None:
      return h
    keys_B = jax.random.split(training.key_for(key, "channel"), len(h))
    return noise.observed(self.channel, h, keys_B)


AS_IT_IS = Observed()


@dataclasses.dataclass(frozen=True, eq=False)
class Inversion:
  """A trained p(x | h), or p(x).

  Attributes:
    inverter: the Flax module.
    params: averaged parameters, and `live_params` those of the best step themselves.
    observed: how h reaches it.
    layer: the name of its h, "none" for p(x).
    image_shape, num_levels: of its images.
    h_shape: of the h of one image; None for p(x).
    seed: from which all its random numbers come.
    note: where training ended.
    recipe: how it was trained.
    batch_size: images at a time for scoring.
    folder: where results are kept; None keeps them in memory.
    train: fingerprints of what it was trained on, if it was trained now.
  """

  inverter: Inverter
  params: Any
  live_params: Any
  observed: Observed
  layer: str
  image_shape: tuple[int, int, int]
  num_levels: int
  h_shape: tuple[int, ...] | None
  seed: int
  note: dict[str, Any]
  recipe: Recipe
  batch_size: int = 250
  folder: pathlib.Path | None = None
  train: frozenset[int] = frozenset()

  def __repr__(self) -> str:
    given = "p(x)" if self.h_shape is None else f"p(x | {self.layer} {self.h_shape})"
    shape = " x ".join(map(str, self.image_shape))
    return f"Inversion of {given}, images {shape}, best step {self.note['best_step']:,}"

  @property
  def num_params(self) -> int:
    """Numbers that were learnt."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.params))

  def evaluate(self, test: Pairs, *, num_maps: int = 1_000) -> Result:
    """Scores pairs it was not trained on, each once; with a folder the result is kept there.

    Args:
      test: images of the same shape and levels, with h of the same shape.
      num_maps: images whose nats are kept pixel by pixel.

    Raises:
      UserError: other images or another h, or many of the pairs are among those trained on.
    """
    self._check(test)
    if self.train:
      pairs.check_apart(self.train, test, "test")
    result = self.score(test, num_maps=num_maps)
    if self.folder:
      result.save(self.folder, self.facts())
      notes.write(self.folder, "evaluate", {NAME + "_step": self.note["best_step"], "seconds": 0.0})
    return result

  def score(self, test: Pairs, *, num_maps: int = 1_000) -> Result:
    """`evaluate` without its checks and without writing."""
    rows_n = mapped_rows(len(test), num_maps)
    kept, columns, sum_HW, start = [], [], 0.0, 0
    for batch in self.pixel_nats(test, [self.params, self.live_params], "evaluate"):
      columns.append([nats_BHW.sum((1, 2)) for nats_BHW in batch])
      nats_BHW, _ = batch
      here = rows_n[(rows_n >= start) & (rows_n < start + len(nats_BHW))]
      kept.append(nats_BHW[here - start].astype(np.float32))
      sum_HW = sum_HW + nats_BHW.sum(0)
      start += len(nats_BHW)
    nats_N, live_nats_N = (np.concatenate(column) for column in zip(*columns, strict=True))
    maps = {
      "index": test.index[rows_n],
      "image": test.images[rows_n],
      "nats": np.concatenate(kept),
      "mean_nats": sum_HW / len(test),
    }
    return Result(test, self.layer, nats_N, live_nats_N, maps)

  def nats(self, of: Pairs, *, first_row: int = 0) -> Float[np.ndarray, " N"]:
    """-log p(x | h) of each image; with `first_row` of the pixels from that row on alone."""
    self._check(of)
    batches = self.pixel_nats(of, [self.params], "score")
    return np.concatenate([nats_BHW[:, first_row:].sum((1, 2)) for (nats_BHW,) in batches])

  def pixel_nats(
    self, of: Pairs, params_list: Sequence[Any], description: str
  ) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of -log p(pixel | pixels before it, h), (B, H, W), for each of `params_list`."""
    seen = self.observed.scored(of, jax.random.key(self.seed))
    return pixel_nats(self.inverter, params_list, seen, self.batch_size, description)

  def sample(
    self, h: Any = None, num: int = 1, *, sampler: str = "auto", batch_size: int = 80
  ) -> UInt8[np.ndarray, "..."]:
    """Draws images from p(x | h), the same ones each time.

    Args:
      h: of N images, as it was given to `pairs`; None for p(x).
      num: images for each h.
      sampler: one of `sampling.SAMPLERS`; they draw the same.
      batch_size: images at a time.

    Returns:
      Levels (N, num, H, W, C); (num, H, W, C) without h.
    """
    if isinstance(num, bool) or not isinstance(num, int) or num < 1:
      raise UserError(f"num={num!r} must be a positive integer.")
    if (h is None) != (self.h_shape is None):
      needs = "no h" if self.h_shape is None else f"h of shape {(-1, *self.h_shape)}"
      raise UserError(f"This model needs {needs}.")
    h = None if h is None else pairs.array_of(h, "h")
    num_rows = 1 if h is None else len(h)
    blank = np.zeros((num_rows, *self.image_shape), np.uint8)
    index = np.arange(num_rows)
    features = None if h is None else sources.Stored(h, self.layer)
    given = Pairs(blank, features, index, index, index, self.num_levels)
    self._check(given)
    drawn = self.draw(given, num, sampler=sampler, batch_size=batch_size)
    return drawn[0] if h is None else drawn

  def draw(
    self,
    of: Pairs,
    num_samples: int,
    *,
    sampler: str = "auto",
    batch_size: int = 80,
    num_given_rows: int = 0,
    parts: Any = None,
  ) -> UInt8[np.ndarray, "N S H W C"]:
    """Draws `num_samples` images for each pair.

    A sample is a function of the model, the image's index and the number of the sample.

    Args:
      of: whose h is used.
      num_samples: S.
      sampler: one of `sampling.SAMPLERS`.
      batch_size: images at a time.
      num_given_rows: rows of the pair's image that each sample begins with.
      parts: keeps finished batches: `load(start)` gives one or None, `save(start, levels)`.
    """
    rows_M, sample_M = np.divmod(np.arange(len(of) * num_samples), num_samples)
    batch_size = min(placement.rounded_up(batch_size), placement.rounded_up(len(rows_M)))
    draw = self._draw_fn(of, sampler, num_given_rows)
    drawn = []
    with track("sample", len(rows_M), unit="image") as shown:
      for start in range(0, len(rows_M), batch_size):
        levels_BHWC = parts.load(start) if parts else None
        if levels_BHWC is None:
          picked_B = np.minimum(np.arange(start, start + batch_size), len(rows_M) - 1)
          levels_BHWC = draw(rows_M[picked_B], sample_M[picked_B])
          if parts:
            parts.save(start, levels_BHWC)
        drawn.append(levels_BHWC[: len(rows_M) - start])
        shown.update(len(drawn[-1]))
    return np.concatenate(drawn).reshape(len(of), num_samples, *self.image_shape)

  def _draw_fn(self, of, sampler, num_given_rows):
    """`draw(rows_B, sample_B)` -> uint8 levels of one sample for each of these pairs."""
    root_key, size = jax.random.key(self.seed), self.image_shape[:2]
    seen = self.observed.scored(of, root_key)
    sample_key = training.key_for(root_key, "sample")

    @placement.per_device
    def draw_batch(params, z, images_BHWC, index_B, sample_B):
      keys_B = sampling.sample_keys(sample_key, index_B, sample_B)
      model = self.inverter.bind({"params": params})
      given_BRWC = images_BHWC[:, :num_given_rows] if num_given_rows else None
      contexts_ = model.contexts(z, size)
      return sampling.draw(model, contexts_, keys_B, size, sampler=sampler, given_BRWC=given_BRWC)

    # Every process gets the whole result.
    replicated = placement.data_parallel()[1]
    draw_batch = compilation.jit_sampler(draw_batch, out_shardings=replicated)

    def draw(rows_B, sample_B):
      batch = seen.batch(rows_B)
      index_B, sample_B = placement.put_batch((of.index[rows_B], sample_B))
      drawn = draw_batch(self.params, batch["h"], batch["image"], index_B, sample_B)
      return np.asarray(drawn, np.uint8)

    return draw

  def facts(self) -> dict[str, Any]:
    """What `summary.json` says of the model and its training."""
    return {
      "inverter_num_params": self.num_params,
      "inverter_steps": self.note["best_step"],
      "inverter_train_steps": self.note["step"],
      "inverter_batch_size": self.recipe.batch_size,
      "train_images_per_second": _train_images_per_second(self.folder),
      "dtype": jnp.dtype(self.inverter.dtype).name,
      "seed": self.seed,
      "seconds": {stage: note["seconds"] for stage, note in notes.read(self.folder).items()}
      if self.folder
      else {NAME: self.note["seconds"]},
    }

  def _check(self, given: Pairs):
    h_shape = given.features.shape if given.features else None
    if h_shape != self.h_shape:
      raise UserError(
        f"This model was fitted to {_words_of(self.h_shape)} and is given {_words_of(h_shape)}."
      )
    if given.image_shape != self.image_shape:
      raise UserError(
        f"This model was fitted to images of shape {self.image_shape} and is given images of "
        f"shape {given.image_shape}."
      )
    highest = int(given.images.max(initial=0))
    if highest >= self.num_levels:
      raise UserError(
        f"This model knows {self.num_levels} levels, but an image has level {highest}; fit it "
        f"with num_levels={256 if highest > 16 else highest + 1}."
      )


def _words_of(h_shape):
  return "no h" if h_shape is None else f"an h of shape {tuple(h_shape)}"


def mapped_rows(num_images: int, num_maps: int) -> Int[np.ndarray, " n"]:
  """Which test images keep their maps, in order: a sample that is the same in every run.

  Not the first ones, which may come from few writers or sources; a smaller sample is part of a
  larger one.
  """
  return np.sort(np.random.default_rng(0).permutation(num_images)[:num_maps])


def fitted(
  train: Pairs,
  validation: Pairs,
  network: Network,
  recipe: Recipe,
  *,
  observed: Observed = AS_IT_IS,
  seed: int = 0,
  folder: pathlib.Path | None = None,
  start_from: Inversion | None = None,
  batch_size: int = 250,
) -> Inversion:
  """Trains an inverter as it is told, without defaults or checks of what it is given.

  Args:
    train, validation: pairs; the best step is the one with the fewest validation nats.
    network: its size and kind.
    recipe: how it is trained.
    observed: how h reaches it.
    seed: of initialisation, order, dropout and noise.
    folder: a run folder, resumed if it has been begun; None keeps everything in memory.
    start_from: a trained p(x) of the same network, whose function it begins with.
    batch_size: of validation and scoring.
  """
  inverter = network.inverter(train.num_levels, train.image_shape[-1])
  root_key = jax.random.key(seed)
  batch_size = placement.rounded_up(batch_size)
  clean = observed.clean(train)
  held_out = observed.scored(validation, root_key)

  def loss_fn(params, batch, dropout_key):
    z = None if batch["h"] is None else observed.fresh(batch["h"], dropout_key)
    log_prob_BHW = apply_widened(
      inverter,
      params,
      batch["image"],
      z,
      multiple=network.filter_multiple,
      train=True,
      rngs={"dropout": dropout_key},
    )
    return -log_prob_BHW.sum((1, 2)).mean(), {}

  def validate(state: TrainState):
    scored = pixel_nats(inverter, [state.ema_params], held_out, batch_size, "validate")
    nats_N = np.concatenate([nats_BHW.sum((1, 2)) for (nats_BHW,) in scored])
    return nats_N.mean(), {"validation_nats_per_image": nats_N.mean()}

  subject = sessions.Subject(
    name=NAME,
    init_fn=functools.partial(_initial_params, inverter),
    first_batch=_first_batch(observed.scored(train, root_key)),
    loss_fn=loss_fn,
    batch_fn=clean.batch,
    num_images=len(train),
    validate=validate,
    start_from=start_from and functools.partial(amortised, marginal_params=start_from.params),
    advice="raise inverter.num_microbatches or lower inverter.batch_size, or set "
    "inverter.network.remat",
    facts={
      "image_shape": list(train.image_shape),
      "num_levels": train.num_levels,
      "h_shape": list(train.features.shape) if train.features else None,
    },
  )
  trained = sessions.train(subject, recipe, seed=seed, folder=folder)
  return Inversion(
    inverter=inverter,
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
  )


def _initial_params(inverter, keys, images_BHWC, z):
  return inverter.init(keys, images_BHWC, z, train=True)["params"]


def _first_batch(seen: Pairs):
  images_BHWC, rows_B = seen.images[:NUM_INIT_IMAGES], seen.index[:NUM_INIT_IMAGES]
  return images_BHWC, seen.features.of(images_BHWC, rows_B) if seen.features else None


# Kept, so that validation and evaluation share what was compiled.
@functools.lru_cache(maxsize=4)
def _pixel_scorer(inverter: Inverter) -> Callable:
  def score_batch(params, images_BHWC, z):
    return -inverter.apply({"params": params}, images_BHWC, z)

  return placement.jit_gathered(score_batch)


def pixel_nats(
  inverter: Inverter,
  params_list: Sequence[Any],
  seen: Pairs,
  batch_size: int,
  description: str,
) -> Iterator[tuple[Shaped[np.ndarray, "B H W"], ...]]:
  """Batches of -log p(pixel | pixels before it, h), float64, for each of `params_list`.

  Their sum over an image is its -log p(x | h). `seen` has h as the inverter sees it.
  """
  score_batch = _pixel_scorer(inverter)

  def score_rows(rows_B):
    batch = seen.batch(rows_B)
    return tuple(score_batch(params, batch["image"], batch["h"]) for params in params_list)

  return scoring.scored_batches(score_rows, len(seen), batch_size, description)


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
  quiet: bool = False,
) -> Inversion:
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
    quiet: show no progress.

  Raises:
    UserError: in one sentence, what is wrong with the data, the folder or the settings.
  """
  if not isinstance(train, Pairs):
    raise UserError(f"fit takes pairs(x, h), not {type(train).__name__}.")
  suited_network, suited_recipe = suited(train.image_shape, has_h=train.features is not None)
  network, recipe = network or suited_network, recipe or suited_recipe
  if num_steps is not None:
    recipe = dataclasses.replace(recipe, num_steps=num_steps)
  limits.check_number("seed", seed, limits.NOT_NEGATIVE)
  if validation is None:
    train, validation = train.held_out()
  _check_validation(train, validation)
  if len(train) < recipe.batch_size:
    recipe = dataclasses.replace(recipe, batch_size=placement.rounded_up(len(train) // 2))
  with progress.shown(quiet):
    seen = pairs.fingerprints(train)
    pairs.check_apart(seen, validation, "validation")
    folder = folder and pathlib.Path(folder)
    if folder:
      _begin(folder, _settings(train, network, recipe, seed))
    say(
      "%d images to train on, %d to validate on; %s; %s",
      len(train),
      len(validation),
      network,
      recipe,
    )
    observed = Observed(_standardiser(train, folder) if train.features else None)
    model = fitted(
      train,
      validation,
      network,
      recipe,
      observed=observed,
      seed=seed,
      folder=folder,
      start_from=start_from,
    )
  return dataclasses.replace(model, train=frozenset(seen))


def _check_validation(train, validation):
  if not isinstance(validation, Pairs):
    raise UserError(f"validation takes pairs(x, h), not {type(validation).__name__}.")
  ours, theirs = (of.features.shape if of.features else None for of in (train, validation))
  if ours != theirs or train.image_shape != validation.image_shape:
    raise UserError(
      f"The training pairs are images {train.image_shape} with {_words_of(ours)}, the validation "
      f"pairs {validation.image_shape} with {_words_of(theirs)}; make both from one set."
    )
  if validation.num_levels > train.num_levels:
    raise UserError(
      f"The validation images have {validation.num_levels} levels, the training images "
      f"{train.num_levels}; give num_levels to pairs."
    )


def _standardiser(train: Pairs, folder: pathlib.Path | None) -> Standardiser:
  """Fitted to the training pairs, or as the folder has it."""
  path = folder and folder / STATISTICS
  if path and path.exists():
    return Standardiser(**storage.read_npz(path))
  standardiser = wrappers.fit_standardiser(
    train.features, train.images, train.index, sources.BATCH_SIZE
  )
  if path:
    storage.write_npz(path, standardiser._asdict())
  return standardiser


def _settings(train: Pairs, network: Network, recipe: Recipe, seed: int) -> dict[str, Any]:
  """What `config.json` of a folder that `fit` makes holds, under a run's own names of fields."""
  fields = dataclasses.asdict(network)
  digest = hashlib.blake2b(np.ascontiguousarray(train.images).tobytes(), digest_size=8)
  if train.features:
    h = train.features.fetch(train.images[:NUM_INIT_IMAGES], train.index[:NUM_INIT_IMAGES])
    digest.update(np.ascontiguousarray(h).tobytes())
  return {
    "made_by": MADE_BY_FIT,
    "seed": seed,
    "dtype": fields["dtype"],
    "data": {"name": train.dataset, "num_train": len(train), "digest": digest.hexdigest()},
    "representation": {"layer": train.features.name if train.features else ""},
    "inverter": {
      **dataclasses.asdict(recipe),
      "filter_multiple": fields["filter_multiple"],
      "likelihood": {
        "name": fields["likelihood"],
        "num_components": fields["num_components"],
        "min_log_scale": fields["min_log_scale"],
      },
      "network": {name: fields[name] for name in MODULE_FIELDS},
    },
  }


def _begin(folder: pathlib.Path, settings: dict[str, Any]):
  """Claims the folder, or raises UserError if it belongs to something else."""
  path = folder / storage.CONFIG
  if path.exists():
    before = storage.read_json(path)
    changes = [name for name in settings if _fixed(before.get(name)) != _fixed(settings[name])]
    if changes:
      raise UserError(
        f"{folder} belongs to another fit (other {', '.join(changes)}); choose another folder or "
        "delete that one."
      )
  try:
    storage.write_json(path, settings)
  except OSError as error:
    raise UserError(
      f"The folder {folder} cannot be made ({error.strerror}); choose another one."
    ) from error


def _fixed(section):
  """What may not change in a folder."""
  if not isinstance(section, dict):
    return section
  return {name: value for name, value in section.items() if name not in FREE_FIELDS}


def load(folder: str | pathlib.Path) -> Inversion:
  """The trained model of a run folder, of `fit` or of the command line.

  Raises:
    UserError: it is not the folder of a run with a finished inverter, or a file is damaged.
  """
  folder = pathlib.Path(folder)
  if not (folder / storage.CONFIG).exists():
    raise UserError(f"{folder} is not the folder of a run: it has no {storage.CONFIG}.")
  config = storage.read_json(folder / storage.CONFIG)
  note = notes.finished(folder, NAME)
  if "image_shape" not in note:
    # Of a version that did not note them.
    summary = storage.read_json(folder / storage.SUMMARY)
    shapes = summary["image_shape"], summary["num_levels"], summary["representation_shape"]
    note |= dict(zip(("image_shape", "num_levels", "h_shape"), shapes, strict=True))
  section, representation = config["inverter"], config["representation"]
  network, recipe = network_of(config), _recipe_of(section)
  image_shape, num_levels = tuple(note["image_shape"]), note["num_levels"]
  h_shape = None if note["h_shape"] is None else tuple(note["h_shape"])
  channel = noise.make(representation.get("sigma", 0.0), representation.get("bits", 0))
  observed = Observed(_saved_standardiser(folder), channel) if h_shape else Observed()
  inverter = network.inverter(num_levels, image_shape[-1])
  saved = sessions.saved_parts(
    folder, NAME, note["best_step"], _parts_shape(inverter, image_shape, h_shape)
  )
  return Inversion(
    inverter=inverter,
    params=saved["ema_params"],
    live_params=saved["params"],
    observed=observed,
    layer=representation["layer"] or UNCONDITIONAL,
    image_shape=image_shape,
    num_levels=num_levels,
    h_shape=h_shape,
    seed=config["seed"],
    note=note,
    recipe=recipe,
    folder=folder,
  )


def network_of(config: dict[str, Any]) -> Network:
  """The network that a run's configuration describes."""
  section = config["inverter"]
  likelihood = dict(section["likelihood"])
  return Network(
    **section["network"],
    likelihood=likelihood.pop("name"),
    **likelihood,
    filter_multiple=section.get("filter_multiple", 1),
    dtype=config["dtype"],
  )


def _recipe_of(section):
  names = {field.name for field in dataclasses.fields(Recipe)}
  return Recipe(**{name: value for name, value in section.items() if name in names})


def _saved_standardiser(folder):
  statistics = storage.read_npz(folder / STATISTICS)
  return Standardiser(statistics["mean_Z"], statistics["std_Z"])


def _parts_shape(inverter, image_shape, h_shape):
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
  z = None if h_shape is None else jax.ShapeDtypeStruct((1, *h_shape), jnp.float32)
  keys = dict.fromkeys(("params", "dropout"), jax.random.key(0))
  shapes = jax.eval_shape(functools.partial(_initial_params, inverter), keys, images, z)
  shapes = placement.replicated_shapes(shapes)
  return {"ema_params": shapes, "params": shapes}


def _train_images_per_second(folder):
  """The median over the log, so that one slow stretch does not count."""
  records = storage.read_metrics(folder / storage.METRICS) if folder else []
  rates = [
    record["images_per_second"]
    for record in records
    if record["stage"] == NAME and "images_per_second" in record
  ]
  return float(np.median(rates)) if rates else None
