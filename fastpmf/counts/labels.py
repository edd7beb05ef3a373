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
from fastpmf.counts.named import Dataset, duplicates
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.validation import is_pandas
from fastpmf.utils.warnings import warn


class Labels(NamedTuple):
    """The labels of one axis.

    Attributes
    ----------
    values : ndarray of shape (n,), or None
        None if the axis has no labels.
    numbered : bool
        Whether they are pandas' default index, the numbers from 0 on.
    owner : str
        Name of the object that has these labels, for messages.
    thing : str
        Name of what is labelled, such as "row", for messages.
    """

    values: np.ndarray | None
    numbered: bool = False
    owner: str = "X"
    thing: str = "row"

    @property
    def named(self) -> bool:
        """Whether there are labels, other than a default index."""
        return self.values is not None and not self.numbered

    @property
    def names(self) -> np.ndarray | None:
        """The labels, (n,); None if there are none other than a default index."""
        return self.values if self.named else None


class MatrixLabels(NamedTuple):
    """The labels of the rows and the columns of a matrix of counts."""

    rows: Labels
    columns: Labels

    @classmethod
    def of(cls, X: Any, feature_names: Any = None) -> Self:
        """Labels of X; if its columns have none, they are `feature_names`, the names that a model was fitted with."""
        rows, columns = labels_of(X, 0), labels_of(X, 1)._replace(thing="column")
        if not columns.named and feature_names is not None:
            columns = Labels(np.asarray(feature_names), owner="the fitted model", thing="feature")
        return cls(rows, columns)


def labels_of(A: Any, axis: int) -> Labels:
    """The labels that A has along an axis."""
    if isinstance(A, Dataset):
        names = A.row_names if axis == 0 else A.column_names
        return Labels(None if names is None else np.asarray(names))
    if is_pandas(A):
        index = A.index if axis == 0 else getattr(A, "columns", None)
        if index is None:
            return Labels(None)
        numbered = type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)
        return Labels(np.asarray(index), numbered)
    if axis == 1 and hasattr(A, "__dataframe__"):  # other data frames have no index
        return Labels(np.asarray(list(A.columns), dtype=object))
    return Labels(None)


def names_of(A: Any, axis: int) -> np.ndarray | None:
    """The labels along an axis as an array of objects if all of them are strings; else None."""
    values = labels_of(A, axis).values
    if values is None or not all(isinstance(label, str) for label in values.tolist()):
        return None
    return values.astype(object)


def align(A: Any, name: str, *, rows: Labels | None = None, columns: Labels | None = None) -> Any:
    """A with its rows and columns in the order of these labels; A itself if nothing changes.

    Parameters
    ----------
    A : array-like
        The value of the argument `name`.
    name : str
    rows, columns : Labels, optional
        The labels to align axis 0 and axis 1 with; None leaves an axis as it is.

    Raises
    ------
    ValueError
        If both sides have labels and A lacks one of them, or the labels of either side are not unique.
    """
    for axis, target in ((0, rows), (1, columns)):
        if A is None or target is None:
            continue
        if (order := order_of(labels_of(A, axis), target, name)) is not None:
            A = _take(A, order, axis)
    return A


def order_of(own: Labels, target: Labels, name: str) -> np.ndarray | None:
    """Positions of the target's labels among those of the argument `name`; None if it stays in its order.

    Raises
    ------
    ValueError
        As in `align`.
    """
    if own.values is None or target.values is None or _equal(own.values, target.values):
        return None
    if own.numbered or target.numbered:
        _check_not_permuted(own, target, name)
        return None
    return _order(own.values, target, name)


def align_components(parts: Sequence[tuple[Any, str, int]]) -> list[Any]:
    """Factors with their components in the order of the first factor that has labels of components.

    Factors whose labels have none in common with these are taken by position.

    Parameters
    ----------
    parts : sequence of (factor, name, axis)
        The axis is that of the components.
    """
    target, out = None, []
    for A, name, axis in parts:
        own = Labels(None) if A is None else labels_of(A, axis)
        if own.named:
            assert own.values is not None
            if target is None:
                target = own._replace(owner=name, thing="component")
            elif target.values is not None and set(own.values.tolist()) & set(target.values.tolist()):
                A = align(A, name, **{"rows" if axis == 0 else "columns": target})
        out.append(A)
    return out


def align_factors(X: Any, W: Any, H: Any) -> tuple[Any, Any]:
    """W and H, either of which may be None, aligned with the rows and columns of X and with each other."""
    labels = MatrixLabels.of(X)
    W, H = align(W, "W", rows=labels.rows), align(H, "H", columns=labels.columns)
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    return W, H


def warn_of_duplicates(names: np.ndarray | None) -> None:
    """Warn of names of features that occur more than once."""
    if names is not None and (repeated := duplicates(names.tolist())):
        warn(
            f"X has {len(repeated)} feature name(s) more than once, for example {brief(repeated[0])}: nothing can be "
            "aligned by them; make them unique"
        )


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return len(a) == len(b) and bool((a.astype(object) == b.astype(object)).all())


def _order(own: np.ndarray, target: Labels, name: str) -> np.ndarray:
    """The position in `own` of each of the target's labels."""
    assert target.values is not None
    for values, whose in ((own, name), (target.values, target.owner)):
        if repeated := duplicates(values.tolist()):
            raise ValueError(
                f"{name} can't be aligned with the {target.thing}s of {target.owner} by label: {whose} has "
                f"{listed(repeated, 1)} more than once; make the labels unique, or give {name} as an array, in the "
                f"order of {target.owner}"
            )
    place = {label: i for i, label in enumerate(own.tolist())}
    wanted = target.values.tolist()
    if missing := [label for label in wanted if label not in place]:
        raise ValueError(
            f"{name} must have a label for each {target.thing} of {target.owner}, and lacks {listed(missing, 1)} of "
            f"{len(wanted)}; to go by position, give it as an array without labels"
        )
    return np.array([place[label] for label in wanted], np.intp)


def _check_not_permuted(own: Labels, target: Labels, name: str) -> None:
    """Raise an error for the same numbers in another order, which may be meant as labels or as positions."""
    assert own.values is not None
    assert target.values is not None
    n = len(own.values)
    if (
        len(target.values) == n
        and own.values.dtype.kind in "iu"
        and target.values.dtype.kind in "iu"
        and np.array_equal(np.sort(own.values), np.sort(target.values))
    ):
        raise ValueError(
            f"{name} has the same {target.thing} numbers as {target.owner} in another order: sort both by them to "
            f"align them, or give {name} as an array to go by position"
        )


def _take(A: Any, order: np.ndarray, axis: int) -> Any:
    if isinstance(A, Dataset):
        X = A.X.to_scipy() if isinstance(A.X, MemoryCounts) else A.X
        X = sparse.csr_array(X)
        if axis == 0:
            return Dataset(X[order], None if A.row_names is None else np.asarray(A.row_names)[order], A.column_names)
        return Dataset(X[:, order], A.row_names, None if A.column_names is None else np.asarray(A.column_names)[order])
    if is_pandas(A):
        return A.iloc[order] if axis == 0 else A.iloc[:, order]
    return np.asarray(A)[:, order]
