"""Guarded coordinate descent: nearly solves the convex problem of each row while it is in the cache."""

from dataclasses import dataclass

import numpy as np

from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums
from fastpmf.counts import SparseRows
from fastpmf.model.updates import TINY, Update, finite_sum, multiplicative
from fastpmf.solvers.multiplicative import Multiplicative

# Extrapolation replaces an exact zero by TINY of the counts of its row. Entries up to this share are set to zero again.
_ZERO = 10 * TINY


@dataclass(frozen=True, kw_only=True)
class CoordinateDescent(Multiplicative):
    """Relaxed multiplicative iterations first, then sweeps of coordinate descent over the rows of W and of H in turn.

    No update raises the objective. Second-order steps from a random start run into poor local optima; after a few
    multiplicative iterations, which are cheap, the same fits end lower.

    Coordinate descent on a column needs all of its entries. If counts can be read by rows only, H takes multiplicative
    steps throughout.

    Parameters
    ----------
    inner_steps : int, default=1
        Updates of W in an iteration.
    sweeps : int, default=2
        Sweeps over the components of a row in an update.
    warm_up : int, default=10
        Multiplicative iterations before the first sweep.
    """

    sweeps: int = 2
    warm_up: int = 10  # type: ignore[misc]
    relaxed: bool = True

    def update(self, X: SparseRows, subproblem: Subproblem, U: np.ndarray, out: np.ndarray, n_steps: int) -> Update:
        if n_steps < self.warm_up:
            X.contract(U, subproblem.V, out)
            return multiplicative(subproblem, U, out, out, relaxed=True)
        is_last = subproblem.side is Side.COLUMNS
        descent = X.descend(subproblem, U, out, sweeps=self.sweeps, zero=_ZERO, with_data_term=is_last)
        return Update(column_sums(out), finite_sum(descent.gap), descent.data_term)
