"""Expectation-maximisation of PLSI: both factors from one pass over the rows, and no transposed counts."""

import math

import numpy as np

from fastpmf.counts import Side
from fastpmf.model.updates import multiplicative
from fastpmf.solvers.base import Problem, State


class JointEM:
    """Update W and H at once, from the same posterior of components: monotone, slower per iteration, least memory.

    With P_ijk = W_ik H_kj / rate_ij the share of component k in count x_ij, the expected counts are
    N_ik = sum_j x_ij P_ijk of row i and N_jk = sum_i x_ij P_ijk of column j; the rates that they are likeliest under
    are N_ik N_jk / N_k. One pass over CSR gives both sums, where alternating updates need the transposed counts too.

    References
    ----------
    T. Hofmann, "Probabilistic latent semantic indexing", SIGIR 1999, equations 4 and 5.
    """

    warm_up, copies, transposed, leaps = 0, 2, False, False

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        self._spare = [np.zeros_like(A) for A in (W, Ht)]
        return State.start(W, Ht)

    def step(self, problem: Problem, state: State) -> None:
        (W, Ht), (S, T) = state.factors, self._spare
        problem.counts.contract_both(W, Ht, S, T)
        w, h = (
            multiplicative(U, out, state.sums[1 - side], out=out)
            for side, U, out in ((Side.ROWS, W, S), (Side.COLUMNS, Ht, T))
        )
        state.gaps = {Side.ROWS: w.gap, Side.COLUMNS: h.gap}
        if math.isnan(w.gap) or math.isnan(h.gap):
            return
        # Both are N over the other's old sum: their product is right once W's old sum has become its new one.
        ratio = np.divide(state.sums[Side.ROWS], w.sums, out=np.zeros_like(w.sums), where=w.sums > 0)
        np.multiply(T, ratio.astype(T.dtype), out=T)
        state.factors, self._spare = [S, T], [W, Ht]
        state.sums, state.data_term = [w.sums, h.sums * ratio], None
