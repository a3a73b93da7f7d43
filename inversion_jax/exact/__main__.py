r"""Measures the bound, and other estimators, where the true mutual information is known.

python -m inversion_jax.exact --quick                          # every task, under an hour of a core
python -m inversion_jax.exact --task=ising,pool --output=runs/exact
python -m inversion_jax.exact --mixture=3 --task=pool --quick   # several seeds as one density
python -m inversion_jax.exact --brackets --quick --output=runs/exact   # through noise: both sides
python -m inversion_jax.exact --codelength --quick --output=runs/exact   # while it learns
"""

import argparse
import pathlib
from collections.abc import Sequence

from inversion_jax.exact import codelength, curves, measure, mixing, others
from inversion_jax.exact.tasks import TASKS
from inversion_jax.machine import progress, storage
from inversion_jax.machine.errors import Parser, as_sentences
from inversion_jax.report.bounds import brackets_figure
from inversion_jax.report.figures import save
from inversion_jax.report.learning_figures import excess_figure

BRACKETS_HEADER = ("task", "channel", "truth", "method", "kind", "nats", "standard error")
CODELENGTHS = "codelengths.json"
CODELENGTH_HEADER = (
  "task",
  "images",
  "H(x | h)",
  "L(x | h) / n",
  "beyond the truth",
  "the last of it",
)
CODELENGTH_HEADER += ("I(x; h)", "saved by h", "seconds")
MIXTURE = "mixture.json"
HEADER = ("task", "truth", "bound", "gap", "reached", "seconds")


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the tasks, prints a table, and writes `exact.json`."""
  given = _parser().parse_args(arguments)
  recipe = measure.QUICK if given.quick else measure.FULL
  with as_sentences(given.output, "--output"):
    if given.output:
      # Not after minutes of training.
      given.output.mkdir(parents=True, exist_ok=True)
    if given.codelength:
      _run_codelengths(recipe, given)
    elif given.brackets:
      _run_brackets(recipe, given)
    elif given.mixture:
      _run_mixtures(recipe, given)
    else:
      _run_tasks(recipe, given)


def _run_tasks(recipe, given):
  results = []
  for name in given.task:
    progress.say("%s: preparing", name)
    task = TASKS[name]()
    result = measure.measure(task, recipe, given.seed)
    estimates = others.estimates(task, given.seed) if given.estimators else {}
    results.append((result, estimates))
    _write(results, given.output)
  _print_table(results)
  for result, _ in results:
    if not result.is_valid:
      print(f"{result.task.name}: the bound exceeds the truth by more than three standard errors.")
    if not result.reaches:
      print(f"{result.task.name} falls short: {result.missing}.")
  if given.output:
    print(f"The numbers are in {given.output / 'exact.json'}")


def _run_brackets(recipe, given):
  by_curve = {curve: curves.rows(curve, recipe, given.seed) for curve in curves.CURVES}
  found = [row for rows in by_curve.values() for row in rows]
  print("I(x; h~) in nats through a channel, where it is known.")
  _print_rows([BRACKETS_HEADER, *map(_bracket_cells, found)])
  for sentence in curves.violations(found) or ["No bound is on the wrong side of the truth."]:
    print(sentence)
  if given.output:
    storage.write_json(given.output / storage.BRACKETS, found)
    save(brackets_figure(by_curve), given.output / "brackets.png")
    print(f"The numbers are in {given.output / storage.BRACKETS}, the figure beside it")


def _run_codelengths(recipe, given):
  all_told = []
  for name in given.task:
    progress.say("%s: preparing", name)
    all_told.append(codelength.told(TASKS[name](), recipe, given.seed))
    if given.output:
      rows = [told.fields() for told in all_told]
      storage.write_json(given.output / CODELENGTHS, rows)
      curves_of = {told.task.name: told.excess.blocks for told in all_told}
      save(excess_figure(curves_of), given.output / "codelengths.png")
  print("Nats per image of images that are scored before they are learnt, each once.")
  _print_rows([CODELENGTH_HEADER, *map(_codelength_cells, all_told)])
  for told in all_told:
    if not told.is_valid:
      print(f"{told.task.name}: a codelength is below its entropy by over three standard errors.")
  if given.output:
    print(f"The numbers are in {given.output / CODELENGTHS}, the figure beside it")


def _codelength_cells(told):
  estimates = told.given_h.per_image, told.excess.per_image, told.last, told.saved
  mean, excess, last, saved = (f"{one.mean:.3f} ± {one.standard_error:.3f}" for one in estimates)
  conditional = f"{told.task.entropy_nats - told.task.truth_nats:.3f}"
  counts = f"{len(told.given_h):,}", conditional
  ends = f"{told.task.truth_nats:.3f}", saved, f"{told.seconds:.0f}"
  return told.task.name, *counts, mean, excess, last, *ends


def _run_mixtures(recipe, given):
  found = []
  for name in given.task:
    progress.say("%s: %d members", name, given.mixture)
    found.append(mixing.measured(TASKS[name](), recipe, given.seed, given.mixture))
    if given.output:
      storage.write_json(given.output / MIXTURE, [one.as_json() for one in found])
  shares = (f"mixture, share {share:g}" for share in mixing.SHARES)
  print("Nats of log p(x | h) that are missed, ± one standard error; the fewer the better.")
  header = ("task", "truth", "members", *shares, "above the best")
  _print_rows([header, *map(_mixture_cells, found)])
  for one in found:
    if not one.is_valid:
      print(f"{one.task.name}: a density exceeds the truth by more than three standard errors.")


def _mixture_cells(mixed):
  def cell(estimate):
    return f"{estimate.mean:.3f} ± {estimate.standard_error:.3f}"

  members = ", ".join(f"{gap.mean:.3f}" for gap in mixed.gaps)
  mixtures = map(cell, mixed.mixture_gaps.values())
  truth = f"{mixed.task.truth_nats:.3f}"
  return mixed.task.name, truth, members, *mixtures, cell(mixed.over_best)


def _bracket_cells(row):
  nats = "infinite" if row["nats"] is None else f"{row['nats']:.3f}"
  error = "none" if row["standard_error"] is None else f"{row['standard_error']:.3f}"
  strength = curves.strength_of(row)
  return row["curve"], strength, f"{row['truth_nats']:.3f}", row["method"], row["kind"], nats, error


def _parser():
  parser = Parser("inversion_jax.exact", __doc__)
  tasks = ", ".join(TASKS)
  parser.add_argument("--task", type=_task_names, default=list(TASKS), help=f"which of {tasks}")
  parser.add_argument(
    "--quick", action="store_true", help="fewer training steps: under an hour instead of many"
  )
  parser.add_argument(
    "--brackets",
    action="store_true",
    help="instead of the tasks: known information through noise and few bits, from both sides",
  )
  parser.add_argument(
    "--codelength",
    action="store_true",
    help="instead of the estimates: what images cost before they are learnt, beside the entropy",
  )
  parser.add_argument(
    "--mixture",
    type=_num_members,
    default=0,
    metavar="M",
    help="instead of the tasks' table: M inverters of each task, of other seeds, as one density",
  )
  parser.add_argument("--output", type=pathlib.Path, help="folder for exact.json")
  parser.add_argument("--seed", type=int, default=0, help="of the draws and of the training")
  parser.add_argument(
    "--estimators",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="whether to run the other estimators too",
  )
  return parser


def _num_members(text):
  if not text.isdecimal() or int(text) < 2:
    raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 2")
  return int(text)


def _task_names(text):
  names = text.split(",")
  unknown = [name for name in names if name not in TASKS]
  if unknown:
    raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not known; use {', '.join(TASKS)}")
  return names


def _write(results, output):
  if output:
    rows = [as_json(result, others) for result, others in results]
    storage.write_json(output / "exact.json", rows)


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


if __name__ == "__main__":
  progress.show_lines()
  main()
