"""The door: whatever a user has becomes canonical counts here, and what isn't counts is turned away in one sentence."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from fastpmf.core.counts import Side
from fastpmf.counts.csr import SparseRows
from fastpmf.counts.declared import check_readable
from fastpmf.counts.dtypes import COUNT_DTYPES, check_dtype, objects_as_numbers
from fastpmf.counts.frames import has_extension_dtypes, is_frame, read_frame
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.named import Dataset
from fastpmf.kernels.threads import threads
from fastpmf.utils.validation import not_finite

_INT32_MAX = np.iinfo(np.int32).max
_COMPARED = 1 << 20  # neighbours among the column indices that are compared at once


def as_counts(
    X: Any, *, shape: tuple[int, int] | None = None, name: str = "X", n_threads: int | None = None
) -> MemoryCounts:
    """Read a matrix of counts into canonical form; canonical CSR and CSC are not copied, and nothing is written to.

    Where nothing is copied, X must not change while the counts are in use.

    Parameters
    ----------
    X : sparse matrix or array, array-like, pandas DataFrame, (data, indices, indptr), Dataset or MemoryCounts
        Of shape (n, p). Any scipy.sparse format, in any order, with duplicates (which are summed) and stored zeros
        (which are dropped); dense, an HDF5 or Zarr dataset included; a DataFrame, whose sparse columns stay sparse; or
        the three arrays of a CSR matrix, for example memory maps. Non-negative and finite; whole numbers are usual but
        not required.
    shape : (int, int), optional
        Shape of a (data, indices, indptr) triple; by default its columns end at the largest index.
    name : str, default="X"
        What error messages call it.
    n_threads : int, optional
        Threads to use; by default as many as the process may use.

    Returns
    -------
    MemoryCounts

    Raises
    ------
    TypeError
        Not a matrix of real numbers.
    ValueError
        Wrong dimensions, negative, NaN or infinite entries, or malformed sparse structure.
    MemoryError
        If reading the matrix would exceed this process's memory limit.

    Examples
    --------
    >>> from fastpmf import as_counts
    >>> counts = as_counts([[2, 0], [0, 1]])
    >>> counts.shape, counts.nnz, counts.total
    ((2, 2), 2, 3.0)
    """
    return read_matrix(X, shape=shape, name=name, n_threads=n_threads)


def read_matrix(
    X: Any, *, shape: tuple[int, int] | None = None, name: str = "X", n_threads: int | None = None,
    mask: MemoryCounts | None = None,
) -> MemoryCounts:  # fmt: skip
    """`as_counts` of X without the NaN, infinite and negative values at the entries of `mask`."""
    if isinstance(X, Dataset):
        X = X.X
    if isinstance(X, MemoryCounts) and shape is None:
        return X
    if getattr(X, "row_access_only", False) is True:
        raise TypeError(
            f"{name} must be counts in memory here, got {type(X).__name__}, which fit, transform and score take"
        )
    with threads(n_threads):
        return _read(X, shape, name, mask)


def _read(X: Any, shape: tuple[int, int] | None, name: str, mask: MemoryCounts | None) -> MemoryCounts:
    check_readable(X, name)
    if isinstance(X, tuple):
        return MemoryCounts(_canonical(*_triple(X, shape, name), name, _pattern(mask, Side.ROWS)))
    if shape is not None:
        raise ValueError(f"shape goes with a (data, indices, indptr) triple only, {name} is a {type(X).__name__}")
    _check_in_memory(X, name)
    if is_frame(X) and has_extension_dtypes(X) and X.shape[1]:
        X = read_frame(X, name)
    if not sparse.issparse(X):
        X = _dense(X, name)
    if X.ndim != 2 or min(X.shape) == 0:
        raise ValueError(
            f"{name} must be a matrix with at least one row and one column, got shape {tuple(map(int, X.shape))}"
            f"{_sklearn_words(X.shape)}"
        )
    check_dtype(X.dtype, name)
    if X.format == "csc":
        columns = _canonical(X.data, X.indices, X.indptr, X.shape[0], name, _pattern(mask, Side.COLUMNS))
        return MemoryCounts(None, columns)
    if X.format != "csr":
        # Formats with duplicates sum them on the way, which small integers would overflow.
        X = X.astype(wide(X.dtype)).tocsr()
    return MemoryCounts(_canonical(X.data, X.indices, X.indptr, X.shape[1], name, _pattern(mask, Side.ROWS)))


def _pattern(mask: MemoryCounts | None, side: Side) -> sparse.csr_array | None:
    """The entries of a mask, or of its transpose, as a matrix of True."""
    if mask is None:
        return None
    M = mask.side(side)
    return sparse.csr_array((np.ones(mask.nnz, bool), M.indices, M.indptr), shape=mask.shape[:: 1 - 2 * side])


def _sklearn_words(shape: tuple[int, ...]) -> str:
    """What scikit-learn's users know these mistakes as."""
    if len(shape) == 2:
        axis = "sample" if shape[0] == 0 else "feature"
        return f": 0 {axis}(s) (shape={tuple(map(int, shape))}) while a minimum of 1 is required."
    return " (Expected 2D array. Reshape your data with X.reshape(1, -1) if it is a single sample)"


