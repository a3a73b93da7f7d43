import functools

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct

from inversion_jax.fitting import costs
from inversion_jax.machine.errors import UserError
from inversion_jax.models import likelihoods
from inversion_jax.models.inverters import Inverter


def model_and_shapes(num_colours, size, z_shape, **fields):
  """An inverter, and the shapes of its parameters and of two images with h."""
  likelihood = likelihoods.make(
    "auto", num_levels=256, num_colours=num_colours, num_components=10, min_log_scale=-7.0
  )
  inverter = Inverter(likelihood, num_blocks=1, **fields)
  images = ShapeDtypeStruct((2, *size, num_colours), jnp.uint8)
  z = ShapeDtypeStruct((2, *z_shape), jnp.float32) if z_shape else None
  params = jax.eval_shape(inverter.init, jax.random.key(0), images, z)["params"]
  return inverter, (params, images, z)


@pytest.mark.parametrize(
  ("num_colours", "size", "z_shape", "fields"),
  [
    (3, (16, 16), (), {}),
    (3, (12, 20), (64,), {"num_scales": 2}),
    (1, (14, 14), (5, 5, 32), {}),
    (3, (16, 16), (5, 5, 32), {"context": "encoder"}),
    (3, (16, 16), (5, 5, 32), {"context": "decoder", "reader_filters": 128}),
    (1, (12, 20), (64,), {"context": "decoder", "reader_filters": 128, "num_scales": 2}),
  ],
)
def test_operations_are_those_that_xla_counts(num_colours, size, z_shape, fields):
  inverter, shapes = model_and_shapes(num_colours, size, z_shape, num_filters=256, **fields)

  def nats(params, images, z):
    return -inverter.apply({"params": params}, images, z).sum()

  def xla_operations(fn):
    return jax.jit(fn).lower(*shapes).cost_analysis()["flops"]

  forward, train = costs.forward_operations(nats, *shapes), costs.train_operations(nats, *shapes)
  # XLA also counts what is done element by element: about one in a hundred with 256 filters.
  assert xla_operations(nats) == pytest.approx(1.01 * forward, rel=0.01)
  assert xla_operations(jax.grad(nats)) == pytest.approx(1.01 * train, rel=0.01)


def test_what_does_not_fit_ends_in_a_sentence(monkeypatch):
  monkeypatch.setattr(costs, "device_bytes", lambda: int(8e9))
  costs.check_memory(int(7e9), "A step", "lower batch_size")
  with pytest.raises(UserError, match=r"A step needs 9 GB .* which has 8 GB; lower batch_size"):
    costs.check_memory(int(9e9), "A step", "lower batch_size")


def test_a_device_has_memory():
  assert 1e8 < costs.device_bytes() < 1e14


def test_an_allocator_that_fails_ends_in_a_sentence_and_other_failures_stay():
  guard = functools.partial(costs.memory_errors, "A step", "lower batch_size")
  with pytest.raises(UserError, match=r"A step does not fit .*; lower batch_size"), guard():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), guard():
    raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_memory_counts_arguments_results_and_temporaries():
  length = 1 << 20
  program = jax.jit(lambda x: jnp.sort(x)[::-1] + x.sum())
  num_bytes = costs.program_bytes(program.lower(jnp.zeros(length)).compile())
  assert 2 * 4 * length <= num_bytes <= 6 * 4 * length
