"""Random splits of counts into two parts: by units (binomial thinning), and by whole entries."""

from dataclasses import replace
from typing import Any

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.labels import MatrixLabels
from fastpmf.counts.validation import Dataset, as_counts
from fastpmf.utils.validation import check_share, random_generator


def thin_counts(X: Any, fraction: float, *, random_state: Any = None) -> tuple[Any, Any]:
    """Divide counts into two parts: each unit of a count goes to the second part with probability `fraction`.

    If x ~ Poisson(mu), the parts are Poisson((1 - fraction) mu) and Poisson(fraction mu), and independent of each
    other. The second part can therefore validate a model that was fitted to the first. Both parts are
    sparse, and entries that X marks as not observed are not observed in either.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads, with integer values.
    fraction : float
        Between 0 and 1, both excluded.
    random_state : int, RandomState, Generator or None, default=None

    Returns
    -------
    train, test : MemoryCounts or Dataset of shape (n_samples, n_features)
        Datasets with the names of X if it has names (a `Dataset` or DataFrame).

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    split_entries : Hold out whole entries, such as all purchases of an item by a user.

    Examples
    --------
    >>> from fastpmf import thin_counts
    >>> train, test = thin_counts([[8, 0], [3, 40]], 0.25, random_state=0)
    >>> train.total + test.total
    51.0
    """
    check_share(fraction, "fraction")
    counts = as_counts(X)
    data = counts.side(Side.ROWS).data
    if data.dtype.kind == "f" and not ((data == np.floor(data)) & (data < 2.0**63)).all():
        raise ValueError("X must hold whole counts below 2^63 to be thinned, got fractions or larger ones")
    n = data.astype(np.int64)
    second = random_generator(random_state).binomial(n, fraction)
    return _parts(X, counts, n - second, second)


def split_entries(X: Any, fraction: float, *, random_state: Any = None) -> tuple[Any, Any]:
    """Divide entries into two parts: each nonzero goes as a whole to the second part with probability `fraction`.

    This is the split to evaluate recommendations with: an item that is held out for a user has a zero in the first
    part, like all items that the user does not have. For the likelihood of held-out counts use `thin_counts`, whose
    parts are independent under the Poisson model.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads.
    fraction : float
        Between 0 and 1, both excluded.
    random_state : int, RandomState, Generator or None, default=None

    Returns
    -------
    train, test : MemoryCounts or Dataset of shape (n_samples, n_features)
        As of `thin_counts`. Their sum is X.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    thin_counts : splits the counts themselves, independently under the Poisson model.
    ranking_scores : scores recommendations on held-out entries.

    Examples
    --------
    >>> from fastpmf import split_entries
    >>> train, test = split_entries([[8, 0, 2], [3, 40, 1]], 0.3, random_state=1)
    >>> train.to_scipy().toarray().tolist(), test.to_scipy().toarray().tolist()
    ([[8, 0, 2], [0, 40, 0]], [[0, 0, 0], [3, 0, 1]])
    """
    check_share(fraction, "fraction")
    counts = as_counts(X)
    data = counts.side(Side.ROWS).data
    second = random_generator(random_state).uniform(size=len(data)) < fraction
    return _parts(X, counts, data * ~second, data * second)


def _parts(X: Any, counts: MemoryCounts, *values: np.ndarray) -> tuple[Any, Any]:
    """Counts with these values in place of the stored ones, without zeros; with the names of X."""
    rows, labels = counts.side(Side.ROWS), MatrixLabels.of(X)
    first, second = (
        MemoryCounts(
            replace(rows, data=part.astype(rows.data.dtype)).select_entries(part > 0), unobserved=counts.unobserved
        )
        for part in values
    )
    names = labels.rows.names, labels.columns.names
    if all(axis is None for axis in names):
        return first, second
    first, second = (part.to_scipy() if part.unobserved is None else part for part in (first, second))
    return Dataset(first, *names), Dataset(second, *names)
