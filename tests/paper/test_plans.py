"""The paper's figures: their plans, their drawings, and a shrunken launch from end to end."""

import contextlib
import csv
import importlib
import re
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from inversion_jax import config as config_lib
from inversion_jax import stages
from inversion_jax.fitting import training
from inversion_jax.machine import compilation, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.paper import __main__ as launch
from inversion_jax.paper import experiments, listing, plans, running


@pytest.mark.parametrize("scale", plans.SCALES)
def test_every_run_of_every_figure_passes_the_checks(scale):
  planned = plans.merged(
    one
    for experiment in (experiments.EXPERIMENTS | experiments.FURTHER).values()
    for one in experiment.plan(plans.SCALES[scale])
  )
  assert len({one.folder for one in planned}) == len(planned)
  for one in planned:
    config_lib.check(one.config)
    assert set(one.stages) <= set(stages.STAGES)
    assert "report" not in one.stages[:-1]
  # A model that begins from p(x) comes after it, with the same network.
  folders = [one.folder for one in planned]
  for one in planned:
    if start := one.config.inverter.start_from:
      assert folders.index(start) < folders.index(one.folder)
      prior = planned[folders.index(start)].config
      # Dropout has no parameters, and suits what there is to learn by heart.
      ours, theirs = (
        {name: value for name, value in of.inverter.network.items() if not name.endswith("_rate")}
        for of in (prior, one.config)
      )
      assert ours == theirs


def test_figures_share_their_runs():
  scale = plans.SCALES["miniature"]
  planned = plans.merged([*plans.layers(scale), *plans.layers(scale, "neighbours")])
  assert [one.folder for one in planned] == [f"digits/{layer}" for layer in plans.LAYERS]
  assert all("neighbours" in one.stages for one in planned)


def test_the_paper_has_five_snapshots_of_four_layers_in_two_regimes():
  planned = plans.dynamics(plans.SCALES["paper"])
  assert len(planned) == 1 + 40
  overfitted = [one for one in planned if "overfitted" in one.folder]
  assert {one.config.classifier.num_train for one in overfitted} == {100}
  assert {one.config.classifier.network.dropout_rate for one in overfitted} == {0.0}


def test_the_cost_of_a_run_is_known_from_its_configuration():
  (planned,) = (one for one in plans.layers(plans.SCALES["paper"]) if one.folder == "mnist/fc3")
  found = listing.cost(planned.config)
  assert found.num_images == 250_000 * 64
  # 50.95 M at 196 filters; 64 filters have about a ninth of that. Beside them 16 lines a pixel.
  lines = 28 * 28 * 16 * (256 + 1)
  assert 4e6 < found.num_params - lines < 9e6
  # As if every parameter met every pixel, forward and twice backward; lower resolutions meet fewer.
  all_pixels = 6 * 784 * found.num_params
  assert 0.2 * all_pixels < found.operations_per_image < all_pixels


def test_parts_are_all_runs_and_what_is_shared_comes_before_them():
  scale = plans.SCALES["miniature"]
  planned = plans.merged([*plans.layers(scale), *plans.dynamics(scale)])
  folders = {one.folder for one in planned}
  parts = [plans.part(planned, f"{place}/3") for place in (1, 2, 3)]
  assert sorted(one.folder for part in parts for one in part) == sorted(folders)
  assert max(map(len, parts)) - min(map(len, parts)) <= 1
  shared = plans.part(planned, "shared")
  assert {one.folder for one in shared} == folders
  done = {one.folder: one.stages for one in shared}
  assert done.pop("digits/dynamics/prior") == ("inverter", "evaluate")
  assert set(done.values()) == {("classifier",)}


@pytest.mark.parametrize("name", ["0/3", "4/3", "2", "2/", "a/b", "", "1/2/3"])
def test_a_part_that_does_not_exist_is_a_sentence(name):
  with pytest.raises(UserError, match=re.escape(f"--part={name} is neither")):
    plans.part([], name)


# Events of JAX while something was launched.
FOUND = []


@pytest.fixture(scope="module", autouse=True)
def with_one_resolution():
  """There is less to compile, and still more than a second of it."""

  def adapt(config):
    config.inverter.network.num_scales = 1

  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(plans.SCALES, "smoke", plans.SCALES["smoke"]._replace(adapt=adapt))
    yield


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
  """Most of it at no useful size, for one layer; one run is made to fail.

  affNIST needs MNIST, and the GANs have their own test.
  """
  workdir = tmp_path_factory.mktemp("paper")
  jax.monitoring.register_event_listener(lambda event, **_: FOUND.append(event))
  with pytest.MonkeyPatch.context() as patch, no_cache():
    patch.delitem(experiments.EXPERIMENTS, "figure_3")
    patch.delitem(experiments.EXPERIMENTS, "figure_4")
    patch.setitem(experiments.EXPERIMENTS, "failing", failing_experiment())
    status = launch.main(["paper", "--smoke", "--layers=fc3", f"--workdir={workdir}"])
    assert jax.config.jax_compilation_cache_dir is None, "it was for this launch"
  return status, workdir


