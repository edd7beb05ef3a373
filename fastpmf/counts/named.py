"""Counts with the names of their rows and columns."""

from typing import Any, NamedTuple

import numpy as np


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
