"""Grade-of-membership differential expression: how a feature's rate in one component differs from that in others.

With W fixed and scaled so that the rows of H are probabilities, each feature j is a Poisson regression of its own,

    x_ij ~ Poisson(sum_k W_ik f_jk)        f_jk = m_j g_jk,    m_j the feature's share of all counts

and the log fold change of component k against l is log f_jk - log f_jl = log g_jk - log g_jl. For each component e
counts at the mean rate are added, `pseudocount`, which is a Gamma(1 + e, e) prior on g_jk: none is zero then, and the
mode is unique. In theta = log g minus the log posterior has at its mode the second derivatives

    M_kl = g_jk g_jl sum_i x_ij W_ik W_il / (W_i . g_j)^2  +  e [k = l]

the observed Fisher information: only nonzeros enter. M^-1 is the covariance of theta, and each contrast's error comes
of it.

References
----------
P. Carbonetto, K. Luo, A. Sarkar, A. Hung, K. Tayeb, S. Pott and M. Stephens, "GoM DE: interpreting structure in
sequence count data with differential expression analysis allowing for grades of membership", Genome Biology 24 (2023).
There the errors come of sampling; here of the information, as in a Wald test.
"""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_scalar

from fastpmf._messages import brief
from fastpmf.counts import MemoryCounts, Side, as_counts
from fastpmf.estimators._rows import transform
from fastpmf.estimators._shrinkage import shrink as shrunk
from fastpmf.estimators._statement import Known, Penalties
from fastpmf.kernels._jit import threads
from fastpmf.model.factors import check_array, check_factor, component_sums

_BLOCK = 1 << 20  # numbers of information matrices that are held at once
_MAX_ROUNDS, _GAP = 1000, 1e-9  # of the regressions; nats per count, far below any standard error
_LARGE = 1e12  # times the pseudocount: matrices whose inverse would lose it
_LEAST = 1e-50  # share of all counts that a regression is fitted with: what an exposure is at least


class Differential(NamedTuple):
    """Log fold changes of each feature in each component, and how sure they are.

    Attributes
    ----------
    log2_fold_change : ndarray of shape (k, p), float64
        0 where nothing is known: features without counts, components without mass.
    standard_error : ndarray of shape (k, p), float64
        In the same unit; infinite where nothing is known.
    against : ndarray of shape (k, p), int64
        Which component it is the change against; -1 where it is the mean over all counts.
    false_sign_rate : ndarray of shape (k, p), float64, or None
        Probability that the sign is wrong or that there is no change, where they were shrunk.
    names : ndarray of shape (p,), str, or None
        What the features are called.
    """

    log2_fold_change: np.ndarray
    standard_error: np.ndarray
    against: np.ndarray
    false_sign_rate: np.ndarray | None
    names: np.ndarray | None

    @property
    def z_score(self) -> np.ndarray:
        """Log fold changes over their standard errors, (k, p)."""
        error = self.standard_error
        return np.divide(self.log2_fold_change, error, out=np.zeros_like(error), where=np.isfinite(error) & (error > 0))


