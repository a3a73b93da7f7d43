"""Samples from an autoregressive model of images, three ways that give the same images.

The randomness of every (image, sample, pixel) is fixed by the key, apart from the network. So an
image is the one solution of x = draw(head(x), noise), however it is found:

- `ancestral`: pixel by pixel with whole passes of the network, the definition;
- `cached`: pixel by pixel, each computing its own column of activations alone; about one pass;
- `fixed_point`: all pixels at once, again and again until nothing changes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Key

from inversion_jax.machine.errors import UserError
from inversion_jax.models.likelihoods import Likelihood

HeadFn = Callable[[Int[Array, "B H W C"]], Float[Array, "B H W F"]]
# `cached` was the fastest in every measurement (see docs/sampling.md), so "auto" is `cached` for
# networks that have it, and `fixed_point` for others.
SAMPLERS = ("auto", "ancestral", "cached", "fixed_point")
IMAGES_PER_SLOT = 4


@runtime_checkable
class Model(Protocol):
  """What is sampled from: a bound `Inverter`, `inverter.bind({"params": params})`."""

  likelihood: Likelihood
  has_raster: bool

  def head(self, levels_BHWC: Any, contexts: Any) -> Any:
    """The head of every pixel, from whole images."""

  def raster(self, contexts: Any, draw: Any, inputs_fn: Any, size: Any, batch_size: int) -> Any:
    """Goes through the pixels in raster order."""


def draw(
  model: Model,
  contexts: tuple[Array, ...] | None,
  keys_B: Key[Array, " B"],
  size: tuple[int, int],
  *,
  sampler: str = "auto",
  given_BRWC: Integer[Array, "B R W C"] | None = None,
) -> Int[Array, "B H W C"]:
  """Draws one image for each key, or completes images whose first rows are given.

      model = inverter.bind({"params": params})
      contexts = model.contexts(z, (28, 28))
      keys_B = sampling.sample_keys(jax.random.key(0), jnp.arange(len(z)), jnp.zeros(len(z), int))
      levels_BHWC = sampling.draw(model, contexts, keys_B, (28, 28))

  Call it inside `compilation.jit_sampler`.

  Args:
    model: the bound inverter.
    contexts: what h gives it, or what all images are given alike; None for a model without.
    keys_B: one key per image; the same key gives the same image, whatever the batch and, but for
      rounding, the sampler.
    size: rows, columns.
    sampler: one of `SAMPLERS`; "auto" is "cached", or "fixed_point" without `has_raster`.
    given_BRWC: levels of the first R rows.

  Returns:
    int32 levels.
  """
  if sampler not in SAMPLERS:
    raise UserError(f"sampler={sampler!r} is not known; use one of {', '.join(SAMPLERS)}.")
  contexts = for_each(contexts, len(keys_B))
  if sampler == "auto":
    sampler = "cached" if model.has_raster else "fixed_point"
  if sampler == "cached" and not model.has_raster:
    raise UserError(
      "sampler='cached' does not know the gated network; use 'fixed_point', which draws the same."
    )
  if sampler == "ancestral":

    def head_fn(levels_BHWC):
      return model.head(levels_BHWC, contexts)

    return ancestral(head_fn, model.likelihood, keys_B, size, given_BRWC)
  if sampler == "fixed_point":

    def slots_head_fn(levels_SHWC, image_S):
      return model.head(levels_SHWC, jax.tree.map(lambda context: context[image_S], contexts))

    return fixed_point(slots_head_fn, model.likelihood, keys_B, size, given_BRWC)

  def raster_fn(draw_pixel, inputs_fn):
    return model.raster(contexts, draw_pixel, inputs_fn, size, len(keys_B))

  return cached(raster_fn, model.likelihood, keys_B, size, given_BRWC)


def for_each(contexts: Any, batch_size: int) -> Any:
  """What every image is given alike, for each of them."""
  return jax.tree.map(
    lambda context: jnp.broadcast_to(context, (batch_size, *context.shape[1:])), contexts
  )


def sample_keys(
  root_key: Key[Array, ""], index_B: Int[Array, " B"], sample_B: Int[Array, " B"]
) -> Key[Array, " B"]:
  """The key of each (image, sample): a function of nothing else, whatever the batch."""

  def key_of(index, sample):
    return jax.random.fold_in(jax.random.fold_in(root_key, index), sample)

  return jax.vmap(key_of)(index_B, sample_B)


def pixel_noise(likelihood: Likelihood, keys_B: Key[Array, " B"], pixel: Int[Array, ""]):
  """The randomness of one pixel of every image; `pixel` counts in raster order."""
  return jax.vmap(lambda key: likelihood.noise(jax.random.fold_in(key, pixel)))(keys_B)


def image_noise(likelihood: Likelihood, keys_B: Key[Array, " B"], size: tuple[int, int]):
  """The randomness of all pixels of every image, arrays of (B, H, W, ...)."""
  pixels_N = jnp.arange(size[0] * size[1])
  noise = jax.vmap(lambda pixel: pixel_noise(likelihood, keys_B, pixel), out_axes=1)(pixels_N)
  return jax.tree.map(lambda x: x.reshape(len(keys_B), *size, *x.shape[2:]), noise)


def ancestral(
  head_fn: HeadFn,
  likelihood: Likelihood,
  keys_B: Key[Array, " B"],
  size: tuple[int, int],
  given_BRWC: Integer[Array, "B R W C"] | None = None,
) -> Int[Array, "B H W C"]:
  """Draws images pixel by pixel in raster order; costs H * W passes of the whole network.

  Args:
    head_fn: the network with h bound; its head at a pixel depends on the pixels before it alone.
    likelihood: draws one pixel given its head.
    keys_B: one key per image.
    size: rows, columns.
    given_BRWC: levels of the first R rows, which are not drawn.

  Returns:
    int32 levels. Every sub-pixel is rounded to its level before it is used again, so that the
    network never sees a value that is not one of an image's.

  Source: Nash et al. (2019), section 3.2.
  """
  height, width = size

  def draw_pixel(pixel, levels_BHWC):
    row, column = pixel // width, pixel % width
    head_BF = head_fn(levels_BHWC)[:, row, column]
    levels_BC = likelihood.draw(head_BF, pixel_noise(likelihood, keys_B, pixel))
    return levels_BHWC.at[:, row, column].set(levels_BC)

  start = _start(likelihood, len(keys_B), size, given_BRWC)
  first_pixel = 0 if given_BRWC is None else given_BRWC.shape[1] * width
  return lax.fori_loop(first_pixel, height * width, draw_pixel, start)


def _start(likelihood, num_images, size, given_BRWC):
  """The given rows, and zeros below."""
  blank = jnp.zeros((num_images, *size, likelihood.num_colours), jnp.int32)
  return blank if given_BRWC is None else blank.at[:, : given_BRWC.shape[1]].set(given_BRWC)


def cached(
  raster_fn: Callable,
  likelihood: Likelihood,
  keys_B: Key[Array, " B"],
  size: tuple[int, int],
  given_BRWC: Integer[Array, "B R W C"] | None = None,
) -> Int[Array, "B H W C"]:
  """Draws images pixel by pixel in raster order; costs about one pass of the network.

  Args:
    raster_fn: `raster_fn(draw, inputs_fn)` as `Inverter.raster`, the rest bound.
    likelihood, keys_B, size, given_BRWC: as for `ancestral`.

  Returns:
    int32 levels, those of `ancestral` but for rounding.
  """
  width = size[1]
  num_given = 0 if given_BRWC is None else given_BRWC.shape[1]
  start = _start(likelihood, len(keys_B), size, given_BRWC).transpose(1, 2, 0, 3)

  def inputs_fn(row):
    pixels_W = row * width + jnp.arange(width)
    noise = jax.vmap(lambda pixel: pixel_noise(likelihood, keys_B, pixel))(pixels_W)
    if not num_given:
      return noise, (), ()
    return noise, start[row], jnp.full(width, row < num_given)

  def draw_pixel(head_BF, inputs):
    noise, given_BC, is_given = inputs
    levels_BC = likelihood.draw(head_BF, noise)
    if num_given:
      levels_BC = jnp.where(is_given, given_BC, levels_BC)
    return levels_BC, levels_BC

  return raster_fn(draw_pixel, inputs_fn).transpose(2, 0, 1, 3)


class _Slots(NamedTuple):
  """The images being redrawn; a slot whose index is past the last image stands empty."""

  image_S: Array
  passes_S: Array
  levels_SHWC: Array
  noise: Any


def fixed_point(
  head_fn: Callable,
  likelihood: Likelihood,
  keys_B: Key[Array, " B"],
  size: tuple[int, int],
  given_BRWC: Integer[Array, "B R W C"] | None = None,
  num_slots: int | None = None,
) -> Int[Array, "B H W C"]:
  """Redraws all pixels of an image with the same noise until nothing changes.

  After k passes at least the first k pixels are final, since they depend on those before them
  alone; where the model is sure of a pixel it is right much earlier. An image that comes out as it
  went in is x = draw(head(x), noise), which has one solution: the stopping rule is exact. A few
  slots are computed at a time, and an image that is finished makes room for the next one.

  Args:
    head_fn: `head_fn(levels_SHWC, image_S)`: the network for the images (0..B-1) in the slots.
    likelihood, keys_B, size, given_BRWC: as for `ancestral`.
    num_slots: S; a quarter of the images by default, so that few slots stand empty at the end.

  Returns:
    int32 levels, those of `ancestral` but for rounding.

  Source: Song et al. (2021), "Accelerating feedforward computation via parallel nonlinear
  equation solving"; Wiggers & Hoogeboom (2020), "Predictive sampling with forecasting
  autoregressive models".
  """
  num_images, num_pixels = len(keys_B), size[0] * size[1]
  num_slots = num_slots or -(-num_images // IMAGES_PER_SLOT)
  start_BHWC = _start(likelihood, num_images, size, given_BRWC)
  num_given = 0 if given_BRWC is None else given_BRWC.shape[1]

  def inside(image_S):
    return jnp.minimum(image_S, num_images - 1)

  def noise_of(image_S):
    return image_noise(likelihood, keys_B[inside(image_S)], size)

  def redraw(state):
    slots, final_BHWC = state
    head = head_fn(slots.levels_SHWC, inside(slots.image_S))
    redrawn_SHWC = likelihood.draw(head, slots.noise)
    redrawn_SHWC = redrawn_SHWC.at[:, :num_given].set(slots.levels_SHWC[:, :num_given])
    is_same_S = (redrawn_SHWC == slots.levels_SHWC).all((1, 2, 3))
    # The second condition only matters if the network rounds differently from pass to pass.
    is_final_S = (is_same_S | (slots.passes_S >= num_pixels)) & (slots.image_S < num_images)
    written_S = jnp.where(is_final_S, slots.image_S, num_images)
    final_BHWC = final_BHWC.at[written_S].set(redrawn_SHWC, mode="drop")
    return refilled(slots, redrawn_SHWC, is_final_S), final_BHWC

  def refilled(slots, redrawn_SHWC, is_final_S):
    next_image = slots.image_S.max() + 1
    image_S = jnp.where(is_final_S, next_image + jnp.cumsum(is_final_S) - 1, slots.image_S)
    is_new_S111 = is_final_S[:, None, None, None]
    return _Slots(
      image_S,
      passes_S=jnp.where(is_final_S, 0, slots.passes_S + 1),
      levels_SHWC=jnp.where(is_new_S111, start_BHWC[inside(image_S)], redrawn_SHWC),
      noise=lax.cond(is_final_S.any(), lambda: noise_of(image_S), lambda: slots.noise),
    )

  image_S = jnp.arange(num_slots)
  passes_S = jnp.zeros(num_slots, jnp.int32)
  slots = _Slots(image_S, passes_S, start_BHWC[:num_slots], noise_of(image_S))
  _, final_BHWC = lax.while_loop(
    lambda state: (state[0].image_S < num_images).any(), redraw, (slots, start_BHWC)
  )
  return final_BHWC
