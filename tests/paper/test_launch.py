"""What the launchers ask of a cluster, whose commands are replaced by ones that write down."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Writes down its arguments and the start of what it was piped, and says what sbatch would.
RECORDER = """#!{python}
import json, os, sys
piped = "" if sys.stdin.isatty() else sys.stdin.buffer.read()[:99].decode("latin1")
with open(os.environ["RECORDED"], "a") as file:
  file.write(json.dumps([*sys.argv[1:], piped]) + "\\n")
with open(os.environ["RECORDED"]) as file:
  print(100 + len(file.readlines()))
sys.exit("fail" in sys.argv)
"""


@pytest.fixture
def start(tmp_path):
  """start(program, *arguments, **environment) -> exit status, output, the calls."""
  for name in ("sbatch", "gcloud"):
    program = tmp_path / name
    program.write_text(RECORDER.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
  recorded = tmp_path / "recorded"

  def run(program, *arguments, **environment):
    python = pathlib.Path(sys.executable).parent
    environment |= {"PATH": f"{tmp_path}:{python}:{os.environ['PATH']}", "RECORDED": str(recorded)}
    done = subprocess.run(
      [ROOT / "launch" / program, *arguments],
      env=os.environ | environment,
      cwd=ROOT,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=300,
    )
    lines = recorded.read_text(encoding="utf-8").splitlines() if recorded.exists() else []
    return done.returncode, done.stdout + done.stderr, [json.loads(line) for line in lines]

  return run


def test_slurm_runs_what_is_shared_then_the_parts_then_the_figures(start, tmp_path):
  workdir = tmp_path / "a folder"
  status, output, calls = start(
    "slurm", "3", "figure_5a", "--smoke", f"--workdir={workdir}", SLURM_OPTIONS="--mem=9G --nice"
  )
  assert status == 0, output
  shared, parts, figures = calls
  assert "digits/logits" in output, "the list comes first"
  wraps = [next(word for word in call if word.startswith("--wrap=")) for call in calls]
  command = f"--wrap=python -m inversion_jax.paper figure_5a --smoke --workdir={workdir}"
  command = command.replace("a folder", r"a\ folder")
  assert wraps == [
    f"{command} --part=shared",
    f"{command} --part=$SLURM_ARRAY_TASK_ID/3",
    command,
  ]
  assert "--array=1-3" in parts
  assert "--dependency=afterany:101" in parts
  assert "--dependency=afterany:102" in figures
  assert not any("dependency" in word for word in shared)
  assert all("--mem=9G" in call and "--nice" in call for call in calls)


def test_slurm_submits_nothing_that_is_mistaken(start):
  status, output, calls = start("slurm", "3", "figure_9")
  assert status == 2
  assert "invalid choice: 'figure_9'" in output
  status, output, calls = start("slurm", "figure_5a")
  assert (status, calls) == (2, [])
  assert "usage: launch/slurm" in output


TPU = {"ZONE": "here", "TYPE": "v4-8", "VERSION": "ubuntu"}


def test_a_tpu_gets_the_commit_runs_the_command_and_is_deleted(start):
  status, output, calls = start("tpu", "name", "gs://bucket/at", "launch/paper", "two words", **TPU)
  assert status == 0, output
  assert [call[3] for call in calls] == ["create", "ssh", "ssh", "ssh", "delete"]
  assert all(call[4] == "name" and "--zone=here" in call for call in calls)
  _, sent, install, _, _ = calls
  assert sent[-1], "an archive is piped"
  commands = [word for call in calls for word in call if word.startswith("--command=")]
  for command in commands:
    subprocess.run(["bash", "-n", "-c", command.removeprefix("--command=")], check=True)
  assert "[tpu]" in " ".join(install)


def test_what_a_tpu_runs_copies_from_the_bucket_and_to_it_and_keeps_the_status(start, tmp_path):
  made = "import sys; open('runs/two words', 'w').close(); sys.exit(7)"
  _, _, calls = start("tpu", "name", "gs://bucket/at", "python", "-c", made, **TPU)
  work = next(word for word in calls[3] if word.startswith("--command="))
  activate = tmp_path / "inversion_jax" / ".venv" / "bin" / "activate"
  activate.parent.mkdir(parents=True)
  activate.touch()
  recorded = tmp_path / "on_tpu"
  done = subprocess.run(
    ["bash", "-c", work.removeprefix("--command=")],
    env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORDED": str(recorded)},
    cwd=tmp_path,
    capture_output=True,
    timeout=60,
  )
  assert done.returncode == 7
  assert (tmp_path / "inversion_jax" / "runs" / "two words").exists()
  copies = [json.loads(line)[:-1] for line in recorded.read_text(encoding="utf-8").splitlines()]
  rsync = ["storage", "rsync", "--recursive"]
  assert copies == [[*rsync, "gs://bucket/at", "runs"], [*rsync, "runs", "gs://bucket/at"]]


def test_a_tpu_that_could_not_be_made_is_not_used(start):
  status, _, calls = start("tpu", "fail", "gs://bucket/at", "launch/paper", **TPU)
  assert status != 0
  assert [call[3] for call in calls] == ["create"]


def test_a_tpu_without_a_zone_is_not_asked_for(start):
  status, output, calls = start("tpu", "name", "gs://bucket/at", "launch/paper")
  assert (status, calls) == (2, [])
  assert "usage: ZONE=" in output


def notebook_cells():
  notebook = json.loads((ROOT / "launch" / "colab.ipynb").read_text(encoding="utf-8"))
  return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_command_of_the_notebook_is_understood(tmp_path):
  (command,) = (
    line for cell in notebook_cells() for line in cell.splitlines() if line.startswith("!python")
  )
  command = command.removeprefix("!").replace("$CONFIG", "configs/digits.py")
  command = command.replace("$WORKDIR", str(tmp_path))
  python = pathlib.Path(sys.executable).parent
  done = subprocess.run(
    ["bash", "-c", f"{command} --stages=nothing"],
    env=os.environ | {"PATH": f"{python}:{os.environ['PATH']}"},
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 2
  assert "not 'nothing'" in done.stderr, "all but the stages was understood"


def test_your_own_model_in_the_notebook_is_trained_and_sampled(monkeypatch):
  monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
  *_, model, pictures = notebook_cells()
  assert "NUM_STEPS = 300" in model
  model = model.replace("NUM_STEPS = 300", "NUM_STEPS = 2")
  # The last line of a cell is what the notebook shows.
  *lines, shown = model.splitlines()
  names = {}
  exec("\n".join(lines), names)
  assert "quarters minus p(x)" in eval(shown, names)._repr_html_()
  exec(pictures, names)
  assert names["model"].note["step"] == 2
  assert names["samples"].shape == (6, 5, 8, 8, 1)
  assert names["samples"].max() <= 16
