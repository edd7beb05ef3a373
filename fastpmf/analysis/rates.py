"""Factors of the rates of a fitted model, with its exposures and background.

The rates of a `PoissonNMF` are r_i c_j (W_i . H_j + b_j), with exposures r of rows and c of columns and a background b.
They are W' H' with one more component for the background, so that functions of W and H apply to them.
"""

from typing import Any

import numpy as np

from fastpmf.counts.labels import Labels, MatrixLabels, align_factors, labels_of, order_of
from fastpmf.utils.validation import check_array, check_factor


def column_data(H: Any, columns: Labels | None = None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Column exposures and background, (p,), of a fitted estimator in place of H; None where it has none.

    They are in the order of the labels `columns`, if both sides have labels.
    """
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


def model_rates(model: Any, W: np.ndarray, row_exposure: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """`rate_factors` of a fitted model and W of some rows."""
    return rate_factors(W, model.components_, *column_data(model), row_exposure)


def align_rates(X: Any, W: Any, H: Any) -> tuple[Any, Any]:
    """W and H aligned as by `align_factors`; if H is a fitted estimator, with its column exposures and background."""
    exposure, background = column_data(H, MatrixLabels.of(X).columns)
    W, H = align_factors(X, W, H)
    if exposure is None and background is None:
        return W, H
    H, W = check_array(H, "H"), check_array(W, "W")
    return rate_factors(check_factor(W, (len(np.atleast_1d(W)), len(H)), "W"), H, exposure, background)
