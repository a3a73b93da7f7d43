"""The paper's rival: a generator of images given h, trained against a discriminator.

One stack of a stacked GAN, the lowest, which makes images.

Source: Huang et al. (2017), "Stacked generative adversarial networks", section 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

LEAK = 0.2  # of the discriminator's rectifiers
NUM_EMBEDDED = 128  # features that the noise becomes before it meets h, as in the source


class Generator(nn.Module):
  """(h, noise) -> an image, from a small map that is doubled `num_scales` times.

  Attributes:
    num_levels: of a sub-pixel.
    image_shape: (H, W, C).
    num_filters: of the largest maps; each smaller one has twice as many.
    num_scales: how often the map is doubled.

  The source normalises over the batch, at sampling time too; here over the features of one image,
  so that a sample does not depend on those drawn with it.
  """

  num_levels: int
  image_shape: tuple[int, int, int]
  num_filters: int
  num_scales: int

  @nn.compact
  def __call__(
    self, z: Float[Array, "B *map Z"], noise_BE: Float[Array, "B E"]
  ) -> Float[Array, "B H W C"]:
    """Returns levels between 0 and num_levels - 1, not rounded."""
    height, width, num_colours = self.image_shape
    rows, columns = (-(-size // 2**self.num_scales) for size in (height, width))
    embedded = nn.relu(nn.LayerNorm()(nn.Dense(NUM_EMBEDDED)(noise_BE)))
    x = jnp.concatenate([z.reshape(len(z), -1), embedded], axis=-1)
    features = self.num_filters * 2**self.num_scales
    x = nn.Dense(rows * columns * features)(x).reshape(-1, rows, columns, features)
    x = nn.relu(nn.LayerNorm()(x))
    for scale in reversed(range(self.num_scales)):
      x = _doubled(nn.Conv(4 * self.num_filters * 2**scale, (3, 3))(x))
      x = nn.relu(nn.LayerNorm()(x))
    x = nn.Conv(num_colours, (3, 3))(x)[:, :height, :width]
    return (self.num_levels - 1) * nn.sigmoid(x)


class Discriminator(nn.Module):
  """An image -> is it real, and from which noise was it made, by one network with two heads.

  Attributes: as of `Generator`, whose maps it walks down again; `num_units` and `num_noise` are
  those of the layer that both heads share, and of the noise; without noise there is one head.
  """

  num_levels: int
  num_filters: int
  num_scales: int
  num_units: int
  num_noise: int

  @nn.compact
  def __call__(
    self, levels_BHWC: Float[Array, "B H W C"]
  ) -> tuple[Float[Array, " B"], Float[Array, "B E"]]:
    """Returns (logit of "real", the mean of Q(noise | image))."""
    x = 2.0 * levels_BHWC / (self.num_levels - 1) - 1.0
    for scale in range(self.num_scales):
      x = nn.leaky_relu(nn.Conv(self.num_filters * 2**scale, (3, 3))(_halved(x)), LEAK)
    x = nn.leaky_relu(nn.Dense(self.num_units)(x.reshape(len(x), -1)), LEAK)
    is_real_B = nn.Dense(1, name="is_real")(x)[:, 0]
    if not self.num_noise:
      return is_real_B, jnp.zeros((len(x), 0))
    return is_real_B, nn.sigmoid(nn.Dense(self.num_noise, name="noise")(x))


def _doubled(x_BHWF: Array) -> Array:
  """Features to space, (B, 2H, 2W, F / 4): with the convolution before it a transposed one.

  Written so because the gradients of strided convolutions are slow on CPU.
  """
  batch, height, width, features = x_BHWF.shape
  blocks = x_BHWF.reshape(batch, height, width, 2, 2, features // 4)
  return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, features // 4)


def _halved(x_BHWF: Array) -> Array:
  """Space to features, (B, H / 2, W / 2, 4F), rounded up: with a convolution a strided one."""
  batch, height, width, features = x_BHWF.shape
  x_BHWF = jnp.pad(x_BHWF, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
  blocks = x_BHWF.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, features)
  return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(*blocks.shape[:2], -1, 4 * features)


class Gan(nn.Module):
  """Both networks, whose parameters are "generator" and "discriminator".

  Attributes:
    num_levels: of a sub-pixel.
    image_shape: (H, W, C).
    num_noise: numbers drawn uniformly from [0, 1] for each sample.
    num_filters, num_scales: of both networks.
    num_units: of the discriminator's last layer.
  """

  num_levels: int
  image_shape: tuple[int, int, int]
  num_noise: int = 50
  num_filters: int = 32
  num_scales: int = 2
  num_units: int = 256

  def setup(self):
    """Names the two networks."""
    sizes = (self.num_filters, self.num_scales)
    self.generator = Generator(self.num_levels, self.image_shape, *sizes)
    self.discriminator = Discriminator(self.num_levels, *sizes, self.num_units, self.num_noise)

  def __call__(self, z, noise_BE):
    """Runs both, for initialisation."""
    return self.discriminate(self.generate(z, noise_BE))

  def generate(
    self, z: Float[Array, "B *map Z"], noise_BE: Float[Array, "B E"]
  ) -> Float[Array, "B H W C"]:
    """Returns whole levels."""
    return whole_levels(self.generator(z, noise_BE), self.num_levels)

  def discriminate(
    self, levels_BHWC: Shaped[Array, "B H W C"]
  ) -> tuple[Float[Array, " B"], Float[Array, "B E"]]:
    """Returns (logit of "real", the mean of Q(noise | image))."""
    return self.discriminator(jnp.asarray(levels_BHWC, jnp.float32))


class Weights(NamedTuple):
  """Of the three losses; the source has 1, 1 and 10."""

  adversarial: float
  conditional: float
  entropy: float


def whole_levels(levels_BHWC: Float[Array, "B H W C"], num_levels: int) -> Float[Array, "B H W C"]:
  """Whole levels 0..num_levels - 1, through whose rounding gradients pass unchanged.

  Networks that saw the fractions could hide noise, or recognise a real image, in what no image can
  hold.
  """
  whole_BHWC = jnp.clip(jnp.round(levels_BHWC), 0, num_levels - 1)
  return levels_BHWC + jax.lax.stop_gradient(whole_BHWC - levels_BHWC)


def real_loss(is_real_B: Float[Array, " B"]) -> Float[Array, " B"]:
  """-log D(x) in nats: of real images for the discriminator, of made ones for the generator."""
  return optax.sigmoid_binary_cross_entropy(is_real_B, jnp.ones_like(is_real_B))


def made_loss(is_real_B: Float[Array, " B"]) -> Float[Array, " B"]:
  """-log(1 - D(x)) in nats, of made images for the discriminator."""
  return optax.sigmoid_binary_cross_entropy(is_real_B, jnp.zeros_like(is_real_B))


def discriminator_loss(
  is_real_B: Float[Array, " B"], is_made_real_B: Float[Array, " B"]
) -> Float[Array, ""]:
  """Both mistakes of the discriminator, given its logits for real images and for made ones."""
  return 0.5 * (real_loss(is_real_B).mean() + made_loss(is_made_real_B).mean())


def conditional_loss(
  h: Float[Array, "B *map Z"], made_h: Float[Array, "B *map Z"], variance: float | Array
) -> Float[Array, " B"]:
  """Squared distance of two representations, as a fraction of h's variance over images.

  The source leaves the variance out; with it one weight means the same for every layer.
  """
  return jnp.square(made_h - h).reshape(len(h), -1).mean(-1) / variance


def entropy_loss(
  noise_BE: Float[Array, "B E"], predicted_BE: Float[Array, "B E"]
) -> Float[Array, " B"]:
  """-log Q(noise | image) up to scale and constant, for a Gaussian Q of fixed spread.

  Its negative bounds the entropy of the generated images given h from below: noise that can be
  read from the image was not thrown away. Images that show nothing of it leave 1/12, the variance
  of the noise.

  Source: Huang et al. (2017), section 3.
  """
  return jnp.square(predicted_BE - noise_BE).mean(-1)


def gan_loss(
  params: Any,
  batch: dict[str, Any],
  key: Array,
  *,
  gan: Gan,
  encode_fn: Callable[[Array], Array],
  variance: float | Array,
  weights: Weights,
) -> tuple[Float[Array, ""], dict[str, Array]]:
  """The sum of both players' losses, such that each one's gradient is that of its own.

  What belongs to the other player stands behind a `stop_gradient`, so one gradient step of the
  sum is a step of both at once.

  Args:
    params: of `gan`.
    batch: "image", levels (B, H, W, C), and "h", what the generator is given of them.
    key: of the noise.
    gan: the networks.
    encode_fn: x -> h, differentiable, of float levels.
    variance: of h over images, the mean over units.
    weights: of the losses.

  Returns:
    The sum, and the three losses of the generator beside the discriminator's, before weights.
  """
  image_BHWC, z = batch["image"], batch["h"]
  noise_BE = jax.random.uniform(key, (len(z), gan.num_noise))
  made_BHWC = gan.apply({"params": params}, z, noise_BE, method="generate")

  def discriminate(params, levels_BHWC):
    return gan.apply({"params": params}, levels_BHWC, method="discriminate")

  is_real_B, predicted_BE = discriminate(jax.lax.stop_gradient(params), made_BHWC)
  terms = Weights(
    adversarial=real_loss(is_real_B).mean(),
    conditional=conditional_loss(encode_fn(image_BHWC), encode_fn(made_BHWC), variance).mean(),
    entropy=entropy_loss(noise_BE, predicted_BE).mean(),
  )
  of_generator = sum(weight * term for weight, term in zip(weights, terms, strict=True))

  is_real_B, _ = discriminate(params, image_BHWC)
  is_made_real_B, predicted_BE = discriminate(params, jax.lax.stop_gradient(made_BHWC))
  adversarial = discriminator_loss(is_real_B, is_made_real_B)
  of_discriminator = (
    weights.adversarial * adversarial
    + weights.entropy * entropy_loss(noise_BE, predicted_BE).mean()
  )
  metrics = {f"train_{name}_loss": term for name, term in terms._asdict().items()}
  return of_generator + of_discriminator, metrics | {"train_discriminator_loss": adversarial}
