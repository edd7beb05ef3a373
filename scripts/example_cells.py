"""Cells and genes: expression programs per unit of library size, with a small prior and without one."""

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np
from examples import (
    example_parser,
    in_order,
    lift,
    paint_memberships,
    paint_tops,
    parse,
    rates_at,
    read_dataset,
    read_names,
    top,
)
from provenance import describe, write_table
from scipy import sparse
from studying import clocked, draw, tell

from fastpmf import MemoryCounts, PoissonNMF, poisson_log_likelihood, thin_counts, to_topics
from fastpmf.counts import Side
from fastpmf.datasets import Dataset

DESCRIPTION = """\
Programs of genes in single cells. The model is x_ij ~ Poisson(library_i (W H)_ij), library sizes being the cells'
totals over their median (row_exposure): W H is expression at a median library, and a large library alone makes
no cell different. Of the counts, each single one is held out with a small probability (thin_counts); the rest is
fitted by PoissonNMF. Without --data, cells of six types are drawn from such a model, with seven programs: one is
common, about half of each cell's expression; each type has one of 40 genes of its own, about 0.4; the rest is of the
other types' programs. Library sizes differ. The fit may give less to the common program: the others can take over
some of it, as long as each cell has enough, without any change of W H.

Told, and drawn, are
  - the log-likelihood per count of the counts held out, of three models: maximum likelihood; the most probable
    factors under a small Gamma prior (prior_W="auto", prior_H="auto"); and one component for all cells, under it.
    Maximum likelihood sets entries to exact zeros, and a single count held out where the rate is 0 makes its
    likelihood 0, and the logarithm -inf: the last column takes such counts away, for all models, in its favour;
  - programs of the fit with the prior, by their share of expression, cells counting alike: the genes of the
    highest lift, P(gene|program) / P(gene), as if each gene had ten counts more (examples.py says why);
  - memberships, P(program|cell), means for each label; those of all cells are in the table and in the picture.

--labels groups the cells, and is used for nothing else; without it they are grouped by dominant program.
--signature gives one program that is known, as lines "gene<tab>expression", other genes having none: that row of H
is held fixed up to its scale, and it is the program "known".
"""
TYPES, MARKERS = "ABCDEF", 40


def main() -> int:
    """Run the example."""
    parser = example_parser("example_cells", DESCRIPTION, 7, "cells", "genes")
    parser.add_argument("--labels", metavar="FILE", help="of the cells, one a line (after its last tab, if any)")
    parser.add_argument("--signature", metavar="FILE", help="a program that is known")
    parser.add_argument("--held-out", type=float, default=0.1, metavar="SHARE", help="default: %(default)s")
    parser.add_argument(
        "--draw", type=int, nargs=2, default=[1000, 1500], metavar=("CELLS", "GENES"),
        help="without --data; more than 240 genes; default: 1000 1500",
    )  # fmt: skip
    arguments = parse(parser, shares=["held_out"])
    if arguments.draw[0] < 1 or arguments.draw[1] <= len(TYPES) * MARKERS:  # some genes are common
        parser.error(f"--draw must be above 0 and {len(TYPES) * MARKERS}, got {' '.join(map(str, arguments.draw))}")
    X, cells, genes = read_dataset(
        parser, arguments, lambda: draw_cells(arguments.draw, arguments.seed), "cell", "gene"
    )
    try:
        labels = read_names(arguments.labels, len(cells)) if arguments.labels else None
        known: dict[str, Any] = {"fixed_H": read_signature(arguments, genes)} if arguments.signature else {}
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if labels is not None and len(set(labels)) > 50:
        parser.error(f"--labels must be of 50 groups at most, got {len(set(labels)):,}")
    if arguments.data is None and labels is None:
        labels = np.array([name.split()[1] for name in cells])

    train, test = thin_counts(X, arguments.held_out, random_state=arguments.seed)
    if not train.total or not test.total:
        parser.error(f"--held-out must leave counts on either side, of {X.sum():,.0f} it does not")
    library = train.sums(Side.ROWS)
    library = np.maximum(library, 1) / np.median(library[library > 0])  # a cell that lost all counts had one at least
    tell(f"{describe(X)}; library sizes {library.min():.2g} to {library.max():.2g} of their median")

    k, fits = arguments.components, {}
    for name, n, prior in (
        ("maximum likelihood", k, None),
        ("with the prior", k, "auto"),
        ("one component, with the prior", 1, "auto"),
    ):
        model = PoissonNMF(
            n, prior_W=prior, prior_H=prior, tol=1e-3, random_state=arguments.seed, n_threads=arguments.threads
        )
        given = known if n == k else {}
        W, seconds = clocked(partial(model.fit_transform, train, row_exposure=library, **given))
        fits[name] = W, model.components_
        tell(f"{name}: {model.n_iter_} iterations, {seconds:.1f} s. {model.status_}")
    tell_held_out(fits, test, library * arguments.held_out / (1 - arguments.held_out))

    W, H = fits["with the prior"]
    order = to_topics(W, H).order  # so that program 1 is the largest
    programs = to_topics(W[:, order], H[order])
    called = [f"program {z + 1}" for z in range(k)]
    if known:
        called[list(order).index(0)] = "known"
    lifts = lift(programs)
    tell("\ngenes of the highest lift")
    for z, name in enumerate(called):
        told = ", ".join(f"{genes[j]} {lifts[z, j]:.1f}" for j in top(lifts[z], 8))
        tell(f"  {name}, {programs.weights[z]:.0%} of expression: {told}")
    mixtures = programs.mixtures
    dominant = np.array(called)[mixtures.argmax(axis=1)]
    tell_memberships(mixtures, called, dominant if labels is None else labels)
    table = ([name, *mixture] for name, mixture in zip(cells, mixtures, strict=True))
    write_table(arguments.csv, ["cell", *called], table, {"fitted, and held out": X})
    tell(f"\ntable: {arguments.csv}")

    def paint(figure: Any) -> None:
        figure.set_size_inches(12, 8.5)
        above, below = figure.subfigures(2, 1, height_ratios=[2, 1.2])
        paint_tops(above, programs.weights, lifts, genes, called, "lift")
        label = "cells, by dominant program" if labels is None else "cells, by label"
        paint_memberships(below.subplots(), mixtures, dominant if labels is None else labels, called, label)

    draw(arguments.png, paint)
    return 0


