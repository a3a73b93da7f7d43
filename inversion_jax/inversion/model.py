"""A trained p(x | h), and what can be asked of it."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from inversion_jax.features import checks, pairs, sources
from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting import scoring, training
from inversion_jax.fitting.training import Recipe
from inversion_jax.information.codelength import FirstPass
from inversion_jax.inversion import programs
from inversion_jax.inversion.observed import Observed
from inversion_jax.machine import locks, notes, placement, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import track
from inversion_jax.models import inverters, sampling
from inversion_jax.models.inverters import Inverter
from inversion_jax.results import Codelength, Result

NAME = "inverter"


@dataclasses.dataclass(frozen=True, eq=False)
class Inversion:
  """A trained p(x | h), or p(x).

  Attributes:
    inverter: the Flax module.
    params: averaged parameters, and `live_params` those of the best step themselves; a model that
      is to be shared may do with the average alone, which is then both.
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
    first_pass: what the training images cost before they were learnt, if it was trained now.
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
  first_pass: FirstPass | None = None

  def __repr__(self) -> str:
    given = "p(x)" if self.h_shape is None else f"p(x | {self.layer} {self.h_shape})"
    shape = " x ".join(map(str, self.image_shape))
    return f"Inversion of {given}, images {shape}, best step {self.note['best_step']:,}"

  @property
  def num_params(self) -> int:
    """Numbers that were learnt."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.params))

  @functools.cached_property
  def codelength(self) -> Codelength | None:
    """What the training images cost before they were learnt, in the first pass over them.

    None where that was not kept.
    """
    first_pass, path = self.first_pass, self.folder and self.folder / storage.CODELENGTH
    if first_pass is None and path and path.exists():
      first_pass = storage.read_as(path, FirstPass.of)
    if first_pass is None:
      return None
    return Codelength(first_pass, self.note["num_train_images"], self.note["begun_with"])

  def evaluate(self, test: Pairs, *, num_maps: int = 1_000, save: bool = True) -> Result:
    """Scores pairs it was not trained on, each once.

    Args:
      test: images of the same shape and levels, with h of the same shape.
      num_maps: images whose nats are kept pixel by pixel.
      save: whether a model with a folder keeps the result there.

    Raises:
      UserError: other images or another h, or many of the pairs are among those trained on.
    """
    start = time.monotonic()
    self.check_unseen(test)
    result = self.score(test, num_maps=num_maps)
    if self.folder and save:
      with locks.owned(self.folder):
        result.save(self.folder, self.facts())
        made_for = {"inverter_step": self.note["best_step"], "num_maps": num_maps}
        seconds = time.monotonic() - start
        notes.write(self.folder, "evaluate", {**made_for, "seconds": seconds})
    return result

  def score(self, test: Pairs, *, num_maps: int = 1_000) -> Result:
    """`evaluate` without its checks and without writing."""
    batches = self.pixel_nats(test, [self.params, self.live_params], "evaluate")
    return Result(test, self.layer, *put_together(test, batches, num_maps))

  def nats(self, of: Pairs, *, first_row: int = 0) -> Float[np.ndarray, " N"]:
    """-log p(x | h) of each image; with `first_row` of the pixels from that row on alone."""
    self.check(of)
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
    check_num(num)
    drawn = self.draw(self.blank(h), num, sampler=sampler, batch_size=batch_size)
    return drawn[0] if h is None else drawn

  def blank(self, h: Any) -> Pairs:
    """Pairs of these h, or of none, whose images are still to be drawn.

    Raises:
      UserError: h is not as the model's.
    """
    if (h is None) != (self.h_shape is None):
      needs = "no h" if self.h_shape is None else f"h of shape {(-1, *self.h_shape)}"
      raise UserError(f"This model needs {needs}.")
    h = None if h is None else pairs.array_of(h, "h")
    num_rows = 1 if h is None else len(h)
    images = np.zeros((num_rows, *self.image_shape), np.uint8)
    index = np.arange(num_rows)
    features = None if h is None else sources.Stored(h, self.layer)
    given = Pairs(images, features, index, index, index, self.num_levels)
    self.check(given)
    return given

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
    settings = {"sampler": sampler, "num_given_rows": num_given_rows, "parts": parts}
    batch_size = min(batch_size, len(rows_M))
    drawn_MHWC = self.draw_rows(of, rows_M, sample_M, batch_size=batch_size, **settings)
    return drawn_MHWC.reshape(len(of), num_samples, *self.image_shape)

  def draw_rows(
    self,
    of: Pairs,
    rows_M: Int[np.ndarray, " M"],
    sample_M: Int[np.ndarray, " M"],
    *,
    sampler: str = "auto",
    batch_size: int = 80,
    num_given_rows: int = 0,
    parts: Any = None,
  ) -> UInt8[np.ndarray, "M H W C"]:
    """`draw` of single samples: for each of these rows the sample of this number.

    Every batch is full, whatever the number of rows, so that calls share a program.
    """
    batch_size = placement.rounded_up(batch_size)
    program, arguments_fn = self._draw_program(of, sampler, num_given_rows)
    drawn = []
    with track("sample", len(rows_M), unit="image") as shown:
      for start in range(0, len(rows_M), batch_size):
        levels_BHWC = parts.load(start) if parts else None
        if levels_BHWC is None:
          picked_B = np.minimum(np.arange(start, start + batch_size), len(rows_M) - 1)
          arguments = arguments_fn(rows_M[picked_B], sample_M[picked_B])
          levels_BHWC = np.asarray(program(*arguments), np.uint8)
          if parts:
            parts.save(start, levels_BHWC)
        drawn.append(levels_BHWC[: len(rows_M) - start])
        shown.update(len(drawn[-1]))
    return np.concatenate(drawn)

  def compile_draw(
    self, of: Pairs, *, sampler: str = "auto", batch_size: int = 80, num_given_rows: int = 0
  ):
    """Compiles what `draw` and `draw_rows` run, for a folder of compiled programs to keep."""
    program, arguments_fn = self._draw_program(of, sampler, num_given_rows)
    rows_B = np.zeros(placement.rounded_up(batch_size), int)
    program.lower(*arguments_fn(rows_B, rows_B)).compile()

  def _draw_program(self, of, sampler, num_given_rows):
    """A compiled program, and `arguments_fn(rows_B, sample_B)`, what it is given to draw these.

    It draws one sample for each of these pairs, as levels.
    """
    root_key, size = jax.random.key(self.seed), self.image_shape[:2]
    seen = self.observed.scored(of, root_key)
    sample_key = training.key_for(root_key, "sample")

    reader, network = inverters.split(self.params)

    @jax.jit
    def read(params, z, index_B):
      contexts = inverters.read(self.inverter, params, z, size)
      return sampling.for_each(contexts, len(index_B))

    def arguments_fn(rows_B, sample_B):
      batch = seen.batch(rows_B)
      index_B, sample_B = placement.put_batch((of.index[rows_B], sample_B))
      # The key is an argument, so that models of other seeds have the same program.
      state = network, sample_key
      contexts = read(reader, batch["h"], index_B)
      return state, contexts, batch["image"], index_B, sample_B

    return programs.sampler(self.inverter, sampler, num_given_rows), arguments_fn

  def save(self, folder: str | pathlib.Path, *, result: Result | None = None, about: str = ""):
    """Leaves the model for others: `config.json`, `model.safetensors`, and a card, `README.md`.

        model.save("mine", result=model.evaluate(test))
        model = ij.load("mine")

    Args:
      folder: made if need be; not that of a run.
      result: of its test pairs, for the card; None takes that of the model's run folder, if any.
      about: what the card is to say besides, such as whose layer it is.

    Raises:
      UserError: the folder is that of a run, or cannot be written.
    """
    from inversion_jax.inversion import sharing

    sharing.save(self, folder, result, about)

  def facts(self) -> dict[str, Any]:
    """What `summary.json` says of the model and its training."""
    return {
      "inverter_num_params": self.num_params,
      "inverter_steps": self.note["best_step"],
      "inverter_train_steps": self.note["step"],
      "inverter_batch_size": self.recipe.batch_size,
      "train_images_per_second": _train_images_per_second(self.folder),
      "reader": self.inverter.context if self.h_shape else None,
      **(self.codelength.facts() if self.codelength else {}),
      "dtype": jnp.dtype(self.inverter.dtype).name,
      "seed": self.seed,
      "seconds": {stage: note["seconds"] for stage, note in notes.read(self.folder).items()}
      if self.folder
      else {NAME: self.note["seconds"]},
    }

  def check_unseen(self, test: Pairs):
    """`check`, and UserError if many of the pairs are among those trained on; few are told."""
    self.check(test)
    if self.train:
      checks.tell(checks.check_apart(self.train, test, "test"))

  def check(self, given: Pairs):
    """Raises UserError unless images and h have the model's shapes, and levels that it knows."""
    h_shape = given.features.shape if given.features else None
    if h_shape != self.h_shape:
      raise UserError(
        f"This model was fitted to {words_of(self.h_shape)} and is given {words_of(h_shape)}."
      )
    if given.image_shape != self.image_shape:
      raise UserError(
        f"This model was fitted to images of shape {self.image_shape} and is given images of "
        f"shape {given.image_shape}."
      )
    highest = int(given.images.max(initial=0))
    if highest >= self.num_levels:
      raise UserError(
        f"This model knows {self.num_levels} levels, but an image has level {highest}; give "
        "num_levels to the pairs that it is fitted to, and fit it again."
      )


