"""fastpmf and scikit-learn on the same counts: an iteration, a fit, its memory, and W of new rows."""

import argparse
import math
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import common
import numpy as np
from sklearn.decomposition import NMF, non_negative_factorization
from sklearn.exceptions import ConvergenceWarning

from fastpmf import PoissonNMF, as_counts, kl_divergence, plan, poisson_nmf

DESCRIPTION = """\
Compare with scikit-learn's NMF(solver="mu", beta_loss="kullback-leibler") in one process, interleaved. Seconds are
medians, objectives the exact divergence in nats. scikit-learn gets CSR counts in the dtype of the factors, and uses a
single thread. Compilation, and reading and transposing the counts, are not timed.

  iteration  the same multiplicative iteration: seconds from the difference of a short and a longer fit; the objectives
             after five iterations from one random start; and the peak memory of a fit beyond its input,
             with the prediction of fastpmf.plan
  fit        seconds to the objective at which scikit-learn stops by default, after 200 iterations. scikit-learn's are
             200 times those of an iteration. The objective is computed by fastpmf's multiplicative updates, which have
             the same iterates until small entries reach fastpmf's floor or underflow in scikit-learn. A first fit by
             fastpmf's default solver finds the number of iterations to this objective; fits of this number of
             iterations are then timed
  first      as fit, but fastpmf's fit is the first on a machine: it runs in a new process without compiled kernels, and
             its seconds include their compilation
  transform  half of the rows, or --rows, are held out; H is fitted to the others, by 50 iterations, and W is found for
             the rows held out by PoissonNMF.transform at each --tol, and by non_negative_factorization(update_H=False)
             with its defaults, which is what NMF.transform does. The gap is certified by fastpmf: no W has an
             objective that is lower by more
"""
PARTS = ("iteration", "fit", "first", "transform")
STEPS = 5  # iterations after which objectives are compared
SKLEARN_ITERATIONS = 200  # the default max_iter of NMF
NO_EVALUATION = 10**9
SHOWN = "counts part k tol seconds sklearn_seconds ratio objective sklearn_objective peak_mib planned_mib"


