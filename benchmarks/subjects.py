"""What the benchmarks measure and on what: the fields of an untrained model, the device."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from inversion_jax import config
from inversion_jax.machine import compilation
from inversion_jax.models import likelihoods
from inversion_jax.models.inverters import Inverter

FLAGS = flags.FLAGS
flags.DEFINE_integer("height", 32, "Rows of the images.")
flags.DEFINE_integer("width", 32, "Columns of the images.")
flags.DEFINE_integer("channels", 3, "1 (categorical) or 3 (logistic mixture).")
flags.DEFINE_integer("filters", 64, "Channels of every feature map.")
flags.DEFINE_integer("blocks", 3, "Residual blocks for each resolution and direction.")
flags.DEFINE_integer("batch", 16, "Images at a time.")
flags.DEFINE_list("layer_shape", [], "Shape of h, as 128 or 5,5,128; none for p(x).")
flags.DEFINE_enum("dtype", "float32", config.DTYPES, "Type of the activations.")


def inverter(**fields: Any) -> Inverter:
  """The model of the flags; `fields` replace some of its attributes."""
  likelihood = likelihoods.make(
    "auto", num_levels=256, num_colours=FLAGS.channels, num_components=10, min_log_scale=-7.0
  )
  fields = {"num_filters": FLAGS.filters, "num_blocks": FLAGS.blocks} | fields
  return Inverter(likelihood, dtype=jnp.dtype(FLAGS.dtype), **fields)


def noise(size: tuple[int, int], batch_size: int) -> tuple[np.ndarray, np.ndarray | None]:
  """Images (uint8) and h in the shapes of the flags."""
  rng = np.random.default_rng(0)
  shape = tuple(int(length) for length in FLAGS.layer_shape)
  z = rng.normal(size=(batch_size, *shape)).astype(np.float32) if shape else None
  return rng.integers(0, 256, (batch_size, *size, FLAGS.channels)).astype(np.uint8), z


def initialised(model: Inverter, levels_BHWC: np.ndarray, z: np.ndarray | None) -> Any:
  """The parameters after the data-dependent initialisation."""
  return compilation.jit_once(model.init)(jax.random.key(0), levels_BHWC, z)["params"]


def device_name() -> str:
  """The devices, and on a CPU its cores."""
  device = f"{jax.devices()[0].device_kind} x{jax.device_count()}"
  if jax.default_backend() == "cpu":
    device += f", {os.cpu_count()} cores"
  return device
