import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from model_examples import READER, compiled

from inversion_jax.machine import compilation
from inversion_jax.machine.errors import UserError
from inversion_jax.models import decoders, inverters, layers, likelihoods, pixelcnn, upward
from inversion_jax.models.inverters import Inverter, amortised, from_decoder
from inversion_jax.models.widening import log_prob_widened

REPRESENTATIONS = {"none": None, "vector": (5,), "map": (3, 3, 4)}
GATED = {"architecture": "gated", "num_blocks": 2, "num_filters": 12}
READ = {kind: REPRESENTATIONS[kind] for kind in ("vector", "map")}


def tiny(
  num_colours=1,
  num_levels=5,
  z_shape=None,
  size=(8, 8),
  batch=16,
  likelihood="auto",
  **fields,
):
  """A small inverter with random parameters, images and representations."""
  likelihood = likelihoods.make(
    likelihood,
    num_levels=num_levels,
    num_colours=num_colours,
    num_components=2,
    min_log_scale=-7.0,
  )
  inverter = Inverter(likelihood, **{"num_filters": 4, "num_blocks": 1, **fields})
  keys = jax.random.split(jax.random.key(0), 3)
  images = jax.random.randint(keys[0], (batch, *size, num_colours), 0, num_levels)
  z = None if z_shape is None else jax.random.normal(keys[1], (batch, *z_shape))
  # Drawn in NumPy: compiling the real initialisation would take most of the tests' time.
  shapes = jax.eval_shape(inverter.init, keys[2], images, z)["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(0.0, 0.5, leaf.shape)), shapes)
  if "encoder" in params:
    # Not so large that the gates and the last ELU are shut to the pixels.
    params["encoder"] = jax.tree.map(lambda leaf: 0.5 * leaf, params["encoder"])
  return inverter, params, images, z


def head_fn(inverter, params, z, size):
  def head(levels):
    contexts = inverter.apply({"params": params}, z, size, method="contexts")
    return inverter.apply({"params": params}, levels, contexts, method="head")

  return compiled(head)


def nats_of(inverter, params, images, z=None):
  """The network's log-probabilities."""
  return compiled(inverter.apply)({"params": params}, images, z)


def contexts_of(inverter, params, z, size):
  """What the network is given of h at its finest scale."""
  return compiled(lambda params, z: inverter.apply({"params": params}, z, size, method="contexts"))(
    params, z
  )[0]


def causality(size, num_colours, z_shape, num_levels=5, num_pixels=None, **fields):
  """For every pixel: is its head the same when all from it on is replaced, or all before it?

  With `num_pixels` for the first and last and so many between them.
  """
  batch, size = 50, (size, size) if isinstance(size, int) else size
  inverter, params, images, z = tiny(
    num_colours, num_levels, z_shape=z_shape, size=size, batch=batch, **fields
  )
  shift = jax.random.randint(jax.random.key(9), images.shape, 0, num_levels - 2 or 1)
  other = (images + 1 + shift) % num_levels
  head = head_fn(inverter, params, z, size)
  expected = np.asarray(head(images))
  number = np.arange(size[0] * size[1]).reshape(*size, 1)
  chosen = np.unique(np.linspace(0, number.size - 1, num_pixels or number.size).astype(int))
  future_irrelevant, past_irrelevant = [], []
  for start in range(0, len(chosen), batch):
    # Each image of the batch stands for one pixel; its place in the batch is always the same.
    pixels_B = chosen[np.minimum(np.arange(start, start + batch), len(chosen) - 1)]
    is_past = number < pixels_B[:, None, None, None]
    rows, columns = np.divmod(pixels_B, size[1])
    at_pixel = (np.arange(batch), rows, columns)
    for replaced, result in (
      (jnp.where(is_past, images, other), future_irrelevant),
      (jnp.where(is_past, other, images), past_irrelevant),
    ):
      result.extend((np.asarray(head(replaced))[at_pixel] == expected[at_pixel]).all(-1))
  return np.array(future_irrelevant)[: len(chosen)], np.array(past_irrelevant)[: len(chosen)]


@pytest.mark.parametrize("z_shape", REPRESENTATIONS.values(), ids=REPRESENTATIONS)
@pytest.mark.parametrize(("size", "num_colours"), [(8, 3), (28, 1), (32, 3), (40, 1)])
@pytest.mark.usefixtures("as_users_compile")
def test_every_head_depends_on_the_past_alone_and_on_the_past(size, num_colours, z_shape):
  future_irrelevant, past_irrelevant = causality(size, num_colours, z_shape)
  assert future_irrelevant.all()
  # The first pixel has no past. Everywhere else there is a dependence on it.
  assert past_irrelevant[0]
  assert not past_irrelevant[1 : size * size].any()


@pytest.mark.parametrize("z_shape", REPRESENTATIONS.values(), ids=REPRESENTATIONS)
def test_the_gated_network_has_the_same_past(z_shape):
  future_irrelevant, past_irrelevant = causality(6, 3, z_shape, **GATED)
  assert future_irrelevant.all()
  assert past_irrelevant[0]
  assert not past_irrelevant[1:36].any()


@pytest.mark.parametrize(
  ("size", "num_colours", "z_shape"),
  [(8, 3, (5,)), (10, 1, (5,)), (8, 3, (3, 3, 4)), (10, 1, (3, 3, 4)), (10, 1, None)],
)
def test_a_reader_that_sees_all_of_h_leaves_the_order_of_the_pixels(size, num_colours, z_shape):
  future_irrelevant, past_irrelevant = causality(size, num_colours, z_shape, **READER)
  assert future_irrelevant.all()
  assert not past_irrelevant[1 : size * size].any()


# Images that are not square, or no multiple of 4, or of other colours: (size, colours, levels, h).
KINDS = {
  "30x26x3": ((30, 26), 3, 4, (4, 3, 2)),
  "17x9 binary": ((17, 9), 1, 2, (5,)),
  "64x64": ((64, 64), 1, 5, (16, 16, 2)),
  "7x10 with two colours": ((7, 10), 2, 5, None),
  "9x6 with four colours": ((9, 6), 4, 3, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_kind_are_read_in_their_order_and_have_probability_one(kind):
  size, num_colours, num_levels, z_shape = KINDS[kind]
  fields = READER | {"num_scales": 3 if kind == "30x26x3" else 2}
  future_irrelevant, past_irrelevant = causality(
    size, num_colours, z_shape, num_levels, num_pixels=100, **fields
  )
  assert future_irrelevant.all()
  assert past_irrelevant[0]
  assert not past_irrelevant[1:].any()
  inverter, params, images, z = tiny(num_colours, num_levels, z_shape, size, batch=50, **fields)
  head_HWF = head_fn(inverter, params, z, size)(images)[0]
  values = jnp.array(list(itertools.product(range(num_levels), repeat=num_colours)))
  nats = inverter.likelihood.log_prob(head_HWF[None], values[:, None, None])
  np.testing.assert_allclose(jnp.exp(nats).sum(0), np.ones(size), atol=1e-4)


def test_the_causality_test_sees_a_leak_of_one_pixel(monkeypatch):
  monkeypatch.setattr(pixelcnn, "shift_right", lambda x: x)
  future_irrelevant, _ = causality(8, 1, None)
  assert not future_irrelevant.any()


def test_the_causality_test_sees_a_leak_on_the_way_up(monkeypatch):
  def shifted(x, kernel):
    return jnp.roll(layers.double_lower(x, kernel), -1, axis=2)

  monkeypatch.setitem(layers.DOUBLINGS, "lower", shifted)
  future_irrelevant, _ = causality(8, 1, None)
  assert not future_irrelevant.all()


@pytest.mark.parametrize(
  ("z_shape", "fields"),
  [
    *((z_shape, fields) for z_shape in REPRESENTATIONS.values() for fields in ({}, READER)),
    *(((5,), GATED), ((3, 3, 4), GATED | READER)),
  ],
  ids=str,
)
@pytest.mark.parametrize("size", [(2, 2), (1, 4)])
def test_all_images_together_have_probability_one(size, z_shape, fields):
  # The sizes are no multiples of 4: padded pixels must not enter.
  inverter, params, _, z = tiny(num_levels=3, size=size, z_shape=z_shape, **fields)
  images = jnp.array(list(itertools.product(range(3), repeat=4))).reshape(-1, *size, 1)
  z = None if z is None else jnp.broadcast_to(z[:1], (len(images), *z.shape[1:]))
  nats = nats_of(inverter, params, images, z).sum((1, 2))
  assert jnp.exp(nats).sum() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("likelihood", ["categorical", "logistic_mixture"])
def test_all_colour_images_together_have_probability_one(likelihood):
  inverter, params, _, _ = tiny(num_colours=3, num_levels=2, size=(1, 3), likelihood=likelihood)
  images = jnp.array(list(itertools.product(range(2), repeat=9))).reshape(-1, 1, 3, 3)
  nats = nats_of(inverter, params, images).sum((1, 2))
  assert jnp.exp(nats).sum() == pytest.approx(1.0, abs=1e-4)


def first_pixel_sees(z_shape, **fields):
  """Which cells of a map the head of the first pixel depends on."""
  inverter, params, images, z = tiny(z_shape=z_shape, size=(16, 16), **fields)

  def first(z):
    contexts = inverter.apply({"params": params}, z, (16, 16), method="contexts")
    return inverter.apply({"params": params}, images, contexts, method="head")[:, 0, 0].sum()

  return np.abs(compiled(jax.grad(first))(z)).sum((0, 3)) > 0


def test_the_encoder_shows_the_whole_map_to_the_first_pixel_and_the_projection_a_corner():
  assert first_pixel_sees((6, 6, 4), context="encoder").all()
  seen = first_pixel_sees((6, 6, 4), context="projection")
  assert seen[0, 0]
  assert not seen[-1, -1]


def test_the_first_pixel_reads_what_lies_ahead_of_it_but_not_what_lies_far_from_it():
  seen = first_pixel_sees((16, 16, 4), num_scales=1, **READER)
  # Three 3x3 convolutions between h and the features that the pixel is given.
  assert seen[:4, :4].all()
  assert not seen[4:].any()


def test_a_vector_reaches_every_pixel():
  inverter, params, images, z = tiny(z_shape=(5,))
  expected = nats_of(inverter, params, images, z)
  changed = nats_of(inverter, params, images, z + 1.0)
  assert (expected != changed).all()


def names_of(params):
  return set(params["network"])


def test_each_stream_has_one_more_block_on_the_way_up_but_at_the_coarsest_scale():
  _, params, _, _ = tiny(num_blocks=3)
  for stream in pixelcnn.STREAMS:
    for scale, num_up in ((0, 4), (1, 4), (2, 3)):
      for way, num in (("down", 3), ("up", num_up)):
        blocks = [n for n in names_of(params) if n.startswith(f"{stream}_{way}{scale}_")]
        assert len([n for n in blocks if n.endswith("conv1")]) == num
  # On the way down the upper stream has no skip input; everything else has.
  assert "upper_down0_0_skip" not in names_of(params)
  assert {"upper_up0_0_skip", "lower_down0_0_skip"} <= names_of(params)


def test_the_paper_size_has_the_parameters_of_the_reference():
  # The removed Flax example has 46.8 million for CIFAR-10 (196 filters, 3 blocks). It omits the
  # second concat-ELU of the 9 blocks of the upper stream that have no skip input, so that their
  # conv2 (2x3, to 2 * 196 features) sees 196 features instead of 392.
  missing = 9 * 6 * 196 * (2 * 196)
  inverter = Inverter(likelihoods.LogisticMixture(), num_filters=196, num_blocks=3)
  images = jnp.zeros((1, 32, 32, 3), jnp.int32)
  shapes = jax.eval_shape(inverter.init, jax.random.key(0), images)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == pytest.approx(
    46.8e6 + missing, rel=2e-3
  )


class Recorded(pixelcnn.Ops):
  """Ops whose parts are simple enough to be written down."""

  def conv(self, name, x, features, init_scale=1.0):
    return jnp.tile(x, 4)[..., :features] * (2.0 if name.endswith("conv2") else 1.0)

  def skip(self, name, sources, features):
    return -layers.concat_elu(jnp.concatenate(sources, axis=-1))[..., :features]

  def context(self, name, scale, features):
    return jnp.arange(features, dtype=jnp.float32)

  def dropout(self, x):
    return 3.0 * x


@pytest.mark.parametrize("has_skip", [False, True])
def test_a_block_is_the_gated_residual_of_the_reference(has_skip):
  x, skip = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 2))

  def concat_elu(x):
    elu = [np.where(sign * x > 0, sign * x, np.expm1(-np.abs(x))) for sign in (1, -1)]
    return np.concatenate(elu, axis=-1)

  y = concat_elu(np.asarray(x))[..., :2]
  if has_skip:
    y = y - concat_elu(np.asarray(skip))[..., :2]
  # The second nonlinearity is there with and without a skip input; h comes after conv2.
  y = 2.0 * 3.0 * concat_elu(y) + np.arange(4)
  expected = np.asarray(x) + y[..., :2] / (1 + np.exp(-y[..., 2:]))
  result = pixelcnn.gated_block(Recorded(), "block", 0, x, (skip,) if has_skip else ())
  np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_padding_differs_from_mid_grey():
  inverter, params, _, _ = tiny(num_levels=3, size=(4, 4))
  grey = jnp.ones((1, 4, 4, 1), jnp.int32)
  head = functools.partial(inverter.apply, method="head")
  grads = compiled(jax.grad(lambda p: head({"params": p}, grey, None).sum()))(params)
  # Mid-grey is zero, as padding is: the entries could not see the image's border in it.
  assert np.abs(grads["network"]["upper_entry"]["direction"]).max() > 0


def test_dropout_acts_in_training_alone_and_follows_its_key():
  inverter, params, images, z = tiny(z_shape=(5,), dropout_rate=0.5, context_dropout_rate=0.2)

  def nats(key, train=True):
    rngs = {"dropout": jax.random.key(key)}
    apply = functools.partial(inverter.apply, train=train)
    return compiled(apply)({"params": params}, images, z, rngs=rngs)

  np.testing.assert_array_equal(nats(0), nats(0))
  assert not np.allclose(nats(0), nats(1))
  np.testing.assert_array_equal(nats(0, train=False), nats(1, train=False))


def test_bfloat16_activations_keep_float32_parameters_and_likelihood():
  inverter, params, images, z = tiny(z_shape=(3, 3, 4), dtype=jnp.bfloat16)
  nats = nats_of(inverter, params, images, z)
  assert nats.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  reference = Inverter(inverter.likelihood, num_filters=4, num_blocks=1)
  exact = nats_of(reference, params, images, z)
  np.testing.assert_allclose(nats.sum((1, 2)), exact.sum((1, 2)), rtol=0.02)
  assert not np.array_equal(nats, exact)


@pytest.mark.parametrize(
  "fields",
  [{"context": "encoder"}, READER | {"num_scales": 1}, GATED | {"context": "encoder"}],
  ids=["encoder", "decoder", "gated"],
)
def test_gradients_reach_every_parameter_and_are_finite(fields):
  inverter, params, images, z = tiny(3, z_shape=(3, 3, 4), num_levels=256, **fields)
  grads = compiled(jax.grad(lambda p: inverter.apply({"params": p}, images, z).sum()))(params)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all(), path
    assert np.abs(grad).max() > 0, path


def test_a_representation_of_a_wrong_shape_is_refused_in_a_sentence():
  with pytest.raises(UserError, match=r"a vector \(B, Z\) or a map"):
    tiny(z_shape=(3, 3))


NO_IMAGES = {
  "floats": (np.full((2, 8, 8, 1), 0.5, np.float32), "from 0 to 4, not float32; scale"),
  "truth values": (np.ones((2, 8, 8, 1), bool), "not bool"),
  "no axis of colours": (np.zeros((2, 8, 8), np.uint8), r"\(B, H, W, 1\), not \(2, 8, 8\)"),
  "one image": (np.zeros((8, 8), np.uint8), r"not \(8, 8\)"),
  "other colours": (np.zeros((2, 8, 8, 3), np.uint8), r"not \(2, 8, 8, 3\); .* num_colours"),
  "a level too high": (np.full((2, 8, 8, 1), 5, np.uint8), "not from 5 to 5; .* num_levels"),
  "a level below zero": (np.full((2, 8, 8, 1), -1, np.int32), "not from -1 to -1"),
}


def widened_log_prob(inverter, params, levels, z, multiple):
  """log p(x | h), with the reader as it is and a wider network."""
  reader, network = inverters.split(params)
  contexts = inverters.read(inverter, reader, z, (8, 8))
  return log_prob_widened(inverter, network, contexts, levels, multiple=multiple)


def scores_of(levels, inverter, params, z):
  """Each way in which a model meets images, by name, as functions without arguments."""

  def head():
    contexts = inverter.apply({"params": params}, z, (8, 8), method="contexts")
    return inverter.apply({"params": params}, levels, contexts, method="head")

  def widened():
    return widened_log_prob(inverter, params, levels, z, multiple=8)

  return {"nats": lambda: inverter.apply({"params": params}, levels, z), "head": head} | {
    "widened": widened,
    "initialisation": lambda: inverter.init(jax.random.key(0), levels, z),
  }


@pytest.mark.parametrize("to_array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("case", NO_IMAGES)
def test_what_are_no_images_are_refused_in_a_sentence(case, to_array):
  levels, sentence = NO_IMAGES[case]
  inverter, params, _, z = tiny(z_shape=(5,), batch=2)
  ways = scores_of(to_array(levels), inverter, params, z)
  for score in ways.values():
    with pytest.raises(UserError, match=sentence):
      score()


@pytest.mark.parametrize("case", list(NO_IMAGES)[:5])
def test_type_and_shape_are_refused_while_jax_traces(case):
  levels, sentence = NO_IMAGES[case]
  inverter, params, _, z = tiny(z_shape=(5,), batch=2)
  with pytest.raises(UserError, match=sentence):
    jax.eval_shape(inverter.apply, {"params": params}, levels, z)


def test_a_compiled_model_is_the_same_program_with_the_check_and_without(monkeypatch):
  inverter, params, images, _ = tiny(batch=2)

  def programs():
    apply = functools.partial(inverter.apply, {"params": params})
    return str(jax.make_jaxpr(apply)(images)), str(jax.make_jaxpr(lambda: apply(images))())

  checked = programs()
  monkeypatch.setattr(likelihoods, "check_levels", lambda *_: None)
  assert programs() == checked


def test_images_that_are_part_of_a_program_are_read_while_it_is_traced():
  inverter, params, images, _ = tiny(batch=2)
  wrong = images + 5
  with pytest.raises(UserError, match="not from 5 to 9"):
    jax.jit(lambda params: inverter.apply({"params": params}, wrong))(params)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_levels_of_any_integer_type_give_the_same_nats(dtype):
  inverter, params, images, _ = tiny(batch=2, num_scales=1)
  score = jax.jit(lambda levels: inverter.apply({"params": params}, levels))
  np.testing.assert_array_equal(score(images.astype(dtype)), score(images))


@pytest.mark.parametrize(
  ("kind", "num_scales", "fields"),
  [
    *(("vector", 3, {}), ("map", 3, {}), ("vector", 1, READER), ("map", 1, READER)),
    ("vector", 1, GATED),
  ],
  ids=str,
)
@pytest.mark.parametrize("has_places", [False, True])
def test_an_amortised_inverter_starts_as_the_unconditional_model(
  kind, num_scales, fields, has_places
):
  # A p(x) that has places as the reader does, and one of before there were any.
  marginal, marginal_params, images, _ = tiny(
    num_scales=num_scales, **fields | {"reader_places": 2 * has_places}
  )
  inverter, params, _, z = tiny(z_shape=REPRESENTATIONS[kind], num_scales=num_scales, **fields)
  started = amortised(params, marginal_params)
  assert jax.tree.structure(started) == jax.tree.structure(params)
  expected = nats_of(marginal, marginal_params, images)
  np.testing.assert_allclose(nats_of(inverter, started, images, z), expected, atol=1e-5)
  # And h can come in: the gradient of its projections is not zero.
  grads = compiled(jax.grad(lambda p: inverter.apply({"params": p}, images, z).sum()))(started)
  assert any(
    float(jnp.abs(leaf).max()) > 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
    if pixelcnn.CONTEXT in jax.tree_util.keystr(path)
  )


def test_only_a_network_of_the_same_shape_is_a_start():
  _, marginal_params, _, _ = tiny(num_filters=6)
  _, params, _, _ = tiny(z_shape=(5,))
  with pytest.raises(UserError, match="start_from"):
    amortised(params, marginal_params)


@pytest.mark.usefixtures("as_users_compile")
@pytest.mark.parametrize("kind", READ)
def test_an_inverter_with_a_reader_begins_exactly_as_the_unconditional_model(kind):
  inverter, _, images, z = tiny(z_shape=READ[kind], num_scales=1, **READER)

  def initial_nats(z):
    init = compilation.jit_once(inverter.init_with_output)
    return init(jax.random.key(0), images, z)[0]

  # Units of any size, as of one that is silent but for this image.
  np.testing.assert_array_equal(initial_nats(z.at[0].set(600.0)), initial_nats(None))


def decoder_of_the_reader(z, size, **fields):
  """A decoder of the same parts as `READER`, and its parameters."""
  settings = {"num_filters": 3, "num_units": 6, "residual": True, "taper": 2} | fields
  decoder = decoders.Decoder(1, **settings)
  shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0), z, size))["params"]
  rng = np.random.default_rng(1)
  return decoder, jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, 0.2, leaf.shape)), shapes)


