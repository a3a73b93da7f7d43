"""Image distributions whose mutual information with a representation is known.

Every task knows log p(x | h) of each image exactly, so the loss of a model q(x | h) against the
truth, E[log p(x | h) - log q(x | h)], is a mean of paired differences with a small error, and the
bound is the truth minus that.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.datasets
from jaxtyping import Float, UInt8
from scipy.special import logsumexp

from inversion_jax import information
from inversion_jax.exact.ising import Ising
from inversion_jax.machine import compilation
from inversion_jax.models import likelihoods, sampling
from inversion_jax.models.inverters import Inverter


class Draws(NamedTuple):
  """Images, their representations, and log p(x | h) in nats."""

  levels_NHWC: UInt8[np.ndarray, "N H W C"]
  h: Float[np.ndarray, "N *map Z"]
  log_prob_N: Float[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A distribution of (x, h).

  Attributes:
    name, description: for the table.
    num_levels: of a pixel.
    entropy_nats: H(x).
    truth_nats: I(x; h).
    truth_standard_error: its Monte-Carlo error; 0 if it is exact.
    draw: `draw(rng, n)`.
    least_nats: the bound that the quick version promises to reach.
    is_deterministic: whether h is a function of x.
    num_steps_factor: how many times the usual number of steps it takes.
  """

  name: str
  description: str
  num_levels: int
  entropy_nats: float
  truth_nats: float
  truth_standard_error: float = 0.0
  draw: Callable[[np.random.Generator, int], Draws]
  least_nats: float
  is_deterministic: bool = True
  num_steps_factor: float = 1.0


def bit_textures(flip: float = 0.0, num_revealed: int = 16) -> Task:
  """8x8 images of 16 blocks, each one bit that chooses one of two 2x2 textures.

  h holds the first `num_revealed` bits as -1 or 1 in a 4x4 map, each flipped with probability
  `flip` (a binary symmetric channel), and 0 for the bits that it hides.
  """
  textures = np.array([[[0, 2], [3, 1]], [[1, 3], [0, 2]]], np.uint8)
  is_revealed = (np.arange(16) < num_revealed).reshape(4, 4)

  def draw(rng, num_images):
    bits_NHW = rng.integers(0, 2, (num_images, 4, 4))
    blocks = textures[bits_NHW].transpose(0, 1, 3, 2, 4)
    is_flipped = rng.random(bits_NHW.shape) < flip
    h = np.where(is_revealed, 2.0 * (bits_NHW ^ is_flipped) - 1.0, 0.0)[..., None]
    # The posterior of a bit, seen through the channel, is the channel itself: the prior is flat.
    log_seen = np.log(np.where(is_flipped & is_revealed, flip, 1.0 - flip))
    log_prob_N = np.where(is_revealed, log_seen, -math.log(2)).sum((1, 2))
    return Draws(blocks.reshape(-1, 8, 8, 1), h.astype(np.float32), log_prob_N)

  noise = _binary_entropy(flip)
  truth = num_revealed * (math.log(2) - noise)
  what = f"{num_revealed} of 16 bits" + (f" through a channel flipping {flip:.0%}" if flip else "")
  return Task(
    name=f"bits_{num_revealed}" + ("_noisy" if flip else ""),
    description=f"textures of 16 bits; h: {what}",
    num_levels=4,
    entropy_nats=16 * math.log(2),
    truth_nats=truth,
    draw=draw,
    least_nats=0.95 * truth,
    is_deterministic=not flip,
  )


def _binary_entropy(p):
  return 0.0 if p in (0.0, 1.0) else -p * math.log(p) - (1 - p) * math.log1p(-p)


