"""Multiplicative updates (Lee & Seung), the reference that every other solver is measured by."""

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.subproblem import NO_PRIOR, RowPrior
from fastpmf.model.updates import Update, multiplicative
from fastpmf.solvers.alternating import Alternating


class Multiplicative(Alternating):
    """Alternate the multiplicative rule between the factors: monotone, and never out of an exact zero.

    One iteration costs two contractions, 8 nnz K flops.

    Parameters
    ----------
    inner_steps : int, default=1
        Updates of W in an iteration, each a contraction.
    relaxed : bool, default=False
        Go nearly twice as far in each update, which is monotone too, and takes about half as many iterations.
    """

    def half(
        self,
        counts: Counts,
        side: Side,
        n_components: int,
        U: np.ndarray,
        V: np.ndarray,
        weight: np.ndarray,
        out: np.ndarray,
        *,
        prior: RowPrior = NO_PRIOR,
    ) -> Update:
        counts.contract(side, U, V, out)
        return multiplicative(U, out, weight, out, prior=prior, relaxed=self._relaxed)