@pytest.mark.parametrize("kind", READ)
def test_a_reader_that_begins_from_a_decoder_has_its_features(kind):
  # 10 is no multiple of 4: the reader's grids go on, the decoder's end with the image.
  inverter, params, _, z = tiny(z_shape=READ[kind], size=(10, 10), **READER)
  decoder, decoder_params = decoder_of_the_reader(z, (10, 10))
  started = from_decoder(params, decoder_params)
  assert jax.tree.structure(started) == jax.tree.structure(params)
  chex.assert_trees_all_equal(started["network"], params["network"])
  finest = contexts_of(inverter, started, z, (10, 10))
  # Places come before what is made of h, lines after it.
  num_features = decoder_params["image"]["kernel"].shape[2]
  finest = finest[..., READER["reader_places"] :][..., :num_features]
  assert not np.any(finest[:, 10:]) | np.any(finest[:, :, 10:])
  image = nn.Conv(1, (3, 3)).apply({"params": decoder_params["image"]}, finest[:, :10, :10])
  expected = decoder.apply({"params": decoder_params}, z, (10, 10))
  inside = np.clip(image, 0.0, 1.0)
  np.testing.assert_allclose(expected, inside + decoders.LEAK * (image - inside), atol=1e-5)


@pytest.mark.parametrize("num_z", [5, 9], ids=["narrow", "wider than the hidden layer"])
def test_every_pixel_reads_a_vector_in_straight_lines_of_its_own(num_z):
  inverter, params, _, z = tiny(z_shape=(num_z,), size=(10, 7), **READER)
  finest = contexts_of(inverter, params, z, (10, 7))
  lines = finest[:, :10, :7, -READER["reader_direct"] :]
  layers_of = params["encoder"]
  x = upward.squashed(z)
  if num_z > READER["reader_units"]:
    x = nn.Dense(READER["reader_units"]).apply({"params": layers_of["direct_units"]}, x)
  else:
    assert "direct_units" not in layers_of
  expected = x @ layers_of["direct"]["kernel"] + layers_of["direct"]["bias"]
  np.testing.assert_allclose(lines, expected.reshape(lines.shape), rtol=1e-5, atol=1e-5)


