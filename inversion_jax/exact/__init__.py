"""A suite where the true mutual information is known: `python -m inversion_jax.exact`."""
