"""One problem, three names: KL divergence, Poisson likelihood and PLSI fall together, iteration by iteration."""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from fastpmf import as_counts, kl_divergence, poisson_log_likelihood, poisson_nmf
from fastpmf.datasets import load_stdlib
from fastpmf.io import read_counts

DESCRIPTION = """\
Fit a real count matrix by multiplicative updates and print, at each iteration, the generalised
Kullback-Leibler divergence D, the Poisson log-likelihood log L and their sum, which is the same
constant of the data at every iteration: minimising the one is maximising the other.

Then the same for the normalised matrix, sum(X) = 1. After each iteration sum(W H) = 1 too, so that D
is the ordinary Kullback-Leibler divergence of two distributions over (row, column), and the fit is
PLSI: its divergence is the other one's divided by sum(X), iteration by iteration.
"""
LINE = "{:>9}  {:>22}  {:>22}  {:>24}"


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="counts, .npz or .mtx[.gz] (default: Python's standard library)")
    parser.add_argument("-k", "--components", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--iterations", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--csv", default="equivalence.csv", metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--png", default="equivalence.png", metavar="FILE", help="needs matplotlib; default: %(default)s"
    )
    arguments = parser.parse_args()
    if min(arguments.components, arguments.iterations) < 1:
        parser.error("--components and --iterations must be at least 1")
    try:
        X = read_counts(arguments.data).X if arguments.data else load_stdlib().X
    except (ValueError, OSError) as error:
        parser.error(str(error))

    counts = X.astype(np.float64)
    tables = {}
    for name, matrix in (("unnormalised", counts), ("normalised", counts / counts.sum())):
        print(f"\n{name}: sum(X) = {matrix.sum():.10g}")  # noqa: T201
        print(LINE.format("iteration", "D, nats", "-log L, nats", "D + log L, nats"))  # noqa: T201
        tables[name] = trace(matrix, arguments.components, arguments.iterations, arguments.seed)

    plain, unit = tables["unnormalised"], tables["normalised"]
    spread = np.ptp(plain[:, 3]) / abs(plain[0, 3])
    ratio = np.abs(unit[:, 1] * counts.sum() / plain[:, 1] - 1).max()
    print(f"\nD + log L changes by {spread:.1e} of itself over {arguments.iterations} iterations.")  # noqa: T201
    print(f"sum(W H) differs from sum(X) by at most {np.abs(unit[1:, 4] - 1).max():.1e} once normalised.")  # noqa: T201
    print(f"sum(X) x normalised D differs from D by at most {ratio:.1e} of it.")  # noqa: T201
    with open(arguments.csv, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["fit", "iteration", "divergence", "minus_log_likelihood", "sum", "rate_total"])
        writer.writerows([name, *row] for name, table in tables.items() for row in table.tolist())
    print(f"table: {arguments.csv}")  # noqa: T201
    draw(tables, Path(arguments.png))
    return 0


def trace(X, n_components: int, n_iterations: int, seed: int) -> np.ndarray:
    """One row per iteration: number, D, -log L, D + log L, sum(W H); each from the definition, not from the solver."""
    counts, rows = as_counts(X), []

    def watch(record, W, H):
        D, log_likelihood = kl_divergence(counts, W, H), poisson_log_likelihood(counts, W, H)
        rows.append((record.n_iter, D, -log_likelihood, D + log_likelihood, float(W.sum(axis=0) @ H.sum(axis=1))))
        print(LINE.format(record.n_iter, *(f"{value:.10f}" for value in rows[-1][1:4])), flush=True)  # noqa: T201

    poisson_nmf(
        counts,
        n_components,
        solver="mu",
        max_iter=n_iterations,
        tol=0,
        eval_every=1,
        random_state=seed,
        dtype="float64",
        callback=watch,
    )
    return np.array(rows)


def draw(tables: dict[str, np.ndarray], path: Path) -> None:
    """Both curves and their constant sum, for both fits."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: matplotlib is not installed")  # noqa: T201
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (name, table) in zip(figure.subplots(1, 2), tables.items(), strict=True):
        n_iter = table[:, 0]
        axes.plot(n_iter, table[:, 1], label="D(X ‖ WH)")
        axes.plot(n_iter, table[:, 2], "--", label="−log L(W, H)")
        axes.plot(n_iter, table[:, 3], ":", color="black", label="D + log L, a constant of X")
        axes.set(title=f"{name} (ΣX = {table[-1, 4]:.6g})", xlabel="iteration", ylabel="nats")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