def test_inverters_of_maps_and_of_vectors_have_one_network_if_they_are_to():
  fields = READER | {"reader_even": True}
  inverter, params, images, z = tiny(z_shape=(4, 4, 3), **fields)
  _, of_vector, _, _ = tiny(z_shape=(5,), **fields)
  chex.assert_trees_all_equal_shapes(params["network"], of_vector["network"])
  plain, plain_params, _, _ = tiny(z_shape=(4, 4, 3), **READER)

  def varied(leaf):
    return leaf + jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)

  def cut(leaf, own):
    return leaf[tuple(map(slice, own.shape))]

  # Rows of the projections that read zeros change nothing, whatever stands in them.
  params = jax.tree.map(varied, params)
  plain_params = jax.tree.map(cut, params, plain_params)
  plain_rows, rows = (len(of["network"]["head_context"]["kernel"]) for of in (plain_params, params))
  assert rows == plain_rows + fields["reader_direct"]
  found = nats_of(inverter, params, images, z)
  expected = nats_of(plain, plain_params, images, z)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_map_and_the_places_are_not_read_in_straight_lines():
  _, params, _, _ = tiny(z_shape=(4, 4, 3), **READER)
  assert not any("direct" in name for name in [*params["encoder"], *params["encoder"]["place"]])


