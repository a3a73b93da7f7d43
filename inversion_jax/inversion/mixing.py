"""Several readers as one density; see `information.mixtures`."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting import training
from inversion_jax.information import mixtures
from inversion_jax.inversion.model import Inversion, check_num, put_together
from inversion_jax.machine import compilation, limits, placement
from inversion_jax.machine.errors import UserError
from inversion_jax.models import sampling
from inversion_jax.results import MixtureResult, Result

SHARE = limits.within(0.0, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
  """The mean of the densities of trained models, itself an exact density.

  Pairs are given for all members alike, or one for each where each reads the h of a network of its
  own: it is then a density of x given all these h together.

  Attributes:
    members: the models.
    share: of the members' weights that is spread evenly again after each pixel; 0 is the mixture of
      whole images, 1 the plain mean of the members' probabilities of each pixel.
  """

  members: tuple[Inversion, ...]
  share: float = 0.0

  def __repr__(self) -> str:
    forgets = f", share {self.share:g}" if self.share else ""
    return f"Mixture of {len(self.members)}{forgets}: {self.members[0]!r}"

  def evaluate(self, test: Pairs | Sequence[Pairs], *, num_maps: int = 1_000) -> MixtureResult:
    """Scores pairs it was not trained on, each once, under the mixture and every member.

    Arguments are those of `Inversion.evaluate`; nothing is written.
    """
    each = self._pairs(test)
    for member, pairs in zip(self.members, each, strict=True):
      member.check_unseen(pairs)
    kept = []
    nats_N, live_nats_N, maps = put_together(each[0], self._mixed(each, kept), num_maps)
    by_member = (np.concatenate(parts, axis=1) for parts in zip(*kept, strict=True))
    results = tuple(
      Result(pairs, member.layer, *nats, {})
      for pairs, member, *nats in zip(each, self.members, *by_member, strict=True)
    )
    seeds = tuple(member.seed for member in self.members)
    return MixtureResult(each[0], self.members[0].layer, nats_N, live_nats_N, maps, results, seeds)

  def nats(self, of: Pairs | Sequence[Pairs]) -> Float[np.ndarray, " N"]:
    """-log of the mixture's probability of each image."""
    parts = [mixtures.nats_along(nats_MBP, self.share) for nats_MBP in self.pixel_nats(of)]
    return np.concatenate([nats_BP.sum(1) for nats_BP in parts])

  def pixel_nats(self, of: Pairs | Sequence[Pairs]) -> Iterator[Float[np.ndarray, "M B P"]]:
    """Batches of the nats of pixels under each member, in raster order."""
    for (nats_MBHW,) in self._batches(self._pairs(of), ["params"]):
      yield nats_MBHW.reshape(*nats_MBHW.shape[:2], -1)

  def weights(self, of: Pairs | Sequence[Pairs]) -> Float[np.ndarray, "M N H W"]:
    """The weight of each member before each pixel, from the pixels before it."""
    parts = [mixtures.weights_along(nats_MBP, self.share) for nats_MBP in self.pixel_nats(of)]
    weights_MNP = np.concatenate(parts, axis=1)
    return weights_MNP.reshape(*weights_MNP.shape[:2], *self.members[0].image_shape[:2])

  def sample(
    self, h: Any = None, num: int = 1, *, batch_size: int = 80
  ) -> UInt8[np.ndarray, "..."]:
    """Draws images from the mixture, the same ones each time: each from a member that is drawn.

    With a share, another member may be drawn at each pixel.

    Args:
      h: as of `Inversion.sample`; or a tuple, one for each member.
      num: images for each h.
      batch_size: images at a time.

    Returns:
      Levels (N, num, H, W, C); (num, H, W, C) without h.
    """
    check_num(num)
    own = h if isinstance(h, tuple) else (h,) * len(self.members)
    self._check_number(own)
    each = [member.blank(its) for member, its in zip(self.members, own, strict=True)]
    rows_M, sample_M = np.divmod(np.arange(len(each[0]) * num), num)
    draw = self._draw_switching if self.share else self._draw_whole
    batch_size = placement.rounded_up(min(batch_size, len(rows_M)))
    drawn_MHWC = draw(each, rows_M, sample_M, batch_size)
    drawn = drawn_MHWC.reshape(len(each[0]), num, *drawn_MHWC.shape[1:])
    return drawn[0] if h is None else drawn

  def _pairs(self, of) -> list[Pairs]:
    """The pairs of each member, checked."""
    each = [of] * len(self.members) if isinstance(of, Pairs) else list(of)
    self._check_number(each)
    each = [
      pairs.without_h() if member.h_shape is None else pairs
      for member, pairs in zip(self.members, each, strict=True)
    ]
    for member, pairs in zip(self.members, each, strict=True):
      member.check(pairs)
      if not np.array_equal(pairs.images, each[0].images):
        raise UserError("The members are given different images; give all the same.")
    return each

  def _check_number(self, given):
    if len(given) != len(self.members):
      raise UserError(
        f"The mixture has {len(self.members)} members and is given {len(given)}; give one for all "
        "or one for each."
      )

  def _batches(self, each, kinds: Sequence[str]) -> Iterator[tuple[np.ndarray, ...]]:
    """Nats of pixels under each member, (M, B, H, W), for each kind of its parameters."""
    num = len(self.members)
    batches = [
      member.pixel_nats(
        pairs, [getattr(member, kind) for kind in kinds], f"evaluate {place} of {num}"
      )
      for place, (member, pairs) in enumerate(zip(self.members, each, strict=True), 1)
    ]
    for parts in zip(*batches, strict=True):
      yield tuple(np.stack(column) for column in zip(*parts, strict=True))

  def _mixed(self, each, kept: list) -> Iterator[tuple[np.ndarray, ...]]:
    """(nats, live nats) of pixels, (B, H, W); the members' of images are added to `kept`."""
    for columns in self._batches(each, ["params", "live_params"]):
      kept.append([nats_MBHW.sum((2, 3)) for nats_MBHW in columns])
      yield tuple(self._along(nats_MBHW) for nats_MBHW in columns)

  def _along(self, nats_MBHW):
    flat_MBP = nats_MBHW.reshape(*nats_MBHW.shape[:2], -1)
    return mixtures.nats_along(flat_MBP, self.share).reshape(nats_MBHW.shape[1:])

  def _draw_whole(self, each, rows_M, sample_M, batch_size):
    """Each image from one member."""
    member_M = _drawn_members(self, rows_M, sample_M, 1)[:, 0]
    drawn_MHWC = np.zeros((len(rows_M), *self.members[0].image_shape), np.uint8)
    for place, (member, pairs) in enumerate(zip(self.members, each, strict=True)):
      picked = np.flatnonzero(member_M == place)
      if len(picked):
        rows, samples = rows_M[picked], sample_M[picked]
        drawn_MHWC[picked] = member.draw_rows(pairs, rows, samples, batch_size=batch_size)
    return drawn_MHWC

  def _draw_switching(self, each, rows_M, sample_M, batch_size):
    """Each pixel from the member that has its turn."""
    if any(member.inverter != self.members[0].inverter for member in self.members):
      raise UserError("With a share, samples need members of one network; use share=0.")
    size = self.members[0].image_shape[:2]
    turns_MHW = _drawn_members(self, rows_M, sample_M, size[0] * size[1]).reshape(-1, *size)
    seen = [
      member.observed.scored(pairs, jax.random.key(member.seed))
      for member, pairs in zip(self.members, each, strict=True)
    ]
    state = [member.params for member in self.members], _key(self, "sample")
    draw_batch = _switching_sampler(self.members[0].inverter, size)
    drawn = []
    for start in range(0, len(rows_M), batch_size):
      picked_B = np.minimum(np.arange(start, start + batch_size), len(rows_M) - 1)
      rows_B = rows_M[picked_B]
      z_by_member = [pairs.batch(rows_B)["h"] for pairs in seen]
      rest = placement.put_batch((turns_MHW[picked_B], rows_B, sample_M[picked_B]))
      levels_BHWC = np.asarray(draw_batch(state, z_by_member, *rest), np.uint8)
      drawn.append(levels_BHWC[: len(rows_M) - start])
    return np.concatenate(drawn)


