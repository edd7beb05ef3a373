"""Differential expression of a grade-of-membership model: how the rate of a feature differs between components.

W is fixed and scaled so that the rows of H are probabilities. Each feature j is then a separate Poisson regression,

    x_ij ~ Poisson(mu_ij)        mu_ij = sum_k m_j W_ik g_jk,    m_j the feature's share of all counts

and the log fold change of component k against l is theta_jk - theta_jl with theta = log g. The prior adds e counts at
the mean rate to each component (`pseudocount`). Its log density e (theta - exp theta) makes the mode unique and g
positive. Write p_i for the vector of m_j W_ik g_jk / mu_ij, the components' shares of a rate. The mode solves the
estimating equations, whose derivative in theta at the mode is -A,

    sum_i s_i + e (1 - g) = 0,    s_i = (x_i - mu_i) p_i        A = sum_i x_i p_i p_i' + e I

A is the observed information, to which zeros contribute nothing. If counts are Poisson, its inverse is the covariance
of theta: the "model" errors. Most counts vary more than that. The "robust" covariance is computed from the observed
scores s_i (White, theorem 3.2), each corrected for its leverage h_i (MacKinnon and White, HC3):

    A^-1 (B + e I) A^-1        B = sum_i s_i s_i' / (1 - h_i)^2,    h_i = x_i p_i' A^-1 p_i

Without row i, one Newton step in g from the mode changes g by -A^-1 s_i / (1 - h_i) relative to g. So the sum over
rows is a jackknife, and a feature whose counts come from a single row has a large error. e I is the variance of the
score of the added counts: a component without counts of a feature remains as uncertain as under the prior. A zero has
leverage 0 and score -mu_i p_i. Zeros enter B by the sum over all rows minus that over nonzeros,

    sum_{x_i = 0} s_i s_i' = m_j^2 g g' * (W' W - sum_{x_i > 0} W_i W_i')        with the elementwise product *

With effects c of groups of rows, which are known too, mu_ij = sum_k m_j c_g(i)j W_ik g_jk, and m_j the feature's counts
divided by sum_i c_g(i)j sum_k W_ik: its share of all counts of an average group. The effects cancel in the shares p_i,
and so in A. In the regression, m_j sum_i W_ik is replaced by m_j sum_g c_gj B_gk, with B_gk the sum of W_ik over the
rows of group g. With c_j the smallest effect of the feature, this is

    m_j c_j sum_i W_ik + r_jk,    r_jk = m_j sum_g (c_gj - c_j) B_gk >= 0

the regression without effects at a share of m_j c_j, with a prior whose rates are e + r_jk. In the sum over zeros, W'W
is replaced by sum_g c_gj^2 W_g'W_g with W_g the rows of group g, and W_i by c_g(i)j W_i.

Adaptive shrinkage then estimates the changes of a component jointly, by empirical Bayes (Stephens):

    estimate_j ~ Normal(effect_j, error_j^2)        effect_j ~ pi_0 [0] + sum_m pi_m Normal(0, s_m^2)

with a fixed grid of s_m, so that only the weights pi are fitted, a concave problem. Their Dirichlet(10, 1, ..., 1)
prior favours pi_0, which makes the result conservative.

See `differential_expression` for the references.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from threadpoolctl import threadpool_limits

from fastpmf.analysis.features import TopFeatures, component_labels, highest_scores
from fastpmf.analysis.rates import RowEffects, check_groups_given
from fastpmf.core.counts import Side
from fastpmf.core.factors import component_sums
from fastpmf.core.ranges import check_entries
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import MatrixLabels, align, align_factors, labels_of, order_of
from fastpmf.fitting.options import FitData, Penalties
from fastpmf.fitting.problem import vector
from fastpmf.fitting.transform import transform
from fastpmf.kernels.threads import threads
from fastpmf.utils.messages import brief
from fastpmf.utils.tables import Table, data_frame, shown_as_table, top_weighted
from fastpmf.utils.validation import check_factor, check_matrix, check_names, check_number, check_option
from fastpmf.utils.warnings import warn

_BLOCK = 1 << 20  # maximum number of entries of covariance matrices in memory
_MAX_ITER = 1000  # of the regressions and of the weights of the shrinkage prior
_TOL = 1e-9  # of the regressions, nats per count: far below any standard error
_WEIGHTS_TOL = 1e-7  # of the weights of the shrinkage prior, nats per estimate
_LARGE = 1e5  # ratio of information to pseudocount above which an inverse of their sum is too inexact
_MIN_SHARE = 1e-50  # smallest share of all counts that a feature with counts may have: the smallest valid exposure
_MIN_PSEUDOCOUNT = 1e-10  # for far smaller ones, the rates of components without counts would round to 0
_STANDARD_ERRORS = ("robust", "model")
_GRID_STEP = np.sqrt(2.0)  # ratio of neighbouring standard deviations of effects
_NULL_WEIGHT = 10.0  # parameter of pi_0 in the Dirichlet prior of the weights; 1 for the others


@shown_as_table
class Differential(NamedTuple):
    """Log fold changes of each feature in each component, with standard errors.

    Attributes
    ----------
    log2_fold_change : ndarray of shape (k, p), float64
        0 if undefined: for features without counts and components without mass.
    standard_error : ndarray of shape (k, p), float64
        Of `log2_fold_change`; infinite if undefined.
    against : ndarray of shape (k, p), int64
        The component that was compared with; -1 for the mean over all counts.
    false_sign_rate : ndarray of shape (k, p), float64, or None
        Probability that the sign is wrong or that there is no change; None without shrinkage.
    names : ndarray of shape (p,), str, or None
        Names of the features.
    component_names : ndarray of shape (k,), or None
        Names of the components, if they have any.

    See Also
    --------
    differential_expression : computes it.
    fastpmf.plot.differential : draws it as a volcano plot.

    Examples
    --------
    >>> from fastpmf import differential_expression
    >>> X, W, H = [[8, 1], [9, 2], [1, 9]], [[9, 0], [9, 0], [0, 9]], [[0.8, 0.2], [0.1, 0.9]]
    >>> found = differential_expression(X, W, H, names=["ape", "bee"])
    >>> found.log2_fold_change.round(1)
    array([[ 2.3, -2.2],
           [-2.3,  2.2]])
    >>> found.top(1).names.tolist()
    [['ape'], ['bee']]
    """

    log2_fold_change: np.ndarray
    standard_error: np.ndarray
    against: np.ndarray
    false_sign_rate: np.ndarray | None
    names: np.ndarray | None
    component_names: np.ndarray | None = None

    @property
    def z_score(self) -> np.ndarray:
        """Log fold changes divided by their standard errors, (k, p); 0 if undefined."""
        error = self.standard_error
        return np.divide(self.log2_fold_change, error, out=np.zeros_like(error), where=np.isfinite(error) & (error > 0))

    def lower_bound(self, z: float | None = None) -> np.ndarray:
        """Lower end of an interval around each log fold change: log2_fold_change - z standard_error.

        Parameters
        ----------
        z : float, optional
            Number of standard errors, >= 0. By default 2, the lower end of a 95 % interval, or 0 after shrinkage,
            since posterior means already account for the errors.

        Returns
        -------
        ndarray of shape (k, p)
            -inf if undefined.
        """
        if z is None:
            z = 2.0 if self.false_sign_rate is None else 0.0
        check_number(z, "z")
        known = np.isfinite(self.standard_error)
        return np.where(known, self.log2_fold_change - z * np.where(known, self.standard_error, 0.0), -np.inf)

    def top(self, n: int = 10, *, z: float | None = None) -> TopFeatures:
        """The n features of largest increase in each component, ordered by `lower_bound`.

        Prefer this to the order of z scores. A z score measures the evidence of any change, so that abundant features
        with a small change come before markers.

        Parameters
        ----------
        n : int, default=10
        z : float, optional
            As in `lower_bound`.

        Returns
        -------
        TopFeatures
            The scores are lower bounds; a negative one is no evidence of an increase. Undefined changes are left out,
            and so are those of a component against itself.
        """
        check_scalar(n, "n", (int, np.integer), min_val=1)
        bound = np.where(self.standard_error > 0, self.lower_bound(z), -np.inf)
        top = highest_scores(bound, n, check_names(self.names, bound.shape[1], "names", "feature"))
        return top._replace(component_names=self.component_names)

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each feature of each component.

        Its columns are component, feature (its name, or its number if features have no names), log2_fold_change,
        standard_error, z_score, against and, after shrinkage, false_sign_rate.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        k, p = self.log2_fold_change.shape
        features = np.arange(p) if self.names is None else self.names
        components = component_labels(self.component_names, k)
        columns = {
            "component": np.repeat(components, p), "feature": np.tile(features, k),
            "log2_fold_change": self.log2_fold_change.ravel(), "standard_error": self.standard_error.ravel(),
            "z_score": self.z_score.ravel(), "against": self.against.ravel(),
        }  # fmt: skip
        if self.false_sign_rate is not None:
            columns["false_sign_rate"] = self.false_sign_rate.ravel()
        return data_frame(columns)

    def _table(self) -> Table:
        k, p = self.log2_fold_change.shape
        top = self.top(5)
        features = top_weighted(top.names, top.scores, top.indices >= 0, 5)
        columns = {"component": top.components.tolist(), "features": features}
        title = f"Log2 fold changes of {p:,} features in {k} components: largest lower bounds"
        return Table(title, columns, n_rows=k)


def differential_expression(
    X: Any, W: Any, H: Any, *, against: str | int = "others", pseudocount: float = 1.0,
    standard_errors: str = "robust", shrink: bool = False, row_exposure: Any = None, groups: Any = None,
    names: Any = None, n_threads: int | None = None,
) -> Differential:  # fmt: skip
    """Log2 fold changes of each feature's rate in each component, with standard errors.

    Parameters
    ----------
    X : matrix of counts of shape (n, p)
        The fitted counts.
    W : array-like of shape (n, k)
        Fitted W; treated as known.
    H : array-like of shape (k, p) or fitted estimator
        Only its row sums are used, for the scale of W: the rates of each feature are fitted again, with W fixed.
    against : {"others", "mean"} or int, default="others"
        "others": the other component with the nearest rate, which gives the smallest log fold change in absolute value.
        The rates of all other components differ by at least this factor, but not necessarily in the same direction: of
        rates 1, 8 and 128, the second component has a change of +3, although the third has a higher rate. "mean": the
        feature's share of all counts. An int: that component.
    pseudocount : float, default=1.0
        Counts at the feature's mean rate that are added to each component, at least 1e-10. If a component has no
        counts of a feature, the error of its log rate is 1 / sqrt(pseudocount), in nats, so that values far below 1
        give features that only other components have very large errors.
    standard_errors : {"robust", "model"}, default="robust"
        "robust": a sandwich estimate (HC3) from the variation of the counts of the rows around their rates. "model":
        from the observed information, valid only for Poisson counts. Most data vary more than Poisson counts do; model
        errors are then too small.
    shrink : bool, default=False
        Whether to apply adaptive shrinkage to each component's changes: changes and errors are then posterior means and
        standard deviations, and `false_sign_rate` is computed.
    row_exposure : float or array-like of shape (n,), optional
        Row exposures of the fit.
    groups : array-like of shape (n,), optional
        Labels of the groups of the rows, if H is an estimator that was fitted with groups. Changes are then those of an
        average group: the effects, which are treated as known, are not attributed to components that are more frequent
        in some groups. Effects of groups that were not fitted are 1, with a warning.
    names : array-like of str, of length p, optional
        Names of the features; by default the column labels of X.
    n_threads : int or None, default=None
        Number of threads; None: all that the process may use. The result does not depend on it.

    Returns
    -------
    Differential

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    Differential : the result.
    top_features : features by weight, lift or exclusivity, without errors.
    fastpmf.plot.differential : volcano plot.

    Notes
    -----
    The cost is that of a `transform` of the transposed counts plus O(k^2) per nonzero, and per group of each feature,
    and O(k^3) per feature. Memory beyond X and its transpose: a float64 copy of W, up to four more arrays of that size
    for one feature at a time, four arrays of shape (k, p), and 8 MiB of covariance matrices (one matrix of shape (k, k)
    if that is larger).

    Errors do not include the uncertainty of W, and robust errors assume independent rows.

    Rank features by `Differential.top`, not by the z score.

    References
    ----------
    P. Carbonetto, K. Luo, A. Sarkar, A. Hung, K. Tayeb, S. Pott and M. Stephens, "GoM DE: interpreting structure in
    sequence count data with differential expression analysis allowing for grades of membership", Genome Biology 24
    (2023). Its errors come from sampling the posterior under the Poisson model.
    M. Stephens, "False discovery rates: a new deal", Biostatistics 18 (2017), sections 2 and 3.1, on shrinkage.
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
    check_groups_given(H, groups)
    model, labels, component_names = H, MatrixLabels.of(X), labels_of(H, 0).names
    W, H = align_factors(X, W, H)
    row_exposure, groups = (
        align(A, name, rows=labels.rows) for A, name in ((row_exposure, "row_exposure"), (groups, "groups"))
    )
    names = labels.columns.names if names is None else names
    H = check_matrix(H, "H")
    counts, (k, p) = as_counts(X, n_threads=n_threads), H.shape
    if counts.shape[1] != p:
        raise ValueError(f"X must have {p} columns, as H has, got {counts.shape[1]}")
    W = check_factor(W, (counts.shape[0], k), "W").astype(np.float64)
    check_number(pseudocount, "pseudocount")
    check_scalar(pseudocount, "pseudocount", (int, float, np.number), min_val=_MIN_PSEUDOCOUNT)
    check_option(standard_errors, _STANDARD_ERRORS, "standard_errors")
    if row_exposure is not None:
        row_exposure = vector(row_exposure, len(W), "row_exposure")
    if names is not None:
        names = check_names(names, p, "names", "feature")
    effects = None
    if groups is not None:
        effects = RowEffects.given(model, groups, len(W))
        if (order := order_of(labels_of(model, 1), labels.columns, "H")) is not None:
            effects = effects._replace(effects=effects.effects[:, order])
    with np.errstate(under="ignore"):  # rounding to 0 is harmless in all that follows
        W *= component_sums(W, H)[1]
        if row_exposure is not None:
            W *= row_exposure[:, None]
        check_entries(W, W.dtype, "W, times the row sums of H and row_exposure,")
        alive = W.any(axis=0)
        _check_against(against, alive)
        change, error, other = _changes(
            counts, W, effects, alive, against, float(pseudocount), standard_errors == "robust", n_threads
        )
        wrong = None
        if shrink:
            wrong = np.ones((k, p))
            for z, defined in enumerate((error > 0) & np.isfinite(error)):
                if defined.any():
                    posterior = adaptive_shrinkage(change[z, defined], error[z, defined])
                    change[z, defined], error[z, defined], wrong[z, defined] = posterior
        return Differential(change, error, other, wrong, names, component_names)


