"""Which columns have the highest rates in each row: recommendations, exact, and how good they are.

Rates W_i . H_j are formed for a block of rows at a time, by BLAS, and only the first n of each row are kept.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.stats import rankdata
from sklearn.utils import check_scalar

from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.model.factors import check_array, check_factor, component_sums

_BLOCK = 1 << 24  # rates that are formed at once


class Recommendations(NamedTuple):
    """The columns of highest rates, best first.

    Attributes
    ----------
    indices : ndarray of shape (m, n), int64
        Numbers of columns; -1 where a row has no more that may be recommended.
    rates : ndarray of shape (m, n), float64
        W_i . H_j; NaN where there is none.
    """

    indices: np.ndarray
    rates: np.ndarray


class RankingScores(NamedTuple):
    """Means over the rows that hold anything relevant.

    Attributes
    ----------
    precision : float
        Share of the n recommended columns that are relevant.
    recall : float
        Share of the relevant columns that are among them.
    ndcg : float
        Normalised discounted cumulative gain at n, of binary relevance, discount 1 / log2(rank + 1).
    auc : float
        Probability that a relevant column is ranked above one that is not, ties half; over all candidates.
    n_rows : int
        Rows that hold anything relevant.
    """

    precision: float
    recall: float
    ndcg: float
    auc: float
    n_rows: int


def recommend(W: Any, H: Any, n: int = 10, *, exclude: Any = None) -> Recommendations:
    """The n columns of highest rate for each row of W.

    Parameters
    ----------
    W : array-like of shape (m, k)
    H : array-like of shape (k, p)
    n : int, default=10
    exclude : matrix of counts of shape (m, p), optional
        Columns that a row has already, which are not recommended to it.

    Returns
    -------
    Recommendations
        Of equal rates, the column with the lower number is first.

    Examples
    --------
    >>> from fastpmf import recommend
    >>> recommend([[2, 0], [1, 1]], [[3, 1, 0], [0, 1, 3]], 2, exclude=[[1, 0, 0], [0, 0, 0]]).indices.tolist()
    [[1, 2], [0, 2]]
    """
    W, H = _factors(W, H)
    check_scalar(n, "n", (int, np.integer), min_val=1)
    m, p = len(W), H.shape[1]
    width = min(n, p)
    seen = None if exclude is None else _like(exclude, m, p, "exclude")
    indices, rates = np.empty((m, width), np.int64), np.empty((m, width))
    for rows, block in _blocks(W, H, seen):
        indices[rows], rates[rows] = _first(block, width)
    gone = rates == -np.inf
    indices[gone], rates[gone] = -1, np.nan
    return Recommendations(indices, rates)


def ranking_scores(W: Any, H: Any, held_out: Any, n: int = 10, *, exclude: Any = None) -> RankingScores:
    """How high the columns that rows turn out to hold are ranked by their rates.

    Parameters
    ----------
    W : array-like of shape (m, k)
    H : array-like of shape (k, p)
    held_out : matrix of counts of shape (m, p)
        Relevant is where it is positive. What `exclude` holds is no candidate, and not relevant.
    n : int, default=10
    exclude : matrix of counts of shape (m, p), optional
        The counts that were fitted.

    Returns
    -------
    RankingScores

    Raises
    ------
    ValueError
        No row holds anything relevant.

    Examples
    --------
    >>> from fastpmf import ranking_scores
    >>> ranking_scores([[1.0]], [[3, 2, 1]], [[0, 1, 0]], 2)
    RankingScores(precision=0.5, recall=1.0, ndcg=0.6309297535714575, auc=0.5, n_rows=1)
    """
    W, H = _factors(W, H)
    check_scalar(n, "n", (int, np.integer), min_val=1)
    m, p = len(W), H.shape[1]
    relevant = _like(held_out, m, p, "held_out")
    seen = None if exclude is None else _like(exclude, m, p, "exclude")
    discount, sums, n_rows = 1 / np.log2(np.arange(2, n + 2)), np.zeros(4), 0
    for rows, block in _blocks(W, H, seen):
        good = relevant[rows].toarray() > 0
        good &= block > -np.inf
        some = good.any(axis=1)
        good, block = good[some], block[some]
        first, found = _first(block, min(n, p))
        hits = np.take_along_axis(good, first, axis=1) & (found > -np.inf)
        many = good.sum(axis=1)
        best = np.cumsum(discount)[np.minimum(many, n) - 1]
        sums[:3] += hits.sum() / n, (hits.sum(axis=1) / many).sum(), (hits @ discount[: hits.shape[1]] / best).sum()
        sums[3] += sum(_auc(rates, own) for rates, own in zip(block, good, strict=True))
        n_rows += len(good)
    if not n_rows:
        raise ValueError("held_out must hold a positive count that exclude does not")
    precision, recall, ndcg, auc = (sums / n_rows).tolist()
    return RankingScores(precision, recall, ndcg, auc, n_rows)


def similar_columns(H: Any, columns: Any, n: int = 10) -> Recommendations:
    """The n columns whose rates rise and fall with those of the given ones: cosines of P(j|z) over components.

    Parameters
    ----------
    H : array-like of shape (k, p)
    columns : array-like of int, of shape (m,)
        Numbers of columns.
    n : int, default=10

    Returns
    -------
    Recommendations
        `rates` are cosines, at most 1. No column is similar to itself, or to a column of zeros.

    Examples
    --------
    >>> from fastpmf import similar_columns
    >>> similar_columns([[3, 6, 0], [1, 2, 5]], [0], 1).indices.tolist()
    [[1]]
    """
    H = check_array(H, "H")
    H = check_factor(H, H.shape, "H").astype(np.float64)
    columns = check_array(columns, "columns", "numbers of columns")
    if H.ndim != 2 or columns.ndim != 1 or columns.dtype.kind not in "iu":
        raise ValueError("H must be a matrix, and columns a list of whole numbers")
    if len(columns) and not 0 <= columns.min() <= columns.max() < H.shape[1]:
        raise ValueError(f"columns must lie in 0 ... {H.shape[1] - 1}, got {columns.min()} to {columns.max()}")
    sums = H.sum(axis=1, keepdims=True)
    P = np.divide(H, sums, out=np.zeros_like(H), where=sums > 0)
    lengths = np.linalg.norm(P, axis=0)
    P = np.divide(P, lengths, out=P, where=lengths > 0)
    m, p = len(columns), H.shape[1]
    nothing = np.flatnonzero(lengths == 0)
    i = np.concatenate([np.arange(m), np.repeat(np.arange(m), len(nothing))])
    j = np.concatenate([columns, np.tile(nothing, m)])
    exclude = sparse.csr_array((np.ones(len(i), np.uint8), (i, j)), shape=(m, p)) if m else None
    return recommend(P[:, columns].T, P, n, exclude=exclude)


def _blocks(W: np.ndarray, H: np.ndarray, seen: sparse.csr_array | None) -> Iterator[tuple[slice, np.ndarray]]:
    """Rates of blocks of rows, -inf where they are seen."""
    step = max(1, _BLOCK // H.shape[1])
    for start in range(0, len(W), step):
        rows = slice(start, min(start + step, len(W)))
        block = W[rows] @ H
        if seen is not None:
            part = seen[rows].tocoo()
            block[part.row, part.col] = -np.inf
        yield rows, block


def _first(block: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n highest of each row, highest first, and of equals the first."""
    last = np.partition(-block, n - 1, axis=1)[:, n - 1 : n]
    # All that tie with the n-th are candidates, so that it is the first of these that is taken
    indices = np.empty((len(block), n), np.int64)
    for i, (row, bound) in enumerate(zip(block, -last, strict=True)):
        near = np.flatnonzero(row >= bound)
        indices[i] = near[np.argsort(-row[near], kind="stable")[:n]]
    return indices, np.take_along_axis(block, indices, axis=1)


