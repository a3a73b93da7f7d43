"""Layers in order under two readers: the plan, and what is drawn of runs of known numbers."""

import csv

import pytest
from report_examples import draw_nats, fake_run

from inversion_jax import config as config_lib
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError
from inversion_jax.paper import __main__ as launch
from inversion_jax.paper import plans, rankings
from inversion_jax.report.files import read_run

SCALE = plans.SCALES["smoke"]._replace(num_seeds=2)
# In nats; of the second reader 2 below, of the second seed 1 below.
NCE = {"conv1": -26.0, "conv2": -43.0, "fc3": -68.0, "logits": -74.0, "": -79.0}


def ranked_run(root, seed, layer, reader):
  folder = root / "digits" / plans.ranking_name(layer, reader)
  name = layer or "none"
  nats_N = draw_nats(name, -NCE[layer] + 2.0 * (reader == plans.PAPERS_READER) + seed)
  fake_run(folder, name, nats_N, samples=False, stages=("inverter",))
  config = storage.read_json(folder / storage.CONFIG) | {"seed": seed}
  config["inverter"]["network"]["context"] = reader
  storage.write_json(folder / storage.CONFIG, config)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("ranking")
  for seed, root in enumerate(plans.roots(workdir, SCALE)):
    for layer, reader in plans.ranking_places(SCALE):
      ranked_run(root, seed, layer, reader)
  rankings.draw(workdir, workdir / "figures", SCALE)
  return workdir / "figures"


def rows_of(drawn):
  with (drawn / "ranking.csv").open(newline="", encoding="utf-8") as file:
    return {(row["reader"], row["layer"]): row for row in csv.DictReader(file)}


def test_every_layer_stands_under_both_readers_and_seeds_are_one_row(drawn):
  rows = rows_of(drawn)
  assert list(rows)[-1] == ("", "none")
  assert len(rows) == 2 * len(plans.LAYERS) + 1
  assert {row["num_seeds"] for row in rows.values()} == {"2"}
  for (reader, layer), row in rows.items():
    expected = NCE["" if layer == "none" else layer] - 2.0 * (reader == "projection") - 0.5
    assert float(row["nce_nats"]) == pytest.approx(expected)


def test_layers_are_compared_with_p_of_x_the_layer_before_and_the_other_reader(drawn):
  rows = rows_of(drawn)
  row = rows["decoder", "fc3"]
  assert float(row["minus_prior_nats"]) == pytest.approx(NCE["fc3"] - NCE[""])
  assert float(row["minus_layer_before_nats"]) == pytest.approx(NCE["fc3"] - NCE["conv2"])
  assert float(row["minus_other_reader_nats"]) == pytest.approx(2.0)
  assert (row["over_prior"], row["verdict"], row["over_other_reader"]) == (
    "higher",
    "lower",
    "higher",
  )
  assert rows["decoder", "conv1"]["verdict"] == "", "there is none before it"
  assert rows["projection", "conv1"]["verdict"] == "", "before it stands another reader"
  assert rows["projection", "fc3"]["minus_other_reader_nats"] == "", "it is said once"
  assert rows["", "none"]["minus_prior_nats"] == ""


def test_each_set_has_its_comparison_beside_the_figure(drawn):
  assert (drawn / "ranking.png").stat().st_size > 10_000
  assert (drawn / "ranking_digits" / "report.html").exists()
  assert (drawn / "ranking_digits" / "differences.csv").exists()


def test_what_validation_falls_at_last_is_of_its_last_fifth(tmp_path):
  fake_run(tmp_path, "fc3", samples=False, stages=())
  # The best before the last fifth is at 300.
  nats = {100: 50.0, 400: 41.0, 300: 40.0, 450: 39.5, 500: 39.0}
  lines = [
    {"stage": "inverter", "step": step, "validation_nats_per_image": value}
    for step, value in nats.items()
  ]
  run = read_run(tmp_path)._replace(metrics=lines)
  assert rankings.last_part_percent(run) == pytest.approx(100 * 1.0 / 40.0)
  assert rankings.last_part_percent(run._replace(metrics=lines[:1])) == 0.0


