"""Overdispersion: whether counts vary more than Poisson counts of the fitted rates.

The counts of a feature j of rates mu_i have the variance mu_i + phi mu_i^2, and phi, the dispersion, is 0 for Poisson
counts. Negative binomial counts have phi > 0: a rate that is itself random, with coefficient of variation sqrt(phi).
The score test for phi > 0 and the moment estimate of phi compare squared residuals with counts,

    T = sum_i (x_i - mu_i)^2 - x_i          E[T] = phi sum_i mu_i^2

and if phi = 0, T has variance 2 sum_i mu_i^2 and third moment sum_i 8 mu_i^3 + 4 mu_i^2, whatever the counts.

W and H were fitted to the same counts, so that residuals are too small. Write l_i for the leverage of a count, by which
the fitted rate follows it: d log mu_i / d log x_i = l_i, from 0 to 1. For Poisson counts and any function g,
E[x_i g(x_i - 1)] = mu_i E[g(x_i)] (Chen). With g the fitted rate as a function of x_i, which changes by about
l_i mu_i / x_i with a count of one less, this is: the covariance of a count and its fitted rate is about E[l_i mu_i].
The variance of the fitted rate is about the same. Only nonzeros have leverages, and

    T = sum_i (x_i - mu_i)^2 - x_i + sum_{x_i > 0} l_i mu_i

    phi = T / (sum_i mu_i^2 - sum_{x_i > 0} l_i mu_i^2)

where the residuals retain a share of about 1 - l_i of a variance phi mu_i^2. Leverages are the sum of those in the
regressions of row i on H and of feature j on W. With p_j the shares of the components in mu_ij, those of a row are

    l_ij = x_ij p_j' A^-1 p_j          A = sum_j x_ij p_j p_j' + diag(max(0, e_k - sum_j x_ij p_jk))

with e_k the expected counts of a component in the row. A is the observed information of the logarithms of weights. Its
diagonal term is a derivative of the log-likelihood: 0 at an interior maximum, and large, relative to the rest, for a
weight near 0, which thus does not count as fitted. At a posterior mode it is a - 1 - b w, at least 0, for a prior with
shape a and rate b, in place of the information a - 1 of the prior. So the statistic needs X and the rates only.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import gammaincc
from sklearn.utils import check_scalar
from threadpoolctl import threadpool_limits

from fastpmf.analysis.rates import RowEffects, check_groups_given, column_data_of_groups
from fastpmf.core.counts import Side
from fastpmf.core.factors import component_sums
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.csr import SparseRows
from fastpmf.counts.labels import MatrixLabels, align, align_factors, labels_of, order_of
from fastpmf.counts.validation import non_integer_fraction
from fastpmf.fitting.problem import vector
from fastpmf.kernels.leverage import leverages
from fastpmf.kernels.threads import current_threads, threads
from fastpmf.utils.tables import Table, data_frame, number, shown_as_table
from fastpmf.utils.validation import check_factor, check_matrix, check_names
from fastpmf.utils.warnings import warn

_ROWS_AT_ONCE = 64  # rows in a task
_FALSE_DISCOVERIES = 0.05  # expected share of features with Poisson variation among those called overdispersed
_LESS = -3.0  # z score below which counts are said to vary less than Poisson counts
_DIFFERENT = 0.25  # of the counts, beside chance: more than priors make, less than a row_exposure that is left out
_AFFORDABLE = 5e9  # operations, see the cost of `leverages`: some seconds
_REMAINING = 0.1  # of the squared rates, as a lower bound after subtraction of leverages


@shown_as_table
@dataclass(frozen=True, eq=False)
class Overdispersion:
    """How much more counts vary than Poisson counts of the fitted rates: of each feature, and overall.

    Attributes
    ----------
    dispersion : ndarray of shape (p,), float64
        phi in the variance mu + phi mu^2 of a count of rate mu; 0 for Poisson counts. A moment estimate, so that chance
        makes some negative. 0 for features without rates.
    standard_error : ndarray of shape (p,), float64
        Of `dispersion` if counts are Poisson; infinite for features without rates.
    variance_ratio : ndarray of shape (p,), float64
        Sum of the variances of the counts of a feature, relative to that of their rates; 1 for Poisson counts.
    z_score : ndarray of shape (p,), float64
        Of the score test for overdispersion: `dispersion` divided by `standard_error`.
    p_value : ndarray of shape (p,), float64
        Probability of a statistic at least as large if counts are Poisson.
    mean_rate : ndarray of shape (p,), float64
        Mean of the rates of each feature.
    overall_dispersion, overall_standard_error, overall_variance_ratio, overall_z_score, overall_p_value : float
        The same for all features together, as if they had one dispersion. Features of high rates weigh most.
    names : ndarray of shape (p,), str, or None
        Names of the features.

    See Also
    --------
    overdispersion : computes it.
    fastpmf.plot.overdispersion : draws it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import PoissonNMF, overdispersion
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> model = PoissonNMF(3, random_state=0)
    >>> found = overdispersion(X, model.fit_transform(X), model)
    >>> bool(abs(found.overall_z_score) < 2), int(found.overdispersed.sum())
    (True, 0)
    """

    dispersion: np.ndarray
    standard_error: np.ndarray
    variance_ratio: np.ndarray
    z_score: np.ndarray
    p_value: np.ndarray
    mean_rate: np.ndarray
    overall_dispersion: float
    overall_standard_error: float
    overall_variance_ratio: float
    overall_z_score: float
    overall_p_value: float
    names: np.ndarray | None = None

    @property
    def overdispersed(self) -> np.ndarray:
        """Features that vary more than Poisson counts, (p,), bool: about 5 % of them by chance (Benjamini-Hochberg)."""
        p = np.sort(self.p_value)
        passed = np.flatnonzero(p <= _FALSE_DISCOVERIES * np.arange(1, len(p) + 1) / len(p))
        return self.p_value <= (p[passed[-1]] if len(passed) else -1.0)

    @property
    def variance_error(self) -> np.ndarray:
        """Standard error of `variance_ratio` if counts are Poisson, (p,); 0 for features without rates."""
        z = np.where(self.z_score == 0, 1.0, self.z_score)
        return np.where(self.z_score == 0, 0.0, (self.variance_ratio - 1) / z)

    def top(self, n: int = 10) -> np.ndarray:
        """Numbers of the n features of highest z scores, (n,), int64, highest first.

        Parameters
        ----------
        n : int, default=10

        Returns
        -------
        ndarray of shape (min(n, p),)
        """
        check_scalar(n, "n", (int, np.integer), min_val=1)
        return np.argsort(-self.z_score, kind="stable")[:n]

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each feature.

        Its columns are mean_rate, dispersion, standard_error, variance_ratio, z_score, p_value and overdispersed.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        names = (
            "mean_rate", "dispersion", "standard_error", "variance_ratio", "z_score", "p_value", "overdispersed",
        )  # fmt: skip
        features = np.arange(len(self.dispersion)) if self.names is None else self.names
        return data_frame({name: getattr(self, name) for name in names}, features, "feature")

    def sentence(self) -> str:
        """What was found, and what follows from it."""
        z = f"z = {self.overall_z_score:.1f}"
        n_features = f"{np.count_nonzero(self.overdispersed):,} of {len(self.dispersion):,} features vary more"
        if self.overall_z_score < _LESS:
            return (
                f"The counts vary less than Poisson counts of the fitted rates ({z}): they may have an upper limit, as "
                f"binary counts have, or the fit follows them too closely. {n_features}."
            )
        if self.overall_p_value > _FALSE_DISCOVERIES:
            return f"The counts vary as Poisson counts of the fitted rates do ({z}); {n_features}."
        return (
            f"The counts vary {self.overall_variance_ratio:.3g} times as much as Poisson counts of the fitted rates "
            f"(dispersion {self.overall_dispersion:.2g}, {z}); {n_features}. Errors that assume Poisson counts are too "
            'small: use standard_errors="robust", and bootstraps of rows. The parts of thinned counts are not '
            'independent: choose the number of components with holdout="rows", the default.'
        )

    def facts(self) -> dict[str, str]:
        """The values of all features together, as text."""
        return {
            "overall dispersion": f"{self.overall_dispersion:.3g}",
            "variance relative to Poisson counts": f"{self.overall_variance_ratio:.3g}",
            "z score": f"{self.overall_z_score:.1f} (p = {self.overall_p_value:.2g})",
            "features that vary more": f"{np.count_nonzero(self.overdispersed):,} of {len(self.dispersion):,}",
        }

    def _table(self) -> Table:
        top = self.top()
        names = top.tolist() if self.names is None else self.names[top].tolist()
        columns = {
            "feature": names, "mean rate": [number(x) for x in self.mean_rate[top]],
            "dispersion": [f"{x:.3g}" for x in self.dispersion[top]],
            "variance ratio": [f"{x:.3g}" for x in self.variance_ratio[top]],
            "z score": [f"{x:.1f}" for x in self.z_score[top]], "p value": [f"{x:.2g}" for x in self.p_value[top]],
        }  # fmt: skip
        return Table("Variation compared with Poisson counts", columns, self.facts(), n_rows=len(self.dispersion))


def overdispersion(
    X: Any, W: Any, H: Any, *, row_exposure: Any = None, groups: Any = None, names: Any = None,
    n_threads: int | None = None,
) -> Overdispersion:  # fmt: skip
    """Test whether counts vary more than Poisson counts of the fitted rates, and estimate how much.

    A count of rate mu has variance mu + phi mu^2, and the dispersion phi is 0 for Poisson counts. phi is estimated for
    each feature from squared residuals, which are corrected for the fit of W and H to the same counts, and compared
    with its distribution for Poisson counts.

    Parameters
    ----------
    X : matrix of counts of shape (n, p)
        The counts to which W and H were fitted, without a mask: whole numbers, all of them observed. Residuals are
        corrected for the fit of both, so that new rows, a fixed H or known rates give false overdispersion.
    W : array-like of shape (n, k)
        Fitted W; posterior means for `HPF`.
    H : array-like of shape (k, p) or fitted estimator
        Of a fitted estimator, the rates have its column exposures, background and effects of groups.
    row_exposure : float or array-like of shape (n,), optional
        Row exposures of the fit.
    groups : array-like of shape (n,), optional
        Labels of the groups of the rows, if H is an estimator that was fitted with groups.
    names : array-like of str, of length p, optional
        Names of the features; by default the column labels of X.
    n_threads : int or None, default=None
        Number of threads; None: all that the process may use. The result does not depend on it.

    Returns
    -------
    Overdispersion

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value.

    Warns
    -----
    UserWarning
        If the rates of rows are not near their counts, as without the `row_exposure` of the fit.

    See Also
    --------
    Overdispersion : the result.
    fastpmf.plot.overdispersion : draws it.
    select_n_components : finds the number of components of counts that vary more too.

    Notes
    -----
    The cost is 4 k^2 operations for each nonzero and k^3 for each row and feature, and the memory about five float64
    numbers for each nonzero.

    The rates must be those of a model that fits the means. Too few components, or a fit that has not converged, leave
    differences between rates and means, which look like overdispersion; too many components fit a part of it. Effects
    of groups, exposures and background are treated as known: with groups the overall estimate is 10 to 25 % low.

    p-values are those of a Gamma distribution with the first three moments of the statistic for Poisson counts, since
    that of features of few counts is skewed, with a continuity correction where it is discrete. Below about 1e-3 they
    are up to four times too small, so that a feature among thousands may be called overdispersed by chance.

    References
    ----------
    C. Dean and J. F. Lawless, "Tests for detecting overdispersion in Poisson regression models", Journal of the
    American Statistical Association 84 (1989), on the statistic and the correction by leverages.
    A. C. Cameron and P. K. Trivedi, "Regression-based tests for overdispersion in the Poisson model", Journal of
    Econometrics 46 (1990).
    L. H. Y. Chen, "Poisson approximation for dependent trials", Annals of Probability 3 (1975), on the identity.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import PoissonNMF, overdispersion
    >>> from fastpmf.datasets import make_poisson_counts
    >>> data = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0)
    >>> rates, rng = data.W @ data.H, np.random.default_rng(0)
    >>> X = rng.poisson(rates * rng.gamma(2.0, 0.5, rates.shape))  # negative binomial, of dispersion 0.5
    >>> model = PoissonNMF(3, random_state=0)
    >>> round(overdispersion(X, model.fit_transform(X), model).overall_dispersion, 1)
    0.5
    """
    check_groups_given(H, groups)
    model, labels = H, MatrixLabels.of(X)
    exposure, background = column_data_of_groups(model, labels.columns)
    W, H = align_factors(X, W, H)
    row_exposure, groups = (
        align(A, name, rows=labels.rows) for A, name in ((row_exposure, "row_exposure"), (groups, "groups"))
    )
    names = labels.columns.names if names is None else names
    H = check_matrix(H, "H")
    counts, (k, p) = as_counts(X, n_threads=n_threads), H.shape
    n = counts.shape[0]
    if counts.shape[1] != p:
        raise ValueError(f"X must have {p} columns, as H has, got {counts.shape[1]}")
    if counts.unobserved is not None:
        raise ValueError("X must have all entries observed, got a mask: overdispersion is a sum over all entries")
    if non_integer_fraction(counts.side(Side.ROWS).data):
        raise ValueError("X must hold whole counts to be compared with Poisson counts, got fractions")
    W = check_factor(W, (n, k), "W")
    component_sums(W, H)  # raises an error if the sum of W H is infinite
    if names is not None:
        names = check_names(names, p, "names", "feature")
    group, effects = np.zeros(n, np.int64), np.ones((1, p))
    if groups is not None:
        known = RowEffects.given(model, groups, n)
        order = order_of(labels_of(model, 1), labels.columns, "H")
        group, effects = known.group, known.effects if order is None else known.effects[:, order]
    W, Ht = W.astype(np.float64), np.ascontiguousarray(H.T, np.float64)
    if background is not None:
        W, Ht = np.column_stack([W, np.ones(n)]), np.column_stack([Ht, background])
    r, c = vector(row_exposure, n, "row_exposure"), vector(exposure, p, "column_exposure")
    # The order of summation of BLAS depends on its number of threads
    with threads(n_threads), threadpool_limits(1, "blas"), np.errstate(under="ignore"):
        return _overdispersion(counts, W, Ht, k, r, c, group, effects, names)


def is_affordable(counts: MemoryCounts, n_components: int) -> bool:
    """Whether counts can be compared with Poisson counts, in some seconds at most: for other results to include it."""
    is_whole = not non_integer_fraction(counts.side(Side.ROWS).data)
    operations = counts.nnz * n_components**2 + sum(counts.shape) * n_components**3 / 3
    return is_whole and counts.unobserved is None and operations <= _AFFORDABLE


def _overdispersion(
    counts: MemoryCounts, W: np.ndarray, Ht: np.ndarray, k: int, r: np.ndarray, c: np.ndarray, group: np.ndarray,
    effects: np.ndarray, names: np.ndarray | None,
) -> Overdispersion:  # fmt: skip
    """The result for the rates r_i c_j effects_gj (W_i . H_j), of which the first k components were fitted."""
    (n, p), rows, columns = counts.shape, counts.side(Side.ROWS), counts.side(Side.COLUMNS)
    scaled_W, scaled_H = W * r[:, None], Ht * c[:, None]
    row_counts, row_rates = counts.sums(Side.ROWS), np.einsum("ik,ik->i", scaled_W, (effects @ scaled_H)[group])
    difference = np.abs(row_rates - row_counts).sum()
    if difference > _DIFFERENT * counts.total + np.sqrt(row_counts).sum() > 0:
        warn(
            f"The rates of a row differ from its counts by {difference / counts.total:.0%} on average, which looks "
            "like overdispersion: give W, row_exposure and groups of the fit"
        )
    members = [scaled_W[group == g] for g in range(len(effects))]
    sums = np.array([A.sum(axis=0) for A in members])
    mean = np.einsum("gj,jk,gk->j", effects, scaled_H, sums)
    squares = np.zeros(p)
    for A, effect in zip(members, effects, strict=True):
        squares += effect**2 * np.einsum("jk,jk->j", scaled_H @ (A.T @ A), scaled_H)
    # In the order of the columns
    of_rows = _leverages(rows, W, Ht, (scaled_W * (effects @ scaled_H)[group])[:, :k])[1]
    rate, leverage = _leverages(columns, Ht, W, (scaled_H * (effects.T @ sums))[:, :k])
    leverage += sparse.csr_array((of_rows, rows.indices, rows.indptr), shape=(n, p)).tocsc().data
    np.minimum(leverage, 1.0, out=leverage)
    j = np.repeat(np.arange(p), np.diff(columns.indptr))
    mu = rate * r[columns.indices] * c[j] * effects[group[columns.indices], j]
    x = np.where(mu > 0, columns.data, 0.0)  # counts of rate 0 are impossible, whatever the dispersion

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(j, values, p)

    statistic = squares + total(x * (x - 2 * mu - 1) + leverage * mu)
    remaining = np.maximum(squares - total(leverage * mu * mu), _REMAINING * squares)
    cubes = total(x * mu * mu)  # an estimate of the sum of mu^3
    of_features = _Moments(statistic, remaining, mean, squares, cubes)
    overall = _Moments(*(np.atleast_1d(values.sum()) for values in of_features))
    dispersion, error, ratio, z, p_value = of_features.measures()
    all_dispersion, all_error, all_ratio, all_z, all_p_value = (values.item() for values in overall.measures())
    return Overdispersion(
        dispersion, error, ratio, z, p_value, mean / n, all_dispersion, all_error, all_ratio, all_z, all_p_value, names
    )


class _Moments(NamedTuple):
    """The statistic, the sum of mu^2 that the residuals retain, and the sums of mu, mu^2 and mu^3, of each feature."""

    statistic: np.ndarray
    remaining: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    cubes: np.ndarray

    def measures(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Dispersion, its standard error, variance ratio, z score and p-value."""
        known = (self.remaining > 0) & (self.squares > 0)
        deviation = np.sqrt(2 * self.squares)

        def divide(a: np.ndarray, b: np.ndarray, otherwise: float) -> np.ndarray:
            return np.divide(a, b, out=np.full(len(a), otherwise), where=known)

        dispersion = divide(self.statistic, self.remaining, 0.0)
        z = divide(self.statistic, deviation, 0.0)
        skewness = divide(8 * self.cubes + 4 * self.squares, deviation**3, 1.0)
        shape = 4 / skewness**2
        # At low rates the statistic changes in steps of 2, with counts of 2 in place of 1. Differences of rates blur
        # these steps: their part, -2 mu (x - mu), has the variance 4 mu^3
        half_step = np.exp(-2 * np.pi**2 * self.cubes)
        at = divide(self.statistic - half_step, deviation, 0.0)
        p_value = gammaincc(shape, np.maximum(shape + at * np.sqrt(shape), 0.0))
        ratio = 1 + divide(dispersion * self.squares, self.mean, 0.0)
        return dispersion, divide(deviation, self.remaining, np.inf), ratio, z, np.where(known, p_value, 1.0)


def _leverages(X: SparseRows, U: np.ndarray, V: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """U_i . V_j and the leverages of the counts in the fits of the rows, for each stored entry, (nnz,)."""
    k, n_workers = expected.shape[1], current_threads()
    rate, leverage = np.empty((2, len(X.data)))
    blocks = np.append(np.arange(0, len(U), _ROWS_AT_ONCE), len(U)).astype(np.int64)
    scratch = np.empty((n_workers * k, k)), np.empty((n_workers, k))
    leverages(
        len(blocks) - 1, X.data, X.indices, X.indptr, blocks, U, V, np.ascontiguousarray(expected), rate, leverage,
        *scratch,
    )  # fmt: skip
    return rate, leverage
