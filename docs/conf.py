"""The site: `pip install -e ".[docs]" && sphinx-build -W --keep-going docs docs/_build/html`.

Pages are Markdown that GitHub shows, too. Those with cells run when the site is built.
"""

import importlib.metadata
import os
import pathlib
import re

# Cells train small networks: alike everywhere, and what several pages compile is compiled once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
built = pathlib.Path(__file__).parent / "_build"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(built / "compiled"))

project = "inversion_jax"
author = "the authors of inversion_jax"
release = importlib.metadata.version("inversion_jax")

extensions = [
  "myst_nb",
  "sphinx_design",
  "sphinxcontrib.mermaid",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "inversion_jax"
html_theme_options = {
  "show_toc_level": 2,
  "use_download_button": False,
  "navbar_persistent": [],
}
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Indented blocks are commands.
highlight_language = "none"
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_cache_path = str(built / "cells")
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

# Every reference to a name of ours must be found; there is no network for those of others.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!inversion_jax).*")]
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
napoleon_use_ivar = True

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")


def as_restructured_text(app, kind, name, obj, options, lines):
  """Docstrings are written as Markdown is: examples are indented, tables have bars."""
  written, is_in_section, is_verbatim = [], False, False
  for line in lines:
    if line and not line.startswith(" "):
      is_in_section = bool(SECTION.match(line))
    was_verbatim, is_verbatim = is_verbatim, _is_verbatim(line, is_verbatim) and not is_in_section
    if is_verbatim and not was_verbatim:
      written += ["::", ""]
    written.append(f"    {line}" if is_verbatim else line.replace("|", r"\|"))
  lines[:] = written


def _is_verbatim(line, is_going_on):
  """Whether a line is one of an example or a table, or an empty one inside."""
  return line.startswith(("    ", "| ", "|-")) or (is_going_on and not line)


def is_left_out(app, kind, name, obj, skip, options):
  """Fields of named tuples, of which Python only says that they are; signatures have them."""
  return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field") else None


def setup(app):
  """Before napoleon, which reads sections."""
  app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
  app.connect("autodoc-skip-member", is_left_out)
