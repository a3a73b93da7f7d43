"""The embedded default: all four layers on the digits that ship with scikit-learn.

Some minutes on two CPU cores; no download. Expected result and time: README, first table.
"""

from inversion_jax import config as config_lib


def get_config(variant: str = ""):
  config = config_lib.preset("digits", "conv1", variant)
  config.layers = ("conv1", "conv2", "fc3", "logits")
  return config
