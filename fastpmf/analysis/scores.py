"""Divergence, log-likelihood and deviance of given factors."""

import math
from typing import Any

import numpy as np

from fastpmf.analysis.rates import align_rates
from fastpmf.core.factors import column_sums, padded
from fastpmf.counts import MemoryCounts
from fastpmf.counts.labels import MatrixLabels, align
from fastpmf.counts.masked import hide_entries, observed_counts
from fastpmf.kernels.threads import threads
from fastpmf.model.objective import divergence
from fastpmf.utils.validation import check_factor


def kl_divergence(X: Any, W: Any, H: Any, *, mask: Any = None, n_threads: int | None = None) -> float:
    r"""Generalised Kullback-Leibler divergence of W H from X.

    .. math:: D(X \| \mu) = \sum_{ij} \left[ x_{ij} \log \frac{x_{ij}}{\mu_{ij}} - x_{ij} + \mu_{ij} \right],
              \qquad \mu = W H

    The sum is over all entries, including zeros.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads.
    W : array-like of shape (n_samples, n_components)
        Non-negative.
    H : array-like of shape (n_components, n_features) or fitted estimator
        Non-negative. Of a fitted estimator, the rates have its column exposures and background.
    mask : matrix of shape (n_samples, n_features), optional
        True or positive for entries that are not observed. They are left out of the sum, and may be NaN in X.
    n_threads : int or None, default=None
        Number of threads; None: all that the process may use. The result does not depend on it.

    Returns
    -------
    float
        In nats, computed in float64; >= 0 up to rounding, inf if a positive count has rate 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value.

    See Also
    --------
    poisson_log_likelihood : the log-likelihood of the same model.
    poisson_deviance : twice this divergence.

    Examples
    --------
    >>> from fastpmf import kl_divergence
    >>> kl_divergence([[2, 0], [0, 1]], [[1], [1]], [[1, 1]])
    2.386294361119891
    """
    with threads(n_threads):
        counts, U, V, rate_total = _read(X, W, H, mask, n_threads)
        return divergence(counts, U, V, rate_total)


def poisson_log_likelihood(X: Any, W: Any, H: Any, *, mask: Any = None, n_threads: int | None = None) -> float:
    r"""Log-likelihood of X if x_ij ~ Poisson((W H)_ij) independently.

    .. math:: \log L = \sum_{ij} \left[ x_{ij} \log \mu_{ij} - \mu_{ij} - \log x_{ij}! \right], \qquad \mu = W H

    The sum is over all entries, including zeros; log x! is log Gamma(x + 1) for counts that are not whole. Arguments
    and errors are as in `kl_divergence`.

    Returns
    -------
    float
        In nats, computed in float64; -inf if a positive count has rate 0.

    See Also
    --------
    kl_divergence : the difference to the highest possible log-likelihood.

    Examples
    --------
    >>> from fastpmf import poisson_log_likelihood
    >>> poisson_log_likelihood([[2, 0], [0, 1]], [[1], [1]], [[1, 1]])
    -4.693147180559945
    """
    with threads(n_threads):
        counts, U, V, rate_total = _read(X, W, H, mask, n_threads)
        if rate_total == math.inf:
            return -math.inf
        return float(counts.log_rate(U, V).sum()) - rate_total - counts.log_factorial


def poisson_deviance(X: Any, W: Any, H: Any, *, mask: Any = None, n_threads: int | None = None) -> float:
    """Poisson deviance of W H from X: twice the difference to the log-likelihood of a saturated model, 2 D.

    Arguments and errors are as in `kl_divergence`.

    Returns
    -------
    float
        In nats, computed in float64; inf if a positive count has rate 0.

    See Also
    --------
    kl_divergence : half of it.
    poisson_log_likelihood : the log-likelihood itself.

    Examples
    --------
    >>> from fastpmf import poisson_deviance
    >>> poisson_deviance([[2, 0], [0, 1]], [[1], [1]], [[1, 1]])
    4.772588722239782
    """
    return 2.0 * kl_divergence(X, W, H, mask=mask, n_threads=n_threads)


def _read(
    X: Any, W: Any, H: Any, mask: Any, n_threads: int | None
) -> tuple[MemoryCounts, np.ndarray, np.ndarray, float]:
    """Observed counts, W and H transposed as padded factors, and the sum of the rates of observed entries."""
    labels = MatrixLabels.of(X)
    W, H = align_rates(X, W, H)
    mask = align(mask, "mask", rows=labels.rows, columns=labels.columns)
    counts = hide_entries(observed_counts(X, mask, n_threads=n_threads), mask)
    n, p = counts.shape
    k = np.shape(W)[1] if np.ndim(W) == 2 else 1
    W, H = check_factor(W, (n, k), "W"), check_factor(H, (k, p), "H")
    dtype = np.dtype(np.float32 if np.result_type(W.dtype, H.dtype) == np.float32 else np.float64)
    U, V = padded(W, dtype), padded(H.T, dtype)
    return counts, U, V, counts.rate_total(U, V, column_sums(U), column_sums(V))
