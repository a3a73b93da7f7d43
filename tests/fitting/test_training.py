import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inversion_jax.fitting import training
from inversion_jax.fitting.chains import Chain
from inversion_jax.fitting.steps import Step
from inversion_jax.fitting.training import Recipe
from inversion_jax.machine import placement
from inversion_jax.machine.errors import UserError

ROOT_KEY = jax.random.key(0)


def quadratic(params, batch, key):
  del key
  return jnp.square(params["w"] - batch).mean(), {}


def fit(recipe, *, loss_fn=quadratic, batch_fn=lambda step: 3.0, state=None, start_loss=100.0):
  logged, validated = [], []
  state = state or training.initial_state({"w": jnp.zeros(())}, recipe.optimizer())
  step_fn = functools.partial(
    training.train_step, loss_fn=loss_fn, recipe=recipe, root_key=ROOT_KEY
  )
  state = training.fit(
    state,
    step_fn=jax.jit(step_fn),
    batch_fn=batch_fn,
    recipe=recipe,
    start_loss=start_loss,
    milestones=(3,),
    on_log=lambda step, values: logged.append((step, values)),
    on_validate=lambda step, state: validated.append(step) or step >= 8,
    on_stop=lambda *_: None,
  )
  return state, logged, validated


RECIPE = Recipe(num_steps=10, learning_rate=0.1, log_every=2, validate_every=4, ema_decay=0.9)


def test_a_step_is_adam_and_the_average_follows():
  state, logged, _ = fit(Recipe(num_steps=2, learning_rate=0.1, ema_decay=0.9, decay="none"))
  adam, params = optax.adam(0.1), jnp.zeros(())
  opt_state, ema = adam.init(params), 0.0
  for step in range(2):
    updates, opt_state = adam.update(2 * (params - 3.0), opt_state)
    params = params + updates
    decay = min(0.9, (1 + step) / (10 + step))
    ema = decay * ema + (1 - decay) * float(params)
  assert float(state.params["w"]) == pytest.approx(float(params), rel=1e-6)
  assert float(state.ema_params["w"]) == pytest.approx(ema, rel=1e-5)
  step, values = logged[-1]
  assert step == 2
  assert values["grad_norm"] == pytest.approx(5.8, rel=1e-3)
  assert values["learning_rate"] == pytest.approx(0.1)


def test_steps_of_other_seeds_are_one_program():
  def noisy(params, batch, key):
    return jnp.square(params["w"] - batch - jax.random.normal(key)).mean(), {}

  state = training.initial_state({"w": jnp.zeros(())}, RECIPE.optimizer())
  steps = [Step(noisy, RECIPE, jax.random.key(seed)) for seed in (0, 1)]
  programs = {
    step._gradient._program.lower((step.root_key, state.step), state.params, 3.0, 0).as_text()
    for step in steps
  }
  assert len(programs) == 1
  losses = [float(step(state, 3.0)[1]["train_nats_per_image"]) for step in steps[:1]]
  state = training.initial_state({"w": jnp.zeros(())}, RECIPE.optimizer())
  losses += [float(step(state, 3.0)[1]["train_nats_per_image"]) for step in steps[1:]]
  assert losses[0] != losses[1]


def test_the_loop_logs_validates_and_stops_when_told():
  state, logged, validated = fit(RECIPE)
  assert validated == [3, 4, 8]
  assert [step for step, _ in logged] == [2, 3, 4, 6, 8]
  assert int(state.step) == 8


def test_decay_presets_leave_the_rate_that_their_source_says():
  def left(decay):
    return float(Recipe(learning_rate=1.0, decay=decay).rate_at(250_000))

  assert left("paper") == pytest.approx(1.4e-11, rel=0.05)
  assert left("openai") == pytest.approx(np.exp(-1.25), rel=1e-2)
  assert left("none") == 1.0
  assert left("cosine") == pytest.approx(0.0, abs=1e-6)


def test_the_rate_rises_linearly_and_is_then_what_it_would_have_been():
  plain = Recipe(learning_rate=1.0, decay="cosine", num_steps=100)
  warm = dataclasses.replace(plain, warmup_steps=4)
  ratios = [float(warm.rate_at(step) / plain.rate_at(step)) for step in range(6)]
  np.testing.assert_allclose(ratios, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def layers_of(value):
  """Parameters under the names that our networks give them."""
  return {
    "conv": {
      "direction": jnp.full((2, 3, 4, 5), value),
      "scale": jnp.full(5, value),
      "bias": jnp.full(5, value),
    },
    "dense": {"kernel": jnp.full((4, 6), value), "bias": jnp.full(6, value)},
  }


def updates_of(recipe, grads, value=1.0):
  params, optimizer = layers_of(value), recipe.optimizer()
  return optimizer.update(grads, optimizer.init(params), params)[0]


def random_grads():
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), layers_of(0.0))


