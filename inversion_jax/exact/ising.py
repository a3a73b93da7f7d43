"""The Ising model on a small square with free edges, exactly: by transfer matrices over its rows.

p(x) is proportional to exp(coupling * sum of products of neighbouring spins), x in {-1, 1}.

Source: Kramers & Wannier (1941); L. Onsager (1944), for the transfer matrix.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

FloatArray = np.ndarray


def row_states(width: int) -> Float[FloatArray, "S W"]:
  """All rows of spins, -1 or 1: S = 2 ** width."""
  bits = np.arange(2**width)[:, None] >> np.arange(width) & 1
  return 2.0 * bits - 1.0


class Ising:
  """A square of `side` x `side` spins, of which the frame may be given."""

  def __init__(self, side: int, coupling: float):
    self.side, self.coupling = side, coupling
    self.states = row_states(side)
    self.within_S = coupling * (self.states[:, 1:] * self.states[:, :-1]).sum(1)
    self.between_SS = coupling * self.states @ self.states.T
    self.below_HS = self._sums_below()
    self.log_partition = logsumexp(self.within_S + self.below_HS[0])

  def _sums_below(self):
    """log of the summed weights of all rows below row i, given row i."""
    below = [np.zeros(len(self.states))]
    for _ in range(self.side - 1):
      below.append(logsumexp(self.between_SS + self.within_S + below[-1], axis=1))
    return np.stack(below[::-1])

  def log_weight(self, spins_NHW: FloatArray) -> Float[FloatArray, " N"]:
    """coupling * sum over neighbours; log p(x) is this minus `log_partition`."""
    across = (spins_NHW[:, :, 1:] * spins_NHW[:, :, :-1]).sum((1, 2))
    down = (spins_NHW[:, 1:] * spins_NHW[:, :-1]).sum((1, 2))
    return self.coupling * (across + down)

  def sample(self, rng: np.random.Generator, num_images: int) -> Float[FloatArray, "N H W"]:
    """Independent exact samples, row after row."""
    rows = []
    for row in range(self.side):
      logits = np.broadcast_to(self.within_S + self.below_HS[row], (num_images, len(self.states)))
      if rows:
        logits = logits + self.between_SS[rows[-1]]
      rows.append(np.argmax(logits + rng.gumbel(size=logits.shape), axis=1))
    return self.states[np.stack(rows, axis=1)]

  def entropy(self, step: float = 1e-5) -> float:
    """H(x) in nats: log Z - coupling * d log Z / d coupling."""
    above, below = (Ising(self.side, self.coupling + sign * step).log_partition for sign in (1, -1))
    return self.log_partition - self.coupling * (above - below) / (2 * step)

  def log_partition_given_frame(self, spins_NHW: FloatArray) -> Float[FloatArray, " N"]:
    """log of the summed weights of all squares with the outer frame of these."""
    inner = row_states(self.side - 2)
    pad = np.zeros((len(inner), 1))
    inner = np.concatenate([pad, inner, pad], axis=1)
    within_S = self.coupling * (inner[:, 1:] * inner[:, :-1]).sum(1)
    between_SS = self.coupling * inner @ inner.T
    top, bottom, sides = spins_NHW[:, 0], spins_NHW[:, -1], spins_NHW[:, 1:-1][:, :, [0, -1]]
    fixed = self.coupling * (
      (spins_NHW[:, 1:, [0, -1]] * spins_NHW[:, :-1, [0, -1]]).sum((1, 2))
      + (top[:, 1:] * top[:, :-1] + bottom[:, 1:] * bottom[:, :-1]).sum(1)
    )
    total_NS = self.coupling * top @ inner.T
    for row in range(self.side - 2):
      beside_NS = self.coupling * sides[:, row] @ inner[:, [1, -2]].T
      total_NS = total_NS + within_S + beside_NS
      if row < self.side - 3:
        total_NS = _log_product(total_NS, between_SS)
    return fixed + logsumexp(total_NS + self.coupling * bottom @ inner.T, axis=1)


def _log_product(log_NS, log_SS):
  """log(exp(a) @ exp(b)), scaled so that nothing overflows."""
  peak_N = log_NS.max(1, keepdims=True)
  return np.log(np.exp(log_NS - peak_N) @ np.exp(log_SS)) + peak_N
