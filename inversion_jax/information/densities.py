"""Densities of noisy activations, fitted by likelihood: what bounds their entropy from above.

Each has `fit(train_NZ, valid_MZ, key)`, which chooses its size on the validation rows, and
`log_prob(h_tilde_NZ)`.
"""

import math
import warnings
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from sklearn import exceptions, mixture


@runtime_checkable
class Density(Protocol):
  """A model q(h~). `fit` makes one from rows of h~ and chooses its size on validation rows."""

  @classmethod
  def fit(cls, train_NZ: np.ndarray, valid_MZ: np.ndarray, key: Array) -> "Density":
    """Fits rows of `train_NZ`; `valid_MZ` decides what the likelihood of those cannot."""

  def log_prob(self, h_tilde_NZ: np.ndarray) -> np.ndarray:
    """log q of each row, in nats."""


class GaussianDensity(NamedTuple):
  """N(mean, (1 - a) S + a tr(S) / Z I), S the covariance of the training rows, a <= 1 validated.

  Kept as the R = min(N, Z) directions which the rows span and one variance for all others, so that
  many units cost N Z of memory, not Z^2.
  """

  mean_Z: Float[np.ndarray, " Z"]
  basis_RZ: Float[np.ndarray, "R Z"]
  variance_R: Float[np.ndarray, " R"]
  rest_variance: float

  SHRINKAGES = tuple(10.0 ** np.arange(-4, 0.5, 0.5))

  @classmethod
  def fit(
    cls, train_NZ: Float[np.ndarray, "N Z"], valid_MZ: Float[np.ndarray, "M Z"], key: Key[Array, ""]
  ) -> "GaussianDensity":
    """The shrinkage of the highest validation likelihood; `key` is not used."""
    del key
    mean_Z = train_NZ.mean(0, dtype=np.float64)
    _, spread_R, basis_RZ = np.linalg.svd(train_NZ - mean_Z, full_matrices=False)
    variance_R = spread_R**2 / len(train_NZ)
    mean_variance = float(variance_R.sum()) / len(mean_Z)
    candidates = [
      cls(mean_Z, basis_RZ, (1 - a) * variance_R + a * mean_variance, float(a * mean_variance))
      for a in cls.SHRINKAGES
    ]
    return max(candidates, key=lambda density: density.log_prob(valid_MZ).mean())

  def log_prob(self, h_tilde_NZ: Float[np.ndarray, "N Z"]) -> Float[np.ndarray, " N"]:
    """log q of each row, in nats."""
    centred_NZ = h_tilde_NZ - self.mean_Z
    inside_NR = centred_NZ @ self.basis_RZ.T
    outside_N = np.maximum((centred_NZ**2).sum(1) - (inside_NR**2).sum(1), 0.0)
    num_rest = len(self.mean_Z) - len(self.variance_R)
    log_det = np.log(self.variance_R).sum() + num_rest * math.log(self.rest_variance)
    squares_N = (inside_NR**2 / self.variance_R).sum(1)
    if num_rest:
      squares_N += outside_N / self.rest_variance
    return -0.5 * (squares_N + log_det + len(self.mean_Z) * math.log(2 * math.pi))

  def covariance(self) -> Float[np.ndarray, "Z Z"]:
    """The whole matrix; for few units."""
    scaled_ZR = self.basis_RZ.T * (self.variance_R - self.rest_variance)
    return scaled_ZR @ self.basis_RZ + self.rest_variance * np.eye(len(self.mean_Z))


