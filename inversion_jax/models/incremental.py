"""The causal network in raster order: a pixel costs its own column of activations and no more.

The upper stream reads rows above alone, so each of its rows is computed once, whole. In the lower
stream a pixel adds to what the row above gives to it (computed for the whole row beforehand) only
the products with its left neighbour and itself. Coarser resolutions work on the rows and columns
that their strides meet; the transposed convolutions make two rows and two columns at a time, of
which the second is kept. A whole image so costs about one pass of the network.

Parameters and blocks are those of `pixelcnn`: this module says only what a convolution, a skip and
a change of resolution are for a row and for a pixel. Activations of a row are (columns, batch,
features), so that a column is contiguous. A convolution is the product of its input with all its
taps, shifted and summed afterwards: what falls on the next row or column is kept until then.

Source: Ramachandran et al. (2017), "Fast generation for convolutional autoregressive models".
"""

import collections
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from inversion_jax.models import layers
from inversion_jax.models.layers import concat_elu
from inversion_jax.models.pixelcnn import (
  CONTEXT,
  HEAD_CONTEXT,
  Ops,
  PixelCNN,
  lower_stream,
  padded_sizes,
  upper_stream,
  with_ones,
)

# (head, inputs of the pixel) -> (the pixel from -1 to 1, anything to be returned of it).
PixelFn = Callable[[Float[Array, "B F"], Any], tuple[Float[Array, "B C"], Any]]

# Columns that a kernel row or a transposed convolution reads, relative to its own.
ALL_SIDES, LEFT, RIGHT = (-1, 0, 1), (-1, 0), (0, 1)


def _gathered(taps_WBF, offsets, stride=1):
  """Sums the products of each tap over the columns stride * w + offset, zero outside the row."""
  width = len(taps_WBF)
  padded = jnp.pad(taps_WBF, ((1, 1), (0, 0), (0, 0)))
  parts = jnp.split(padded, len(offsets), axis=-1)
  shifted = (
    part[1 + offset : 1 + offset + width : stride]
    for part, offset in zip(parts, offsets, strict=True)
  )
  return sum(shifted)


def _interleaved(even_WBF, odd_WBF):
  return jnp.stack([even_WBF, odd_WBF], axis=1).reshape(-1, *even_WBF.shape[1:])


class Layer(NamedTuple):
  """Effective weights of a layer, cut before the loop into the products (in, taps * out) it makes.

  - Convolutions: with the kernel row that reads the row above, and with the one that reads its own.
  - Skips: one for each source.
  - Transposed convolutions: even and odd columns, each for two rows.
  """

  products: tuple[Array, ...]
  bias: Array | float


def _prepared(network: PixelCNN, params: Mapping, dtype: Any) -> dict[str, Layer]:
  def layer(name, leaf):
    if "kernel" in leaf:  # The projection of h, a plain dense layer.
      return Layer((leaf["kernel"].astype(dtype),), 0.0)
    kernel = layers.weight_norm_kernel(leaf["direction"], leaf["scale"]).astype(dtype)
    bias = leaf["bias"].astype(dtype)
    if "double" in name:
      even, odd = layers.SPLITS[name.partition("_")[0]](kernel)
      return Layer((even, _taps(odd) if odd.ndim == 3 else odd), jnp.tile(bias, 2))
    if name.endswith("_skip"):
      return Layer(_by_source(kernel, network.num_filters), bias)
    return Layer(tuple(_taps(row) for row in kernel), bias)

  return {name: layer(name, leaf) for name, leaf in params.items()}


def _taps(row_KIO):
  return jnp.moveaxis(row_KIO, 0, 1).reshape(row_KIO.shape[1], -1)


def _by_source(kernel, num_filters):
  # concat-ELU puts the positive parts of all sources before the negative ones.
  sources = kernel.reshape(2, -1, num_filters, kernel.shape[-1]).swapaxes(0, 1)
  return tuple(source.reshape(-1, kernel.shape[-1]) for source in sources)


class Cache(NamedTuple):
  """What a row leaves to the row below it, arrays of (columns, B, features)."""

  above: dict[str, Array]  # by convolution: the sum over the kernel row that reads the row above
  doubled: dict[int, Array]  # by resolution: the second row of a transposed convolution to it


class Row(Ops):
  """What both streams have in common over one row.

  Resolutions from `num_active` on do not meet this row: their last results are in the cache.
  """

  def __init__(self, weights: dict[str, Layer], context: Callable, cache: Cache, num_active: int):
    self.weights, self.context_of, self.num_active = weights, context, num_active
    self.cache, self.next = cache, Cache({}, {})

  def context(self, name, scale, features):
    """The bias of h for the row."""
    return self.context_of(name, scale)

  def dropout(self, x):
    """Off: sampling is not training."""
    return x

  def from_above(self, name, blank):
    """What the row above left to a convolution; `blank` above the image."""
    self.next.above[name] = self.cache.above.get(name, blank)
    return self.next.above[name]


