"""What per-image nats say: means, errors, comparisons, and other estimators."""

from inversion_jax.information.statistics import (
  LEVEL,
  Difference,
  Estimate,
  all_differences,
  bits_per_dim,
  difference_over_seeds,
  mean_over_seeds,
  mean_with_error,
  paired_difference,
  reservation,
  verdict,
)

__all__ = [
  "LEVEL",
  "Difference",
  "Estimate",
  "all_differences",
  "bits_per_dim",
  "difference_over_seeds",
  "mean_over_seeds",
  "mean_with_error",
  "paired_difference",
  "reservation",
  "verdict",
]
