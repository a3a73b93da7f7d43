"""What the launchers ask of a cluster, whose commands are replaced by ones that write down."""

import configparser
import json
import os
import pathlib
import subprocess
import sys
import warnings

import pytest
import yaml

from inversion_jax import config as config_lib

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
  sbatch = tmp_path / "sbatch"
  sbatch.write_text(RECORDER.format(python=sys.executable), encoding="utf-8")
  sbatch.chmod(0o755)
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


def sky_task():
  return yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def on_machine(tmp_path, data_dir):
  """on_machine(name=value, ...) runs what SkyPilot would, with the lines that it adds."""
  home, workdir = tmp_path / "home", tmp_path / "workdir"
  activate = workdir / ".venv" / "bin" / "activate"
  activate.parent.mkdir(parents=True)
  activate.touch()
  (workdir / "configs").symlink_to(ROOT / "configs")
  python = pathlib.Path(sys.executable).parent

  def run(**envs):
    task = sky_task()
    environment = {
      "HOME": str(home),
      "PATH": f"{python}:{os.environ['PATH']}",
      "PYTHONPATH": str(ROOT),
      "TFDS_DATA_DIR": str(data_dir),
    }
    done = subprocess.run(
      ["bash", "-c", f"{task['run']}\nstatus=$?; echo bucket has everything; exit $status"],
      env=os.environ | environment | task["envs"] | envs,
      cwd=workdir,
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert "bucket has everything" in done.stdout, done.stderr
    return done, home / "inversion_jax_runs"

  return run


def test_a_job_runs_one_experiment_into_the_bucket(on_machine):
  network = "--config.inverter.network.num_scales=1 --config.inverter.network.num_filters=2"
  options = f"--stages=inverter --config.inverter.num_steps=1 {network}"
  done, bucket = on_machine(RUN="configs/digits_prior.py:smoke", OPTIONS=options)
  assert done.returncode == 0, done.stderr
  notes = json.loads((bucket / "digits_prior_smoke" / "stages.json").read_text(encoding="utf-8"))
  assert notes["inverter"]["step"] == 1


def test_a_job_runs_a_part_of_a_launch_and_keeps_the_status_of_a_mistake(on_machine):
  done, _ = on_machine(RUN="figure_5a", PART="2/4", OPTIONS="--smoke --list")
  assert done.returncode == 0, done.stderr
  assert "digits/conv2" in done.stdout
  assert "digits/conv1" not in done.stdout
  done, _ = on_machine(RUN="figure_9")
  assert done.returncode == 2
  assert "invalid choice: 'figure_9'" in done.stderr


def test_a_job_is_a_task_of_skypilot(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  reason = 'SkyPilot: pip install -e ".[launch]"'
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sky = pytest.importorskip("sky", reason=reason)
    task = sky.Task.from_yaml(str(ROOT / "launch" / "sky.yaml"))
  assert task.num_nodes == 1
  assert all(resources.use_spot for resources in task.resources)
  (storage,) = task.storage_mounts.values()
  assert storage.mount_cached_config.transfers == 1
  assert storage.name == task.envs["BUCKET"]


def test_the_sections_of_a_job_and_the_audit_are_understood_by_bash():
  task = sky_task()
  audit = (ROOT / ".ci" / "audit").read_text(encoding="utf-8")
  for script in (task["setup"], task["run"], audit):
    subprocess.run(["bash", "-n", "-c", script], check=True)
    # SkyPilot's own lines come after ours.
    assert script is audit or "exec " not in script
  extra = task["envs"]["EXTRA"]
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  assert extra in setup["options.extras_require"]


def test_the_image_begins_with_files_that_are_there():
  lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
  lines = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
  known = {"FROM", "ARG", "COPY", "RUN", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
  assert {name for name, _ in lines} == known
  words = {name: json.loads(text) for name, text in lines if name in ("ENTRYPOINT", "CMD")}
  (config,) = words["CMD"]
  assert config_lib.file_of(config.removeprefix("--config=")).is_file()
  assert words["ENTRYPOINT"] == ["python", "-m", "inversion_jax.main"]
  left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
  assert not {"configs", "inversion_jax", "setup.cfg", "setup.py", "README.md"} & set(left_out)
