"""The paper's classifiers, whose layers are inverted."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from inversion_jax.features import deconvnets
from inversion_jax.machine.errors import UserError

LAYERS_OF_KIND = {
  "conv": ("conv1", "conv2", "fc3", "logits"),
  "pool": ("conv1", "conv2", "pool", "fc3", "logits"),
  "dense": ("dense1", "dense2", "fc3", "logits"),
}


PADDINGS = ("VALID", "SAME")
NUM_CONV_LAYERS = 2


class Classifier(nn.Module):
  """Two layers, a fully connected one (fc3), and the logits.

  - kind "conv": conv1 and conv2 are convolution - ReLU - max pooling;
  - kind "pool": as "conv", then the maximum of each conv2 map over all positions;
  - kind "dense": both convolutions become fully connected layers.

  Attributes:
    kind: one of `LAYERS_OF_KIND`.
    num_classes: of the data set.
    num_levels: of a sub-pixel; images enter as levels / (num_levels - 1).
    num_filters: of conv1 and conv2.
    kernel_size, padding: of both convolutions; one of `PADDINGS`.
    pool_sizes: of the pooling after conv1 and conv2; 1 is none.
    num_dense_units: of each dense layer of kind "dense".
    num_units: of fc3.
    dropout_rate: after every layer but the last; the paper does not give it.
    backward: what its ReLUs pass back, see `deconvnets.rectifier`.

  Source: Nash et al. (2019), appendix A.
  """

  kind: str
  num_classes: int
  num_levels: int
  num_filters: Sequence[int] = (32, 32)
  kernel_size: int = 5
  padding: str = "VALID"
  pool_sizes: Sequence[int] = (2, 2)
  num_dense_units: int = 2048
  num_units: int = 256
  dropout_rate: float = 0.5
  backward: str = deconvnets.GRADIENT

  @nn.compact
  def __call__(
    self, levels_BHWC: Shaped[Array, "B H W C"], *, train: bool = False
  ) -> dict[str, Float[Array, "B ..."]]:
    """Returns the activations of every layer, by name, as the next layer sees them.

    That is after ReLU and pooling, before dropout. With `train`, dropout draws from the rng stream
    "dropout". Levels may be floats too, so that one can differentiate by them.
    """
    if self.kind not in LAYERS_OF_KIND:
      raise UserError(
        f"classifier.network.kind={self.kind!r} is not known; use one of "
        f"{', '.join(LAYERS_OF_KIND)}."
      )
    layers, relu = {}, deconvnets.rectifier(self.backward)
    x = levels_BHWC.astype(jnp.float32) / (self.num_levels - 1)

    def finish(name, activations):
      layers[name] = activations
      return nn.Dropout(self.dropout_rate, deterministic=not train)(activations)

    if self.kind == "dense":
      x = x.reshape(len(x), -1)
      for name in ("dense1", "dense2"):
        x = finish(name, relu(nn.Dense(self.num_dense_units, name=name)(x)))
    else:
      for name, features, pool in zip(
        ("conv1", "conv2"), self.num_filters, self.pool_sizes, strict=True
      ):
        x = finish(name, self._conv_layer(x, name, features, pool, relu))
      if self.kind == "pool":
        # Of the maps before dropout, whose rescaling would bias a maximum.
        x = finish("pool", layers["conv2"].max((1, 2)))
      x = x.reshape(len(x), -1)
    x = finish("fc3", relu(nn.Dense(self.num_units, name="fc3")(x)))
    layers["logits"] = nn.Dense(self.num_classes, name="logits")(x)
    return layers

  def check_images(self, image_shape: Sequence[int]):
    """Raises UserError if nothing is left of images of this shape after a layer."""
    if self.kind == "dense":
      return
    lost = self.kernel_size - 1 if self.padding == "VALID" else 0
    sizes = image_shape[:2]
    for name, pool in zip(("conv1", "conv2"), self.pool_sizes, strict=True):
      before, sizes = sizes, [(size - lost) // pool for size in sizes]
      if min(sizes) < 1 or min(before) < self.kernel_size:
        raise UserError(
          f"classifier.network.kernel_size={self.kernel_size} with padding {self.padding} and "
          f"pool_sizes {tuple(self.pool_sizes)} leave nothing of {before[0]}x{before[1]} in "
          f"{name}; choose smaller ones."
        )

  def _conv_layer(self, x, name, features, pool, relu):
    kernel = (self.kernel_size, self.kernel_size)
    x = relu(nn.Conv(features, kernel, padding=self.padding, name=name)(x))
    return nn.max_pool(x, (pool, pool), strides=(pool, pool)) if pool > 1 else x
