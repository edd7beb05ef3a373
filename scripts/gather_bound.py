"""How near `ratio_contract` is to the least that it could cost: fetching the rows that it reads."""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from scipy import sparse

from fastpmf import as_counts
from fastpmf.counts import MemoryCounts, Side
from fastpmf.kernels._jit import threads
from fastpmf.model.factors import empty_factor, padded

sys.path.insert(0, str(Path(__file__).parents[1] / "asv_benchmarks"))
from benchmarks.bound import gather
from benchmarks.common import median_seconds, power_law

DESCRIPTION = """\
Time the contraction S_ik = sum_j x_ij / (u_i . v_j) v_jk against a bound measured in the same process:
a kernel that gathers the same rows of V in the same blocks of work and does one FMA per 64-byte vector.

Both take turns, so that a slow moment of the machine hits both; times are medians over the repeats, in
nanoseconds per nonzero. The side of W gathers rows of H transposed, the side of H rows of W. A ratio of 1
is a contraction whose arithmetic is free; ratios travel between machines, nanoseconds don't.
"""
COLUMNS = ("k", "dtype", "side", "contract, ns/nonzero", "bound, ns/nonzero", "ratio")


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="counts, a scipy.sparse .npz (default: a synthetic power law)")
    parser.add_argument("-k", "--components", type=int, nargs="+", default=[20, 32, 100], help="default: %(default)s")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--threads", type=int, metavar="N", help="default: as many as the process may use")
    parser.add_argument("--repeats", type=int, default=11, metavar="R", help="of each kernel; default: %(default)s")
    parser.add_argument("--csv", metavar="FILE", help="write the table there too")
    arguments = parser.parse_args()
    if min(*arguments.components, arguments.repeats, arguments.threads or 1) < 1:
        parser.error("--components, --repeats and --threads must be at least 1")
    try:
        counts = as_counts(sparse.load_npz(arguments.data) if arguments.data else power_law(3_000_000))
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))

    rows = []
    with threads(arguments.threads) as n_threads:
        n, p = counts.shape
        tell(f"{arguments.data or 'power law'}: {n} x {p}, {counts.nnz} nonzeros, {counts.dtype}; {n_threads} threads")
        tell("{:>4} {:>8} {:>5} {:>21} {:>18} {:>6}".format(*COLUMNS))
        for k in arguments.components:
            for dtype in arguments.dtype:
                for side in Side:
                    contract, bound = measure(counts, side, k, np.dtype(dtype), arguments.repeats)
                    rows.append((k, dtype, "WH"[side], contract, bound, contract / bound))
                    tell("{:>4} {:>8} {:>5} {:>21.2f} {:>18.2f} {:>6.2f}".format(*rows[-1]))
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        tell(f"table: {arguments.csv}")
    return 0


def measure(counts: MemoryCounts, side: Side, n_components: int, dtype: np.dtype, repeats: int) -> list[float]:
    """Nanoseconds per nonzero of the contraction and of its bound."""
    rng = np.random.default_rng(0)
    # In [0.5, 1.5): no rate is near 0.
    U, V = (padded(rng.random((m, n_components)) + 0.5, dtype) for m in counts.side(side).shape)
    out = empty_factor(len(U), n_components, dtype)
    calls = [lambda: counts.contract(side, U, V, out), lambda: gather(counts, side, U, V, out)]
    for call in calls:
        call()  # compiles
    return [1e9 * seconds / counts.nnz for seconds in median_seconds(*calls, repeats=repeats)]


def tell(line: str) -> None:
    """Print a line as soon as it is known."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
