import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inversion_jax import training
from inversion_jax.errors import UserError
from inversion_jax.training import Recipe

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