def _auc(rates: np.ndarray, good: np.ndarray) -> float:
    """Of the candidates of one row; one half where all of them are relevant."""
    candidates = rates > -np.inf
    own = good[candidates]
    n_good = int(own.sum())
    n_other = len(own) - n_good
    if not n_other:
        return 0.5
    ranks = rankdata(rates[candidates])[own].sum()
    return float((ranks - n_good * (n_good + 1) / 2) / (n_good * n_other))


def _factors(W: Any, H: Any) -> tuple[np.ndarray, np.ndarray]:
    W, H = check_array(W, "W"), check_array(H, "H")
    if W.ndim != 2 or H.ndim != 2 or W.shape[1] != len(H):
        raise ValueError(f"W and H must be matrices of shape (m, k) and (k, p), got {W.shape} and {H.shape}")
    W, H = (check_factor(A, A.shape, name).astype(np.float64) for A, name in ((W, "W"), (H, "H")))
    component_sums(W, H)  # so that no rate is infinite
    return W, H


def _like(X: Any, m: int, p: int, name: str) -> sparse.csr_array:
    counts: MemoryCounts = as_counts(X, name=name)
    if counts.shape != (m, p):
        raise ValueError(f"{name} must have shape {(m, p)}, as W H has, got {counts.shape}")
    return counts.to_scipy()