def many_bits(side: int = 16, num_revealed: int = 3) -> Task:
  """Every pixel has 16 levels, 4 bits; h is the map of the first `num_revealed` bits of each.

  At 16x16 and 3 bits that is 532 nats.
  """

  def draw(rng, num_images):
    levels = rng.integers(0, 16, (num_images, side, side, 1), dtype=np.uint8)
    bits = levels >> np.arange(3, 3 - num_revealed, -1) & 1
    log_prob_N = np.full(num_images, -(side**2) * (4 - num_revealed) * math.log(2))
    return Draws(levels, 2.0 * bits.astype(np.float32) - 1.0, log_prob_N)

  truth = side**2 * num_revealed * math.log(2)
  return Task(
    name="bits_many",
    description=f"{side**2} pixels of 4 bits; h: {num_revealed} bits of each, a map",
    num_levels=16,
    entropy_nats=side**2 * 4 * math.log(2),
    truth_nats=truth,
    draw=draw,
    least_nats=0.95 * truth,
    num_steps_factor=0.5,
  )


def templates(num_templates: int = 32, num_codes: int = 16, flip: float = 0.02) -> Task:
  """A random binary 8x8 template, each pixel flipped independently; h: a many-to-one code of it."""
  rng = np.random.default_rng(0)
  patterns_KD = rng.integers(0, 2, (num_templates, 64))
  codes_K = np.arange(num_templates) % num_codes

  def log_prob_by_template(levels_ND):
    num_flipped_NK = np.abs(levels_ND[:, None].astype(int) - patterns_KD).sum(-1)
    return num_flipped_NK * math.log(flip) + (64 - num_flipped_NK) * math.log1p(-flip)

  def draw_all(rng, num_images):
    chosen_N = rng.integers(0, num_templates, num_images)
    levels_ND = patterns_KD[chosen_N] ^ (rng.random((num_images, 64)) < flip)
    by_template_NK = log_prob_by_template(levels_ND)
    is_same_code_NK = codes_K == codes_K[chosen_N][:, None]
    inside_NK = np.where(is_same_code_NK, by_template_NK, -np.inf)
    log_given_N = logsumexp(inside_NK, axis=1) - np.log(is_same_code_NK.sum(1))
    log_marginal_N = logsumexp(by_template_NK, axis=1) - math.log(num_templates)
    h = np.eye(num_codes, dtype=np.float32)[codes_K[chosen_N]] * math.sqrt(num_codes)
    images = levels_ND.astype(np.uint8).reshape(-1, 8, 8, 1)
    return Draws(images, h, log_given_N), log_marginal_N

  drawn, log_marginal_N = draw_all(np.random.default_rng(1), 20_000)
  truth = information.mean_with_error(drawn.log_prob_N - log_marginal_N)
  return Task(
    name="templates",
    description=f"{num_templates} templates, {flip:.0%} of pixels flipped; h: {num_codes} codes",
    num_levels=2,
    entropy_nats=-float(log_marginal_N.mean()),
    truth_nats=truth.mean,
    truth_standard_error=truth.standard_error,
    draw=lambda rng, n: draw_all(rng, n)[0],
    least_nats=0.95 * truth.mean,
    is_deterministic=False,
    # Each template is learnt by heart, from the few images of its code.
    num_steps_factor=4.0,
  )


def ising_frame(side: int = 8, coupling: float = 0.35) -> Task:
  """A two-dimensional Ising model; h: the spins of its outer frame, a map with a mask."""
  model = Ising(side, coupling)
  is_frame = np.ones((side, side))
  is_frame[1:-1, 1:-1] = 0.0

  def draw(rng, num_images):
    spins_NHW = model.sample(rng, num_images)
    log_prob_N = model.log_weight(spins_NHW) - model.log_partition_given_frame(spins_NHW)
    mask = np.broadcast_to(is_frame, spins_NHW.shape)
    h = np.stack([spins_NHW * mask, mask], axis=-1).astype(np.float32)
    return Draws((spins_NHW > 0).astype(np.uint8)[..., None], h, log_prob_N)

  sample = model.sample(np.random.default_rng(1), 50_000)
  # log p(x | h) - log p(x): the weight of x itself cancels.
  gains_N = model.log_partition - model.log_partition_given_frame(sample)
  truth = information.mean_with_error(gains_N)
  return Task(
    name="ising",
    description=f"{side}x{side} Ising model, coupling {coupling}; h: its frame",
    num_levels=2,
    entropy_nats=model.entropy(),
    truth_nats=truth.mean,
    truth_standard_error=truth.standard_error,
    draw=draw,
    least_nats=0.9 * truth.mean,
  )


