"""`training.train_step` as programs, which compile at the same time and each sooner than the whole.

XLA's passes take more than twice as long for twice the size, and what models have in common is then
one program, which compiles once. Parts of a batch are called from the host: inside a compiled loop
XLA:CPU ran the same convolutions ten times slower, and without a loop it kept all parts in memory.
"""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from inversion_jax.fitting import chains, descents, training
from inversion_jax.fitting.chains import Chain
from inversion_jax.fitting.costs import Compiling, held_bytes
from inversion_jax.fitting.descents import Descent
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.machine import compilation, placement


class Step:
  """`train_step` in programs, over `recipe.num_microbatches` parts of a batch.

  There are two, gradient and descent; of a `Chain` the gradient is three, and each model has a
  descent of its own. The key is an argument: runs of other seeds have the same programs.
  """

  def __init__(self, loss_fn: Callable, recipe: Recipe, root_key: Array, unit: str = training.NATS):
    self.recipe, self.root_key = recipe, root_key
    is_chain = isinstance(loss_fn, Chain)
    self._gradient = (_ChainGradient if is_chain else _Gradient)(loss_fn, recipe.num_microbatches)
    self._add = compilation.jit_step(lambda sums, terms: jax.tree.map(jnp.add, sums, terms))
    programs = {"": descents.program(recipe, unit)}
    # One norm clips all gradients.
    if is_chain and not recipe.clip_norm:
      first, second = loss_fn.names
      common = _descent_of_second(loss_fn.second, recipe, unit)
      programs = {first: descents.program(recipe, unit), second: common}
    self._descent = Descent(programs)

  def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
    """The next state, and metrics; the memory of `state` is given up."""
    at = self.root_key, state.step
    sums = self._gradient(at, state.params, batch, 0)
    for part in range(1, self.recipe.num_microbatches):
      sums = self._add(sums, self._gradient(at, state.params, batch, part))
    return self._descent(state, *sums)

  def memory_bytes(self, state: TrainState, batch: Any) -> int:
    """What a step needs on each device; compiles it, once and for all, if both are placed.

    `state` may be shapes.
    """
    # What the gradient itself does not touch stays where it is.
    held = held_bytes((state.ema_params, state.opt_state))
    if self.recipe.num_microbatches > 1:
      held += held_bytes(state.params)  # the sum beside a part's gradient
    with concurrent.futures.ThreadPoolExecutor() as pool:
      at = self.root_key, state.step
      gradients, sums = self._gradient.compile(pool, at, state.params, batch)
      downward = self._descent.compile(pool, state, *sums)
      return max(
        *(held + program.num_bytes for program in gradients),
        *(program.num_bytes for program in downward),
      )


class _Gradient:
  """Loss and metrics of a part of a batch, and the gradient: one program."""

  def __init__(self, loss_fn, num_parts):
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def gradient_of_part(at, params, batch, part):
      return value_and_grad(params, *_of_part(at, batch, part, num_parts))

    self._program = compilation.jit_step(gradient_of_part, donate=())

  def __call__(self, at, params, batch, part):
    return self._program(at, params, batch, part)

  def compile(self, pool, at, params, batch):
    """Its programs, and the shapes of its results."""
    lowered = self._program.lower(at, params, batch, 0)
    sums = placement.replicated_shapes(lowered.out_info)
    return [Compiling(pool.submit(lowered.compile), 0)], sums


class _ChainGradient:
  """The same of a `Chain`: its first model, the gradient of its second, and back through the first.

  What the first keeps for the way back lies in memory while the second is at work, as it would in
  one program.
  """

  def __init__(self, chain, num_parts):
    self._params_of, self._names, self._seen_of = chain.params_of, chain.names, chain.seen_of

    def first_of_part(at, params, batch, part):
      batch, key = _of_part(at, batch, part, num_parts)
      return jax.vjp(lambda params: chain.first(params, batch, key), params)

    def gradient_of_first(way_back, grads_of_given):
      return way_back(grads_of_given)[0]

    self._first = compilation.jit_step(first_of_part, donate=())
    self._second = _gradient_of_second(chain.second, num_parts)
    # Among what it is given may be the parameters themselves.
    self._back = compilation.jit_step(gradient_of_first, donate=())

  def __call__(self, at, params, batch, part):
    first, second = self._params_of(params)
    given, way_back = self._first(at, first, batch, part)
    told, (second_grads, grads_of_given) = self._second(
      at, second, given, self._seen_of(batch), part
    )
    first_grads = self._back(way_back, grads_of_given)
    return told, self._joined(params, first_grads, second_grads)

  def compile(self, pool, at, params, batch):
    """Its programs, and the shapes of its results."""
    first, second = self._params_of(params)
    lowered = self._first.lower(at, first, batch, 0)
    program = pool.submit(lowered.compile)
    # The second is to be compiled for where the first leaves its results.
    given, way_back = _placed(lowered.out_info, program.result().output_shardings)
    lowered = self._second.lower(at, second, given, self._seen_of(batch), 0)
    told, (second_grads, grads_of_given) = placement.replicated_shapes(lowered.out_info)
    back = self._back.lower(way_back, _as(grads_of_given, given))
    programs = [
      Compiling(program, held_bytes(second)),
      Compiling(pool.submit(lowered.compile), held_bytes((first, way_back))),
      Compiling(pool.submit(back.compile), held_bytes((first, second, second_grads))),
    ]
    return programs, (told, self._joined(params, first, second_grads))

  def _joined(self, params, *grads):
    return {name: of for name, of in zip(self._names, grads, strict=True) if name in params}


@chains.kept
def _descent_of_second(second, recipe, unit):
  del second  # With it goes what was compiled for the shapes of its parameters.
  return descents.program(recipe, unit)


@chains.kept
def _gradient_of_second(second, num_parts):
  value_and_grads = jax.value_and_grad(second, argnums=(0, 1), has_aux=True)

  def gradient_of_second(at, params, given, seen, part):
    return value_and_grads(params, given, *_of_part(at, seen, part, num_parts))

  return compilation.jit_step(gradient_of_second, donate=())


def _of_part(at, batch, part, num_parts):
  """(batch, dropout key) of a part of a batch, at a step: (root key, step)."""
  key = training.key_for(at[0], "dropout", at[1])
  if num_parts == 1:
    return batch, key

  def rows_of_part(array_B):
    # Every n-th image, so that each device has its share of each part, and nothing is moved.
    return array_B.reshape(-1, num_parts, *array_B.shape[1:])[:, part]

  return jax.tree.map(rows_of_part, batch), jax.random.fold_in(key, part)


def _placed(shapes, shardings):
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    shapes,
    shardings,
  )


def _as(shapes, placed):
  """Shapes where those of `placed` lie, of which they are gradients."""
  return _placed(shapes, jax.tree.map(lambda leaf: leaf.sharding, placed))
