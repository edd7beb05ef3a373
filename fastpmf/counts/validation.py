"""Input validation: converts a matrix of any kind to canonical counts, or raises an error that names the argument."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from fastpmf.core.counts import Side
from fastpmf.counts.csr import COUNT_DTYPES, SparseRows
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.kernels.threads import threads
from fastpmf.utils.memory import check_memory_for
from fastpmf.utils.messages import brief
from fastpmf.utils.tables import Table, short_name, shown_as_table
from fastpmf.utils.validation import (
    check_array,
    check_unique,
    is_dataframe,
    is_nullable,
    is_pandas,
    not_finite,
    positions,
)

_INT32_MAX = np.iinfo(np.int32).max
_CHUNK = 1 << 20  # adjacent column indices that are compared at once


def as_counts(
    X: Any, *, shape: tuple[int, int] | None = None, name: str = "X", n_threads: int | None = None
) -> MemoryCounts:
    """Convert a matrix of counts to canonical form, without a copy of canonical CSR and CSC.

    X is never written to. If it is not copied, it must not change while the counts are in use.

    Parameters
    ----------
    X : sparse matrix or array, array-like, pandas DataFrame, (data, indices, indptr), Dataset or MemoryCounts
        Of shape (n, p). Any scipy.sparse format, in any order; duplicates are summed and stored zeros are dropped. Or
        dense, including HDF5 and Zarr datasets; a DataFrame, whose sparse columns stay sparse; or the three arrays of a
        CSR matrix, for example memory maps. Non-negative and finite; integers are usual but not required.
    shape : (int, int), optional
        Shape of a (data, indices, indptr) triple; by default its columns end at the largest index.
    name : str, default="X"
        Name of the argument in error messages.
    n_threads : int, optional
        Number of threads; by default all that the process may use.

    Returns
    -------
    MemoryCounts

    Raises
    ------
    TypeError
        If X is not a matrix of real numbers.
    ValueError
        If X has the wrong dimensions, negative, NaN or infinite entries, or malformed sparse structure.
    MemoryError
        If reading the matrix would exceed this process's memory limit.

    See Also
    --------
    MemoryCounts : the result.
    StreamedCounts : counts larger than memory.
    fastpmf.io.read_counts : counts in files.

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
    """`as_counts` without the NaN, infinite and negative values at the entries of `mask`."""
    if isinstance(X, Alignment):
        raise TypeError(
            f"{name} must be counts, got what Dataset.aligned returns: give its .data, and mask=.mask to fit, "
            "transform and score"
        )
    if isinstance(X, Dataset):
        X = X.X
    if isinstance(X, MemoryCounts) and shape is None:
        return X
    if getattr(X, "row_access_only", False) is True:
        raise TypeError(
            f"{name} must be counts in memory here, got {type(X).__name__}, which fit, transform and score take"
        )
    with threads(n_threads):
        check_memory_to_read(X, name)
        if _is_fitted_data(name):
            _check_not_texts(X, name)
        if isinstance(X, tuple):
            return MemoryCounts(_canonical(*_check_triple(X, shape, name), Side.ROWS, name, mask))
        if shape is not None:
            raise ValueError(f"shape goes with a (data, indices, indptr) triple only, {name} is a {type(X).__name__}")
        _check_in_memory(X, name)
        if is_dataframe(X) and X.shape[1] and not all(isinstance(dtype, np.dtype) for dtype in X.dtypes):
            X = _read_dataframe(X, name)
        if not sparse.issparse(X):
            X = _read_dense(X, name)
        if X.ndim != 2 or min(X.shape) == 0:
            raise ValueError(
                f"{name} must be a matrix with at least one row and one column, got shape "
                f"{tuple(map(int, X.shape))}{_sklearn_message(X.shape)}"
            )
        _check_dtype(X.dtype, name)
        if X.format == "csc":
            return MemoryCounts(None, _canonical(X.data, X.indices, X.indptr, X.shape[0], Side.COLUMNS, name, mask))
        if X.format != "csr":  # the conversion sums duplicates, which small integers would overflow
            X = X.astype(sum_dtype(X.dtype)).tocsr()
        return MemoryCounts(_canonical(X.data, X.indices, X.indptr, X.shape[1], Side.ROWS, name, mask))


