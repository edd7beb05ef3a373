"""Counts with the names of their rows and columns."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse


def share_not_whole(counts: np.ndarray) -> float:
    """What share of the counts are no whole numbers, as none is of those that were counted."""
    return np.count_nonzero(counts != np.floor(counts)) / max(len(counts), 1) if counts.dtype.kind == "f" else 0.0


def printable(name: object) -> str:
    """A name from a file, or a text that has some in it, on one line and without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(name).splitlines()))


def positions(chosen: Any, size: int, name: str, known: Any = None) -> np.ndarray:
    """Numbers of rows or columns that are chosen by number or by name.

    Parameters
    ----------
    chosen : int, str or array-like of either
        Numbers from 0 to size - 1, or names. Where all names are integers, as in the index of a DataFrame, integers are
        names.
    size : int
        How many rows, or columns, there are.
    name : str
        What error messages call `chosen`.
    known : array-like of str or int, of length size, optional
        Their names; by default they have none.

    Returns
    -------
    ndarray of int64
        Of the shape of `chosen`.

    Raises
    ------
    TypeError
        If `chosen` holds neither integers nor strings.
    ValueError
        If a number is negative or too large, or a name is unknown, or known twice.
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
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(f"{name} must hold known names, got {absent[0]!r}{more}")
    if len(place) < size and (twice := sorted(set(wanted) & {each for each, n in Counter(labels).items() if n > 1})):
        raise ValueError(f"{name} must hold names that occur once, but {twice[0]!r} occurs more than once")
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
        """These counts with the columns of these names, in their order, as a model that was fitted to them wants it.

        Parameters
        ----------
        names : array-like of str, of length p

        Returns
        -------
        Alignment

        Raises
        ------
        TypeError, ValueError
            As `as_counts` raises them; or the columns have no names, or a name occurs twice, so that it is not clear
            which column it is.

        Examples
        --------
        >>> import numpy as np
        >>> from fastpmf import PoissonNMF
        >>> from fastpmf.io import Dataset
        >>> data = Dataset([[4, 2, 2], [2, 1, 1]], None, ["a", "b", "c"])
        >>> model = PoissonNMF(1, random_state=0).fit(data)
        >>> found = Dataset([[2, 4]], None, ["c", "a"]).aligned(model.feature_names_in_)
        >>> found.data.X.toarray().tolist(), found.missing  # b was not counted, which is no count of 0
        ([[4, 0, 2]], array([False,  True, False]))
        >>> (model.transform(found.data, mask=found.mask) / model.transform(data)[0]).round(6)
        array([[1.]])
        """
        from fastpmf.counts.door import as_counts  # which takes a Dataset

        if self.column_names is None:
            raise ValueError("column_names must be known for columns to be put in the order of names")
        wanted, own = (np.asarray(A).astype(str) for A in (names, self.column_names))
        for A, said in ((wanted, "names"), (own, "column_names")):
            found, often = np.unique(A, return_counts=True)
            if (often > 1).any():
                raise ValueError(
                    f"{said} must all be different to align by, and {str(found[often > 1][0])!r} is there twice"
                )
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
    """Counts with their columns put in the order of other names.

    Attributes
    ----------
    data : Dataset
        Columns of other names are left out; those of `missing` are empty.
    left_out : int
        How many columns were left out.
    missing : ndarray of bool of shape (p,)
        Names that no column has. These features were not observed: `mask` keeps them from being counted as zeros.
    """

    data: Dataset
    left_out: int
    missing: np.ndarray

    @property
    def mask(self) -> sparse.csr_array | None:
        """The entries that were not observed, for `fit`, `transform` and `score`; None if all were.

        It has n entries for each missing feature.
        """
        return mask_of_columns(self.missing, self.data.X.shape[0]) if self.missing.any() else None


def mask_of_columns(columns: np.ndarray, n_rows: int) -> sparse.csr_array:
    """A mask of whole columns, given as an array of bool."""
    j = np.flatnonzero(columns)
    ends = np.arange(n_rows + 1) * len(j)
    return sparse.csr_array((np.ones(n_rows * len(j), bool), np.tile(j, n_rows), ends), shape=(n_rows, len(columns)))
