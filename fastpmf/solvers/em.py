"""Expectation-maximisation of PLSI: both factors from one pass over the rows, without transposed counts."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.model.updates import multiplicative
from fastpmf.solvers.base import FactorState, Problem


@dataclass(frozen=True)
class JointEM:
    """Update W and H at once from the same posterior of components. It never raises the objective.

    With P_ijk = W_ik H_kj / rate_ij the share of component k in count x_ij, the expected counts are
    N_ik = sum_j x_ij P_ijk of row i and N_jk = sum_i x_ij P_ijk of column j. The rates with the largest expected
    likelihood are N_ik N_jk / N_k. One pass over CSR gives both sums; alternating updates need the transposed counts
    too. Iterations are slower than those of other solvers, and need less memory.

    References
    ----------
    T. Hofmann, "Probabilistic latent semantic indexing", SIGIR 1999, equations 4 and 5.
    """

    n_factor_copies: ClassVar[int] = 2
    needs_transpose: ClassVar[bool] = False
    extrapolates: ClassVar[bool] = False
    warm_up: ClassVar[int] = 0

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> FactorState:
        return FactorState.start(problem, W, Ht)

    def prepare(self, problem: Problem, state: FactorState) -> None:
        pass

    def step(self, problem: Problem, state: FactorState) -> None:
        (W, Ht), (S, T) = state.factors, state.spares
        problem.counts.contract_both(W, Ht, S, T)
        columns = problem.subproblem(Side.COLUMNS, state)
        state.gaps[Side.COLUMNS] = multiplicative(columns, Ht, T, None).gap
        update = multiplicative(problem.subproblem(Side.ROWS, state), W, S, S)
        state.gaps[Side.ROWS] = update.gap
        state.n_steps += 1
        if not state.is_finite:
            return
        state.replace_factor(Side.ROWS, update.sums)
        # The expected counts of the columns belong to the old W, the sums that divide them to the new one
        update = multiplicative(problem.subproblem(Side.COLUMNS, state), Ht, T, T)
        state.replace_factor(Side.COLUMNS, update.sums)
        problem.update_effects(state)
        state.balance(problem)
