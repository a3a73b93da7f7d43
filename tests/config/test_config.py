"""Every configuration that ships, and the fields that one can get wrong."""

import re

import pytest
from run_examples import CONFIGS, ROOT, edited, get_config

from inversion_jax import config as config_lib
from inversion_jax import main
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run


@pytest.mark.parametrize("variant", ["", "smoke"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_passes_the_checks(name, variant):
  config = config_lib.check(get_config(name, variant))
  if name not in ("digits", "features"):
    dataset, *kind, layer = name.split("_")
    assert config.data.name.startswith(dataset)
    assert config.representation.layer == ("" if layer == "prior" else layer)
    assert not kind or config.classifier.network.kind == kind[0]


def test_a_configuration_is_found_by_its_path_or_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in CONFIGS:
    path = ROOT / "configs" / f"{name}.py"
    assert config_lib.file_of(name).samefile(path)
    assert config_lib.file_of(str(path)) == path
  # What lies here goes before what comes with the program.
  (tmp_path / "digits").write_text("")
  assert config_lib.file_of("digits").absolute() == tmp_path / "digits"
  with pytest.raises(UserError, match=r"digits_fc does not exist; .* such as digits_fc3, digits"):
    config_lib.file_of("digits_fc")


@pytest.mark.parametrize("words", [["--config=digits_fc3:smoke"], ["-config", "digits_fc3:smoke"]])
def test_the_command_line_may_name_a_configuration(words):
  argv, path = main._with_file(["inversion-jax", *words, "--config.seed=1", "--config=other"])
  assert path == config_lib.file_of("digits_fc3")
  flag = words[0].partition("=")[0]
  assert argv[1:] == [f"{flag}={path}:smoke", "--config.seed=1", "--config=other"]


def test_the_paper_configs_have_the_settings_of_appendix_a():
  for name, filters, dropout, context_dropout in (
    ("mnist_conv1", 64, 0.5, 0.0),
    ("svhn_conv1", 196, 0.1, 0.0),
    ("cifar10_conv2", 196, 0.5, 0.0),
    ("cifar10_fc3", 196, 0.5, 0.2),
  ):
    config = get_config(name)
    network = config.inverter.network
    assert (network.num_filters, network.num_blocks) == (filters, 3)
    assert (network.dropout_rate, network.context_dropout_rate) == (dropout, context_dropout)
    assert config.inverter.likelihood.num_components == 10
    assert (config.inverter.learning_rate, config.classifier.learning_rate) == (1e-3, 3e-4)
    assert config.inverter.num_steps == config.classifier.num_steps == 250_000
  assert tuple(get_config("svhn_fc3").classifier.network.num_filters) == (64, 128)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"representation__layer": "conv7"}, "representation.layer='conv7' is not one of"),
    ({"representation__step": 55}, "representation.step=55 is not kept"),
    ({"data__name": "imagenet"}, "data.name='imagenet' is not one of"),
    ({"dtype": "float8"}, "dtype='float8' is not one of"),
    ({"inverter__decay": "fast"}, "inverter.decay='fast' is not one of"),
    ({"decoder__decay": "fast"}, "decoder.decay='fast' is not one of"),
    ({"decoder__network__num_scales": 0}, "decoder.network.num_scales=0 must be above zero"),
    ({"inverter__network__dropout_rate": 1.5}, "must be at least 0 and below 1"),
    ({"inverter__batch_size": 0}, "inverter.batch_size=0 must be above zero"),
    ({"inverter__network__context": "both"}, "inverter.network.context='both'"),
    ({"brackets__sigmas": (1.0, 0.0)}, "brackets.sigmas=(1.0, 0.0) must be above zero"),
    ({"brackets__bits": (1, 0)}, "brackets.bits=0 is not one of"),
  ],
)
def test_a_wrong_field_is_named(fields, words):
  with pytest.raises(UserError, match=re.escape(words)):
    config_lib.check(edited(get_config("digits_fc3"), **fields))


def test_a_folder_of_another_configuration_is_left_alone(finished):
  config = edited(finished.config, inverter__network__num_filters=8)
  with pytest.raises(UserError, match=r"num_filters is 4 there and 8 here\); choose another"):
    Run(config, finished.folder).begin()
  longer = edited(finished.config, inverter__num_steps=6, sample__num_images=2)
  Run(longer, finished.folder).begin()


def test_a_folder_from_before_a_stage_existed_goes_on(finished):
  old = finished.config.to_dict()
  del old["decoder"]
  assert not config_lib.differences(old, finished.config)
  del old["inverter"]["network"]["num_filters"]
  assert config_lib.differences(old, finished.config) == [
    "inverter.network.num_filters is 64 there and 4 here"
  ]


def test_a_typo_in_a_file_of_configurations_is_an_error():
  config = get_config("digits_fc3")
  with pytest.raises(AttributeError, match="nmu_steps"):
    config.inverter.nmu_steps = 5


def test_a_layer_of_several_has_the_fields_of_its_own_file_unless_they_were_changed():
  for layer in ("conv1", "conv2", "fc3", "logits"):
    alone = dict(config_lib.leaves(get_config(f"digits_{layer}")))
    assert dict(config_lib.leaves(config_lib.for_layer(get_config("digits"), layer))) == alone
  config = edited(get_config("digits"), inverter__weight_decay=0.7)
  single = config_lib.for_layer(config, "fc3")
  assert single.inverter.weight_decay == 0.7
  assert single.inverter.network.reader_dropout_rate == 0.5
  # The preset is found by the data, whose name can be another.
  assert config_lib.for_layer(get_config("svhn_fc3"), "conv1") == get_config("svhn_conv1")


def test_the_recipe_of_another_layer_comes_without_its_reader_and_leaves_what_was_changed():
  prior = get_config("digits_prior")
  config = config_lib.with_recipe_of(edited(get_config("digits_fc3"), inverter__num_steps=90), "")
  assert config.representation.layer == "fc3"
  assert config.inverter.network.reader_dropout_rate == 0.5
  assert config.inverter.learning_rate == prior.inverter.learning_rate == 3e-3
  assert config.inverter.num_steps == 90
  # Its dropout comes with it.
  assert get_config("svhn_conv1").inverter.network.dropout_rate == 0.1
  config = config_lib.with_recipe_of(get_config("svhn_conv1"), "fc3")
  assert config.inverter.network.dropout_rate == 0.5
