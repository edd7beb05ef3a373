"""The iteration of solvers that update the factors in turn, each with the other one fixed."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.solvers.base import Contribution, Problem


@dataclass(frozen=True, kw_only=True)
class Alternating(ABC):
    """One or several updates of W, then one update of H; H is updated first if the counts are stored by columns.

    If the counts can be read along one side only, as from a disk, an iteration is one pass over blocks of rows: W of a
    block is updated, the contribution of the block to the update of H is added up, and H is updated at the end. The
    result is that of two passes.

    Parameters
    ----------
    inner_steps : int, default=1
        Updates of W in an iteration.
    """

    needs_transpose: ClassVar[bool] = True
    extrapolates: ClassVar[bool] = False

    inner_steps: int = 1

    def step(self, problem: Problem, state: Any) -> None:
        """One iteration; it ends early, with a NaN in `state.gaps`, if a rate is not positive and finite."""
        counts = problem.counts
        if counts.row_access_only:
            total = self.update_by_blocks(problem, state)
            if not math.isnan(total.gap):
                self.update_other(problem, state, total)
        else:
            self.update_factor(problem, state, counts.storage_axis, self.inner_steps)
            if not math.isnan(state.gaps[counts.storage_axis]):
                self.update_factor(problem, state, counts.storage_axis.other, 1)
        if state.is_finite:
            self.finish_step(problem, state)
        state.n_steps += 1

    @abstractmethod
    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> Any:
        """The state that starts from W and Ht, which the solver may overwrite."""

    @abstractmethod
    def update_factor(self, problem: Problem, state: Any, side: Side, n_updates: int) -> None:
        """Update the factor of one side `n_updates` times."""

    @abstractmethod
    def update_by_blocks(self, problem: Problem, state: Any) -> Contribution:
        """Update the factor of `storage_axis` block by block, and return the sums that `update_other` needs."""

    @abstractmethod
    def update_other(self, problem: Problem, state: Any, total: Contribution) -> None:
        """Update the other factor once, from the sum of the contributions of all blocks."""

    def finish_step(self, problem: Problem, state: Any) -> None:  # noqa: B027
        """Called once both factors are updated."""
