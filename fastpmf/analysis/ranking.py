"""Which columns have the highest rates in each row: recommendations, exact, and how good they are.

Rates W_i . H_j are formed for a block of rows at a time, by BLAS, and only the first n of each row are kept.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils import check_scalar

from fastpmf.core.factors import component_sums
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import MatrixLabels, align, align_components, align_factors, labels_of
from fastpmf.utils.validation import check_array, check_factor, positions

_BLOCK = 1 << 21  # rates that are formed at once
_LEAST_RATE = np.nextafter(0.0, 1.0)


class Recommendations(NamedTuple):
    """The columns of highest rates, best first.

    Attributes
    ----------
    indices : ndarray of shape (m, n), int64
        Numbers of columns; -1 where a row has fewer than n columns with a positive rate that may be recommended.
    rates : ndarray of shape (m, n), float64
        W_i . H_j; NaN where the index is -1.
    names : ndarray of shape (m, n), object, or None
        Names of the columns, "" where the index is -1; None where columns have no names.
    row_names : ndarray of shape (m,), or None
        Names of the rows; None where rows have no names.
    """

    indices: np.ndarray
    rates: np.ndarray
    names: np.ndarray | None = None
    row_names: np.ndarray | None = None

    def named(self, names: np.ndarray | None, row_names: np.ndarray | None = None) -> "Recommendations":
        """The same with names, given those of all p columns and of the m rows; None if they have none."""
        found = None if names is None else np.where(self.indices < 0, "", names.astype(object)[self.indices])
        return self._replace(names=found, row_names=row_names)


class RankingScores(NamedTuple):
    """Means over the rows that have a relevant column.

    Attributes
    ----------
    precision : float
        Share of the n recommended columns that are relevant.
    recall : float
        Share of the relevant columns that are among the n recommended.
    ndcg : float
        Normalised discounted cumulative gain at n, of binary relevance, discount 1 / log2(rank + 1).
    auc : float or None
        Probability that a relevant column has a higher rate than one that is not, ties half, over all candidates;
        None if it was not requested.
    n_rows : int
        Number of rows that have a relevant column.
    """

    precision: float
    recall: float
    ndcg: float
    auc: float | None
    n_rows: int


def recommend(W: Any, H: Any, n: int = 10, *, exclude: Any = None, items: Any = None) -> Recommendations:
    """The n columns of highest rate for each row of W.

    Parameters
    ----------
    W : array-like of shape (m, k)
    H : array-like of shape (k, p)
    n : int, default=10
    exclude : matrix of counts of shape (m, p), optional
        Columns with a positive count, which a row has already, are not recommended to it.
    items : array-like of int or str, optional
        Columns that may be recommended, by number or, if H is a DataFrame, by name; by default all.

    Returns
    -------
    Recommendations
        Columns of rate 0 are not recommended, so a row of zeros in W gets none. Of columns with equal rates, the one
        with the lower number is first. Each row has min(n, p) entries, or min(n, number of items).

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value.

    Examples
    --------
    >>> from fastpmf import recommend
    >>> recommend([[2, 0], [1, 1]], [[3, 1, 0], [0, 1, 3]], 2, exclude=[[1, 0, 0], [0, 0, 0]]).indices.tolist()
    [[1, -1], [0, 2]]
    """
    by_row, by_column = labels_of(W, 0)._replace(source="W"), labels_of(H, 1)._replace(source="H", item="column")
    exclude = align(exclude, "exclude", rows=by_row, columns=by_column)
    W, H = _factors(W, H)
    check_scalar(n, "n", (int, np.integer), min_val=1)
    m, p = len(W), H.shape[1]
    seen = None if exclude is None else _like(exclude, m, p, "exclude")
    columns = None
    if items is not None:
        columns = np.unique(positions(items, p, "items", by_column.names))
        if not len(columns):
            raise ValueError("items must hold at least one column, got none")
        H, seen = H[:, columns], None if seen is None else seen[:, columns]
    width = min(n, H.shape[1])
    indices, rates = np.empty((m, width), np.int64), np.empty((m, width))
    for rows, block in _blocks(W, H, seen, np.arange(m)):
        indices[rows], rates[rows] = _first(block, width)
    if columns is not None:
        indices = np.where(indices < 0, -1, columns[indices])
    return Recommendations(indices, rates).named(by_column.names, by_row.names)


def ranking_scores(X: Any, W: Any, H: Any, n: int = 10, *, exclude: Any = None, auc: bool = False) -> RankingScores:
    """How high held-out counts are ranked by their rates.

    Parameters
    ----------
    X : matrix of counts of shape (m, p)
        Held-out counts: a column is relevant to a row where they are positive.
    W : array-like of shape (m, k)
    H : array-like of shape (k, p)
    n : int, default=10
        Number of columns that are recommended to each row, as by `recommend`.
    exclude : matrix of counts of shape (m, p), optional
        The counts that were fitted. Their nonzero entries are neither candidates nor relevant.
    auc : bool, default=False
        Whether to compute the AUC, which ranks all columns of a row and takes longer than everything else.

    Returns
    -------
    RankingScores

    Raises
    ------
    TypeError
        If an argument has an invalid type.
    ValueError
        If an argument has an invalid shape or value, or no row has a relevant column.

    Examples
    --------
    >>> from fastpmf import ranking_scores
    >>> ranking_scores([[0, 1, 0]], [[1.0]], [[3, 2, 1]], 2, auc=True)
    RankingScores(precision=0.5, recall=1.0, ndcg=0.6309297535714575, auc=0.5, n_rows=1)
    """
    labels = MatrixLabels.of(X)
    exclude = align(exclude, "exclude", rows=labels.rows, columns=labels.columns)
    W, H = _factors(*align_factors(X, W, H))
    check_scalar(n, "n", (int, np.integer), min_val=1)
    m, p = len(W), H.shape[1]
    relevant = _like(X, m, p, "X")
    seen = None if exclude is None else _like(exclude, m, p, "exclude")
    some = np.flatnonzero(np.diff(relevant.indptr))
    discount, sums, n_rows, marks = 1 / np.log2(np.arange(2, n + 2)), np.zeros(4), 0, np.zeros(0, bool)
    for rows, block in _blocks(W, H, seen, some):
        flat = block.ravel()
        at = _entries(relevant, rows)
        at = at[flat[at] > -np.inf]
        good = np.bincount(at // p, minlength=len(block))
        first, _ = _first(block, min(n, p))
        if len(marks) < len(flat):
            marks = np.zeros(len(flat), bool)
        marks[at] = True
        hits = marks[first + np.arange(len(block))[:, None] * p] & (first >= 0)
        marks[at] = False
        kept = good > 0
        hits, good = hits[kept], good[kept]
        best = np.cumsum(discount)[np.minimum(good, n) - 1]
        sums[:3] += hits.sum() / n, (hits.sum(axis=1) / good).sum(), (hits @ discount[: hits.shape[1]] / best).sum()
        if auc:
            sums[3] += _aucs(block, at, flat[at]).sum()
        n_rows += len(good)
    if not n_rows:
        raise ValueError("X must hold a positive count that exclude does not")
    precision, recall, ndcg, area = (sums / n_rows).tolist()
    return RankingScores(precision, recall, ndcg, area if auc else None, n_rows)


def similar_columns(H: Any, columns: Any, n: int = 10, *, items: Any = None) -> Recommendations:
    """The n columns whose rates rise and fall with those of the given ones: cosines of P(j|z) over components.

    Parameters
    ----------
    H : array-like of shape (k, p)
    columns : int, str or array-like of either, of shape (m,)
        Columns by number or, if H is a DataFrame, by name.
    n : int, default=10
    items : array-like of int or str, optional
        Columns that may be returned; by default all.

    Returns
    -------
    Recommendations
        `rates` are cosines, above 0 and at most 1; where fewer than n columns have a positive one, the index is -1. No
        column is similar to itself.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value.

    Examples
    --------
    >>> from fastpmf import similar_columns
    >>> similar_columns([[3, 6, 0], [1, 2, 5]], [0], 1).indices.tolist()
    [[1]]
    """
    names = labels_of(H, 1).names
    H = check_array(H, "H")
    H = check_factor(H, H.shape, "H").astype(np.float64)
    if H.ndim != 2:
        raise ValueError(f"H must be a matrix, got shape {H.shape}")
    columns = np.atleast_1d(positions(columns, H.shape[1], "columns", names))
    if columns.ndim > 1:
        raise ValueError(f"columns must be a list of numbers, got shape {columns.shape}")
    sums = H.sum(axis=1, keepdims=True)
    P = np.divide(H, sums, out=np.zeros_like(H), where=sums > 0)
    lengths = np.linalg.norm(P, axis=0)
    P = np.divide(P, lengths, out=P, where=lengths > 0)
    m, p = len(columns), H.shape[1]
    itself = sparse.csr_array((np.ones(m, np.uint8), columns, np.arange(m + 1)), shape=(m, p)) if m else None
    items = None if items is None else positions(items, p, "items", names)
    found = recommend(P[:, columns].T, P, n, exclude=itself, items=items)
    found = found._replace(rates=np.minimum(found.rates, 1.0))  # rounding may add a little
    return found.named(names, None if names is None else names[columns])


def _blocks(
    W: np.ndarray, H: np.ndarray, seen: sparse.csr_array | None, some: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rates of some rows, block by block, -inf for the entries of `seen`; each block overwrites the previous one."""
    step = max(1, _BLOCK // H.shape[1])
    buffer = np.empty((min(step, len(some)), H.shape[1]))
    for start in range(0, len(some), step):
        rows = some[start : start + step]
        block = np.matmul(W[rows].astype(np.float64, copy=False), H, out=buffer[: len(rows)])
        if seen is not None:
            block.ravel()[_entries(seen, rows)] = -np.inf
        yield rows, block


def _entries(X: sparse.csr_array, rows: np.ndarray) -> np.ndarray:
    """Places of the stored entries of some rows in a C-ordered array of these rows, ascending."""
    part = X[rows]
    return np.repeat(np.arange(len(rows)), np.diff(part.indptr)) * X.shape[1] + part.indices


def _first(block: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rates of the n highest positive rates of each row, ties by column; -1 and NaN if there are fewer."""
    m, p = block.shape
    # The n-th highest of the maxima of disjoint groups of columns is at most the n-th highest of all
    groups = min(p, max(256, 8 * n))
    highest = block[:, : p - p % groups].reshape(m, -1, groups).max(axis=1)
    bound = np.partition(highest, groups - n, axis=1)[:, groups - n, None]
    at = np.flatnonzero(block >= np.maximum(bound, _LEAST_RATE))
    row, found = at // p, block.ravel()[at]
    order = np.lexsort((-found, row))  # stable, so that of equal rates the lower column is first
    at, row, found = at[order], row[order], found[order]
    rank = np.arange(len(at)) - np.searchsorted(row, np.arange(m))[row]
    kept = rank < n
    indices, rates = np.full((m, n), -1), np.full((m, n), np.nan)
    indices[row[kept], rank[kept]] = at[kept] % p
    rates[row[kept], rank[kept]] = found[kept]
    return indices, rates


def _aucs(block: np.ndarray, at: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """AUC of each row with a relevant column; `at` and `rates` are those of the relevant entries. Sorts the block."""
    rows, starts = np.unique(at // block.shape[1], return_index=True)
    out = np.empty(len(rows))
    block.sort(axis=1)
    for r, (i, own) in enumerate(zip(rows, np.split(rates, starts[1:]), strict=True)):
        candidates = block[i, np.searchsorted(block[i], -np.inf, side="right") :]
        n_good, n_other = len(own), len(candidates) - len(own)
        ranks = sum(np.searchsorted(candidates, own, side=side).sum() for side in ("left", "right")) + n_good
        out[r] = (ranks - n_good * (n_good + 1)) / (2 * n_good * n_other) if n_other else 0.5
    return out


def _factors(W: Any, H: Any) -> tuple[np.ndarray, np.ndarray]:
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    W, H = check_array(W, "W"), check_array(H, "H")
    if W.ndim != 2 or H.ndim != 2 or W.shape[1] != len(H):
        raise ValueError(f"W and H must be matrices of shape (m, k) and (k, p), got {W.shape} and {H.shape}")
    W, H = (check_factor(A, A.shape, name) for A, name in ((W, "W"), (H, "H")))
    component_sums(W, H)  # so that no rate is infinite
    return W, H.astype(np.float64, copy=False)


def _like(X: Any, m: int, p: int, name: str) -> sparse.csr_array:
    counts: MemoryCounts = as_counts(X, name=name)
    if counts.shape != (m, p):
        raise ValueError(f"{name} must have shape {(m, p)}, as W H has, got {counts.shape}")
    return counts.to_scipy()
