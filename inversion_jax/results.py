"""What scoring some pairs gave: nats of every image, and what follows from them."""

import dataclasses
import functools
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from inversion_jax import information
from inversion_jax.features.pairs import Pairs
from inversion_jax.information import Estimate
from inversion_jax.information.codelength import FirstPass
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.report import figures, page
from inversion_jax.report.files import UNCONDITIONAL

# What a training may have begun with that the codelength of its first pass does not charge.
PRIOR, DECODER, NOISE = "p(x)", "decoder", "noise"
_NOT_CHARGED = {
  PRIOR: "the p(x) that training began from, which had learnt these images",
  DECODER: "the decoder that the reader began from, which had learnt these images",
  NOISE: "fresh noise on the h of images that were told before",
}
_NEVER_CHARGED = "network and recipe, chosen before"


@dataclasses.dataclass(frozen=True, eq=False)
class Codelength:
  """What the training images cost before they were learnt, in one pass; prints as a sentence.

  Attributes:
    first_pass: image by image.
    num_train_images: of the training set, of which the pass may have left some out.
    begun_with: what else had been learnt, `PRIOR`, `DECODER` or `NOISE`.
  """

  first_pass: FirstPass
  num_train_images: int
  begun_with: Sequence[str] = ()

  @property
  def nats(self) -> float:
    """Of all images of the pass together."""
    return self.first_pass.total_nats

  @property
  def not_charged(self) -> list[str]:
    """What it leaves out, in words."""
    return [*(_NOT_CHARGED[name] for name in self.begun_with), _NEVER_CHARGED]

  def __str__(self) -> str:
    told = self.first_pass
    part = "all" if len(told) == self.num_train_images else f"{len(told):,} of the"
    return (
      f"Codelength {page.with_error(told.per_image)} nats per image, {self.nats:,.0f} in all, of "
      f"{part} {self.num_train_images:,} training images before each was learnt, "
      f"{told.num_seen:,} of them with nothing known; not charged: {'; '.join(self.not_charged)}"
    )

  def saved_over(self, other: "Codelength") -> Estimate:
    """Nats per image that it is shorter than `other`, such as that of p(x)."""
    return self.first_pass.saved_over(other.first_pass)

  def facts(self) -> dict[str, Any]:
    """What `summary.json` says of it."""
    return {
      "codelength_nats": self.nats,
      **self.first_pass.per_image.fields("codelength_nats_per_image"),
      "codelength_num_images": len(self.first_pass),
      "num_train_images": self.num_train_images,
      "codelength_not_charged": self.not_charged,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """The nats of test pairs under one model; prints as a sentence.

  Attributes:
    pairs: what was scored.
    layer: the name of h, or "none".
    nats: -log p(x | h) of each image.
    live_nats: the same under the parameters of the best step themselves, not their average.
    maps: nats pixel by pixel of some images, as `maps.npz` has them.
  """

  pairs: Pairs
  layer: str
  nats: Float[np.ndarray, " N"]
  live_nats: Float[np.ndarray, " N"]
  maps: Mapping[str, np.ndarray]

  @functools.cached_property
  def nce(self) -> Estimate:
    """The negative cross entropy E[log p(x | h)], in nats per image; see section 4.1."""
    return information.mean_with_error(-self.nats, self.pairs.sources)

  @property
  def bits_per_dim(self) -> float:
    """Bits per sub-pixel."""
    return information.bits_per_dim(-self.nce.mean, self.pairs.image_shape)

  def __str__(self) -> str:
    return (
      f"NCE {page.with_error(self.nce)} nats per image [95% {page.interval(self.nce)}], "
      f"{self.bits_per_dim:.3f} bits/dim, {len(self.nats):,} images"
    )

  def _repr_html_(self) -> str:
    """What a notebook shows: the sentence and the histogram."""
    return page.element("p", str(self)) + _image_of(self.figure(), str(self))

  def figure(self) -> Figure:
    """A histogram of the nats of all images."""
    given = "" if self.layer == UNCONDITIONAL else f" | {self.layer}"
    return figures.nats_figure(self.nats, -self.nce, given)

  @property
  def nce_by_seed(self) -> Float[np.ndarray, "S N"]:
    """log p(x | h) of each image; a row for each seed where there are several."""
    return -self.nats[None]

  def minus(self, other: "Result") -> Estimate:
    """NCE of this minus NCE of `other` in nats, paired image by image."""
    return information.paired_difference(other.nats, self.nats, self.pairs.sources)

  def save(self, folder: pathlib.Path, facts: Mapping[str, Any]):
    """Writes `nats.npz`, `maps.npz` if there are maps, and `summary.json` with further `facts`."""
    pairs = self.pairs
    arrays = {
      "index": pairs.index,
      "label": pairs.labels,
      "source": pairs.sources,
      "nats": self.nats,
      "live_nats": self.live_nats,
    }
    storage.write_npz(folder / storage.NATS, arrays)
    if self.maps:
      storage.write_npz(folder / storage.MAPS, self.maps)
    storage.write_json(folder / storage.SUMMARY, {**self._summary(), **facts})

  def _summary(self):
    live = information.mean_with_error(-self.live_nats, self.pairs.sources)
    features = self.pairs.features
    return {
      "dataset": self.pairs.dataset,
      "layer": self.layer,
      "num_test_images": len(self.nats),
      "image_shape": list(self.pairs.image_shape),
      "num_levels": self.pairs.num_levels,
      "nce_nats": self.nce.mean,
      "nce_nats_standard_error": self.nce.standard_error,
      "nce_live_nats": live.mean,
      "nce_live_nats_standard_error": live.standard_error,
      "bits_per_dim": self.bits_per_dim,
      "representation_shape": list(features.shape) if features else None,
      "jax_version": jax.__version__,
      "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureResult(Result):
  """The nats of test pairs under a mixture, and under each of its members.

  Attributes:
    members: in their order; without maps.
    seeds: of the members.
  """

  members: tuple[Result, ...]
  seeds: tuple[int, ...]

  @property
  def pooled(self) -> "Pooled":
    """The members as replicates: their mean, with an error over images and seeds."""
    nats_SN = np.stack([member.nats for member in self.members])
    live_N = np.mean([member.live_nats for member in self.members], axis=0)
    return Pooled(self.pairs, self.layer, nats_SN.mean(0), live_N, {}, nats_SN, self.seeds)

  @property
  def best(self) -> Result:
    """The member with the fewest nats, by these test images."""
    return min(self.members, key=lambda member: member.nats.mean())

  def __str__(self) -> str:
    gain = information.paired_difference(self.pooled.nats, self.nats, self.pairs.sources)
    return (
      f"mixture of {len(self.members)}: {super().__str__()}; {page.with_error(gain)} nats above"
      f" the mean of its members, {page.with_error(self.minus(self.best))} above the best"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Pooled(Result):
  """Replicates of one model; `nats` are means over them.

  Attributes:
    nats_SN: of each seed.
    seeds: from which each was trained.
  """

  nats_SN: Float[np.ndarray, "S N"]
  seeds: tuple[int, ...]

  @functools.cached_property
  def nce(self) -> Estimate:
    """The negative cross entropy in nats per image; its error covers images and seeds."""
    return information.mean_over_seeds(-self.nats_SN, self.pairs.sources)

  @property
  def nce_by_seed(self) -> Float[np.ndarray, "S N"]:
    """log p(x | h) of each image, a row for each seed."""
    return -self.nats_SN

  def __str__(self) -> str:
    return f"{super().__str__()}, {len(self.seeds)} seeds"


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
  """Results of the same test images side by side; prints as a table with verdicts.

  Attributes:
    results: by name, in their order.
    codelengths: of those that kept their first pass, by the same names.
  """

  results: Mapping[str, Result]
  codelengths: Mapping[str, Codelength] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    first, *others = self.results.values()
    for other in others:
      if not np.array_equal(first.pairs.images, other.pairs.images):
        raise UserError("The models were scored on different images; give all the same.")

  @functools.cached_property
  def differences(self) -> list[information.Difference]:
    """NCE(a) - NCE(b) of all pairs in nats, judged together; numbers are places in `results`."""
    results = list(self.results.values())
    rows = [one.nce_by_seed for one in results]
    seeds = [one.seeds if isinstance(one, Pooled) else () for one in results]
    return information.all_differences(rows, results[0].pairs.sources, seeds)

  def __str__(self) -> str:
    lines = [f"{name}: {result}" for name, result in self.results.items()]
    return "\n".join([*lines, *self._sentences(), *self._codelength_words()])

  def _sentences(self):
    """One for each pair of models, and why none has a verdict if that is so."""
    reservations = {information.reservation(one.estimate.num) for one in self.differences}
    return [*map(self._words, self.differences), *filter(None, reservations)]

  def _words(self, difference):
    names = list(self.results)
    return (
      f"{names[difference.first]} minus {names[difference.second]}: "
      f"{page.with_error(difference.estimate)} nats per image "
      f"[95% {page.interval(difference.estimate)}], {difference.verdict}"
    )

  def _codelength_words(self):
    """A line for each codelength, and what it is shorter than that of p(x)."""
    priors = [
      codelength
      for name, codelength in self.codelengths.items()
      if self.results[name].layer == UNCONDITIONAL
    ]
    for name, codelength in self.codelengths.items():
      per_image = codelength.first_pass.per_image
      words = f"{name}: codelength of the first pass {page.with_error(per_image)} nats per image"
      if priors and codelength is not priors[0]:
        saved = codelength.saved_over(priors[0])
        words += f", {page.with_error(saved)} less than p(x) [95% {page.interval(saved)}]"
      yield words

  def _repr_html_(self) -> str:
    """What a notebook shows: the table and the figure."""
    header = ("h", "NCE, nats per image", "95% interval", "bits per sub-pixel")
    cells = [
      (name, page.with_error(result.nce), page.interval(result.nce), f"{result.bits_per_dim:.3f}")
      for name, result in self.results.items()
    ]
    words = [*self._sentences(), *self._codelength_words()]
    pairs = page.element("ul", *(page.element("li", one) for one in words))
    return page.table(header, cells) + pairs + _image_of(self.figure(), "NCE by model")

  def figure(self) -> Figure:
    """NCE of every model with its 95% interval."""
    estimates = [result.nce for result in self.results.values()]
    num_layers = sum(result.layer != UNCONDITIONAL for result in self.results.values())
    return figures.nce_figure(list(self.results), estimates, [None] * len(estimates), num_layers)


def _image_of(figure, alt):
  picture = io.BytesIO()
  figure.savefig(picture, format="png", dpi=2 * figures.DPI)
  return page.image(picture.getvalue(), alt)
