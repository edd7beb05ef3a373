"""How much sooner the default solver is where scikit-learn's 200 iterations end, and how much lower it ends."""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from compare_solvers import Ours, Sklearn, start
from provenance import write_table
from studying import read_matrices

from fastpmf import as_counts, kl_divergence
from fastpmf.kernels._jit import threads

DESCRIPTION = """\
For each file of counts and each K: the objective after 200 multiplicative iterations, which is where
scikit-learn's NMF(solver="mu", beta_loss="kullback-leibler") stops by default, then the seconds to it.

scikit-learn's are 200 times what it takes for one iteration, clocked on a few of them. Its objective is
taken from our own multiplicative updates: the same rule, and the same iterates until the smallest entries
reach a floor here and underflow there, after some 20 iterations (tested to 1e-10 up to there). Ours
is extrapolated coordinate descent from the same start: first the iteration that reaches the objective is
found by exact scores, then fits of just so many iterations are clocked, three at a time, turn about with
scikit-learn's.
Counts are read and transposed, and kernels compiled, before any clock runs; as many threads as the
process may use for ours, and one, which is all it can use, for scikit-learn.

--objective D asks for the seconds to that objective instead, in iterations of scikit-learn: a clock
that a figure measured elsewhere can be compared by.
"""
HEAD = ["counts", "k", "seed", "target, nats", "iterations", "ours, s", "sklearn, s", "ratio", "sklearn iterations"]
LINE = "{:<28}{:>4}{:>5}{:>15}{:>11}{:>9}{:>11}{:>7}{:>19}"


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="FILE", help=".npz or .mtx[.gz] (default: the words of Python)")
    parser.add_argument("-k", "--components", nargs="+", type=int, default=[20], metavar="K", help="default: 20")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="S", help="starts; default: 0 1 2")
    parser.add_argument("--objective", type=float, metavar="D", help="nats (default: that of 200 mu iterations)")
    parser.add_argument("--solver", default="cd+x", help="as in compare_solvers.py (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each, medians are told; default: 3")
    parser.add_argument("--sklearn-iterations", type=int, default=3, metavar="N", help="in a turn; default: 3")
    parser.add_argument("--max-iter", type=int, default=300, metavar="N", help="of ours; default: %(default)s")
    parser.add_argument("--csv", metavar="FILE", help="write the table there too")
    arguments = parser.parse_args()
    if min(*arguments.components, arguments.repeats, arguments.sklearn_iterations, arguments.max_iter) < 1:
        parser.error("-k, --repeats, --sklearn-iterations and --max-iter must be at least 1")
    matrices = read_matrices(parser, arguments.data)
    print(LINE.format(*HEAD))  # noqa: T201
    rows = []
    with threads():
        for name, X in matrices.items():
            for k in arguments.components:
                for seed in arguments.seeds:
                    rows.append([name, k, seed, *race(X, k, seed, arguments)])
                    name_, k_, seed_, target, n_iter, ours, theirs, ratio, clock = rows[-1]
                    told = [f"{target:.1f}", n_iter, f"{ours:.3f}", f"{theirs:.1f}", f"{ratio:.0f}", f"{clock:.2f}"]
                    print(LINE.format(name_, k_, seed_, *told), flush=True)  # noqa: T201
    if arguments.csv:
        write_table(arguments.csv, HEAD, rows, matrices)
    return 0


def race(X, k: int, seed: int, arguments: argparse.Namespace) -> tuple[float, int, float, float, float, float]:
    """Target, our iterations and seconds to it, scikit-learn's seconds for 200, their ratio, our seconds by its."""
    counts = as_counts(X)
    factors = start(counts, k, seed, np.dtype(np.float32))
    floats = X.tocsr().astype(np.float32)

    def score(racer: Ours) -> float:
        return kl_divergence(counts, *racer.factors())

    target = arguments.objective
    if target is None:
        reference = Ours("mu", counts, *factors)
        reference.advance(200)
        target = score(reference)
    scout, n_iter = Ours(arguments.solver, counts, *factors), 0
    while score(scout) > target and n_iter < arguments.max_iter:
        scout.advance(1)
        n_iter += 1
    reached = score(scout) <= target
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        fits = []
        for _ in range(3):  # in the first, threads that scikit-learn has used may still be spinning
            began = time.perf_counter()
            Ours(arguments.solver, counts, *factors).advance(n_iter)
            fits.append(time.perf_counter() - began)
        ours.append(median(fits))
        began = time.perf_counter()
        Sklearn(floats, *factors).advance(1)
        once = time.perf_counter()
        Sklearn(floats, *factors).advance(1 + arguments.sklearn_iterations)
        theirs.append((time.perf_counter() - 2 * once + began) / arguments.sklearn_iterations)
    seconds, iteration = median(ours) if reached else np.inf, median(theirs)
    return target, n_iter, seconds, 200 * iteration, 200 * iteration / seconds, seconds / iteration


if __name__ == "__main__":
    sys.exit(main())
