"""Models that are two, one after the other, each with programs of its own.

Models that have one of the two in common share its programs, which compile once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from inversion_jax.machine import compilation

# For second models that several chains have in common; each holds some 200 MB.
kept = functools.lru_cache(maxsize=2)


@dataclasses.dataclass(frozen=True)
class Chain:
  """A loss whose model is two, one after the other; also a loss as any other.

  Each has its own programs, which models that have it in common share.

  Attributes:
    names: under which the parameters of both stand; a model without parameters stands nowhere.
    first: `first(params, batch, key)` gives what the second reads.
    second: `second(params, given, seen, key)` gives the mean loss of the batch, and metrics.
    seen_of: what the second sees of a batch itself: the rest may have any shape, and its programs
      are the same.
  """

  names: tuple[str, str]
  first: Callable[[Any, Any, Array], Any]
  second: Callable[[Any, Any, Any, Array], tuple[Array, dict[str, Array]]]
  seen_of: Callable[[Any], Any] = lambda batch: batch

  def __call__(self, params: Any, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
    """The mean loss of the batch, and metrics."""
    first, second = self.params_of(params)
    return self.second(second, self.first(first, batch, key), self.seen_of(batch), key)

  def params_of(self, params: Any) -> tuple[Any, Any]:
    """Those of both models."""
    first, second = (params.get(name, {}) for name in self.names)
    return first, second


class ChainInit(NamedTuple):
  """How both models of a `Chain` begin, in Linen's terms; also a function as any other.

  Attributes:
    first: `first(keys, *batch)` gives what the second reads, and the variables of the first.
    second: `second(keys, given, seen)` gives the variables of the second, which sees the first
      array of the batch.
  """

  first: Callable
  second: Callable

  def __call__(self, keys: dict[str, Array], *batch: Any) -> dict:
    """The parameters of both, under their names."""
    given, variables = self.first(keys, *batch)
    # A model may have no parameters.
    return variables.get("params", {}) | self.second(keys, given, batch[0])["params"]

  def eval_shape(self, keys: dict[str, Array], *batch: Any) -> dict:
    """Their shapes, of one that is compiled."""
    return ChainInit(self.first.eval_shape, self.second.eval_shape)(keys, *batch)


def compiled_init(init_fn: Callable) -> Callable:
  """`init_fn`, compiled; a `ChainInit` as two programs.

  Its `eval_shape` traces what a call then finds traced.
  """
  if isinstance(init_fn, ChainInit):
    return ChainInit(compilation.jit_once(init_fn.first), _init_of_second(init_fn.second))
  return compilation.jit_once(init_fn)


_init_of_second = kept(compilation.jit_once)
