"""The objectives. All are one data term, `log_rate`, plus sums: no zero of X is ever visited.

With mu = W H and constants of the data alone,

    D(X || mu)  =  sum x log x  -  sum x  -  sum x log mu  +  sum mu          generalised Kullback-Leibler divergence
    log L       =  sum x log mu  -  sum mu  -  sum log x!                     Poisson log-likelihood
    D + log L   =  sum x log x  -  sum x  -  sum log x!                       the same for every W and H

so that the least divergence and the greatest likelihood are the same factors.
"""

import math

import numpy as np

from fastpmf.core.counts import Counts


def divergence(
    counts: Counts, W: np.ndarray, Ht: np.ndarray, rate_total: float, data_term: float | None = None
) -> float:
    """D(X || W H) in nats, for padded factors with sum(W H) = rate_total; inf where a positive count meets rate 0.

    Where sum x log rate is known, as `data_term`, no pass is made.
    """
    if rate_total == math.inf:
        return math.inf  # it grows faster than any logarithm
    if data_term is None:
        data_term = float(counts.log_rate(W, Ht).sum())
    return counts.entropy - counts.total - data_term + rate_total


def constant(counts: Counts) -> float:
    """D + log L, in nats: what divergence and log-likelihood add up to whatever the factors."""
    return counts.entropy - counts.total - counts.log_factorial
