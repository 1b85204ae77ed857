"""The site: `make docs` builds it with Sphinx, from these pages and from the docstrings. Nothing is fetched."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import api_pages  # noqa: E402

import vzoom  # noqa: E402

project = "vzoom"
author = "The vzoom authors"
copyright = author
version = release = vzoom.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"  # its fonts are the reader's own
html_title = f"vzoom {version}"
html_copy_source = False
html_show_sphinx = False

# A heading is a link target by its own words, on the site as on GitHub.
myst_heading_anchors = 3

default_role = "code"  # `name` in a docstring is code, as in Markdown
add_module_names = False
python_maximum_signature_line_length = 88
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # `Attributes:` is a list in the class's text; a property has its own entry


def read_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = api_pages.as_rst(lines)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # before napoleon reads the sections
    app.connect("builder-inited", lambda app: api_pages.write(HERE / "api"))