def differential_expression(
    W: Any,
    H: Any,
    X: Any,
    *,
    against: str | int = "others",
    pseudocount: float = 1.0,
    shrink: bool = False,
    row_exposure: Any = None,
    names: Any = None,
    n_threads: int | None = None,
) -> Differential:
    """Log2 fold changes of each feature's rate in each component, with standard errors.

    Parameters
    ----------
    W : array-like of shape (n, k)
        As fitted; it is taken as known.
    H : array-like of shape (k, p)
        Only its row sums are used, for the scale of W: the features' rates are fitted anew, each to its optimum.
    X : matrix of counts of shape (n, p)
        The counts that were fitted.
    against : {"others", "mean"} or int, default="others"
        "others": the component whose rate is nearest, so that a large change is one against all others (least extreme
        log fold change). "mean": the feature's share of all counts. A number: that component.
    pseudocount : float, default=1.0
        Counts at the feature's mean rate that are added to each component, > 0. Where a component has no count of a
        feature the error is 1 / sqrt(pseudocount), in nats: far below 1 it says nothing of what only others have.
    shrink : bool, default=False
        Shrink each component's changes by adaptive shrinkage: changes and errors are then posterior means and standard
        deviations, and `false_sign_rate` is known.
    row_exposure : array-like of shape (n,), optional
        What the fit was given.
    names : array-like of str, of length p, optional
    n_threads : int or None, default=None

    Returns
    -------
    Differential

    Raises
    ------
    TypeError, ValueError
        In one sentence that names the argument, what it got and what it wants.

    Notes
    -----
    Costs a `transform` of the transposed counts, and k^2 multiplications a nonzero. Errors take W for known: they are
    too small where W is uncertain.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import differential_expression
    >>> X = [[40, 10, 50], [5, 10, 85]]
    >>> found = differential_expression(np.eye(2), X, X)
    >>> found.log2_fold_change.round(1)
    array([[ 2.8,  0. , -0.8],
           [-2.8,  0. ,  0.8]])
    >>> found.z_score.round(1)
    array([[ 4.4,  0. , -3. ],
           [-4.4,  0. ,  3. ]])
    """
    H = check_array(H, "H")
    H = check_factor(H, H.shape if H.ndim == 2 else (0, 0), "H")
    counts, (k, p) = as_counts(X, n_threads=n_threads), H.shape
    if counts.shape[1] != p:
        raise ValueError(f"X must have {p} columns, as H has, got {counts.shape[1]}")
    W = check_factor(check_array(W, "W"), (counts.shape[0], k), "W").astype(np.float64)
    check_scalar(pseudocount, "pseudocount", (int, float, np.number), min_val=0, include_boundaries="neither")
    with np.errstate(under="ignore"):
        W = W * component_sums(W, H)[1]
    if row_exposure is not None:
        W *= check_factor(check_array(row_exposure, "row_exposure"), (len(W),), "row_exposure")[:, None]
    alive = W.any(axis=0)
    _check_against(against, alive)
    if names is not None:
        names = np.asarray(names).astype(str)
        if names.shape != (p,):
            raise ValueError(f"names must be {p}, one for each feature, got shape {names.shape}")
    change, error, other = np.zeros((p, k)), np.full((p, k), np.inf), np.full((p, k), -1)
    sums = counts.sums(Side.COLUMNS)
    seen = sums > 0
    if seen.any() and (least := sums[seen].min() / counts.total) < _LEAST:
        raise ValueError(
            f"X must have no feature with less than {_LEAST:g} of all counts but more than 0, got {least:g}"
        )
    if seen.any() and alive.any():
        with threads(n_threads):
            g, covariance_of = _regressions(counts, W, float(pseudocount))
        step = max(1, _BLOCK // k**2)
        for columns in np.array_split(np.flatnonzero(seen), -(-int(seen.sum()) // step)):
            contrasts = _contrasts(np.log(g[columns]), covariance_of(columns), alive, against)
            change[columns], error[columns], other[columns] = contrasts
    change, error, other = change.T / np.log(2), error.T / np.log(2), other.T
    if not shrink:
        return Differential(np.ascontiguousarray(change), np.ascontiguousarray(error), other, None, names)
    mean, deviation, wrong = (np.array(x) for x in zip(*map(_shrunk, change, error), strict=True))
    return Differential(mean, deviation, other, wrong, names)


def _check_against(against: str | int, alive: np.ndarray) -> None:
    if isinstance(against, bool) or not isinstance(against, str | int | np.integer):
        raise TypeError(f"against must be 'others', 'mean' or the number of a component, got {brief(against)}")
    if isinstance(against, str):
        if against not in ("others", "mean"):
            raise ValueError(f"against must be 'others', 'mean' or the number of a component, got {brief(against)}")
        if against == "others" and alive.sum() < 2:
            raise ValueError(f"against='others' wants at least two components with any mass, got {alive.sum()}")
    elif not 0 <= against < len(alive) or not alive[against]:
        raise ValueError(f"against must be a component with any mass, one of 0 to {len(alive) - 1}, got {against}")


def _regressions(counts: MemoryCounts, W: np.ndarray, e: float) -> tuple[np.ndarray, Any]:
    """g of each feature, (p, k), and a function that gives the covariances of log g for some of them, (m, k, k)."""
    sums = counts.sums(Side.COLUMNS)
    turned = MemoryCounts(counts.side(Side.COLUMNS), counts.side(Side.ROWS))
    # Features without counts have no mean; theirs is not looked at
    known = Known(row_exposure=np.where(sums > 0, sums / counts.total, 1.0))
    g, _ = transform(
        turned, np.ascontiguousarray(W.T), max_iter=_MAX_ROUNDS, tol=_GAP, penalties=Penalties(prior_W=(1 + e, e)),
        known=known,
    )  # fmt: skip
    columns = counts.side(Side.COLUMNS)

    def covariance_of(features: np.ndarray) -> np.ndarray:
        M = np.empty((len(features), W.shape[1], W.shape[1]))
        for a, j in enumerate(features):
            stored = slice(columns.indptr[j], columns.indptr[j + 1])
            parts = W[columns.indices[stored]] * g[j]  # of each count's rate, by component
            rate = parts.sum(axis=1, keepdims=True)
            # What no component can produce is left out, as in the fit
            parts = np.divide(parts, rate, where=rate > 0, out=np.zeros(parts.shape))
            parts *= np.sqrt(columns.data[stored].astype(np.float64))[:, None]
            M[a] = parts.T @ parts
        return _inverse(M, e)

    return g, covariance_of


def _inverse(M: np.ndarray, e: float) -> np.ndarray:
    """(M + e I)^-1 of positive semidefinite matrices, (m, k, k), of which M may be so large that e is lost in a sum."""
    out = np.empty_like(M)
    plain = np.trace(M, axis1=1, axis2=2) < _LARGE * e
    out[plain] = np.linalg.inv(M[plain] + e * np.eye(M.shape[1]))
    values, vectors = np.linalg.eigh(M[~plain])
    values[values < M.shape[1] * np.finfo(float).eps * values[:, -1:]] = 0  # rounding errors
    out[~plain] = (vectors / (values + e)[:, None, :]) @ vectors.transpose(0, 2, 1)
    return out


def _contrasts(
    theta: np.ndarray, covariance: np.ndarray, alive: np.ndarray, against: str | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Changes of theta, (m, k), their standard errors, and the components they are against."""
    m, k = theta.shape
    variance = np.einsum("mkk->mk", covariance)
    if against == "mean":
        other, change, error = np.full((m, k), -1), theta, np.sqrt(variance)
    else:
        if against == "others":
            distance = np.abs(theta[:, :, None] - theta[:, None, :])
            distance[:, ~np.outer(alive, alive) | np.eye(k, dtype=bool)] = np.inf
            other = distance.argmin(axis=2)
        else:
            other = np.full((m, k), int(against))
        at = np.arange(m)[:, None]
        change = theta - theta[at, other]
        twice = np.take_along_axis(covariance, other[:, :, None], axis=2)[:, :, 0]
        # A component against itself is no change, and known; rounding may leave a hair below zero
        error = np.sqrt(np.maximum(variance + variance[at, other] - 2 * twice, 0.0))
    change, error, other = (np.where(alive, x, nothing) for x, nothing in ((change, 0.0), (error, np.inf), (other, -1)))
    return change, error, other


def _shrunk(change: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A component's changes, shrunk; of what is not known, and of itself, there is nothing to shrink."""
    some = (error > 0) & np.isfinite(error)
    change, error, wrong = change.copy(), error.copy(), np.ones(len(change))
    if some.any():
        change[some], error[some], wrong[some] = shrunk(change[some], error[some])
    return change, error, wrong
