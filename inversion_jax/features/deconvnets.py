"""Pictures of activations by changed derivatives: the deconvnet and guided backpropagation.

A deconvnet goes from a layer back to the pixels: it puts what was pooled back where the maximum
was, rectifies, and convolves with the transposed kernels. The derivative of the layer does the same
but for the rectifier, so that the rectifier's is all that has to be changed: no second network is
written, and biases play no part, as they have none in a derivative.

Source: Zeiler & Fergus (2014), "Visualizing and understanding convolutional networks", section 2.1;
Springenberg et al. (2015), "Striving for simplicity: the all convolutional net", section 3.4.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from inversion_jax.machine import limits

GRADIENT, DECONVNET, GUIDED = "gradient", "deconvnet", "guided"
BACKWARDS = (GRADIENT, DECONVNET, GUIDED)
Choice = Callable[[Float[Array, "B ..."]], Float[Array, "B ..."]]


def rectifier(backward: str) -> Callable[[Array], Array]:
  """The ReLU whose derivative is one of `BACKWARDS`; forward all are the same.

  - "gradient": passes back what belongs to inputs above zero, the derivative itself;
  - "deconvnet": passes back what is above zero, wherever the input was;
  - "guided": passes back what is above zero and belongs to inputs above zero.

  Raises:
    UserError: another name.
  """
  limits.check_one_of("backward", backward, BACKWARDS)
  return nn.relu if backward == GRADIENT else functools.partial(_relu, backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _relu(backward, x):
  del backward
  return nn.relu(x)


def _forward(backward, x):
  return _relu(backward, x), x > 0


def _backward(backward, is_on, passed):
  passed = nn.relu(passed)
  return (jnp.where(is_on, passed, 0.0) if backward == GUIDED else passed,)


_relu.defvjp(_forward, _backward)


def whole(h: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
  """All activations of a layer."""
  return h


def one_map(channel: int) -> Choice:
  """Those of one map, at all its places; of a vector one unit."""
  return lambda h: h * (jnp.arange(h.shape[-1]) == channel)


def one_unit(*place: int) -> Choice:
  """That of one unit: (row, column, channel) of maps, (unit,) of a vector."""
  return lambda h: jnp.zeros_like(h).at[(..., *place)].set(h[(..., *place)])


def projected(
  layer_fn: Callable[[Float[Array, "B H W C"]], Float[Array, "B ..."]],
  levels_BHWC: Shaped[Array | np.ndarray, "B H W C"],
  choose: Choice = whole,
) -> Float[Array, "B H W C"]:
  """What the chosen activations become on the way back to the pixels.

  Args:
    layer_fn: images to the activations of a layer, by a network with `rectifier`s.
    levels_BHWC: images; where maxima and zeros lie in them decides the way.
    choose: sets all other activations to zero: `whole`, `one_map(...)` or `one_unit(...)`.

  Returns:
    A picture for each image, of either sign and any scale.
  """
  h, pull_back = jax.vjp(layer_fn, jnp.asarray(levels_BHWC, jnp.float32))
  return pull_back(choose(h))[0]