def draw_cells(shape: tuple[int, int], seed: int) -> Dataset:
    """Counts of six types of cells; their names say which."""
    rng, n_types, (n_cells, n_genes) = np.random.default_rng(seed), len(TYPES), shape
    level = rng.lognormal(0, 1.5, n_genes)
    owner, names = np.full(n_genes, n_types), np.array([f"gene {j + 1}" for j in range(n_genes)], dtype=object)
    for z, own in enumerate(np.split(rng.permutation(n_genes)[: n_types * MARKERS], n_types)):
        owner[own] = z
        names[own] = [f"marker {TYPES[z]}{m + 1}" for m in range(MARKERS)]
    H = np.where(owner == np.arange(n_types + 1)[:, None], level, 0)
    kind = rng.integers(n_types, size=n_cells)
    W = rng.standard_gamma(np.select([np.arange(n_types + 1) == kind[:, None], np.arange(n_types + 1) == n_types],
                                     [3.0, 4.0], 0.15))  # fmt: skip
    library = rng.lognormal(np.log(600), 0.5, n_cells)
    X = rng.poisson(library[:, None] * (W / W.sum(axis=1, keepdims=True)) @ (H / H.sum(axis=1, keepdims=True)))
    cells = [f"type {TYPES[z]} cell {i + 1}" for i, z in enumerate(kind)]
    return Dataset(sparse.csr_array(X.astype(np.min_scalar_type(X.max()))), np.array(cells), names.astype(str))


def read_signature(arguments: argparse.Namespace, genes: np.ndarray) -> np.ndarray:
    """What is known of H: expression of a program in row 0, and nothing else."""
    H = np.full((arguments.components, len(genes)), np.nan)
    H[0], number = 0, {name: j for j, name in enumerate(genes)}
    with open(arguments.signature, encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            gene, _, value = line.rstrip("\n").partition("\t")
            if gene not in number:
                raise ValueError(f"--signature must be of genes that the counts have, got {gene!r}")
            H[0, number[gene]] = float(value)
    if not (np.isfinite(H[0]).all() and H[0].min() >= 0 and H[0].any()):
        raise ValueError("--signature must be finite numbers >= 0, not all of them 0")
    return H


def tell_held_out(fits: dict[str, tuple[np.ndarray, np.ndarray]], test: MemoryCounts, exposure: np.ndarray) -> None:
    """Poisson log-likelihood per count, in nats."""
    entries = test.to_scipy().tocoo()
    i, j = entries.coords
    possible, line = None, "{:<32}{:>16}{:>24}{:>20}"
    tell()
    tell(line.format(f"{test.total:,.0f} counts held out", "where rate is 0", "nats per count, all", "without those"))
    for name, (W, H) in fits.items():
        rates = rates_at(W, H, i, j)
        if possible is None:
            possible = sparse.csr_array((entries.data * (rates > 0), (i, j)), shape=test.shape)
        W = exposure[:, None] * W
        log_likelihoods = [poisson_log_likelihood(counts, W, H) / counts.sum() for counts in (entries, possible)]
        tell(
            line.format(name, f"{entries.data[rates == 0].sum():,.0f}", *(f"{value:.4f}" for value in log_likelihoods))
        )


def tell_memberships(mixtures: np.ndarray, called: list[str], groups: np.ndarray) -> None:
    """Means over the cells of each group."""
    tell("\nmean memberships of at least 5 %")
    for name in in_order(mixtures, groups):
        mean = mixtures[groups == name].mean(axis=0)
        most = ", ".join(f"{mean[z]:.0%} {called[z]}" for z in top(mean, len(mean)) if mean[z] >= 0.05)
        tell(f"  {name} ({(groups == name).sum():,} cells): {most}")


if __name__ == "__main__":
    sys.exit(main())
