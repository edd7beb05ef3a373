"""Factors in the layout of the kernels: rows padded with zeros to multiples of 64 bytes, aligned to 64 bytes."""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from fastpmf.kernels._jit import row_width
from fastpmf.kernels.rows import NARROW, sum_columns
from fastpmf.kernels.simd import VECTOR_BYTES
from fastpmf.utils.messages import brief

_BLOCK_ROWS = 512
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def aligned(n_rows: int, width: int, dtype: np.dtype, allocate: Callable[..., np.ndarray] = np.empty) -> np.ndarray:
    """A C-ordered matrix whose data start at a multiple of 64 bytes."""
    raw: Any = allocate(n_rows * width * dtype.itemsize + VECTOR_BYTES, np.uint8)
    address = ctypes.addressof(ctypes.c_char.from_buffer(raw))  # a fifth of the time of `raw.ctypes.data`
    return np.ndarray((n_rows, width), dtype, raw, -address % VECTOR_BYTES)


def aligned_copy(A: np.ndarray) -> np.ndarray:
    """An aligned copy of a padded factor."""
    out = aligned(len(A), A.shape[1], A.dtype)
    out[:] = A
    return out


def empty_factor(n_rows: int, n_components: int, dtype: np.dtype) -> np.ndarray:
    """A padded factor of zeros, shape (n_rows, K) with K = `padded_width`."""
    return aligned(n_rows, padded_width(n_components, dtype), dtype, np.zeros)


def padded(A: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A padded copy of A, shape (n_rows, n_components), as `dtype`."""
    out = empty_factor(A.shape[0], A.shape[1], dtype)
    with np.errstate(under="ignore"):
        out[:, : A.shape[1]] = A
    return out


def with_width(A: np.ndarray, n_components: int, n_new: int = 0) -> np.ndarray:
    """A copy of the first `n_components` columns of a padded factor, padded, followed by `n_new` columns of zeros."""
    out = empty_factor(len(A), n_components + n_new, A.dtype)
    out[:, :n_components] = A[:, :n_components]
    return out


def component_sums(W: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column sums of W and row sums of H, (k,), float64; a ValueError if the sum of W H is not finite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        w_sum, h_sum = W.sum(axis=0, dtype=np.float64), H.sum(axis=1, dtype=np.float64)
        if not np.isfinite((w_sum * h_sum).sum()):
            raise ValueError("W and H must be small enough for the sum of W H to be finite")
    return w_sum, h_sum


def column_sums(A: np.ndarray) -> np.ndarray:
    """Column sums of a padded factor, float64; independent of the number of threads (bitwise)."""
    bounds = row_bounds(len(A))
    partial = aligned(len(bounds) - 1, A.shape[1], np.dtype(float))
    sum_columns(len(partial), A, bounds, row_width(A, NARROW), partial)
    return partial.sum(axis=0)


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of a b, bitwise the same on every machine, unlike BLAS, whose order of addition depends on the CPU."""
    with np.errstate(under="ignore"):
        return float((a * b).sum())


@lru_cache(maxsize=16)
def row_bounds(n_rows: int) -> np.ndarray:
    """Boundaries of the blocks of rows with separate sums; read-only, independent of the number of threads."""
    bounds = np.append(np.arange(0, n_rows, _BLOCK_ROWS), n_rows)
    bounds.flags.writeable = False
    return bounds


def padded_width(n_components: int, dtype: np.dtype) -> int:
    """Columns of a padded factor: n_components rounded up to a multiple of 64 bytes."""
    if dtype not in FLOATS:
        raise ValueError(f"factors must be of float32 or float64, got {dtype}")
    per_vector = VECTOR_BYTES // dtype.itemsize
    return -(-n_components // per_vector) * per_vector


def working_dtype(dtype: Any, data: np.dtype) -> np.dtype:
    """Dtype of the factors: the given one, or by default float64 for float64 counts and float32 for all others.

    `dtype_for` also takes the counts themselves into account; this is its result as far as their dtype determines it.
    """
    if dtype is None:
        return np.dtype(np.float64 if data.kind == "f" and data.itemsize >= 8 else np.float32)
    try:
        work = np.dtype(dtype)
    except TypeError:
        work = None
    if work is None or work not in FLOATS:
        raise ValueError(f"dtype must be float32, float64 or None, got {brief(dtype)}")
    return work
