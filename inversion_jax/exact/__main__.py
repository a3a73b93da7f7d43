r"""Measures the bound, and other estimators, where the true mutual information is known.

python -m inversion_jax.exact --quick                          # every task, minutes on a laptop
python -m inversion_jax.exact --task=ising,pool --output=runs/exact
"""

import pathlib
import sys

from absl import app, flags

from inversion_jax import progress, storage
from inversion_jax.errors import UserError
from inversion_jax.exact import measure, rivals
from inversion_jax.exact.tasks import TASKS

_TASK = flags.DEFINE_list("task", list(TASKS), f"Which tasks: {', '.join(TASKS)}.")
_QUICK = flags.DEFINE_bool("quick", False, "600 training steps a task instead of 5,000.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder for exact.json; none is written without it.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the draws and of the training.")
_ESTIMATORS = flags.DEFINE_bool("estimators", True, "Whether to run the other estimators too.")

HEADER = ("task", "truth", "bound", "gap", "reached", "seconds")


def main(argv):
  """Runs the tasks, prints a table, and writes `exact.json`."""
  del argv
  results = []
  for name in _TASK.value:
    progress.say("%s: preparing", name)
    task = TASKS[name]()
    result = measure.measure(task, measure.QUICK if _QUICK.value else measure.FULL, _SEED.value)
    others = rivals.estimates(task, _SEED.value) if _ESTIMATORS.value else {}
    results.append((result, others))
    _write(results)
  _print_table(results)
  for result, _ in results:
    if not result.is_valid:
      print(f"{result.task.name}: the bound exceeds the truth by more than three standard errors.")
    if not result.reaches:
      print(f"{result.task.name} falls short: {result.missing}.")
  if _OUTPUT.value:
    print(f"The numbers are in {pathlib.Path(_OUTPUT.value) / 'exact.json'}")


def _write(results):
  if _OUTPUT.value:
    rows = [as_json(result, others) for result, others in results]
    storage.write_json(pathlib.Path(_OUTPUT.value) / "exact.json", rows)


def as_json(result: measure.Result, others: dict) -> dict:
  """One task's numbers, in nats."""
  return {
    "task": result.task.name,
    "description": result.task.description,
    "truth_nats": result.task.truth_nats,
    "truth_standard_error": result.task.truth_standard_error,
    "bound_nats": result.bound.mean,
    "bound_standard_error": result.bound.standard_error,
    "gap_nats": result.gap.mean,
    "gap_standard_error": result.gap.standard_error,
    "train_gap_nats": result.train_gap.mean,
    "entropy_nats": result.task.entropy_nats,
    "nce_nats": result.nce.mean,
    "least_nats": result.task.least_nats,
    "is_valid": result.is_valid,
    "reaches": result.reaches,
    "estimates": others,
    "seconds": result.seconds,
  }


def _print_table(results):
  rows = []
  for result, _ in results:
    task, bound, gap = result.task, result.bound, result.gap
    rows.append(
      (
        task.name,
        f"{task.truth_nats:.3f} ± {task.truth_standard_error:.3f}",
        f"{bound.mean:.3f} ± {bound.standard_error:.3f}",
        f"{gap.mean:.3f} ± {gap.standard_error:.3f}",
        f"{bound.mean / task.truth_nats:.1%}",
        f"{result.seconds:.0f}",
      )
    )
  print("I(x; h) in nats, ± one standard error; the gap is measured image by image.")
  _print_rows([HEADER, *rows])
  others = [
    (result.task.name, method, f"{one['nats']:.3f}", one["kind"], *_ceiling(one))
    for result, estimates in results
    for method, one in estimates.items()
  ]
  if others:
    print("\nOther estimators of the same I(x; h)")
    _print_rows([("task", "method", "nats", "kind", "ceiling"), *others])


def _ceiling(estimate):
  ceiling = estimate["ceiling_nats"]
  return ("none" if ceiling is None else f"{ceiling:.3f}",)


def _print_rows(rows):
  widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
  for row in rows:
    print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _parse_flags(argv):
  try:
    left_over = flags.FLAGS(argv)
    unknown = [name for name in _TASK.value if name not in TASKS]
    if unknown:
      raise UserError(f"--task={unknown[0]} is not known; use one of {', '.join(TASKS)}.")
    if len(left_over) > 1:
      raise UserError(f"{left_over[1]!r} is not a flag; did you mean --{left_over[1]}?")
    return left_over
  except (UserError, flags.Error) as error:
    print(f"inversion_jax.exact: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  progress.show_lines()
  app.run(main, flags_parser=_parse_flags)
