"""What scoring some pairs gave: nats of every image, and what follows from them."""

import dataclasses
import functools
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from inversion_jax import information
from inversion_jax.features.pairs import Pairs
from inversion_jax.information import Estimate
from inversion_jax.machine import storage
from inversion_jax.report import figures, page
from inversion_jax.report.files import UNCONDITIONAL


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
    picture = io.BytesIO()
    self.figure().savefig(picture, format="png", dpi=2 * figures.DPI)
    return page.element("p", str(self)) + page.image(picture.getvalue(), str(self))

  def figure(self) -> Figure:
    """A histogram of the nats of all images."""
    given = "" if self.layer == UNCONDITIONAL else f" | {self.layer}"
    return figures.nats_figure(self.nats, self.nce._replace(mean=-self.nce.mean), given)

  def minus(self, other: "Result") -> Estimate:
    """NCE of this minus NCE of `other` in nats, paired image by image."""
    return information.paired_difference(other.nats, self.nats, self.pairs.sources)

  def save(self, folder: pathlib.Path, facts: Mapping[str, Any]):
    """Writes `nats.npz`, `maps.npz`, and `summary.json` with further `facts`."""
    pairs = self.pairs
    arrays = {
      "index": pairs.index,
      "label": pairs.labels,
      "source": pairs.sources,
      "nats": self.nats,
      "live_nats": self.live_nats,
    }
    storage.write_npz(folder / storage.NATS, arrays)
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
