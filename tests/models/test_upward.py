import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from inversion_jax.machine import compilation
from inversion_jax.models import upward


def test_squashing_can_be_undone_and_keeps_the_order_of_units():
  z = np.concatenate([-np.geomspace(1e3, 1e-3, 200), [0.0], np.geomspace(1e-3, 1e3, 200)])
  squashed = np.asarray(upward.squashed(jnp.float32(z)), np.float64)
  assert (np.diff(squashed) > 0).all()
  back = upward.SQUASH * np.sinh(squashed / upward.SQUASH)
  np.testing.assert_allclose(back, z, rtol=1e-5)


def test_squashing_leaves_common_units_nearly_alone_and_brings_the_tails_in():
  z = jnp.linspace(-1.0, 1.0, 21)
  np.testing.assert_allclose(upward.squashed(z), z, atol=0.02)
  # The largest standardised unit that was met.
  assert 15 < upward.squashed(jnp.float32(620.0)) < 20


def test_grids_are_halved_and_rounded_up():
  assert upward.halvings((28, 7), 3) == [(28, 7), (14, 4), (7, 2)]


class Grids(nn.Module):
  """All grids of an up-convolutional network."""

  sizes: tuple
  taper: int = 1

  @nn.compact
  def __call__(self, z):
    parts = upward.Parts(2, num_blocks=1, num_units=3, is_residual=True, taper=self.taper)
    return upward.coarser_features(upward.features(z, self.sizes, parts), self.sizes, parts)


@pytest.mark.parametrize("z_shape", [(5,), (2, 3, 4), (5, 7, 4), (9, 13, 4), (12, 12, 4)], ids=str)
def test_every_h_reaches_every_grid(z_shape):
  sizes = tuple(upward.halvings((9, 13), 3))
  z = jax.random.normal(jax.random.key(1), (2, *z_shape))
  init = compilation.jit_once(Grids(sizes).init_with_output)
  found, _ = init(jax.random.key(0), z)
  assert [x.shape for x in found] == [(2, *size, 2) for size in sizes]
  # Of two images with different h.
  for x_BHWF in found:
    assert np.abs(x_BHWF[0] - x_BHWF[1]).max() > 1e-3


@pytest.mark.parametrize(
  ("z_shape", "channels"), [((5,), [1, 2, 2]), ((5, 7, 4), [1, 2, 2]), ((9, 13, 4), [2, 2, 2])]
)
def test_a_finest_grid_that_doubling_makes_is_narrower(z_shape, channels):
  grids = Grids(tuple(upward.halvings((9, 13), 3)), taper=2)
  found, _ = jax.eval_shape(grids.init_with_output, jax.random.key(0), jnp.zeros((2, *z_shape)))
  assert [x.shape[-1] for x in found] == channels


def test_halving_brings_together_the_four_of_each_cell():
  x = jnp.arange(30.0).reshape(1, 5, 6, 1)
  halved = upward._halved(x)
  assert halved.shape == (1, 3, 3, 4)
  np.testing.assert_array_equal(halved[0, 0, 1], [2, 3, 8, 9])
  np.testing.assert_array_equal(halved[0, 2, 2], [28, 29, 0, 0])
