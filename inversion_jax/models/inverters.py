"""p(x | h): a likelihood, the causal network and the context that h gives it, joined."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Shaped

from inversion_jax.machine.errors import UserError
from inversion_jax.models import incremental, likelihoods, pixelcnn
from inversion_jax.models.contexts import DECODER, ContextEncoder, Reader
from inversion_jax.models.gated import GatedPixelCNN
from inversion_jax.models.pixelcnn import PixelCNN, rematerialising

AnyArray = Array | np.ndarray
# The names under which an inverter keeps the parameters of what brings h in, and of the causal
# network. Each is a model of its own: see `Inverter.contexts` and `Inverter.log_prob`.
READER, NETWORK = NAMES = ("encoder", "network")
PIXELCNN, GATED = "pixelcnn++", "gated"
ARCHITECTURES = (PIXELCNN, GATED)


class Inverter(nn.Module):
  """A conditional density of images; without a representation, the unconditional p(x).

  Initialise it on a large batch *with its h*: the first batch sets scales and biases.

      inverter = Inverter(likelihoods.Categorical(num_levels=17), num_filters=32)
      params = inverter.init(key, levels_BHWC, z)["params"]
      nats_B = -inverter.apply({"params": params}, levels_BHWC, z).sum((1, 2))

  Attributes:
    likelihood: the distribution of one pixel given the head.
    architecture: of the causal network, "pixelcnn++" or "gated", see `PixelCNN` and
      `GatedPixelCNN`; the second has one scale, whatever num_scales is.
    num_filters, num_blocks, num_scales, dropout_rate, context_dropout_rate: see `PixelCNN`.
    context: how h is brought in, "projection", "encoder" or "decoder", see `contexts`.
    resize_method: of a spatial h in the first two, see `ContextEncoder`.
    reader_filters, reader_blocks, reader_units, reader_dropout_rate, reader_places, reader_direct,
      reader_even, reader_taper: of the third, see `Reader`; the places are p(x)'s, too.
    remat: what the backward pass computes again, see `pixelcnn.rematerialising`.
    dtype: type of the activations; parameters, head and likelihood stay float32.

  Source: Nash et al. (2019), sections 3.2 and 4, appendix A.
  """

  likelihood: likelihoods.Likelihood
  architecture: str = PIXELCNN
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
  reader_places: int = 32
  reader_direct: int = 16
  reader_even: bool = False
  reader_taper: int = 1
  remat: str = ""
  dtype: Any = jnp.float32

  def setup(self):
    """Builds the parts; both are functions of the fields alone."""
    is_reader = self.context == DECODER
    self.encoder = self._reader() if is_reader else self._encoder()
    spread = 0.0 if is_reader else pixelcnn.CONTEXT_SPREAD
    self.network = self._gated(spread) if self.architecture == GATED else self._pixelcnn(spread)

  def _pixelcnn(self, context_spread):
    is_reader = self.context == DECODER
    return rematerialising(PixelCNN, self.remat)(
      self.likelihood.num_features,
      self.num_filters,
      self.num_blocks,
      self.num_scales,
      self.dropout_rate,
      self.context_dropout_rate,
      context_spread=context_spread,
      linear_features=self.likelihood.linear_features if is_reader else None,
    )

  def _gated(self, context_spread):
    return rematerialising(GatedPixelCNN, self.remat)(
      self.likelihood.num_features,
      self.num_filters,
      self.num_blocks,
      self.dropout_rate,
      self.context_dropout_rate,
      context_spread=context_spread,
    )

  def _encoder(self):
    return ContextEncoder(self.context, self.resize_method, self.num_filters)

  def _reader(self):
    return Reader(
      self.reader_filters,
      self.reader_blocks,
      self.reader_units,
      self.reader_dropout_rate,
      self.reader_places,
      self.reader_direct,
      self.reader_even,
      self.reader_taper,
      self.dtype,
    )

  def __call__(
    self,
    levels_BHWC: Shaped[AnyArray, "..."],
    z: Float[AnyArray, "B *map Z"] | None = None,
    *,
    train: bool = False,
  ) -> Float[Array, "B H W"]:
    """log p(pixel | pixels before it, h) of every pixel, in nats; its sum is log p(x | h).

    Args:
      levels_BHWC: images as integers 0..num_levels-1; anything else is refused, see
        `likelihoods.check_levels`.
      z: the representation, a vector or a map per image; None for p(x).
      train: whether dropout is on, drawn from the rng stream "dropout".
    """
    self._check(levels_BHWC)
    contexts_ = self.contexts(z, levels_BHWC.shape[1:3], train=train)
    return self.log_prob(levels_BHWC, contexts_, train=train)

  def contexts(
    self, z: Float[AnyArray, "B *map Z"] | None, size: tuple[int, int], *, train: bool = False
  ) -> tuple[Array, ...] | None:
    """What h gives to each resolution of the network for images of `size` (rows, columns).

    Without h it is what every image is given, with a batch axis of 1, or None.
    """
    if z is None and self.context != DECODER:
      return None
    z = None if z is None else jnp.asarray(z, self.dtype)
    num_scales = 1 if self.architecture == GATED else self.num_scales
    return self.encoder(z, size, num_scales, train)

  def log_prob(
    self,
    levels_BHWC: Shaped[AnyArray, "..."],
    contexts: tuple[Array, ...] | None,
    *,
    train: bool = False,
  ) -> Float[Array, "B H W"]:
    """What the inverter itself gives, from what h gave."""
    return self.likelihood.log_prob(self.head(levels_BHWC, contexts, train=train), levels_BHWC)

  def head(
    self,
    levels_BHWC: Shaped[AnyArray, "..."],
    contexts: tuple[Array, ...] | None,
    *,
    train: bool = False,
  ) -> Float[Array, "B H W F"]:
    """The parameters of every pixel's distribution, which depend on the pixels before it alone."""
    self._check(levels_BHWC)
    unit_BHWC = likelihoods.to_unit(levels_BHWC, self.likelihood.num_levels)
    return self.network(unit_BHWC.astype(self.dtype), contexts, train)

  def _check(self, levels_BHWC):
    likelihood = self.likelihood
    likelihoods.check_levels(levels_BHWC, likelihood.num_levels, likelihood.num_colours)

  @property
  def has_raster(self) -> bool:
    """Whether `raster` knows the network, so that its samples can be `cached`."""
    return self.architecture == PIXELCNN

  def raster(
    self,
    contexts: tuple[Array, ...] | None,
    draw: Callable[[Array, Any], tuple[Array, Any]],
    inputs_fn: Callable[[Array], Any],
    size: tuple[int, int],
    batch_size: int,
  ) -> Any:
    """Builds images pixel by pixel at the cost of about one pass, see `incremental.raster`.

    Args:
      contexts: as for `head`.
      draw: gets the head of a pixel (B, F) and the pixel's inputs; returns its levels (B, C), and
        anything to be collected.
      inputs_fn: the inputs of a row's pixels, arrays with columns first.
      size: rows, columns.
      batch_size: B.

    Returns:
      What `draw` collected, each array with rows and columns first.
    """

    def pixel_fn(head_BF, inputs):
      levels_BC, collected = draw(head_BF, inputs)
      return likelihoods.to_unit(levels_BC, self.likelihood.num_levels), collected

    return incremental.raster(
      self.network,
      self.network.variables["params"],
      contexts,
      pixel_fn,
      inputs_fn,
      size=size,
      batch_size=batch_size,
      dtype=self.dtype,
    )


