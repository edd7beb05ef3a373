"""The directive `benchmark-figure`: a figure drawn from the CSV files of the benchmarks while the pages are built."""

import html
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "tools"))


class BenchmarkFigure(SphinxDirective):
    """`{benchmark-figure} NAME` with a caption; NAME is one of scripts/tools/figures.py.

    The SVG is part of the page, so that its text has the colour of the page's text in the light and the dark theme.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The figure's nodes."""
        import figures
        import tables

        for path in [*tables.RESULTS.glob("*.csv"), Path(figures.__file__)]:
            self.env.note_dependency(str(path))
        caption = " ".join(self.content)
        label = f'<svg role="img" aria-label="{html.escape(caption)}"'
        drawn = figures.drawn(self.arguments[0]).replace("<svg", label, 1)
        found = nodes.figure("", nodes.raw("", drawn, format="html"))
        found += nodes.caption("", "", *self.parse_inline(caption)[0])
        return [found]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("benchmark-figure", BenchmarkFigure)
    return {"parallel_read_safe": True}
