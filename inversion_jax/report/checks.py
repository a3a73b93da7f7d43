"""The answers of the checks stage, as a part of a run's report."""

from typing import Any

from inversion_jax import information
from inversion_jax.report import page
from inversion_jax.report.page import Html, element, number
from inversion_jax.report.runs import Run


def section(run: Run) -> Html:
  """The part of the page about checks; nothing before that stage has run."""
  if not run.checks:
    return Html("")
  failed = [check["check"] for check in run.checks if not check["passes"]]
  header = ("check", "", "what must hold", "difference, nats", "95% interval", "admitted")
  cells = []
  for check in run.checks:
    difference = information.Estimate(check["difference_nats"], check["standard_error"], 0)
    cells.append(
      (
        check["check"],
        "passed" if check["passes"] else element("strong", "FAILED"),
        element("span", check["question"], class_="wrap"),
        page.with_error(difference),
        page.range_of((check["low"], check["high"]), difference),
        _admitted(check),
      )
    )
  verdict = (
    f"{len(failed)} of {len(run.checks)} failed: {', '.join(failed)}. Numbers of this run should"
    " not be used."
    if failed
    else f"All {len(run.checks)} passed."
  )
  staleness = _staleness(run)
  text = (
    "Controls of this run whose answer is known. Positive differences: more is recovered than by"
    " what the control is compared with. One passes if its 95% interval over test images overlaps"
    " the admitted range, which leaves room for two trainings of one model to end apart."
  )
  return page.section(
    "Checks",
    element(
      "p",
      element("strong", verdict + staleness),
      class_="note warning" if failed or staleness else "note",
    ),
    page.table(header, cells, num_names=3),
    element("p", text, class_="legend"),
  )


def _staleness(run: Run) -> str:
  """What to know if the inverter was trained on since the checks; old files tell no step."""
  checked, evaluated = run.checks[0].get("inverter_step"), run.summary.get("inverter_steps")
  if None in (checked, evaluated) or checked == evaluated:
    return ""
  return (
    f" They are of the inverter at step {checked:,}, the numbers of this page of step"
    f" {evaluated:,}: run the checks stage again."
  )


def _admitted(check: dict[str, Any]) -> str:
  """The range that a check admits, in nats; one end may be open."""
  least, most = check["least"], check["most"]
  if least is None:
    return f"at most {number(most, 2)}"
  return f"{number(least, 2)} to {number(most, 2)}"
