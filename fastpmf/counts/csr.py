"""A canonical CSR matrix and the operations of the kernels on it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.special import gammaln

from fastpmf.core.counts import Descent, Subproblem
from fastpmf.core.factors import aligned, dot
from fastpmf.counts.partition import Panel, blocks_of, column_groups, panel_width, row_blocks, row_groups
from fastpmf.kernels._jit import row_width
from fastpmf.kernels.contract import ratio_contract, scatter_contract
from fastpmf.kernels.coordinate import BY_ROW, ENTRIES, LISTED, PLACES, descend
from fastpmf.kernels.csr import CUT_AT_ONCE, count_columns, cut_rows, scatter_columns
from fastpmf.kernels.log_rate import log_count, log_rate
from fastpmf.kernels.simd import QUAD, VECTOR_BYTES, lanes_of
from fastpmf.kernels.threads import current_threads
from fastpmf.utils.cached import cached_property

# Kernels read counts of these dtypes; counts of other dtypes are converted during input validation
COUNT_DTYPES = tuple(map(np.dtype, ("uint8", "uint16", "int32", "float32", "float64")))
SAFE_ROWS = 1 << 17  # rows after which float32 column sums are added to a float64 total
_SUM_ENTRIES = 1 << 21  # entries summed at once, since NumPy copies them to float64
_PARALLEL_ENTRIES = 1_000_000  # entries from which kernels transpose, twice as fast as SciPy on each thread
_BINCOUNT_LIMIT = 1 << 16  # integer counts below this are counted by value, to evaluate gammaln once for each value


@dataclass(frozen=True)
class SparseRows:
    """A canonical CSR matrix: column indices strictly ascend in each row, and all entries are positive.

    Attributes
    ----------
    data : ndarray of shape (nnz,), one of `COUNT_DTYPES`
    indices : ndarray of shape (nnz,), int32 or int64
    indptr : ndarray of shape (n_rows + 1,), int64
    n_columns : int
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    n_columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.indptr) - 1, self.n_columns

    @cached_property
    def work(self) -> tuple[np.ndarray, np.ndarray]:
        """`row_blocks` of this matrix."""
        return row_blocks(self.indptr[:-1], self.indptr[1:])

    def panels(self, row_bytes: int) -> list[Panel]:
        """The matrix in panels of `panel_width` columns, cached for each width."""
        width = panel_width(*self.shape, len(self.data), row_bytes)
        cache = self.__dict__.setdefault("_panels", {})
        if width not in cache and width >= self.n_columns:
            cache[width] = [Panel(self.indptr[:-1], self.indptr[1:], *self.work)]
        elif width not in cache:
            cuts = self._cuts(np.append(np.arange(0, self.n_columns, width), self.n_columns))
            cache[width] = [Panel(*ends, *row_blocks(*ends)) for ends in pairwise(cuts)]
        return cache[width]

    def _cuts(self, bounds: np.ndarray) -> np.ndarray:
        """Position of the first entry of each row in each panel, and of its end, (n_panels + 1, n_rows)."""
        if len(bounds) == 2:
            return np.stack([self.indptr[:-1], self.indptr[1:]])
        cuts = np.empty((len(bounds), self.shape[0]), np.int64)
        cut_rows(-(-self.shape[0] // CUT_AT_ONCE), self.indices, self.indptr, bounds, cuts)
        return cuts

    def groups(self, n_lanes: int, n_components: int) -> tuple[np.ndarray, np.ndarray]:
        """`row_groups` of this matrix, cached for each set of arguments."""
        cache, key = self.__dict__.setdefault("_groups", {}), (n_lanes, n_components)
        if key not in cache:
            cache[key] = row_groups(np.diff(self.indptr), *key)
        return cache[key]

    @cached_property
    def sums(self) -> np.ndarray:
        """Row sums, float64."""
        out = np.zeros(self.shape[0])
        for rows, X in self.chunks(_SUM_ENTRIES):
            filled = np.diff(X.indptr) > 0
            if filled.any():
                out[rows][filled] = np.add.reduceat(X.data, X.indptr[:-1][filled], dtype=np.float64)
        return out

    @property
    def smallest(self) -> float:
        """A lower bound on the counts: 1 for integers, else the smallest count, or inf if there are none."""
        return 1.0 if self.data.dtype.kind in "iu" else float(self.data.min(initial=np.inf))

    @property
    def entropy(self) -> float:
        """Sum of x log x over all entries, in nats."""
        blocks, _ = self.work
        out = np.empty(len(blocks))
        log_count(len(blocks), self.data, blocks, out)
        return float(out.sum())

    @property
    def row_entropies(self) -> np.ndarray:
        """Sum of x log x over each row, (n_rows,), float64, in nats."""
        out = np.empty(self.shape[0])
        for rows, X in self.chunks(_SUM_ENTRIES):
            x = X.data.astype(np.float64)
            out[rows] = replace(X, data=x * np.log(x)).sums
        return out

    @property
    def log_factorial(self) -> float:
        """Sum of log x! over all entries, in nats; log Gamma(x + 1) for counts that are not integers."""
        out, step = 0.0, 1 << 17
        for p in range(0, len(self.data), step):
            x = self.data[p : p + step]
            if x.max() < _BINCOUNT_LIMIT and (x.dtype.kind == "u" or (x == np.floor(x)).all()):
                frequency = np.bincount(x.astype(np.intp))
                out += dot(frequency, gammaln(np.arange(1.0, len(frequency) + 1)))
            else:
                out += float(gammaln(x.astype(np.float64) + 1).sum())
        return out

    @cached_property
    def column_sums(self) -> np.ndarray:
        """Column sums, float64, computed without the transpose."""
        out, step = np.zeros(self.n_columns), max(1 << 16, self.n_columns)
        for p in range(0, len(self.data), step):
            out += np.bincount(self.indices[p : p + step], self.data[p : p + step], minlength=self.n_columns)
        return out

    def slice_rows(self, start: int, stop: int) -> "SparseRows":
        """Rows start:stop; data and indices are views."""
        first, last = self.indptr[start], self.indptr[stop]
        return SparseRows(
            self.data[first:last], self.indices[first:last], self.indptr[start : stop + 1] - first, self.n_columns
        )

    def select_entries(self, keep: np.ndarray) -> "SparseRows":
        """The stored entries for which `keep`, a boolean array of shape (nnz,), is true."""
        ends = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return replace(self, data=self.data[keep], indices=self.indices[keep], indptr=ends[self.indptr])

    def transpose(self, n_blocks: int) -> "SparseRows":
        """The transpose; threads compute that of a large matrix from `n_blocks` blocks of rows."""
        n_rows, n_columns = self.shape
        index_dtype = np.int32 if n_rows <= np.iinfo(np.int32).max else np.int64
        if len(self.data) < _PARALLEL_ENTRIES:
            X = sparse.csr_array((self.data, self.indices, self.indptr), shape=self.shape).tocsc()
            return SparseRows(X.data, X.indices.astype(index_dtype, copy=False), X.indptr.astype(np.int64), n_rows)
        # The column counts of all blocks should take much less memory than the matrix.
        n_blocks = max(1, min(n_blocks, n_rows, len(self.data) // (4 * max(n_columns, 1))))
        bounds = np.searchsorted(self.indptr, np.linspace(0, len(self.data), n_blocks + 1)[1:-1])
        bounds = np.concatenate([[0], bounds, [n_rows]]).astype(np.int64)
        place = np.empty((n_blocks, n_columns), np.int64)
        count_columns(n_blocks, self.indices, self.indptr, bounds, place)
        ends = np.cumsum(place.T, axis=None).reshape(n_columns, n_blocks)  # in order of (column, block)
        indptr = np.zeros(n_columns + 1, np.int64)
        indptr[1:] = ends[:, -1]
        place = np.ascontiguousarray(ends.T) - place
        data, indices = np.empty_like(self.data), np.empty(len(self.data), index_dtype)
        scatter_columns(n_blocks, self.data, self.indices, self.indptr, bounds, place, data, indices)
        return SparseRows(data, indices, indptr, n_rows)

    def contract(self, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[i] = sum_j x_ij / (U[i] . V[j]) V[j] over the stored entries."""
        check_layout(self, U, V)
        for number, (begins, ends, blocks, splits) in enumerate(self.panels(V.shape[1] * V.itemsize)):
            partial, adds = np.empty((splits[-1, 2] if len(splits) else 0, U.shape[1]), U.dtype), number > 0
            ratio_contract(
                len(blocks), self.data, self.indices, begins, ends, blocks, U, V, row_width(U), adds, out, partial
            )
            _join_pieces(splits, partial, out, adds=adds)

    def chunks(self, n_entries: int, n_rows: int | None = None) -> "Iterator[tuple[slice, SparseRows]]":
        """Blocks of consecutive rows with at most these numbers of entries and rows, see `blocks_of`."""
        for start, stop in pairwise(blocks_of(self.indptr, n_entries, n_rows).tolist()):
            yield slice(start, stop), self.slice_rows(start, stop)

    def scatter(self, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[j] += sum_i x_ij / (U[i] . V[j]) U[i] over the stored entries."""
        check_layout(self, U, V)
        # One panel for each thread: more panels save less than starting each row again in each of them costs
        bounds = column_groups(self.indices, self.n_columns, current_threads())
        scatter_contract(len(bounds) - 1, self.data, self.indices, self.indptr, bounds, U, V, row_width(U), out)

    def descend(
        self, subproblem: Subproblem, U: np.ndarray, out: np.ndarray, *, sweeps: int, max_rounds: int = 1,
        tol: float | None = None, zero: float = 0.0, with_data_term: bool = False,
    ) -> Descent:  # fmt: skip
        """Lower the objective of each row by coordinate descent from U, into `out`; see `Counts.descend`."""
        V, n_components = subproblem.V, subproblem.n_components
        check_layout(self, U, V)
        weight, shape, ridge, fixed = subproblem.kernel_arrays()
        n_lanes, n_workers, limits = lanes_of(U.dtype), current_threads(), np.finfo(U.dtype)
        width, listed = U.shape[1], -(-n_components // QUAD) * QUAD
        order, groups = self.groups(n_lanes, n_components)
        vectors, longest = max(int(groups[:, 2].max()), 1), int((groups[:, 2] * (groups[:, 4] + 1)).max())
        # One allocation: for small counts they cost more than some rows
        sizes = np.array([ENTRIES * vectors, longest, LISTED * listed, width // n_lanes, BY_ROW]) * n_workers
        ends = np.cumsum(sizes)
        scratch = aligned(int(ends[-1]), n_lanes, U.dtype)
        entries, block, lists, sums, by_row = (scratch[end - n : end] for end, n in zip(ends, sizes, strict=True))
        gap, data_term = np.empty(len(U)), np.empty(len(groups))
        descend(
            len(groups), self.data, self.indices, self.indptr, order, groups, U, V, weight, shape, ridge, fixed,
            n_components, sweeps, max_rounds, len(weight) > 1, len(shape) > 1, subproblem.shape is not None,
            subproblem.ridge is not None, subproblem.row_sums_unknown, with_data_term,
            -1.0 if tol is None else float(tol), float(zero), float(limits.tiny / limits.eps),
            np.empty((n_workers, vectors * n_lanes), np.int64), np.empty((n_workers, n_lanes, width), np.int64),
            np.empty((n_workers, n_lanes, width // n_lanes), np.int64),
            np.empty((n_workers, PLACES, n_lanes), np.int64),
            entries.reshape(n_workers, ENTRIES, vectors, n_lanes), block.reshape(n_workers, longest, n_lanes),
            lists.reshape(n_workers, LISTED, listed, n_lanes), sums.reshape(n_workers, 1, width),
            aligned(n_workers, width, np.dtype(float)).reshape(n_workers, 1, width),
            by_row.reshape(n_workers, BY_ROW, n_lanes), np.empty((n_workers, 1, n_lanes)), out, gap, data_term,
        )  # fmt: skip
        return Descent(gap, float(data_term.sum()) if with_data_term else math.nan)

    def log_rate(self, U: np.ndarray, V: np.ndarray) -> np.ndarray:
        """sum_j x_ij log(U[i] . V[j]) over the stored entries of each row i, float64, in nats."""
        check_layout(self, U, V)
        blocks, splits = self.work
        out, partial = np.empty((self.shape[0], 1)), np.empty((splits[-1, 2] if len(splits) else 0, 1))
        log_rate(len(blocks), self.data, self.indices, self.indptr, blocks, U, V, row_width(U), out, partial)
        _join_pieces(splits, partial, out, adds=False)
        return out[:, 0]


def _join_pieces(splits: np.ndarray, partial: np.ndarray, out: np.ndarray, *, adds: bool) -> None:
    """Set `out` of each split row to the sum of its pieces in order; if `adds` is true, starting from `out`."""
    if not len(splits):
        return
    with np.errstate(all="ignore"):
        for row, first, end in splits.tolist():
            total = out[row].copy() if adds else np.zeros_like(out[row])
            for piece in partial[first:end]:
                total += piece
            out[row] = total


class ColumnSums:
    """The contraction of the columns, accumulated over blocks of rows.

    In float64 the result does not depend on the blocks (bitwise). In float32 the sums are added to a float64 total from
    time to time, so that their error does not grow with the number of rows.

    Parameters
    ----------
    out : ndarray of shape (p, K)
        Overwritten; holds the result after `finish`.
    """

    def __init__(self, out: np.ndarray) -> None:
        self._out = out
        self._total: np.ndarray | None = None
        self._rows = self._entries = 0
        out[:] = 0

    def add(self, X: SparseRows, U: np.ndarray, V: np.ndarray) -> None:
        """Add sum_i x_ij / (U[i] . V[j]) U[i] over the rows of X for each column j."""
        for rows, chunk in X.chunks(max(len(X.data), 1), SAFE_ROWS):
            chunk.scatter(U[rows], V, self._out)
            self._rows, self._entries = self._rows + len(chunk.indptr) - 1, self._entries + len(chunk.data)
            if self._out.dtype == np.float32 and self._rows >= SAFE_ROWS and self._entries >= 16 * len(self._out):
                self._add_to_total()

    def finish(self) -> np.ndarray:
        """The sums over all rows added so far, in `out`."""
        if self._total is not None:
            self._add_to_total()
            self._out[:] = self._total
        return self._out

    def _add_to_total(self) -> None:
        if self._total is None:
            self._total = np.zeros(self._out.shape)
        self._total += self._out
        self._out[:] = 0
        self._rows = self._entries = 0


def check_layout(X: SparseRows, U: np.ndarray, V: np.ndarray) -> None:
    """Raise a ValueError unless the factors fit the counts and are padded; kernels do not check bounds."""
    misfits = (len(U), len(V)) != X.shape or U.shape[1] != V.shape[1] or U.dtype != V.dtype
    if misfits or U.shape[1] * U.itemsize % VECTOR_BYTES:
        raise ValueError(
            f"factors of shapes {U.shape} and {V.shape}, {U.dtype} and {V.dtype}, don't fit counts of shape {X.shape}, "
            "or are not padded alike"
        )
