"""The program as a user meets it: whole runs of small experiments, and the mistakes one makes."""

import concurrent.futures
import functools
import os
import pathlib
import shutil
import types

import archives
import jax
import numpy as np
import pytest
from run_examples import FILES, ROOT, command, edited, get_config, run_stages, smaller

from inversion_jax import inversion, main
from inversion_jax.fitting import sessions
from inversion_jax.information.codelength import FirstPass
from inversion_jax.machine import processes, storage
from inversion_jax.machine.checkpoints import Checkpoints
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run

# One resolution: less to compile.
SINGLE = "--config.inverter.network.num_scales=1"
PARALLEL = (
  f"--config={ROOT}/configs/digits_fc3.py:smoke",
  SINGLE,
  "--config.inverter.network.num_filters=4",
  "--config.inverter.num_steps=20",
  "--config.inverter.validate_every=20",
  # The numbers of another recipe would do as well, but for single parameters whose first gradient
  # is all but zero: Adam takes its rounding, which devices change, for a step of full length.
  "--config.inverter.adam_b2=0.999",
  "--config.inverter.weight_decay=1.0",
)


@pytest.mark.parametrize("name", ["mnist_conv2", "cifar10_fc3", "affnist_pool_fc3"])
def test_real_images_go_the_whole_way(name, real_data_dir, tmp_path):
  config = smaller(get_config(name, "smoke"))
  config.data.dir = real_data_dir
  config.inverter.network.context = "encoder"
  run = run_stages(config, tmp_path / name)
  for file in FILES:
    assert (run.folder / file).exists(), file
  samples = storage.read_npz(run.folder / "samples.npz")
  np.testing.assert_array_equal(samples["original"], run.images("test").images[:2])
  assert storage.read_json(run.folder / "summary.json")["nce_nats"] < 0


@pytest.fixture(scope="module")
def by_one_device(data_dir, tmp_path_factory):
  folder = tmp_path_factory.mktemp("one") / "run"
  stage_names = "--stages=classifier,inverter,evaluate,sample"
  done = command(*PARALLEL, stage_names, f"--workdir={folder}", data_dir=data_dir)
  assert done.returncode == 0, done.stderr
  return folder


def training_state(folder, data_dir, step=20):
  """The whole state of the inverter, on the one device of this process."""
  run = Run(edited(Run.load(folder).config, data__dir=str(data_dir)), folder)
  subject = inversion.subject(
    *(run.pairs(split) for split in ("train", "validation")), run.network(), observed=run.observed
  )
  shape = sessions.state_shape(subject, run.recipe("inverter"))
  with Checkpoints(folder / "inverter", "min") as checkpoints:
    return checkpoints.restore(step, shape)


def assert_like_one_device(folder, by_one_device, data_dir):
  assert storage.read_json(folder / "summary.json")["devices"].startswith("8 x")
  nats = [storage.read_npz(of / "nats.npz")["nats"] for of in (folder, by_one_device)]
  np.testing.assert_allclose(*nats, atol=1e-3)
  ours, theirs = (
    storage.read_as(of / storage.CODELENGTH, FirstPass.of) for of in (folder, by_one_device)
  )
  assert len(ours) == 256
  assert ours.is_told_as(theirs)
  np.testing.assert_allclose(ours.nats, theirs.nats, atol=1e-2)
  states = [training_state(of, data_dir) for of in (folder, by_one_device)]
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *states)
  # A parameter that differs by rounding can change a level, and with it what comes after.
  samples = [storage.read_npz(of / "samples.npz")["sample"] for of in (folder, by_one_device)]
  assert (samples[0] == samples[1]).mean() > 0.8


def test_eight_devices_give_the_numbers_of_one(by_one_device, data_dir, tmp_path):
  folder, stage_names = tmp_path / "run", "--stages=classifier,inverter,evaluate,sample"
  arguments = (*PARALLEL, stage_names, f"--workdir={folder}")
  done = command(*arguments, data_dir=data_dir, devices=8)
  assert done.returncode == 0, done.stderr
  assert_like_one_device(folder, by_one_device, data_dir)


def test_eight_devices_go_on_from_the_checkpoint_of_one(by_one_device, data_dir, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(by_one_device, folder)
  more = ("--config.inverter.num_steps=21", "--stages=inverter", f"--workdir={folder}")
  done = command(*PARALLEL, *more, data_dir=data_dir, devices=8)
  assert done.returncode == 0, done.stderr
  assert "inverter: goes on from step 20" in done.stderr
  before, after = training_state(by_one_device, data_dir), training_state(folder, data_dir, 21)
  assert int(after.step) == 21
  most = max(
    jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params, after.params))
  )
  # One step of Adam moves nothing by more than a few times the rate, 3e-3 before it has decayed.
  assert 0 < most < 0.01


