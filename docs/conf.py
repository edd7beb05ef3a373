"""Sphinx's settings. Neither building the pages nor reading them needs a network."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.autosummary import AutoLink

from fastpmf import __version__

project = "fastpmf"
author = "The fastpmf developers"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build"]
default_role = "name"

autodoc_typehints = "none"  # the docstrings say more
autodoc_member_order = "bysource"
autosummary_generate = False  # the reference is one page, and nothing is written beside the sources
numpydoc_show_class_members = False  # autodoc shows them, with what they do
python_maximum_signature_line_length = 100
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "alabaster"
html_theme_options = {
    "description": "Poisson matrix factorization of large sparse counts",
    "page_width": "1120px",
    "sidebar_width": "230px",
    "fixed_sidebar": True,
    "show_powered_by": False,
}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False


class Name(AutoLink):
    """What docstrings have in single backticks: a link where there is something to link to, else code as it stands."""

    def run(self) -> tuple[list[nodes.Node], Any]:
        """The nodes of one name."""
        found, messages = super().run()
        linked = not isinstance(found[0], nodes.emphasis)
        return (found if linked else [nodes.literal(self.rawtext, self.text)]), messages


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_role("name", Name())