def _switching_sampler(inverter, size):
  """Draws images, each pixel with the head of the member whose turn it is."""

  @placement.per_device
  def draw_batch(state, z_by_member, turns_BHW, index_B, sample_B):
    params, key = state
    readers = [inverter.bind({"params": one}) for one in params]
    contexts = [
      sampling.for_each(reader.contexts(z, size), len(index_B))
      for reader, z in zip(readers, z_by_member, strict=True)
    ]

    def head_fn(levels_SHWC, image_S):
      own = jax.tree.map(lambda context: context[image_S], contexts)
      heads = [
        reader.head(levels_SHWC, context) for reader, context in zip(readers, own, strict=True)
      ]
      turns_SHW1 = turns_BHW[image_S][..., None]
      return jnp.select([turns_SHW1 == place for place in range(len(heads))], heads)

    keys_B = sampling.sample_keys(key, index_B, sample_B)
    return sampling.fixed_point(head_fn, readers[0].likelihood, keys_B, size)

  return compilation.jit_sampler(draw_batch, out_shardings=placement.data_parallel()[1])


def mixture(models: Sequence[Inversion], *, share: float = 0.0) -> Mixture:
  """Trained models of the same images as one density, with even weights.

      print(ij.mixture([ij.load(folder) for folder in folders]).evaluate(test))

  Args:
    models: fitted, of one shape and number of levels; seeds of one model, or different ones.
    share: see `Mixture`. Choose it without a look at the test images.

  Raises:
    UserError: fewer than two models, or models of different images.
  """
  models = tuple(models)
  limits.check_number("share", share, SHARE)
  for model in models:
    if not isinstance(model, Inversion):
      raise UserError(f"mixture takes fitted models, not {type(model).__name__}.")
  if len(models) < 2:
    raise UserError(f"A mixture needs two models or more, not {len(models)}.")
  if len({(model.image_shape, model.num_levels) for model in models}) > 1:
    raise UserError(
      "The models are of images of different shapes or levels; give those of one set."
    )
  # All go through the images in the same batches.
  batch_size = models[0].batch_size
  members = (dataclasses.replace(model, batch_size=batch_size) for model in models)
  return Mixture(tuple(members), float(share))


def _key(of: Mixture, stream):
  return training.key_for(jax.random.key(of.members[0].seed), stream)


def _drawn_members(of: Mixture, rows_M, sample_M, num_pixels) -> Int[np.ndarray, "M P"]:
  """Which member has its turn at each pixel: drawn at the first, and again with chance `share`."""

  def draw(key):
    change_key, member_key = jax.random.split(key)
    is_drawn_P = jax.random.uniform(change_key, (num_pixels,)) < of.share
    return is_drawn_P.at[0].set(True), jax.random.randint(
      member_key, (num_pixels,), 0, len(of.members)
    )

  image_and_sample = jnp.asarray(rows_M), jnp.asarray(sample_M)
  keys_M = sampling.sample_keys(_key(of, "member"), *image_and_sample)
  is_drawn_MP, member_MP = map(np.asarray, jax.vmap(draw)(keys_M))
  last_MP = np.maximum.accumulate(np.where(is_drawn_MP, np.arange(num_pixels), 0), axis=1)
  return np.take_along_axis(member_MP, last_MP, axis=1)
