"""Expectation-maximisation of PLSI: both factors from one pass over the rows, and no transposed counts."""

import math

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.model.updates import multiplicative
from fastpmf.solvers.base import Memory, Problem, State


class JointEM:
    """Update W and H at once, from the same posterior of components: monotone, slower per iteration, least memory.

    With P_ijk = W_ik H_kj / rate_ij the share of component k in count x_ij, the expected counts are
    N_ik = sum_j x_ij P_ijk of row i and N_jk = sum_i x_ij P_ijk of column j; the rates that they are likeliest under
    are N_ik N_jk / N_k. One pass over CSR gives both sums, where alternating updates need the transposed counts too.

    References
    ----------
    T. Hofmann, "Probabilistic latent semantic indexing", SIGIR 1999, equations 4 and 5.
    """

    warm_up, copies, transposed, leaps, tells = 0, 2, False, False, False

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        self._spare = [np.zeros_like(A) for A in (W, Ht)]
        return State.start(problem, W, Ht)

    def remember(self, state: State) -> Memory:
        return state.remember()

    def recall(self, problem: Problem, memory: Memory) -> State:
        state = State.recall(problem, memory)
        self.init(problem, *state.factors)
        return state

    def step(self, problem: Problem, state: State) -> None:
        (W, Ht), (S, T) = state.factors, self._spare
        problem.counts.contract_both(W, Ht, S, T)
        weight, prior = problem.row_terms(Side.COLUMNS, state)
        state.gaps[Side.COLUMNS] = multiplicative(Ht, T, weight, None, prior=prior).gap
        weight, prior = problem.row_terms(Side.ROWS, state)
        w = multiplicative(W, S, weight, S, prior=prior)
        state.gaps[Side.ROWS] = w.gap
        if any(map(math.isnan, state.gaps.values())):
            return
        # The columns' expected counts are those of the old W, but what they are divided by is the new one's
        state.factors[Side.ROWS], state.sums[Side.ROWS], self._spare[Side.ROWS] = S, w.sums, W
        weight, prior = problem.row_terms(Side.COLUMNS, state)
        h = multiplicative(Ht, T, weight, T, prior=prior)
        state.factors[Side.COLUMNS], state.sums[Side.COLUMNS], self._spare[Side.COLUMNS] = T, h.sums, Ht
        state.data_term = None
        state.balance(problem)
