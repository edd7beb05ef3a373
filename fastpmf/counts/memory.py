"""Counts in memory: a canonical CSR matrix, its transpose, and how both are cut into equal pieces of work."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.special import gammaln

from fastpmf.counts.base import Descent, Side
from fastpmf.counts.blocks import Panel, panel_width, row_blocks
from fastpmf.counts.groups import block_vectors, row_groups
from fastpmf.kernels._jit import current_threads
from fastpmf.kernels.contract import joint_contract, ratio_contract
from fastpmf.kernels.coordinate import PLANES, descend
from fastpmf.kernels.csr import count_columns, cut_rows, scatter_columns
from fastpmf.kernels.lanes import lanes_of
from fastpmf.kernels.log_rate import log_count, log_rate
from fastpmf.kernels.rows import observed_weights
from fastpmf.kernels.simd import VECTOR_BYTES
from fastpmf.kernels.strips import QUAD
from fastpmf.model.factors import aligned, row_bounds
from fastpmf.model.priors import NO_PRIOR, RowPrior
from fastpmf.model.updates import as_weights


@dataclass(frozen=True)
class SparseRows:
    """A canonical CSR matrix: columns ascend in every row, no entry is stored twice, every entry is positive.

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
        """The matrix by `panel_width` columns, made once for each width."""
        width = panel_width(*self.shape, len(self.data), row_bytes)
        made = self.__dict__.setdefault("_panels", {})
        if width not in made:
            made[width] = self._cut(width)
        return made[width]

    def _cut(self, width: int) -> list[Panel]:
        n_panels = -(-self.n_columns // width)
        if n_panels <= 1:
            return [Panel(self.indptr[:-1], self.indptr[1:], *self.work)]
        cuts = np.empty((n_panels + 1, self.shape[0]), np.int64)
        cut_rows(self.indices, self.indptr, width, cuts)
        return [Panel(*ends, *row_blocks(*ends)) for ends in pairwise(cuts)]

    def groups(self, n_lanes: int, n_components: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """`row_groups` of this matrix, made once for each kind of factor."""
        made, kind = self.__dict__.setdefault("_groups", {}), (n_lanes, n_components, block)
        if kind not in made:
            made[kind] = row_groups(np.diff(self.indptr), *kind)
        return made[kind]

    @cached_property
    def sums(self) -> np.ndarray:
        """Row sums, float64."""
        out = np.zeros(self.shape[0])
        filled = np.diff(self.indptr) > 0
        if filled.any():
            out[filled] = np.add.reduceat(self.data, self.indptr[:-1][filled], dtype=np.float64)
        return out

    def transpose(self, n_blocks: int) -> "SparseRows":
        """The transpose, canonical again, built by `n_blocks` blocks of rows at once; n_blocks doesn't change it."""
        n_rows, n_columns = self.shape
        # The blocks' column counts must stay small beside the matrix itself.
        n_blocks = max(1, min(n_blocks, n_rows, len(self.data) // (4 * max(n_columns, 1))))
        bounds = np.searchsorted(self.indptr, np.linspace(0, len(self.data), n_blocks + 1)[1:-1])
        bounds = np.concatenate([[0], bounds, [n_rows]]).astype(np.int64)
        place = np.empty((n_blocks, n_columns), np.int64)
        count_columns(self.indices, self.indptr, bounds, place)
        ends = np.cumsum(place.T, axis=None).reshape(n_columns, n_blocks)  # in order of (column, block)
        indptr = np.zeros(n_columns + 1, np.int64)
        indptr[1:] = ends[:, -1]
        place = np.ascontiguousarray(ends.T) - place
        data = np.empty_like(self.data)
        indices = np.empty(len(data), np.int32 if n_rows <= np.iinfo(np.int32).max else np.int64)
        scatter_columns(self.data, self.indices, self.indptr, bounds, place, data, indices)
        return SparseRows(data, indices, indptr, n_rows)


def _whole_vectors(X: SparseRows, U: np.ndarray, V: np.ndarray) -> int:
    """Vectors in a factor row. Kernels read by bare pointers, so this is the last place where a misfit can be seen."""
    n_vectors, rest = divmod(U.shape[1] * U.itemsize, VECTOR_BYTES)
    if (len(U), len(V)) != X.shape or U.shape[1] != V.shape[1] or U.dtype != V.dtype or rest:
        raise ValueError(
            f"factors of shapes {U.shape} and {V.shape}, {U.dtype} and {V.dtype}, don't fit counts of shape {X.shape}, "
            "or are not padded alike"
        )
    return n_vectors


def joint_blocks(n_rows: int, counts_bytes: int, factor_bytes: int) -> int:
    """Blocks of rows, each with its own sums of the columns' contraction, which take half of the counts' bytes."""
    return max(1, min(16, n_rows, counts_bytes // (2 * max(factor_bytes, 1))))


class MemoryCounts:
    """Counts in memory; the transpose is built when a column is first asked for, unless it was what came in.

    Parameters
    ----------
    rows : SparseRows of shape (n, p)
        X itself.
    columns : SparseRows of shape (p, n), optional
        X transposed, where it is there already.
    unobserved : SparseRows of shape (n, p), optional
        The entries that are not observed, whose zeros are no data: X has no counts there.
    """

    def __init__(
        self, rows: SparseRows, columns: SparseRows | None = None, unobserved: SparseRows | None = None
    ) -> None:
        self._rows, self._columns = rows, columns
        self._unobserved = None if unobserved is None else MemoryCounts(unobserved)
        self.shape = rows.shape
        self.dtype = rows.data.dtype
        self.nnz = len(rows.data)

    @property
    def unobserved(self) -> SparseRows | None:
        """The entries that are not observed; None where all are."""
        return None if self._unobserved is None else self._unobserved.side(Side.ROWS)

    def side(self, side: Side) -> SparseRows:
        """X for `Side.ROWS`, its transpose for `Side.COLUMNS`."""
        if Side(side) is Side.ROWS:
            return self._rows
        if self._columns is None:
            self._columns = self._rows.transpose(n_blocks=16)
        return self._columns

    def sums(self, side: Side) -> np.ndarray:
        """Row sums or column sums, float64."""
        if side == Side.COLUMNS and self._columns is None:
            return self._column_sums
        return self.side(side).sums

    @cached_property
    def _column_sums(self) -> np.ndarray:
        """Column sums without the transpose, which may never be needed."""
        X, out, step = self.side(Side.ROWS), np.zeros(self.shape[1]), max(1 << 16, self.shape[1])
        for p in range(0, self.nnz, step):
            out += np.bincount(X.indices[p : p + step], X.data[p : p + step], minlength=self.shape[1])
        return out

    @cached_property
    def total(self) -> float:
        """Sum of all counts."""
        return float(self.side(Side.ROWS).sums.sum())

    @cached_property
    def entropy(self) -> float:
        """Sum of x log x over all entries, in nats."""
        rows = self.side(Side.ROWS)
        blocks, _ = rows.work
        out = np.empty(len(blocks))
        log_count(rows.data, blocks, out)
        return float(out.sum())

    @cached_property
    def log_factorial(self) -> float:
        """Sum of log x! over all entries, in nats; log Gamma(x + 1) where counts are not whole."""
        data, step = self.side(Side.ROWS).data, 1 << 20
        return float(sum(gammaln(data[p : p + step].astype(np.float64) + 1).sum() for p in range(0, self.nnz, step)))

    def contract(self, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[i] = sum_j x_ij / (U[i] . V[j]) V[j] over the stored entries; i owns `side`."""
        X = self.side(side)
        n_vectors = _whole_vectors(X, U, V)
        for number, (begins, ends, blocks, splits) in enumerate(X.panels(V.shape[1] * V.itemsize)):
            partial = np.empty((splits[-1, 2] if len(splits) else 0, U.shape[1]), U.dtype)
            ratio_contract(
                X.data, X.indices, begins, ends, blocks, splits, U, V, number > 0, out, partial, n_vectors=n_vectors
            )

    def contract_both(self, W: np.ndarray, Ht: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
        """`contract` of both sides in one pass over the rows of X; the transpose is neither used nor built."""
        X = self.side(Side.ROWS)
        n_vectors = _whole_vectors(X, W, Ht)
        n_blocks = joint_blocks(self.shape[0], X.indices.nbytes + X.data.nbytes, Ht.nbytes)
        bounds = np.searchsorted(X.indptr, np.linspace(0, self.nnz, n_blocks + 1)[1:-1])
        bounds = np.concatenate([[0], bounds, [self.shape[0]]]).astype(np.int64)
        partial = aligned(n_blocks * len(Ht), Ht.shape[1], Ht.dtype).reshape(n_blocks, *Ht.shape)
        joint_contract(X.data, X.indices, X.indptr, bounds, W, Ht, rows, partial, n_vectors=n_vectors)
        np.sum(partial, axis=0, out=columns)

    def observed_sums(self, side: Side, V: np.ndarray, v_sum: np.ndarray) -> np.ndarray:
        """Sums of V over what each row of `side` observes: v_sum itself, (K,), where that is everything."""
        if self._unobserved is None:
            return v_sum
        out = aligned(self.shape[side], V.shape[1], V.dtype)
        self._unobserved._sum_the_rest(side, out, V, v_sum, out)
        return out

    def rate_total(self, W: np.ndarray, Ht: np.ndarray, w_sum: np.ndarray, h_sum: np.ndarray) -> float:
        """Sum of W[i] . Ht[j] over the observed entries; w_sum and h_sum are the factors' column sums."""
        if self._unobserved is None:
            with np.errstate(over="ignore"):
                return float(w_sum @ h_sum)
        return self._unobserved._sum_the_rest(Side.ROWS, W, Ht, h_sum, np.empty_like(W), wanted=True)

    def _sum_the_rest(
        self, side: Side, U: np.ndarray, V: np.ndarray, v_sum: np.ndarray, out: np.ndarray, *, wanted: bool = False
    ) -> float:
        """`observed_weights` where these are the unobserved entries; what the others are to hold, where wanted."""
        X, bounds = self.side(side), row_bounds(len(U))
        rate, sums = np.zeros(len(bounds) - 1), np.empty((len(bounds) - 1, V.shape[1]))
        n_vectors = _whole_vectors(X, U, V)
        observed_weights(X.indices, X.indptr, U, V, v_sum, bounds, wanted, out, rate, sums, n_vectors=n_vectors)
        return float(rate.sum())

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
        """Rows of lower objective by coordinate descent, V fixed; i owns `side`."""
        X = self.side(side)
        _whole_vectors(X, U, V)
        weight = as_weights(weight, U.dtype)
        shape, ridge, held = prior.arrays(U.shape[1], U.dtype)
        n_lanes, n_workers = lanes_of(U.dtype), current_threads()
        order, groups = X.groups(n_lanes, n_components, block_vectors(V.nbytes))
        vectors, longest = int(groups[:, 2].max()), int((groups[:, 2] * groups[:, 4]).max())
        kept = -(-n_components // QUAD) * QUAD
        gap, data_term = np.empty(len(U)), np.empty(len(groups))
        # One allocation: for small counts they cost more than some rows
        block_from, components_from = 4 * n_workers * vectors, n_workers * (4 * vectors + longest)
        scratch = aligned(components_from + PLANES * n_workers * kept, n_lanes, U.dtype)
        descend(
            X.data, X.indices, X.indptr, order, groups, U, V, weight, shape, ridge, held[0] > 0,
            np.array([-1.0 if tol is None else tol, zero]),
            np.array([n_components, sweeps, max_rounds, side is Side.COLUMNS, len(weight) > 1, len(shape) > 1,
                      prior.shape is not None, prior.ridge is not None, prior.general]),
            np.empty((n_workers, max(vectors, 1) * n_lanes), np.int64),
            scratch[:block_from], scratch[block_from:components_from], scratch[components_from:],
            np.empty((n_workers, n_components), np.int64),
            out, gap, data_term,
        )  # fmt: skip
        return Descent(gap, float(data_term.sum()) if side is Side.COLUMNS else None)

    def log_rate(self, W: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """sum_j x_ij log(W[i] . Ht[j]) over the stored entries of each row i, float64, in nats."""
        X = self.side(Side.ROWS)
        n_vectors = _whole_vectors(X, W, Ht)
        blocks, splits = X.work
        out, partial = np.empty(self.shape[0]), np.empty(splits[-1, 2] if len(splits) else 0)
        log_rate(X.data, X.indices, X.indptr, blocks, splits, W, Ht, out, partial, n_vectors=n_vectors)
        return out

    def select_rows(self, rows: np.ndarray) -> "MemoryCounts":
        """The counts of these rows, by number."""
        X, indices = self.to_scipy()[rows], self.side(Side.ROWS).indices.dtype
        some = SparseRows(X.data, X.indices.astype(indices, copy=False), X.indptr.astype(np.int64), self.shape[1])
        hidden = None if self._unobserved is None else self._unobserved.select_rows(rows).side(Side.ROWS)
        return MemoryCounts(some, unobserved=hidden)

    def select_columns(self, keep: np.ndarray) -> "MemoryCounts":
        """The counts without the columns where `keep` is False; shape and numbering stay."""
        X = self.side(Side.ROWS)
        kept = keep[X.indices]
        ends = np.concatenate([[0], np.cumsum(kept)])
        some = SparseRows(X.data[kept], X.indices[kept], ends[X.indptr].astype(np.int64), X.n_columns)
        return MemoryCounts(some, unobserved=self.unobserved)

    def to_scipy(self) -> sparse.csr_array:
        """X as a `scipy.sparse.csr_array` that shares memory with this where scipy can."""
        X = self.side(Side.ROWS)
        # scipy gives both index arrays one dtype, so that long ones here would have the indices copied as long
        indptr = X.indptr.astype(X.indices.dtype) if self.nnz <= np.iinfo(X.indices.dtype).max else X.indptr
        return sparse.csr_array((X.data, X.indices, indptr), shape=self.shape, copy=False)
