"""Binomial thinning: counts split in two that are independent under the Poisson model."""

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from fastpmf.core.counts import Side
from fastpmf.counts.csr import SparseRows
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.validation import as_counts
from fastpmf.utils.messages import brief


def thin_counts(X: Any, fraction: float, *, random_state: Any = None) -> tuple[MemoryCounts, MemoryCounts]:
    """Split counts in two: each single count goes to the second part with probability `fraction`, else to the first.

    If x ~ Poisson(mu), the parts are Poisson((1 - fraction) mu) and Poisson(fraction mu), and independent of each
    other. So what a model of the first says of the second is not what it was fitted to, no entry is missing from
    either, and both stay sparse.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads, of whole numbers.
    fraction : float
        Between 0 and 1, both excluded.
    random_state : int, RandomState, Generator or None, default=None

    Returns
    -------
    train, test : MemoryCounts of shape (n_samples, n_features)

    Raises
    ------
    TypeError, ValueError
        X is not counts, or not whole ones, or no fraction.

    Examples
    --------
    >>> from fastpmf import thin_counts
    >>> train, test = thin_counts([[8, 0], [3, 40]], 0.25, random_state=0)
    >>> train.total + test.total
    51.0
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
        raise ValueError(f"fraction must be a number between 0 and 1, got {brief(fraction)}")
    counts = as_counts(X)
    rows = counts.side(Side.ROWS)
    if rows.data.dtype.kind == "f" and not ((rows.data == np.floor(rows.data)) & (rows.data < 2.0**63)).all():
        raise ValueError("X must hold whole counts below 2^63 to be thinned, got fractions or larger ones")
    whole = rows.data.astype(np.int64)
    rng = random_state if isinstance(random_state, np.random.Generator) else check_random_state(random_state)
    second = rng.binomial(whole, fraction)
    return _part(counts, whole - second), _part(counts, second)


def _part(counts: MemoryCounts, data: np.ndarray) -> MemoryCounts:
    """These counts in the places of the others, in the dtype that they had."""
    X, keep = counts.side(Side.ROWS), data > 0
    ends = np.concatenate([[0], np.cumsum(keep)])
    rows = SparseRows(data[keep].astype(X.data.dtype), X.indices[keep], ends[X.indptr].astype(np.int64), X.n_columns)
    return MemoryCounts(rows, unobserved=counts.unobserved)
