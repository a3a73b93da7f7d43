"""Fashion-MNIST: the unconditional model p(x), which estimates H(x)."""

from inversion_jax import config as config_lib


def get_config(variant: str = ""):
  return config_lib.preset("fashion", variant=variant)
