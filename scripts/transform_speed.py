"""W for unseen rows, here and in scikit-learn: seconds, objective and certificate, with the same H fixed."""

import argparse
import sys
import warnings
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from provenance import write_table
from sklearn.decomposition import non_negative_factorization
from sklearn.exceptions import ConvergenceWarning
from studying import (
    add_outputs,
    check_outputs,
    clocked,
    draw,
    from_to,
    others_busy,
    progress,
    read_matrices,
    tell,
)

from fastpmf import PoissonNMF, kl_divergence
from fastpmf.kernels._jit import threads

DESCRIPTION = """\
Hold rows of each file of counts out, at random; fit H on the others, by a short fit of fastpmf for each K; then
find W for the rows held out, with H fixed, by PoissonNMF.transform at several tolerances, and by scikit-learn's
non_negative_factorization(update_H=False, solver="mu", beta_loss="kullback-leibler") with its defaults, which is
what its NMF.transform does. All take turns; told are medians over the turns.

transform goes on until each row is certified to be within tol nats per count of its optimum. The certificate
told is the sum over the rows: so many nats per 1,000 counts could any W gain at most. scikit-learn stops where
ten iterations lower sqrt(2 D) by less than 1e-4 of what it began at, or after 200, and certifies nothing.
Objectives are the exact divergence, kl_divergence in float64.

Columns without counts in the rows that were fitted are left out. transform is given the counts as they are read,
and its checks and conversions are clocked; scikit-learn is given CSR counts in the dtype worked in, and uses
one thread for this. Kernels are compiled before any clock runs.
"""
LINE = "{:<16}{:>5}{:>9}{:>11}{:>11}{:>8}{:>17}{:>17}{:>13}{:>7}"
HEAD = ["counts", "k", "tol", "ours, s", "sklearn, s", "ratio", "ours, nats", "sklearn, nats", "gap/1,000", "late"]


class Point(NamedTuple):
    """A line of the table: rows held out, at one tolerance. Objectives are in nats; the gap is the certified one."""

    counts: str
    k: int
    tol: float
    rows: int
    total: float
    seconds: float
    sklearn_seconds: float
    ratio: float
    objective: float
    sklearn_objective: float
    gap_per_1000: float
    late_rows: int  # that max_iter stopped
    sklearn_iterations: int
    threads: int
    dtype: str


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="FILE", help=".npz or .mtx[.gz] (default: the words of Python)")
    parser.add_argument("-k", "--components", nargs="+", type=int, default=[20], metavar="K", help="default: 20")
    parser.add_argument("--rows", type=int, metavar="N", help="held out (default: half of them)")
    parser.add_argument("--tol", nargs="+", type=float, default=[3e-3, 1e-3, 1e-4], help="default: 3e-3 1e-3 1e-4")
    parser.add_argument("--fit-iterations", type=int, default=50, metavar="N", help="for H; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, metavar="R", help="turns of each; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of rows and start; default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="ours (default: all this process may use)")
    add_outputs(parser, "transform_speed")
    arguments = parser.parse_args()
    check(parser, arguments)
    matrices = read_matrices(parser, arguments.data)
    halves = {name: split(parser, name, X.tocsr(), arguments) for name, X in matrices.items()}
    warnings.simplefilter("ignore", ConvergenceWarning)  # the table has the rows that were late
    warnings.filterwarnings("ignore", message=".*carry no counts")
    busy, points = others_busy(), []
    tell(LINE.format(*HEAD))
    with threads(arguments.threads) as n_threads, progress(len(halves) * len(arguments.components), "H") as tick:
        for name, (seen, unseen) in halves.items():
            for k in arguments.components:
                for told in race(seen, unseen, k, arguments):
                    points.append(Point(name, k, *told, n_threads, arguments.dtype))
                    tell_line(points[-1])
                write_table(arguments.csv, Point._fields, points, matrices)  # as it goes: outlives an interruption
                tick()
    tell("gap: certified, in nats per 1,000 counts; late: rows that had not come to tol when max_iter stopped them.")
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, points), figsize=(8, 5))
    tell()
    for sentence in [*verdict(points), *busy]:
        tell(sentence)
    return 0


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Turn away what can't be run, before anything is; name everything once."""
    numbers = (*arguments.components, arguments.rows, arguments.fit_iterations, arguments.repeats, arguments.threads)
    if min(n for n in numbers if n is not None) < 1:
        parser.error("--components, --rows, --fit-iterations, --repeats and --threads must be at least 1")
    if not all(0 < tol < 1 for tol in arguments.tol):
        parser.error("--tol must be above 0 and below 1, in nats per count")
    if not 0 <= arguments.seed < 2**32:
        parser.error(f"--seed must be from 0 to 2**32 - 1, got {arguments.seed}")
    check_outputs(parser, arguments)
    arguments.components = list(dict.fromkeys(arguments.components))
    arguments.tol = sorted(set(arguments.tol), reverse=True)