class Row(NamedTuple):
    """A row of the table. Times in seconds, objectives in nats, memory in MiB; what a part doesn't measure is NaN."""

    part: str
    counts: str
    k: int
    dtype: str
    seed: int
    iterations: int
    seconds: float
    sklearn_seconds: float
    ratio: float
    objective: float
    sklearn_objective: float
    peak_mib: float = math.nan
    planned_mib: float = math.nan
    rows: int = 0
    tol: float = math.nan
    gap_per_1000: float = math.nan


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION)
    parser.shared(data=[], components=[20], dtype="float32", threads=None, seeds=[0], repeats=3, clock="wall")
    parser.option("--parts", "parts", [*PARTS], choices=PARTS)
    parser.option("--rows", "held out for transform, by default half of them", type=common.positive_int)
    parser.option("--tol", "of transform, in nats per count", [3e-3, 1e-3, 1e-4], type=common.fraction)
    arguments = parser.parse_args()
    matrices, load = common.read_matrices(parser, arguments.data), common.warning_of_load()
    n_rows = min(X.shape[0] for X in matrices.values())
    if "transform" in arguments.parts and not (arguments.rows or n_rows // 2) < n_rows:
        parser.error(f"--rows must be below the number of rows, {n_rows}, got {arguments.rows}")
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", message=".*carry no counts")
    total = len(arguments.parts) * len(matrices) * len(arguments.components)
    rows = common.collect(measure(matrices, arguments), total, arguments, unit="case", counts=matrices, show=SHOWN)
    return common.conclude(arguments, partial(plot, rows), [*verdict(rows), *load])


def measure(matrices: dict[str, Any], arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Every part of every case."""
    measures = {"iteration": iteration, "fit": fit, "first": first, "transform": transform}
    for part in arguments.parts:
        for name, X in matrices.items():
            for k in arguments.components:
                yield [
                    row._replace(part=part, counts=name)
                    for seed in arguments.seeds
                    for row in measures[part](X, k, seed, arguments)
                ]


def sklearn_fit(floats: Any, W: np.ndarray, H: np.ndarray, n_iter: int) -> tuple[np.ndarray, np.ndarray]:
    """A fit of `n_iter` iterations by scikit-learn."""
    model = NMF(len(H), init="custom", solver="mu", beta_loss="kullback-leibler", max_iter=n_iter, tol=0)
    return model.fit_transform(floats, W=W.copy(), H=H.copy()), model.components_


def per_iteration(fit: Callable[[int], Any], few: int, many: int, clock: str) -> float:
    """Seconds of an iteration, from two fits of `few` and of `many` iterations."""
    return (common.timed(lambda: fit(many), clock)[1] - common.timed(lambda: fit(few), clock)[1]) / (many - few)


def iteration(X: Any, k: int, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """One multiplicative iteration of each, and the memory of a fit."""
    dtype, (W, H) = arguments.dtype, common.random_start(X, k, seed, arguments.dtype)
    counts, floats = as_counts(X), X.tocsr().astype(dtype)
    options = {"solver": "mu", "acceleration": None, "init": "custom", "W": W, "H": H, "tol": 0, "dtype": dtype,
               "eval_every": NO_EVALUATION, "n_threads": arguments.threads}  # fmt: skip
    ours = partial(poisson_nmf, counts, k, **options)
    theirs = partial(sklearn_fit, floats, W, H)
    solution = ours(max_iter=STEPS)  # also compiles
    objectives = [kl_divergence(counts, *factors) for factors in ((solution.W, solution.H), theirs(STEPS))]
    # As many as take up to half a second: 40 iterations of small counts take a few milliseconds only
    many = 5 + int(np.clip(0.5 / common.timed(lambda: ours(max_iter=1))[1], 40, 2000))
    clock = []
    for _ in range(arguments.repeats):
        # The first fits after scikit-learn's may compete with its spinning threads, whose processor time counts too
        own = [per_iteration(lambda n: ours(max_iter=n), 5, many, arguments.clock) for _ in range(3)]
        clock.append((median(own), per_iteration(theirs, 1, 4, arguments.clock)))
    seconds, sklearn_seconds = map(median, zip(*clock, strict=True))
    with multiprocessing.get_context("spawn").Pool(1) as process:
        memory = process.apply(measure_memory, (X, k, dtype, arguments.threads))
    return [Row("", "", k, dtype, seed, 1, seconds, sklearn_seconds, sklearn_seconds / seconds, *objectives, *memory)]


def measure_memory(X: Any, k: int, dtype: str, n_threads: int | None) -> tuple[float, float]:
    """MiB that a fit needs beyond the process that holds X, and what `plan` predicts."""
    warnings.simplefilter("ignore")
    fit = partial(poisson_nmf, n_components=k, solver="mu", max_iter=2, tol=0, dtype=dtype, random_state=0,
                  n_threads=n_threads)  # fmt: skip
    fit(X[:50])  # compiles
    peak = common.peak_memory(partial(fit, X))
    planned = plan(X.shape, X.nnz, k, dtype, counts_dtype=as_counts(X).dtype, solver="mu")
    return peak / 2**20, planned.peak_bytes / 2**20


def fit(X: Any, k: int, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """Seconds to where scikit-learn's fit stops by default."""
    dtype, (W, H) = arguments.dtype, common.random_start(X, k, seed, arguments.dtype)
    counts, floats = as_counts(X), X.tocsr().astype(dtype)
    run = partial(poisson_nmf, counts, k, init="custom", W=W, H=H, tol=0, dtype=dtype, n_threads=arguments.threads)
    reference = run(solver="mu", acceleration=None, max_iter=SKLEARN_ITERATIONS, eval_every=NO_EVALUATION)
    target = reference.objective
    found = run(
        max_iter=10 * SKLEARN_ITERATIONS, eval_every=1, callback=lambda record, W, H: record.objective <= target
    )
    n_iter, reached = found.n_iter, found.objective <= target
    clock, short = [], partial(run, max_iter=n_iter, eval_every=NO_EVALUATION)
    for _ in range(arguments.repeats):
        # The first fit after scikit-learn may compete with its spinning threads
        ours = [common.timed(short, arguments.clock)[1] for _ in range(3)]
        clock.append((median(ours), per_iteration(partial(sklearn_fit, floats, W, H), 1, 4, arguments.clock)))
    seconds, one = map(median, zip(*clock, strict=True))
    seconds, theirs = seconds if reached else math.inf, SKLEARN_ITERATIONS * one
    return [Row("", "", k, dtype, seed, n_iter, seconds, theirs, theirs / seconds, found.objective, target)]


def first(X: Any, k: int, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """As `fit`, with compilation."""
    (row,) = fit(X, k, seed, arguments)
    clock = []
    for _ in range(arguments.repeats):
        with (
            TemporaryDirectory() as cache,
            patch.dict(os.environ, NUMBA_CACHE_DIR=cache),  # before the process imports numba
            multiprocessing.get_context("spawn").Pool(1) as process,
        ):
            clock.append(process.apply(first_fit, (X, k, seed, row.iterations, arguments)))
    seconds = median(clock)
    return [row._replace(seconds=seconds, ratio=row.sklearn_seconds / seconds)]


def first_fit(X: Any, k: int, seed: int, n_iter: int, arguments: argparse.Namespace) -> float:
    """Seconds of a fit."""
    warnings.simplefilter("ignore")
    W, H = common.random_start(X, k, seed, arguments.dtype)
    fit = partial(poisson_nmf, X, k, init="custom", W=W, H=H, dtype=arguments.dtype, n_threads=arguments.threads, tol=0,
                  max_iter=n_iter, eval_every=NO_EVALUATION)  # fmt: skip
    return common.timed(fit, arguments.clock)[1]


def transform(X: Any, k: int, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """W for rows that were not fitted, at each tolerance."""
    seen, unseen = split(X.tocsr(), arguments.rows or X.shape[0] // 2, seed)
    options = {"dtype": arguments.dtype, "n_threads": arguments.threads, "random_state": seed}
    model = PoissonNMF(k, max_iter=50, tol=0, **options).fit(seen)
    H, floats, total = model.components_, unseen.astype(arguments.dtype), float(unseen.sum())
    theirs = partial(non_negative_factorization, floats, H=H, n_components=k, update_H=False, solver="mu",
                     beta_loss="kullback-leibler")  # fmt: skip
    rows, sklearn_W = [], theirs()[0]
    for tol in sorted(set(arguments.tol), reverse=True):
        model.set_params(tol=tol)
        W, gaps = model.transform(unseen, return_gap_bound=True)  # also compiles
        clock = [
            (
                common.timed(lambda: model.transform(unseen), arguments.clock)[1],
                common.timed(theirs, arguments.clock)[1],
            )
            for _ in range(arguments.repeats)
        ]
        seconds, sklearn_seconds = map(median, zip(*clock, strict=True))
        objectives = [kl_divergence(unseen, A, H) for A in (W, sklearn_W)]
        rows.append(Row(
            "", "", k, arguments.dtype, seed, 0, seconds, sklearn_seconds, sklearn_seconds / seconds, *objectives,
            rows=unseen.shape[0], tol=tol, gap_per_1000=1e3 * float(gaps.sum()) / total,
        ))  # fmt: skip
    return rows


def split(X: Any, n_out: int, seed: int) -> tuple[Any, Any]:
    """Rows to fit and held-out rows, without columns that have no counts in the former."""
    order = np.random.default_rng(seed).permutation(X.shape[0])
    unseen, seen = (X[np.sort(rows)] for rows in (order[:n_out], order[n_out:]))
    used = np.flatnonzero(np.asarray(seen.sum(axis=0)).ravel())
    return seen[:, used], unseen[:, used]


def verdict(rows: list[Row]) -> list[str]:
    """How many times as long scikit-learn takes, and how the objectives differ."""
    lines = []
    for (part, tol), own in common.group(rows, "part", "tol").items() if rows else ():
        ratios = common.format_range((row.ratio for row in own), ".3g")
        if part == "iteration":
            apart = max(abs(row.objective / row.sklearn_objective - 1) for row in own)
            lines.append(
                f"scikit-learn takes {ratios} times as long for the same iteration; after {STEPS} iterations the "
                f"objectives differ by at most {apart:.1e}, relatively."
            )
        elif part == "fit":
            lines.append(
                f"scikit-learn takes {ratios} times as long to the objective at which it stops by default, which "
                f"fastpmf reaches after {common.format_range((row.iterations for row in own), 'd')} iterations."
            )
        elif part == "first":
            lines.append(f"Including the compilation of a first fit, the ratio is {ratios}.")
        else:
            above = [1e3 * (row.sklearn_objective / row.objective - 1) for row in own]
            lines.append(
                f"transform at tol={tol:g}: scikit-learn takes {ratios} times as long, and its objective is higher by "
                f"{common.format_range(above, '.2g')} thousandths; fastpmf's is certified to be within "
                f"{common.format_range((row.gap_per_1000 for row in own), '.2g')} nats per 1,000 counts of the optimum."
            )
    return lines


def plot(rows: list[Row], figure: Any) -> None:
    """How many times as long scikit-learn takes, a panel for each part."""
    parts = common.group(rows, "part")
    for axes, ((part,), own) in zip(common.grid(figure, len(parts)), parts.items(), strict=True):
        axes.barh(range(len(own)), [row.ratio for row in own])
        labels = [f"{r.counts}, k = {r.k}" + (f"\ntol = {r.tol:g}" if part == "transform" else "") for r in own]
        axes.set_yticks(range(len(own)), labels, fontsize="small")
        axes.invert_yaxis()
        axes.set(title=part, xlabel="seconds of scikit-learn / of fastpmf")


if __name__ == "__main__":
    sys.exit(main())
