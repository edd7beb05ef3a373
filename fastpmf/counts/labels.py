"""Labels of rows and columns, and the alignment of arguments such as masks and exposures with a matrix of counts.

Labels are the index and columns of a pandas object, the columns of another data frame, and the names of a `Dataset`.
A default index (0, 1, 2, ...) does not count as labels. If both sides have labels, the argument is aligned by them;
otherwise it is taken by position.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.validation import Dataset
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.validation import duplicates, is_pandas
from fastpmf.utils.warnings import warn


class Labels(NamedTuple):
    """The labels of one axis.

    Attributes
    ----------
    values : ndarray of shape (n,), or None
        None if the axis has no labels.
    is_default : bool
        Whether they are pandas' default index, the numbers from 0 on.
    source : str
        Name of the object that has these labels, for messages.
    item : str
        Name of what is labelled, such as "row", for messages.
    """

    values: np.ndarray | None
    is_default: bool = False
    source: str = "X"
    item: str = "row"

    @property
    def names(self) -> np.ndarray | None:
        """The labels, (n,); None if there are none other than a default index."""
        return None if self.is_default else self.values


class MatrixLabels(NamedTuple):
    """The labels of the rows and the columns of a matrix of counts."""

    rows: Labels
    columns: Labels

    @classmethod
    def of(cls, X: Any, feature_names: Any = None) -> Self:
        """Labels of X; if its columns have none, they are `feature_names`, the names that a model was fitted with."""
        rows, columns = labels_of(X, 0), labels_of(X, 1)._replace(item="column")
        if columns.names is None and feature_names is not None:
            columns = Labels(np.asarray(feature_names), source="the fitted model", item="feature")
        return cls(rows, columns)


def labels_of(A: Any, axis: int) -> Labels:
    """The labels that A has along an axis."""
    values: Any = None
    is_default = False
    if isinstance(A, Dataset):
        values = A.row_names if axis == 0 else A.column_names
    elif is_pandas(A):
        values = A.index if axis == 0 else getattr(A, "columns", None)
        is_default = type(values).__name__ == "RangeIndex" and (values.start, values.step) == (0, 1)
    elif hasattr(A, "components_"):  # a fitted estimator in place of H
        values = getattr(A, "feature_names_in_" if axis == 1 else "component_names_", None)
    elif axis == 1 and hasattr(A, "__dataframe__"):  # other data frames have no index
        values = np.array(list(A.columns), dtype=object)
    return Labels(None if values is None else np.asarray(values), is_default)


def names_of(A: Any, axis: int) -> np.ndarray | None:
    """The labels along an axis as an array of objects if all of them are strings; else None."""
    values = labels_of(A, axis).values
    if values is None or not all(isinstance(label, str) for label in values.tolist()):
        return None
    return values.astype(object)


def align(A: Any, name: str, *, rows: Labels | None = None, columns: Labels | None = None) -> Any:
    """A, the value of the argument `name`, with its rows and columns in the order of these labels.

    A itself is returned if nothing changes. If both sides have labels, a ValueError is raised if A lacks one of them or
    the labels of either side are not unique.
    """
    for axis, target in ((0, rows), (1, columns)):
        if A is None or target is None:
            continue
        if (order := order_of(labels_of(A, axis), target, name)) is not None:
            A = _reorder(A, order, axis)
    return A


def order_of(own: Labels, target: Labels, name: str) -> np.ndarray | None:
    """Positions of the labels of the target among those of the argument `name`; None if its order does not change."""
    if own.values is None or target.values is None:
        return None
    own_values, target_values = own.values.tolist(), target.values.tolist()
    if own_values == target_values:
        return None
    if own.is_default or target.is_default:  # by position, unless the same integers may be meant as labels
        integers = own.values.dtype.kind in "iu" and target.values.dtype.kind in "iu"
        if integers and np.array_equal(np.sort(own.values), np.sort(target.values)):
            raise ValueError(
                f"{name} has the same {target.item} numbers as {target.source} in another order: sort both by them to "
                f"align them, or give {name} as an array to go by position"
            )
        return None
    for values, source in ((own_values, name), (target_values, target.source)):
        if repeated := duplicates(values):
            raise ValueError(
                f"{name} can't be aligned with the {target.item}s of {target.source} by label: {source} has "
                f"{listed(repeated, 1)} more than once; make the labels unique, or give {name} as an array, in the "
                f"order of {target.source}"
            )
    position = {label: i for i, label in enumerate(own_values)}
    if missing := [label for label in target_values if label not in position]:
        raise ValueError(
            f"{name} must have a label for each {target.item} of {target.source}, and lacks {listed(missing, 1)} of "
            f"{len(target_values)}; to go by position, give it as an array without labels"
        )
    return np.array([position[label] for label in target_values], np.intp)


def _reorder(A: Any, order: np.ndarray, axis: int) -> Any:
    """The rows (axis 0) or columns (axis 1) of A at these positions."""
    if isinstance(A, Dataset):
        X = sparse.csr_array(A.X.to_scipy() if isinstance(A.X, MemoryCounts) else A.X)
        names = [A.row_names, A.column_names]
        own = names[axis]
        names[axis] = None if own is None else np.asarray(own)[order]
        return Dataset(X[order] if axis == 0 else X[:, order], *names)
    if is_pandas(A):
        return A.iloc[order] if axis == 0 else A.iloc[:, order]
    B = np.asarray(getattr(A, "components_", A))
    return B[order] if axis == 0 else B[:, order]


def align_components(parts: Sequence[tuple[Any, str, int]]) -> list[Any]:
    """Factors, given as (factor, name, axis of the components), with components in the order of the first with labels.

    Factors whose labels have none in common with these are taken by position.
    """
    first, aligned = Labels(None), []
    for A, name, axis in parts:
        own = None if A is None else labels_of(A, axis).names
        if own is not None:
            if first.values is None:
                first = Labels(own, source=name, item="component")
            elif set(own.tolist()) & set(first.values.tolist()):
                A = align(A, name, **{"rows" if axis == 0 else "columns": first})
        aligned.append(A)
    return aligned


def align_factors(X: Any, W: Any, H: Any) -> tuple[Any, Any]:
    """W and H, either of which may be None, aligned with the rows and columns of X and with each other."""
    labels = MatrixLabels.of(X)
    W, H = align(W, "W", rows=labels.rows), align(H, "H", columns=labels.columns)
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    return W, H


def warn_of_duplicates(names: np.ndarray | None, source: str = "X") -> None:
    """Warn of names of features that occur more than once; `source` is the counts that have them, for the message."""
    if names is not None and (repeated := duplicates(names.tolist())):
        warn(
            f"{source} has {len(repeated)} feature name(s) more than once, for example {brief(repeated[0])}: new "
            "counts can't be aligned with a model by them; make them unique by adata.var_names_make_unique(), or use "
            "ids as names (feature_names='id' for 10x Genomics, --column-names on the command line)"
        )
