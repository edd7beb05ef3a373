"""The interface between counts and solvers: sides, the subproblem of one factor, and the protocol of counts."""

from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np


class Side(IntEnum):
    """The factor that is updated: that of the rows (W) or that of the columns (H transposed)."""

    ROWS = 0
    COLUMNS = 1

    @property
    def other(self) -> "Side":
        return Side.COLUMNS if self is Side.ROWS else Side.ROWS


class Subproblem(NamedTuple):
    """The problem of one factor, U, while the other one, V, is fixed. It is convex, and separate for each row of U.

    Row i minimises, over u >= 0,

        sum_k weight_ik u_k + ridge_ik u_k^2 / 2 - shape_ik log u_k  -  sum_j x_ij log (u . v_j)

    Attributes
    ----------
    side : Side
        Side of U.
    n_components : int
    V : ndarray of shape (n_columns, K), padded
    weight : ndarray of shape (1 or n_rows, K)
        Sums of V over the columns that a row observes, plus the rates of the prior. inf keeps an entry at 0.
    shape, ridge : ndarray of shape (1 or n_rows, K), optional
        shape - 1 of the Gamma prior, and the coefficient of an L2 penalty; dtype of V, equal numbers of rows.
    fixed : ndarray of shape (K,), bool, optional
        Components whose entries are not updated.
    has_zeros : bool, default=False
        Whether any weight is inf.
    """

    side: Side
    n_components: int
    V: np.ndarray
    weight: np.ndarray
    shape: np.ndarray | None = None
    ridge: np.ndarray | None = None
    fixed: np.ndarray | None = None
    has_zeros: bool = False

    @property
    def row_sums_unknown(self) -> bool:
        """Whether the row sums at the optimum are unknown, so that gaps need another bound."""
        return self.ridge is not None or self.fixed is not None or self.has_zeros

    @property
    def total_shape(self) -> np.ndarray | float:
        """Sum of `shape` over the components, for each row or one for all rows."""
        return 0.0 if self.shape is None else self.shape.sum(axis=1, dtype=np.float64)

    def select_rows(self, rows: Any) -> "Subproblem":
        """The subproblem of the given rows of U, a slice or an array of row numbers."""
        weight, shape, ridge = (
            A if A is None or len(A) == 1 else A[rows] for A in (self.weight, self.shape, self.ridge)
        )
        assert weight is not None
        return self._replace(weight=weight, shape=shape, ridge=ridge)

    def kernel_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """weight, shape, ridge and fixed as the kernels take them: dtype of V, C order, zeros for None."""
        dtype, zeros = self.V.dtype, _zero_row(self.V.shape[1], self.V.dtype)
        shape, ridge = self.shape, self.ridge
        if shape is None:
            shape = zeros if ridge is None or len(ridge) == 1 else np.zeros_like(ridge)
        if ridge is None:
            ridge = zeros if len(shape) == 1 else np.zeros_like(shape)
        return as_weights(self.weight, dtype), shape, ridge, fixed_row(self.fixed, zeros)


def as_weights(weight: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Weights as kernels take them: two dimensions, dtype of the factor, C order."""
    return np.ascontiguousarray(weight if weight.ndim == 2 else weight[None], dtype=dtype)


def fixed_row(fixed: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    """1 for fixed components and 0 for others, (1, K), with the dtype and width of a factor."""
    return _zero_row(like.shape[1], like.dtype) if fixed is None else fixed[None].astype(like.dtype)


@lru_cache(maxsize=16)
def _zero_row(width: int, dtype: np.dtype) -> np.ndarray:
    out = np.zeros((1, width), dtype)
    out.flags.writeable = False
    return out


class Descent(NamedTuple):
    """Results of `Counts.descend` other than the new rows.

    Attributes
    ----------
    gap : ndarray of shape (n_rows,), float64
        Upper bound, in nats, on the decrease of the objective that any other row could reach while V stays.
    data_term : float
        Sum of x log rate over all entries for the new rows, in nats; NaN for `Side.ROWS`, as `Side.COLUMNS` is updated
        last in an iteration.
    """

    gap: np.ndarray
    data_term: float


class Counts(Protocol):
    """A sparse matrix of counts X, shape (n, p), as the solvers see it.

    Factors are padded, C-ordered and of one dtype (see `fastpmf.core.factors`).
    """

    @property
    def storage_axis(self) -> Side:
        """The side whose rows are stored, and whose factor is updated first."""

    @property
    def row_access_only(self) -> bool:
        """Whether counts can be read along `storage_axis` only, a block of rows at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p)."""

    @property
    def nnz(self) -> int:
        """Number of stored entries, all of them positive."""

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the stored counts."""

    @property
    def total(self) -> float:
        """Sum of all counts."""

    @property
    def smallest(self) -> float:
        """A lower bound on the stored counts."""

    @property
    def largest(self) -> float:
        """The largest count."""

    @property
    def entropy(self) -> float:
        """Sum of x log x over all entries, in nats."""

    @property
    def log_factorial(self) -> float:
        """Sum of log x! over all entries, in nats."""

    def sums(self, side: Side) -> np.ndarray:
        """Row sums or column sums, float64."""

    def blocks(self) -> Iterator[tuple[slice, Any]]:
        """Consecutive rows of `storage_axis` and the counts in them, in memory; one pass."""

    def contract(self, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[i] = sum_j x_ij / (U[i] . V[j]) V[j] over the stored entries; i runs over `side`."""

    def contract_both(
        self, W: np.ndarray, Ht: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, with_data_term: bool = False
    ) -> float:
        """`contract` for both sides from the same W and Ht, in one pass; returns the sum of `log_rate`, or NaN."""

    def observed_sums(self, side: Side, V: np.ndarray, v_sum: np.ndarray) -> np.ndarray:
        """Sums of V over the entries that each row of `side` observes; v_sum itself, (K,), if all are observed."""

    def rate_total(self, W: np.ndarray, Ht: np.ndarray, w_sum: np.ndarray, h_sum: np.ndarray) -> float:
        """Sum of W[i] . Ht[j] over the observed entries; w_sum and h_sum are the column sums of the factors."""

    def descend(
        self, subproblem: Subproblem, U: np.ndarray, out: np.ndarray, *, sweeps: int, max_rounds: int = 1,
        tol: float | None = None, zero: float = 0.0,
    ) -> Descent:  # fmt: skip
        """Lower the objective of each row by coordinate descent from U, into `out`.

        Entries smaller than `zero` times the count sum of their row are set to 0 if their gradient is positive. If
        `tol` is None, run one round of `sweeps` sweeps and return the optimality gap of the input U. Otherwise run
        rounds until the gap of a row, which is then that of `out`, is at most `tol` times the sum of its counts and
        shapes, or `max_rounds` are done.
        """

    def log_rate(self, W: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """sum_j x_ij log(W[i] . Ht[j]) over the stored entries of each row i of `storage_axis`, float64, in nats."""