class UpperRow(Row):
  """A row of the upper stream."""

  def conv(self, name, x, features, init_scale=1.0):
    """The 2x3 convolution."""
    (below, own), bias = self.weights[name]
    own = _gathered(x @ own, ALL_SIDES)
    out = self.from_above(name, jnp.zeros_like(own)) + own + bias
    self.next.above[name] = _gathered(x @ below, ALL_SIDES)
    return out

  def skip(self, name, sources, features):
    """The sum of each source's product."""
    products, bias = self.weights[name]
    return sum(concat_elu(x) @ w for x, w in zip(sources, products, strict=True)) + bias

  def coarser(self, scale, x, inner):
    """Computes the coarser row if it starts here, and its two finer rows; else takes the second."""
    halve = f"upper_halve{scale}"
    (below, own), bias = self.weights[halve]
    if scale + 1 >= self.num_active:
      self.next.above[halve] = _gathered(x @ below, ALL_SIDES, 2)
      return self.cache.doubled[scale]
    own = _gathered(x @ own, ALL_SIDES, 2)
    y = inner(self.from_above(halve, jnp.zeros_like(own)) + own + bias)
    (even, odd), bias = self.weights[f"upper_double{scale}"]
    doubled = _interleaved(y @ even + bias, _gathered(y @ odd, RIGHT) + bias)
    first, self.next.doubled[scale] = jnp.split(doubled, 2, axis=-1)
    return first


class LowerRowGiven(Row):
  """All that the rows above and h give to the layers of a row of the lower stream, in `given`.

  The stream runs over the row with activations that mean nothing, only so that each layer is met
  once by its name; what would depend on them is never computed.
  """

  def __init__(self, *args):
    super().__init__(*args)
    self.given = {}

  def conv(self, name, x, features, init_scale=1.0):
    """The upper row of the 2x2 kernel."""
    blank = jnp.zeros((*x.shape[:-1], features), x.dtype)
    self.given[name] = self.from_above(name, blank) + self.weights[name].bias
    return self.given[name]

  def skip(self, name, sources, features):
    """The product with the upper stream."""
    products, bias = self.weights[name]
    self.given[name] = concat_elu(sources[0]) @ products[0] + bias
    return self.given[name]

  def context(self, name, scale, features):
    """The bias of h; a vector's is the same in every column and is not given."""
    bias = super().context(name, scale, features)
    if jnp.ndim(bias) == 3:
      self.given[name] = bias
    return bias

  def coarser(self, scale, x, inner):
    """Meets the coarser layers if they are active."""
    if scale + 1 < self.num_active:
      inner(self.conv(f"lower_halve{scale}", x[::2], x.shape[-1]))
      self.next.doubled[scale] = x
    return x


class LowerPixels(Ops):
  """A group of pixels of the lower stream, one after the other: as many as one coarsest pixel.

  Attributes:
    left: by convolution, what its input in the column before gives to this one, (B, features).
    inputs: inputs of the convolutions which the row below will read, by column of the group.
    doubled: as in `Cache`, by column.
  """

  def __init__(self, row: LowerRowGiven, given, above_doubled, left):
    self.row, self.given, self.above_doubled, self.left = row, given, above_doubled, dict(left)
    self.inputs, self.doubled = collections.defaultdict(list), collections.defaultdict(list)
    self.pending, self.num_met = {}, collections.Counter()

  def given_to(self, name):
    """What the row gives to this layer in the next of its columns."""
    self.num_met[name] += 1
    return self.given[name][self.num_met[name] - 1]

  def conv(self, name, x, features, init_scale=1.0):
    """Adds the products with the left neighbour and with the pixel itself."""
    self.inputs[name].append(x)
    before = self.left[name]
    self.left[name], own = jnp.split(x @ self.row.weights[name].products[1], 2, axis=-1)
    return self.given_to(name) + before + own

  def skip(self, name, sources, features):
    """Adds the product with the pixel's own features to that with the upper stream's."""
    own = zip(sources[1:], self.row.weights[name].products[1:], strict=True)
    return sum((concat_elu(x) @ w for x, w in own), self.given_to(name))

  def context(self, name, scale, features):
    """The bias of h."""
    return self.given_to(name) if name in self.given else self.row.context_of(name, scale)

  def dropout(self, x):
    """Off: sampling is not training."""
    return x

  def coarser(self, scale, x, inner):
    """Computes the coarser pixel in the first of its two columns, and its four finer pixels."""
    halve = f"lower_halve{scale}"
    if scale + 1 >= self.row.num_active:
      self.inputs[halve].append(x)
      return self.above_doubled[scale][0]  # At this resolution the group is a single pixel.
    to_right, own = jnp.split(self.row.weights[halve].products[1], 2, axis=-1)
    if scale in self.pending:
      self.left[halve] = x @ to_right
      return self.pending.pop(scale)
    y = inner(self.given_to(halve) + self.left[halve] + x @ own)
    (even, odd), bias = self.row.weights[f"lower_double{scale}"]
    first, second_row_even = jnp.split(y @ even + bias, 2, axis=-1)
    self.pending[scale], second_row_odd = jnp.split(y @ odd + bias, 2, axis=-1)
    self.doubled[scale] += [second_row_even, second_row_odd]
    return first


