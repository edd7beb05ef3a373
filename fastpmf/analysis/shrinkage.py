"""Adaptive shrinkage of estimates with known standard errors, by empirical Bayes.

    estimate_j ~ Normal(effect_j, error_j^2)        effect_j ~ pi_0 [0] + sum_m pi_m Normal(0, s_m^2)

with a fixed grid of s_m, so that only the shares pi are fitted, a concave problem; pi_0 has the weight of ten more rows
without effect, which errs on that side. What is certain stays, what is noise goes to zero.

References
----------
M. Stephens, "False discovery rates: a new deal", Biostatistics 18 (2017), sections 2 and 3.1.
"""

import numpy as np
from scipy.special import ndtr

from fastpmf.counts import as_counts
from fastpmf.fitting.options import Penalties
from fastpmf.fitting.transform import transform

_STEP = np.sqrt(2.0)  # between neighbours on the grid
_NULL_WEIGHT = 10.0  # of pi_0, as if so many more rows had been seen to have no effect
_MAX_ROUNDS, _GAP = 1000, 1e-7  # of the shares' fit; nats per row


@np.errstate(under="ignore")  # densities far from an estimate are 0
def shrink(estimate: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior means, posterior standard deviations and local false sign rates.

    Parameters
    ----------
    estimate, error : ndarray of shape (p,), float64
        Errors are positive and finite.

    Returns
    -------
    mean, deviation, false_sign_rate : ndarray of shape (p,), float64
        The last is the probability that a sign taken from `mean` is wrong, or that there is no effect at all.
    """
    variance, noise = np.square(_grid(estimate, error)), np.square(error)[:, None]
    total = variance + noise
    logs = -0.5 * (np.log(total) + np.square(estimate)[:, None] / total)
    density = np.exp(logs - logs.max(axis=1, keepdims=True))
    posterior = density * _shares(density)
    posterior /= posterior.sum(axis=1, keepdims=True)
    means, spread = variance / total * estimate[:, None], variance / total * noise
    mean = (posterior * means).sum(axis=1)
    deviation = np.sqrt((posterior * (spread + np.square(means - mean[:, None]))).sum(axis=1))
    slab = posterior[:, 1:]
    negative = (slab * ndtr(-means[:, 1:] / np.sqrt(spread[:, 1:]))).sum(axis=1)
    return mean, deviation, posterior[:, 0] + np.minimum(negative, slab.sum(axis=1) - negative)


def _grid(estimate: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Standard deviations of effects, zero first: from a tenth of the smallest error to twice the largest effect."""
    least = error.min() / 10
    most = 2 * np.sqrt(max(np.max(np.square(estimate) - np.square(error)), (4 * least) ** 2))
    return np.concatenate([[0.0], least * _STEP ** np.arange(np.ceil(np.log(most / least) / np.log(_STEP)) + 1)])


def _shares(density: np.ndarray) -> np.ndarray:
    """pi, greatest in sum_j log(density_j . pi) + (weight - 1) log pi_0 on the simplex.

    Which is one row of a Poisson factorization: counts of one, H the densities, and a prior whose rates bring the price
    of each share to the same number, at which the shares of the optimum sum to one.
    """
    p, n_shares = density.shape
    H = np.ascontiguousarray(density.T)
    shape = np.ones(n_shares)
    shape[0] = _NULL_WEIGHT
    rate = p + _NULL_WEIGHT - 1 - H.sum(axis=1)  # >= 0, for no density is above 1
    counts = as_counts(np.ones((1, p), np.uint8))
    pi, _ = transform(counts, H, max_iter=_MAX_ROUNDS, tol=_GAP, penalties=Penalties(prior_W=(shape, rate)))
    return pi[0] / pi[0].sum()
