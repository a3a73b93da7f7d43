"""The size and kind of an inverter, what suits which images, and what it costs."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from inversion_jax.fitting import costs
from inversion_jax.fitting.chains import ChainInit
from inversion_jax.fitting.training import Recipe
from inversion_jax.inversion import programs
from inversion_jax.machine import limits
from inversion_jax.models import contexts, inverters, likelihoods, pixelcnn, upward
from inversion_jax.models.inverters import Inverter

DTYPES = ("float32", "bfloat16")
# Fields of `Network` by the values they may have.
COUNTS = ("num_filters", "num_blocks", "num_scales", "num_components", "filter_multiple")
COUNTS += ("reader_filters", "reader_blocks", "reader_units", "reader_taper")
RATES = ("dropout_rate", "context_dropout_rate", "reader_dropout_rate")
# Of the scales, in images from -1 to 1: beyond these a pixel is one level, or all are equal.
LOG_SCALES = limits.within(-20.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Network:
  """The size and kind of an inverter; defaults are the paper's for MNIST (appendix A).

  But for `context`: the paper's reader of h, "projection", leaves nats of h unread.

  Attributes:
    architecture: of the causal network, "pixelcnn++" or "gated", which has one scale.
    num_filters, num_blocks, num_scales, dropout_rate, context_dropout_rate: see `PixelCNN`.
    context: how h is brought in, "projection" (the paper's), "encoder" or "decoder".
    resize_method: of a spatial h in the first two, see `ContextEncoder`.
    reader_filters, reader_blocks, reader_units, reader_dropout_rate, reader_places, reader_direct,
      reader_even, reader_taper: of the third, see `Reader`; p(x) has the places, too.
    remat: what the backward pass computes again, "", "elementwise" or "blocks".
    likelihood: of a pixel, "auto", "categorical" or "logistic_mixture".
    num_components, min_log_scale: of the mixture.
    filter_multiple: filters are rounded up to a multiple while training; the same model.
    dtype: of the activations, "float32" or "bfloat16".
  """

  architecture: str = inverters.PIXELCNN
  num_filters: int = 64
  num_blocks: int = 3
  num_scales: int = 3
  dropout_rate: float = 0.5
  context: str = "decoder"
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
  likelihood: str = "auto"
  num_components: int = 10
  min_log_scale: float = -7.0
  filter_multiple: int = 1
  dtype: str = "float32"

  def __post_init__(self):
    limits.check_fields(self, COUNTS, limits.ABOVE_ZERO, limits.check_integer)
    lines = ("reader_places", "reader_direct")
    limits.check_fields(self, lines, limits.NOT_NEGATIVE, limits.check_integer)
    limits.check_one_of("reader_even", self.reader_even, (False, True))
    limits.check_fields(self, RATES, limits.FRACTION)
    limits.check_number("min_log_scale", self.min_log_scale, LOG_SCALES)
    limits.check_one_of("architecture", self.architecture, inverters.ARCHITECTURES)
    limits.check_one_of("context", self.context, contexts.MODES)
    limits.check_one_of("resize_method", self.resize_method, contexts.RESIZE_METHODS)
    limits.check_one_of("remat", self.remat, pixelcnn.REMATS)
    limits.check_one_of("likelihood", self.likelihood, likelihoods.NAMES)
    limits.check_one_of("dtype", self.dtype, DTYPES)

  def check_images(self, image_shape: Sequence[int]):
    """Raises UserError, beginning with the field, if images of this shape are too small for it."""
    upward.check_num_scales(self.num_scales, self.num_scales - 1, image_shape)

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


# What newer fields were in folders and models that do not name them.
BEFORE = {"reader_places": 0, "reader_direct": 0}
# Those of `Network` that are attributes of `Inverter` under the same name.
MODULE_FIELDS = (
  "architecture",
  "num_filters",
  "num_blocks",
  "num_scales",
  "dropout_rate",
  "context",
)
MODULE_FIELDS += ("context_dropout_rate", "resize_method", "remat")
MODULE_FIELDS += (
  "reader_filters",
  "reader_blocks",
  "reader_units",
  "reader_dropout_rate",
  "reader_places",
  "reader_direct",
  "reader_even",
  "reader_taper",
)


def suited(image_shape: Sequence[int], h_shape: Sequence[int] | None) -> tuple[Network, Recipe]:
  """A network and a recipe that a laptop trains in minutes on images of this size.

  Up to 16x16 one that reads digits about as well as that of `configs/digits.py`, whose recipe is
  for a thousand images; above, a reduced one of the README's table, by Muon. The paper's are
  `Network()` and `Recipe()`, with 196 filters for colour: hours to days on an accelerator.
  """
  recipe = Recipe(decay="cosine", learning_rate=3e-3, ema_decay=0.98, log_every=20)
  if max(image_shape[:2]) <= 16:
    network = Network(num_filters=32, num_blocks=1, num_scales=2)
    if h_shape is None:
      # Without h there is more to learn from the pixels.
      return network, dataclasses.replace(recipe, num_steps=500, validate_every=60)
    network = dataclasses.replace(network, dropout_rate=0.3)
    if len(h_shape) == 1:
      network = dataclasses.replace(network, reader_dropout_rate=VECTOR_DROPOUT)
    return network, dataclasses.replace(
      recipe,
      num_steps=300,
      learning_rate=5e-3,
      weight_decay=WEIGHT_DECAY,
      validate_every=60,
    )
  network = Network(num_filters=32, num_blocks=1, dropout_rate=0.1, reader_taper=LARGE_TAPER)
  return network, dataclasses.replace(
    recipe,
    batch_size=32,
    num_steps=2_500,
    learning_rate=2e-3,
    algorithm="muon",
    ema_decay=0.99,
    validate_every=250,
  )


# Against learning few images by heart; measured on digits, of which there are 1,297. Without them
# the best step comes early, and training images are 12 to 15 nats below others. A vector is learnt
# by heart sooner than a map.
VECTOR_DROPOUT, WEIGHT_DECAY = 0.5, 1.0
# Of images above 16x16, most of whose steps' time goes into the finest grid: a step took 8% less,
# and conv2 of CIFAR-10 came as far in as many steps.
LARGE_TAPER = 2


def beginning(inverter: Inverter) -> ChainInit:
  """`inverter.init`: untrained parameters, whose scales the statistics of images and their h set.

  It is called with keys, images and h.
  """

  def init_reader(keys, images_BHWC, z):
    size = images_BHWC.shape[1:3]
    return inverter.init_with_output(keys, z, size, train=True, method=Inverter.contexts)

  return ChainInit(init_reader, programs.init(inverter))


# Kept, since many stages of a run ask, and the answer takes a second.
@functools.lru_cache(maxsize=16)
def param_shapes(
  inverter: Inverter, image_shape: tuple[int, ...], h_shape: tuple[int, ...] | None
) -> Any:
  """Shapes and types of the parameters; nothing is computed."""
  images, z = shapes_of(2, image_shape, h_shape)
  keys = dict.fromkeys(("params", "dropout"), jax.random.key(0))
  return jax.eval_shape(lambda *args: beginning(inverter)(*args), keys, images, z)


def shapes_of(num: int, image_shape: Sequence[int], h_shape: Sequence[int] | None) -> tuple:
  """Images and h in the place of arrays."""
  images = jax.ShapeDtypeStruct((num, *image_shape), jnp.uint8)
  return images, None if h_shape is None else jax.ShapeDtypeStruct((num, *h_shape), jnp.float32)


class Cost(NamedTuple):
  """Of training an inverter: how many numbers it learns, and operations for an image."""

  num_params: int
  operations_per_image: int


def cost(
  network: Network, num_levels: int, image_shape: Sequence[int], h_shape: Sequence[int] | None
) -> Cost:
  """What a network will cost, from shapes alone."""
  inverter = network.inverter(num_levels, image_shape[-1])
  params = param_shapes(inverter, tuple(image_shape), h_shape and tuple(h_shape))

  def score(params, images, z):
    return inverter.apply({"params": params}, images, z)

  operations = costs.train_operations(score, params, *shapes_of(2, image_shape, h_shape))
  return Cost(sum(leaf.size for leaf in jax.tree.leaves(params)), operations // 2)
