"""What the benchmarks measure and on what: the fields of an untrained model, the device."""

import os
from typing import Any

import jax
import numpy as np
from absl import flags

from inversion_jax import inversion
from inversion_jax.features.pairs import Pairs, pairs
from inversion_jax.fitting import sessions
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.inversion import Network

FLAGS = flags.FLAGS
flags.DEFINE_integer("height", 32, "Rows of the images.")
flags.DEFINE_integer("width", 32, "Columns of the images.")
flags.DEFINE_integer("channels", 3, "1 (categorical) or 3 (logistic mixture).")
flags.DEFINE_integer("filters", 64, "Channels of every feature map.")
flags.DEFINE_integer("blocks", 3, "Residual blocks for each resolution and direction.")
flags.DEFINE_integer("batch", 16, "Images at a time.")
flags.DEFINE_list("layer_shape", [], "Shape of h, as 128 or 5,5,128; none for p(x).")
flags.DEFINE_enum("dtype", "float32", inversion.DTYPES, "Type of the activations.")


def network(**fields: Any) -> Network:
  """The network of the flags; `fields` replace some of it."""
  fields = {"num_filters": FLAGS.filters, "num_blocks": FLAGS.blocks} | fields
  return Network(dtype=FLAGS.dtype, **fields)


def noise(size: tuple[int, int], batch_size: int) -> Pairs:
  """Images and h in the shapes of the flags."""
  rng = np.random.default_rng(0)
  shape = tuple(int(length) for length in FLAGS.layer_shape)
  h = rng.normal(size=(batch_size, *shape)).astype(np.float32) if shape else None
  images = rng.integers(0, 256, (batch_size, *size, FLAGS.channels)).astype(np.uint8)
  return pairs(images, h, num_levels=256)


def untrained(of: Pairs, model: Network) -> tuple[sessions.Subject, TrainState]:
  """What training the network on these pairs is, and its first state."""
  learnt = inversion.subject(of, of, model)
  return learnt, sessions.initial_state(learnt, Recipe(), jax.random.key(0))


def device_name() -> str:
  """The devices, and on a CPU its cores."""
  device = f"{jax.devices()[0].device_kind} x{jax.device_count()}"
  if jax.default_backend() == "cpu":
    device += f", {os.cpu_count()} cores"
  return device
