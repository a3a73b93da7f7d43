"""Pieces of a web page that is one file: pictures inside, nothing loaded, no script but its own."""

import base64
import hashlib
import html
import json
import math
import pathlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from inversion_jax import information


class Html(str):
  """Text that is markup already; any other value is escaped before it enters a page."""


def escaped(value: Any) -> Html:
  """`value` as markup."""
  return value if isinstance(value, Html) else Html(html.escape(str(value)))


def element(tag: str, *content: Any, **attributes: Any) -> Html:
  """<tag attributes>content</tag>; `class_` is written `class`, and `aria_label` `aria-label`."""
  written = "".join(
    f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for name, value in attributes.items()
  )
  return Html(f"<{tag}{written}>{''.join(map(escaped, content))}</{tag}>")


def section(heading: str, *content: Any) -> Html:
  """A titled part of the page."""
  return Html("\n" + element("section", element("h2", heading), *content))


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, num_names: int = 1) -> Html:
  """A table whose first `num_names` columns are words and whose others are numbers."""

  def cells(tag, row):
    return (
      element(tag, value, class_="word" if place < num_names else "number")
      for place, value in enumerate(row)
    )

  body = "\n".join(element("tr", *cells("td", row)) for row in rows)
  head = element("thead", element("tr", *cells("th", header)))
  return element("div", element("table", head, element("tbody", Html(body))), class_="wide")


def facts(pairs: Iterable[tuple[Any, Any]]) -> Html:
  """A table of two columns without a header: name, value."""
  rows = (element("tr", element("th", name), element("td", value)) for name, value in pairs)
  return element("div", element("table", *rows, class_="facts"), class_="wide")


def numbers(figures: Iterable[tuple[str, Any, str]]) -> Html:
  """The headline: (name, number, unit or remark), large and side by side."""
  boxes = (
    element("div", element("span", name), element("strong", number), element("small", unit))
    for name, number, unit in figures
  )
  return element("div", *boxes, class_="numbers")


def picture(path: pathlib.Path, alt: str, caption: str) -> Html:
  """A PNG file, embedded at half its pixels so that it is sharp on a fine screen."""
  return element("figure", image(path.read_bytes(), alt), element("figcaption", caption))


def image(data: bytes, alt: str) -> Html:
  """The bytes of a PNG file as an element, at half its pixels."""
  width, height = struct.unpack(">II", data[16:24])  # where every PNG has them
  return Html(
    f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{escaped(alt)}"'
    f' width="{width // 2}" height="{height // 2}">'
  )


def data_block(name: str, value: Any) -> Html:
  """A value as JSON for the script of the page, which finds it by `name`.

  No text in it can end the block or begin another: it has no "<".
  """
  text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
  return element("script", Html(text), type="application/json", id=name)


def folded(title: str, *content: Any) -> Html:
  """Content that opens with a click."""
  return element("details", element("summary", title), *content)


def number(value: float | int, decimals: int) -> str:
  """A number with a true minus sign."""
  return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def with_error(estimate: information.Estimate) -> str:
  """ "mean ± standard error", the error with two figures."""
  decimals = _decimals(estimate)
  return f"{number(estimate.mean, decimals)} ± {number(estimate.standard_error, decimals)}"


def interval(estimate: information.Estimate) -> str:
  """ "low to high", the 95% interval, as precise as `with_error`."""
  return range_of(estimate.interval(), estimate)


def range_of(ends: tuple[float, float], estimate: information.Estimate) -> str:
  """ "low to high", as precise as `with_error` writes `estimate`."""
  return " to ".join(number(end, _decimals(estimate)) for end in ends)


def _decimals(estimate: information.Estimate) -> int:
  error = estimate.standard_error
  return min(6, max(0, 1 - math.floor(math.log10(error)))) if error > 0 else 2


def page(title: str, kicker: str, *content: Any, style: str = "", script: str = "") -> str:
  """A whole document.

  Its policy lets a browser load nothing from anywhere and run `script` alone, whatever the content.
  """
  header = element("header", element("p", kicker, class_="kicker"), element("h1", title))
  body = element("main", header, *content)
  scripts = element("script", Html(script)) if script else ""
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{escaped(title)}</title>\n<style>{_CSS}{style}</style>\n</head>\n<body>\n{body}\n"
    f"{scripts}</body>\n</html>\n"
  )


def _policy(script: str) -> str:
  """Pictures within the page, its style, and the script with this hash."""
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  allowed = f"'sha256-{digest}'" if script else "'none'"
  return (
    f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed};"
    " base-uri 'none'; form-action 'none'"
  )


_CSS = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1f2933; --soft: #5b6773;
  --line: #dfe3e8; --box: #f3f5f7; --link: #1f5fa8; --warn: #a34a00; --warn-box: #fdf1e4; }
@media (prefers-color-scheme: dark) { :root { --paper: #15191e; --ink: #e2e7ec; --soft: #9aa7b3;
  --line: #2f3842; --box: #1e252c; --link: #8fb8e0; --warn: #f2ab6b; --warn-box: #33261a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 962px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
p, li { max-width: 46rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .6rem; }
a { color: var(--link); }
.kicker { margin: 0 0 .3rem; color: var(--soft); font-size: .85rem; letter-spacing: .04em; }
.numbers { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.5rem 0; }
.numbers div { flex: 1 1 11rem; background: var(--box); border-radius: 10px;
  padding: .8rem 1rem; }
.numbers div:first-child { flex-grow: 1.5; }
.numbers span, .numbers small { display: block; color: var(--soft); font-size: .82rem; }
.numbers strong { display: block; font-size: 1.25rem; line-height: 1.4; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.note { border-left: 3px solid var(--link); background: var(--box); border-radius: 0 8px 8px 0;
  padding: .7rem 1rem; margin: 1.2rem 0; max-width: none; }
.warning { border-color: var(--warn); background: var(--warn-box); }
.note p { margin: .3rem 0; max-width: none; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 8px; }
@media (prefers-color-scheme: dark) { img { padding: 6px; } }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .5rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
td.word, td.number { white-space: nowrap; }
.wrap { display: block; min-width: 14rem; white-space: normal; }
.number { text-align: right; padding-left: .9rem; }
.facts th { font-weight: 400; color: var(--soft); padding-right: 2rem; }
.legend { color: var(--soft); font-size: .88rem; }
.facts td, .facts th { overflow-wrap: anywhere; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem 4rem; }
summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
pre { background: var(--box); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto;
  font-size: .88rem; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media print { details > * { display: block; } section { break-inside: avoid; }
  .wide { overflow: visible; } .wide table { font-size: .74rem; } }
"""


def step_warning(step: int | None, evaluated_step: int | None, stage: str) -> Html:
  """What to know of a part of the page if the inverter has been trained on since.

  Args:
    step: of the inverter that the part is about; None in a file too old to tell it.
    evaluated_step: of the inverter whose numbers the page shows.
    stage: which writes the part anew.
  """
  if step in (None, evaluated_step):
    return Html("")
  return element(
    "p",
    f"Of the inverter of step {step:,}, which is not the one evaluated here: run the {stage}"
    " stage again.",
    class_="note warning",
  )