def split(parser: argparse.ArgumentParser, name: str, X, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Rows to fit and rows held out, in the columns that the former have counts in."""
    n = X.shape[0]
    held = n // 2 if arguments.rows is None else arguments.rows
    if not 0 < held < n:
        parser.error(f"--rows must leave rows of {name} to fit and to hold out, of {n} it holds {held} out")
    order = np.random.default_rng(arguments.seed).permutation(n)
    unseen, seen = (X[np.sort(rows)] for rows in (order[:held], order[held:]))
    used = np.flatnonzero(np.asarray(seen.sum(axis=0)).ravel())
    seen, unseen = (half[:, used] for half in (seen, unseen))
    if not (seen.sum() > 0 and unseen.sum() > 0):
        parser.error(f"the counts of {name} are all zero in the rows to fit or to hold out; another --seed or --rows")
    return seen, unseen


def race(seen, unseen, k: int, arguments: argparse.Namespace) -> list[tuple]:
    """For each tolerance, all of a `Point` from `tol` to scikit-learn's iterations."""
    options = {"dtype": arguments.dtype, "n_threads": arguments.threads, "random_state": arguments.seed}
    H = PoissonNMF(k, max_iter=arguments.fit_iterations, tol=0, **options).fit(seen).components_
    floats, totals = unseen.astype(arguments.dtype), np.asarray(unseen.sum(axis=1), dtype=float).ravel()
    models = [PoissonNMF(k, tol=tol, **options) for tol in arguments.tol]
    for model in models:
        model.components_, model.n_components_, model.n_features_in_ = H, *H.shape
    theirs = partial(
        non_negative_factorization, floats, H=H, n_components=k, update_H=False, solver="mu",
        beta_loss="kullback-leibler",
    )  # fmt: skip
    answers = [model.transform(unseen, return_gap_bound=True) for model in models]  # and compiles
    ours: list[list[float]] = [[] for _ in models]
    clock = []
    for _ in range(arguments.repeats):
        models[0].transform(unseen)  # threads that scikit-learn has used may still be spinning
        for model, seconds in zip(models, ours, strict=True):
            seconds.append(clocked(partial(model.transform, unseen))[1])
        (their_W, _, n_iter), spent = clocked(theirs)
        clock.append(spent)
    told, their_seconds = [], median(clock)
    their_objective = kl_divergence(unseen, their_W, H, n_threads=arguments.threads)
    for tol, seconds, (W, gap) in zip(arguments.tol, map(median, ours), answers, strict=True):
        objective = kl_divergence(unseen, W, H, n_threads=arguments.threads)
        # Bound as `transform` bounds it: what isn't finite can't be within anything
        late = int((~(gap <= tol * totals)).sum())
        told.append(
            (
                tol, len(totals), totals.sum(), seconds, their_seconds, their_seconds / seconds, objective,
                their_objective, 1e3 * gap.sum() / totals.sum(), late, n_iter,
            )
        )  # fmt: skip
    return told


def tell_line(p: Point) -> None:
    """Print a line of the table."""
    told = [f"{p.tol:g}", *(f"{s:.3g}" for s in (p.seconds, p.sklearn_seconds, p.ratio))]
    told += [f"{D:,.2f}" for D in (p.objective, p.sklearn_objective)]
    tell(LINE.format(p.counts, p.k, *told, f"{p.gap_per_1000:.3g}", p.late_rows))


def lower_bounds(points: list[Point]) -> dict[tuple[str, int], float]:
    """By counts and k, nats that no W comes below: the highest of objectives less their certified gaps."""
    found: dict[tuple[str, int], float] = {}
    for p in points:
        bound = p.objective - p.gap_per_1000 * p.total / 1e3
        found[p.counts, p.k] = max(bound, found.get((p.counts, p.k), bound))
    return found


def verdict(points: list[Point]) -> list[str]:
    """What came of it, in words."""
    lines, bound = [], lower_bounds(points)
    for tol in dict.fromkeys(p.tol for p in points):
        own = [p for p in points if p.tol == tol]
        lower = [1e3 * (p.sklearn_objective - p.objective) / p.total for p in own]
        ahead = sum(x > 0 for x in lower)
        lines.append(
            f"At tol={tol:g} scikit-learn takes {from_to((p.ratio for p in own), '.3g')} times as long; it ends higher "
            f"in {ahead} of {len(own)}, by {from_to(lower, '.2g')} nats per 1,000 counts. Certified: "
            f"{from_to((p.gap_per_1000 for p in own), '.2g')} nats per 1,000 counts above the optimum at most."
        )
    tightest = {(p.counts, p.k): p for p in points}.values()
    excess = [1e3 * (p.sklearn_objective - bound[p.counts, p.k]) / p.total for p in tightest]
    lines.append(
        f"scikit-learn stops after {from_to((p.sklearn_iterations for p in tightest), 'd')} iterations, by those "
        f"certificates at most {from_to(excess, '.2g')} nats per 1,000 counts above the optimum."
    )
    if late := sum(p.late_rows for p in points):
        lines.append(f"Rows that had not come to tol when max_iter stopped them, over all of the table: {late}.")
    return lines


def paint(figure, points: list[Point]) -> None:
    """Nats per 1,000 counts above what no W comes below, against seconds: a line for ours, a cross for theirs."""
    axes, bound = figure.subplots(), lower_bounds(points)
    for i, (name, k) in enumerate(bound):
        own = [p for p in points if (p.counts, p.k) == (name, k)]
        height = [1e3 * (p.objective - bound[name, k]) / p.total for p in own]
        theirs = 1e3 * (own[0].sklearn_objective - bound[name, k]) / own[0].total
        axes.plot([p.seconds for p in own], height, f"C{i}o-", label=f"{name}, k = {k}")
        axes.plot(own[0].sklearn_seconds, theirs, f"C{i}x", ms=8)
    axes.set(xscale="log", yscale="log", xlabel="seconds", title="o fastpmf, for each tol   x scikit-learn")
    axes.set(ylabel="nats per 1,000 counts above a lower bound on the optimum")
    figure.legend(loc="outside right upper")


if __name__ == "__main__":
    sys.exit(main())
