"""Reading of pandas data frames one column at a time, so that sparse columns stay sparse."""

from typing import Any

import numpy as np
from scipy import sparse

from fastpmf.counts.dtypes import check_dtype, objects_as_numbers
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import is_nullable, is_pandas


def is_frame(X: Any) -> bool:
    """Whether this is a pandas data frame."""
    return is_pandas(X) and X.ndim == 2


def has_extension_dtypes(frame: Any) -> bool:
    """Whether any column of a data frame has a dtype that is not NumPy's."""
    return not all(isinstance(dtype, np.dtype) for dtype in frame.dtypes)


def read_frame(frame: Any, name: str) -> sparse.csc_array:
    """The columns of a data frame as CSC, in a dtype that holds all of them; missing values become NaN.

    Raises
    ------
    TypeError, ValueError
        If a column does not hold real numbers.
    """
    columns = [_read_column(frame.iloc[:, j], name) for j in range(frame.shape[1])]
    ends = np.cumsum([0, *(len(rows) for rows, _ in columns)])
    rows, data = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    if data.dtype == np.float16:  # which scipy.sparse does not have
        data = data.astype(np.float32)
    return sparse.csc_array((data, rows, ends), shape=frame.shape)


def _read_column(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and values of the nonzero entries of a column."""
    values, named = column.array, f"{name}'s column {brief(column.name)}"
    if type(column.dtype).__name__ == "SparseDtype" and values.fill_value == 0:
        check_dtype(values.sp_values.dtype, named)
        return values.sp_index.to_int_index().indices, values.sp_values
    dense = column.to_numpy(np.float64, na_value=np.nan) if is_nullable(column) else np.asarray(values)
    dense = objects_as_numbers(dense, f"{named} must hold numbers")
    check_dtype(dense.dtype, named)
    rows = np.flatnonzero(dense)
    return rows, dense[rows]