def test_the_plan_has_both_readers_of_one_classifier_and_p_of_x():
  planned = plans.ranking(plans.SCALES["coarse"])
  of_set = {one.folder: one.config for one in planned if one.folder.startswith("mnist/14/")}
  assert len(planned) == 4 * len(of_set) == 4 * 9
  ours, papers = of_set["mnist/14/decoder_fc3"], of_set["mnist/14/projection_fc3"]
  assert (ours.inverter.network.context, papers.inverter.network.context) == plans.READERS
  assert config_lib.classifier_identity(ours) == config_lib.classifier_identity(papers)
  assert of_set["mnist/14/prior"].representation.layer == config_lib.NO_LAYER
  of_two_layers = plans.SCALES["coarse"]._replace(layers=("conv2", "fc3"))
  assert len(plans.ranking(of_two_layers)) == 4 * 5
  one_reader = plans.ranking(plans.SCALES["coarse"]._replace(reader="encoder"))
  assert len(one_reader) == 4 * 5


def test_replicates_of_a_launch_begin_from_the_p_of_x_of_their_seed():
  planned = plans.replicated(plans.dynamics(plans.SCALES["smoke"]), SCALE)
  assert len(planned) == 2 * len(plans.dynamics(plans.SCALES["smoke"]))
  for one in planned:
    seed = one.config.seed
    assert one.folder.startswith(f"seed_{seed}/digits/dynamics/")
    if one.config.inverter.start_from:
      assert one.config.inverter.start_from == f"seed_{seed}/digits/dynamics/prior"
  (single, *_) = plans.replicated(plans.ranking(plans.SCALES["smoke"]), plans.SCALES["smoke"])
  assert single.folder == "digits/decoder_conv1"


def test_the_command_line_chooses_set_seeds_and_fields(capsys):
  arguments = ["ranking", "--coarse", "--set=mnist/7", "--seeds=3", "--list"]
  assert launch.main([*arguments, "--config.inverter.num_steps=123"]) == 0
  printed = capsys.readouterr().out
  assert "27 runs" in printed
  assert "seed_2/mnist/7/projection_logits" in printed
  assert f"{123 * 16:,}" in printed


def test_coarse_digits_that_lie_anywhere_are_figure_4s(capsys):
  assert launch.main(["figure_4", "--coarse", "--seeds=2", "--list"]) == 0
  printed = capsys.readouterr().out
  assert "6 runs" in printed
  assert "seed_1/affnist/10/dense_fc3" in printed
  (whole, *_) = plans.architectures(plans.SCALES["paper"])
  (coarse, *_) = plans.architectures(plans.SCALES["coarse"])
  assert (whole.folder, whole.config.data.name) == ("affnist/conv_fc3", "affnist")
  # Not what makes the whole set smaller for a laptop.
  assert (coarse.config.data.name, coarse.config.inverter.num_steps) == ("affnist/10", 4_000)


@pytest.mark.parametrize(
  ("argument", "words"),
  [
    ("--config.inverter.num_step=3", "no field 'inverter.num_step'"),
    ("--config.inverter.num_steps=many", "of type int"),
    ("--config.inverter.num_steps", "fields are changed as in --config."),
    ("--config.seeds=3", "use --seeds"),
    ("--config.inverter.network.context=projection", "use --reader"),
    ("--set=features", "invalid choice: 'features'"),
    ("--sedes=3", "--sedes=3 is not known"),
    ("--layers=conv2,fc4", "'fc4' is none of conv1, conv2"),
    ("--seeds=0", "leaves nothing to run"),
    ("--set=mnist/13", "invalid choice: 'mnist/13'"),
  ],
)
def test_a_mistake_on_the_command_line_is_a_sentence(argument, words, capsys):
  with pytest.raises(SystemExit) as stop:
    launch.main(["ranking", "--smoke", "--list", argument])
  assert stop.value.code == 2
  assert words in capsys.readouterr().err


def test_fields_take_the_types_that_they_have():
  config = config_lib.preset("digits", "fc3")
  for name, text, value in (
    ("inverter.learning_rate", "1e-2", 0.01),
    ("inverter.network.context", "projection", "projection"),
    ("inverter.codelength", "False", False),
    ("brackets.sigmas", "(0.5,)", (0.5,)),
  ):
    config_lib.set_field(config, name, text)
    assert dict(config_lib.leaves(config))[name] == value
  for name, text in (("seed", "1.5"), ("data.nam", "mnist"), ("inverter.codelength", "fales")):
    with pytest.raises(UserError):
      config_lib.set_field(config, name, text)