def test_a_reader_takes_from_a_decoder_what_fits_or_says_that_nothing_does():
  _, params, _, z = tiny(z_shape=(5,), **READER)
  _, other = decoder_of_the_reader(z, (8, 8), num_filters=5)
  # The dense layer, whose units have their own number.
  started = from_decoder(params, other)
  chex.assert_trees_all_equal(started["encoder"].pop("dense"), other["dense"])
  params["encoder"].pop("dense")
  chex.assert_trees_all_equal(started, params)
  _, other = decoder_of_the_reader(z, (8, 8), num_filters=5, num_units=7)
  with pytest.raises(UserError, match="no part of it has the same name and shape"):
    from_decoder(params, other)


def test_dropout_of_the_reader_acts_in_training_alone():
  inverter, params, images, z = tiny(
    z_shape=(5,), dropout_rate=0.0, reader_dropout_rate=0.5, num_scales=1, **READER
  )

  def nats(key, train=True):
    rngs = {"dropout": jax.random.key(key)}
    apply = functools.partial(inverter.apply, train=train)
    return compiled(apply)({"params": params}, images, z, rngs=rngs)

  np.testing.assert_array_equal(nats(0), nats(0))
  assert not np.allclose(nats(0), nats(1))
  np.testing.assert_array_equal(nats(0, train=False), nats(1, train=False))
  assert not np.allclose(nats(0), nats(0, train=False))