def split(params: dict) -> tuple[dict, dict]:
  """The parameters of the reader, of which there may be none, and those of the network."""
  return params.get(READER, {}), params[NETWORK]


def read(
  inverter: Inverter,
  params: dict,
  z: Float[AnyArray, "B *map Z"] | None,
  size: tuple[int, int],
  **settings: Any,
) -> tuple[Array, ...] | None:
  """`Inverter.contexts` with the parameters of the reader alone; `settings` are of `apply`."""
  return inverter.apply({"params": {READER: params}}, z, size, method=Inverter.contexts, **settings)


def log_prob(
  inverter: Inverter,
  params: dict,
  contexts: tuple[Array, ...] | None,
  levels_BHWC: Shaped[AnyArray, "..."],
  **settings: Any,
) -> Float[Array, "B H W"]:
  """`Inverter.log_prob` with the parameters of the network alone; `settings` are of `apply`."""
  return inverter.apply(
    {"params": {NETWORK: params}}, levels_BHWC, contexts, method=Inverter.log_prob, **settings
  )


def amortised(params: dict, marginal_params: dict) -> dict:
  """`params` of p(x | h) such that it starts as the trained p(x): projections of h are zero.

  Raises:
    UserError: p(x) has another network.
  """
  flat, trained = flatten_dict(params), flatten_dict(marginal_params)

  def fits(path):
    # A projection of p(x) reads the places alone, which come before the features of h.
    first = 1 if _is_projection(path) else 0
    return path in flat and flat[path].shape[first:] == trained[path].shape[first:]

  if not all(map(fits, trained)):
    raise UserError(
      "inverter.start_from is a run of another network; give one like inverter.network."
    )

  def start(path, leaf):
    if not _is_projection(path):
      return trained.get(path, leaf)
    of_places = trained.get(path, leaf[:0])
    return jnp.zeros_like(leaf).at[: len(of_places)].set(of_places)

  return unflatten_dict({path: start(path, leaf) for path, leaf in flat.items()})


def _is_projection(path):
  return any(name.endswith(pixelcnn.CONTEXT) for name in path)


def from_decoder(params: dict, decoder_params: dict) -> dict:
  """`params` of p(x | h) whose reader begins with the parts of a trained `Decoder`.

  Parts of equal name and shape are copied. The projections are zero either way, so the model
  still begins as p(x) does.

  Args:
    params: of an inverter with context "decoder".
    decoder_params: of a decoder with `residual`, of the same h and sizes.

  Raises:
    UserError: no part fits.
  """
  flat, trained = flatten_dict(params), flatten_dict({READER: decoder_params})
  fitting = {
    path: leaf for path, leaf in trained.items() if path in flat and flat[path].shape == leaf.shape
  }
  if not fitting:
    raise UserError(
      "The reader cannot begin from this decoder: no part of it has the same name and shape; train "
      "one with residual=True and the reader's filters, blocks and units."
    )
  return unflatten_dict(flat | fitting)