def _check_in_memory(X: Any, name: str) -> None:
    """Raise an error for paths, files and containers of matrices; the message says how to get the matrix."""
    kind, library = type(X).__name__, type(X).__module__.partition(".")[0]
    fitted = name == "X" or name.startswith("adata")  # not what is given beside the counts
    if library in ("dask", "distributed"):
        other_way = "fit it with fastpmf.dask.PoissonNMF or HPF, or " if fitted else ""
        raise TypeError(f"{name} must be in memory, got a Dask {kind}: {other_way}give {name}.compute()")
    if hasattr(X, "obsm") and hasattr(X, "layers"):  # NumPy would take it for a nest of sequences, at great length
        raise TypeError(f"{name} must be a matrix, got an {kind} object: give its X, or one of its layers")
    if hasattr(X, "to_memory"):
        other_way = ", or read the file in blocks by fastpmf.io.stream_counts(path)" if fitted else ""
        raise TypeError(
            f"{name} must be in memory, got a {kind}, which is in a file: give {name}.to_memory(){other_way}"
        )
    if isinstance(X, str | os.PathLike):
        raise TypeError(f"{name} must be a matrix, got a path: give what fastpmf.io.read_counts(path) returns")
    if isinstance(X, Mapping) and not sparse.issparse(X):  # such as a group of an HDF5 file
        raise TypeError(f"{name} must be a matrix, got {kind}")


