"""Other ways to measure I(x; h~), side by side: those of the paper, and bounds through noise.

All of them see activations h of N images, rows drawn independently, and a noise channel p(h~ | h).
Since h is a function of x, p(h~ | x) is known, and I(x; h~) = H(h~) - H(h~ | x) (paper, eq. 1)
leaves H(h~) alone to be estimated. What `kind` says is meant for I(x; h~) over the population that
the rows were drawn from, in expectation over the rows:

| method | kind | never exceeds |
|---|---|---|
| discretisation | estimate, of the noise-free code | log N |
| kraskov | estimate | |
| kde_upper | estimate: bounds the N given rows, not the population | log N |
| kde_lower | lower bound | log N |
| infonce | lower bound | log K |
| leave_one_out_upper | upper bound | |
| density_upper | upper bound | |
| capacity | upper bound, of few bits | |

A value at its ceiling says that the rows are too few, not that the information is that much.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key
from scipy import spatial, special

from inversion_jax.features import noise
from inversion_jax.information import statistics
from inversion_jax.information.densities import (
  AutoregressiveDensity,
  Density,
  GaussianDensity,
  GaussianMixtureDensity,
)
from inversion_jax.machine.errors import UserError

LOWER, UPPER, ESTIMATE = "lower bound", "upper bound", "estimate"
NUM_BINS = 30  # Paper, appendix B, after Shwartz-Ziv & Tishby (2017).
NUM_NEIGHBOURS = 3  # Kraskov et al. (2004) recommend 2 to 4.
BATCH_SIZE = 1024
# Of pairwise matrices: 128 MB of float64.
MAX_CHUNK_ELEMENTS = 2**24
# Held-out rows are half of all; of the rest, one in so many validates.
VALID_EVERY = 5
# Noise is free where h is known: a density of few units is fitted on so many draws of each row.
NOISE_DRAWS, MAX_UNITS_REDRAWN = 4, 64

LogProbFn = Callable[[Float[np.ndarray, "M Z"]], Float[np.ndarray, " M"]]


class Measured(NamedTuple):
  """What one method says about I(x; h~), in nats.

  `standard_error` is that of drawing other rows, None where the method has none; it knows nothing
  of a bias. `ceiling_nats` is what the method cannot exceed, whatever the truth. `seconds` are
  wall-clock, compilation included.
  """

  method: str
  nats: float
  standard_error: float | None
  kind: str
  ceiling_nats: float | None
  seconds: float

  def as_json(self) -> dict[str, Any]:
    """The fields; None for `nats` that are infinite, which JSON cannot hold."""
    return self._asdict() | {"nats": self.nats if math.isfinite(self.nats) else None}


def compare_all(
  h: Float[np.ndarray, " N *units"],
  channel: noise.Channel,
  key: Key[Array, ""],
  *,
  fit_h: Float[np.ndarray, " M *units"] | None = None,
  num_bins: int = NUM_BINS,
  num_neighbours: int = NUM_NEIGHBOURS,
  batch_size: int = BATCH_SIZE,
) -> list[Measured]:
  """Every method that the channel admits, on the same activations and the same draw of noise.

  Through a `Quantised` channel there is no density: `discretisation` then uses the channel's own
  bins, and beside it there are the two contrastive bounds and the capacity of the channel.

  `fit_h` are activations of other images, in random order, on which the densities are fitted;
  without it half of `h` is given up for that.
  """
  num_bad = len(h) - int(np.isfinite(h).reshape(len(h), -1).all(1).sum())
  if num_bad:
    raise UserError(f"The activations of {num_bad} of {len(h)} images are not finite.")
  h_NZ = h.reshape(len(h), -1)
  if isinstance(channel, noise.Quantised):
    code = discretisation(h_NZ, quantiser=channel)
    pairs = [fn(h_NZ, channel, key, batch_size) for fn in (infonce, leave_one_out_upper)]
    return [code, *pairs, capacity(h_NZ, channel)]
  density_fn = None
  if fit_h is not None:
    fit_NZ = fit_h.reshape(len(fit_h), -1)
    density_fn = fit_density(fit_NZ, channel, jax.random.fold_in(key, 1)).log_prob
  return [
    discretisation(h_NZ, num_bins),
    kraskov(h_NZ, channel, key, num_neighbours),
    kde_upper(h_NZ, channel),
    kde_lower(h_NZ, channel),
    infonce(h_NZ, channel, key, batch_size),
    leave_one_out_upper(h_NZ, channel, key, batch_size),
    density_upper(h_NZ, channel, key, density_fn),
  ]


def capacity(h_NZ: Float[np.ndarray, "N Z"], channel: noise.Quantised) -> Measured:
  """bits * Z * log 2: what Z units of so many bits can tell at most, whatever they are."""
  nats = h_NZ.shape[1] * channel.bits * math.log(2)
  return Measured("capacity", nats, None, UPPER, None, 0.0)


def discretisation(
  h_NZ: Float[np.ndarray, "N Z"],
  num_bins: int = NUM_BINS,
  quantiser: noise.Quantised | None = None,
) -> Measured:
  """The plug-in entropy of the joint code of all units: I(x; bins(h)) of N equally likely images.

  Args:
    h_NZ: activations without noise; the noise of a Gaussian channel plays no part here.
    num_bins: equal bins per unit, from its smallest to its largest value in `h_NZ`; the standard
      error takes them as given.
    quantiser: replaces those bins by fixed ones; the value then estimates I(x; h~) of that channel.

  The code of a deterministic h has no entropy given x, so eq. 12 is H(bins(h)). Counts
  underestimate the entropy of many codes, and cannot exceed log N (nor Z log num_bins).

  Source: paper, appendix B, eq. 12; Shwartz-Ziv & Tishby (2017), arXiv 1703.00810.
  """
  start = time.perf_counter()
  if quantiser is not None:
    num_bins = 2**quantiser.bits
    codes_NZ = np.asarray(quantiser.apply(h_NZ))
  else:
    low_Z, high_Z = h_NZ.min(0), h_NZ.max(0)
    # A dead unit has one value, and one bin.
    width_Z = np.where(high_Z > low_Z, (high_Z - low_Z) / num_bins, 1.0)
    codes_NZ = np.minimum((h_NZ - low_Z) / width_Z, num_bins - 1).astype(np.int32)
  _, code_N, count_C = np.unique(codes_NZ, axis=0, return_inverse=True, return_counts=True)
  nats_N = math.log(len(h_NZ)) - np.log(count_C[code_N.reshape(-1)])
  ceiling_nats = min(math.log(len(h_NZ)), h_NZ.shape[1] * math.log(num_bins))
  return _measured("discretisation", nats_N, ESTIMATE, ceiling_nats, start)


def kraskov(
  h_NZ: Float[np.ndarray, "N Z"],
  channel: noise.Channel,
  key: Key[Array, ""],
  num_neighbours: int = NUM_NEIGHBOURS,
) -> Measured:
  """Nearest-neighbour entropy of one draw of h~, minus the known entropy of the noise.

  H = D/N sum_i log r_i + D/2 log(pi) - log Gamma(D/2 + 1) + psi(N) - psi(k), with r_i the Euclidean
  distance to the k'th other row. (The paper's small epsilon next to r_i guards against r_i = 0,
  which noise excludes.) Consistent for few units; its bias grows fast with D and has no known
  sign. Time grows as N^2 Z beyond some 20 units, where the tree no longer helps.

  Source: paper, eqs. 13 and 14; Kraskov et al. (2004); Kozachenko & Leonenko (1987).
  """
  start = time.perf_counter()
  _require_gaussian(channel, "kraskov")
  num_rows, num_units = h_NZ.shape
  if num_rows <= num_neighbours:
    raise UserError(f"{num_neighbours} nearest neighbours need more than {num_rows} images.")
  h_tilde_NZ = np.asarray(channel.apply(h_NZ, key), np.float64)
  distances_NK, _ = spatial.cKDTree(h_tilde_NZ).query(h_tilde_NZ, num_neighbours + 1)
  constant = (
    num_units / 2 * math.log(math.pi)
    - special.gammaln(num_units / 2 + 1)
    + special.digamma(num_rows)
    - special.digamma(num_neighbours)
  )
  # The first neighbour is the row itself.
  entropy_N = num_units * np.log(distances_NK[:, -1]) + constant
  noise_entropy = num_units / 2 * math.log(2 * math.pi * math.e * channel.sigma**2)
  return _measured("kraskov", entropy_N - noise_entropy, ESTIMATE, None, start)


def kde_upper(h_NZ: Float[np.ndarray, "N Z"], channel: noise.Channel) -> Measured:
  """-1/N sum_i log 1/N sum_j exp(-|h_i - h_j|^2 / (2 sigma^2)): the kernel density estimate.

  It is an upper bound of the information about which of *these N rows* was drawn, that is of the
  entropy of their equal mixture of Gaussians less that of the noise, and of that alone. On the
  population it is no bound: it never exceeds log N, though I(x; h~) may. So `kind` is "estimate";
  read it as an upper bound only if the N rows are all the images there are. For a bound of the
  population see `leave_one_out_upper`, which differs in not letting a row explain itself.

  Source: Kolchinsky & Tracey (2017), Entropy 19, eq. 10 with the KL divergence; paper, eq. 2.
  """
  return _kde("kde_upper", h_NZ, channel, 2.0, ESTIMATE)


def kde_lower(h_NZ: Float[np.ndarray, "N Z"], channel: noise.Channel) -> Measured:
  """-1/N sum_i log 1/N sum_j exp(-|h_i - h_j|^2 / (8 sigma^2)): Bhattacharyya distances.

  A lower bound of the information about which of these N rows was drawn. That information is, in
  expectation over the rows, at most I(x; h~) of the population, entropy being concave; so this
  bounds both from below. It never exceeds log N.

  Source: Kolchinsky & Tracey (2017), Entropy 19, eq. 10 with the Bhattacharyya distance.
  """
  return _kde("kde_lower", h_NZ, channel, 8.0, LOWER)


def infonce(
  h_NZ: Float[np.ndarray, "N Z"],
  channel: noise.Channel,
  key: Key[Array, ""],
  batch_size: int = BATCH_SIZE,
) -> Measured:
  """mean log p(h~_i | h_i) / (1/K sum_j p(h~_i | h_j)), averaged over disjoint batches of K rows.

  With the known conditional in the place of a critic, InfoNCE is at its best. A lower bound of
  I(x; h~) that never exceeds log K. Rows that do not fill a batch are left out.

  Source: Poole et al. (2019), ICML, section 2.4, "InfoNCE with a tractable conditional".
  """
  start = time.perf_counter()
  nats_N, num_rows = _contrasts(h_NZ, channel, key, batch_size, leave_one_out=False)
  return _measured("infonce", nats_N, LOWER, math.log(num_rows), start)


def leave_one_out_upper(
  h_NZ: Float[np.ndarray, "N Z"],
  channel: noise.Channel,
  key: Key[Array, ""],
  batch_size: int = BATCH_SIZE,
) -> Measured:
  """mean log p(h~_i | h_i) / (1/(K-1) sum_{j != i} p(h~_i | h_j)), over disjoint batches of K rows.

  The other rows of a batch form a density that row i did not help to fit, so its cross entropy is
  at least H(h~) and this an upper bound of I(x; h~). It is loose once the noise no longer reaches
  from a row to its neighbours, and infinite where a quantised code belongs to one row alone.

  Source: Poole et al. (2019), ICML, eq. 13.
  """
  start = time.perf_counter()
  nats_N, _ = _contrasts(h_NZ, channel, key, batch_size, leave_one_out=True)
  if not np.isfinite(nats_N).all():
    seconds = time.perf_counter() - start
    return Measured("leave_one_out_upper", math.inf, None, UPPER, None, seconds)
  return _measured("leave_one_out_upper", nats_N, UPPER, None, start)


def density_upper(
  h_NZ: Float[np.ndarray, "N Z"],
  channel: noise.Channel,
  key: Key[Array, ""],
  log_prob_fn: LogProbFn | None = None,
) -> Measured:
  """The cross entropy of h~ under a density fitted on other rows, minus the known H(h~ | x).

  Args:
    h_NZ: activations. Without `log_prob_fn` a random half of the rows fits the densities of this
      module and chooses among them (`fit_density`), and only the other half is scored.
    log_prob_fn: log q of rows of h~ in nats, fitted on rows that are not in `h_NZ`, all of which
      are scored. Through a `Quantised` channel it must be the log of a probability.

  Returns:
    The mean of log p(h~ | h) - log q(h~), the difference of entropies of McAllester & Stratos
    (2020, AISTATS), with H(h~ | x) known. It exceeds I(x; h~) by KL(p(h~) || q), whatever q is, so
    it is an upper bound without a ceiling; a better q makes it tighter. Paper, eq. 2.
  """
  start = time.perf_counter()
  split_key, fit_key, noise_key = jax.random.split(key, 3)
  if log_prob_fn is None:
    order_N = _rng(split_key).permutation(len(h_NZ))
    fit_rows, held_rows = np.array_split(order_N, 2)
    log_prob_fn = fit_density(h_NZ[fit_rows], channel, fit_key).log_prob
    h_NZ = h_NZ[held_rows]
  h_tilde_NZ = channel.apply(h_NZ, noise_key)
  conditional_N = np.asarray(channel.log_prob(h_tilde_NZ, h_NZ), np.float64)
  nats_N = conditional_N - log_prob_fn(np.asarray(h_tilde_NZ))
  return _measured("density_upper", nats_N, UPPER, None, start)


def fit_density(
  h_NZ: Float[np.ndarray, "N Z"],
  channel: noise.Channel,
  key: Key[Array, ""],
  families: Sequence[Any] = (GaussianDensity, GaussianMixtureDensity, AutoregressiveDensity),
) -> Density:
  """The density of h~ with the highest likelihood on validation rows, one in five of `h_NZ`.

  Rows must come in random order. Families that state `MAX_UNITS` are passed over beyond it.
  """
  _require_gaussian(channel, "density_upper without a log_prob_fn")
  if len(h_NZ) < 2 * VALID_EVERY:
    raise UserError(f"A density needs {2 * VALID_EVERY} images to be fitted, not {len(h_NZ)}.")
  num_units = h_NZ.shape[1]
  fit_key, valid_key, *draw_keys = jax.random.split(key, 2 + NOISE_DRAWS)
  num_draws = NOISE_DRAWS if num_units <= MAX_UNITS_REDRAWN else 1
  is_valid_N = np.arange(len(h_NZ)) % VALID_EVERY == 0
  valid_MZ = np.asarray(channel.apply(h_NZ[is_valid_N], valid_key))
  train_NZ = np.concatenate(
    [np.asarray(channel.apply(h_NZ[~is_valid_N], draw_key)) for draw_key in draw_keys[:num_draws]]
  )
  fitted = [
    family.fit(train_NZ, valid_MZ, fit_key)
    for family in families
    if num_units <= getattr(family, "MAX_UNITS", num_units)
  ]
  return max(fitted, key=lambda density: density.log_prob(valid_MZ).mean())


def _measured(method, nats_N, kind, ceiling_nats, start):
  estimate = statistics.mean_with_error(nats_N)
  seconds = time.perf_counter() - start
  return Measured(method, estimate.mean, estimate.standard_error, kind, ceiling_nats, seconds)


def _require_gaussian(channel, method):
  if not isinstance(channel, noise.Gaussian):
    raise UserError(f"{method} needs a density of h~, so a Gaussian channel, not {channel}.")


def _rng(key):
  return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _kde(method, h_NZ, channel, scale, kind):
  """The mean of -log m_i, m_i = 1/N sum_j k_ij, k_ij = exp(-|h_i - h_j|^2 / (scale sigma^2)).

  Row i counts in m_i and, as a centre, in all others. To first order its share of the mean is
  -log m_i + 1 - 1/N sum_j k_ji / m_j; these shares have the same mean, and their spread gives the
  standard error, as for any function of an empirical distribution (von Mises, 1947).
  """
  start = time.perf_counter()
  _require_gaussian(channel, method)
  num_rows = len(h_NZ)
  centred_NZ = h_NZ - h_NZ.mean(0, dtype=np.float64)
  own_nats_N, as_centre_N = np.empty(num_rows), np.zeros(num_rows)
  for rows in _chunks(num_rows):
    log_kernel_MN = _squared_distances(centred_NZ, rows) / (-scale * channel.sigma**2)
    log_mean_M = special.logsumexp(log_kernel_MN, axis=1) - math.log(num_rows)
    own_nats_N[rows] = -log_mean_M
    as_centre_N += np.exp(log_kernel_MN - log_mean_M[:, None]).sum(0) / num_rows
  nats_N = own_nats_N + 1.0 - as_centre_N
  return _measured(method, nats_N, kind, math.log(num_rows), start)


def _chunks(num_rows) -> Iterator[np.ndarray]:
  num_chunks = math.ceil(num_rows**2 / MAX_CHUNK_ELEMENTS)
  yield from np.array_split(np.arange(num_rows), num_chunks)


def _squared_distances(h_NZ, rows):
  """|h_i - h_j|^2 for i in `rows` and all j: a product of matrices, exact enough in float64."""
  squares_N = (h_NZ**2).sum(1)
  squared_MN = squares_N[rows, None] + squares_N - 2.0 * h_NZ[rows] @ h_NZ.T
  # Rounding must not move a row away from itself.
  squared_MN[np.arange(len(rows)), rows] = 0.0
  return np.maximum(squared_MN, 0.0)


def _contrasts(h_NZ, channel, key, batch_size, leave_one_out):
  """The contrast of every row that finds a place in a batch, and the rows of one batch, K.

  Rows of a batch depend on each other, but to first order their mean has the error of independent
  rows: as a centre row j weighs 1/K sum_i p(h~_i | h_j) / m_i, which is about 1 for each.
  """
  num_rows = min(batch_size, len(h_NZ))
  if num_rows < 2:
    raise UserError(f"Contrasts need batches of two images or more, not {num_rows}.")
  order_key, noise_key = jax.random.split(key)
  order_N = _rng(order_key).permutation(len(h_NZ))
  num_batches = len(h_NZ) // num_rows
  nats = []
  for batch, rows in enumerate(order_N[: num_batches * num_rows].reshape(num_batches, num_rows)):
    h_tilde_KZ = channel.apply(h_NZ[rows], jax.random.fold_in(noise_key, batch))
    log_prob_KK = np.asarray(_pairwise_log_prob(channel, h_tilde_KZ, h_NZ[rows]), np.float64)
    nats.append(_contrast_nats(log_prob_KK, leave_one_out))
  return np.concatenate(nats), num_rows


@functools.partial(jax.jit, static_argnums=0)
def _pairwise_log_prob(channel, h_tilde_KZ, h_KZ):
  # Row by row: all pairs at once would take K^2 Z of memory.
  return jax.lax.map(lambda h_tilde_Z: channel.log_prob(h_tilde_Z[None], h_KZ), h_tilde_KZ)


def _contrast_nats(log_prob_KK, leave_one_out):
  """log p_ii / m_i of each row i; all infinite if the others leave some row m_i = 0."""
  num_rows = len(log_prob_KK)
  own_K = np.diagonal(log_prob_KK).copy()
  if leave_one_out:
    np.fill_diagonal(log_prob_KK, -np.inf)
    if np.isneginf(log_prob_KK.max(1)).any():
      return np.full(num_rows, np.inf)
  log_mean_K = special.logsumexp(log_prob_KK, axis=1) - math.log(num_rows - leave_one_out)
  return own_K - log_mean_K
