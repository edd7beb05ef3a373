"""Sphinx's settings. Neither building the pages nor reading them needs a network."""

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.autosummary import AutoLink

from fastpmf import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "fastpmf"
author = "The fastpmf developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "benchmark_figure",
]
exclude_patterns = ["_build", "sg_execution_times.rst", "**/GALLERY_HEADER.rst"]
default_role = "name"

autodoc_typehints = "none"  # the docstrings have the types
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False
python_maximum_signature_line_length = 100
myst_enable_extensions = ["deflist", "dollarmath", "colon_fence"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials", "gallery"],
    "gallery_dirs": ["_generated/tutorials", "_generated/gallery"],
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "show_memory": False,
    "download_all_examples": False,
    "plot_gallery": "True",
}

html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_prev_next": False}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False


class Name(AutoLink):
    """Single backticks in docstrings: a link if the name is documented, otherwise code."""

    def run(self) -> tuple[list[nodes.Node], Any]:
        """The nodes of one name."""
        found, messages = super().run()
        linked = not isinstance(found[0], nodes.emphasis)
        return (found if linked else [nodes.literal(self.rawtext, self.text)]), messages


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_role("name", Name())