def test_what_is_off_leaves_no_trace_in_the_state():
  params = layers_of(1.0)
  recipe = Recipe(warmup_steps=10)
  expected = optax.adam(recipe.rate_at, 0.9, 0.999).init(params)
  chex.assert_trees_all_equal(recipe.optimizer().init(params), expected)
  assert jax.tree.structure(Recipe(clip_norm=1.0).optimizer().init(params)) != (
    jax.tree.structure(expected)
  )


def test_kernels_alone_decay_and_by_a_share_of_themselves():
  recipe = Recipe(learning_rate=0.1, decay="none", weight_decay=0.2)
  still = jax.tree.map(jnp.zeros_like, layers_of(0.0))
  updates = updates_of(recipe, still, value=3.0)
  np.testing.assert_allclose(updates["dense"].pop("kernel"), -0.1 * 0.2 * 3.0, rtol=1e-6)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))


def test_clipping_scales_the_whole_gradient_to_its_norm():
  # Adam does not see the scale of its gradients at the first step; at the second it does.
  def second_update(recipe, sizes):
    state = training.initial_state({"w": jnp.zeros(())}, recipe.optimizer())
    opt_state = state.opt_state
    for size in sizes:
      updates, opt_state = recipe.optimizer().update({"w": jnp.float32(size)}, opt_state)
    return float(updates["w"])

  plain = Recipe(learning_rate=0.1, decay="none")
  clipped = dataclasses.replace(plain, clip_norm=1.0)
  expected = pytest.approx(second_update(plain, (0.5, 1.0)), rel=1e-5)
  assert second_update(clipped, (0.5, 1e4)) == expected
  assert second_update(plain, (0.5, 1e4)) != expected


def test_muon_makes_the_update_of_every_kernel_orthogonal_and_of_its_size():
  # Outputs whose gradients differ by a factor of 100.
  grads = jax.tree.map(lambda leaf: leaf * jnp.geomspace(1, 100, leaf.shape[-1]), random_grads())
  updates = updates_of(Recipe(learning_rate=0.1, decay="none", algorithm="muon"), grads)
  rms = {"direction": training.DIRECTION_RMS, "kernel": training.MUON_RMS}
  for layer, name in (("conv", "direction"), ("dense", "kernel")):
    update = np.asarray(updates[layer][name])
    values = np.linalg.svd(update.reshape(-1, update.shape[-1]), compute_uv=False)
    assert values.max() < 2.0 * values.min()
    assert np.sqrt(np.square(update).mean()) == pytest.approx(0.1 * rms[name], rel=0.3)
  # Biases and scales are left to Adam, with Nesterov's momentum.
  adam = optax.adam(0.1, nesterov=True)
  expected, _ = adam.update(grads, adam.init(grads))
  for layer, name in (("conv", "scale"), ("conv", "bias"), ("dense", "bias")):
    np.testing.assert_allclose(updates[layer][name], expected[layer][name], rtol=1e-5)


def test_muon_leaves_wide_dense_layers_to_adam():
  rng = np.random.default_rng(0)
  wide = training.MUON_MAX_UNITS + 1
  shapes = {"wide": {"kernel": (wide, wide)}, "narrow": {"kernel": (wide, wide - 1)}}
  shapes["conv"] = {"kernel": (1, 1, wide, wide)}
  grads = jax.tree.map(
    lambda shape: jnp.float32(rng.normal(size=shape)), shapes, is_leaf=lambda x: type(x) is tuple
  )
  muon = Recipe(learning_rate=0.1, decay="none", algorithm="muon").optimizer()
  updates, _ = muon.update(grads, muon.init(grads), grads)
  adam = optax.adam(0.1, nesterov=True)
  expected, _ = adam.update(grads, adam.init(grads))
  as_adam = jax.tree.map(lambda x, y: bool(np.allclose(x, y, rtol=1e-4)), updates, expected)
  assert as_adam == {
    "wide": {"kernel": True},
    "narrow": {"kernel": False},
    "conv": {"kernel": False},
  }