@pytest.mark.parametrize("num_colours", [1, 3])
def test_the_linear_path_moves_its_features_of_each_pixel_by_what_was_read_there(num_colours):
  inverter, params, images, z = tiny(
    num_colours, z_shape=(3, 3, 4), size=(6, 6), num_levels=256, **READER
  )
  contexts = inverter.apply({"params": params}, z, (6, 6), method="contexts")
  head = compiled(lambda p: inverter.apply({"params": p}, images, contexts, method="head"))

  kernel = params["network"].pop(pixelcnn.HEAD_CONTEXT)["kernel"]
  without = {pixelcnn.HEAD_CONTEXT: {"kernel": jnp.zeros_like(kernel)}}
  with_path = {pixelcnn.HEAD_CONTEXT: {"kernel": kernel}}
  moved = head({"network": params["network"] | with_path})
  moved -= head({"network": params["network"] | without})
  first, end = inverter.likelihood.linear_features
  expected = np.zeros(moved.shape)
  expected[..., first:end] = contexts[0][:, :6, :6] @ kernel
  np.testing.assert_allclose(moved, expected, atol=1e-4 * np.abs(expected).max())


def gradient_and_kept_bytes(remat, **fields):
  """The gradient of the nats with dropout, and the size of what it takes from the forward pass."""
  fields = {"num_scales": 2} | fields
  inverter, params, images, z = tiny(z_shape=(3,), remat=remat, **fields)

  def nats(params):
    rngs = {"dropout": jax.random.key(1)}
    return -inverter.apply({"params": params}, images, z, train=True, rngs=rngs).mean()

  kept = jax.eval_shape(lambda params: jax.vjp(nats, params)[1], params)
  return compiled(jax.grad(nats))(params), sum(leaf.size for leaf in jax.tree.leaves(kept))


