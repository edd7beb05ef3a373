"""Counts with the names of their rows and columns."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse


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
        names : array-like of str, of length p, all different

        Returns
        -------
        Dataset
            Columns that it lacked are empty; those of other names are left out.
        left_out : int
            How many these were.

        Raises
        ------
        ValueError
            The columns have no names.
        """
        if self.column_names is None:
            raise ValueError("column_names must be known for columns to be put in the order of names")
        wanted = np.asarray(names).astype(str)
        place = {name: j for j, name in enumerate(wanted.tolist())}
        at = np.array([place.get(name, -1) for name in np.asarray(self.column_names).astype(str).tolist()], np.int64)
        X = sparse.coo_array(self.X)
        i, j = X.coords
        kept = at[j] >= 0
        moved = sparse.coo_array((X.data[kept], (i[kept], at[j[kept]])), shape=(X.shape[0], len(wanted))).tocsr()
        return Dataset(moved, self.row_names, wanted), int((at < 0).sum())
