"""The size of a matrix according to its attributes, for checks before anything of that size is allocated."""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from fastpmf.counts.frames import is_frame
from fastpmf.counts.named import Dataset
from fastpmf.utils.memory import SMALL, memory


class Declared(NamedTuple):
    """Shape, stored entries and dtype of a matrix that has not been read."""

    shape: tuple[int, int]
    nnz: int
    dtype: np.dtype


def declared(X: Any) -> Any:
    """An object with the `shape`, `nnz` and `dtype` of a matrix of counts; None if they are not known before reading.

    Counts that have been read are returned unchanged. `nnz` is 1 if it is not known.
    """
    if isinstance(X, Dataset):
        X = X.X
    if isinstance(X, tuple):
        if len(X) != 3 or not all(isinstance(part, np.ndarray) for part in X) or X[2].size < 2:
            return None
        return Declared((X[2].size - 1, 1), max(X[0].size, 1), X[0].dtype)
    if is_frame(X):
        size = Declared(X.shape, 1, np.dtype(np.float64))
    elif sparse.issparse(X) or (isinstance(X, np.ndarray) and X.dtype.kind in "biuf"):
        size = Declared(X.shape, max(getattr(X, "nnz", 1), 1), X.dtype)
    else:
        return X if hasattr(type(X), "row_access_only") else None
    return size if len(size.shape) == 2 and min(size.shape) else None


def check_readable(X: Any, name: str) -> None:
    """Raise an error if a matrix does not fit into memory once it is read.

    Raises
    ------
    MemoryError
        If the row pointers of a sparse matrix, or all entries of an array in a file, exceed this process's memory
        limit.
    """
    if isinstance(X, tuple):
        n_bytes, what = 16 * np.size(X[2]) if len(X) == 3 else 0, f"{np.size(X[-1]) - 1} rows"
    elif sparse.issparse(X):
        axis = int(X.format == "csc")
        n_bytes, what = 16 * (X.shape[axis] + 1) if X.ndim == 2 else 0, f"{X.shape[axis]} {('rows', 'columns')[axis]}"
    elif isinstance(X, np.ndarray) or not isinstance(getattr(X, "dtype", None), np.dtype):
        return
    else:
        n_bytes, what = math.prod(X.shape) * X.dtype.itemsize, f"shape {X.shape}"
    if n_bytes > SMALL and n_bytes > (have := memory()):
        raise MemoryError(
            f"{name} of {what} needs at least {n_bytes / 2**30:.3g} GiB, and this process may have "
            f"{have / 2**30:.3g} GiB"
        )