def test_unknown_algorithms_are_named():
  with pytest.raises(UserError, match="algorithm='sgd' is not one of 'adam', 'muon'"):
    Recipe(algorithm="sgd")


@pytest.mark.parametrize(
  ("bad", "words"), [(jnp.nan, "loss is nan"), (1e4, "after 100 at the start")]
)
def test_a_loss_beyond_return_stops_with_a_sentence(bad, words):
  with pytest.raises(UserError, match=f"diverged at step 6: .*{words}.*learning_rate"):
    fit(RECIPE, batch_fn=lambda step: bad if step >= 4 else 3.0)


def test_streams_of_keys_differ_by_name_and_step_and_repeat():
  draws = {
    (stream, step): float(jax.random.uniform(training.key_for(ROOT_KEY, stream, step)))
    for stream in ("dropout", "sample")
    for step in (0, 1)
  }
  assert len(set(draws.values())) == 4
  again = training.key_for(ROOT_KEY, "sample", 1)
  assert float(jax.random.uniform(again)) == draws["sample", 1]


def test_the_dropout_key_is_a_function_of_the_step():
  def noisy(params, batch, key):
    return params["w"] * jax.random.normal(key), {}

  straight, logged, _ = fit(RECIPE, loss_fn=noisy)
  slopes = [values["grad_norm"] for _, values in logged]
  assert len(set(slopes)) == len(slopes)
  half, _, _ = fit(Recipe(**{**RECIPE.__dict__, "num_steps": 4}), loss_fn=noisy)
  resumed, _, _ = fit(RECIPE, loss_fn=noisy, state=half)
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)


def weighted(params, batch, key):
  """A loss that is a mean over the batch, and metrics that show what it was given."""
  nats_B = jnp.square(batch["x"] @ params["w"] - batch["y"])
  return nats_B.mean(), {"noise": jax.random.uniform(key), "first": batch["y"][0]}


def steppable(num_microbatches, loss_fn=weighted):
  recipe = Recipe(batch_size=12, num_microbatches=num_microbatches, learning_rate=0.1)
  rng = np.random.default_rng(0)
  batch = {"x": rng.normal(size=(12, 3)), "y": np.arange(12.0)}
  batch = placement.put_batch(jax.tree.map(np.float32, batch))
  state = training.initial_state({"w": jnp.ones(3)}, recipe.optimizer())
  state = placement.put(state, placement.data_parallel()[1])
  return Step(loss_fn, recipe, ROOT_KEY), state, batch


def stepped(num_microbatches, loss_fn=weighted, num_steps=3):
  step, state, batch = steppable(num_microbatches, loss_fn)
  num_bytes = step.memory_bytes(state, batch)
  for _ in range(num_steps):
    state, metrics = step(state, batch)
  return state, metrics, num_bytes


def test_the_two_programs_of_a_step_take_the_step_of_one():
  recipe = Recipe(batch_size=12, learning_rate=0.1)
  batch = {"x": jnp.arange(36.0).reshape(12, 3) / 36, "y": jnp.arange(12.0)}
  state = training.initial_state({"w": jnp.ones(3)}, recipe.optimizer())
  settings = {"recipe": recipe, "root_key": ROOT_KEY}
  expected = training.train_step(state, batch, loss_fn=weighted, **settings)
  found = Step(weighted, **settings)(state, batch)
  chex.assert_trees_all_close(found, expected, rtol=1e-6)


def first(params, batch, key):
  """Of a chain: noise makes the two draw from one key, as one loss would."""
  noise = jax.random.uniform(key)
  return {"features": jnp.tanh(batch["x"] @ params["w"]), "noise": noise}


def second(params, given, batch, key):
  nats_B = jnp.square((given["features"] * params["w"]).sum(-1) + params["b"] - batch["y"])
  return nats_B.mean() + given["noise"] * jnp.square(params["b"]), {"noise": given["noise"]}


CHAIN = Chain(("reader", "network"), first, second)