class MatrixSize(NamedTuple):
    """Shape, number of stored entries and dtype of a matrix that has not been read."""

    shape: tuple[int, int]
    nnz: int
    dtype: np.dtype


def matrix_size(X: Any) -> Any:
    """An object with the `shape`, `nnz` and `dtype` of a matrix of counts; None if they are unknown before reading.

    Counts that have been read are returned unchanged. `nnz` is 1 if it is unknown.
    """
    if isinstance(X, Dataset):
        X = X.X
    if isinstance(X, tuple):
        if len(X) != 3 or not all(isinstance(part, np.ndarray) for part in X) or X[2].size < 2:
            return None
        return MatrixSize((X[2].size - 1, 1), max(X[0].size, 1), X[0].dtype)
    if is_dataframe(X):
        size = MatrixSize(X.shape, 1, np.dtype(np.uint8))
    elif sparse.issparse(X) or (isinstance(X, np.ndarray) and X.dtype.kind in "biuf"):
        size = MatrixSize(X.shape, max(getattr(X, "nnz", 1), 1), X.dtype)
    else:
        return X if hasattr(type(X), "row_access_only") else None
    return size if len(size.shape) == 2 and min(size.shape) else None


def check_memory_to_read(X: Any, name: str) -> None:
    """Raise a MemoryError if the row pointers of a matrix, or all entries of an array in a file, exceed the limit."""
    if isinstance(X, tuple):
        n_bytes, size = 16 * np.size(X[2]) if len(X) == 3 else 0, f"{np.size(X[-1]) - 1} rows"
    elif sparse.issparse(X):
        axis = int(X.format == "csc")
        n_bytes, size = 16 * (X.shape[axis] + 1) if X.ndim == 2 else 0, f"{X.shape[axis]} {('rows', 'columns')[axis]}"
    elif isinstance(X, np.ndarray) or not isinstance(getattr(X, "dtype", None), np.dtype):
        return
    else:
        n_bytes, size = math.prod(X.shape) * X.dtype.itemsize, f"shape {X.shape}"
    check_memory_for(f"{name} of {size}", n_bytes)


def _is_fitted_data(name: str) -> bool:
    """Whether an argument of this name is the matrix to fit, and not, for example, a mask."""
    return name == "X" or name.startswith("adata")


def _sklearn_message(shape: tuple[int, ...]) -> str:
    """The message that scikit-learn gives for such a shape."""
    if len(shape) == 2:
        axis = "sample" if shape[0] == 0 else "feature"
        return f": 0 {axis}(s) (shape={tuple(map(int, shape))}) while a minimum of 1 is required."
    return " (Expected 2D array. Reshape your data with X.reshape(1, -1) if it is a single sample)"


def _check_in_memory(X: Any, name: str) -> None:
    """Raise an error for paths, files and containers of matrices; the message says how to get the matrix."""
    kind, library = type(X).__name__, type(X).__module__.partition(".")[0]
    if library in ("dask", "distributed"):
        alternative = "fit it with fastpmf.dask.PoissonNMF or HPF, or " if _is_fitted_data(name) else ""
        raise TypeError(f"{name} must be in memory, got a Dask {kind}: {alternative}give {name}.compute()")
    if hasattr(X, "obsm") and hasattr(X, "layers"):  # NumPy would convert it as a nested sequence, which is slow
        if not _is_fitted_data(name):
            raise TypeError(f"{name} must be a matrix, got an {kind} object: give one of its layers")
        raise TypeError(
            f"{name} must be a matrix, got an {kind} object: fit it with fastpmf.anndata.poisson_nmf, or give "
            "fastpmf.anndata.to_dataset(adata), which keeps names"
        )
    if hasattr(X, "to_memory"):
        alternative = ", or read the file in blocks by fastpmf.io.stream_counts(path)" if _is_fitted_data(name) else ""
        raise TypeError(
            f"{name} must be in memory, got a {kind}, which is in a file: give {name}.to_memory(){alternative}"
        )
    if isinstance(X, str | os.PathLike):
        raise TypeError(f"{name} must be a matrix, got a path: give what fastpmf.io.read_counts(path) returns")
    if isinstance(X, Mapping) and not sparse.issparse(X):  # such as a group of an HDF5 file
        raise TypeError(f"{name} must be a matrix, got {kind}")


