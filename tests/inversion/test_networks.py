import dataclasses
import types

import pytest

from inversion_jax import config as config_lib
from inversion_jax import inversion
from inversion_jax.inversion import Network
from inversion_jax.machine.errors import UserError
from inversion_jax.models.inverters import Inverter


def test_the_network_the_module_and_the_configuration_have_the_same_fields_and_defaults():
  section = config_lib.default().inverter.network.to_dict()
  assert set(section) == set(inversion.MODULE_FIELDS)
  for source in (Network, Inverter):
    defaults = {field.name: field.default for field in dataclasses.fields(source)}
    if source is Inverter:
      # The module alone is the paper's.
      assert defaults["context"] == "projection"
      defaults["context"] = "decoder"
    assert section == {name: defaults[name] for name in section}


def test_a_folder_that_is_older_than_the_reader_has_its_defaults():
  saved = config_lib.default().to_dict()
  for name in [name for name in saved["inverter"]["network"] if name.startswith("reader_")]:
    del saved["inverter"]["network"][name]
  assert "reader_filters" not in saved["inverter"]["network"]
  assert inversion.network_of(saved) == Network(reader_places=0, reader_direct=0), "there were none"
  restored = config_lib.restored(saved)
  assert restored.inverter.network.reader_places == 0
  assert restored.inverter.network.reader_filters == Network().reader_filters


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("reader_filters", 0, "reader_filters=0 must be above zero"),
    ("reader_taper", 0, "reader_taper=0 must be above zero"),
    ("reader_dropout_rate", 1.0, "reader_dropout_rate=1.0 must be at least 0 and below 1"),
    ("context", "both", "context='both' is not one of 'projection', 'encoder', 'decoder'"),
  ],
)
def test_fields_of_a_network_have_limits(field, value, words):
  with pytest.raises(UserError, match=words):
    Network(**{field: value})


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("num_filters", 4.5, "num_filters=4.5 must be a whole number"),
    ("reader_places", 0.5, "reader_places=0.5 must be a whole number"),
    ("reader_even", 3, "reader_even=3 is not one of False, True"),
  ],
)
def test_a_value_of_another_type_is_a_sentence(field, value, words):
  # Tests check types before; outside of them the fields are looked at alone.
  fields = types.SimpleNamespace(**dataclasses.asdict(Network()) | {field: value})
  with pytest.raises(UserError, match=words):
    Network.__post_init__(fields)
