"""Divergence, log-likelihood and deviance of given factors."""

import math
from typing import Any

import numpy as np

from fastpmf.core.factors import column_sums, padded
from fastpmf.counts import MemoryCounts
from fastpmf.counts.labels import MatrixLabels, align, align_factors
from fastpmf.counts.masked import hide_entries, observed_counts
from fastpmf.kernels.threads import threads
from fastpmf.model.objective import divergence
from fastpmf.utils.validation import check_factor


def kl_divergence(X: Any, W: Any, H: Any, *, mask: Any = None, n_threads: int | None = None) -> float:
    """Generalised Kullback-Leibler divergence of W H from X.

    D = sum_ij [x_ij log(x_ij / mu_ij) - x_ij + mu_ij] with mu = W H, over all entries, the zeros included.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads.
    W : array-like of shape (n_samples, n_components)
        Non-negative.
    H : array-like of shape (n_components, n_features)
        Non-negative.
    mask : matrix of shape (n_samples, n_features), optional
        True or positive where an entry is not observed, and so not in the sum; X may hold NaN there.
    n_threads : int, optional
        Threads to use; by default as many as the process may use. The result does not depend on it.

    Returns
    -------
    float
        In nats; >= 0 up to rounding, inf where a positive count meets rate 0. Rates, logarithms and sums are float64.

    Raises
    ------
    TypeError, ValueError
        X is not counts, or W and H don't fit it.

    Examples
    --------
    >>> from fastpmf import kl_divergence
    >>> kl_divergence([[2, 0], [0, 1]], [[1], [1]], [[1, 1]])
    2.386294361119891
    """
    with threads(n_threads):
        counts, W_, Ht = _read(X, W, H, mask, n_threads)
        return divergence(counts, W_, Ht, _rate_total(counts, W_, Ht))


def poisson_log_likelihood(X: Any, W: Any, H: Any, *, mask: Any = None, n_threads: int | None = None) -> float:
    """Log-likelihood of X where x_ij ~ Poisson((W H)_ij), independently.

    log L = sum_ij [x_ij log mu_ij - mu_ij - log x_ij!] with mu = W H, over all entries, the zeros included; log x! is
    log Gamma(x + 1) where counts are not whole.

    Parameters
    ----------
    X, W, H, mask, n_threads
        As in `kl_divergence`.

    Returns
    -------
    float
        In nats; -inf where a positive count meets rate 0.

    Raises
    ------
    TypeError, ValueError
        X is not counts, or W and H don't fit it.

    Examples
    --------
    >>> from fastpmf import poisson_log_likelihood
    >>> poisson_log_likelihood([[2, 0], [0, 1]], [[1], [1]], [[1, 1]])
    -4.693147180559945
    """
    with threads(n_threads):
        counts, W_, Ht = _read(X, W, H, mask, n_threads)
        rate_total = _rate_total(counts, W_, Ht)
        return (
            -math.inf
            if rate_total == math.inf
            else float(counts.log_rate(W_, Ht).sum()) - rate_total - counts.log_factorial
        )


def poisson_deviance(X: Any, W: Any, H: Any, *, mask: Any = None, n_threads: int | None = None) -> float:
    """Poisson deviance of W H from X: twice the log-likelihood that a saturated model has more, which is 2 D.

    Parameters
    ----------
    X, W, H, mask, n_threads
        As in `kl_divergence`.

    Returns
    -------
    float
        In nats; inf where a positive count meets rate 0.

    Raises
    ------
    TypeError, ValueError
        X is not counts, or W and H don't fit it.

    Examples
    --------
    >>> from fastpmf import poisson_deviance
    >>> poisson_deviance([[2, 0], [0, 1]], [[1], [1]], [[1, 1]])
    4.772588722239782
    """
    return 2.0 * kl_divergence(X, W, H, mask=mask, n_threads=n_threads)


def _rate_total(counts: MemoryCounts, W: np.ndarray, Ht: np.ndarray) -> float:
    return counts.rate_total(W, Ht, column_sums(W), column_sums(Ht))


def _read(X: Any, W: Any, H: Any, mask: Any, n_threads: int | None) -> tuple[MemoryCounts, np.ndarray, np.ndarray]:
    labels = MatrixLabels.of(X)
    W, H = align_factors(X, W, H)
    mask = align(mask, "mask", rows=labels.rows, columns=labels.columns)
    counts = hide_entries(observed_counts(X, mask, n_threads=n_threads), mask)
    n, p = counts.shape
    k = np.shape(W)[1] if np.ndim(W) == 2 else 1
    W, H = check_factor(W, (n, k), "W"), check_factor(H, (k, p), "H")
    dtype = np.result_type(W.dtype, H.dtype)
    dtype = np.dtype(np.float32 if dtype == np.float32 else np.float64)
    return counts, padded(W, dtype), padded(H.T, dtype)
