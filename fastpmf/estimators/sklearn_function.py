"""`non_negative_factorization` with scikit-learn's signature."""

import math
from typing import Any

import numpy as np

from fastpmf.counts import as_counts
from fastpmf.counts.labels import align_factors, labels_of, warn_of_duplicates
from fastpmf.fitting.fit import poisson_nmf, report_end
from fastpmf.fitting.memory import check_memory_before_reading
from fastpmf.fitting.transform import producible
from fastpmf.solvers import SOLVERS, make_solver
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_factor, check_option
from fastpmf.utils.warnings import warn

_LOSSES = ("kullback-leibler", 1, 1.0)


def non_negative_factorization(
    X: Any,
    W: Any = None,
    H: Any = None,
    n_components: Any = "auto",
    *,
    init: str | None = None,
    update_H: bool = True,
    solver: str = "mu",
    beta_loss: Any = "kullback-leibler",
    tol: float = 1e-4,
    max_iter: int = 200,
    alpha_W: float = 0.0,
    alpha_H: Any = "same",
    l1_ratio: float = 0.0,
    random_state: Any = None,
    verbose: int = 0,
    shuffle: bool = False,
) -> tuple[np.ndarray, np.ndarray, int]:
    """`sklearn.decomposition.non_negative_factorization` for the Kullback-Leibler loss: same arguments and results.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads, including CSC; never written to.
    W : array-like of shape (n_samples, n_components), optional
        Start, with init="custom" and update_H=True; otherwise a RuntimeWarning says that it is not used.
    H : array-like of shape (n_components, n_features), optional
        Start, as W; with update_H=False the fixed H.
    n_components : int, "auto" or None, default="auto"
        "auto": the number in W or H if these are used, else n_features. None: n_features.
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom"} or None, default=None
        None: "nndsvda" if n_components is at most min(n_samples, n_features), else "random".
    update_H : bool, default=True
        False: H is fixed, and only W is estimated, from the same constant start as in scikit-learn.
    solver : {"mu", "auto", "cd", "em"}, default="mu"
        "mu" is scikit-learn's algorithm, see Notes; "auto" is coordinate descent, which reaches the same objective
        sooner.
    beta_loss : {"kullback-leibler", 1}, default="kullback-leibler"
        Other losses are not supported.
    tol : float, default=1e-4
        As in `PoissonNMF`: no other W with this H, nor any other H with this W, is better by more than this many nats
        per count. In scikit-learn it is compared with the relative decrease of the loss in ten iterations.
    max_iter : int, default=200
    alpha_W, alpha_H, l1_ratio
        Penalties, scaled as in scikit-learn.
    random_state : int, RandomState, Generator or None, default=None
    verbose : int, default=0
        Show progress if positive.
    shuffle : bool, default=False
        Ignored, as for these solvers in scikit-learn.

    Returns
    -------
    W : ndarray of shape (n_samples, n_components)
    H : ndarray of shape (n_components, n_features)
    n_iter : int

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    poisson_nmf : all options, and the result as one object.
    PoissonNMF : the estimator.

    Notes
    -----
    As in `PoissonNMF`, integer counts are factorised in float32, where scikit-learn uses float64; convert X to float64
    for factors in float64.

    From the same W and H, without penalties and in float64, solver="mu" has the same iterates as scikit-learn up to
    rounding, as long as no entry is below about 1e-12 of the counts of its row (of H: its column), for about 20
    iterations. Here smaller entries stay at that floor; in scikit-learn they shrink to exact zeros. The two may
    therefore end in different local optima.

    With penalties, each iteration also sets the relative scale of W and H, which leaves W H unchanged, to the one with
    the lowest penalties. Factors and rates then differ from scikit-learn's from the first iteration on. The objective
    is the same function.

    Examples
    --------
    >>> from fastpmf import non_negative_factorization
    >>> W, H, n_iter = non_negative_factorization([[4, 0, 2], [0, 3, 0], [2, 0, 1]], n_components=2, random_state=0)
    >>> (W @ H).round(2)
    array([[4., 0., 2.],
           [0., 3., 0.],
           [2., 0., 1.]], dtype=float32)
    """
    if not isinstance(beta_loss, str | int | float) or beta_loss not in _LOSSES:
        raise ValueError(f"beta_loss must be 'kullback-leibler' or 1, got {brief(beta_loss)}")
    check_option(solver, ("auto", *SOLVERS), "solver")
    if update_H and init != "custom" and not (W is None and H is None):
        warn(f"W and H are used with init='custom' only, got init={brief(init)}", RuntimeWarning)
    if not update_H and W is not None:
        warn("W is not used with update_H=False, which estimates W from X and H", RuntimeWarning)
    check_memory_before_reading(X, n_components, None, make_solver(solver, None if solver == "mu" else "auto"))
    warn_of_duplicates(labels_of(X, 1).values)
    W, H = align_factors(X, W, H)
    counts = as_counts(X)
    k = _components(counts.shape, W, H, n_components, init == "custom", update_H=update_H)
    common: dict[str, Any] = {
        "solver": solver, "acceleration": None if solver == "mu" else "auto", "tol": tol, "max_iter": max_iter,
        "alpha_W": alpha_W, "alpha_H": alpha_H, "l1_ratio": l1_ratio, "random_state": random_state,
        "verbose": bool(verbose),
    }  # fmt: skip
    if not update_H:
        if H is None:
            raise ValueError("H must be given with update_H=False")
        H = check_factor(H, (k, counts.shape[1]), "H")
        counts = producible(counts, H)  # the rate of the others is 0 for every W
        if counts.total == 0:
            raise ValueError("H must be positive somewhere where X has counts, so that some W can explain them")
        W = np.full((counts.shape[0], k), math.sqrt(counts.total / math.prod(counts.shape) / k))  # as in scikit-learn
        solution = poisson_nmf(counts, k, init="custom", W=W, H=np.ones(H.shape), fixed_H=H, **common)
    elif init == "custom":
        solution = poisson_nmf(counts, k, init=init, W=W, H=H, **common)
    else:
        init = init or ("nndsvda" if k <= min(counts.shape) else "random")
        solution = poisson_nmf(counts, k, init=init, **common)
    report_end(solution, tol)
    return solution.W, solution.H, solution.n_iter


def _components(shape: tuple[int, int], W: Any, H: Any, n_components: Any, custom: bool, *, update_H: bool) -> int:
    """The number of components that the arguments imply."""
    if n_components is None:
        return shape[1]
    if not isinstance(n_components, str):
        return n_components
    if n_components != "auto":
        raise ValueError(f"n_components must be an integer, 'auto' or None, got {brief(n_components)}")
    if H is not None and (custom or not update_H):
        return len(H)
    return np.shape(W)[1] if W is not None and custom else shape[1]
