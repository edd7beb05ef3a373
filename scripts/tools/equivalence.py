"""Minimum KL divergence, maximum Poisson likelihood and PLSI are the same problem: all three at each iteration."""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from fastpmf import as_counts, kl_divergence, poisson_log_likelihood, poisson_nmf

DESCRIPTION = """\
Fit counts by multiplicative updates and print, at each iteration, the generalised Kullback-Leibler divergence D, the
Poisson log-likelihood log L, and their sum. The sum is a constant of the data, so minimising D is maximising log L.

Then fit the normalised matrix, sum(X) = 1. After each iteration sum(W H) = 1 too, so that D is the ordinary divergence
of two distributions over (row, column), and the fit is PLSI: its divergence is that of the counts divided by sum(X).
"""
FITS = ("counts", "normalised")
SHOWN = "fit iteration divergence minus_log_likelihood sum"


class Row(NamedTuple):
    """A row of the table; all but the first two in nats, the last the sum of W H."""

    fit: str
    iteration: int
    divergence: float
    minus_log_likelihood: float
    sum: float
    rate_total: float


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION)
    parser.shared(components=10, max_iter=30, seed=0, data=None)
    arguments = parser.parse_args()
    matrices = common.read_matrices(parser, [arguments.data] if arguments.data else None)
    (X,) = (X.astype(np.float64) for X in matrices.values())
    batches = (trace(name, matrix, arguments) for name, matrix in zip(FITS, (X, X / X.sum()), strict=True))
    rows = common.collect(batches, len(FITS), arguments, counts=matrices, show=SHOWN, digits=16)
    plain, unit = (np.array([row[2:] for row in rows if row.fit == fit]) for fit in FITS)
    ratio = np.abs(unit[:, 0] * X.sum() / plain[:, 0] - 1).max()
    sentences = [
        f"D + log L changes by {np.ptp(plain[:, 2]) / abs(plain[0, 2]):.1e} of itself over {len(plain)} iterations.",
        f"sum(W H) of the normalised counts differs from 1 by at most {np.abs(unit[1:, 3] - 1).max():.1e}.",
        f"sum(X) times the normalised D differs from D by at most {ratio:.1e} of it.",
    ]
    return common.conclude(arguments, partial(plot, rows), sentences)


def trace(name: str, X: Any, arguments: Any) -> list[Row]:
    """A row for each iteration, each value computed from its definition and not taken from the solver."""
    counts, rows = as_counts(X), []

    def callback(record: Any, W: np.ndarray, H: np.ndarray) -> None:
        D, log_likelihood = kl_divergence(counts, W, H), poisson_log_likelihood(counts, W, H)
        total = float(W.sum(axis=0) @ H.sum(axis=1))
        rows.append(Row(name, record.n_iter, D, -log_likelihood, D + log_likelihood, total))

    poisson_nmf(counts, arguments.components, solver="mu", max_iter=arguments.max_iter, tol=0, eval_every=1,
                random_state=arguments.seed, dtype="float64", callback=callback)  # fmt: skip
    return rows


def plot(rows: list[Row], figure: Any) -> None:
    """Both curves and their constant sum, for both fits."""
    for axes, fit in zip(common.grid(figure, 2), FITS, strict=True):
        _, iteration, D, log_likelihood, total, rates = zip(*(row for row in rows if row.fit == fit), strict=True)
        axes.plot(iteration, D, label="D(X ‖ WH)")
        axes.plot(iteration, log_likelihood, "--", label="−log L(W, H)")
        axes.plot(iteration, total, ":", color="black", label="D + log L, a constant of X")
        axes.set(title=f"{fit} (ΣX = {rates[-1]:.6g})", xlabel="iteration", ylabel="nats")
        axes.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