class _Network:
  """The network and h, with all that does not change from row to row computed."""

  def __init__(self, network: PixelCNN, params, contexts, dtype):
    self.network, self.contexts = network, contexts
    self.weights = _prepared(network, params, dtype)
    self.is_map = contexts is not None and contexts[0].ndim == 4
    if self.is_map:
      self.contexts = tuple(jnp.moveaxis(maps, 0, 2) for maps in contexts)
    elif contexts is not None:
      self.vector_biases = {
        name: contexts[0] @ layer.products[0]
        for name, layer in self.weights.items()
        if name.endswith(CONTEXT)
      }

  def context_fn(self, row):
    """`context(name, scale)`: the bias of h for the columns of `row`."""

    def context(name, scale):
      if self.contexts is None:
        return 0.0
      if not self.is_map:
        return self.vector_biases[name]
      row_WBZ = lax.dynamic_index_in_dim(self.contexts[scale], row >> scale, keepdims=False)
      return row_WBZ @ self.weights[name].products[0]

    return context

  def entries(self, row, above_2WBC):
    """What the two rows above give to the entries of the upper and the lower stream."""
    nearer = above_2WBC[1]
    products, bias = self.weights["upper_entry"]
    upper = bias + sum(
      _gathered(x @ product, ALL_SIDES) for x, product in zip(above_2WBC, products, strict=True)
    )
    (product,), bias = self.weights["lower_entry_above"]
    lower = _gathered(nearer @ product, ALL_SIDES) + bias
    (product, _), bias = self.weights["lower_entry_left"]
    left = jnp.pad((nearer @ product + bias)[:-1], ((1, 0), (0, 0), (0, 0)))
    # The shift after the convolution leaves the first row without even its bias.
    return jnp.where(row > 0, upper, 0), jnp.where(row > 0, lower, 0) + left

  def rows(self, row, above_2WBC, caches, num_active):
    """The upper stream of a row, and what the lower stream is given before its first pixel."""
    context = self.context_fn(row)
    upper_entry, lower_entry = self.entries(row, above_2WBC)
    upper = UpperRow(self.weights, context, caches["upper"], num_active)
    above = upper_stream(upper, upper_entry, self.network.depth)
    lower = LowerRowGiven(self.weights, context, caches["lower"], num_active)
    lower_stream(lower, lower_entry, above, self.network.depth)
    lower.given["entry"] = lower_entry
    if HEAD_CONTEXT in self.weights:
      lower.given[HEAD_CONTEXT] = context(HEAD_CONTEXT, 0)
    return upper, lower, above

  def pixels(self, lower: LowerRowGiven, above, inputs, pixel_fn, blank_BC):
    """Goes through the columns of a row; `inputs` are those of `pixel_fn`, by column.

    Returns:
      The cache that the lower stream leaves, the pixels, and what `pixel_fn` returned of them.
    """
    coarsest = lower.num_active - 1
    num_groups = len(lower.given["entry"]) >> coarsest
    above_doubled = {scale: x for scale, x in lower.cache.doubled.items() if scale == coarsest}
    columns = (lower.given, above_doubled, inputs)
    grouped = jax.tree.map(lambda x: x.reshape(num_groups, -1, *x.shape[1:]), columns)
    # In one order, so that every process has the same program, and one is kept for all.
    convs = sorted(lower.given.keys() & lower.next.above.keys())
    left = {name: jnp.zeros_like(lower.given[name][0]) for name in convs}

    def run_group(carry, xs):
      left, pixel_BC = carry
      given, above_doubled, inputs = xs
      ops = LowerPixels(lower, given, above_doubled, left)
      pixels, outputs = [], []
      for column in range(2**coarsest):
        head_BF = self.head(ops, given["entry"][column], pixel_BC, above)
        if HEAD_CONTEXT in given:
          first, end = self.network.linear_features
          head_BF = head_BF.at[:, first:end].add(given[HEAD_CONTEXT][column])
        unit_BC, output = pixel_fn(head_BF, jax.tree.map(operator.itemgetter(column), inputs))
        pixel_BC = with_ones(unit_BC.astype(blank_BC.dtype))
        pixels.append(pixel_BC)
        outputs.append(output)
      outputs = jax.tree.map(lambda *x: jnp.stack(x), *outputs)
      emitted = (_stacked(ops.inputs), _stacked(ops.doubled), jnp.stack(pixels), outputs)
      return (ops.left, pixel_BC), emitted

    _, emitted = lax.scan(run_group, (left, blank_BC), grouped)
    emitted = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), emitted)
    inputs, doubled, pixels_WBC, outputs = emitted
    given_below = {name: self.given_below(name, x_WBF) for name, x_WBF in inputs.items()}
    return Cache(given_below, doubled), pixels_WBC, outputs

  def head(self, ops: LowerPixels, entry_BF, left_pixel_BC, above):
    """The head of the next pixel of the group."""
    (_, from_left), _ = self.weights["lower_entry_left"]
    (to_head,), bias = self.weights["head"]
    last_BF = lower_stream(ops, entry_BF + left_pixel_BC @ from_left, above, self.network.depth)
    return (layers.elu(last_BF) @ to_head + bias).astype(jnp.float32)

  def given_below(self, name, x_WBF):
    """What the inputs of a convolution of the lower stream give to the row below."""
    return _gathered(x_WBF @ self.weights[name].products[0], LEFT, 2 if "halve" in name else 1)

  def caches(self, above_2WBC):
    """The caches above the first row: zeros."""

    def first_row():
      empty = {"upper": Cache({}, {}), "lower": Cache({}, {})}
      upper, lower, _ = self.rows(0, above_2WBC, empty, self.network.num_scales)
      return {"upper": upper.next, "lower": lower.next}

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(first_row))


