"""Counts in memory: a canonical CSR matrix and its transpose."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from fastpmf.core.counts import Descent, Side, Subproblem
from fastpmf.core.factors import aligned, dot, row_bounds
from fastpmf.counts.csr import ColumnSums, SparseRows, check_factors
from fastpmf.kernels.rows import observed_weights
from fastpmf.kernels.threads import current_threads
from fastpmf.utils.cached import cached_property
from fastpmf.utils.messages import listed
from fastpmf.utils.validation import positions


class MemoryCounts:
    """Counts in memory; if only one of X and its transpose is given, the other is built on first use.

    Parameters
    ----------
    rows : SparseRows of shape (n, p), optional
        X; may be None if `columns` is given.
    columns : SparseRows of shape (p, n), optional
        The transpose of X.
    unobserved : SparseRows of shape (n, p), optional
        The entries that are not observed; X must not store counts there.
    """

    storage_axis, row_access_only = Side.ROWS, False

    def __init__(
        self, rows: SparseRows | None, columns: SparseRows | None = None, unobserved: SparseRows | None = None
    ) -> None:
        self._sides = [rows, columns]
        self._first = Side.COLUMNS if rows is None else Side.ROWS  # the side that is not built on use
        self._unobserved = None if unobserved is None else MemoryCounts(unobserved)
        self.shape = self._given.shape if rows is not None else self._given.shape[::-1]
        self.dtype = self._given.data.dtype
        self.nnz = len(self._given.data)

    @classmethod
    def stacked(cls, parts: "Sequence[MemoryCounts]") -> "MemoryCounts":
        """The rows of all parts in one matrix, copied; all entries of the parts must be observed."""
        rows = [part.side(Side.ROWS) for part in parts]
        widths = sorted({X.n_columns for X in rows})
        if len(widths) > 1:
            raise ValueError(f"X must have blocks of as many columns each, got {listed(widths)}")
        starts = np.cumsum([0, *(len(X.data) for X in rows)])
        ends = [X.indptr[1:] + start for X, start in zip(rows, starts, strict=False)]
        data, indices = (np.concatenate([getattr(X, name) for X in rows]) for name in ("data", "indices"))
        return cls(SparseRows(data, indices, np.concatenate([[0], *ends]), rows[0].n_columns))

    @property
    def unobserved(self) -> SparseRows | None:
        """The entries that are not observed; None if all are."""
        return None if self._unobserved is None else self._unobserved.side(Side.ROWS)

    @property
    def _given(self) -> SparseRows:
        """X, or its transpose if X has not been built."""
        rows, columns = self._sides
        given = columns if rows is None else rows
        if given is None:
            raise TypeError("MemoryCounts needs rows or columns")
        return given

    def side(self, side: Side) -> SparseRows:
        """X for `Side.ROWS`, its transpose for `Side.COLUMNS`."""
        X = self._sides[side]
        if X is None:
            X = self._sides[side] = self._given.transpose(n_blocks=16)
        return X

    def blocks(self) -> "Iterator[tuple[slice, MemoryCounts]]":
        """All rows as one block."""
        yield slice(0, self.shape[0]), self

    def sums(self, side: Side) -> np.ndarray:
        """Row sums or column sums, float64; the order of summation does not depend on whether the transpose exists."""
        first = self._sides[self._first]
        assert first is not None
        return first.sums if side is self._first else first.column_sums

    @cached_property
    def total(self) -> float:
        """Sum of all counts."""
        return float(self._given.sums.sum())

    @property
    def largest(self) -> float:
        """The largest count."""
        return self._given.data.max(initial=0).item()

    @cached_property
    def smallest(self) -> float:
        """A lower bound on the stored counts."""
        return self._given.smallest

    @cached_property
    def entropy(self) -> float:
        """Sum of x log x over all entries, in nats."""
        return self._given.entropy

    @cached_property
    def log_factorial(self) -> float:
        """Sum of log x! over all entries, in nats; log Gamma(x + 1) for counts that are not integers."""
        return self._given.log_factorial

    def contract(self, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[i] = sum_j x_ij / (U[i] . V[j]) V[j] over the stored entries; i owns `side`."""
        self.side(side).contract(U, V, out)

    def contract_both(
        self, W: np.ndarray, Ht: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, with_data_term: bool = False
    ) -> float | None:
        """`contract` of both sides over the rows of X, without a transpose; optionally the sum of `log_rate` too."""
        X = self.side(Side.ROWS)
        X.contract(W, Ht, rows)
        sums = ColumnSums(columns)
        sums.add(X, W, Ht)
        sums.finish()
        return float(X.log_rate(W, Ht).sum()) if with_data_term else None

    def observed_sums(self, side: Side, V: np.ndarray, v_sum: np.ndarray) -> np.ndarray:
        """Sums of V over the observed entries of each row of `side`; v_sum, (K,), if all are observed."""
        if self._unobserved is None:
            return v_sum
        out = aligned(self.shape[side], V.shape[1], V.dtype)
        self._unobserved._sum_the_rest(side, out, V, v_sum, out)
        return out

    def rate_total(self, W: np.ndarray, Ht: np.ndarray, w_sum: np.ndarray, h_sum: np.ndarray) -> float:
        """Sum of W[i] . Ht[j] over the observed entries; w_sum and h_sum are the factors' column sums."""
        if self._unobserved is None:
            with np.errstate(over="ignore"):
                return dot(w_sum, h_sum)
        return self._unobserved._sum_the_rest(Side.ROWS, W, Ht, h_sum, np.empty_like(W), wanted=True)

    def _sum_the_rest(
        self, side: Side, U: np.ndarray, V: np.ndarray, v_sum: np.ndarray, out: np.ndarray, *, wanted: bool = False
    ) -> float:
        """Kernel `observed_weights`, with these as the unobserved entries; the total rate of the others if `wanted`."""
        X, bounds = self.side(side), row_bounds(len(U))
        rate, sums = np.zeros(len(bounds) - 1), aligned(current_threads(), V.shape[1], np.dtype(float))
        check_factors(X, U, V)
        observed_weights(len(rate), X.indices, X.indptr, U, V, v_sum, bounds, wanted, out, rate, sums)
        return float(rate.sum())

    def descend(
        self, subproblem: Subproblem, U: np.ndarray, out: np.ndarray, *, sweeps: int, max_rounds: int = 1,
        tol: float | None = None, zero: float = 0.0,
    ) -> Descent:  # fmt: skip
        """Lower the objective of each row by coordinate descent from U, into `out`; see `Counts.descend`."""
        return self.side(subproblem.side).descend(
            subproblem, U, out, sweeps=sweeps, max_rounds=max_rounds, tol=tol, zero=zero,
            with_data_term=subproblem.side is Side.COLUMNS,
        )  # fmt: skip

    def log_rate(self, W: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """sum_j x_ij log(W[i] . Ht[j]) over the stored entries of each row i, float64, in nats."""
        return self.side(Side.ROWS).log_rate(W, Ht)

    def select_rows(self, rows: Any) -> "MemoryCounts":
        """The counts of the given rows.

        Parameters
        ----------
        rows : array-like of int, of shape (m,)
            Row numbers from 0, in any order.

        Returns
        -------
        MemoryCounts of shape (m, p)

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value.
        """
        rows = np.atleast_1d(positions(rows, self.shape[0], "rows"))
        X, dtype = self.to_scipy()[rows], self.side(Side.ROWS).indices.dtype
        selected = SparseRows(X.data, X.indices.astype(dtype, copy=False), X.indptr.astype(np.int64), self.shape[1])
        mask = None if self._unobserved is None else self._unobserved.select_rows(rows).side(Side.ROWS)
        return MemoryCounts(selected, unobserved=mask)

    def select_columns(self, keep: Any) -> "MemoryCounts":
        """The counts with zeros in some columns; shape and numbering do not change.

        Parameters
        ----------
        keep : array-like of bool, of shape (p,)
            False for the columns to set to zero.

        Returns
        -------
        MemoryCounts of the same shape

        Raises
        ------
        ValueError
            If `keep` is not an array of p booleans.
        """
        keep = np.asarray(keep)
        if keep.dtype != bool or keep.shape != self.shape[1:]:
            raise ValueError(
                f"keep must hold {self.shape[1]} booleans, one for each column, got shape {keep.shape} of {keep.dtype}"
            )
        X = self.side(Side.ROWS)
        return MemoryCounts(X.select_entries(keep[X.indices]), unobserved=self.unobserved)

    def to_scipy(self) -> sparse.csr_array:
        """X as a `scipy.sparse.csr_array`, which shares memory with this if possible."""
        X = self.side(Side.ROWS)
        # scipy requires one dtype for both index arrays: with an int64 indptr it would copy the indices
        indptr = X.indptr.astype(X.indices.dtype) if self.nnz <= np.iinfo(X.indices.dtype).max else X.indptr
        return sparse.csr_array((X.data, X.indices, indptr), shape=self.shape, copy=False)
