"""What the causal network of an inverter does, by functions that equal networks have in common.

JAX finds what it has traced and compiled by the function itself: layers, seeds and stages of one
process whose inverters differ in their readers alone do it once.
"""

import dataclasses
import functools
from collections.abc import Callable

from inversion_jax.fitting import chains
from inversion_jax.machine import compilation, placement
from inversion_jax.models import inverters, sampling
from inversion_jax.models.inverters import Inverter
from inversion_jax.models.widening import log_prob_widened


def _of_network(make: Callable) -> Callable:
  """`make(inverter, *settings)` keeps what it made for inverters of equal networks."""
  kept = chains.kept(make)

  @functools.wraps(make)
  def made(inverter, *settings):
    return kept(without_reader(inverter), *settings)

  return made


def without_reader(inverter: Inverter) -> Inverter:
  """The same network, as a value, whatever the reader: its fields are those by default."""
  fields = dataclasses.fields(inverter)
  return inverter.clone(**{of.name: of.default for of in fields if of.name.startswith("reader_")})


@_of_network
def init(inverter: Inverter) -> Callable:
  """`init(keys, contexts, images)`: untrained variables."""

  def init_network(keys, contexts, images_BHWC):
    return inverter.init(keys, images_BHWC, contexts, train=True, method=Inverter.log_prob)

  return init_network


@_of_network
def loss(inverter: Inverter, filter_multiple: int) -> Callable:
  """`loss(params, contexts, images, key)`: mean nats of an image in training, and no metrics."""

  def loss_fn(params, contexts, images_BHWC, key):
    log_prob_BHW = log_prob_widened(
      inverter,
      params,
      contexts,
      images_BHWC,
      multiple=filter_multiple,
      train=True,
      rngs={"dropout": key},
    )
    return -log_prob_BHW.sum((1, 2)).mean(), {}

  return loss_fn


@_of_network
def scorer(inverter: Inverter) -> Callable:
  """`score(params, contexts, images)`: -log p(pixel | pixels before it, h), (B, H, W)."""

  @placement.jit_gathered
  def score_contexts(params, contexts, images_BHWC):
    return -inverters.log_prob(inverter, params, contexts, images_BHWC)

  return score_contexts


@_of_network
def sampler(inverter: Inverter, name: str, num_given_rows: int) -> Callable:
  """`draw((params, key), contexts, images, index, sample)`: an image for each of these, as levels.

  Args:
    inverter: the module.
    name: of the sampler, see `sampling.draw`.
    num_given_rows: of the images, which are not drawn.
  """

  @placement.per_device
  def draw_batch(params_and_key, contexts, images_BHWC, index_B, sample_B):
    params, sample_key = params_and_key
    keys_B = sampling.sample_keys(sample_key, index_B, sample_B)
    model = inverter.bind({"params": {inverters.NETWORK: params}})
    size = images_BHWC.shape[1:3]
    given_BRWC = images_BHWC[:, :num_given_rows] if num_given_rows else None
    return sampling.draw(model, contexts, keys_B, size, sampler=name, given_BRWC=given_BRWC)

  # Every process gets the whole result.
  return compilation.jit_sampler(draw_batch, out_shardings=placement.data_parallel()[1])
