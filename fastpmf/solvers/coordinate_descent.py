"""Guarded coordinate descent: each row's convex problem nearly solved while it is in the cache."""

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import column_sums
from fastpmf.core.subproblem import NO_PRIOR, RowPrior
from fastpmf.model.updates import TINY, Update, finite_sum
from fastpmf.solvers.base import Memory, Part, Problem, State
from fastpmf.solvers.multiplicative import Multiplicative

# An extrapolated zero comes back as TINY of its row's counts; what is not well above that is a zero.
_ZERO = 10 * TINY


class Coordinate(Multiplicative):
    """A few multiplicative iterations, then sweeps of coordinate descent over the rows of W and of H in turn; monotone.

    Second-order steps from a random start hurry into poor local optima. Some multiplicative iterations first, which
    are cheap, and the same fits end lower.

    A column's sweep needs its entries together. Where counts can be read by rows only, H goes on taking multiplicative
    steps.

    Parameters
    ----------
    sweeps : int, default=2
        Over a row's components, each time its block is gathered.
    warm_up : int, default=10
        Multiplicative iterations to begin with.
    inner_steps : int, default=1
        Times that W's rows are swept in an iteration.
    """

    def __init__(self, sweeps: int = 2, warm_up: int = 10, *, inner_steps: int = 1) -> None:
        super().__init__(inner_steps=inner_steps, relaxed=True)
        self._sweeps, self.warm_up, self._done = sweeps, warm_up, 0

    def step(self, problem: Problem, state: State) -> None:
        super().step(problem, state)
        self._done += not problem.counts.row_access_only

    def columns(self, problem: Problem, state: State, part: Part) -> None:
        super().columns(problem, state, part)
        self._done += 1

    def remember(self, state: State) -> Memory:
        return super().remember(state) | {"done": np.array(self._done)}

    def recall(self, problem: Problem, memory: Memory) -> State:
        self._done = int(memory["done"])
        return super().recall(problem, memory)

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
        if self._done < self.warm_up:
            return super().half(counts, side, n_components, U, V, weight, out, prior=prior)
        descent = counts.descend(
            side, U, V, weight, out, prior=prior, n_components=n_components, sweeps=self._sweeps, zero=_ZERO
        )
        return Update(column_sums(out), finite_sum(descent.gap), descent.data_term)
