"""The rows of several matrices of counts, put together."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from fastpmf.counts import Dataset, as_counts
from fastpmf.utils.messages import listed
from fastpmf.utils.validation import check_option

JOINS = ("same", "outer", "inner")


def concatenate_counts(datasets: Sequence[Any], *, join: str = "same", labels: Sequence[str] | None = None) -> Dataset:
    """Put the rows of several matrices of counts together, with their columns matched by name.

    Parameters
    ----------
    datasets : sequence of Dataset or matrix of counts
        At least one. Columns without names are matched by position.
    join : {"same", "outer", "inner"}, default="same"
        "same": all have the same columns, in any order; the result has the order of the first. "outer": the result has
        all columns, with counts of 0 where a dataset lacks one. "inner": it has the columns that all datasets have.
        "outer" and "inner" need names.
    labels : sequence of str, optional
        What error messages call the datasets, such as their files; by default "datasets[0]" and so on.

    Returns
    -------
    Dataset
        Of CSR counts. It has row names if all datasets have them; a name that several datasets have is repeated.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or columns do not match.

    See Also
    --------
    fastpmf.io.read_counts : reads counts from a file.
    fastpmf.io.Dataset : counts with names.

    Examples
    --------
    >>> from fastpmf.io import Dataset, concatenate_counts
    >>> january = Dataset([[2, 1]], ["ada"], ["tea", "jam"])
    >>> february = Dataset([[4, 3]], ["bob"], ["rye", "tea"])
    >>> data = concatenate_counts([january, february], join="outer")
    >>> data.X.toarray().tolist(), data.column_names.tolist()
    ([[2, 1, 0], [3, 0, 4]], ['tea', 'jam', 'rye'])
    """
    check_option(join, JOINS, "join")
    if not len(datasets):
        raise ValueError("datasets must hold at least one matrix of counts, got none")
    labels = [f"datasets[{i}]" for i in range(len(datasets))] if labels is None else labels
    if len(labels) != len(datasets):
        raise ValueError(f"labels must have one label for each of the {len(datasets)} datasets, got {len(labels)}")
    parts = [A if isinstance(A, Dataset) else Dataset(A) for A in datasets]
    parts = [replace(A, X=as_counts(A, name=label)) for A, label in zip(parts, labels, strict=True)]
    names = _column_names(parts, join, labels)
    if names is not None:
        parts = [A.aligned(names).data if _names_differ(A, names) else A for A in parts]
    matrices = [as_counts(A).to_scipy() for A in parts]
    row_names = [A.row_names for A in parts if A.row_names is not None]
    return Dataset(
        sparse.csr_array(sparse.vstack(matrices, format="csr")),
        np.concatenate([np.asarray(A).astype(str) for A in row_names]) if len(row_names) == len(parts) else None,
        names,
    )


def _names_differ(data: Dataset, names: np.ndarray) -> bool:
    return data.column_names is not None and not np.array_equal(np.asarray(data.column_names).astype(str), names)


def _column_names(parts: list[Dataset], join: str, labels: Sequence[str]) -> np.ndarray | None:
    """The columns of the result; None if no dataset has names."""
    own = [None if A.column_names is None else np.asarray(A.column_names).astype(str) for A in parts]
    if join != "same":
        if nameless := [label for label, names in zip(labels, own, strict=True) if names is None]:
            raise ValueError(f"join={join!r} needs column names, and {nameless[0]} has none")
        known = dict.fromkeys(name for names in own if names is not None for name in names.tolist())
        if join == "inner":
            shared = set(known).intersection(*(names.tolist() for names in own if names is not None))
            known = {name: None for name in known if name in shared}
        if not known:
            raise ValueError(f"{labels[0]} and {', '.join(labels[1:])} have no column in common")
        return np.array(list(known))
    for A, label in zip(parts[1:], labels[1:], strict=True):
        if A.X.shape[1] != parts[0].X.shape[1]:
            advice = "; join='outer' or 'inner' matches columns by name" if own[0] is not None else ""
            raise ValueError(
                f"{label} must have the columns of {labels[0]}, got {A.X.shape[1]} instead of "
                f"{parts[0].X.shape[1]}{advice}"
            )
    first, names = next(((label, n) for label, n in zip(labels, own, strict=True) if n is not None), ("", None))
    if names is None:
        return None
    for label, other in zip(labels, own, strict=True):
        if other is not None and (lacks := set(names.tolist()) - set(other.tolist())):
            raise ValueError(
                f"{label} must have the columns of {first}, and lacks {listed(sorted(lacks), 1)}; join='outer' or "
                "'inner' matches other columns too"
            )
    return names
