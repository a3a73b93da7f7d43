"""The gated PixelCNN's own equations; what it shares with PixelCNN++ is tested with that."""

import jax
import jax.numpy as jnp
import numpy as np
from model_examples import compiled

from inversion_jax.machine import compilation
from inversion_jax.models import gated
from inversion_jax.models.gated import GatedPixelCNN


def test_a_gate_is_equation_2_of_the_source():
  x = np.float32(np.random.default_rng(0).normal(size=(2, 3, 6)))
  expected = np.tanh(x[..., :3]) / (1 + np.exp(-x[..., 3:]))
  np.testing.assert_allclose(gated.gate(jnp.asarray(x)), expected, rtol=1e-5)


def test_a_vector_shifts_every_pixel_alike_and_a_map_each_by_its_own():
  # Equations 4 and 5: a map that is the same everywhere is a vector.
  network = GatedPixelCNN(3, num_filters=4, num_blocks=2)
  keys = jax.random.split(jax.random.key(0), 3)
  unit = jax.random.uniform(keys[0], (2, 4, 5, 1), minval=-1.0)
  vector = jax.random.normal(keys[1], (2, 6))
  params = compilation.jit_once(network.init)(keys[2], unit, (vector,))
  # h shifts every gate that a head depends on.
  assert {name for name in params["params"] if name.endswith("_context")} == {
    *("vertical0_context", "horizontal0_context", "horizontal1_context"),
  }
  apply = compiled(network.apply)
  everywhere = jnp.broadcast_to(vector[:, None, None], (2, 4, 5, 6))
  of_vector = apply(params, unit, (vector,))
  np.testing.assert_allclose(apply(params, unit, (everywhere,)), of_vector, atol=1e-5)
  last_changed = apply(params, unit, (everywhere.at[:, 3, 4].add(1.0),))
  is_same = np.isclose(last_changed, of_vector, atol=1e-5).all((0, 3))
  # The vertical stack reads features on both sides: of h, which needs no order, of the row above.
  assert is_same[:3].all()
  assert is_same[3].tolist() == [True, True, True, False, False]
