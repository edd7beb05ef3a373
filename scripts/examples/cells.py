"""Cells and genes: expression programs relative to library size, with and without weak priors."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from fastpmf import PoissonNMF, poisson_log_likelihood, thin_counts, to_topics, top_features
from fastpmf.datasets import Dataset

DESCRIPTION = """\
Gene expression programs in single cells. The model is x_ij ~ Poisson(library_i (W H)_ij), where library sizes are the
totals of the cells over their median (row_exposure), so that programs do not depend on the size of libraries. A
fraction of the counts is held out at random (thin_counts), and the rest is fitted by PoissonNMF. Without --data, cells
of six types are drawn from such a model: each type has a program of 40 marker genes, and all share one of other genes.

It prints
  - the log-likelihood of the held-out counts, per count, of maximum likelihood, of the posterior mode under weak Gamma
    priors (prior_W="auto", prior_H="auto"), and of one program under them. Maximum likelihood sets entries to exact
    zeros, which can make a count impossible: the last column excludes such counts, for all models
  - for each program of the posterior mode its share of the expression, and the genes of the highest lift,
    P(gene|program) over its mean over programs, among genes of at least 1e-3 of the program
  - mean memberships P(program|cell) for each label; those of all cells are in the table and in the plot

--labels groups the cells in the output, and does not affect the fit. --signature is the expression of a known program,
as lines "gene<tab>expression", and 0 for other genes: this row of H is fixed up to its scale.
"""
TYPES, MARKERS = "ABCDEF", 40


def main() -> int:
    """Run the example."""
    parser = common.Parser(DESCRIPTION)
    common.name_options(parser, "cells", "genes")
    parser.shared(components=7, seed=0, threads=None)
    parser.option("--labels", "labels of the cells: the last tab-separated field of each line")
    parser.option("--signature", "a known program")
    parser.option("--held-out", "fraction of the counts to hold out", 0.1, type=common.fraction)
    parser.option("--draw", "cells, and genes (more than 240), to draw without --data", [1000, 1500], nargs=2)
    arguments = parser.parse_args()
    if arguments.draw[1] <= len(TYPES) * MARKERS:
        parser.error(f"--draw must have more than {len(TYPES) * MARKERS} genes, got {arguments.draw[1]}")
    X, cells, genes = common.read_dataset(parser, arguments, partial(draw_cells, arguments), "cell", "gene")
    try:
        labels = common.read_names(arguments.labels, len(cells)) if arguments.labels else None
        known = {"fixed_H": read_signature(arguments, genes)} if arguments.signature else {}
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if arguments.data is None and labels is None:
        labels = np.array([name.split()[1] for name in cells])
    train, test = thin_counts(X, arguments.held_out, random_state=arguments.seed)
    if not train.total or not test.total:
        parser.error(f"--held-out must leave counts to fit and to hold out, of {X.sum():,.0f} counts it does not")
    library = np.asarray(train.to_scipy().sum(axis=1), dtype=float).ravel()
    library = np.maximum(library, 1) / np.median(library[library > 0])  # a cell may have no counts left
    common.echo(f"{common.describe(X)}; library sizes {library.min():.2g} to {library.max():.2g} of their median")

    k, fits = arguments.components, {}
    for name, n, prior in (
        ("maximum likelihood", k, None),
        ("with priors", k, "auto"),
        ("one program, with priors", 1, "auto"),
    ):
        model = PoissonNMF(n, prior_W=prior, prior_H=prior, tol=1e-3, random_state=arguments.seed,
                           n_threads=arguments.threads)  # fmt: skip
        W, seconds = common.timed(
            partial(model.fit_transform, train, row_exposure=library, **(known if n == k else {}))
        )
        fits[name] = W, model.components_
        common.echo(f"{name}: {model.n_iter_} iterations, {seconds:.1f} s. {model.status_}")
    print_held_out(fits, test, library * arguments.held_out / (1 - arguments.held_out))

    W, H = fits["with priors"]
    order = to_topics(W, H).order  # program 1 is the largest
    W, H = W[:, order], H[order]
    programs = to_topics(W, H)
    names = [f"program {z + 1}" for z in range(k)]
    if known:
        names[list(order).index(0)] = "known"
    common.echo("\ngenes of the highest lift")
    top = top_features(H, 8, by="lift", min_weight=1e-3, names=genes)
    for z, name in enumerate(names):
        found = (f"{gene} {lift:.1f}" for gene, lift in zip(top.names[z], top.scores[z], strict=True) if gene)
        common.echo(f"  {name}, {programs.weights[z]:.0%} of expression: {', '.join(found)}")
    groups = np.array(names)[programs.mixtures.argmax(axis=1)] if labels is None else labels
    common.echo("\nmean memberships of at least 5 %")
    for group in sorted(set(groups)):
        mean = programs.mixtures[groups == group].mean(axis=0)
        found = (f"{mean[z]:.0%} {names[z]}" for z in np.argsort(-mean) if mean[z] >= 0.05)
        common.echo(f"  {group} ({(groups == group).sum():,} cells): {', '.join(found)}")
    rows = ([name, *mixture] for name, mixture in zip(cells, programs.mixtures, strict=True))
    common.write_table(arguments.csv, ["cell", *names], rows, {"fitted, and held out": X})
    return common.conclude(arguments, partial(plot, W, H, genes, names, groups), [], (12, 9))


def draw_cells(arguments: argparse.Namespace) -> Dataset:
    """Counts of six types of cells; their names give the type."""
    rng, n_types, (n_cells, n_genes) = np.random.default_rng(arguments.seed), len(TYPES), arguments.draw
    level = rng.lognormal(0, 1.5, n_genes)
    owner, names = np.full(n_genes, n_types), np.array([f"gene {j + 1}" for j in range(n_genes)], dtype=object)
    for z, own in enumerate(np.split(rng.permutation(n_genes)[: n_types * MARKERS], n_types)):
        owner[own] = z
        names[own] = [f"marker {TYPES[z]}{m + 1}" for m in range(MARKERS)]
    programs = np.arange(n_types + 1)
    H, kind = np.where(owner == programs[:, None], level, 0), rng.integers(n_types, size=n_cells)
    W = rng.standard_gamma(np.select([programs == kind[:, None], programs == n_types], [3.0, 4.0], 0.15))
    library = rng.lognormal(np.log(600), 0.5, n_cells)
    X = rng.poisson(library[:, None] * (W / W.sum(axis=1, keepdims=True)) @ (H / H.sum(axis=1, keepdims=True)))
    cells = [f"type {TYPES[z]} cell {i + 1}" for i, z in enumerate(kind)]
    return Dataset(sparse.csr_array(X.astype(np.min_scalar_type(X.max()))), np.array(cells), names.astype(str))


def read_signature(arguments: argparse.Namespace, genes: np.ndarray) -> np.ndarray:
    """`fixed_H` with the expression of the known program in row 0."""
    H = np.full((arguments.components, len(genes)), np.nan)
    H[0], column = 0, {name: j for j, name in enumerate(genes)}
    with open(arguments.signature, encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            gene, _, value = line.rstrip("\n").partition("\t")
            if gene not in column:
                raise ValueError(f"--signature must be of genes that the counts have, got {gene!r}")
            H[0, column[gene]] = float(value)
    if not (np.isfinite(H[0]).all() and H[0].min() >= 0 and H[0].any()):
        raise ValueError("--signature must be finite numbers >= 0, not all of them 0")
    return H


def print_held_out(fits: dict[str, tuple[np.ndarray, np.ndarray]], test: Any, exposure: np.ndarray) -> None:
    """Poisson log-likelihood per held-out count, in nats."""
    entries = test.to_scipy().tocoo()
    possible, line = None, "{:<32}{:>16}{:>24}{:>20}"
    common.echo()
    common.echo(
        line.format(f"{test.total:,.0f} held-out counts", "where rate is 0", "nats per count, all", "without those")
    )
    for name, (W, H) in fits.items():
        rates = common.rates_at(W, H, *entries.coords)
        if possible is None:
            possible = sparse.coo_array((entries.data * (rates > 0), entries.coords), shape=test.shape).tocsr()
        scores = (poisson_log_likelihood(X, exposure[:, None] * W, H) / X.sum() for X in (entries.tocsr(), possible))
        common.echo(line.format(name, f"{entries.data[rates == 0].sum():,.0f}", *(f"{score:.4f}" for score in scores)))


def plot(W: np.ndarray, H: np.ndarray, genes: np.ndarray, names: list[str], groups: np.ndarray, figure: Any) -> None:
    """Genes of the programs, and memberships of the cells."""
    import fastpmf.plot

    above, below = figure.subfigures(2, 1, height_ratios=[2, 1])
    axes = common.grid(above, len(H), columns=5, size=None)
    fastpmf.plot.top_features(H, 8, by="lift", min_weight=1e-3, names=genes, labels=names, ax=axes)
    fastpmf.plot.structure(W, H, groupby=groups, labels=names, ax=below.subplots())


if __name__ == "__main__":
    sys.exit(main())
