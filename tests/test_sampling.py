import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from inversion_jax import likelihoods, sampling

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
