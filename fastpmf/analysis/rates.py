"""Factors of the rates of a fitted model, with its exposures, background and effects of groups.

The rates of a `PoissonNMF` are r_i c_j (W_i . H_j + b_j), with exposures r of rows and c of columns and a background b.
They are W' H' with one more component for the background, so that functions of W and H apply to them. With effects of
G groups of rows, r_i c_j e_gj (W_i . H_j + b_j), they are those of G times as many components: a row uses those of its
group.
"""

from typing import Any, NamedTuple

import numpy as np

from fastpmf.counts.labels import Labels, MatrixLabels, align_factors, labels_of, order_of
from fastpmf.fitting.problem import check_group_labels
from fastpmf.utils.messages import listed
from fastpmf.utils.validation import check_array, check_factor
from fastpmf.utils.warnings import warn


def check_no_groups(model: Any, name: str = "H", advice: str = "") -> None:
    """Raise an error if a fitted estimator has effects of groups; `name` is the argument's name."""
    effects = getattr(model, "group_effects_", None)
    if effects is not None:
        advice = advice or "give W and H of model.rate_factors(W, groups=...)"
        raise ValueError(
            f"{name} must not be a model with groups, whose rates depend on the group of each row, got a "
            f"{type(model).__name__} with {len(effects)}: {advice}"
        )


def check_groups_given(model: Any, groups: Any, name: str = "groups") -> None:
    """Raise an error unless groups of rows are given just where a fitted estimator has effects of groups.

    `name` is the argument's name, for messages.
    """
    fitted = getattr(model, "group_effects_", None) is not None
    if fitted and groups is None:
        raise ValueError(f"{name} must be given, since the model was fitted with groups")
    if not fitted and groups is not None:
        raise ValueError(f"{name} must be None, since the model was fitted without groups")


class RowEffects(NamedTuple):
    """Effects of the groups of some rows, in a fitted model.

    Attributes
    ----------
    names : ndarray of shape (n_groups,)
        Labels of the groups of these rows, sorted.
    group : ndarray of shape (n,), int64
        The group of each row.
    effects : ndarray of shape (n_groups, p), float64
        1 for groups that were not fitted.
    new : ndarray of shape (n_groups,), bool
        Which groups were not fitted.
    """

    names: np.ndarray
    group: np.ndarray
    effects: np.ndarray
    new: np.ndarray

    @classmethod
    def of(cls, model: Any, labels: np.ndarray) -> "RowEffects":
        """The effects of the groups with these labels, see `check_group_labels`."""
        fitted_labels = model.group_names_
        if (labels.dtype.kind == "U") != (fitted_labels.dtype.kind == "U"):
            kinds = ["strings" if A.dtype.kind == "U" else "numbers" for A in (fitted_labels, labels)]
            raise TypeError(f"groups must be all {kinds[0]}, as in the fit, got {kinds[1]}")
        names, group = np.unique(labels, return_inverse=True)
        fitted = dict(zip(model.group_names_.tolist(), model.group_effects_, strict=True))
        one = np.ones(model.components_.shape[1])
        effects = np.array([fitted.get(name, one) for name in names.tolist()]).reshape(len(names), len(one))
        new = np.array([name not in fitted for name in names.tolist()], bool)
        return cls(names, group.astype(np.int64), effects, new)

    @classmethod
    def given(cls, model: Any, groups: Any, n: int) -> "RowEffects":
        """The effects of the groups of n rows, whose labels are the argument `groups`; warn of new ones."""
        found = cls.of(model, check_group_labels(groups, n))
        found.warn_of_new()
        return found

    def warn_of_new(self) -> None:
        """Warn of groups that were not fitted, if there are any."""
        if self.new.any():
            warn(
                f"groups has {listed(self.names[self.new].tolist())}, which the model was not fitted with: their "
                "effects are taken as 1, and not estimated (with_new_groups estimates them)"
            )


def column_data(H: Any, columns: Labels | None = None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Column exposures and background, (p,), of a fitted estimator in place of H; None where it has none.

    They are in the order of the labels `columns`, if both sides have labels.

    Raises
    ------
    ValueError
        If the estimator has effects of groups.
    """
    check_no_groups(H)
    return column_data_of_groups(H, columns)


def column_data_of_groups(H: Any, columns: Labels | None = None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`column_data` of an estimator with or without effects of groups, which are not part of it."""
    found = [getattr(H, name, None) for name in ("column_exposure_", "background_")]
    if found[0] is None and found[1] is None:
        return None, None
    order = None if columns is None else order_of(labels_of(H, 1), columns, "H")
    values = (None if A is None else np.broadcast_to(A, H.components_.shape[1]) for A in found)
    exposure, background = (A if A is None or order is None else A[order] for A in values)
    return exposure, background


def rate_factors(
    W: np.ndarray, H: np.ndarray, column_exposure: np.ndarray | None = None, background: np.ndarray | None = None,
    row_exposure: Any = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """W' and H', whose product has the rates r_i c_j (W_i . H_j + b_j); W and H themselves if there are no r, c and b.

    Parameters
    ----------
    W : ndarray of shape (n, k)
    H : ndarray of shape (k, p)
    column_exposure, background : ndarray of shape (p,), or None
    row_exposure : float or ndarray of shape (n,), or None

    Returns
    -------
    W : ndarray of shape (n, k) or (n, k + 1)
    H : ndarray of shape (k, p) or (k + 1, p)
        The last component is the background, if there is one.
    """
    if background is not None:
        W, H = np.column_stack([W, np.ones(len(W), W.dtype)]), np.vstack([H, background])
    if column_exposure is not None:
        H = H * column_exposure
    return W if row_exposure is None else W * np.reshape(row_exposure, (-1, 1)), H


def with_effects(W: np.ndarray, H: np.ndarray, group: np.ndarray, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """W' and H' with the rates effects_gj (W_i . H_j), where g is the group of row i.

    Parameters
    ----------
    W : ndarray of shape (n, k)
    H : ndarray of shape (k, p)
    group : ndarray of shape (n,), int
    effects : ndarray of shape (n_groups, p)

    Returns
    -------
    W : ndarray of shape (n, n_groups k)
        Zero outside the k columns of the group of each row.
    H : ndarray of shape (n_groups k, p)
    """
    (n, k), n_groups = W.shape, len(effects)
    wide = np.zeros((n, n_groups, k), W.dtype)
    wide[np.arange(n), group] = W
    return wide.reshape(n, n_groups * k), (effects[:, None] * H).reshape(n_groups * k, H.shape[1])


def model_rates(model: Any, W: np.ndarray, row_exposure: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """`rate_factors` of a fitted model without groups and W of some rows."""
    return rate_factors(W, model.components_, *column_data(model), row_exposure)


def align_rates(X: Any, W: Any, H: Any) -> tuple[Any, Any]:
    """W and H aligned as by `align_factors`; if H is a fitted estimator, with its column exposures and background."""
    exposure, background = column_data(H, MatrixLabels.of(X).columns)
    W, H = align_factors(X, W, H)
    if exposure is None and background is None:
        return W, H
    H, W = check_array(H, "H"), check_array(W, "W")
    return rate_factors(check_factor(W, (len(np.atleast_1d(W)), len(H)), "W"), H, exposure, background)