def _changes(
    counts: MemoryCounts, W: np.ndarray, effects: RowEffects | None, alive: np.ndarray, against: str | int, e: float,
    robust: bool, n_threads: int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Log2 fold changes, their standard errors and the components that they are against, each (k, p)."""
    n_features, k = counts.shape[1], W.shape[1]
    change, error, other = np.zeros((k, n_features)), np.full((k, n_features), np.inf), np.full((k, n_features), -1)
    sums = counts.sums(Side.COLUMNS)
    seen = np.flatnonzero(sums)
    if not len(seen) or not alive.any():
        return change, error, other
    # Without groups there is one, whose effects are 1
    group = np.zeros(len(W), np.int64) if effects is None else effects.group
    c = np.ones((n_features, 1)) if effects is None else np.ascontiguousarray(effects.effects.T)
    columns, w_sum, by_group = counts.side(Side.COLUMNS), W.sum(axis=0), _group_sums(W, group, c.shape[1])
    total = counts.total if effects is None else c @ by_group.sum(axis=1)
    mean = np.where(sums > 0, sums / total, 1.0)  # the results of features without counts are not used
    if (smallest := (mean * c.min(axis=1))[seen].min()) < _MIN_SHARE:
        raise ValueError(
            f"X must have no feature with less than {_MIN_SHARE:g} of all counts but more than 0, got {smallest:g}"
        )
    # The matrices are small, and the order of summation of BLAS depends on its number of threads
    with threads(n_threads), threadpool_limits(1, "blas"):
        g = _rates(counts, W, mean, e, None if effects is None else c, by_group)
        grams = None
        if robust:
            relative = np.divide(W, w_sum, out=np.zeros_like(W), where=w_sum > 0)
            members = (relative[group == z] for z in range(c.shape[1]))
            grams = np.array([A.T @ A for A in members])
        for features in np.array_split(seen, -(-len(seen) // max(1, _BLOCK // k**2))):
            covariance = np.empty((len(features), k, k))
            for out, j in zip(covariance, features, strict=True):
                stored = slice(columns.indptr[j], columns.indptr[j + 1])
                x, rows = columns.data[stored].astype(np.float64), columns.indices[stored]
                gram = None if grams is None else np.einsum("g,gkl->kl", c[j] ** 2, grams)
                out[:] = _covariance(x, W[rows], g[j], mean[j], c[j, group[rows]], e, w_sum, gram)
            contrasts = _contrasts(np.log(g[features]), covariance, alive, against)
            change[:, features], error[:, features], other[:, features] = (A.T for A in contrasts)
    change /= np.log(2)
    error /= np.log(2)
    return change, error, other


def _check_against(against: str | int, alive: np.ndarray) -> None:
    if isinstance(against, bool) or not isinstance(against, int | np.integer | str):
        raise TypeError(f"against must be 'others', 'mean' or the number of a component, got {brief(against)}")
    if isinstance(against, str):
        if against not in ("others", "mean"):
            raise ValueError(f"against must be 'others', 'mean' or the number of a component, got {brief(against)}")
        if against == "others" and alive.sum() < 2:
            raise ValueError(f"against='others' needs at least two components with any mass, got {alive.sum()}")
    elif not 0 <= against < len(alive) or not alive[against]:
        raise ValueError(f"against must be a component with any mass, one of 0 to {len(alive) - 1}, got {against}")


def _group_sums(W: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Sums of the rows of W over each group, (n_groups, k)."""
    return np.array([W[group == z].sum(axis=0) for z in range(n_groups)])


def _rates(
    counts: MemoryCounts, W: np.ndarray, mean: np.ndarray, e: float, c: np.ndarray | None, by_group: np.ndarray
) -> np.ndarray:
    """g of each feature, (p, k), with the effects c (p, n_groups) of groups, and the sums of their rows of W."""
    transposed = MemoryCounts(counts.side(Side.COLUMNS), counts.side(Side.ROWS))
    rate: Any = e
    if c is not None:
        smallest = c.min(axis=1)
        rate, mean = e + mean[:, None] * ((c - smallest[:, None]) @ by_group), mean * smallest
    g, gap = transform(
        transposed, np.ascontiguousarray(W.T), max_iter=_MAX_ITER, tol=_TOL, penalties=Penalties(prior_W=(1 + e, rate)),
        data=FitData(row_exposure=mean), warn_unconverged=False,
    )  # fmt: skip
    sums = counts.sums(Side.COLUMNS)
    if unconverged := int(((gap > _TOL * (sums + e * W.shape[1])) & (sums > 0)).sum()):
        warn(
            f"the regressions of {unconverged} feature(s) stopped before they converged: their changes are inexact. W "
            "or X may differ too much in scale between rows or components",
            ConvergenceWarning,
        )
    return g


def _covariance(
    x: np.ndarray, W: np.ndarray, g: np.ndarray, mean: float, c: np.ndarray, e: float, w_sum: np.ndarray,
    gram: np.ndarray | None,
) -> np.ndarray:  # fmt: skip
    """Covariance of log g of one feature, (k, k), in the notation of the module.

    x (m,), W (m, k) and c (m,) are the nonzero counts, their rows of W, which is overwritten, and the effects of their
    groups; w_sum (k,) are the column sums of all rows of W, and gram (k, k) is sum_g c_g^2 W_g'W_g after division by
    these; None for model errors.
    """
    rate = W @ g
    rate[rate == 0] = 1  # if W is zero in a row, the shares are 0, and its count is ignored
    W *= g
    shares = np.divide(W, rate[:, None], out=W)
    covariance, bread = _inverse((shares * x[:, None]).T @ shares, e)
    if gram is None:
        return covariance
    mu, total = mean * c * rate, mean * g * w_sum
    steps = shares @ bread
    leverage = x * np.einsum("ik,ik->i", steps, shares)
    # The second is a lower bound on 1 - leverage, which may round to 0
    remaining = np.maximum(1 - leverage, e / (e + x * np.einsum("ik,ik->i", shares, shares)))
    as_zeros = steps * mu[:, None]
    steps *= ((x - mu) / remaining)[:, None]
    spread = bread @ (np.outer(total, total) * gram) @ bread - as_zeros.T @ as_zeros + steps.T @ steps
    return spread + e * covariance @ covariance


def _inverse(information: np.ndarray, e: float) -> tuple[np.ndarray, np.ndarray]:
    """(information + e I)^-1, and the same without the directions in which the information is 0 up to rounding."""
    if np.trace(information) < _LARGE * e:  # rounding errors are far below e
        inverse = np.linalg.inv(information + e * np.eye(len(information)))
        return inverse, inverse
    values, vectors = np.linalg.eigh(information)
    values[values < len(values) * np.finfo(float).eps * values[-1]] = 0
    scaled = vectors / (values + e)
    return scaled @ vectors.T, scaled * (values > 0) @ vectors.T


def _contrasts(
    theta: np.ndarray, covariance: np.ndarray, alive: np.ndarray, against: str | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Changes of theta, their standard errors, and the components that they are against, each (m, k)."""
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
        # Against itself a component has error 0, or slightly less by rounding
        error = np.sqrt(np.maximum(variance + variance[at, other] - 2 * twice, 0.0))
    return np.where(alive, change, 0.0), np.where(alive, error, np.inf), np.where(alive, other, -1)


@np.errstate(under="ignore")  # densities far from an estimate are 0
def adaptive_shrinkage(estimate: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior means and standard deviations of effects, and false sign rates, (p,), from estimates and errors (p,).

    Errors are positive and finite. A false sign rate is the probability that the sign of the mean is wrong or that
    there is no effect.
    """
    variance, noise = np.square(_grid(estimate, error)), np.square(error)[:, None]
    total = variance + noise
    logs = -0.5 * (np.log(total) + np.square(estimate)[:, None] / total)
    density = np.exp(logs - logs.max(axis=1, keepdims=True))
    posterior = density * _mixture_weights(density)
    posterior /= posterior.sum(axis=1, keepdims=True)
    means, spread = variance / total * estimate[:, None], variance / total * noise
    mean = (posterior * means).sum(axis=1)
    deviation = np.sqrt((posterior * (spread + np.square(means - mean[:, None]))).sum(axis=1))
    slab = posterior[:, 1:]
    negative = (slab * ndtr(-means[:, 1:] / np.sqrt(spread[:, 1:]))).sum(axis=1)
    return mean, deviation, posterior[:, 0] + np.minimum(negative, slab.sum(axis=1) - negative)


def _grid(estimate: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Standard deviations of effects: 0, then from a tenth of the smallest error to twice the largest effect."""
    low = error.min() / 10
    high = 2 * np.sqrt(max(np.max(np.square(estimate) - np.square(error)), (4 * low) ** 2))
    return np.concatenate([[0.0], low * _GRID_STEP ** np.arange(np.ceil(np.log(high / low) / np.log(_GRID_STEP)) + 1)])


def _mixture_weights(density: np.ndarray) -> np.ndarray:
    """The pi on the simplex that maximises sum_j log(density_j . pi) + (_NULL_WEIGHT - 1) log pi_0.

    This is one row of a Poisson factorization: counts of one, H the densities, and a prior whose rates make the linear
    penalty of all weights equal, so that the weights of the optimum sum to one.
    """
    p, n_weights = density.shape
    H = np.ascontiguousarray(density.T)
    shape = np.ones(n_weights)
    shape[0] = _NULL_WEIGHT
    rate = p + _NULL_WEIGHT - 1 - H.sum(axis=1)  # >= 0, since all densities are at most 1
    counts = as_counts(np.ones((1, p), np.uint8))
    pi, _ = transform(counts, H, max_iter=_MAX_ITER, tol=_WEIGHTS_TOL, penalties=Penalties(prior_W=(shape, rate)))
    return pi[0] / pi[0].sum()
