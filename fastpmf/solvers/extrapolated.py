"""Extrapolation: carry each iteration's move on, as long as that lowers the objective."""

import math

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.model.updates import extrapolated
from fastpmf.solvers.base import Memory, Problem, Solver, State

# Ang & Gillis: the momentum grows while it helps and is cut back when it doesn't, and so is the most it may grow to.
_FIRST, _GROW, _SHRINK, _CAP, _CAP_GROW = 0.6, 1.2, 0.75, 0.99, 1.05


class Extrapolated:
    """Step from where the last move would have led, and keep the result only if the objective is no higher.

    After iterates x_t, the next step is taken from y = x_t + momentum (x_t - x_{t-1}), kept off exact zeros. What is
    kept, and returned, are the iterates and never y, and each has an objective at most that of the one before: a step
    that ends higher is thrown away, and the next is a plain one, which a monotone solver can't end higher with.

    Memory: one more spare copy of the factors. Where the solver does not know its objective in passing, one more pass.

    Parameters
    ----------
    solver : Solver
        Whose steps are extrapolated, once its `warm_up` iterations are done.

    References
    ----------
    A. M. S. Ang and N. Gillis, "Accelerating nonnegative matrix factorization algorithms using extrapolation", Neural
    Computation 31 (2019), algorithm 1; here both factors are extrapolated at once, and the guard is the objective.
    """

    leaps, tells = True, False

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self.warm_up, self.copies, self.transposed = solver.warm_up, solver.copies + 1, solver.transposed
        self._plain = solver.warm_up
        self._momentum, self._cap = _FIRST, _CAP

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        state = self._solver.init(problem, W, Ht)
        self._ahead: State | None = None  # where the next step begins, once that is not `state` itself
        self._totals = [problem.counts.sums(side) for side in Side]
        return state

    def remember(self, state: State) -> Memory:
        memory = self._solver.remember(state)
        memory["pace"] = np.array([self._plain, self._momentum, self._cap])
        if self._ahead is not None:
            memory |= {f"ahead_{name}": A for name, A in self._ahead.remember().items()}
            memory["ahead_pace"] = np.array([self._objective, self._leaps])
        return memory

    def recall(self, problem: Problem, memory: Memory) -> State:
        state = self._solver.recall(problem, memory)
        self._totals = [problem.counts.sums(side) for side in Side]
        self._plain, (self._momentum, self._cap) = int(memory["pace"][0]), memory["pace"][1:].tolist()
        self._ahead = None
        if "ahead_pace" in memory:
            ahead = {name.removeprefix("ahead_"): A for name, A in memory.items() if name.startswith("ahead_")}
            self._ahead = State.recall(problem, ahead)
            self._objective, self._leaps = float(ahead["pace"][0]), bool(ahead["pace"][1])
        return state

    def step(self, problem: Problem, state: State) -> None:
        if self._plain > 0:
            self._plain -= 1
            self._solver.step(problem, state)
            return
        if self._ahead is None:
            self._objective, self._leaps = math.inf, False
            self._ahead = State([A.copy() for A in state.factors], list(state.sums), state.units)
        ahead = self._ahead
        self._solver.step(problem, ahead)
        finite = not any(math.isnan(gap) for gap in ahead.gaps.values())
        objective = problem.objective(ahead) if finite else math.inf
        if finite or not self._leaps:
            state.gaps = dict(ahead.gaps)
        # A plain step can't end higher but by rounding, and turning it away would be to try it again for ever
        if finite and (objective <= self._objective or not self._leaps):
            old = state.factors
            state.factors, state.sums, state.data_term = list(ahead.factors), list(ahead.sums), ahead.data_term
            state.units = ahead.units
            self._objective = objective
            for side, terms in zip(Side, problem.terms, strict=True):
                ahead.sums[side] = extrapolated(
                    state.factors[side], old[side], self._momentum, self._totals[side],
                    terms.floor_weights(state.sums[1 - side]), old[side], terms.held,
                )  # fmt: skip
            ahead.factors, self._leaps = old, True
            self._momentum = min(self._cap, _GROW * self._momentum)
            self._cap = min(_CAP, _CAP_GROW * self._cap)
            return
        for side in Side:
            np.copyto(ahead.factors[side], state.factors[side])
        ahead.sums, ahead.units = list(state.sums), state.units
        if self._leaps:
            self._cap, self._momentum = self._momentum, _SHRINK * self._momentum
        self._leaps = False
