"""The README must stay true."""

import pathlib
import re

import numpy as np

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_of_your_own_model_runs(finished, tmp_path, monkeypatch):
  (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
  smaller = example.replace("1_000", "20").replace("folder=", "num_steps=2, quiet=True, folder=")
  assert smaller.count("num_steps=2") == 2
  monkeypatch.chdir(tmp_path)
  train = finished.pairs("train")
  np.savez("mine.npz", x=train.images, h=train.h)
  names = {}
  exec(smaller, names)
  assert names["images"].shape == (8, 4, 8, 8, 1)
  assert len(names["model"].evaluate(names["test"]).nats) == 20
  for folder in ("mine", "prior"):
    assert (tmp_path / "runs" / folder / "summary.json").exists() == (folder == "mine")
  assert (tmp_path / "runs" / "comparison" / "report.html").exists()


def test_every_file_and_picture_that_the_readme_names_exists():
  root = pathlib.Path(__file__).parents[1]
  named = re.findall(r"\]\((docs/[^)]+)\)", README) + re.findall(r"configs/\w+\.py", README)
  assert len(named) > 5
  for name in named:
    assert (root / name).exists(), name
