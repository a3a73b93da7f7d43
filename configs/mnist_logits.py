"""MNIST: p(x | logits). Nash et al. (2019), section 5.1."""

from inversion_jax import config as config_lib


def get_config(variant: str = ""):
  return config_lib.preset("mnist", "logits", variant)