@contextlib.contextmanager
def no_cache():
  """As for a user who has set none."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def failing_experiment():
  def plan(scale):
    config = config_lib.preset("digits", "fc3", "smoke")
    config.representation.step = 17
    return [plans.Planned("digits/failing", config, ("classifier",))]

  return experiments.Experiment("Fails", plan, lambda *_: pytest.fail("was drawn"))


def test_a_launch_draws_what_it_can_and_says_what_failed(launched, capsys):
  status, workdir = launched
  assert status == 1, "a run failed"
  for name in ("figure_1", "figure_2", "figure_5a", "figure_5b"):
    assert (workdir / "figures" / f"{name}.png").exists(), name
    assert read_csv(workdir / "figures" / f"{name}.csv"), name
  assert (workdir / "figures" / "table_1.csv").exists()
  assert not list((workdir / "figures").glob("failing*"))


def test_the_numbers_beside_a_figure_are_those_of_the_runs(launched):
  _, workdir = launched
  (row,) = read_csv(workdir / "figures" / "figure_5a.csv")
  summary = storage.read_json(workdir / "digits" / "fc3" / "summary.json")
  assert float(row["nce_nats"]) == pytest.approx(summary["nce_nats"])
  assert float(row["relative_to_fc3"]) == pytest.approx(-1.0)
  dynamics = read_csv(workdir / "figures" / "figure_5b.csv")
  assert [(row["group"], row["classifier_updates"]) for row in dynamics] == [
    *(("regular", "0"), ("regular", "3"), ("overfitted", "0"), ("overfitted", "3"))
  ]
  first, later = (float(row["nce_nats"]) for row in dynamics[:2])
  for name in ("since_first", "since_before"):
    assert float(dynamics[1][f"{name}_nats"]) == pytest.approx(later - first)
    assert float(dynamics[1][f"{name}_low"]) < later - first < float(dynamics[1][f"{name}_high"])
  assert float(dynamics[2]["since_before_nats"]) == 0.0, "another network begins"
  prior = storage.read_json(workdir / "digits" / "dynamics" / "prior" / "summary.json")
  assert float(dynamics[0]["minus_prior_nats"]) == pytest.approx(first - prior["nce_nats"])
  # The untrained classifier is the same in both regimes, its density model is trained alike.
  assert float(dynamics[2]["minus_regular_nats"]) == pytest.approx(0.0, abs=1e-3)


def test_what_is_compiled_is_kept_and_found_by_runs_that_differ_in_numbers(launched):
  _, workdir = launched
  kept = [path.name for path in (workdir / compilation.FOLDER).iterdir()]
  programs = "jit_gradient_of_part-", "jit_gradient_of_second-"
  gradients = [name for name in kept if name.startswith(programs) and name.endswith("-cache")]
  # Three classifiers, the decoder, fc3 from scratch, p(x), and what all four of figure 5b share.
  assert len(list((workdir / "digits" / "dynamics").glob("*_fc3_*"))) == 4
  assert 0 < len(gradients) <= 7, gradients
  assert FOUND.count("/jax/compilation_cache/cache_hits") >= 3


def test_a_run_of_a_launch_names_the_command_of_the_launch(monkeypatch):
  monkeypatch.setattr(sys, "argv", [launch.__file__, "figure_1", "--workdir=a b"])
  command = importlib.import_module("inversion_jax.stages.evaluate")._command
  assert command() == "python -m inversion_jax.paper figure_1 '--workdir=a b'"
  monkeypatch.setattr(sys, "argv", ["/usr/bin/inversion-jax", "--config=x.py"])
  assert command() == "python -m inversion_jax.main --config=x.py"


def test_a_launch_that_is_done_runs_nothing_again(launched, monkeypatch):
  _, workdir = launched
  monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained again"))
  assert launch.main(["figure_5b", "--smoke", "--layers=fc3", f"--workdir={workdir}"]) == 0


def test_runs_side_by_side_begin_once_what_they_share_is_there(monkeypatch, tmp_path):
  gone_through = []

  def go_through(run, names):
    start_from = run.config.inverter.start_from
    gone_through.append((run.folder.relative_to(tmp_path).as_posix(), tuple(names), start_from))

  monkeypatch.setattr(running.stages, "check", lambda runs, names: None)
  monkeypatch.setattr(running.stages, "go_through", go_through)

  @contextlib.contextmanager
  def in_turn(num):
    yield lambda tasks: [task.act(*task.args) for task in tasks]

  monkeypatch.setattr(running.workers, "side_by_side", in_turn)
  launch.main(["figure_5b", "--smoke", "--layers=fc3", "--jobs=2", f"--workdir={tmp_path}"])
  folders = [folder for folder, _, _ in gone_through]
  num_runs = len(set(folders))
  assert folders[:num_runs] == folders[num_runs:], "once what is shared, then everything"
  for folder, names, _ in gone_through[:num_runs]:
    assert names == (("inverter", "evaluate") if folder.endswith("prior") else ("classifier",))
  for folder, names, start_from in gone_through[num_runs:]:
    assert "inverter" in names
    assert start_from == ("" if folder.endswith("prior") else f"{tmp_path}/digits/dynamics/prior")


def test_the_paper_s_own_reader_is_a_flag_and_the_recipe_stays():
  scale = plans.SCALES["miniature"]
  for planned in plans.layers(scale):
    assert planned.config.inverter.network.context == "decoder"
  for own, planned in zip(
    plans.layers(scale._replace(reader="projection")), plans.layers(scale), strict=True
  ):
    planned.config.inverter.network.context = "projection"
    assert own.config == planned.config


def test_the_list_starts_nothing(tmp_path, capsys):
  assert launch.main(["paper", "--miniature", "--list", f"--workdir={tmp_path}"]) == 0
  printed = capsys.readouterr().out
  assert "40 runs" in printed
  assert "digits/dynamics/overfitted_logits_500" in printed
  assert not list(tmp_path.iterdir())


def test_a_figure_that_does_not_exist_is_a_sentence(capsys):
  with pytest.raises(SystemExit) as stop:
    launch.main(["figure_9"])
  assert stop.value.code == 2
  assert "invalid choice: 'figure_9'" in capsys.readouterr().err


def test_only_a_finished_run_can_be_drawn(tmp_path):
  with pytest.raises(UserError, match="is missing"):
    experiments.figure_5a(tmp_path, tmp_path, plans.SCALES["smoke"])


def read_csv(path):
  with path.open(newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))
