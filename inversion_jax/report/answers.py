"""The answers of the checks stage, as a part of a run's report."""

from typing import Any

from inversion_jax import information
from inversion_jax.report import page
from inversion_jax.report.files import RunFiles
from inversion_jax.report.page import Html, element, number


def section(run: RunFiles) -> Html:
  """The part of the page about checks; nothing before that stage has run."""
  if not run.checks:
    return Html("")
  failed = [check["check"] for check in run.checks if not check["passes"]]
  header = ("check", "", "what must hold", "difference, nats", "95% interval", "admitted")
  cells = []
  for check in run.checks:
    difference = information.Estimate.read(check, "difference_nats", "standard_error")
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
  step = run.checks[0].get("inverter_step")
  text = (
    "Controls of this run whose answer is known. Positive differences: more is recovered than by"
    " what the control is compared with. One passes if its 95% interval over test images overlaps"
    " the admitted range, which leaves room for two trainings of one model to end apart."
  )
  return page.section(
    "Checks",
    page.step_warning(step, run.summary.get("inverter_steps"), "checks"),
    element("p", element("strong", verdict), class_="note warning" if failed else "note"),
    page.table(header, cells, num_names=3),
    element("p", text, class_="legend"),
  )


def _admitted(check: dict[str, Any]) -> str:
  """The range that a check admits, in nats; one end may be open."""
  least, most = check["least"], check["most"]
  if least is None:
    return f"at most {number(most, 2)}"
  return f"{number(least, 2)} to {number(most, 2)}"
