"""`fastpmf demo`: topics of a text that every machine has."""

import argparse

import numpy as np
from scipy.special import xlogy

from fastpmf import Solution, as_counts, poisson_nmf
from fastpmf.cli.telling import show, write_picture
from fastpmf.core.counts import Side
from fastpmf.counts.named import Dataset
from fastpmf.datasets import load_stdlib
from fastpmf.io.results import check_output


def demo(arguments: argparse.Namespace) -> None:
    """Fit topics to the standard library's words, and print them."""
    check_output(arguments.plot, ".png", name="--plot")
    show("Reading the standard library of this Python ...")
    data = load_stdlib()
    counts = as_counts(data.X)
    n, p = counts.shape
    show(f"{n:,} modules x {p:,} words, {counts.total:,.0f} words in {counts.nnz:,} nonzeros")
    show(f"Fitting {arguments.components} topics ...")
    solution = poisson_nmf(
        counts, arguments.components, max_iter=500, tol=2e-3, random_state=0, dtype="float32",
        n_threads=arguments.threads, verbose=not arguments.quiet,
    )  # fmt: skip
    _show_topics(data, solution)
    # A single component can do no better than row sum x column sum / total: that is the deviance to explain.
    sums = (counts.sums(side) for side in Side)
    null = counts.entropy + xlogy(counts.total, counts.total) - sum(xlogy(s, s).sum() for s in sums)
    show(f"\n{solution.status}")
    show(f"deviance explained: {max(0.0, 1 - solution.objective / null):.1%} of what a single topic leaves")
    seconds = solution.trace["seconds"][-1]
    show(f"{solution.n_iter} iterations in {seconds:.1f} s, not counting compilation, which only a first run needs")
    _plot(solution, arguments.plot)


def _show_topics(data: Dataset, solution: Solution) -> None:
    assert data.row_names is not None
    assert data.column_names is not None
    mass = solution.W * solution.H.sum(axis=1)  # words that each topic explains in each module
    for k in np.argsort(-mass.sum(axis=0)):
        words = data.column_names[np.argsort(-solution.H[k])[:9]]
        modules = data.row_names[np.argsort(-mass[:, k])[:4]]
        show(f"\n{k:>2}. {mass[:, k].sum() / mass.sum():>5.1%}  {' '.join(words)}")
        show(f"           in {', '.join(modules)}")


def _plot(solution: Solution, path: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        show("no picture of the objective: that needs matplotlib (pip install matplotlib)")
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="objective D(X ‖ WH), nats", title="fastpmf demo")
    axes.plot(solution.trace["n_iter"], solution.trace["objective"], marker=".")
    write_picture(path, figure)
    show(f"objective by iteration: {path}")