def _stacked(lists):
  return {name: jnp.stack(columns) for name, columns in lists.items()}


def _updated(cache: Cache, new: Cache) -> Cache:
  return Cache(cache.above | new.above, cache.doubled | new.doubled)


def raster(
  network: PixelCNN,
  params: Mapping[str, Any],
  contexts: tuple[Array, ...] | None,
  pixel_fn: PixelFn,
  inputs_fn: Callable[[Int[Array, ""]], Any],
  *,
  size: tuple[int, int],
  batch_size: int,
  dtype: Any = jnp.float32,
) -> Any:
  """Visits every pixel in raster order with its head, and lets `pixel_fn` say what the pixel is.

  Args:
    network: the network.
    params: its parameters.
    contexts: what h gives to each resolution, as for `PixelCNN`.
    pixel_fn: gets the head (B, F), float32, and the inputs of the pixel; returns the pixel from -1
      to 1, (B, C), and any arrays, which are collected.
    inputs_fn: the inputs of a row's pixels, arrays with columns first.
    size: rows, columns.
    batch_size: B.
    dtype: of the activations.

  Returns:
    What `pixel_fn` returned of each pixel, each array with rows and columns first.
  """
  height, width = size
  _, padded_width = padded_sizes(height, width, network.num_scales)[0]
  num_inputs = params["upper_entry"]["direction"].shape[2]
  fixed = _Network(network, params, contexts, dtype)

  def padded(x):
    return jnp.pad(x, ((0, padded_width - width), *((0, 0),) * (x.ndim - 1)))

  def row_fn(num_active, state, row, inputs):
    above_2WBC, caches = state
    upper, lower, above = fixed.rows(row, above_2WBC, caches, num_active)
    blank_BC = jnp.zeros_like(above_2WBC[0, 0])
    cache, pixels_WBC, outputs = fixed.pixels(lower, above, inputs, pixel_fn, blank_BC)
    caches = {
      "upper": _updated(caches["upper"], upper.next),
      "lower": _updated(caches["lower"], cache),
    }
    # The network never sees anything but zeros outside the image.
    pixels_WBC = padded(pixels_WBC[:width])
    return (jnp.stack([above_2WBC[1], pixels_WBC]), caches), outputs

  branches = [functools.partial(row_fn, num) for num in range(1, network.num_scales + 1)]

  def step(state, row):
    inputs = jax.tree.map(padded, inputs_fn(row))
    num_coarser = sum((row % 2**scale == 0).astype(int) for scale in range(1, network.num_scales))
    return lax.switch(num_coarser, branches, state, row, inputs)

  above_2WBC = jnp.zeros((2, padded_width, batch_size, num_inputs), dtype)
  state = (above_2WBC, fixed.caches(above_2WBC))
  _, outputs = lax.scan(step, state, jnp.arange(height))
  return jax.tree.map(lambda x: x[:, :width], outputs)
