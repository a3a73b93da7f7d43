"""A decoder of h judged by more than its pixels: by a comparator network, and by a discriminator.

With features beside pixels its images look like those of h; with a discriminator they also look
like images. It still makes one image of each h.

Source: Johnson et al. (2016), "Perceptual losses for real-time style transfer and
super-resolution", section 3.2; Dosovitskiy & Brox (2016a), "Generating images with perceptual
similarity metrics based on deep networks" (DeePSiM), section 3.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from inversion_jax.models import decoders, gans
from inversion_jax.models.decoders import Decoder
from inversion_jax.models.gans import Discriminator


class Weights(NamedTuple):
  """Of the three losses; without the third it is a perceptual decoder, with it DeePSiM."""

  image: float
  feature: float
  adversarial: float


class JudgedDecoder(nn.Module):
  """A decoder and, for DeePSiM, its discriminator: "decoder" and "discriminator" of the parameters.

  The source's discriminator also sees h; this one is the GAN's, which sees the image alone.
  """

  decoder: Decoder
  discriminator: Discriminator | None
  num_levels: int

  def __call__(self, z, size):
    """Runs both, for initialisation."""
    images_BHWC = self.decode(z, size)
    if self.discriminator is not None:
      self.discriminate(self.levels(images_BHWC))

  def decode(self, z: Float[Array, "B *map Z"], size: tuple[int, int]) -> Float[Array, "B H W C"]:
    """Images of `size`, 0 black to 1 white, and little beyond them."""
    return self.decoder(z, size)

  def levels(self, images_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """What others see of them: whole levels."""
    levels_BHWC = images_BHWC * (self.num_levels - 1)
    return gans.whole_levels(levels_BHWC, self.num_levels)

  def discriminate(self, levels_BHWC: Float[Array, "B H W C"]) -> Float[Array, " B"]:
    """The logit of "real"."""
    return self.discriminator(levels_BHWC)[0]


def feature_loss(
  layers: Mapping[str, Float[Array, "B ..."]],
  made_layers: Mapping[str, Float[Array, "B ..."]],
  variances: Mapping[str, float],
) -> Float[Array, " B"]:
  """Squared distances at each layer of `variances`, as fractions of them; the mean over layers."""
  losses = [
    gans.conditional_loss(layers[name], made_layers[name], variance)
    for name, variance in variances.items()
  ]
  return sum(losses) / len(losses)


def loss(
  params: Any,
  batch: Mapping[str, Array],
  *,
  model: JudgedDecoder,
  layers_fn: Callable[[Array], Mapping[str, Array]],
  variances: Mapping[str, float],
  weights: Weights,
) -> tuple[Float[Array, ""], dict[str, Array]]:
  """The decoder's losses and, if there is one, its discriminator's, each with its own gradient.

  Args:
    params: of `model`.
    batch: "image", levels (B, H, W, C), and "h" as the decoder is given it.
    model: both networks.
    layers_fn: the comparator, levels to activations by name, differentiable.
    variances: of the layers to be compared.
    weights: of the losses.

  Returns:
    Their sum, and each of them before weights.
  """
  levels_BHWC = batch["image"]

  def apply(params, method, *arguments):
    return model.apply({"params": params}, *arguments, method=method)

  images_BHWC = apply(params, "decode", batch["h"], levels_BHWC.shape[1:3])
  made_BHWC = apply(params, "levels", images_BHWC)
  of_features = feature_loss(layers_fn(levels_BHWC), layers_fn(made_BHWC), variances)
  terms = {
    "image": decoders.squared_error(images_BHWC, levels_BHWC, model.num_levels).mean(),
    "feature": of_features.mean(),
  }
  total = weights.image * terms["image"] + weights.feature * terms["feature"]
  if model.discriminator is not None:
    # What belongs to the other player stands behind a `stop_gradient`, as in `gans.gan_loss`.
    fooled_B = apply(jax.lax.stop_gradient(params), "discriminate", made_BHWC)
    is_real_B = apply(params, "discriminate", levels_BHWC.astype(made_BHWC.dtype))
    is_made_real_B = apply(params, "discriminate", jax.lax.stop_gradient(made_BHWC))
    terms["adversarial"] = gans.real_loss(fooled_B).mean()
    terms["discriminator"] = gans.discriminator_loss(is_real_B, is_made_real_B)
    total += weights.adversarial * (terms["adversarial"] + terms["discriminator"])
  return total, {f"train_{name}_loss": term for name, term in terms.items()}
