"""Images and features of your own, from a file: --config.data.name=mine.npz.

The file holds `x`, uint8 levels (N, H, W, C), and `h`, (N, ...); `labels` and `sources` if known.
"""

from inversion_jax import config as config_lib


def get_config(variant: str = ""):
  return config_lib.preset("features", config_lib.STORED_LAYER, variant)