def frozen_network(num_codes: int = 32) -> Task:
  """The source is a conditional PixelCNN++ with random weights; h: one of `num_codes` codes."""
  likelihood = likelihoods.Categorical(num_levels=4)
  source = Inverter(likelihood, num_filters=8, num_blocks=1, num_scales=1)
  codes_KZ = np.eye(num_codes, dtype=np.float32) * math.sqrt(num_codes)
  blank = jnp.zeros((2, 8, 8, 1), jnp.int32)
  shapes = jax.eval_shape(source.init, jax.random.key(0), blank, codes_KZ[:2])["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(0.0, 0.7, leaf.shape)), shapes)

  @compilation.jit_sampler
  def draw_images(h, key):
    model = source.bind({"params": params})
    indices = jnp.arange(len(h))
    keys_B = sampling.sample_keys(key, indices, jnp.zeros_like(indices))
    return sampling.draw(model, model.contexts(h, (8, 8)), keys_B, (8, 8)).astype(jnp.uint8)

  @jax.jit
  def log_prob(levels_NHWC, h):
    return source.apply({"params": params}, levels_NHWC, h).sum((1, 2))

  def draw(rng, num_images):
    h = codes_KZ[rng.integers(0, num_codes, num_images)]
    images = np.asarray(draw_images(h, jax.random.key(rng.integers(2**31))))
    return Draws(images, h, np.asarray(log_prob(images, h), np.float64))

  drawn = draw(np.random.default_rng(1), 4_000)
  by_code_NK = np.stack(
    [log_prob(drawn.levels_NHWC, np.broadcast_to(code_Z, drawn.h.shape)) for code_Z in codes_KZ],
    axis=1,
  )
  log_marginal_N = logsumexp(by_code_NK.astype(np.float64), axis=1) - math.log(num_codes)
  truth = information.mean_with_error(drawn.log_prob_N - log_marginal_N)
  return Task(
    name="network",
    description=f"a frozen random PixelCNN++ of {num_codes} codes; h: the code",
    num_levels=likelihood.num_levels,
    entropy_nats=-float(log_marginal_N.mean()),
    truth_nats=truth.mean,
    truth_standard_error=truth.standard_error,
    draw=draw,
    least_nats=0.95 * truth.mean,
    is_deterministic=False,
    # What the code changes is in every gate, the same at every pixel, and is learnt for each place.
    num_steps_factor=12.0,
  )


def pool(num_images: int = 64, num_codes: int = 16) -> Task:
  """Digits from a finite pool, drawn uniformly; h: a hash under which equally many collide."""
  images_NHWC = sklearn.datasets.load_digits().images[:num_images].astype(np.uint8)[..., None]
  if len(np.unique(images_NHWC, axis=0)) != num_images:
    raise AssertionError("The pool must hold different images.")
  codes_N = np.random.default_rng(0).permutation(num_images) % num_codes

  def draw(rng, num_drawn):
    rows = rng.integers(0, num_images, num_drawn)
    h = np.eye(num_codes, dtype=np.float32)[codes_N[rows]] * math.sqrt(num_codes)
    log_prob_N = np.full(num_drawn, -math.log(num_images / num_codes))
    return Draws(images_NHWC[rows], h, log_prob_N)

  truth = math.log(num_codes)
  return Task(
    name="pool",
    description=f"{num_images} real digits; h: a hash to {num_codes} codes",
    num_levels=17,
    entropy_nats=math.log(num_images),
    truth_nats=truth,
    draw=draw,
    least_nats=truth - 1.0,
  )


TASKS: dict[str, Callable[[], Task]] = {
  "bits_2": lambda: bit_textures(num_revealed=2),
  "bits_16_noisy": lambda: bit_textures(flip=0.1),
  "bits_many": many_bits,
  "templates": templates,
  "ising": ising_frame,
  "network": frozen_network,
  "pool": pool,
}
