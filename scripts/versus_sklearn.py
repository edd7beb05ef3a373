"""The same multiplicative iterations, here and in scikit-learn: seconds, objective reached and peak memory."""

import argparse
import multiprocessing
import statistics
import sys
import time
import warnings

import numpy as np
from provenance import write_table
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from studying import peak_memory, read_matrices

from fastpmf import as_counts, kl_divergence, plan, poisson_nmf

DESCRIPTION = """\
Run multiplicative updates from one random start with fastpmf and with scikit-learn's
NMF(solver="mu", beta_loss="kullback-leibler"), turn about in one process, and print the median
seconds per iteration of each (set-up, compilation and stopping tests taken out by differences
between a short and a longer fit), their ratio, and the objective after the same few iterations,
both scored by kl_divergence in float64. scikit-learn gets CSR counts in the dtype worked in; it
uses one thread for this.

Then, in a fresh process for each case, the peak memory of a fit above what the process held with
the counts loaded and the kernels compiled, beside what fastpmf.plan says: one transposed copy of the
counts, the factors and the solver's spare, and what the last look at the optimality needs.
"""
LINE = "{:<26}{:>5} {:>8} {:>10} {:>12} {:>7} {:>15} {:>15} {:>9} {:>9}"
HEAD = [
    "counts",
    "k",
    "dtype",
    "ours, ms",
    "sklearn, ms",
    "ratio",
    "ours, nats",
    "sklearn, nats",
    "peak MiB",
    "predicted",
]
SCORED = 5  # iterations after which the objectives are compared


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", metavar="FILE", help=".npz or .mtx[.gz] (default: the words of Python)")
    parser.add_argument("--components", nargs="+", type=int, default=[20, 100], metavar="K", help="default: 20 100")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--threads", type=int, metavar="N", help="ours (default: all this process may use)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each, medians are told (default: %(default)s)")
    parser.add_argument("--csv", metavar="FILE", help="write the table there too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", message=".*carry no counts")
    matrices = read_matrices(parser, arguments.data)
    rows = []
    print(LINE.format(*HEAD))  # noqa: T201
    for name, X in matrices.items():
        for k in arguments.components:
            for dtype in arguments.dtype:
                seconds, objectives = race(X, k, dtype, arguments.threads, arguments.repeats)
                with multiprocessing.get_context("spawn").Pool(1) as fresh:
                    peak, predicted = fresh.apply(memory, (X, k, dtype, arguments.threads))
                ours, theirs = (1e3 * s for s in seconds)
                rows.append([name, k, dtype, ours, theirs, theirs / ours, *objectives, peak, predicted])
                told = [f"{ours:.2f}", f"{theirs:.0f}", f"{theirs / ours:.1f}", *(f"{D:.2f}" for D in objectives)]
                print(LINE.format(name, k, dtype, *told, f"{peak:.1f}", f"{predicted:.1f}"), flush=True)  # noqa: T201
    if arguments.csv:
        write_table(arguments.csv, HEAD, rows, matrices)
    return 0


def race(X, k: int, dtype: str, n_threads: int | None, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds per iteration and objective after `SCORED` iterations, of fastpmf and of scikit-learn."""
    rng = np.random.default_rng(0)
    W, H = (rng.random(shape).astype(dtype) + np.float32(0.1) for shape in ((X.shape[0], k), (k, X.shape[1])))
    counts, floats = as_counts(X), X.tocsr().astype(dtype)

    def ours(n_iter):
        fit = poisson_nmf(
            counts,
            k,
            solver="mu",
            init="custom",
            W=W,
            H=H,
            max_iter=n_iter,
            tol=0,
            eval_every=10**9,
            dtype=dtype,
            n_threads=n_threads,
        )
        return fit.W, fit.H

    def theirs(n_iter):
        model = NMF(k, init="custom", solver="mu", beta_loss="kullback-leibler", max_iter=n_iter, tol=0)
        return model.fit_transform(floats, W=W.copy(), H=H.copy()), model.components_

    objectives = [kl_divergence(counts, *fit(SCORED)) for fit in (ours, theirs)]  # and compiles
    slopes: list[list[float]] = [[], []]
    for _ in range(repeats):
        for fit, (few, many), slope in zip((ours, theirs), ((5, 45), (1, 4)), slopes, strict=True):
            clock = [time.perf_counter()]
            for n_iter in (few, many):
                fit(n_iter)
                clock.append(time.perf_counter())
            slope.append((clock[2] - 2 * clock[1] + clock[0]) / (many - few))
    return [statistics.median(slope) for slope in slopes], objectives


def memory(X, k: int, dtype: str, n_threads: int | None) -> tuple[float, float]:
    """Peak memory of a fit above the process that holds X, and what it should be; MiB."""

    def fit(matrix):
        return poisson_nmf(matrix, k, solver="mu", max_iter=2, tol=0, dtype=dtype, random_state=0, n_threads=n_threads)

    warnings.simplefilter("ignore")
    small = X[:50].astype(X.dtype)
    fit(small)  # compiles
    peak = peak_memory(lambda: fit(X))
    planned = plan(X.shape, X.nnz, k, dtype, counts_dtype=as_counts(X).dtype, solver="mu", trial=False)
    return peak / 2**20, planned.peak_bytes / 2**20


if __name__ == "__main__":
    sys.exit(main())