def _check_not_texts(X: Any, name: str) -> None:
    """Raise an error for texts, lists of words and lists of (id, count) pairs; the message says how to get counts."""
    is_array = (isinstance(X, np.ndarray) or is_pandas(X)) and X.ndim == 1 and X.dtype.kind in "OU"
    if not is_array and not isinstance(X, list | tuple):
        return
    first = next((row for row in X if isinstance(row, str | list | tuple) and row), ())
    counter = "scikit-learn's CountVectorizer"
    if isinstance(first, str):
        raise TypeError(f"{name} must be counts, got texts: count their words by {counter}")
    if first and all(isinstance(word, str) for word in first):
        raise TypeError(f"{name} must be counts, got lists of words: count them by {counter}(analyzer=list)")
    if first and all(isinstance(pair, tuple) and len(pair) == 2 for pair in first):
        raise TypeError(
            f"{name} must be a matrix, got lists of (id, count) pairs: give "
            f"gensim.matutils.corpus2csc({name}, num_terms=len(dictionary)).T"
        )


def _check_dtype(dtype: np.dtype, name: str) -> None:
    """Raise an error unless this is a dtype of real numbers."""
    if dtype.kind == "c":
        raise ValueError(f"{name} must hold counts, got complex numbers (Complex data not supported)")
    if dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {dtype}")


def _objects_as_float(array: np.ndarray, message: str, *, in_table: bool) -> np.ndarray:
    """An array of objects as float64, and any other array unchanged; an error begins with `message`.

    `in_table` says whether the array is from a DataFrame, which may be a table with a line for each entry.
    """
    try:
        return array.astype(np.float64) if array.dtype == object else array
    except (TypeError, ValueError) as error:
        message = f"{message}: {error!s:.80}"
        if in_table:
            message = (
                f"{message}; for a table of row ids, column ids and counts use Dataset.from_entries, for texts "
                "scikit-learn's CountVectorizer"
            )
        raise type(error)(message) from None


def _read_dataframe(frame: Any, name: str) -> sparse.csc_array:
    """A pandas DataFrame as CSC, read by column, so that sparse columns stay sparse; missing values become NaN."""
    columns = [_read_column(frame.iloc[:, j], name) for j in range(frame.shape[1])]
    ends = np.cumsum([0, *(len(rows) for rows, _ in columns)])
    rows, data = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return sparse.csc_array((_widen_float16(data), rows, ends), shape=frame.shape)