def _dense(X: Any, name: str) -> sparse.csr_array:
    _check_unmasked(X, name)
    try:
        array = np.asarray(X)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a matrix of numbers, got {type(X).__name__}: {error!s:.80}") from None
    if array.dtype == object and array.ndim == 0:
        raise TypeError(f"{name} must be a matrix, got {type(X).__name__}")
    array = objects_as_numbers(array, f"{name} must be a matrix of numbers, got objects")
    check_dtype(array.dtype, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix, got {array.ndim} dimension(s){_sklearn_words(array.shape)}")
    return sparse.csr_array(array.astype(np.float32) if array.dtype == np.float16 else _native(array))


def _native(array: np.ndarray) -> np.ndarray:
    """The same numbers in the machine's own byte order."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_integers(indices: np.ndarray, indptr: np.ndarray, name: str) -> None:
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise TypeError(f"{name}'s indices and indptr must be integers, got {indices.dtype} and {indptr.dtype}")


def _check_unmasked(array: Any, name: str) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must hold a number in every place, got a masked array")


def wide(dtype: np.dtype) -> np.dtype:
    """A dtype of the same kind in which sums of counts don't overflow."""
    if dtype.kind == "b":
        return dtype  # True twice is still True
    return np.dtype(np.float64 if dtype.kind == "f" or dtype == np.uint64 else np.int64)


def _triple(
    X: tuple[Any, ...], shape: tuple[int, int] | None, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    if len(X) != 3:
        raise ValueError(f"{name} as a tuple must be (data, indices, indptr), got {len(X)} elements")
    for part in X:
        _check_unmasked(part, name)
    data, indices, indptr = (_native(np.asarray(part)) for part in X)
    for part, array in (("data", data), ("indices", indices), ("indptr", indptr)):
        if array.ndim != 1:
            raise ValueError(f"{name}'s {part} must have one dimension, got {array.ndim}")
    check_dtype(data.dtype, f"{name}'s data")
    _check_integers(indices, indptr, name)
    stored = indices[: max(int(indptr[-1]), 0)] if indptr.size else indices
    n_columns = shape[1] if shape is not None else int(stored.max()) + 1 if stored.size else 0
    if shape is not None and len(indptr) != shape[0] + 1:
        raise ValueError(f"{name}'s indptr must have shape[0] + 1 = {shape[0] + 1} elements, got {len(indptr)}")
    if len(indptr) < 2 or n_columns < 1:
        raise ValueError(f"{name} must have at least one row and one column, got {len(indptr) - 1} and {n_columns}")
    return data, indices, indptr, n_columns


def _canonical(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_columns: int, name: str,
    hidden: sparse.csr_array | None,
) -> SparseRows:  # fmt: skip
    """Check a CSR triple; copy it only if it is not canonical, or has an invalid value at an entry of `hidden`."""
    indices, indptr = _check_structure(data, indices, indptr, n_columns, name)
    data = _native(data[: indptr[-1]])
    if hidden is not None:
        data, indices, indptr = _without_hidden(data, indices, indptr, n_columns, hidden)
    data = _check_values(data, name)
    if not _ascends(indices, indptr) or (len(data) and data.min() == 0):
        # scipy sorts, sums and drops in place: on copies, in a dtype that sums can't overflow.
        kind = data.dtype
        X = sparse.csr_array(
            (data.astype(wide(kind)), indices.copy(), indptr.copy()), shape=(len(indptr) - 1, n_columns)
        )
        X.sum_duplicates()
        X.eliminate_zeros()
        data, indices, indptr = X.data, X.indices, X.indptr.astype(np.int64)
        if kind == np.float32:
            with np.errstate(over="ignore"):  # sums past float32 are turned away on the next line
                data = data.astype(np.float32)
        data = _check_values(data, name)
        if n_columns <= _INT32_MAX:
            indices = indices.astype(np.int32, copy=False)
    return SparseRows(
        np.ascontiguousarray(_as_count_dtype(data)),
        np.ascontiguousarray(indices),
        np.ascontiguousarray(indptr),
        n_columns,
    )


def _without_hidden(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_columns: int, hidden: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The CSR triple without NaN, infinite and negative values that are stored at entries of `hidden`."""
    wrong = np.flatnonzero(~((data >= 0) & (data < np.inf))) if data.dtype.kind in "if" else np.zeros(0, np.intp)
    if len(wrong) == 0 or hidden.shape != (len(indptr) - 1, n_columns):
        return data, indices, indptr
    rows = np.searchsorted(indptr, wrong, side="right") - 1
    drop = np.zeros(len(data), bool)
    drop[wrong] = np.asarray(hidden[rows, indices[wrong]]).ravel()
    ends = np.concatenate([[0], np.cumsum(~drop)])
    return data[~drop], indices[~drop], ends[indptr]


def _check_structure(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_columns: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    _check_integers(indices, indptr, name)
    indptr = indptr.astype(np.int64, copy=False)
    stored, descends = min(len(data), len(indices)), bool((indptr[1:] < indptr[:-1]).any())
    if indptr[0] != 0 or indptr[-1] > stored or descends:
        raise ValueError(
            f"{name}'s indptr must ascend from 0 to at most the {stored} stored entries, "
            f"got {int(indptr[0])} to {int(indptr[-1])}{', descending in between' if descends else ''}"
        )
    indices = indices[: indptr[-1]]
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n_columns:
        raise ValueError(
            f"{name}'s stored indices must lie in 0 ... {n_columns - 1}, "
            f"got {int(indices.min())} to {int(indices.max())}"
        )
    if indices.dtype not in (np.int32, np.int64):
        indices = indices.astype(np.int32 if n_columns <= _INT32_MAX else np.int64)
    return indices, indptr


def _check_values(data: np.ndarray, name: str) -> np.ndarray:
    if data.dtype == np.float16:
        data = data.astype(np.float32)
    elif data.dtype.kind == "f" and data.dtype.itemsize > 8:
        data = data.astype(np.float64)
    if not len(data):
        return data
    low, high = data.min(), data.max()  # NaN goes through both
    if not (np.isfinite(low) and np.isfinite(high)):
        fitted = name == "X" or name.startswith("adata")
        advice = "; fit takes a mask of entries that are not observed" if fitted and np.isnan(data).any() else ""
        raise ValueError(f"{name} must be finite, got {not_finite(data)}{advice}")
    if low < 0:
        raise ValueError(f"{name} must hold counts >= 0, got {low} (Negative values in data)")
    return data


def _ascends(indices: np.ndarray, indptr: np.ndarray) -> bool:
    """Whether every row's column indices strictly ascend: sorted, and none twice."""
    starts = indptr[1:-1]
    for first in range(1, len(indices), _COMPARED):
        last = min(first + _COMPARED, len(indices))
        descends = indices[first:last] <= indices[first - 1 : last - 1]
        new_rows = starts[np.searchsorted(starts, first) : np.searchsorted(starts, last)]
        descends[new_rows - first] = False
        if descends.any():
            return False
    return True


def _as_count_dtype(data: np.ndarray) -> np.ndarray:
    """The counts in the dtype that the kernels read: their own where it is one of those, else the smallest exact."""
    if data.dtype in COUNT_DTYPES:
        return data
    assert data.dtype.kind in "biu", data.dtype  # the floats are in native order and at most 64 bits wide by now
    if data.dtype.kind == "b":
        return data.view(np.uint8)
    high = int(data.max(initial=0))
    for dtype in COUNT_DTYPES[:3]:
        if high <= np.iinfo(dtype).max:
            return data.astype(dtype)
    return data.astype(np.float64)
