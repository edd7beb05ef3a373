"""Checks of arguments, with messages that name the argument, the value and what is expected."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted

from fastpmf.utils.messages import brief, listed, suggestion

_MAX_SEARCHED = 1000  # values that are searched for a text, for a message


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


def check_share(value: Any, name: str) -> None:
    """Raise an error unless the value is a number between 0 and 1, both excluded."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise ValueError(f"{name} must be a number between 0 and 1, got {brief(value)}")


def random_generator(random_state: Any) -> Any:
    """A `numpy.random.Generator` unchanged, and any other random state as in scikit-learn, a `RandomState`."""
    return random_state if isinstance(random_state, np.random.Generator) else check_random_state(random_state)


def random_seed(rng: Any) -> int:
    """The next seed of a result of `random_generator`."""
    return int(rng.integers(2**31)) if isinstance(rng, np.random.Generator) else int(rng.randint(2**31 - 1))


def is_pandas(A: Any) -> bool:
    """Whether this is a pandas Series or DataFrame; objects of Dask are not."""
    return hasattr(type(A), "iloc") and not hasattr(A, "__dask_graph__")


def is_dataframe(A: Any) -> bool:
    """Whether this is a pandas DataFrame."""
    return is_pandas(A) and A.ndim == 2


def is_nullable(A: Any) -> bool:
    """Whether this is a pandas object of real numbers with a dtype that is not NumPy's, such as Int64 with NA."""
    if not is_pandas(A):
        return False
    dtypes = [A.dtype] if A.ndim == 1 else list(A.dtypes)
    return all(dtype.kind in "biuf" for dtype in dtypes) and any(hasattr(dtype, "na_value") for dtype in dtypes)


def check_array(A: Any, name: str, holding: str = "real numbers") -> np.ndarray:
    """A as a dense array of real numbers; an error if it is sparse, ragged or holds anything else.

    A fitted estimator stands for its `components_`.
    """
    if hasattr(A, "obsm"):  # NumPy would convert an AnnData object as a nested sequence, which is slow
        raise TypeError(f"{name} must be an array, got an {type(A).__name__} object: give one of its arrays")
    if hasattr(A, "fit") and hasattr(A, "transform"):
        check_is_fitted(A)
        if name in ("W", "fixed_W"):
            raise TypeError(
                f"{name} must be an array, got a fitted {type(A).__name__}: give the result of its fit_transform or "
                "transform"
            )
        A = getattr(A, "components_", A)
    if sparse.issparse(A):
        raise TypeError(f"{name} must be a dense array, got a sparse {type(A).__name__}")
    try:
        A = A.to_numpy(np.float64, na_value=np.nan) if is_nullable(A) else np.asarray(A)
    except ValueError:
        raise ValueError(f"{name} must be an array, got a {type(A).__name__} of unequal lengths") from None
    if A.dtype.kind not in "biuf":
        text = next((value for value in A.ravel()[:_MAX_SEARCHED].tolist() if isinstance(value, str)), None)
        got = f"dtype {A.dtype}" if text is None else f"text, such as {brief(text)}"
        raise TypeError(f"{name} must hold {holding}, got {got}")
    return A


def not_finite(A: Any) -> str:
    """ "NaN" or "infinity", for messages about an array that is not finite."""
    return "NaN" if np.isnan(A).any() else "infinity"


