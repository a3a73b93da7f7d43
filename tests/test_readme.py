"""The README and the pages of the site must stay true."""

import pathlib
import re
import runpy

import numpy as np
import pytest

import inversion_jax as ij
from inversion_jax import config

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("strangers/*.md"))]
MAX_LINES = 150
python_blocks = runpy.run_path(str(DOCS / "strangers" / "run.py"))["blocks"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def cells(page):
  """What runs when the site is built."""
  text = page.read_text(encoding="utf-8")
  return re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_example_of_your_own_model_runs(finished, tmp_path, monkeypatch):
  (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
  settings = "num_steps=2, quiet=True, network=small"
  smaller = example.replace("1_000", "20").replace("folder=", f"{settings}, folder=")
  assert smaller.count(settings) == 2
  monkeypatch.chdir(tmp_path)
  train = finished.pairs("train")
  np.savez("mine.npz", x=train.images, h=train.h)
  small = ij.Network(num_filters=4, num_scales=1, reader_filters=4, reader_units=8, reader_places=2)
  names = {"small": small}
  exec(smaller, names)
  assert names["images"].shape == (8, 4, 8, 8, 1)
  assert len(names["model"].evaluate(names["test"]).nats) == 20
  for folder in ("mine", "prior"):
    assert (tmp_path / "runs" / folder / "summary.json").exists() == (folder == "mine")
  assert (tmp_path / "runs" / "comparison" / "report.html").exists()


def test_the_readme_is_a_first_screen():
  assert len(README.splitlines()) <= MAX_LINES
  for command in (
    "    pip install -e . && python -m inversion_jax.main --config=configs/digits.py\n",
    '    pip install -e ".[test]" && pytest\n',
  ):
    assert command in README


def test_the_results_of_the_readme_are_those_of_the_pages():
  paper = (DOCS / "paper.md").read_text(encoding="utf-8").splitlines()
  results = README[README.index("## Results") : README.index("## Where to read on")]
  rows = [line for line in results.splitlines() if line.startswith("|")]
  assert len(rows) > 10
  assert set(rows) <= set(paper)


@each_page
def test_what_a_page_links_to_exists(page):
  prose = re.sub(
    r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
  )
  for name in re.findall(r"\]\(([^)#]+)\)", prose):
    assert name.startswith("https://") or (page.parent / name).exists(), name


@each_page
def test_files_that_a_page_names_exist(page):
  named = r"(?<![\w/])(?:configs|benchmarks|launch|inversion_jax|tests|docs)/[\w/.]*\w"
  text = page.read_text(encoding="utf-8")
  for name in re.findall(named, text):
    assert (ROOT / name).exists() or name.startswith("docs/_build"), name
  for name in re.findall(r"python -m (inversion_jax[\w.]*)", text):
    path = ROOT / name.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@each_page
def test_fields_that_a_page_names_exist(page):
  defaults = config.default()
  sections = "|".join(name for name in defaults if hasattr(defaults[name], "keys"))
  text = page.read_text(encoding="utf-8")
  fields = re.findall(r"--config\.([\w.]+)=", text)
  fields += re.findall(rf"`((?:{sections})\.(?!npz|json)[a-z_.]+)", text)
  for field in fields:
    owner = defaults
    for part in field.split("."):
      assert part in owner, field
      owner = owner[part]


@each_page
def test_names_that_a_page_uses_exist(page):
  for block in [*python_blocks(page), *cells(page)]:
    compile(block, page, "exec")
  for name in re.findall(r"\bij\.([a-zA-Z_]+(?:\.[a-z_]+)*)", page.read_text(encoding="utf-8")):
    owner = ij
    for part in name.split("."):
      assert hasattr(owner, part), name
      owner = getattr(owner, part)


def test_the_api_has_every_public_name():
  told = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("api*.md"))
  for name in ij.__all__:
    assert re.search(rf"\b{name}\b", told), name


def test_a_layer_in_pytorch_goes_the_way_of_the_first_page():
  pytest.importorskip("torch", reason="PyTorch is optional: pip install 'inversion_jax[torch]'")
  images, in_flax, *others = cells(DOCS / "start.md")
  (in_pytorch,) = python_blocks(DOCS / "start.md")
  assert "flax" in in_flax
  names = {}
  for block in (images, in_pytorch, *others[:2]):
    exec(block.replace("num_steps=300", "num_steps=2"), names)
  assert names["accuracy"] > 0.9
  assert names["model"].h_shape == (32,)
  assert names["model"].note["step"] == 2