def chained(recipe, loss_fn):
  rng = np.random.default_rng(0)
  batch = {"x": rng.normal(size=(12, 3)), "y": np.arange(12.0)}
  params = {"reader": {"w": rng.normal(size=(3, 4))}, "network": {"w": np.ones(4), "b": 0.5}}
  batch, params = jax.tree.map(jnp.float32, (batch, params))
  state = training.initial_state(params, recipe.optimizer())
  step = Step(loss_fn, recipe, ROOT_KEY)
  num_bytes = step.memory_bytes(state, batch)
  for _ in range(3):
    state, metrics = step(state, batch)
  return state, metrics, num_bytes


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"weight_decay": 0.1},
    {"clip_norm": 1.0},
    {"algorithm": "muon", "weight_decay": 0.1},
    {"num_microbatches": 2},
  ],
  ids=str,
)
def test_a_chain_takes_the_steps_of_its_whole(fields):
  recipe = Recipe(batch_size=12, learning_rate=0.1, **fields)
  state, metrics, _ = chained(recipe, CHAIN)
  expected_state, expected, _ = chained(recipe, lambda *args: CHAIN(*args))
  chex.assert_trees_all_close(state, expected_state, rtol=2e-5, atol=1e-6)
  chex.assert_trees_all_close(metrics, expected, rtol=2e-5)


def test_a_chain_whose_memory_is_known_is_not_compiled_again():
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
  )
  recipe = Recipe(batch_size=12)
  batch = placement.put_batch({"x": np.ones((12, 3), np.float32), "y": np.ones(12, np.float32)})
  params = {"reader": {"w": np.ones((3, 4), np.float32)}}
  params["network"] = {"w": np.ones(4, np.float32), "b": np.float32(0.5)}
  state = training.initial_state(params, recipe.optimizer())
  state = placement.put(state, placement.data_parallel()[1])
  step = Step(CHAIN, recipe, ROOT_KEY)
  # Of the norms of both gradients, once for all steps there are.
  jnp.hypot(state.params["network"]["b"], state.params["network"]["b"])
  before = len(compiled)
  step.memory_bytes(state, batch)
  assert len(compiled) == before + 5
  for _ in range(2):
    state, _ = step(state, batch)
  assert len(compiled) == before + 5


def test_the_second_of_a_chain_is_one_program_for_other_firsts():
  def text(num_inputs):
    batch = {"x": jnp.ones((12, num_inputs)), "y": jnp.ones(12)}
    params = {"reader": {"w": jnp.ones((num_inputs, 4))}, "network": {"w": jnp.ones(4), "b": 0.5}}
    step = Step(CHAIN, Recipe(batch_size=12), ROOT_KEY)
    state = training.initial_state(jax.tree.map(jnp.float32, params), step.recipe.optimizer())
    at = ROOT_KEY, state.step
    given, _ = step._gradient._first(at, state.params["reader"], batch, 0)
    lowered = step._gradient._second.lower(at, state.params["network"], given, batch, 0)
    return lowered.as_text()

  assert text(3) == text(7)


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_a_step_whose_memory_is_known_is_not_compiled_again(num_microbatches):
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
  )
  step, state, batch = steppable(num_microbatches)
  before = len(compiled)
  step.memory_bytes(state, batch)
  assert len(compiled) == before + 2
  for _ in range(2):
    state, _ = step(state, batch)
  # Adding the parts up is one small program more.
  assert len(compiled) == before + 2 + (num_microbatches > 1)


@pytest.mark.parametrize("num_microbatches", [2, 4])
def test_microbatches_take_the_step_of_the_whole_batch(num_microbatches):
  whole, metrics, _ = stepped(1)
  parts, metrics_of_parts, _ = stepped(num_microbatches)
  chex.assert_trees_all_close(parts, whole, rtol=1e-5)
  for name in ("train_nats_per_image", "grad_norm", "learning_rate"):
    assert float(metrics_of_parts[name]) == pytest.approx(float(metrics[name]), rel=1e-5)
  # The mean over parts of their first image: the parts are every n-th image, none twice.
  assert float(metrics_of_parts["first"]) == (num_microbatches - 1) / 2


def test_microbatches_have_dropout_masks_of_their_own():
  _, metrics, _ = stepped(2, num_steps=1)
  key = training.key_for(ROOT_KEY, "dropout", 0)
  first, second = (float(jax.random.uniform(jax.random.fold_in(key, part))) for part in (0, 1))
  assert first != second
  assert float(metrics["noise"]) == pytest.approx((first + second) / 2)


def test_microbatches_need_the_memory_of_one():
  def wide(params, batch, key):
    features = batch["x"]
    for _ in range(4):
      features = jnp.sin(jnp.tile(features, (1, 1000)) @ jnp.ones((3000, 3)) * params["w"])
    return features.mean(), {}

  assert stepped(4, wide)[2] < 0.5 * stepped(1, wide)[2]
