"""Extrapolation: continue the move of each iteration as long as that lowers the objective."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.model.updates import extrapolated
from fastpmf.solvers.base import FactorState, Problem

# As in Ang & Gillis, the momentum and its upper limit grow after accepted steps and shrink after rejected ones.
_FIRST, _GROWTH, _SHRINKAGE, _LARGEST, _LIMIT_GROWTH = 0.6, 1.2, 0.75, 0.99, 1.05


@dataclass
class ExtrapolatedState(FactorState):
    """The iterate, and the point from which the next step starts.

    Attributes
    ----------
    ahead : FactorState
        Start of the next step; used once the warm-up of the solver is done.
    extrapolates : bool
        Whether `ahead` is another point than the iterate.
    objective : float
        Objective of the iterate, in nats; inf before the first step from `ahead`.
    momentum, limit : float
        Current momentum, and the largest that it may grow to.
    """

    ahead: FactorState = field(kw_only=True)
    extrapolates: bool = False
    objective: float = math.inf
    momentum: float = _FIRST
    limit: float = _LARGEST


@dataclass(frozen=True)
class Extrapolated:
    """Step from an extrapolated point, and keep the result if the objective is no higher than before.

    After iterates x_t, the next step starts from y = x_t + momentum (x_t - x_{t-1}), with no exact zeros. The
    objectives of the iterates never rise: a step that ends higher is rejected, and the next one starts from x_t, from
    where a monotone solver can't end higher. Results are iterates, never y.

    Memory: one more copy of the factors. If the solver does not compute the objective in passing, one more pass.

    Parameters
    ----------
    solver : solver with a FactorState
        Extrapolated after its `warm_up` iterations.

    References
    ----------
    A. M. S. Ang and N. Gillis, "Accelerating nonnegative matrix factorization algorithms using extrapolation", Neural
    Computation 31 (2019), algorithm 1; here both factors are extrapolated at once, and the objective is compared.
    """

    extrapolates: ClassVar[bool] = True

    solver: Any

    @property
    def n_factor_copies(self) -> int:
        return self.solver.n_factor_copies + 1

    @property
    def needs_transpose(self) -> bool:
        return self.solver.needs_transpose

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> ExtrapolatedState:
        state = FactorState.start(problem, W, Ht)
        factors, sums = [np.zeros_like(W), np.zeros_like(Ht)], [x.copy() for x in state.sums]
        ahead = FactorState(  # no array is saved twice
            factors, sums, state.units.copy(), effects=state.effects.copy(), spares=state.spares
        )
        return ExtrapolatedState(
            state.factors, state.sums, state.units, effects=state.effects, spares=state.spares, ahead=ahead
        )

    def prepare(self, problem: Problem, state: ExtrapolatedState) -> None:
        pass

    def step(self, problem: Problem, state: ExtrapolatedState) -> None:
        if state.n_steps < self.solver.warm_up:
            self.solver.step(problem, state)
            return
        ahead = state.ahead
        if state.objective == math.inf:
            self._restart(state)
        self.solver.step(problem, ahead)
        state.n_steps += 1
        finite = ahead.is_finite
        objective = problem.objective(ahead) if finite else math.inf
        if finite or not state.extrapolates:
            state.gaps = ahead.gaps.copy()
        # A step from the iterate ends higher through rounding only; rejecting it would repeat it forever
        if finite and (objective <= state.objective or not state.extrapolates):
            state.objective = objective
            self._accept(problem, state)
        else:
            if state.extrapolates:
                state.limit, state.momentum = state.momentum, _SHRINKAGE * state.momentum
            self._restart(state)

    def _accept(self, problem: Problem, state: ExtrapolatedState) -> None:
        """Make `ahead` the iterate, and extrapolate from it."""
        ahead, old = state.ahead, state.factors
        state.factors, state.sums = list(ahead.factors), list(ahead.sums)
        state.data_term, state.units, state.effects = ahead.data_term, ahead.units, ahead.effects
        for side, terms in zip(Side, problem.terms, strict=True):
            ahead.sums[side] = extrapolated(
                state.factors[side], old[side], state.momentum, problem.counts.sums(side),
                terms.floor_weights(state.sums[side.other]), terms.fixed, old[side],
            )  # fmt: skip
        ahead.factors, state.extrapolates = old, True
        state.momentum = min(state.limit, _GROWTH * state.momentum)
        state.limit = min(_LARGEST, _LIMIT_GROWTH * state.limit)

    def _restart(self, state: ExtrapolatedState) -> None:
        """Let the next step start from the iterate."""
        ahead = state.ahead
        for side in Side:
            np.copyto(ahead.factors[side], state.factors[side])
        ahead.sums, ahead.units, ahead.n_steps = list(state.sums), state.units, state.n_steps
        ahead.effects = state.effects
        state.extrapolates = False
