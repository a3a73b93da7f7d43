"""What values a field may have; whoever knows the field's full name puts it before the sentence."""

import math
import numbers as numbers_abc
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from inversion_jax.machine.errors import UserError


class Limit(NamedTuple):
  """A condition on a number, and what to say where it does not hold."""

  holds: Callable[[Any], bool]
  words: str


ABOVE_ZERO = Limit(lambda number: number > 0, "must be above zero")
NOT_NEGATIVE = Limit(lambda number: number >= 0, "must not be below zero")
FRACTION = Limit(lambda number: 0 <= number < 1, "must be at least 0 and below 1")


def within(low: float | int, high: float | int) -> Limit:
  """The condition of lying between two numbers, or on one of them."""
  return Limit(lambda number: low <= number <= high, f"must be from {low} to {high}")


# JAX makes its keys from 32 bits.
SEED = within(0, 2**32 - 1)
# What stands for the seed of a part that has none of its own, but the run's.
SAME_SEED = -1


def check_number(name: str, value: Any, limit: Limit):
  """Raises UserError unless `value`, a number or several, is finite and within `limit`."""
  numbers = value if isinstance(value, tuple | list) else (value,)
  for number in numbers:
    if isinstance(number, bool) or not isinstance(number, numbers_abc.Real):
      raise UserError(f"{name}={value!r} must be a number, not {type(number).__name__}.")
  if not all(_is_finite(number) for number in numbers):
    raise UserError(f"{name}={value} must be finite.")
  if not all(limit.holds(number) for number in numbers):
    raise UserError(f"{name}={value} {limit.words}.")


def _is_finite(number):
  # A Python integer can be too large to be looked at as a float.
  return isinstance(number, int) or math.isfinite(number)


def check_integer(name: str, value: Any, limit: Limit):
  """`check_number`, and UserError for numbers that are not whole."""
  check_number(name, value, limit)
  if value != int(value):
    raise UserError(f"{name}={value} must be a whole number.")


def check_fields(record: Any, names: Iterable[str], limit: Limit, check: Callable = check_number):
  """`check_number`, or another check, of some attributes of `record`."""
  for name in names:
    check(name, getattr(record, name), limit)


def check_one_of(name: str, value: Any, admitted: Iterable[Any]):
  """Raises UserError unless `value` is one of `admitted`."""
  if value not in admitted:
    names = ", ".join(repr(one) for one in admitted)
    raise UserError(f"{name}={value!r} is not one of {names}.")
