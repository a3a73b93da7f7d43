"""From a gradient to the next training state, by a program for each model that is trained."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from inversion_jax.fitting import training
from inversion_jax.fitting.costs import Compiling, held_bytes
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.machine import compilation


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


class Descent:
  """`training.descend` by a program for each of the models of a `Chain`.

  Algorithms go parameter by parameter, so that each model can descend by itself.

  Args:
    programs: from `program`, by the names of the models; of a model alone the name is "".
  """

  def __init__(self, programs: Mapping[str, Callable]):
    self._programs = programs

  def __call__(
    self, state: TrainState, told: tuple, grads: Any
  ) -> tuple[TrainState, dict[str, Array]]:
    """The next state, and metrics; the memory of `state` is given up.

    Args:
      state: as it is.
      told: loss and metrics, summed over the parts of a batch.
      grads: their gradients, in the structure of the parameters.
    """
    layout, rest, parts = self._parts(state, grads)
    done = {
      name: self._programs[name](own, rest, told, grads) for name, (own, grads) in parts.items()
    }
    *_, (_, rest, metrics) = done.values()
    norms = [metrics["grad_norm"] for _, _, metrics in done.values()]
    metrics["grad_norm"] = functools.reduce(jnp.hypot, norms)
    by_name = {name: own.mirrors for name, (own, _, _) in done.items()}
    return layout.state(_joined(by_name), rest), metrics

  def compile(
    self, pool: concurrent.futures.Executor, state: TrainState, told: tuple, grads: Any
  ) -> list:
    """Its programs as `costs.Compiling`, which `pool` does; arguments as of a call, or shapes."""
    _, rest, parts = self._parts(state, grads)
    num_all = held_bytes((state, grads))
    return [
      Compiling(
        pool.submit(self._programs[name].lower(own, rest, told, grads).compile),
        num_all - held_bytes((own, grads)),
      )
      for name, (own, grads) in parts.items()
    ]

  def _parts(self, state, grads):
    """The layout, what belongs to no model, and (own, gradient) of each model by its name."""
    names = tuple(name for name in self._programs if name in state.params)
    layout, leaves = _Layout.of(state, names)
    mirrors, rest = layout.split(leaves)
    if not names:
      return layout, rest, {"": (_Own(mirrors, layout), grads)}
    return (
      layout,
      rest,
      {name: (_Own([mirror[name] for mirror in mirrors], layout), grads[name]) for name in names},
    )


def program(recipe: Recipe, unit: str) -> Callable:
  """The compiled descent of one model; arguments are those of `training.descend`."""

  def descend_part(own, rest, told, grads):
    state = own.layout.state(own.mirrors, rest)
    told, grads = jax.tree.map(lambda total: total / recipe.num_microbatches, (told, grads))
    state, metrics = training.descend(state, told, grads, recipe=recipe, unit=unit)
    mirrors, rest = own.layout.split(own.layout.treedef.flatten_up_to(state))
    return dataclasses.replace(own, mirrors=mirrors), rest, metrics

  return compilation.jit_step(descend_part)


def _joined(mirrors_by_name):
  """The inverse of taking each model's part."""
  if "" in mirrors_by_name:
    return mirrors_by_name[""]
  names, columns = mirrors_by_name.keys(), mirrors_by_name.values()
  return [dict(zip(names, mirrors, strict=True)) for mirrors in zip(*columns, strict=True)]
