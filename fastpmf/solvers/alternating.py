"""What solvers share that update one factor while the other stays, in turn."""

import math

import numpy as np

from fastpmf.counts import Side
from fastpmf.model.updates import Update
from fastpmf.solvers.base import Problem, State


class Alternating:
    """Half a step on W, half a step on H; a subclass says what half a step is.

    Memory: one spare copy of the factors.
    """

    warm_up, copies, transposed, leaps = 0, 2, True, False

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        self._spare = [np.zeros_like(A) for A in (W, Ht)]
        return State.start(W, Ht)

    def step(self, problem: Problem, state: State) -> None:
        for side in Side:
            other, out = Side(1 - side), self._spare[side]
            U, V = state.factors[side], state.factors[other]
            update = self.half(problem, side, U, V, state.sums[other], out)
            state.gaps[side] = update.gap
            if math.isnan(update.gap):
                return  # the factors before this half-step stay
            state.factors[side], self._spare[side] = out, U
            state.sums[side], state.data_term = update.sums, update.data_term

    def half(
        self, problem: Problem, side: Side, U: np.ndarray, V: np.ndarray, v_sum: np.ndarray, out: np.ndarray
    ) -> Update:
        """Write to `out` a factor of `side` that is no worse than U while V, with column sums v_sum, stays."""
        raise NotImplementedError
