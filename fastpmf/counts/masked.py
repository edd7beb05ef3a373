"""Entries that are not observed: their zeros are no data, and what is stored there is left out."""

from typing import Any

import numpy as np
from scipy import sparse

from fastpmf.core.counts import Side
from fastpmf.counts.csr import SparseRows
from fastpmf.counts.declared import declared
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.validation import as_counts, read_matrix


def observed_counts(X: Any, mask: Any, *, name: str = "X", n_threads: int | None = None) -> MemoryCounts:
    """X as counts without its values at the entries of `mask`, which may be NaN, infinite or negative.

    In the result these entries are zeros; `without` marks them as not observed.

    Raises
    ------
    TypeError, ValueError
        If X or `mask` has an invalid type, shape or value.
    """
    if mask is None:
        return as_counts(X, name=name, n_threads=n_threads)
    hidden = as_counts(mask, name="mask", n_threads=n_threads)
    if not isinstance(X, tuple) and (size := declared(X)) is not None:  # before values beside the mask are refused
        _check_shape(hidden, size.shape)
    counts = read_matrix(X, name=name, n_threads=n_threads, mask=hidden)
    _check_shape(hidden, counts.shape)
    inside = _inside(counts, hidden)
    return MemoryCounts(_kept(counts, ~inside), unobserved=counts.unobserved) if inside.any() else counts


def without(counts: MemoryCounts, mask: Any) -> MemoryCounts:
    """The counts with the entries of `mask` taken as not observed.

    Parameters
    ----------
    counts : MemoryCounts of shape (n, p)
    mask : sparse matrix or array of shape (n, p), bool or numbers, or None
        True, or any positive number, where an entry is not observed. None, or a mask of nothing: all are.

    Raises
    ------
    TypeError, ValueError
        If `mask` has an invalid type, shape or value.
    """
    if mask is None or (hidden := read_mask(mask, counts.shape)).nnz == 0:
        return counts
    M = hidden.side(Side.ROWS)
    unobserved = SparseRows(np.ones(hidden.nnz, np.uint8), M.indices, M.indptr, M.n_columns)
    return MemoryCounts(_kept(counts, ~_inside(counts, hidden)), unobserved=unobserved)


def within(counts: MemoryCounts, mask: Any) -> MemoryCounts:
    """The counts of the entries of `mask` alone."""
    return MemoryCounts(_kept(counts, _inside(counts, read_mask(mask, counts.shape))))


def read_mask(mask: Any, shape: tuple[int, int]) -> MemoryCounts:
    """Read a mask and check its shape."""
    hidden = as_counts(mask, name="mask")
    _check_shape(hidden, shape)
    return hidden


def _check_shape(hidden: MemoryCounts, shape: tuple[int, int]) -> None:
    if hidden.shape != shape:
        raise ValueError(f"mask must have the shape of X, {shape}, got {hidden.shape}")


def _inside(counts: MemoryCounts, hidden: MemoryCounts) -> np.ndarray:
    """Whether each stored count is one of the mask's entries."""
    X, M = counts.side(Side.ROWS), hidden.side(Side.ROWS)
    pattern = sparse.csr_array((np.ones(hidden.nnz, np.int8), M.indices, M.indptr), shape=counts.shape)
    numbers = sparse.csr_array((np.arange(1, counts.nnz + 1), X.indices, X.indptr), shape=counts.shape)
    out = np.zeros(counts.nnz, bool)
    out[pattern.multiply(numbers).data - 1] = True
    return out


def _kept(counts: MemoryCounts, keep: np.ndarray) -> SparseRows:
    """The stored counts where `keep` is true."""
    X = counts.side(Side.ROWS)
    ends = np.concatenate([[0], np.cumsum(keep)])
    return SparseRows(X.data[keep], X.indices[keep], ends[X.indptr].astype(np.int64), X.n_columns)


def weighted(counts: MemoryCounts, weights: np.ndarray, dtype: np.dtype) -> MemoryCounts:
    """The counts with each row times its weight, as floats of `dtype`; rows of weight 0 are left without counts."""
    X = counts.side(Side.ROWS)
    data = (X.data * np.repeat(weights, np.diff(X.indptr))).astype(dtype)
    keep = data > 0
    ends = np.concatenate([[0], np.cumsum(keep)])
    rows = SparseRows(data[keep], X.indices[keep], ends[X.indptr].astype(np.int64), X.n_columns)
    return MemoryCounts(rows, unobserved=counts.unobserved)
