"""Sphinx configuration: `python -m sphinx -W --keep-going docs docs/_build`."""

import re
from importlib.metadata import version as version_of

project = "pyro_vae"
author = "The pyro_vae developers"
release = version_of("pyro-vae")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
html_theme = "furo"
html_title = "pyro_vae"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
default_role = "code"
suppress_warnings = ["ref.python"]
autodoc_member_order = "bysource"
# Installed for the environments that use them only.
autodoc_mock_imports = ["jax", "numpyro", "pythae"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False

CODE = re.compile(r"(`[^`]*`|\\\\|https?://\S+)")


def escape_mathematics(_app, _what, _name, _obj, _options, lines):  # noqa: ANN001, ANN201
    """Keep reStructuredText from reading `|x|`, `x*` and `x_` of formulas as markup."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = CODE.split(line)
        parts[::2] = [re.sub(r"([*|]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def setup(app):  # noqa: ANN001, ANN201
    """Escape docstrings before napoleon reads them."""
    app.connect("autodoc-process-docstring", escape_mathematics, priority=100)
