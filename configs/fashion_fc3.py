"""Fashion-MNIST: p(x | fc3), with the networks and settings of MNIST."""

from inversion_jax import config as config_lib


def get_config(variant: str = ""):
  return config_lib.preset("fashion", "fc3", variant)
