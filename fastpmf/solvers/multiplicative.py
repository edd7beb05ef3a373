"""Multiplicative updates (Lee & Seung), the reference that every other solver is measured by."""

import math

import numpy as np

from fastpmf.counts import Side
from fastpmf.model.updates import multiplicative
from fastpmf.solvers.base import Problem, State


class Multiplicative:
    """Alternate the multiplicative rule between the free factors: monotone, and never out of an exact zero.

    One iteration costs one contraction per free side, 4 nnz K flops each, and no memory beyond one spare copy of the
    factors.
    """

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        self._spare = {side: np.zeros_like((W, Ht)[side]) for side in problem.free}
        return State.start(W, Ht)

    def step(self, problem: Problem, state: State) -> None:
        state.n_moved = 0
        for side in problem.free:
            other = Side(1 - side)
            U, S = state.factors[side], self._spare[side]
            problem.counts.contract(side, U, state.factors[other], S)
            update = multiplicative(U, S, state.sums[other], out=S, tol=problem.row_tol)
            state.gaps[side] = update.gap
            if math.isnan(update.gap):
                return  # the factors before this half-step stay
            state.factors[side], self._spare[side] = S, U
            state.sums[side] = update.sums
            state.n_moved += update.n_moved
