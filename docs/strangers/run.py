"""Runs the Python of a page in this folder, block by block, as a reader would.

python docs/strangers/run.py docs/strangers/pca.md
"""

import pathlib
import re
import sys


def blocks(page: pathlib.Path) -> list[str]:
  """The Python blocks of a page, in their order, on the lines that they have in it."""
  text = page.read_text(encoding="utf-8")
  return [
    "\n" * text[: match.start(1)].count("\n") + match[1]
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
  ]


def main():
  """Runs the page that the command line names."""
  page, names = pathlib.Path(sys.argv[1]), {}
  for block in blocks(page):
    exec(compile(block, page, "exec"), names)


if __name__ == "__main__":
  main()
