"""Draw the figures of the benchmark pages from the CSV files of the studies."""

import argparse
import importlib
import io
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import common
import tables

INK = "#010203"  # stands for the colour of the page's text
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "fastpmf", "font.family": "sans-serif", "font.size": 10,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.facecolor": "none", "figure.facecolor": "none", "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
}  # fmt: skip


class Drawing(NamedTuple):
    """A figure: the study, the part of it, the named tuple of its rows, a function that draws them, and inches."""

    study: str
    part: str
    rows: str
    plot: Callable[[list, Any], None] | None = None  # by default the study's own
    size: tuple[float, float] = (7, 4.5)


def main() -> int:
    """Print a figure."""
    parser = argparse.ArgumentParser(description=f"{__doc__} Print one of them as SVG.")
    parser.add_argument("name", choices=DRAWINGS, metavar="NAME", help=", ".join(DRAWINGS))
    print(drawn(parser.parse_args().name))  # noqa: T201
    return 0


def drawn(name: str) -> str:
    """The figure of this name as an SVG element, which has the colours of the page that it is in."""
    drawing = DRAWINGS[name]
    found = tables.select([tables.read(path) for path in sorted(tables.RESULTS.glob("*.csv"))], *drawing[:2])
    if not found:
        raise ValueError(f"no CSV file has the rows of the figure {name!r}")
    module = importlib.import_module(drawing.study)
    rows = [row for table in found for row in common.typed_rows(table, getattr(module, drawing.rows))]
    return svg(partial(drawing.plot or module.plot, rows), drawing.size)


def svg(plot: Callable[[Any], None], size: tuple[float, float]) -> str:
    """What `plot` draws."""
    with rc_context(STYLE):
        figure, text = Figure(layout="constrained", figsize=size), io.StringIO()
        plot(figure)
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    element = text.getvalue()[text.getvalue().index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", element.replace(INK, "currentColor"), count=1)
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', element))
    return re.sub(r' id="([\w-]+)"', lambda found: found[0] if found[1] in used else "", element)


def sklearn_fits(rows: list, figure: Any) -> None:
    """A pair of bars for each matrix: seconds of a fit to the same objective."""
    axes = figure.subplots()
    for i, (label, column) in enumerate((("scikit-learn", "sklearn_seconds"), ("fastpmf", "seconds"))):
        seconds = [getattr(row, column) for row in rows]
        bars = axes.barh([y + 0.4 * i for y in range(len(rows))], seconds, 0.38, color=f"C{1 - i}", label=label)
        axes.bar_label(bars, [f" {tables.number(s)} s" for s in seconds], fontsize=9)
    axes.set_yticks([y + 0.2 for y in range(len(rows))], [f"{row.counts}, k = {row.k}" for row in rows])
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="seconds to the objective of scikit-learn's 200 iterations")
    axes.set_xlim(right=3 * axes.get_xlim()[1])
    axes.legend(loc="lower right")


def scaling(rows: list, figure: Any) -> None:
    """A panel for each study: ns per nonzero, or the speed-up with threads."""
    studies = common.group(rows, "study")
    for axes, ((study,), own) in zip(common.grid(figure, len(studies), 2, (3.7, 2.9)), studies.items(), strict=True):
        for solver, color in (("mu", "C0"), ("cd", "C1")):
            subset = [row for row in own if row.solver == solver]
            x = [row.nnz if study == "streamed" else row.value for row in subset]
            y = [row.ns_per_nonzero for row in subset]
            axes.plot(x, y, "o-", color=color, ms=5, label=solver)
        axes.set(xscale="log", yscale="log", ylabel="ns per nonzero", title=TITLES.get(study, study))
        if study in ("threads", "k"):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", labelsize=8)
        axes.legend()


TITLES = {
    "threads": "threads",
    "nnz": "nonzeros, in memory",
    "k": "components k",
    "streamed": "nonzeros, from a folder",
}


def roofline(rows: list, figure: Any) -> None:
    """The share of the bound that each kernel reaches, with all threads."""
    most = max(row.threads for row in rows)
    kernels = [row for row in rows if row.kind == "kernel" and row.threads == most]
    cases = common.group(kernels, "name", "side")
    settings = list(common.group(kernels, "k", "dtype"))
    axes = figure.subplots()
    height = 0.8 / len(settings)
    for i, (k, dtype) in enumerate(settings):
        shares = [next((r.fraction for r in own if (r.k, r.dtype) == (k, dtype)), 0.0) for own in cases.values()]
        axes.barh([y + height * i for y in range(len(cases))], shares, 0.9 * height, label=f"k = {k}, {dtype}")
    axes.set_yticks([y + 0.4 - height / 2 for y in range(len(cases))], [f"{name}, {side}" for name, side in cases])
    axes.invert_yaxis()
    axes.axvline(1, color=INK, lw=0.8, ls=":")
    axes.set(xlabel=f"share of the machine's bound, {most} thread{'s' * (most > 1)} (1: as fast as the bound)")
    axes.legend(fontsize="small", loc="lower right", bbox_to_anchor=(0.93, 0))


DRAWINGS = {
    "fit": Drawing("versus_sklearn", "fit", "Row", sklearn_fits, (7, 3.4)),
    "packages": Drawing("packages", "divergence", "Point"),
    "solvers": Drawing("solvers", "", "Point"),
    "scaling": Drawing("scaling", "", "Row", scaling),
    "roofline": Drawing("roofline", "", "Row", roofline, (7, 5.5)),
    "prediction": Drawing("models", "prediction", "Row"),
    "recovery": Drawing("known_truth", "recovery", "Row", None, (7, 4)),
    "formats": Drawing("formats", "", "Row", None, (7, 6)),
}


if __name__ == "__main__":
    sys.exit(main())
