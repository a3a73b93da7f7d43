"""`training.train_step` as programs, which compile at the same time and each sooner than the whole.

XLA's passes take more than twice as long for twice the size, and what models have in common is then
one program, which compiles once. Parts of a batch are called from the host: inside a compiled loop
XLA:CPU ran the same convolutions ten times slower, and without a loop it kept all parts in memory.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from inversion_jax.fitting import costs, training
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.machine import compilation, placement


@dataclasses.dataclass(frozen=True)
class Chain:
  """A loss whose model is two, one after the other; also a loss as any other.

  Each has its own programs, which models that have it in common share.

  Attributes:
    names: under which the parameters of both stand; a model without parameters stands nowhere.
    first: `first(params, batch, key)` gives what the second reads.
    second: `second(params, given, batch, key)` gives the mean loss of the batch, and metrics.
  """

  names: tuple[str, str]
  first: Callable[[Any, Any, Array], Any]
  second: Callable[[Any, Any, Any, Array], tuple[Array, dict[str, Array]]]

  def __call__(self, params: Any, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
    """The mean loss of the batch, and metrics."""
    first, second = self.params_of(params)
    return self.second(second, self.first(first, batch, key), batch, key)

  def params_of(self, params: Any) -> tuple[Any, Any]:
    """Those of both models."""
    first, second = (params.get(name, {}) for name in self.names)
    return first, second


class ChainInit(NamedTuple):
  """How both models of a `Chain` begin, in Linen's terms; also a function as any other.

  Attributes:
    first: `first(keys, *batch)` gives what the second reads, and the variables of the first.
    second: `second(keys, given, *batch)` gives the variables of the second.
  """

  first: Callable
  second: Callable

  def __call__(self, keys: dict[str, Array], *batch: Any) -> dict:
    """The parameters of both, under their names."""
    given, variables = self.first(keys, *batch)
    # A model may have no parameters.
    return variables.get("params", {}) | self.second(keys, given, *batch)["params"]

  def eval_shape(self, keys: dict[str, Array], *batch: Any) -> dict:
    """Their shapes, of one that is compiled."""
    return ChainInit(self.first.eval_shape, self.second.eval_shape)(keys, *batch)


def compiled_init(init_fn: Callable) -> Callable:
  """`init_fn`, compiled; a `ChainInit` as two programs.

  Its `eval_shape` traces what a call then finds traced.
  """
  if isinstance(init_fn, ChainInit):
    return ChainInit(*map(compilation.jit_once, init_fn))
  return compilation.jit_once(init_fn)


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
    # One norm clips all gradients.
    is_split = is_chain and not recipe.clip_norm
    self._descent = _Descent(loss_fn.names if is_split else (), recipe, unit)

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
    held = _num_bytes((state.ema_params, state.opt_state))
    if self.recipe.num_microbatches > 1:
      held += _num_bytes(state.params)  # the sum beside a part's gradient
    with concurrent.futures.ThreadPoolExecutor() as pool:
      at = self.root_key, state.step
      gradients, sums = self._gradient.compile(pool, at, state.params, batch)
      descents = self._descent.compile(pool, state, *sums)
      return max(
        *(held + program.num_bytes for program in gradients),
        *(program.num_bytes for program in descents),
      )


class _Compiling(NamedTuple):
  """A program on its way, and the bytes that lie beside it while it runs."""

  future: concurrent.futures.Future
  num_beside: int

  @property
  def num_bytes(self):
    return costs.program_bytes(self.future.result()) + self.num_beside


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
    return [_Compiling(pool.submit(lowered.compile), 0)], placement.replicated_shapes(
      lowered.out_info
    )


class _ChainGradient:
  """The same of a `Chain`: its first model, the gradient of its second, and back through the first.

  What the first keeps for the way back lies in memory while the second is at work, as it would in
  one program.
  """

  def __init__(self, chain, num_parts):
    self._params_of, self._names = chain.params_of, chain.names
    value_and_grads = jax.value_and_grad(chain.second, argnums=(0, 1), has_aux=True)

    def first_of_part(at, params, batch, part):
      batch, key = _of_part(at, batch, part, num_parts)
      return jax.vjp(lambda params: chain.first(params, batch, key), params)

    def gradient_of_second(at, params, given, batch, part):
      return value_and_grads(params, given, *_of_part(at, batch, part, num_parts))

    def gradient_of_first(way_back, grads_of_given):
      return way_back(grads_of_given)[0]

    self._first = compilation.jit_step(first_of_part, donate=())
    self._second = compilation.jit_step(gradient_of_second, donate=())
    # Among what it is given may be the parameters themselves.
    self._back = compilation.jit_step(gradient_of_first, donate=())

  def __call__(self, at, params, batch, part):
    first, second = self._params_of(params)
    given, way_back = self._first(at, first, batch, part)
    told, (second_grads, grads_of_given) = self._second(at, second, given, batch, part)
    first_grads = self._back(way_back, grads_of_given)
    return told, self._joined(params, first_grads, second_grads)

  def compile(self, pool, at, params, batch):
    """Its programs, and the shapes of its results."""
    first, second = self._params_of(params)
    lowered = self._first.lower(at, first, batch, 0)
    program = pool.submit(lowered.compile)
    # The second is to be compiled for where the first leaves its results.
    given, way_back = _placed(lowered.out_info, program.result().output_shardings)
    lowered = self._second.lower(at, second, given, batch, 0)
    told, (second_grads, grads_of_given) = placement.replicated_shapes(lowered.out_info)
    back = self._back.lower(way_back, _as(grads_of_given, given))
    programs = [
      _Compiling(program, _num_bytes(second)),
      _Compiling(pool.submit(lowered.compile), _num_bytes((first, way_back))),
      _Compiling(pool.submit(back.compile), _num_bytes((first, second, second_grads))),
    ]
    return programs, (told, self._joined(params, first, second_grads))

  def _joined(self, params, *grads):
    return {name: of for name, of in zip(self._names, grads, strict=True) if name in params}


class _Layout(NamedTuple):
  """Where in a training state the parameters stand, and what mirrors them, such as averages."""

  treedef: jax.tree_util.PyTreeDef
  is_mirror: tuple[bool, ...]

  @classmethod
  def of(cls, state: TrainState, names: tuple[str, ...]) -> tuple["_Layout", list]:
    """The layout, and the leaves in its order; without names the whole state is one leaf."""

    def is_leaf(node):
      return not names or (isinstance(node, dict) and set(node) == set(names))

    leaves, treedef = jax.tree.flatten(state, is_leaf=is_leaf)
    return cls(treedef, tuple(map(is_leaf, leaves))), leaves

  def split(self, leaves: Sequence) -> tuple[list, list]:
    """Those that mirror the parameters, and those that do not."""
    mirrors, rest = [], []
    for leaf, is_mirror in zip(leaves, self.is_mirror, strict=True):
      (mirrors if is_mirror else rest).append(leaf)
    return mirrors, rest

  def state(self, mirrors: Sequence, rest: Sequence) -> TrainState:
    """The state of these."""
    mirrors, rest = iter(mirrors), iter(rest)
    return self.treedef.unflatten(next(mirrors if here else rest) for here in self.is_mirror)


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=("mirrors",), meta_fields=("layout",)
)
@dataclasses.dataclass(frozen=True)
class _Own:
  """What a training state has of one model."""

  mirrors: list
  layout: _Layout


class _Descent:
  """From a gradient to the next state, a program for each of the models of a `Chain`.

  Algorithms go parameter by parameter, so that each model can descend by itself.
  """

  def __init__(self, names: tuple[str, ...], recipe: Recipe, unit: str):
    self._names = names

    def descend_part(own, rest, told, grads):
      state = own.layout.state(own.mirrors, rest)
      told, grads = jax.tree.map(lambda total: total / recipe.num_microbatches, (told, grads))
      state, metrics = training.descend(state, told, grads, recipe=recipe, unit=unit)
      mirrors, rest = own.layout.split(own.layout.treedef.flatten_up_to(state))
      return dataclasses.replace(own, mirrors=mirrors), rest, metrics

    self._program = compilation.jit_step(descend_part)

  def __call__(self, state, told, grads):
    layout, rest, parts = self._parts(state, grads)
    done = {name: self._program(own, rest, told, grads) for name, (own, grads) in parts.items()}
    *_, (_, rest, metrics) = done.values()
    norms = [metrics["grad_norm"] for _, _, metrics in done.values()]
    metrics["grad_norm"] = functools.reduce(jnp.hypot, norms)
    by_name = {name: own.mirrors for name, (own, _, _) in done.items()}
    return layout.state(_joined(by_name), rest), metrics

  def compile(self, pool, state, told, grads):
    """Its programs."""
    _, rest, parts = self._parts(state, grads)
    num_all = _num_bytes((state, grads))
    return [
      _Compiling(
        pool.submit(self._program.lower(own, rest, told, grads).compile),
        num_all - _num_bytes((own, grads)),
      )
      for own, grads in parts.values()
    ]

  def _parts(self, state, grads):
    """The layout, what belongs to no model, and (own, gradient) of each model by its name."""
    names = tuple(name for name in self._names if name in state.params)
    layout, leaves = _Layout.of(state, names)
    mirrors, rest = layout.split(leaves)
    if not names:
      return layout, rest, {"": (_Own(mirrors, layout), grads)}
    return (
      layout,
      rest,
      {name: (_Own([mirror[name] for mirror in mirrors], layout), grads[name]) for name in names},
    )


def _joined(mirrors_by_name):
  """The inverse of taking each model's part."""
  if "" in mirrors_by_name:
    return mirrors_by_name[""]
  names, columns = mirrors_by_name.keys(), mirrors_by_name.values()
  return [dict(zip(names, mirrors, strict=True)) for mirrors in zip(*columns, strict=True)]


def _of_part(at, batch, part, num_parts):
  """(batch, dropout key) of a part of a batch, at a step: (root key, step)."""
  key = training.key_for(at[0], "dropout", at[1])
  if num_parts == 1:
    return batch, key

  def rows_of_part(array_B):
    # Every n-th image, so that each device has its share of each part, and nothing is moved.
    return array_B.reshape(-1, num_parts, *array_B.shape[1:])[:, part]

  return jax.tree.map(rows_of_part, batch), jax.random.fold_in(key, part)


def _num_bytes(tree):
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _placed(shapes, shardings):
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    shapes,
    shardings,
  )


def _as(shapes, placed):
  """Shapes where those of `placed` lie, of which they are gradients."""
  return _placed(shapes, jax.tree.map(lambda leaf: leaf.sharding, placed))
