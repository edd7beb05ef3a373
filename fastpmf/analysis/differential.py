"""Grade-of-membership differential expression: how a feature's rate in one component differs from that in others.

W is fixed and scaled so that the rows of H are probabilities. Each feature j is then a Poisson regression of its own,

    x_ij ~ Poisson(mu_ij)        mu_ij = sum_k m_j W_ik g_jk,    m_j the feature's share of all counts

and the log fold change of component k against l is theta_jk - theta_jl with theta = log g. For each component e counts
at the mean rate are added, `pseudocount`: a prior with log density e (theta - exp theta), under which no g is zero and
the mode is unique. Write p_i for the vector of m_j W_ik g_jk / mu_ij, the components' shares of a rate. The estimating
equations, which the mode solves, and their derivative in theta at the mode are

    sum_i s_i + e (1 - g) = 0,    s_i = (x_i - mu_i) p_i        A = sum_i x_i p_i p_i' + e I

A is the observed information, to which zeros contribute nothing. If counts are Poisson, its inverse is the covariance
of theta: the "model" errors. Most counts vary more than that. The "robust" covariance is computed from the scores s_i
as they are (White, theorem 3.2), each corrected for its leverage h_i (MacKinnon and White, HC3):

    A^-1 (B + e I) A^-1        B = sum_i s_i s_i' / (1 - h_i)^2,    h_i = x_i p_i' A^-1 p_i

Without row i, one Newton step in g from the mode changes g by -A^-1 s_i / (1 - h_i) relative to g. So the sum over
rows is a jackknife, and a feature whose counts come from a single row has a large error. e I is the variance of the
added counts' score: a component without counts of a feature remains as uncertain as the prior says. A zero has leverage
0 and score -mu_i p_i. Zeros enter B by the sum over all rows minus that over nonzeros,

    sum_{x_i = 0} s_i s_i' = m_j^2 g g' * (W' W - sum_{x_i > 0} W_i W_i')        with the elementwise product *

The references are those of `differential_expression`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from threadpoolctl import threadpool_limits

from fastpmf.analysis.features import TopFeatures
from fastpmf.analysis.shrinkage import shrink as shrunk
from fastpmf.core.counts import Side
from fastpmf.core.factors import component_sums
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import MatrixLabels, align, align_factors
from fastpmf.fitting.problem import Known, Penalties, vector
from fastpmf.fitting.ranges import check_entries
from fastpmf.fitting.transform import transform
from fastpmf.kernels.threads import threads
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_array, check_factor, check_names, check_number, check_option
from fastpmf.utils.warnings import warn

_BLOCK = 1 << 20  # entries of the covariance matrices that are in memory at once
_MAX_ROUNDS, _GAP = 1000, 1e-9  # of the regressions; nats per count, far below any standard error
_LARGE = 1e5  # information over pseudocount above which an inverse of their sum is too inexact
_MIN_SHARE = 1e-50  # of all counts, that a feature may have: the smallest valid exposure
_MIN_PSEUDOCOUNT = 1e-10  # far below it, rates of components without counts would round to 0
_STANDARD_ERRORS = ("robust", "model")


class Differential(NamedTuple):
    """Log fold changes of each feature in each component, with standard errors.

    Attributes
    ----------
    log2_fold_change : ndarray of shape (k, p), float64
        0 where nothing is known: features without counts, components without mass.
    standard_error : ndarray of shape (k, p), float64
        In the same unit; infinite where nothing is known.
    against : ndarray of shape (k, p), int64
        The component that it is compared with; -1 for the mean over all counts.
    false_sign_rate : ndarray of shape (k, p), float64, or None
        Probability that the sign is wrong or that there is no change; None without shrinkage.
    names : ndarray of shape (p,), str, or None
        Names of the features.
    """

    log2_fold_change: np.ndarray
    standard_error: np.ndarray
    against: np.ndarray
    false_sign_rate: np.ndarray | None
    names: np.ndarray | None

    @property
    def z_score(self) -> np.ndarray:
        """Log fold changes divided by their standard errors, (k, p); 0 where nothing is known."""
        error = self.standard_error
        return np.divide(self.log2_fold_change, error, out=np.zeros_like(error), where=np.isfinite(error) & (error > 0))

    def lower_bound(self, z: float | None = None) -> np.ndarray:
        """The lower end of an interval around each log fold change: log2_fold_change - z standard_error.

        Parameters
        ----------
        z : float, optional
            Number of standard errors, >= 0. By default 2, the lower end of a 95 % interval, and 0 after shrinkage:
            posterior means already account for the errors.

        Returns
        -------
        ndarray of shape (k, p)
            -inf where nothing is known.
        """
        if z is None:
            z = 2.0 if self.false_sign_rate is None else 0.0
        check_number(z, "z")
        known = np.isfinite(self.standard_error)
        return np.where(known, self.log2_fold_change - z * np.where(known, self.standard_error, 0.0), -np.inf)

    def top(self, n: int = 10, *, z: float | None = None) -> TopFeatures:
        """The n features of each component whose rates are increased most, ordered by `lower_bound`.

        Prefer this to the order of z scores. A z score says how certain it is that there is any change, so that
        abundant features with a small change come before markers.

        Parameters
        ----------
        n : int, default=10
        z : float, optional
            As in `lower_bound`.

        Returns
        -------
        TopFeatures
            The scores are lower bounds; where they are negative, there is no evidence of an increase. Features whose
            change is not known are left out, and so is a component's comparison with itself.
        """
        check_scalar(n, "n", (int, np.integer), min_val=1)
        bound = np.where(self.standard_error > 0, self.lower_bound(z), -np.inf)
        first = np.argsort(-bound, axis=1, kind="stable")[:, :n]
        found = np.take_along_axis(bound, first, axis=1)
        there = found > -np.inf
        names = check_names(self.names, bound.shape[1], "names", "feature")
        return TopFeatures(
            np.where(there, first, -1), np.where(there, found, np.nan), np.where(there, names[first], "")
        )


def differential_expression(
    X: Any,
    W: Any,
    H: Any,
    *,
    against: str | int = "others",
    pseudocount: float = 1.0,
    standard_errors: str = "robust",
    shrink: bool = False,
    row_exposure: Any = None,
    names: Any = None,
    n_threads: int | None = None,
) -> Differential:
    """Log2 fold changes of each feature's rate in each component, with standard errors.

    Parameters
    ----------
    X : matrix of counts of shape (n, p)
        The counts that were fitted.
    W : array-like of shape (n, k)
        As fitted. It is taken as known.
    H : array-like of shape (k, p)
        Only its row sums are used, for the scale of W: the rates of each feature are fitted again, with W fixed.
    against : {"others", "mean"} or int, default="others"
        "others": the other component whose rate is nearest (the least extreme log fold change). So each other
        component's rate differs by at least this factor, but not necessarily in the same direction: of a feature with
        rates 1, 8 and 128, the second component has a change of +3, although the third has more. "mean": the feature's
        share of all counts. An int: that component.
    pseudocount : float, default=1.0
        Counts at the feature's mean rate that are added to each component, at least 1e-10. Where a component has no
        counts of a feature, the error of its log rate is 1 / sqrt(pseudocount), in nats: a value far below 1 says
        nothing about features that only other components have.
    standard_errors : {"robust", "model"}, default="robust"
        "robust": from how much the counts of the rows vary around their rates, a sandwich estimate (HC3). "model":
        from the observed information, valid only if counts vary as Poisson counts do. Where they vary more, as in most
        data, model errors are too small.
    shrink : bool, default=False
        Shrink each component's changes by adaptive shrinkage: changes and errors are then posterior means and standard
        deviations, and `false_sign_rate` is computed.
    row_exposure : float or array-like of shape (n,), optional
        The exposures that were given to the fit.
    names : array-like of str, of length p, optional
    n_threads : int or None, default=None

    Returns
    -------
    Differential

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Notes
    -----
    The cost is that of a `transform` of the transposed counts plus O(k^2) per nonzero and O(k^3) per feature. Memory
    beyond X and its transpose: a float64 copy of W, at most four more arrays of that size while one feature is worked
    on, four arrays of shape (k, p), and 8 MiB of covariance matrices (one matrix of shape (k, k) if that is larger).

    Errors do not include the uncertainty of W, and robust ones take the rows to be independent.

    Rank features by `Differential.top`, not by the z score.

    References
    ----------
    P. Carbonetto, K. Luo, A. Sarkar, A. Hung, K. Tayeb, S. Pott and M. Stephens, "GoM DE: interpreting structure in
    sequence count data with differential expression analysis allowing for grades of membership", Genome Biology 24
    (2023). Its errors come from sampling the posterior under the Poisson model.
    H. White, "Maximum likelihood estimation of misspecified models", Econometrica 50 (1982), theorem 3.2.
    J. G. MacKinnon and H. White, "Some heteroskedasticity-consistent covariance matrix estimators with improved finite
    sample properties", Journal of Econometrics 29 (1985).

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import differential_expression
    >>> rng = np.random.default_rng(0)
    >>> H = np.array([[0.4, 0.1, 0.5], [0.05, 0.1, 0.85]])
    >>> W = np.repeat(np.eye(2), 50, axis=0) * 10
    >>> found = differential_expression(rng.poisson(W @ H), W, H, names=["ape", "bee", "cat"])
    >>> found.log2_fold_change.round(1)
    array([[ 2.8,  0.2, -0.6],
           [-2.8, -0.2,  0.6]])
    >>> found.standard_error.round(2)
    array([[0.25, 0.25, 0.12],
           [0.25, 0.25, 0.12]])
    >>> found.top(1).names.tolist()
    [['ape'], ['cat']]
    """
    labels = MatrixLabels.of(X)
    W, H = align_factors(X, W, H)
    row_exposure = align(row_exposure, "row_exposure", rows=labels.rows)
    names = labels.columns.names if names is None else names
    H = check_array(H, "H")
    H = check_factor(H, H.shape if H.ndim == 2 else (0, 0), "H")
    counts, (k, p) = as_counts(X, n_threads=n_threads), H.shape
    if counts.shape[1] != p:
        raise ValueError(f"X must have {p} columns, as H has, got {counts.shape[1]}")
    W = check_factor(check_array(W, "W"), (counts.shape[0], k), "W").astype(np.float64)
    check_number(pseudocount, "pseudocount")
    check_scalar(pseudocount, "pseudocount", (int, float, np.number), min_val=_MIN_PSEUDOCOUNT)
    check_option(standard_errors, _STANDARD_ERRORS, "standard_errors")
    if row_exposure is not None:
        row_exposure = vector(row_exposure, len(W), "row_exposure")
    if names is not None:
        names = check_names(names, p, "names", "feature")
    with np.errstate(under="ignore"):  # rounding to 0 is harmless in all that follows
        W *= component_sums(W, H)[1]
        if row_exposure is not None:
            W *= row_exposure[:, None]
        check_entries(W, W.dtype, "W, times the row sums of H and row_exposure,")
        alive = W.any(axis=0)
        _check_against(against, alive)
        change, error, other = _changes(
            counts, W, alive, against, float(pseudocount), standard_errors == "robust", n_threads
        )
        if not shrink:
            return Differential(change, error, other, None, names)
        mean, deviation, wrong = (np.array(x) for x in zip(*map(_shrunk, change, error), strict=True))
        return Differential(mean, deviation, other, wrong, names)


def _changes(
    counts: MemoryCounts, W: np.ndarray, alive: np.ndarray, against: str | int, e: float, robust: bool,
    n_threads: int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Log2 fold changes, their standard errors and the components they are against, each (k, p)."""
    n_features, k = counts.shape[1], W.shape[1]
    change, error, other = np.zeros((k, n_features)), np.full((k, n_features), np.inf), np.full((k, n_features), -1)
    sums = counts.sums(Side.COLUMNS)
    seen = np.flatnonzero(sums)
    if not len(seen) or not alive.any():
        return change, error, other
    if (smallest := sums[seen].min() / counts.total) < _MIN_SHARE:
        raise ValueError(
            f"X must have no feature with less than {_MIN_SHARE:g} of all counts but more than 0, got {smallest:g}"
        )
    step = max(1, _BLOCK // k**2)
    # BLAS gets one thread: the matrices are small, and the order of its sums depends on the number of threads
    with threads(n_threads), threadpool_limits(1, "blas"):
        g, covariances_of = _regressions(counts, W, e, robust)
        for columns in np.array_split(seen, -(-len(seen) // step)):
            contrasts = _contrasts(np.log(g[columns]), covariances_of(columns), alive, against)
            change[:, columns], error[:, columns], other[:, columns] = (x.T for x in contrasts)
    change /= np.log(2)
    error /= np.log(2)
    return change, error, other


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


def _regressions(
    counts: MemoryCounts, W: np.ndarray, e: float, robust: bool
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """g of each feature, (p, k), and a function that computes covariances of log g for some of them, (m, k, k)."""
    sums = counts.sums(Side.COLUMNS)
    transposed = MemoryCounts(counts.side(Side.COLUMNS), counts.side(Side.ROWS))
    # Features without counts have no mean, and their result is not used
    mean = np.where(sums > 0, sums / counts.total, 1.0)
    g, gap = transform(
        transposed, np.ascontiguousarray(W.T), max_iter=_MAX_ROUNDS, tol=_GAP, penalties=Penalties(prior_W=(1 + e, e)),
        known=Known(row_exposure=mean), warn_unconverged=False,
    )  # fmt: skip
    if late := int((gap[sums > 0] > _GAP * (sums[sums > 0] + e * W.shape[1])).sum()):
        warn(
            f"the regressions of {late} feature(s) stopped before they converged: their changes are inexact. W or X "
            "may differ too much in scale between rows or components",
            ConvergenceWarning,
        )
    columns = counts.side(Side.COLUMNS)
    w_sum = W.sum(axis=0)
    relative = np.divide(W, w_sum, out=np.zeros_like(W), where=w_sum > 0)
    gram = relative.T @ relative

    def covariances_of(features: np.ndarray) -> np.ndarray:
        out = np.empty((len(features), W.shape[1], W.shape[1]))
        for a, j in enumerate(features):
            stored = slice(columns.indptr[j], columns.indptr[j + 1])
            x = columns.data[stored].astype(np.float64)
            shares = W[columns.indices[stored]]
            rate = shares @ g[j]
            rate[rate == 0] = 1  # no component has any rate there: the shares are 0, and the count is left out
            shares *= g[j]
            shares /= rate[:, None]
            covariance, bread = _inverse((shares * x[:, None]).T @ shares, e)
            if robust:
                total = mean[j] * g[j] * w_sum
                spread = _spread(x, mean[j] * rate, shares, np.outer(total, total) * gram, bread, e)
                covariance = spread + e * covariance @ covariance
            out[a] = covariance
        return out

    return g, covariances_of


def _inverse(information: np.ndarray, e: float) -> tuple[np.ndarray, np.ndarray]:
    """(information + e I)^-1, and the same without the directions in which the information is 0 but for rounding."""
    if np.trace(information) < _LARGE * e:  # rounding errors are far below e
        inverse = np.linalg.inv(information + e * np.eye(len(information)))
        return inverse, inverse
    values, vectors = np.linalg.eigh(information)
    values[values < len(values) * np.finfo(float).eps * values[-1]] = 0
    scaled = vectors / (values + e)
    return scaled @ vectors.T, scaled * (values > 0) @ vectors.T


def _spread(
    x: np.ndarray, mu: np.ndarray, shares: np.ndarray, all_as_zeros: np.ndarray, bread: np.ndarray, e: float
) -> np.ndarray:
    """The covariance that the scores of one feature's rows imply, (k, k): see the head of this file.

    x, mu and shares are those of the nonzeros; `all_as_zeros` is the sum of s_i s_i' if all rows were zeros.
    """
    moves = shares @ bread
    leverage = x * np.einsum("ik,ik->i", moves, shares)
    # 1 - leverage is at least this, but may round to 0
    remaining = np.maximum(1 - leverage, e / (e + x * np.einsum("ik,ik->i", shares, shares)))
    as_zeros = moves * mu[:, None]
    moves *= ((x - mu) / remaining)[:, None]
    return bread @ all_as_zeros @ bread - as_zeros.T @ as_zeros + moves.T @ moves


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