def check_factor(A: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A as a dense array if it has this shape and finite entries >= 0, else an error."""
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
    check_components(W, H)
    return W, H


def check_components(W: np.ndarray, H: np.ndarray) -> None:
    """Raise a ValueError unless W has as many columns as H has rows."""
    if len(H) != W.shape[1]:
        advice = ": give its transpose" if H.shape[1] == W.shape[1] else ""
        raise ValueError(f"H must have {W.shape[1]} rows, as many as W has columns, got {len(H)}{advice}")


def check_shape_dtype(A: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """A, an array from a file, if it has this shape and dtype; kernels do not check bounds. Else a ValueError."""
    if A.shape != shape or A.dtype != dtype:
        raise ValueError(f"{name} of {A.dtype} and shape {A.shape}, which should be {dtype} and {shape}")
    return A


def duplicates(names: Iterable[Any]) -> list[Any]:
    """The names that occur more than once, in the order of their first occurrences."""
    return [name for name, n in Counter(names).items() if n > 1]


def check_unique(names: np.ndarray, name: str, advice: str = "make them unique") -> None:
    """Raise a ValueError if any of these names of features occurs more than once; `name` says whose they are."""
    if repeated := duplicates(names.tolist()):
        raise ValueError(
            f"{name} must be unique to be aligned by, got {brief(repeated[0])} more than once: {advice} by "
            "adata.var_names_make_unique(), or use ids as names (feature_names='id' for 10x Genomics, --column-names "
            "on the command line)"
        )


def check_names(names: Any, n: int, name: str, item: str) -> np.ndarray:
    """Names of n items (such as "feature") as an array of str, (n,); by default (None) their numbers."""
    checked = np.arange(n).astype(str) if names is None else np.atleast_1d(names).astype(str)
    if checked.shape != (n,):
        raise ValueError(f"{name} must be {n}, one for each {item}, got shape {checked.shape}")
    return checked


def positions(chosen: Any, size: int, name: str, names: Any = None) -> np.ndarray:
    """Positions of the chosen rows or columns as an array of int64 in the shape of `chosen`.

    `chosen`, the value of the argument `name`, holds numbers from 0 to size - 1 or some of the `names`, which are an
    array-like of length `size` or None. If `names` holds integers, integers are names. If it holds text, an integer is
    a position, and an error if its text is the name of another position.
    """
    try:
        chosen_array = np.asarray(chosen)
    except ValueError:
        raise ValueError(f"{name} must be an array, got a {type(chosen).__name__} of unequal lengths") from None
    names = None if names is None else np.asarray(names)
    by_number = names is None or names.dtype.kind not in "iu"
    if (chosen_array.dtype.kind in "iu" and by_number) or not chosen_array.size:
        if names is not None and chosen_array.size:
            _check_unambiguous(chosen_array, names.astype(str).tolist(), name)
        if chosen_array.size and not 0 <= chosen_array.min() <= chosen_array.max() < size:
            raise ValueError(
                f"{name} must lie in 0 ... {size - 1}, got {chosen_array.min()} to {chosen_array.max()}"
            )  # fmt: skip
        return chosen_array.astype(np.int64)
    keys = chosen_array.ravel().tolist()
    if by_number and not all(isinstance(key, str) for key in keys):
        raise TypeError(f"{name} must hold integers or names, got dtype {chosen_array.dtype}")
    if names is None:
        raise ValueError(f"{name} must hold integers where there are no names, got {keys[0]!r}")
    labels = (names.astype(str) if by_number else names).tolist()
    position = dict(zip(labels, range(size), strict=True))
    if unknown := [key for key in keys if key not in position]:
        raise ValueError(f"{name} must hold known names, got {listed(unknown, 1)}{suggestion(str(unknown[0]), labels)}")
    if len(position) < size and (ambiguous := set(keys) & set(duplicates(labels))):
        raise ValueError(f"{name} must hold names that occur once, but {brief(min(ambiguous))} occurs more than once")
    return np.array([position[key] for key in keys], np.int64).reshape(chosen_array.shape)


def _check_unambiguous(numbers: np.ndarray, names: list[str], name: str) -> None:
    """Raise a ValueError if the text of any of the numbers is the name of another position."""
    others = {text for position, text in enumerate(names) if text != str(position)}
    for number in np.unique(numbers).tolist():
        if str(number) in others:
            at = f" or {brief(names[number])} for the position" if 0 <= number < len(names) else ""
            raise ValueError(
                f"{name} is ambiguous, got {number}, which is also the name of another position: give '{number}' for "
                f"the name{at}"
            )
