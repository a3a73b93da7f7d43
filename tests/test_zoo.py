"""The trained models that come with the repository do what their cards say."""

import pathlib
import re

import numpy as np
import pytest

import inversion_jax as ij
from inversion_jax.machine import storage

ZOO = pathlib.Path(__file__).parents[1] / "zoo"
MODELS = sorted(path.parent.name for path in ZOO.glob("*/model.safetensors"))
DIGITS = storage.read_npz(ZOO / "digits.npz")
EXAMPLE = "digits_fc3"
MAX_BYTES = 6e6


def layer_of(name):
  """The layer of digits that a model has seen; None of a p(x)."""
  layer = name.partition("_")[2]
  return layer if layer in DIGITS else None


def test_the_zoo_is_small_and_its_readme_lists_it():
  assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) < MAX_BYTES
  readme = (ZOO / "README.md").read_text(encoding="utf-8")
  assert re.findall(r"^\| `(\w+)` ", readme, re.MULTILINE) == MODELS
  for name in MODELS:
    config = storage.read_json(ZOO / name / "config.json")
    assert f"{config['result']['nce_nats']:.2f}".replace("-", "\N{MINUS SIGN}") in readme
    assert f" {config['num_params']:,} |" in readme
    assert "reduced" in (ZOO / name / "README.md").read_text(encoding="utf-8")
    assert len(config["commit"]) == 40


def assert_nats_of_the_card(name, nce_nats):
  # Other processors round otherwise.
  card = storage.read_json(ZOO / name / "config.json")["result"]
  assert nce_nats == pytest.approx(card["nce_nats"], abs=1e-2)
  assert card["num_test_images"] == len(DIGITS["x"])


@pytest.mark.parametrize("name", [name for name in MODELS if name != EXAMPLE])
def test_each_model_samples_and_has_the_nats_of_its_card(name):
  model, layer = ij.load(ZOO / name), layer_of(name)
  h = None if layer is None else DIGITS[layer]
  # Of the samplers, which draw the same, the quickest to compile.
  drawn = model.sample(None if h is None else h[:2], num=2, sampler="ancestral")
  assert drawn.shape == (*([] if h is None else [2]), 2, *model.image_shape)
  assert drawn.max() < model.num_levels
  if model.image_shape != DIGITS["x"].shape[1:]:
    return
  nats_N = model.nats(ij.pairs(DIGITS["x"], h, num_levels=model.num_levels))
  assert_nats_of_the_card(name, -nats_N.mean())


def test_the_example_of_the_zoo_runs(monkeypatch, capsys):
  (example,) = re.findall(r"```python\n(.*?)```", (ZOO / "README.md").read_text(), re.DOTALL)
  assert f'ij.load("zoo/{EXAMPLE}")' in example
  monkeypatch.chdir(ZOO.parent)
  names = {}
  exec(example.replace("num=4)", 'num=4, sampler="ancestral")'), names)
  assert names["images"].shape == (8, 4, 8, 8, 1)
  printed = re.search(r"NCE (\S+) ±", capsys.readouterr().out).group(1)
  assert_nats_of_the_card(EXAMPLE, float(printed.replace("\N{MINUS SIGN}", "-")))
  # Samples given h are nearer to the original than to other images.
  x = DIGITS["x"][:8].astype(float)
  gaps = np.abs(names["images"][:, :, None].astype(float) - x[None, None]).mean((-1, -2, -3))
  own = np.eye(8, dtype=bool)[:, None].repeat(4, axis=1)
  assert gaps[own].mean() < 0.8 * gaps[~own].mean()
