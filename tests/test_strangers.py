"""The pages about networks of others: what they name exists, and what is quick in them runs."""

import importlib.metadata
import os
import pathlib
import re
import runpy

import numpy as np
import pytest

import inversion_jax as ij

REPOSITORY = pathlib.Path(__file__).parents[1]
PAGES = sorted((REPOSITORY / "docs" / "strangers").glob("*.md"))
blocks = runpy.run_path(str(REPOSITORY / "docs" / "strangers" / "run.py"))["blocks"]
# What reads whole sets or trains for minutes is not run here.
SLOW = ("loading.load(", "ij.fit(")


def quick(page):
  """The names that the quick blocks of a page have made."""
  names = {}
  for block in blocks(page):
    if not any(word in block for word in SLOW):
      exec(compile(block, page, "exec"), names)
  return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_calls_exists(page):
  found = blocks(page)
  assert len(found) >= 2
  for block in found:
    compile(block, page, "exec")
  called = re.findall(r"\bij\.([a-z_]+(?:\.[a-z_]+)?)\(", "".join(found))
  assert {"fit", "pairs", "compare"} < set(called)
  for name in called:
    owner = ij
    for part in name.split("."):
      owner = getattr(owner, part)
    assert callable(owner)


def test_the_components_of_the_digits_are_those_that_the_page_compares():
  names = quick(PAGES[0].parent / "pca.md")
  images, features = names["images"], names["features"]
  assert images.shape == (1797, 8, 8, 1)
  assert list(features)[-2:] == ["x", "p(x)"]
  seen = ij.pairs(images, features["PCA 64"]).split(test=250)[0]
  # All 64 components are the image, turned: distances between images are kept.
  h, x = seen.h[:50], images[seen.index[:50]].reshape(50, -1).astype(float)
  distances = [np.linalg.norm(rows[1:] - rows[:-1], axis=1) for rows in (h, x)]
  np.testing.assert_allclose(*distances, rtol=1e-4)
  assert features["PCA 4"](images[:3]).shape == (3, 4)


def test_the_layers_of_a_network_of_others_have_the_shapes_of_its_page(monkeypatch, tmp_path):
  pytest.importorskip("torch", reason="PyTorch is optional: pip install 'inversion_jax[torch]'")
  monkeypatch.chdir(tmp_path)
  grey, colour = np.zeros((2, 28, 28, 1), np.uint8), np.zeros((2, 32, 32, 3), np.uint8)
  expected = {
    "ccexam": (
      grey,
      {"conv1": (14, 14, 32), "conv2": (7, 7, 64), "dense": (128,), "logits": (10,)},
    ),
    "resnet20": (
      colour,
      {"layer1": (32, 32, 16), "layer2": (16, 16, 32), "layer3": (8, 8, 64), "pool": (64,)},
    ),
  }
  for page in available():
    images, shapes = expected[page]
    features = quick(PAGES[0].parent / f"{page}.md")["features"]
    assert {name: h(images).shape[1:] for name, h in features.items()} == shapes


def available():
  """The pages whose networks lie on this machine."""
  found = []
  try:
    importlib.metadata.distribution("ccexam")
    found.append("ccexam")
  except importlib.metadata.PackageNotFoundError:
    pass
  path = REPOSITORY.parent / "shared" / "models" / "resnet20_cifar10.npz"
  if path.exists():
    os.environ.setdefault("RESNET20", str(path))
    found.append("resnet20")
  if not found:
    pytest.skip("networks of others: pip install ccexam, or set RESNET20 to the file of its page")
  return found