def _read_column(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and values of the nonzero entries of a column."""
    values, full_name = column.array, f"{name}'s column {brief(column.name)}"
    if type(column.dtype).__name__ == "SparseDtype" and values.fill_value == 0:
        _check_dtype(values.sp_values.dtype, full_name)
        return values.sp_index.to_int_index().indices, values.sp_values
    dense = column.to_numpy(np.float64, na_value=np.nan) if is_nullable(column) else np.asarray(values)
    dense = _objects_as_float(dense, f"{full_name} must hold numbers", in_table=True)
    _check_dtype(dense.dtype, full_name)
    rows = np.flatnonzero(dense)
    return rows, dense[rows]


def _read_dense(X: Any, name: str) -> sparse.csr_array:
    if isinstance(X, np.ma.MaskedArray):
        raise TypeError(f"{name} must hold a number in every place, got a masked array")
    try:
        array = np.asarray(X)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a matrix of numbers, got {type(X).__name__}: {error!s:.80}") from None
    if array.dtype == object and array.ndim == 0:
        raise TypeError(f"{name} must be a matrix, got {type(X).__name__}")
    array = _objects_as_float(array, f"{name} must be a matrix of numbers, got objects", in_table=is_dataframe(X))
    _check_dtype(array.dtype, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix, got {array.ndim} dimension(s){_sklearn_message(array.shape)}")
    return sparse.csr_array(_widen_float16(_native_byte_order(array)))


def _widen_float16(array: np.ndarray) -> np.ndarray:
    """float16, which scipy.sparse does not support, as float32; other dtypes unchanged."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _native_byte_order(array: np.ndarray) -> np.ndarray:
    """The array in native byte order."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def sum_dtype(dtype: np.dtype) -> np.dtype:
    """A dtype of the same kind in which sums of counts do not overflow; bool remains bool."""
    if dtype.kind == "b":
        return dtype
    return np.dtype(np.float64 if dtype.kind == "f" or dtype == np.uint64 else np.int64)


def _check_triple(
    X: tuple[Any, ...], shape: tuple[int, int] | None, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """data, indices, indptr and the number of columns of a CSR triple given by the user."""
    if len(X) != 3:
        raise ValueError(f"{name} as a tuple must be (data, indices, indptr), got {len(X)} elements")
    if any(isinstance(part, np.ma.MaskedArray) for part in X):
        raise TypeError(f"{name} must hold a number in every place, got a masked array")
    data, indices, indptr = (_native_byte_order(np.asarray(part)) for part in X)
    for part, array in (("data", data), ("indices", indices), ("indptr", indptr)):
        if array.ndim != 1:
            raise ValueError(f"{name}'s {part} must have one dimension, got {array.ndim}")
    _check_dtype(data.dtype, f"{name}'s data")
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise TypeError(f"{name}'s indices and indptr must be integers, got {indices.dtype} and {indptr.dtype}")
    stored = indices[: max(int(indptr[-1]), 0)] if indptr.size else indices
    n_columns = shape[1] if shape is not None else int(stored.max()) + 1 if stored.size else 0
    if shape is not None and len(indptr) != shape[0] + 1:
        raise ValueError(f"{name}'s indptr must have shape[0] + 1 = {shape[0] + 1} elements, got {len(indptr)}")
    if len(indptr) < 2 or n_columns < 1:
        raise ValueError(f"{name} must have at least one row and one column, got {len(indptr) - 1} and {n_columns}")
    return data, indices, indptr, n_columns


def _canonical(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_columns: int, side: Side, name: str,
    mask: MemoryCounts | None,
) -> SparseRows:  # fmt: skip
    """Check the CSR triple of a side; copy it only if it is not canonical or has invalid values in `mask`."""
    indices, indptr = _check_structure(data, indices, indptr, n_columns, name)
    data = _native_byte_order(data[: indptr[-1]])
    if mask is not None:
        X = _drop_invalid(SparseRows(data, indices, indptr, n_columns), side, mask)
        data, indices, indptr = X.data, X.indices, X.indptr
    data = _check_values(data, name)
    if not _is_strictly_ascending(indices, indptr) or (len(data) and data.min() == 0):
        # scipy sorts, sums and drops entries in place: of copies, in a dtype in which sums do not overflow
        dtype = data.dtype
        X = sparse.csr_array(
            (data.astype(sum_dtype(dtype)), indices.copy(), indptr.copy()), shape=(len(indptr) - 1, n_columns)
        )
        X.sum_duplicates()
        X.eliminate_zeros()
        data, indices, indptr = X.data, X.indices, X.indptr.astype(np.int64)
        if dtype == np.float32:
            with np.errstate(over="ignore"):  # the next line raises an error for sums that overflow float32
                data = data.astype(np.float32)
        data = _check_values(data, name)
        if n_columns <= _INT32_MAX:
            indices = indices.astype(np.int32, copy=False)
    data, indices, indptr = map(np.ascontiguousarray, (_as_count_dtype(data), indices, indptr))
    return SparseRows(data, indices, indptr, n_columns)


def _drop_invalid(X: SparseRows, side: Side, mask: MemoryCounts) -> SparseRows:
    """X, not yet canonical, without NaN, infinite and negative values that are stored at entries of `mask`."""
    invalid = np.flatnonzero(~((X.data >= 0) & (X.data < np.inf))) if X.data.dtype.kind in "if" else np.zeros(0, int)
    if len(invalid) == 0 or mask.shape != (X.shape if side is Side.ROWS else X.shape[::-1]):
        return X
    M = mask.side(side)
    pattern = sparse.csr_array((np.ones(mask.nnz, bool), M.indices, M.indptr), shape=M.shape)
    rows = np.searchsorted(X.indptr, invalid, side="right") - 1
    keep = np.ones(len(X.data), bool)
    keep[invalid] = ~np.asarray(pattern[rows, X.indices[invalid]]).ravel()
    return X.select_entries(keep)


def _check_structure(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_columns: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The indices, in a supported dtype and without unused ones at the end, and the indptr as int64."""
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
    """The data, as float32 or float64 if they are of another float dtype."""
    data = _widen_float16(data)
    if data.dtype.kind == "f" and data.dtype.itemsize > 8:
        data = data.astype(np.float64)
    if not len(data):
        return data
    low, high = data.min(), data.max()  # both are NaN if any entry is
    if not (np.isfinite(low) and np.isfinite(high)):
        has_mask = _is_fitted_data(name) and np.isnan(data).any()
        advice = "; give 0 (fillna(0)) where it means no count, and fit a mask where it means not observed"
        raise ValueError(f"{name} must be finite, got {not_finite(data)}{advice if has_mask else ''}")
    if low < 0:
        raise ValueError(f"{name} must hold counts >= 0, got {low} (Negative values in data)")
    return data


def _is_strictly_ascending(indices: np.ndarray, indptr: np.ndarray) -> bool:
    """Whether the column indices of every row strictly ascend: they are sorted, without duplicates."""
    starts = indptr[1:-1]
    for first in range(1, len(indices), _CHUNK):
        last = min(first + _CHUNK, len(indices))
        descends = indices[first:last] <= indices[first - 1 : last - 1]
        new_rows = starts[np.searchsorted(starts, first) : np.searchsorted(starts, last)]
        descends[new_rows - first] = False
        if descends.any():
            return False
    return True


def _as_count_dtype(data: np.ndarray) -> np.ndarray:
    """The counts in one of `COUNT_DTYPES`: unchanged, or in the smallest exact one."""
    if data.dtype in COUNT_DTYPES:
        return data
    assert data.dtype.kind in "biu", data.dtype  # floats are native and of 32 or 64 bits here
    if data.dtype.kind == "b":
        return data.view(np.uint8)
    high = int(data.max(initial=0))
    for dtype in COUNT_DTYPES[:3]:
        if high <= np.iinfo(dtype).max:
            return data.astype(dtype)
    return data.astype(np.float64)


def non_integer_fraction(counts: np.ndarray) -> float:
    """The fraction of counts that are not integers."""
    return np.count_nonzero(counts != np.floor(counts)) / max(len(counts), 1) if counts.dtype.kind == "f" else 0.0


def check_sums(X: sparse.csr_array, row_names: np.ndarray | None, column_names: np.ndarray | None, name: str) -> None:
    """Raise a ValueError, which names the first of them, if any sum of counts of the argument `name` is negative."""
    if len(negative := np.flatnonzero(X.data < 0)):
        p = negative[0]
        i, j = np.searchsorted(X.indptr, p, side="right") - 1, X.indices[p]
        row = i if row_names is None else brief(row_names[i])
        column = j if column_names is None else brief(column_names[j])
        raise ValueError(
            f"{name} must have sums >= 0 for each row and column, and {len(negative):,} of {X.nnz:,} are negative, "
            f"such as {X.data[p]} in row {row}, column {column}: remove the entries "
            "below 0, such as cancelled orders, or the rows and columns with these sums"
        )


def _check_names(data: "Dataset", axis: int, shape: tuple[int, ...]) -> None:
    """Raise an error unless the names along an axis are a list with one name for each item; no `shape` is unknown."""
    item, name = ("row", "column")[axis], ("row_names", "column_names")[axis]
    names = getattr(data, name)
    if names is None:
        return
    if isinstance(names, Mapping) or hasattr(names, "get_feature_names_out"):
        raise TypeError(
            f"{name} must be a list of names, got a {type(names).__name__}: get_feature_names_out() of a "
            "CountVectorizer gives those of its columns"
        )
    ndim = 1 if isinstance(names, list | tuple) else np.ndim(names)
    if ndim != 1:
        given = f"shape {np.shape(names)}" if ndim else brief(names)
        raise (ValueError if ndim else TypeError)(f"{name} must be a list of names, got {given}")
    if len(shape) == 2 and len(names) != shape[axis]:
        other = ("column", "row")[axis]
        hint = f", which is the number of {other}s: give {other}_names=" if len(names) == shape[1 - axis] else ""
        raise ValueError(
            f"{name} must have one name for each of the {shape[axis]:,} {item}s of X, got {len(names):,}{hint}"
        )


def _number_ids(ids: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The number of each id, in the order of first occurrence, and the ids as text; `name` is that of the argument."""
    values = np.asarray(ids)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} must be a list of at least one id, got shape {values.shape}")
    value_numbers: dict[Any, int] = {}
    numbers = np.array([value_numbers.setdefault(value, len(value_numbers)) for value in values.tolist()])
    missing = np.array([not isinstance(v, str) and str(v) in ("None", "nan", "NaT", "<NA>") for v in value_numbers])
    if missing.any():
        lacking = missing[numbers]
        raise ValueError(
            f"{name} must have an id in each entry, and {lacking.sum():,} of {len(lacking):,} lack one (the first is "
            f"at position {lacking.argmax()}): remove these entries, for example by DataFrame.dropna"
        )
    text_numbers: dict[str, int] = {}  # 7, 7.0 and "7" are one id
    merged = np.array([text_numbers.setdefault(_id_text(value), len(text_numbers)) for value in value_numbers])
    return merged[numbers], np.array(list(text_numbers))


def _id_text(value: Any) -> str:
    """An id as text; whole numbers without a fraction, since pandas stores integers as floats if any is missing."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@shown_as_table
@dataclass(frozen=True, eq=False)
class Dataset:
    """Counts with names of their rows and columns, which `as_counts` and `fit` accept.

    ``data[rows]`` and ``data[rows, columns]`` select a part of the counts, with its names. `rows` and `columns` are
    slices, positions, names or arrays of bool. ``X, row_names, column_names = data`` unpacks it.

    Attributes
    ----------
    X : sparse array of shape (n_rows, n_columns)
    row_names, column_names : ndarray of str, or None

    Raises
    ------
    TypeError, ValueError
        If names are not a list of one name for each row or column.

    See Also
    --------
    fastpmf.io.read_counts : reads one from a file.
    fastpmf.datasets.load_stdlib : an example.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import PoissonNMF
    >>> from fastpmf.io import Dataset
    >>> counts = Dataset([[4, 0], [0, 3], [2, 1]], row_names=None, column_names=np.array(["ape", "bee"]))
    >>> PoissonNMF(2, random_state=0).fit(counts).feature_names_in_.tolist()
    ['ape', 'bee']
    >>> counts.shape, counts[1:, "bee"].X.toarray().tolist()
    ((3, 2), [[3], [1]])
    """

    X: Any
    row_names: np.ndarray | None = None
    column_names: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.row_names is None and self.column_names is None:
            return
        try:
            shape = () if isinstance(self.X, tuple) else np.shape(self.X)
        except ValueError:  # lists of unequal lengths, which `as_counts` reports
            shape = ()
        for axis in (0, 1):
            _check_names(self, axis, shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and columns."""
        return as_counts(self).shape if isinstance(self.X, tuple) else np.shape(self.X)

    def __iter__(self) -> Iterator[Any]:
        yield from (self.X, self.row_names, self.column_names)

    def __getitem__(self, key: Any) -> "Dataset":
        keys = [k for k in (key if isinstance(key, tuple) else (key,)) if k is not Ellipsis]
        if len(keys) > 2:
            raise ValueError(f"a Dataset has rows and columns, got {len(keys)} indices")
        if getattr(self.X, "unobserved", None) is not None:
            raise ValueError("rows and columns must be selected before entries are masked")
        X = self.X if sparse.issparse(self.X) else as_counts(self).to_scipy()
        X, names = X if X.format in ("csr", "csc") else X.tocsr(), [self.row_names, self.column_names]
        for axis, key_of_axis in enumerate(keys):
            chosen = _chosen(key_of_axis, X.shape[axis], ("rows", "columns")[axis], names[axis])
            X = X[chosen] if axis == 0 else X[:, chosen]
            own = names[axis]
            names[axis] = None if own is None else np.asarray(own)[chosen]
        return Dataset(X, *names)

    @classmethod
    def from_entries(cls, rows: Any, columns: Any, counts: Any = None) -> "Dataset":
        """Counts of a table with a line for each entry, such as a DataFrame of purchases.

        Parameters
        ----------
        rows, columns : array-like of shape (m,)
            Ids of the row and of the column of each entry, such as users and items. Ids become names, as text, in the
            order of their first occurrence; 7 and 7.0 become "7".
        counts : array-like of shape (m,), optional
            By default each line counts 1. The counts of lines with equal ids are summed; the sums must be >= 0.

        Returns
        -------
        Dataset

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or shape, an id is missing, or a sum is negative or not finite.

        See Also
        --------
        fastpmf.io.read_counts : The same for a file.

        Examples
        --------
        >>> from fastpmf.io import Dataset
        >>> data = Dataset.from_entries(["ada", "bob", "ada"], ["tea", "tea", "jam"], [2, 1, 1])
        >>> data.X.toarray().tolist(), data.row_names.tolist(), data.column_names.tolist()
        ([[2, 1], [1, 0]], ['ada', 'bob'], ['tea', 'jam'])
        """
        (i, row_names), (j, column_names) = _number_ids(rows, "rows"), _number_ids(columns, "columns")
        values = np.ones(len(i), np.int64) if counts is None else check_array(counts, "counts")
        if not i.shape == j.shape == values.shape:
            raise ValueError(
                f"rows, columns and counts must have equal lengths, got shapes {i.shape}, {j.shape} and {values.shape}"
            )
        shape = len(row_names), len(column_names)
        X = sparse.coo_array((values.astype(sum_dtype(values.dtype)), (i, j)), shape=shape).tocsr()
        check_sums(X, row_names, column_names, "counts")
        return cls(as_counts(X, name="counts").to_scipy(), row_names, column_names)

    def aligned(self, names: Any) -> "Alignment":
        """These counts with the columns in the order of `names`, such as the feature names of a fitted model.

        Parameters
        ----------
        names : array-like of str, of length p

        Returns
        -------
        Alignment

        Raises
        ------
        TypeError, ValueError
            As in `as_counts`; or if the columns have no names, or a name occurs twice.

        Examples
        --------
        >>> import numpy as np
        >>> from fastpmf import PoissonNMF
        >>> from fastpmf.io import Dataset
        >>> data = Dataset([[4, 2, 2], [2, 1, 1]], None, ["a", "b", "c"])
        >>> model = PoissonNMF(1, random_state=0).fit(data)
        >>> found = Dataset([[2, 4]], None, ["c", "a"]).aligned(model.feature_names_in_)
        >>> found.data.X.toarray().tolist(), found.missing  # b was not observed
        ([[4, 0, 2]], array([False,  True, False]))
        >>> (model.transform(found.data, mask=found.mask) / model.transform(data)[0]).round(6)
        array([[1.]], dtype=float32)
        """
        if self.column_names is None:
            raise ValueError("column_names must not be None for columns to be aligned with names")
        target, own = (np.asarray(A).astype(str) for A in (names, self.column_names))
        check_unique(target, "names of the model (the argument names)", "fit counts with names made unique")
        check_unique(own, "names of the new counts (column_names)")
        position = {name: j for j, name in enumerate(target.tolist())}
        new_column = np.array([position.get(name, -1) for name in own.tolist()], np.int64)
        X = as_counts(self).side(Side.ROWS)
        X = replace(X, indices=new_column[X.indices]).select_entries(new_column[X.indices] >= 0)
        moved = sparse.csr_array((X.data, X.indices, X.indptr), shape=(X.shape[0], len(target)))
        missing = ~np.isin(target, own)
        return Alignment(Dataset(moved, self.row_names, target), int((new_column < 0).sum()), missing)

    def _table(self) -> Table:
        shape, dtype = self.shape, getattr(self.X, "dtype", None)
        title = "Dataset of " + " x ".join(f"{n:,}" for n in shape) + " counts"
        facts = {} if dtype is None else {"dtype": str(dtype)}
        if hasattr(self.X, "nnz"):
            facts["nonzeros"] = f"{self.X.nnz:,} ({self.X.nnz / max(math.prod(shape), 1):.2%})"
        for kind, names in (("row names", self.row_names), ("column names", self.column_names)):
            shown = "none" if names is None else ", ".join(map(short_name, names[:5]))
            facts[kind] = shown + ", …" * (names is not None and len(names) > 5)
        return Table(title, facts=facts)


def _chosen(key: Any, size: int, name: str, names: np.ndarray | None) -> np.ndarray:
    """Positions of the rows or columns (`name`) that an index of a `Dataset` selects."""
    if isinstance(key, slice):
        return np.arange(size)[key]
    array = np.atleast_1d(key)
    if array.dtype == bool:
        if array.shape != (size,):
            raise ValueError(f"{name} as booleans must have shape ({size},), got {array.shape}")
        return np.flatnonzero(array)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a slice, a position, a name or a list of these, got shape {array.shape}")
    if array.dtype.kind in "iu":
        return positions(np.where(array < 0, array + size, array), size, name)
    return positions(array, size, name, None if names is None else np.asarray(names).astype(str))


class Alignment(NamedTuple):
    """Counts with their columns aligned with given names, from `Dataset.aligned`.

    Attributes
    ----------
    data : Dataset
        Columns of other names are left out; columns of `missing` names are empty.
    left_out : int
        Number of columns that were left out.
    missing : ndarray of bool of shape (p,)
        True for the names that no column has. These features were not observed: pass `mask` along, or their zeros are
        taken as counts of 0.

    See Also
    --------
    fastpmf.io.Dataset : counts with names.

    Examples
    --------
    >>> from fastpmf.io import Dataset
    >>> found = Dataset([[1, 2], [0, 3]], None, ["ape", "bee"]).aligned(["bee", "cat"])
    >>> found.left_out, found.missing
    (1, array([False,  True]))
    """

    data: Dataset
    left_out: int
    missing: np.ndarray

    @property
    def mask(self) -> sparse.csr_array | None:
        """The entries that were not observed, for `fit`, `transform` and `score`; None if all were.

        It stores n entries for each missing feature.
        """
        if not self.missing.any():
            return None
        n, columns = self.data.X.shape[0], np.flatnonzero(self.missing)
        k = len(columns)
        data, indices, indptr = np.ones(n * k, bool), np.tile(columns, n), np.arange(n + 1) * k
        return sparse.csr_array((data, indices, indptr), shape=(n, len(self.missing)))