def check_num(num: Any):
  """Raises UserError unless `num` can be a number of samples."""
  if isinstance(num, bool) or not isinstance(num, int) or num < 1:
    raise UserError(f"num={num!r} must be a positive integer.")


def words_of(h_shape: Sequence[int] | None) -> str:
  """An h of this shape, in words."""
  return "no h" if h_shape is None else f"an h of shape {tuple(h_shape)}"


def put_together(
  test: Pairs, batches: Iterator[tuple[np.ndarray, np.ndarray]], num_maps: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
  """(nats, live nats, maps) of images whose nats and live nats come batch by batch, by pixel."""
  rows_n = mapped_rows(len(test), num_maps)
  kept, columns, sum_HW, start = [], [], 0.0, 0
  for batch in batches:
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
  return nats_N, live_nats_N, maps


def mapped_rows(num_images: int, num_maps: int) -> Int[np.ndarray, " n"]:
  """Which test images keep their maps, in order: a sample that is the same in every run.

  Not the first ones, which may come from few writers or sources; a smaller sample is part of a
  larger one.
  """
  return np.sort(np.random.default_rng(0).permutation(num_images)[:num_maps])


# Kept, so that the first pass, validation and evaluation share what was compiled.
@functools.lru_cache(maxsize=4)
def pixel_scorer(inverter: Inverter) -> Callable:
  """(params, images, h) to -log p(pixel | pixels before it, h), (B, H, W), by two programs."""
  read = jax.jit(functools.partial(inverters.read, inverter), static_argnames="size")
  score_contexts = programs.scorer(inverter)

  def score_batch(params, images_BHWC, z):
    reader, network = inverters.split(params)
    contexts = read(reader, z, size=images_BHWC.shape[1:3])
    return score_contexts(network, contexts, images_BHWC)

  return score_batch


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
  score_batch = pixel_scorer(inverter)

  def score_rows(rows_B):
    batch = seen.batch(rows_B)
    return tuple(score_batch(params, batch["image"], batch["h"]) for params in params_list)

  return scoring.scored_batches(score_rows, len(seen), batch_size, description)


def _train_images_per_second(folder):
  """The median over the log, so that one slow stretch does not count."""
  records = storage.read_metrics(folder / storage.METRICS) if folder else []
  rates = [
    record["images_per_second"]
    for record in records
    if record["stage"] == NAME and "images_per_second" in record
  ]
  return float(np.median(rates)) if rates else None
