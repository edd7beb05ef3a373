"""Counts in memory: a canonical CSR matrix and its transpose."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from fastpmf.core.counts import Descent, Side, Subproblem
from fastpmf.core.factors import aligned, dot, row_bounds
from fastpmf.counts.csr import ColumnSums, SparseRows, check_layout
from fastpmf.kernels.rows import observed_weights
from fastpmf.kernels.threads import current_threads
from fastpmf.utils.cached import cached_property
from fastpmf.utils.messages import listed
from fastpmf.utils.progress import stage
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

    See Also
    --------
    as_counts : makes them of matrices of counts.
    StreamedCounts : counts that are read block by block.

    Examples
    --------
    >>> from fastpmf import as_counts
    >>> counts = as_counts([[2, 0, 1], [0, 1, 0]])
    >>> counts.shape, counts.nnz, counts.total
    ((2, 3), 3, 4.0)
    >>> counts.select_rows([0]).to_scipy().toarray()
    array([[2, 0, 1]], dtype=uint8)
    """

    storage_axis, row_access_only = Side.ROWS, False

    def __init__(
        self, rows: SparseRows | None, columns: SparseRows | None = None, unobserved: SparseRows | None = None
    ) -> None:
        self._sides = [rows, columns]
        self._stored_side = Side.COLUMNS if rows is None else Side.ROWS  # the other one is built when it is needed
        self._unobserved = None if unobserved is None else MemoryCounts(unobserved)
        self.shape = self._stored.shape if rows is not None else self._stored.shape[::-1]
        self.dtype = self._stored.data.dtype
        self.nnz = len(self._stored.data)
        self._files = _mapped_files(self._stored.data, self._stored.indices)

    def __repr__(self) -> str:
        n, p = self.shape
        return f"<{type(self).__name__}: {n:,} x {p:,}, {self.nnz:,} nonzeros, {self.dtype}>"

    @classmethod
    def stacked(cls, parts: "Sequence[MemoryCounts]") -> "MemoryCounts":
        """The rows of all parts in one matrix, copied; all entries of the parts must be observed."""
        rows = [part.side(Side.ROWS) for part in parts]
        widths = sorted({X.n_columns for X in rows})
        if len(widths) > 1:
            raise ValueError(f"X must have blocks with equal numbers of columns, got {listed(widths)}")
        starts = np.cumsum([0, *(len(X.data) for X in rows)])
        ends = [X.indptr[1:] + start for X, start in zip(rows, starts, strict=False)]
        data, indices = (np.concatenate([getattr(X, name) for X in rows]) for name in ("data", "indices"))
        return cls(SparseRows(data, indices, np.concatenate([[0], *ends]), rows[0].n_columns))

    @property
    def unobserved(self) -> SparseRows | None:
        """The entries that are not observed; None if all are."""
        return None if self._unobserved is None else self._unobserved.side(Side.ROWS)

    @property
    def _stored(self) -> SparseRows:
        """X or its transpose, the one that was given."""
        stored = self._sides[self._stored_side]
        if stored is None:
            raise TypeError("MemoryCounts needs rows or columns")
        return stored

    def side(self, side: Side) -> SparseRows:
        """X for `Side.ROWS`, its transpose for `Side.COLUMNS`.

        Raises
        ------
        ValueError
            If the counts are memory-mapped from a file that has been written to since.
        """
        for file in self._files:
            file.check()
        X = self._sides[side]
        if X is None:
            with stage("transposing the counts"):
                X = self._sides[side] = self._stored.transpose(n_blocks=current_threads())
        return X

    def blocks(self) -> "Iterator[tuple[slice, MemoryCounts]]":
        """All rows as one block."""
        yield slice(0, self.shape[0]), self

    def sums(self, side: Side) -> np.ndarray:
        """Row sums or column sums, float64; the order of summation does not depend on whether the transpose exists."""
        return self._stored.sums if side == self._stored_side else self._stored.column_sums

    @cached_property
    def total(self) -> float:
        """Sum of all counts."""
        return float(self._stored.sums.sum())

    @property
    def largest(self) -> float:
        """The largest count."""
        return self._stored.data.max(initial=0).item()

    @cached_property
    def smallest(self) -> float:
        """A lower bound on the stored counts."""
        return self._stored.smallest

    @cached_property
    def entropy(self) -> float:
        """Sum of x log x over all entries, in nats."""
        return self._stored.entropy

    @cached_property
    def log_factorial(self) -> float:
        """Sum of log x! over all entries, in nats; log Gamma(x + 1) for counts that are not integers."""
        return self._stored.log_factorial

    def contract(self, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[i] = sum_j x_ij / (U[i] . V[j]) V[j] over the stored entries; i runs over `side`."""
        self.side(side).contract(U, V, out)

    def contract_both(
        self, W: np.ndarray, Ht: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, with_data_term: bool = False
    ) -> float:
        """`contract` of both sides over the rows of X, without a transpose; see `Counts`."""
        X = self.side(Side.ROWS)
        X.contract(W, Ht, rows)
        sums = ColumnSums(columns)
        sums.add(X, W, Ht)
        sums.finish()
        return float(X.log_rate(W, Ht).sum()) if with_data_term else math.nan

    def observed_sums(self, side: Side, V: np.ndarray, v_sum: np.ndarray) -> np.ndarray:
        """Sums of V over the observed entries of each row of `side`; v_sum, (K,), if all are observed."""
        if self._unobserved is None:
            return v_sum
        out = aligned(self.shape[side], V.shape[1], V.dtype)
        self._unobserved._sum_observed(side, out, V, v_sum, out)
        return out

    def rate_total(self, W: np.ndarray, Ht: np.ndarray, w_sum: np.ndarray, h_sum: np.ndarray) -> float:
        """Sum of W[i] . Ht[j] over the observed entries; w_sum and h_sum are the column sums of the factors."""
        if self._unobserved is None:
            with np.errstate(over="ignore"):
                return dot(w_sum, h_sum)
        return self._unobserved._sum_observed(Side.ROWS, W, Ht, h_sum, np.empty_like(W), with_rate=True)

    def _sum_observed(
        self, side: Side, U: np.ndarray, V: np.ndarray, v_sum: np.ndarray, out: np.ndarray, *, with_rate: bool = False
    ) -> float:
        """The kernel `observed_weights` if these are the unobserved entries; returns the total rate if `with_rate`."""
        X, bounds = self.side(side), row_bounds(len(U))
        rate, sums = np.zeros(len(bounds) - 1), aligned(current_threads(), V.shape[1], np.dtype(float))
        check_layout(X, U, V)
        observed_weights(len(rate), X.indices, X.indptr, U, V, v_sum, bounds, with_rate, out, rate, sums)
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
        """The counts with some columns set to zero; shape and numbering do not change.

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


class _MappedFile(NamedTuple):
    """A file that counts are memory-mapped from: its path, and inode, size and modification time when it was opened."""

    path: str
    state: tuple[int, int, int]

    def check(self) -> None:
        """Raise a ValueError if the file was written to, as kernels do not check bounds; it may have been replaced."""
        if (state := _file_state(self.path)) != self.state and state[0] == self.state[0]:
            raise ValueError(
                f"{self.path} was changed since it was read: it must stay as it is while its counts are used"
            )


def _mapped_files(*arrays: np.ndarray) -> list[_MappedFile]:
    """The files that arrays are mapped from, if the arrays do not write to them."""
    files = []
    for A in arrays:
        base: Any = A
        while base is not None and not isinstance(base, np.memmap):
            base = getattr(base, "base", None)
        if base is not None and base.filename is not None and base.mode in ("r", "c"):
            files.append(_MappedFile(os.fspath(base.filename), _file_state(base.filename)))
    return files


def _file_state(path: Any) -> tuple[int, int, int]:
    """Inode, size and modification time of a file; zeros if it does not exist."""
    try:
        state = os.stat(path)
    except OSError:
        return 0, 0, 0
    return state.st_ino, state.st_size, state.st_mtime_ns