def test_two_processes_of_four_devices_give_the_numbers_of_one(by_one_device, data_dir, tmp_path):
  """As two tasks of a Slurm job, which JAX knows by these variables."""
  folder, stage_names = tmp_path / "run", "--stages=classifier,inverter,evaluate,sample,gan,report"
  arguments = ("--distributed", *PARALLEL, "--config.gan.network.num_scales=1", stage_names)
  job = {
    "SLURM_JOB_ID": str(os.getpid()),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_NTASKS": "2",
  }

  def task(number):
    own = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
    where = {"data_dir": data_dir, "devices": 4, "variables": job | own}
    return command(*arguments, f"--workdir={folder}", **where)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    first, second = pool.map(task, range(2))
  assert first.returncode == second.returncode == 0, first.stderr + second.stderr
  assert_like_one_device(folder, by_one_device, data_dir)
  # The first speaks for both, and writes each line once.
  assert f"The report is {folder / 'report.html'}" in first.stdout
  assert "inverter step" in first.stderr
  assert "The report" not in second.stdout
  assert "inverter step" not in second.stderr
  lines = [
    (line["stage"], line["step"], frozenset(line))
    for line in storage.read_metrics(folder / "metrics.jsonl")
  ]
  assert len(lines) == len(set(lines))
  rows = storage.read_json(folder / "gan.json")
  assert rows[-1]["samples"] == "nearest training images"


def test_to_be_in_no_cluster_is_a_sentence(monkeypatch):
  def initialize():
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  with pytest.raises(UserError, match=r"no cluster \(coordinator_address should be defined\)"):
    processes.join()


def test_svhn_runs_from_its_archives_to_its_report(tmp_path):
  archives.write_svhn(archives.manual_folder(tmp_path), num_train=60, num_test=20)
  # By its name, since there is no configs/ where the command is given.
  arguments = ("--config=svhn_conv2:smoke", "--config.dtype=bfloat16", SINGLE)
  done = command(*arguments, data_dir=tmp_path, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  folder = tmp_path / "runs" / "svhn_conv2_smoke"
  for name in FILES:
    assert (folder / name).exists(), name
  summary = storage.read_json(folder / "summary.json")
  assert (summary["image_shape"], summary["num_test_images"]) == ([32, 32, 3], 20)
  assert summary["dtype"] == "bfloat16"


def test_a_full_disk_is_one_sentence_and_a_bug_keeps_its_traceback(monkeypatch, capsys):
  def full(_):
    raise OSError(28, "No space left on device", "runs/x/nats.npz")

  monkeypatch.setattr(main, "main", full)
  monkeypatch.setattr(main, "_workdir", lambda: pathlib.Path("runs/x"))
  monkeypatch.setattr(main.flags, "FLAGS", {"verbosity": type("", (), {"present": True})})
  with pytest.raises(SystemExit) as stopped:
    main._guarded([])
  assert stopped.value.code == 2
  assert "No space is left for runs/x/nats.npz" in capsys.readouterr().err
  monkeypatch.setattr(main, "main", lambda _: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    main._guarded([])


def test_replicates_of_layers_go_together_and_are_compared_above_them(monkeypatch, tmp_path):
  told = {}

  def go(runs, names, num_jobs, compiled):
    told["runs"] = [(run.folder, run.config.seed, run.layer) for run in runs]
    told["compiled"] = compiled

  monkeypatch.setattr(main, "_STAGES", types.SimpleNamespace(value=["neighbours", "report"]))
  monkeypatch.setattr(main, "_JOBS", types.SimpleNamespace(value=1))
  monkeypatch.setattr(main.stages, "go_through_all", go)
  for name in ("write_table_1", "write_comparison"):
    made = told.setdefault(name, [])
    monkeypatch.setattr(main.report, name, lambda to, of, made=made: made.append((to, of)))
  config = edited(get_config("digits"), layers=("fc3", "logits"), seeds=2)
  main._run_all(list(main._replicates(config, tmp_path)), tmp_path)
  folders = [tmp_path / f"seed_{seed}" / layer for seed in (0, 1) for layer in ("fc3", "logits")]
  assert told["runs"] == list(zip(folders, (0, 0, 1, 1), ("fc3", "logits") * 2, strict=True))
  assert told["compiled"].parent == tmp_path
  assert told["write_comparison"] == [(tmp_path, folders)]
  assert told["write_table_1"] == [
    (tmp_path / "seed_0", folders[:2]),
    (tmp_path / "seed_1", folders[2:]),
  ]
