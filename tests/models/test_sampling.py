import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from model_examples import READER

from inversion_jax.machine import compilation
from inversion_jax.machine.errors import UserError
from inversion_jax.models import likelihoods, sampling
from inversion_jax.models.inverters import Inverter

GATED = {"architecture": "gated"}
CATEGORICAL = likelihoods.Categorical(num_levels=2)


def past_sum_head(levels_BHWC):
  """A head by hand: two logits per pixel, from the sum of all pixels before it."""
  flat = levels_BHWC[..., 0].reshape(len(levels_BHWC), -1).astype(jnp.float32)
  before = jnp.cumsum(flat, axis=1) - flat
  head = jnp.stack([jnp.zeros_like(before), 0.7 * before - 0.5], axis=-1)
  return head.reshape(*levels_BHWC.shape[:3], 2)


def keys(num_images, sample=0):
  index = jnp.arange(num_images)
  return sampling.sample_keys(jax.random.key(0), index, jnp.full_like(index, sample))


def test_the_loop_is_the_step_by_step_definition():
  drawn = sampling.ancestral(past_sum_head, CATEGORICAL, keys(6), (2, 3))
  levels = np.zeros((6, 2, 3, 1), np.int32)
  for image, key in enumerate(keys(6)):
    for pixel in range(6):
      noise = CATEGORICAL.noise(jax.random.fold_in(key, pixel))
      head = past_sum_head(jnp.asarray(levels))[image, pixel // 3, pixel % 3]
      levels[image, pixel // 3, pixel % 3] = CATEGORICAL.draw(head, noise)
  np.testing.assert_array_equal(drawn, levels)


def test_an_image_depends_on_its_key_and_not_on_its_batch():
  def draw(keys_B):
    return sampling.ancestral(past_sum_head, CATEGORICAL, keys_B, (4, 4))

  together = draw(keys(5))
  np.testing.assert_array_equal(draw(keys(5)[3:4]), together[3:4])
  np.testing.assert_array_equal(draw(keys(5)[::-1]), together[::-1])
  assert not np.array_equal(draw(keys(5, sample=1)), together)


def test_images_come_with_the_probabilities_of_the_model():
  num_images = 20_000
  drawn = sampling.ancestral(past_sum_head, CATEGORICAL, keys(num_images), (2, 2))
  counts = np.bincount(np.asarray(drawn).reshape(-1, 4) @ [8, 4, 2, 1], minlength=16)
  images = jnp.array(list(itertools.product(range(2), repeat=4))).reshape(16, 2, 2, 1)
  nats = CATEGORICAL.log_prob(past_sum_head(images), images).sum((1, 2))
  expected = num_images * np.exp(nats)
  statistic = (np.square(counts - expected) / expected).sum()
  assert statistic < scipy.stats.chi2.ppf(0.999, 15)


def test_the_network_sees_rounded_levels_alone():
  likelihood, seen = likelihoods.LogisticMixture(256, 3, 2), []

  def head_fn(levels_BHWC):
    jax.debug.callback(lambda levels: seen.append(np.asarray(levels)), levels_BHWC)
    return jnp.zeros((*levels_BHWC.shape[:3], likelihood.num_features))

  drawn = sampling.ancestral(head_fn, likelihood, keys(2), (2, 2))
  jax.effects_barrier()
  assert len(seen) == 4
  assert all(np.issubdtype(levels.dtype, np.integer) for levels in seen)
  assert (drawn.min() >= 0) & (drawn.max() <= 255)


class Drawn:
  """A small inverter with random parameters, and what is drawn from it."""

  def __init__(self, size, num_colours=1, z_shape=None, num_images=3, num_levels=17, **fields):
    likelihood = likelihoods.make(
      "auto", num_levels=num_levels, num_colours=num_colours, num_components=2, min_log_scale=-7.0
    )
    fields = {"num_filters": 4, "num_blocks": 1} | fields
    self.inverter, self.size, self.num_images = Inverter(likelihood, **fields), size, num_images
    rng = np.random.default_rng(0)
    images = jnp.zeros((num_images, *size, num_colours), jnp.int32)
    z = None if z_shape is None else rng.normal(size=(num_images, *z_shape)).astype(np.float32)
    shapes = jax.eval_shape(self.inverter.init, jax.random.key(0), images, z)["params"]
    draw = lambda leaf: jnp.float32(rng.normal(0.0, 0.6, leaf.shape))  # noqa: E731
    self.params, self.z = jax.tree.map(draw, shapes), z

  def run(self, fn, *args):
    def bound(params, z, *args):
      model = self.inverter.bind({"params": params})
      return fn(model, model.contexts(z, self.size), *args)

    return np.asarray(compilation.jit_sampler(bound)(self.params, self.z, *args))

  def images(self, sampler, given=None):
    def draw(model, contexts, *given):
      given_BRWC = given[0] if given else None
      return sampling.draw(
        model, contexts, keys(self.num_images), self.size, sampler=sampler, given_BRWC=given_BRWC
      )

    return self.run(draw, *(() if given is None else (given,)))

  def heads(self, levels, cached):
    def compute(model, contexts, levels):
      if not cached:
        return model.head(levels, contexts)
      rows = levels.transpose(1, 2, 0, 3)
      draw = lambda head_BF, levels_BC: (levels_BC, head_BF)  # noqa: E731
      heads = model.raster(contexts, draw, rows.__getitem__, self.size, len(levels))
      return heads.transpose(2, 0, 1, 3)

    return self.run(compute, levels)


@pytest.mark.parametrize(
  ("size", "num_colours", "z_shape", "fields"),
  [
    ((8, 8), 1, (5,), {"num_scales": 2}),
    ((28, 28), 1, (4, 4, 3), {}),
    ((32, 32), 3, (5,), {}),
    ((40, 40), 1, None, {}),
    ((7, 9), 3, (3, 3, 4), {"context": "encoder", "num_blocks": 2}),
    ((5, 6), 1, (3,), {"num_scales": 1}),
    ((7, 9), 3, (3, 3, 4), READER),
    ((8, 8), 1, (5,), READER | {"num_scales": 2}),
    ((5, 6), 1, None, READER | {"num_scales": 2}),
  ],
)
def test_heads_pixel_by_pixel_are_those_of_the_whole_network(size, num_colours, z_shape, fields):
  drawn = Drawn(size, num_colours, z_shape, **fields)
  levels = np.random.default_rng(1).integers(0, 17, (3, *size, num_colours)).astype(np.int32)
  whole = drawn.heads(levels, cached=False)
  # The heads of random parameters reach 100: 1e-5 of the largest is rounding.
  np.testing.assert_allclose(
    drawn.heads(levels, cached=True), whole, atol=1e-5 * max(1.0, np.abs(whole).max())
  )


SHAPES = [(1, (5,), {}), (3, (3, 3, 4), {}), (1, None, {})]
SHAPES += [(3, (3, 3, 4), READER | {"num_scales": 2}), (1, None, READER | {"num_scales": 2})]


@pytest.mark.parametrize(
  ("samplers", "num_colours", "z_shape", "fields"),
  [
    *((("cached", "fixed_point"), *shape) for shape in SHAPES),
    *((("fixed_point",), 3, (3, 3, 4), GATED), (("auto",), 1, (5,), GATED)),
  ],
  ids=str,
)
def test_all_samplers_draw_the_same_images(samplers, num_colours, z_shape, fields):
  drawn = Drawn((6, 5), num_colours, z_shape, num_images=7, **fields)
  ancestral = drawn.images("ancestral")
  assert ancestral.std() > 1
  for sampler in samplers:
    np.testing.assert_array_equal(drawn.images(sampler), ancestral)


@pytest.mark.parametrize(
  ("size", "num_colours", "num_levels", "z_shape", "fields"),
  [
    ((30, 26), 3, 256, (4, 3, 2), {}),
    ((17, 9), 1, 2, None, {}),
    ((64, 64), 1, 5, None, {"num_filters": 2, "num_scales": 1}),
    ((9, 6), 4, 256, None, {"num_scales": 1}),
  ],
  ids=["30x26x3", "17x9 binary", "64x64", "9x6 with four colours"],
)
@pytest.mark.usefixtures("as_users_compile")
def test_all_samplers_draw_the_same_images_of_any_kind(
  size, num_colours, num_levels, z_shape, fields
):
  drawn = Drawn(size, num_colours, z_shape, 1, num_levels, **READER | {"num_scales": 2} | fields)
  ancestral = drawn.images("ancestral")
  assert ancestral.std() > 0.1
  assert ancestral.max() == num_levels - 1
  for sampler in ("cached", "fixed_point"):
    np.testing.assert_array_equal(drawn.images(sampler), ancestral)


@pytest.mark.parametrize("sampler", ["ancestral", "cached", "fixed_point"])
def test_an_image_is_completed_from_its_own_first_rows(sampler):
  drawn = Drawn((6, 5), 3, num_images=2)
  images = drawn.images("ancestral")
  np.testing.assert_array_equal(drawn.images(sampler, images[:, :2]), images)
  other = (images[:, :2] + 8) % 17
  completed = drawn.images(sampler, other)
  np.testing.assert_array_equal(completed[:, :2], other)
  assert (completed[:, 2:] != images[:, 2:]).any()


def test_fixed_points_are_found_in_the_fewest_passes_and_images_make_room():
  passes = []

  def head_fn(levels_SHWC, image_S):
    jax.debug.callback(lambda image_S: passes.append(image_S.tolist()), image_S)
    return past_sum_head(levels_SHWC) * jnp.where(image_S % 2, 0.0, 1.0)[:, None, None, None]

  drawn = sampling.fixed_point(head_fn, CATEGORICAL, keys(20), (4, 4), num_slots=2)
  jax.effects_barrier()
  expected = sampling.ancestral(
    lambda levels: past_sum_head(levels) * (1.0 - jnp.arange(20) % 2)[:, None, None, None],
    CATEGORICAL,
    keys(20),
    (4, 4),
  )
  np.testing.assert_array_equal(drawn, expected)
  # Odd images do not depend on the past: one pass draws them, one finds nothing to change. Slots
  # that stand empty at the end count as the last image.
  counts = np.bincount(np.concatenate(passes))[:19]
  assert (counts[1::2] == 2).all()
  assert counts[::2].min() >= 2
  assert 3 <= counts[::2].max() <= 17


def test_the_gated_network_is_not_cached_and_says_what_draws_the_same():
  with pytest.raises(UserError, match="'cached' does not know the gated network; use"):
    Drawn((2, 2), **GATED).images("cached")


def test_an_unknown_sampler_is_named():
  with pytest.raises(UserError, match="sampler='fast' is not known"):
    Drawn((2, 2)).images("fast")
