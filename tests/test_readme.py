"""The README must stay true."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_of_your_own_model_runs():
  (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
  smaller = example.replace("num_filters=64", "num_filters=4, num_scales=1")
  assert smaller != example
  images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
  names = {"images": images, "h": jax.random.normal(jax.random.key(0), (8, 5))}
  exec(smaller, names)
  assert names["nats_B"].shape == (8,)
  assert jnp.isfinite(names["nats_B"]).all()
  assert int(names["state"].step) == 1


def test_every_file_and_picture_that_the_readme_names_exists():
  root = pathlib.Path(__file__).parents[1]
  named = re.findall(r"\]\((docs/[^)]+)\)", README) + re.findall(r"configs/\w+\.py", README)
  assert len(named) > 5
  for name in named:
    assert (root / name).exists(), name
