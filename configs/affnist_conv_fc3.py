"""affNIST: p(x | fc3) of the network with two convolutional layers.

Nash et al. (2019), section 5.2.
"""

from inversion_jax import config as config_lib


def get_config(variant: str = ""):
  return config_lib.preset("affnist", "fc3", variant, kind="conv")