def test_rematerialisation_keeps_less_for_the_same_gradient():
  expected, kept = gradient_and_kept_bytes("")
  for remat, share in (("elementwise", 0.7), ("blocks", 0.4)):
    gradient, kept_of_remat = gradient_and_kept_bytes(remat)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert kept_of_remat < share * kept


def test_rematerialisation_knows_the_reader():
  fields = READER | {"num_scales": 1}
  expected, kept = gradient_and_kept_bytes("", **fields)
  gradient, kept_of_remat = gradient_and_kept_bytes("blocks", **fields)
  chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-6)
  assert kept_of_remat < 0.6 * kept


def test_an_unknown_rematerialisation_is_named():
  with pytest.raises(UserError, match="remat='all' is not known"):
    tiny(remat="all")


@pytest.mark.parametrize(
  ("representation", "fields"),
  [
    ("none", {}),
    ("vector", {}),
    ("map", {"context": "encoder"}),
    ("map", READER | {"num_scales": 1}),
    ("vector", GATED | {"num_filters": 5}),
  ],
)
def test_wider_inside_is_the_same_function_with_the_same_gradient(representation, fields):
  inverter, params, images, z = tiny(
    num_colours=3,
    num_levels=256,
    z_shape=REPRESENTATIONS[representation],
    **{"num_filters": 5, "num_scales": 2} | fields,
  )

  def nats(params, multiple):
    return -widened_log_prob(inverter, params, images, z, multiple=multiple).sum((1, 2))

  def gradient(params, multiple):
    return compiled(jax.value_and_grad(lambda params: nats(params, multiple).mean()))(params)

  # Small parameters: with large ones, a change of 1e-7 in them moves the gradient as far as this.
  params = jax.tree.map(lambda leaf: 0.2 * leaf, params)

  def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * abs(expected).max())

  jax.tree.map(assert_close, gradient(params, 8), gradient(params, 1))
