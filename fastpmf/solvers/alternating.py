"""What solvers share that update one factor while the other stays, in turn."""

import math

import numpy as np

from fastpmf.counts import Side
from fastpmf.model.priors import NO_PRIOR, RowPrior
from fastpmf.model.updates import Update
from fastpmf.solvers.base import Problem, State


class Alternating:
    """Half a step on W, half a step on H; a subclass says what half a step is.

    Memory: one spare copy of the factors.
    """

    warm_up, copies, transposed, leaps, tells = 0, 2, True, False, False

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        self._spare = [np.zeros_like(A) for A in (W, Ht)]
        return State.start(problem, W, Ht)

    def step(self, problem: Problem, state: State) -> None:
        for side in Side:
            other, out = Side(1 - side), self._spare[side]
            U, V = state.factors[side], state.factors[other]
            weight, prior = problem.row_terms(side, state)
            update = self.half(problem, side, U, V, weight, out, prior=prior)
            state.gaps[side] = update.gap
            if math.isnan(update.gap):
                return  # the factors before this half-step stay
            state.factors[side], self._spare[side] = out, U
            state.sums[side], state.data_term = update.sums, update.data_term
        state.balance(problem)

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
        """Write to `out` a factor of `side` that is no worse than U while V stays; `weight` as in `multiplicative`."""
        raise NotImplementedError
