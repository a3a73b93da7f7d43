"""The notebook runs as it is opened, in a kernel of its own."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# What is installed stays; an experiment of no useful size, and two steps of small networks.
EXPERIMENT = (
  "configs/digits_prior.py:smoke --stages=inverter,evaluate,report"
  " --config.inverter.network.num_scales=1"
)
NETWORK = "ij.Network(num_filters=8, num_blocks=1, num_scales=1)"
SHORTER = {
  "%pip install --quiet -e .": "",
  "configs/digits.py": EXPERIMENT,
  "NUM_STEPS = 300": "NUM_STEPS = 2",
  "num_steps=NUM_STEPS": f"num_steps=NUM_STEPS, network={NETWORK}",
}


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch):
  nbclient = pytest.importorskip("nbclient", reason="notebooks: pip install -e '.[test]'")
  import nbformat

  python = pathlib.Path(sys.executable).parent
  monkeypatch.setenv("PATH", f"{python}:{os.environ['PATH']}")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  text = (ROOT / "launch" / "colab.ipynb").read_text(encoding="utf-8")
  for long, short in {**SHORTER, '= \\"runs\\"': f'= \\"{tmp_path}\\"'}.items():
    assert long in text
    text = text.replace(long, short)
  notebook = nbformat.reads(text, 4)
  place = {"metadata": {"path": str(ROOT)}}
  nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
  *_, report, comparison, pictures = (
    output
    for cell in notebook.cells
    for output in cell.get("outputs", [])
    if output.output_type in ("display_data", "execute_result")
  )
  assert "<h1>" in report.data["text/html"]
  assert "quarters minus p(x)" in comparison.data["text/html"]
  assert pictures.data["image/png"]
  assert (tmp_path / "experiment" / "report.html").exists()