class GaussianMixtureDensity(NamedTuple):
  """A mixture of Gaussians: full covariances up to 32 units, diagonal ones beyond."""

  model: mixture.GaussianMixture

  NUM_COMPONENTS = (1, 2, 4, 8, 16, 32)
  MAX_UNITS_FULL = 32

  @classmethod
  def fit(
    cls, train_NZ: Float[np.ndarray, "N Z"], valid_MZ: Float[np.ndarray, "M Z"], key: Key[Array, ""]
  ) -> "GaussianMixtureDensity":
    """Doubles the number of components as long as the validation likelihood grows."""
    best, best_nats = None, -math.inf
    for num_components in cls.NUM_COMPONENTS:
      if num_components > len(train_NZ):
        break
      candidate = cls(_mixture(train_NZ, num_components, cls.MAX_UNITS_FULL, key))
      nats = float(candidate.log_prob(valid_MZ).mean())
      if nats <= best_nats:
        break
      best, best_nats = candidate, nats
    return best

  def log_prob(self, h_tilde_NZ: Float[np.ndarray, "N Z"]) -> Float[np.ndarray, " N"]:
    """log q of each row, in nats."""
    return self.model.score_samples(h_tilde_NZ.astype(np.float64))


class AutoregressiveDensity(NamedTuple):
  """prod_z q(u_z | u_1..u_{z-1}), each a mixture of Gaussians whose parameters a network gives.

  u are the units after a triangular map that whitens the training rows: training starts from the
  Gaussian density and learns what is not Gaussian. The network is a masked perceptron, one pass for
  all units. The paper (section 3.3) names such a density as promising and unexplored.

  Source: Germain et al. (2015), ICML (masks); Uria et al. (2013), NeurIPS (mixtures).
  """

  mean_Z: Float[np.ndarray, " Z"]
  cholesky_ZZ: Float[np.ndarray, "Z Z"]
  params: dict

  MAX_UNITS = 512
  NUM_HIDDEN, NUM_COMPONENTS = 128, 8
  NUM_STEPS, STEPS_PER_CHECK, TRAIN_BATCH, RATE = 600, 50, 256, 2e-3

  @classmethod
  def fit(
    cls, train_NZ: Float[np.ndarray, "N Z"], valid_MZ: Float[np.ndarray, "M Z"], key: Key[Array, ""]
  ) -> "AutoregressiveDensity":
    """A few hundred steps of Adam; of the networks seen every 50 steps the best on validation."""
    init_key, train_key = jax.random.split(key)
    gaussian = GaussianDensity.fit(train_NZ, valid_MZ, key)
    start = cls(
      gaussian.mean_Z,
      np.linalg.cholesky(gaussian.covariance()),
      _initial_network(train_NZ.shape[1], cls.NUM_HIDDEN, cls.NUM_COMPONENTS, init_key),
    )
    train_u_NZ, valid_u_MZ = start._whiten(train_NZ), start._whiten(valid_MZ)
    params = _train_network(start.params, train_u_NZ, valid_u_MZ, train_key)
    return start._replace(params=params)

  def log_prob(self, h_tilde_NZ: Float[np.ndarray, "N Z"]) -> Float[np.ndarray, " N"]:
    """log q of each row, in nats."""
    log_det = np.log(np.diagonal(self.cholesky_ZZ)).sum()
    return np.asarray(_network_nats(self.params, self._whiten(h_tilde_NZ)), np.float64) - log_det

  def _whiten(self, h_tilde_NZ):
    centred_NZ = h_tilde_NZ - self.mean_Z
    return np.linalg.solve(self.cholesky_ZZ, centred_NZ.T).T.astype(np.float32)


def _mixture(train_NZ, num_components, max_units_full, key):
  seed = int(jax.random.bits(key, dtype=jnp.uint32))
  model = mixture.GaussianMixture(
    num_components,
    covariance_type="full" if train_NZ.shape[1] <= max_units_full else "diag",
    reg_covar=1e-6 * float(train_NZ.var(0).mean()),
    random_state=seed,
  )
  with warnings.catch_warnings():
    # A fit that stops early is still a density; validation decides whether it is a good one.
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    return model.fit(train_NZ.astype(np.float64))


def _degrees(num_units, num_hidden):
  """Unit z may see units below z; hidden feature f sees units up to degree f."""
  units_Z = np.arange(num_units)
  hidden_F = np.arange(num_hidden) * max(num_units - 1, 1) // num_hidden
  return units_Z, hidden_F


