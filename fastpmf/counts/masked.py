"""Masks of entries that are not observed: their zeros are not data, and values stored there are removed."""

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from fastpmf.core.counts import Side
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.validation import Dataset, as_counts, matrix_size, read_matrix


def observed_counts(X: Any, mask: Any, *, name: str = "X", n_threads: int | None = None) -> MemoryCounts:
    """X as counts whose entries in `mask`, which may be NaN, infinite or negative in X, are not observed."""
    if mask is None:
        return as_counts(X, name=name, n_threads=n_threads)
    mask = as_counts(mask, name="mask", n_threads=n_threads)
    if (
        not isinstance(X, tuple | Dataset) and (size := matrix_size(X)) is not None
    ):  # before X is checked without the mask
        _check_shape(mask, size.shape)
    counts = read_matrix(X, name=name, n_threads=n_threads, mask=mask)
    return hide_entries(counts, mask)


def hide_entries(counts: MemoryCounts, mask: Any) -> MemoryCounts:
    """The counts with the entries of `mask`, None or anything that `as_counts` reads, as those not observed."""
    if mask is None or (mask := _read_mask(mask, counts.shape)).nnz == 0:
        return counts
    M, known = mask.side(Side.ROWS), counts.unobserved
    if known is not None and np.array_equal(known.indptr, M.indptr) and np.array_equal(known.indices, M.indices):
        return counts
    observed = counts.side(Side.ROWS).select_entries(~_in_mask(counts, mask))
    return MemoryCounts(observed, unobserved=replace(M, data=np.ones(mask.nnz, np.uint8)))


def keep_entries(counts: MemoryCounts, mask: Any) -> MemoryCounts:
    """The counts of the entries of `mask` alone, with zeros elsewhere."""
    mask = _read_mask(mask, counts.shape)
    return MemoryCounts(counts.side(Side.ROWS).select_entries(_in_mask(counts, mask)))


def weight_rows(counts: MemoryCounts, weights: np.ndarray, dtype: np.dtype) -> MemoryCounts:
    """The counts with each row times its weight, as floats of `dtype`; rows of weight 0 have no entries."""
    X = counts.side(Side.ROWS)
    data = (X.data * np.repeat(weights, np.diff(X.indptr))).astype(dtype)
    return MemoryCounts(replace(X, data=data).select_entries(data > 0), unobserved=counts.unobserved)


def _read_mask(mask: Any, shape: tuple[int, int]) -> MemoryCounts:
    """Read a mask and check its shape."""
    mask = as_counts(mask, name="mask")
    _check_shape(mask, shape)
    return mask


def _check_shape(mask: MemoryCounts, shape: tuple[int, int]) -> None:
    if mask.shape != shape:
        raise ValueError(f"mask must have the shape of X, {shape}, got {mask.shape}")


def _in_mask(counts: MemoryCounts, mask: MemoryCounts) -> np.ndarray:
    """Whether each stored count is at an entry of the mask."""
    X, M = counts.side(Side.ROWS), mask.side(Side.ROWS)
    pattern = sparse.csr_array((np.ones(mask.nnz, np.int8), M.indices, M.indptr), shape=counts.shape)
    numbers = sparse.csr_array((np.arange(1, counts.nnz + 1), X.indices, X.indptr), shape=counts.shape)
    out = np.zeros(counts.nnz, bool)
    out[pattern.multiply(numbers).data - 1] = True
    return out
