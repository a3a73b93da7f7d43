import pytest

from inversion_jax.machine import compilation

LEVEL = compilation.OPTIMIZATION_LEVEL


def test_the_setting_of_jax_that_leaves_optimisations_out_holds_for_our_programs():
  assert compilation._on_cpu(**{LEVEL: 1})[LEVEL] == 0


@pytest.mark.usefixtures("as_users_compile")
def test_without_it_each_program_has_its_own_level():
  assert compilation._on_cpu(**{LEVEL: 1})[LEVEL] == 1


def test_an_option_that_this_version_does_not_know_is_left_out():
  assert "xla_cpu_no_such_option" not in compilation._on_cpu(xla_cpu_no_such_option=True)
