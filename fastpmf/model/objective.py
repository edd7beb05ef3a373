"""The objectives. Each is one data term, `log_rate`, plus sums; zeros of X cost nothing.

With mu = W H and constants of the data alone,

    D(X || mu)  =  sum x log x  -  sum x  -  sum x log mu  +  sum mu          generalised Kullback-Leibler divergence
    log L       =  sum x log mu  -  sum mu  -  sum log x!                     Poisson log-likelihood
    D + log L   =  sum x log x  -  sum x  -  sum log x!                       the same for every W and H

so the minimum divergence and the maximum likelihood have the same factors.
"""

import math

import numpy as np

from fastpmf.core.counts import Counts


def divergence(counts: Counts, W: np.ndarray, Ht: np.ndarray, rate_total: float, data_term: float = math.nan) -> float:
    """D(X || W H) in nats, for padded factors with sum(W H) = rate_total; inf if a positive count has rate 0.

    If `data_term`, which is sum x log rate, is not NaN, no pass over the counts is needed.
    """
    if rate_total == math.inf:
        return math.inf  # it grows faster than any logarithm
    if math.isnan(data_term):
        data_term = float(counts.log_rate(W, Ht).sum())
    return counts.entropy - counts.total - data_term + rate_total


def constant(counts: Counts) -> float:
    """D + log L in nats, which does not depend on the factors."""
    return counts.entropy - counts.total - counts.log_factorial
