import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from inversion_jax.information import neighbours


def points(num, num_units=5, seed=0):
  return np.random.default_rng(seed).normal(size=(num, num_units)).astype(np.float32)


def found(queries, candidates, batch_size, num_nearest):
  return neighbours.nearest(
    queries, lambda rows: candidates[rows], len(candidates), batch_size, num_nearest
  )


@pytest.mark.parametrize("batch_size", [8, 30])
def test_the_nearest_are_those_of_scikit_learn(batch_size):
  queries, candidates = points(7, seed=1), points(30)
  near = found(queries, candidates, batch_size, 3)
  reference = NearestNeighbors(n_neighbors=3, metric="manhattan", algorithm="brute")
  sums, rows = reference.fit(candidates).kneighbors(queries)
  np.testing.assert_array_equal(near.rows_MK, rows)
  # Theirs is a sum over the five units.
  np.testing.assert_allclose(near.l1_MK, sums / 5, rtol=1e-5)


def test_of_equals_the_first_comes_first_and_a_block_is_not_filled_up_with_them():
  candidates = np.repeat(points(2), 5, axis=0)
  near = found(candidates[9:], candidates, 4, 7)
  np.testing.assert_array_equal(near.rows_MK, [[5, 6, 7, 8, 9, 0, 1]])


def test_there_are_no_more_nearest_than_candidates():
  near = found(points(2, seed=1), points(3), 2, 6)
  np.testing.assert_array_equal(np.sort(near.rows_MK), [[0, 1, 2]] * 2)


def test_the_distance_is_a_mean_over_units():
  a = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
  assert float(
    neighbours.l1_distance(a, a + np.array([1, -1, 0, 2], np.float32))[0]
  ) == pytest.approx(1.0)
