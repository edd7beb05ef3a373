"""Multiplicative updates (Lee & Seung), the reference that every other solver is measured by."""

import numpy as np

from fastpmf.counts import Side
from fastpmf.model.priors import NO_PRIOR, RowPrior
from fastpmf.model.updates import Update, multiplicative
from fastpmf.solvers.alternating import Alternating
from fastpmf.solvers.base import Problem


class Multiplicative(Alternating):
    """Alternate the multiplicative rule between the factors: monotone, and never out of an exact zero.

    One iteration costs two contractions, 8 nnz K flops.

    Parameters
    ----------
    relaxed : bool, default=False
        Go nearly twice as far in each update, which is monotone too, and takes about half as many iterations.
    """

    def __init__(self, *, relaxed: bool = False) -> None:
        self._relaxed = relaxed

    def half(
        self,
        problem: Problem,
        side: Side,
        U: np.ndarray,
        V: np.ndarray,
        weight: np.ndarray,
        out: np.ndarray,
        *,
        prior: RowPrior = NO_PRIOR,
    ) -> Update:
        problem.counts.contract(side, U, V, out)
        return multiplicative(U, out, weight, out, prior=prior, relaxed=self._relaxed)
