"""What a solver may ask of counts, wherever they live."""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np

from fastpmf.core.subproblem import NO_PRIOR, RowPrior


class Side(IntEnum):
    """Whose factor is updated: the rows' (W) or the columns' (H transposed)."""

    ROWS = 0
    COLUMNS = 1


class Descent(NamedTuple):
    """What a coordinate descent knows of the rows that it went through.

    Attributes
    ----------
    gap : ndarray of shape (n_rows,), float64
        Upper bound on what any better row could lower the objective by while V stays, in nats; see `Update.gap`.
    data_term : float, optional
        Sum of x log rate over all entries at the new rows, in nats; of `Side.COLUMNS` only, whose turn is the last in
        an iteration.
    """

    gap: np.ndarray
    data_term: float | None


class Counts(Protocol):
    """A sparse matrix of counts X, shape (n, p), as the solvers see it.

    Factors are padded, C-ordered and of one dtype (see `fastpmf.core.factors`).
    """

    @property
    def storage_axis(self) -> Side:
        """The side whose rows are stored, and updated first."""

    @property
    def row_access_only(self) -> bool:
        """Whether only that side's rows can be read by themselves, a block of them at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p)."""

    @property
    def nnz(self) -> int:
        """Number of stored entries, all of them positive."""

    @property
    def dtype(self) -> np.dtype:
        """Of the stored counts."""

    @property
    def total(self) -> float:
        """Sum of all counts."""

    @property
    def smallest(self) -> float:
        """The smallest stored count, or what is sure to be no more."""

    @property
    def entropy(self) -> float:
        """Sum of x log x over all entries, in nats."""

    @property
    def log_factorial(self) -> float:
        """Sum of log x! over all entries, in nats."""

    def sums(self, side: Side) -> np.ndarray:
        """Row sums or column sums, float64."""

    def blocks(self) -> "Iterator[tuple[slice, Counts]]":
        """Consecutive rows of `storage_axis` and the counts of them alone, in one pass."""

    def contract(self, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[i] = sum_j x_ij / (U[i] . V[j]) V[j] over the stored entries; i owns `side`."""

    def contract_both(
        self, W: np.ndarray, Ht: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, logs: bool = False
    ) -> float | None:
        """`contract` of both sides, each from W and Ht as they are, in one pass; with `logs` also `log_rate`'s sum."""

    def observed_sums(self, side: Side, V: np.ndarray, v_sum: np.ndarray) -> np.ndarray:
        """Sums of V over what each row of `side` observes: v_sum itself, (K,), where that is everything."""

    def rate_total(self, W: np.ndarray, Ht: np.ndarray, w_sum: np.ndarray, h_sum: np.ndarray) -> float:
        """Sum of W[i] . Ht[j] over the observed entries; w_sum and h_sum are the factors' column sums."""

    def descend(
        self,
        side: Side,
        U: np.ndarray,
        V: np.ndarray,
        weight: np.ndarray,
        out: np.ndarray,
        *,
        prior: RowPrior = NO_PRIOR,
        n_components: int,
        sweeps: int,
        max_rounds: int = 1,
        tol: float | None = None,
        zero: float = 0.0,
    ) -> Descent:
        """Rows of lower objective by coordinate descent with V fixed, into `out`; i owns `side`, `storage_axis` if one-sided.

        `weight` is `observed_sums` plus the prior's rates, (K,) or (n_rows, K). Entries below `zero` of their row's
        counts that want to shrink become 0. Without `tol` one round of `sweeps` is done, and the gap is that of U. With
        it each row goes on for at most `max_rounds`, until its gap, which is then that of `out`, is at most `tol` times
        its sum of counts and of the prior's shapes.
        """

    def log_rate(self, W: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """sum_j x_ij log(W[i] . Ht[j]) over the stored entries of each row i of `storage_axis`, float64, in nats."""
