"""Multiplicative updates (Lee & Seung), the reference for all other solvers."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums
from fastpmf.counts import SparseRows
from fastpmf.counts.csr import ColumnSums
from fastpmf.model.updates import Update, multiplicative
from fastpmf.solvers.alternating import Alternating
from fastpmf.solvers.base import Contribution, FactorState, Problem


@dataclass(frozen=True, kw_only=True)
class Multiplicative(Alternating):
    """Alternate multiplicative updates of the factors. They never raise the objective and never leave an exact zero.

    An iteration costs two contractions, 8 nnz K flops. Memory: one spare copy of the factors.

    Parameters
    ----------
    inner_steps : int, default=1
        Updates of W in an iteration, each with a contraction.
    relaxed : bool, default=False
        Go nearly twice as far in each update, which takes about half as many iterations; see `multiplicative`.
    """

    n_factor_copies: ClassVar[int] = 2
    warm_up: ClassVar[int] = 0

    relaxed: bool = False

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> FactorState:
        return FactorState.start(problem, W, Ht)

    def prepare(self, problem: Problem, state: FactorState) -> None:
        pass

    def update(self, X: SparseRows, subproblem: Subproblem, U: np.ndarray, out: np.ndarray, n_steps: int) -> Update:
        """Write to `out` a factor that is no worse than U.

        Parameters
        ----------
        X : SparseRows of shape (n_rows, n_columns)
            The counts or their transpose; its rows are those of U.
        subproblem : Subproblem
        U, out : ndarray of shape (n_rows, K)
        n_steps : int
            Iterations done before.
        """
        X.contract(U, subproblem.V, out)
        return multiplicative(subproblem, U, out, out, relaxed=self.relaxed)

    def update_factor(self, problem: Problem, state: FactorState, side: Side, n_updates: int) -> None:
        counts: Any = problem.counts
        X, subproblem = counts.side(side), problem.subproblem(side, state)
        for n in range(n_updates):
            update = self.update(X, subproblem, state.factors[side], state.spares[side], state.n_steps)
            if n == 0 or math.isnan(update.gap):
                state.gaps[side] = update.gap
            if math.isnan(update.gap):
                return  # the factor before this update stays
            state.replace_factor(side, update.sums, update.data_term)

    def update_by_blocks(self, problem: Problem, state: FactorState) -> Contribution:
        """As in `Alternating`; W stays as it was, and the gap is NaN, if a rate is not positive and finite.

        For counts in memory the contraction is computed by columns, which is faster.
        """
        counts = problem.counts
        side, other = counts.storage_axis, counts.storage_axis.other
        subproblem, U, out = problem.subproblem(side, state), state.factors[side], state.spares[side]
        sums, gap = ColumnSums(state.spares[other]), 0.0
        for rows, block in counts.blocks():
            X, part = block.side(side), subproblem.select_rows(rows)
            gap += self._repeat_update(X, part, U[rows], out[rows], state.n_steps)
            if counts.row_access_only:
                sums.add(X, out[rows], part.V)
        contraction = sums.finish()
        if not counts.row_access_only:
            counts.contract(other, state.factors[other], out, contraction)
        state.gaps[side] = gap
        if not math.isnan(gap):
            state.replace_factor(side, column_sums(out))
        return Contribution(contraction, state.sums[side], gap)

    def _repeat_update(
        self, X: SparseRows, subproblem: Subproblem, U: np.ndarray, out: np.ndarray, n_steps: int
    ) -> float:
        """Update a block of rows `inner_steps` times, from U into `out`; the gap of U."""
        buffers = [out, np.zeros_like(out)] if self.inner_steps > 1 else [out]
        gap = math.nan
        for n in range(self.inner_steps):
            target = buffers[(self.inner_steps - 1 - n) % len(buffers)]
            update = self.update(X, subproblem, U, target, n_steps)
            gap, U = update.gap if n == 0 else gap, target
        return gap

    def update_other(self, problem: Problem, state: FactorState, total: Contribution) -> None:
        side = problem.counts.storage_axis.other
        state.sums[side.other] = total.sums
        subproblem = problem.subproblem(side, state)
        update = multiplicative(
            subproblem, state.factors[side], total.contraction, state.spares[side], relaxed=self.relaxed
        )
        state.gaps[side] = update.gap
        if not math.isnan(update.gap):
            state.replace_factor(side, update.sums)

    def finish_step(self, problem: Problem, state: FactorState) -> None:
        problem.update_effects(state)
        state.balance(problem)
