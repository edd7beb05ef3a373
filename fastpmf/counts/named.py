"""Counts with the names of their rows and columns."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from fastpmf.utils.messages import brief, listed


def share_not_whole(counts: np.ndarray) -> float:
    """What share of the counts are no whole numbers, as none is of those that were counted."""
    return np.count_nonzero(counts != np.floor(counts)) / max(len(counts), 1) if counts.dtype.kind == "f" else 0.0


def duplicates(names: Iterable[Any]) -> list[Any]:
    """The names that occur more than once, in the order of their first occurrences."""
    return [name for name, n in Counter(names).items() if n > 1]


def check_unique(names: np.ndarray, name: str) -> None:
    """Raise a ValueError if names that something is aligned by occur more than once; `name` is what it calls them."""
    if repeated := duplicates(names.tolist()):
        raise ValueError(f"{name} must be unique to be aligned by, got {brief(repeated[0])} more than once")


def check_names(names: Any, n: int, name: str, thing: str) -> np.ndarray:
    """Names of n things as an array of str, (n,); by default (None) their numbers.

    Raises
    ------
    ValueError
        If there is not one name for each thing.
    """
    found = np.arange(n).astype(str) if names is None else np.atleast_1d(names).astype(str)
    if found.shape != (n,):
        raise ValueError(f"{name} must be {n}, one for each {thing}, got shape {found.shape}")
    return found


def positions(chosen: Any, size: int, name: str, known: Any = None) -> np.ndarray:
    """Numbers of rows or columns that are given by number or by name.

    Parameters
    ----------
    chosen : int, str or array-like of either
        Numbers from 0 to size - 1, or names. If the names in `known` are integers, integers are names.
    size : int
        Number of rows or columns.
    name : str
        Name of the argument, for error messages.
    known : array-like of str or int, of length size, optional
        Names of the rows or columns; by default they have none.

    Returns
    -------
    ndarray of int64
        Of the shape of `chosen`.

    Raises
    ------
    TypeError
        If `chosen` holds neither integers nor strings.
    ValueError
        If a number is negative or too large, or a name is unknown or not unique.
    """
    try:
        given = np.asarray(chosen)
    except ValueError:
        raise ValueError(f"{name} must be an array, got a {type(chosen).__name__} of unequal lengths") from None
    names = None if known is None else np.asarray(known)
    numbered = names is None or names.dtype.kind not in "iu"
    if (given.dtype.kind in "iu" and numbered) or not given.size:
        if given.size and not 0 <= given.min() <= given.max() < size:
            raise ValueError(f"{name} must lie in 0 ... {size - 1}, got {given.min()} to {given.max()}")
        return given.astype(np.int64)
    wanted = given.ravel().tolist()
    if numbered and not all(isinstance(each, str) for each in wanted):
        raise TypeError(f"{name} must hold integers or names, got dtype {given.dtype}")
    if names is None:
        raise ValueError(f"{name} must hold integers where there are no names, got {wanted[0]!r}")
    labels = (names.astype(str) if numbered else names).tolist()
    place = dict(zip(labels, range(size), strict=True))
    if absent := [each for each in wanted if each not in place]:
        raise ValueError(f"{name} must hold known names, got {listed(absent, 1)}")
    if len(place) < size and (ambiguous := set(wanted) & set(duplicates(labels))):
        raise ValueError(f"{name} must hold names that occur once, but {brief(min(ambiguous))} occurs more than once")
    return np.array([place[each] for each in wanted], np.int64).reshape(given.shape)


class Dataset(NamedTuple):
    """Counts and what their rows and columns are called; `as_counts` and `fit` take it as it is.

    Attributes
    ----------
    X : sparse array of shape (n_rows, n_columns)
    row_names, column_names : ndarray of str, or None where they have none
    """

    X: Any
    row_names: np.ndarray | None = None
    column_names: np.ndarray | None = None

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
        array([[1.]])
        """
        from fastpmf.counts.validation import as_counts  # which takes a Dataset

        if self.column_names is None:
            raise ValueError("column_names must not be None for columns to be aligned with names")
        wanted, own = (np.asarray(A).astype(str) for A in (names, self.column_names))
        for A, name in ((wanted, "names"), (own, "column_names")):
            check_unique(A, name)
        place = {name: j for j, name in enumerate(wanted.tolist())}
        at = np.array([place.get(name, -1) for name in own.tolist()], np.int64)
        X = as_counts(self).to_scipy().tocsr()
        columns = at[X.indices]
        kept = columns >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])[X.indptr]
        moved = sparse.csr_array((X.data[kept], columns[kept], ends), shape=(X.shape[0], len(wanted)))
        missing = np.ones(len(wanted), bool)
        missing[at[at >= 0]] = False
        return Alignment(Dataset(moved, self.row_names, wanted), int((at < 0).sum()), missing)


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
        n, j = self.data.X.shape[0], np.flatnonzero(self.missing)
        ends = np.arange(n + 1) * len(j)
        return sparse.csr_array((np.ones(n * len(j), bool), np.tile(j, n), ends), shape=(n, len(self.missing)))
