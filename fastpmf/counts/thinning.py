"""Random splits of counts into two parts: of each count (binomial thinning), or of the nonzero entries."""

from dataclasses import replace
from typing import Any

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.validation import as_counts
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import random_generator


def thin_counts(X: Any, fraction: float, *, random_state: Any = None) -> tuple[MemoryCounts, MemoryCounts]:
    """Divide counts into two parts: each unit of a count goes to the second part with probability `fraction`.

    If x ~ Poisson(mu), the parts are Poisson((1 - fraction) mu) and Poisson(fraction mu), and independent of each
    other. The second part can therefore validate a model that was fitted to the first. Neither part has missing
    entries, and both are sparse.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads, with integer values.
    fraction : float
        Between 0 and 1, both excluded.
    random_state : int, RandomState, Generator or None, default=None

    Returns
    -------
    train, test : MemoryCounts of shape (n_samples, n_features)

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Examples
    --------
    >>> from fastpmf import thin_counts
    >>> train, test = thin_counts([[8, 0], [3, 40]], 0.25, random_state=0)
    >>> train.total + test.total
    51.0
    """
    _check_fraction(fraction)
    counts = as_counts(X)
    rows = counts.side(Side.ROWS)
    if rows.data.dtype.kind == "f" and not ((rows.data == np.floor(rows.data)) & (rows.data < 2.0**63)).all():
        raise ValueError("X must hold whole counts below 2^63 to be thinned, got fractions or larger ones")
    n = rows.data.astype(np.int64)
    second = random_generator(random_state).binomial(n, fraction)
    first_part, second_part = (
        MemoryCounts(
            replace(rows, data=part.astype(rows.data.dtype)).select_entries(part > 0), unobserved=counts.unobserved
        )
        for part in (n - second, second)
    )
    return first_part, second_part


def split_entries(X: Any, fraction: float, *, random_state: Any = None) -> tuple[MemoryCounts, MemoryCounts]:
    """Divide counts into two parts: each nonzero entry goes to the second part, whole, with probability `fraction`.

    Use it to score recommendations with `ranking_scores`. The second part does not validate a likelihood, since its
    entries are zeros in the first one: use `thin_counts` for that.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads.
    fraction : float
        Between 0 and 1, both excluded.
    random_state : int, RandomState, Generator or None, default=None

    Returns
    -------
    train, test : MemoryCounts of shape (n_samples, n_features)

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Examples
    --------
    >>> from fastpmf import split_entries
    >>> train, test = split_entries([[8, 0, 3], [3, 40, 1]], 0.5, random_state=0)
    >>> (train.to_scipy() + test.to_scipy()).toarray().tolist()
    [[8, 0, 3], [3, 40, 1]]
    """
    _check_fraction(fraction)
    counts = as_counts(X)
    rows = counts.side(Side.ROWS)
    second = random_generator(random_state).binomial(1, fraction, len(rows.data)).astype(bool)
    first_part, second_part = (
        MemoryCounts(rows.select_entries(part), unobserved=counts.unobserved) for part in (~second, second)
    )
    return first_part, second_part


def _check_fraction(fraction: Any) -> None:
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
        raise ValueError(f"fraction must be a number between 0 and 1, got {brief(fraction)}")
