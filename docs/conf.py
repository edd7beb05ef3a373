"""Sphinx's settings. Neither building the pages nor reading them needs a network."""

import inspect
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

from fastpmf import __version__

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parent / "_extensions"),
]  # gallery_order, benchmark_figure

project = "fastpmf"
author = "The fastpmf developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "benchmark_figure",
]
exclude_patterns = ["_build", "**/sg_execution_times.rst", "**/GALLERY_HEADER.rst"]
templates_path = ["_templates"]
default_role = "name"

# References that do not resolve are warnings, except to other packages and of single backticks
nitpicky = True
nitpick_ignore_regex = [
    ("py:name", ".*"),
    (
        "py:.*",
        r"(anndata|dask|matplotlib|numba|numpy|np|pandas|scanpy|scipy|sklearn|sys|os|pathlib)(\..*)?",
    ),
]

autodoc_typehints = "none"  # the docstrings have the types
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
autosummary_filename_map = {
    "fastpmf.plan": "fastpmf.plan_"
}  # the class Plan has the name on some file systems
numpydoc_show_class_members = False
python_maximum_signature_line_length = 88

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

mathjax_path = "tex-svg.js"  # one file, which has its fonts in it
mathjax3_config = {"options": {"enableMenu": False}}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials", "gallery"],
    "gallery_dirs": ["_generated/tutorials", "_generated/gallery"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "gallery_order.position",
    "abort_on_example_error": True,
    "backreferences_dir": "_generated/backreferences",
    "doc_module": ("fastpmf",),
    "reference_url": {"fastpmf": None},
    "reset_modules": ("matplotlib", "gallery_order.show_warnings_without_paths"),
    "ignore_repr_types": r"matplotlib\.",
    "remove_config_comments": True,
    "thumbnail_size": (480, 320),
    "min_reported_time": 3600,  # seconds, which depend on the machine
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,  # a page that loads scripts of other sites
    "download_all_examples": False,
    "plot_gallery": "True",
}

html_theme = "pydata_sphinx_theme"
html_title = f"fastpmf {version}"
html_logo = html_favicon = "_static/logo.svg"
html_theme_options = {
    "logo": {"text": "fastpmf", "alt_text": "fastpmf"},
    "navbar_start": ["navbar-logo", "version"],
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "github_url": "https://github.com/fastpmf/fastpmf",
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
    "header_dropdown_text": "More",
    "navigation_depth": 2,
    "show_toc_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "pygments_light_style": "friendly",
    "pygments_dark_style": "github-dark",
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
html_sidebars = {"index": [], "changelog": [], "benchmarks/index": [], "coming_from/index": []}
html_static_path = [
    "_static",
    str(resources.files("sphinx-mathjax-offline") / "static" / "mathjax" / mathjax_path),
]
html_css_files = ["pages.css"]
html_show_sourcelink = False

# Methods of `MemoryCounts` and `StreamedCounts` for the solvers, and constructors for the estimators
INTERNAL = {
    "blocks", "contract", "contract_both", "descend", "largest", "log_rate", "observed_sums", "rate_total", "side",
    "stacked", "unobserved", "of_entries", "of_rows",
}  # fmt: skip


def skip_member(
    app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool:
    """Whether the reference leaves out a member of a class: private, internal or inherited from another package."""
    if isinstance(member, property):
        member = member.fget
    if not callable(member):
        member = type(
            member
        )  # attributes are described in the docstring of the class, except the members of enums
    home = getattr(inspect.unwrap(member), "__module__", None) or ""
    return name.startswith("_") or name in INTERNAL or not home.startswith("fastpmf")


class Name(SphinxRole):
    """Single backticks in docstrings: code, and a link if it is a documented name."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The nodes of one name."""
        context = {
            f"py:{key}": self.env.ref_context.get(f"py:{key}") for key in ("module", "class")
        }
        code = nodes.literal(self.rawtext, self.text, classes=["xref", "py"])
        reference = addnodes.pending_xref(
            self.rawtext,
            code,
            refdomain="py",
            reftype="name",
            reftarget=self.text,
            refdoc=self.env.docname,
            **context,
        )
        return [reference], []


def resolve_in_package(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, code: nodes.TextElement
) -> nodes.Element | None:
    """What a name refers to that is not in the module or class of its docstring: one of `fastpmf`."""
    if node["refdomain"] != "py":
        return None
    target = f"fastpmf.{node['reftarget']}"
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", target, node, code
    )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_role("name", Name())
    app.connect("autodoc-skip-member", skip_member)
    app.connect("missing-reference", resolve_in_package)
