"""Counts with the names of their rows and columns."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse


def share_not_whole(counts: np.ndarray) -> float:
    """What share of the counts are no whole numbers, as none is of those that were counted."""
    return np.count_nonzero(counts != np.floor(counts)) / max(len(counts), 1) if counts.dtype.kind == "f" else 0.0


def printable(name: object) -> str:
    """A name from a file, or a text that has some in it, on one line and without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(name).splitlines()))


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

    def aligned(self, names: Any) -> "tuple[Dataset, int]":
        """These counts with the columns of these names, in their order, as a model that was fitted to them wants it.

        Parameters
        ----------
        names : array-like of str, of length p

        Returns
        -------
        Dataset
            Columns that it lacked are empty; those of other names are left out.
        left_out : int
            How many these were.

        Raises
        ------
        ValueError
            The columns have no names, or a name stands twice, so that it is not clear which column it is.
        """
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
        X = sparse.coo_array(self.X)
        i, j = X.coords
        kept = at[j] >= 0
        moved = sparse.coo_array((X.data[kept], (i[kept], at[j[kept]])), shape=(X.shape[0], len(wanted))).tocsr()
        return Dataset(moved, self.row_names, wanted), int((at < 0).sum())