def _initial_network(num_units, num_hidden, num_components, key):
  """Parameters at which every conditional is a mixture close to N(0, 1)."""
  key_in, key_hidden, key_out = jax.random.split(key, 3)
  means_K = jnp.linspace(-1.0, 1.0, num_components)
  bias_3K = jnp.stack([jnp.zeros(num_components), means_K, jnp.full(num_components, -0.25)])
  return {
    "in_ZF": jax.random.normal(key_in, (num_units, num_hidden)) / math.sqrt(num_units),
    "in_bias_F": jnp.zeros(num_hidden),
    "hidden_FF": jax.random.normal(key_hidden, (num_hidden, num_hidden)) / math.sqrt(num_hidden),
    "hidden_bias_F": jnp.zeros(num_hidden),
    "out_FZ3K": 0.01 * jax.random.normal(key_out, (num_hidden, num_units, 3, num_components)),
    "out_bias_Z3K": jnp.tile(bias_3K, (num_units, 1, 1)),
  }


def _unit_nats(params, u_Z):
  """log q(u_z | u_1..u_{z-1}) of each unit of one whitened row, in nats."""
  units_Z, hidden_F = _degrees(*params["in_ZF"].shape)
  in_ZF = params["in_ZF"] * (units_Z[:, None] <= hidden_F)
  hidden_FF = params["hidden_FF"] * (hidden_F[:, None] <= hidden_F)
  out_FZ3K = params["out_FZ3K"] * (hidden_F[:, None] < units_Z)[..., None, None]
  features_F = jnp.tanh(u_Z @ in_ZF + params["in_bias_F"])
  features_F = jnp.tanh(features_F @ hidden_FF + params["hidden_bias_F"])
  out_Z3K = jnp.tensordot(features_F, out_FZ3K, 1) + params["out_bias_Z3K"]
  logits_ZK, means_ZK, log_scales_ZK = out_Z3K[:, 0], out_Z3K[:, 1], out_Z3K[:, 2]
  standard_ZK = (u_Z[:, None] - means_ZK) * jnp.exp(-log_scales_ZK)
  nats_ZK = -0.5 * standard_ZK**2 - log_scales_ZK - 0.5 * math.log(2 * math.pi)
  return jax.nn.logsumexp(jax.nn.log_softmax(logits_ZK) + nats_ZK, axis=-1)


@jax.jit
def _network_nats(params, u_NZ):
  return jax.lax.map(lambda u_Z: _unit_nats(params, u_Z).sum(), u_NZ, batch_size=256)


def _optimizer():
  family = AutoregressiveDensity
  schedule = optax.cosine_decay_schedule(family.RATE, family.NUM_STEPS)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


@jax.jit
def _train_steps(params, opt_state, train_u_NZ, keys_S):
  """As many steps of Adam as there are keys, each on rows drawn anew."""

  def loss_nats(params, u_BZ):
    return -jax.vmap(_unit_nats, (None, 0))(params, u_BZ).sum(1).mean()

  def step(carry, key):
    params, opt_state = carry
    rows_B = jax.random.randint(key, (AutoregressiveDensity.TRAIN_BATCH,), 0, len(train_u_NZ))
    grads = jax.grad(loss_nats)(params, train_u_NZ[rows_B])
    updates, opt_state = _optimizer().update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), None

  return jax.lax.scan(step, (params, opt_state), keys_S)[0]


def _train_network(params, train_u_NZ, valid_u_MZ, key):
  """Returns the parameters, among those seen, with the highest validation likelihood."""
  per_check = AutoregressiveDensity.STEPS_PER_CHECK
  num_checks = AutoregressiveDensity.NUM_STEPS // per_check
  best, best_nats = params, float(_network_nats(params, valid_u_MZ).mean())
  opt_state = _optimizer().init(params)
  for keys_S in jax.random.split(key, (num_checks, per_check)):
    params, opt_state = _train_steps(params, opt_state, train_u_NZ, keys_S)
    nats = float(_network_nats(params, valid_u_MZ).mean())
    # Also false for NaN: a diverged network is never the best.
    if nats > best_nats:
      best, best_nats = params, nats
  return best
