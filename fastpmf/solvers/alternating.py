"""What solvers share that update one factor while the other stays, in turn."""

import math

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import column_sums
from fastpmf.core.subproblem import NO_PRIOR, RowPrior
from fastpmf.counts.csr import ColumnSums
from fastpmf.model.updates import Update, multiplicative
from fastpmf.solvers.base import Memory, Part, Problem, State


class Alternating:
    """Half a step on W, or several, then half a step on H; a subclass says what half a step is.

    Where counts can be read by one side only, as from a disk, an iteration is one pass over blocks of rows: W of a
    block is updated while it is at hand, then what the block says of H is added up, from which H takes a multiplicative
    step. The iterates are those of two passes.

    Memory: one spare copy of the factors, and of W one more where `inner_steps` is above 1; of a block, if in blocks.

    Parameters
    ----------
    inner_steps : int, default=1
        Half-steps on W in an iteration; on H where counts are stored by columns.
    relaxed : bool, default=False
        Of the multiplicative steps.
    """

    warm_up, copies, transposed, leaps, tells = 0, 2, True, False, False

    def __init__(self, *, inner_steps: int = 1, relaxed: bool = False) -> None:
        self._steps, self._relaxed = inner_steps, relaxed

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
        counts = problem.counts
        if counts.row_access_only:
            part = self.rows(problem, state)
            if not math.isnan(part.gap):
                self.columns(problem, state, part)
            return
        for side in (counts.storage_axis, Side(1 - counts.storage_axis)):
            out, (weight, prior) = self._spare[side], problem.row_terms(side, state)
            update = self._halves(
                counts, side, problem.n_components, state.factors[side], state.factors[1 - side], weight, out, prior,
                self._steps if side is counts.storage_axis else 1,
            )  # fmt: skip
            state.gaps[side] = update.gap
            if math.isnan(update.gap):
                return  # the factors before this half-step stay
            state.factors[side], self._spare[side] = out, state.factors[side]
            state.sums[side], state.data_term = update.sums, update.data_term
        state.balance(problem)

    def rows(self, problem: Problem, state: State) -> Part:
        """The first half of an iteration, in one pass over blocks of rows: W of each, then its part of what H needs.

        Of counts with two sides that part is had by columns, which is faster.
        Where a rate is not positive W stays as it was, and the part's gap is NaN.
        """
        counts = problem.counts
        side, other = counts.storage_axis, Side(1 - counts.storage_axis)
        U, V, out = state.factors[side], state.factors[other], self._spare[side]
        weight, prior = problem.row_terms(side, state)
        weight, sums, gap = np.atleast_2d(weight), ColumnSums(self._spare[other]), 0.0
        for rows, block in counts.blocks():
            update = self._halves(
                block, side, problem.n_components, U[rows], V, weight[rows] if len(weight) > 1 else weight, out[rows],
                prior.select_rows(rows), self._steps,
            )  # fmt: skip
            gap += update.gap
            if counts.row_access_only:
                sums.add(block.side(side), out[rows], V)
        contraction = sums.finish()
        if not counts.row_access_only:
            counts.contract(other, V, out, contraction)
        state.gaps[side] = gap
        if not math.isnan(gap):
            state.factors[side], self._spare[side] = out, U
            state.sums[side], state.data_term = column_sums(out), None
        return Part(contraction, state.sums[side], gap)

    def columns(self, problem: Problem, state: State, part: Part) -> None:
        """The second half: a multiplicative step on H, given the parts of all rows added up."""
        side = Side(1 - problem.counts.storage_axis)
        state.sums[1 - side] = part.sums
        U, out, (weight, prior) = state.factors[side], self._spare[side], problem.row_terms(side, state)
        update = multiplicative(U, part.contraction, weight, out, prior=prior, relaxed=self._relaxed)
        state.gaps[side] = update.gap
        if not math.isnan(update.gap):
            state.factors[side], self._spare[side], state.sums[side] = out, U, update.sums
            state.balance(problem)

    def _halves(
        self, counts: Counts, side: Side, n_components: int, U: np.ndarray, V: np.ndarray, weight: np.ndarray,
        out: np.ndarray, prior: RowPrior, steps: int,
    ) -> Update:  # fmt: skip
        """So many half-steps from U into `out`; the gap is that before the first."""
        places = [out, np.zeros_like(out)] if steps > 1 else [out]
        gap = 0.0
        for step in range(steps):
            to = places[(steps - 1 - step) % 2] if steps > 1 else out
            update = self.half(counts, side, n_components, U, V, weight, to, prior=prior)
            gap, U = update.gap if step == 0 else gap, to
        return update._replace(gap=gap)

    def half(
        self,
        counts: Counts,
        side: Side,
        n_components: int,
        U: np.ndarray,
        V: np.ndarray,
        weight: np.ndarray,
        out: np.ndarray,
        *,
        prior: RowPrior = NO_PRIOR,
    ) -> Update:
        """Write to `out` a factor of `side` that is no worse than U while V stays; `weight` as in `multiplicative`."""
        raise NotImplementedError
