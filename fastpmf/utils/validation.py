"""Checks of arguments, with messages that name the argument, the value and what is expected."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_random_state, check_scalar

from fastpmf.utils.messages import brief


def check_option(value: Any, options: Iterable[str], name: str, *, none: bool = False) -> None:
    """Raise a ValueError unless the value is one of these strings, or None if `none` is true."""
    if value is None and none:
        return
    options = list(options)
    if not isinstance(value, str) or value not in options:
        or_none = " or None" if none else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}{or_none}, got {brief(value)}")


def check_number(value: Any, name: str, *, positive: bool = False) -> None:
    """Raise an error unless the value is a finite number >= 0, or > 0 if `positive` is true."""
    check_scalar(value, name, (int, float, np.number), min_val=0, include_boundaries="neither" if positive else "left")
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def is_pandas(A: Any) -> bool:
    """Whether this is a pandas Series or data frame; objects of Dask are not."""
    return hasattr(type(A), "iloc") and not hasattr(A, "__dask_graph__")


def is_nullable(A: Any) -> bool:
    """Whether this is a pandas object of real numbers with a dtype that is not NumPy's, such as Int64 with NA."""
    if not is_pandas(A):
        return False
    dtypes = [A.dtype] if A.ndim == 1 else list(A.dtypes)
    return all(dtype.kind in "biuf" for dtype in dtypes) and any(hasattr(dtype, "na_value") for dtype in dtypes)


def check_array(A: Any, name: str, holding: str = "real numbers") -> np.ndarray:
    """A dense array of real numbers, else a TypeError, or for ragged rows a ValueError, that says what it is."""
    if hasattr(A, "obsm"):  # an AnnData, which NumPy would take for a nest of sequences, at great length
        raise TypeError(f"{name} must be an array, got an {type(A).__name__} object: give one of its arrays")
    if sparse.issparse(A):
        raise TypeError(f"{name} must be a dense array, got a sparse {type(A).__name__}")
    try:
        A = A.to_numpy(np.float64, na_value=np.nan) if is_nullable(A) else np.asarray(A)
    except ValueError:
        raise ValueError(f"{name} must be an array, got a {type(A).__name__} of unequal lengths") from None
    if A.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold {holding}, got dtype {A.dtype}")
    return A


def not_finite(A: Any) -> str:
    """ "NaN" or "infinity", for messages about an array that is not finite."""
    return "NaN" if np.isnan(A).any() else "infinity"


def check_factor(A: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A factor given by a user: real, finite, non-negative and of `shape`, else one sentence that says what it is.

    Raises
    ------
    TypeError
        Not numbers.
    ValueError
        Wrong shape, negative, NaN or infinite entries.
    """
    A = check_array(A, name)
    if A.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(map(int, shape))}, got {A.shape}")
    if not np.isfinite(A).all():
        raise ValueError(f"{name} must be finite, got {not_finite(A)}")
    if (A < 0).any():
        raise ValueError(f"{name} must be non-negative, got a minimum of {A.min()}")
    return A


def check_matrix(A: Any, name: str) -> np.ndarray:
    """A factor of any shape with at least one row and one column; other errors as in `check_factor`."""
    A = check_array(A, name)
    if A.ndim != 2 or 0 in A.shape:
        raise ValueError(f"{name} must be a matrix with at least one row and one column, got shape {A.shape}")
    return check_factor(A, A.shape, name)


def check_factors(W: Any, H: Any) -> tuple[np.ndarray, np.ndarray]:
    """W and H as matrices of shape (n, k) and (k, p); errors as in `check_matrix`."""
    W, H = check_matrix(W, "W"), check_matrix(H, "H")
    if len(H) != W.shape[1]:
        raise ValueError(f"H must have {W.shape[1]} rows, as many as W has columns, got {len(H)}")
    return W, H


def check_sized(A: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """An array that comes from a file, as kernels, which read by bare pointers, have to find it."""
    if A.shape != shape or A.dtype != dtype:
        raise ValueError(f"{name} of {A.dtype} and shape {A.shape}, which should be {dtype} and {shape}")
    return A


def random_generator(random_state: Any) -> Any:
    """A RandomState or Generator from None, a seed or either of them."""
    return random_state if isinstance(random_state, np.random.Generator) else check_random_state(random_state)
