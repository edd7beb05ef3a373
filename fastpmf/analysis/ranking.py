"""Exact recommendations, the columns of highest rate in each row, and their scores on held-out counts.

Rates W_i . H_j are computed by BLAS for a block of rows at a time; only the n highest of each row are stored.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils import check_scalar

from fastpmf.analysis.features import distributions, safe_divide
from fastpmf.analysis.rates import align_rates
from fastpmf.core.factors import component_sums
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import Labels, MatrixLabels, align, align_components, labels_of
from fastpmf.utils.tables import Table, data_frame, shown_as_table, top_weighted
from fastpmf.utils.validation import check_array, check_components, check_factor, check_matrix, positions

_BLOCK = 1 << 21  # number of rates in a block
_ROWS_SHOWN = 10
_MIN_RATE = np.nextafter(0.0, 1.0)


@shown_as_table
class Recommendations(NamedTuple):
    """The columns of highest rate, best first.

    Attributes
    ----------
    indices : ndarray of shape (m, n), int64
        Numbers of columns; -1 if a row has fewer than n columns with a positive rate that may be recommended.
    rates : ndarray of shape (m, n), float64
        Expected counts W_i . H_j, or similarities; NaN where the index is -1.
    names : ndarray of shape (m, n), object, or None
        Names of the columns, "" where the index is -1; None if columns have no names.
    row_names : ndarray of shape (m,), or None
        Names of the rows; None if rows have no names.
    quantity : str
        What `rates` are: "rate", or "similarity" in results of `similar_columns`.

    See Also
    --------
    recommend : computes them.

    Examples
    --------
    >>> from fastpmf import recommend
    >>> found = recommend([[2, 0], [1, 1]], [[3, 1, 0], [0, 1, 4]], 2)
    >>> found.indices.tolist(), found.rates.tolist()
    ([[0, 1], [2, 0]], [[6.0, 2.0], [4.0, 3.0]])
    """

    indices: np.ndarray
    rates: np.ndarray
    names: np.ndarray | None = None
    row_names: np.ndarray | None = None
    quantity: str = "rate"

    def named(self, names: np.ndarray | None, row_names: np.ndarray | None = None) -> "Recommendations":
        """The same with names, given those of all p columns and of the m rows; None if they have none."""
        found = None if names is None else np.where(self.indices < 0, "", names.astype(object)[self.indices])
        return self._replace(names=found, row_names=row_names)

    def to_frame(self, *, wide: bool = False) -> Any:
        """The table as a pandas DataFrame, with names of rows and columns, or numbers if they have no names.

        Parameters
        ----------
        wide : bool, default=False
            False: a row for each recommendation, with columns row, rank (from 1), item and rate, an expected count;
            the last is named similarity in results of `similar_columns`. True: the items only, with a row for each row
            and a column for each rank; "" or -1 where there are fewer.

        Returns
        -------
        DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> from fastpmf import recommend
        >>> recommend([[2, 0], [1, 1]], [[3, 1, 0], [0, 1, 3]], 2, exclude=[[1, 0, 0], [0, 0, 0]]).to_frame()
           row  rank  item  rate
        0    0     1     1   2.0
        1    1     1     0   3.0
        2    1     2     2   3.0
        """
        items = self.indices if self.names is None else self.names
        rows = np.arange(len(items)) if self.row_names is None else self.row_names
        if wide:
            frame = data_frame(items, rows, "row")
            frame.columns = frame.columns + 1
            frame.columns.name = "rank"
            return frame
        i, rank = valid = np.nonzero(self.indices >= 0)
        columns = {"row": rows[i], "rank": rank + 1, "item": items[valid], self.quantity: self.rates[valid]}
        return data_frame(columns)

    def _table(self) -> Table:
        (m, n), first = self.indices.shape, slice(_ROWS_SHOWN)
        items = self.indices if self.names is None else self.names
        rows = range(m) if self.row_names is None else self.row_names.tolist()
        found = top_weighted(items[first], self.rates[first], self.indices[first] >= 0, n)
        kind = "recommendation" if self.quantity == "rate" else "similar item"
        title = f"{n} {kind}{'s' * (n != 1)} for {m:,} row{'s' * (m != 1)}"
        return Table(title, {"row": rows[first], "items": found}, n_rows=m)


@shown_as_table
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
        Probability that a relevant candidate has a higher rate than an irrelevant one, where ties count half; None if
        it was not requested.
    n_rows : int
        Number of rows that have a relevant column.

    See Also
    --------
    ranking_scores : computes them.

    Examples
    --------
    >>> from fastpmf import ranking_scores
    >>> scores = ranking_scores([[1, 0, 0], [0, 0, 2]], [[2, 0], [1, 1]], [[3, 1, 0], [0, 1, 4]], 1)
    >>> scores.precision, scores.recall, scores.n_rows
    (1.0, 1.0, 2)
    """

    precision: float
    recall: float
    ndcg: float
    auc: float | None
    n_rows: int

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row, and the attributes that are not None as columns.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        return data_frame({name: [value] for name, value in self._asdict().items() if value is not None})

    def _table(self) -> Table:
        scores = {name: [value] for name, value in self._asdict().items() if value is not None and name != "n_rows"}
        return Table(f"Ranking scores, means over {self.n_rows:,} row{'s' * (self.n_rows != 1)}", scores)


def recommend(W: Any, H: Any, n: int = 10, *, exclude: Any = None, items: Any = None) -> Recommendations:
    """The n columns of highest rate for each row of W.

    Parameters
    ----------
    W : array-like of shape (m, k)
    H : array-like of shape (k, p) or fitted estimator
        Of a fitted estimator, the rates have its column exposures and background.
    n : int, default=10
    exclude : matrix of counts of shape (m, p), optional
        Columns with a positive count in a row are not recommended to it.
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

    See Also
    --------
    similar_columns : similar items, without a row.
    ranking_scores : scores recommendations.
    PoissonNMF.recommend : the same with a fitted model.

    Examples
    --------
    >>> from fastpmf import recommend
    >>> recommend([[2, 0], [1, 1]], [[3, 1, 0], [0, 1, 3]], 2, exclude=[[1, 0, 0], [0, 0, 0]]).indices.tolist()
    [[1, -1], [0, 2]]
    """
    rows, columns = labels_of(W, 0)._replace(source="W"), labels_of(H, 1)._replace(source="H", item="column")
    exclude = align(exclude, "exclude", rows=rows, columns=columns)
    W, H = _factors(*align_rates(None, W, H))
    check_scalar(n, "n", (int, np.integer), min_val=1)
    m, p = len(W), H.shape[1]
    seen = None if exclude is None else _counts(exclude, m, p, "exclude")
    chosen = None
    if items is not None:
        chosen = np.unique(positions(items, p, "items", columns.names))
        if not len(chosen):
            raise ValueError("items must hold at least one column, got none")
        H, seen = H[:, chosen], None if seen is None else seen[:, chosen]
    width = min(n, H.shape[1])
    indices, rates = np.empty((m, width), np.int64), np.empty((m, width))
    for at, block in _blocks(W, H, seen, np.arange(m)):
        indices[at], rates[at] = _highest(block, width)
    if chosen is not None:
        indices = np.where(indices < 0, -1, chosen[indices])
    return Recommendations(indices, rates).named(columns.names, rows.names)


def ranking_scores(X: Any, W: Any, H: Any, n: int = 10, *, exclude: Any = None, auc: bool = False) -> RankingScores:
    """Scores of the ranking of columns by rate on held-out counts.

    Parameters
    ----------
    X : matrix of counts of shape (m, p)
        Held-out counts: a column with a positive count is relevant to the row.
    W : array-like of shape (m, k)
    H : array-like of shape (k, p) or fitted estimator
        Of a fitted estimator, the rates have its column exposures and background.
    n : int, default=10
        Number of columns to recommend to each row, as by `recommend`.
    exclude : matrix of counts of shape (m, p), optional
        The fitted counts. Their nonzero entries are neither candidates nor relevant.
    auc : bool, default=False
        Whether to compute the AUC, which ranks all columns of a row and takes longer than everything else.

    Returns
    -------
    RankingScores

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value, or no row has a relevant column.

    See Also
    --------
    recommend : the rankings.
    thin_counts : holds out counts to score against.

    Examples
    --------
    >>> from fastpmf import ranking_scores
    >>> ranking_scores([[0, 1, 0]], [[1.0]], [[3, 2, 1]], 2, auc=True)
    Ranking scores, means over 1 row
    precision  recall    ndcg  auc
          0.5       1  0.6309  0.5
    """
    labels = MatrixLabels.of(X)
    exclude = align(exclude, "exclude", rows=labels.rows, columns=labels.columns)
    W, H = _factors(*align_rates(X, W, H))
    check_scalar(n, "n", (int, np.integer), min_val=1)
    m, p = len(W), H.shape[1]
    relevant = _counts(X, m, p, "X")
    seen = None if exclude is None else _counts(exclude, m, p, "exclude")
    discount, sums, n_rows, marks = 1 / np.log2(np.arange(2, n + 2)), np.zeros(4), 0, np.zeros(0, bool)
    for rows, block in _blocks(W, H, seen, np.flatnonzero(np.diff(relevant.indptr))):
        flat = block.ravel()
        at = _flat_positions(relevant, rows)
        at = at[flat[at] > -np.inf]
        n_relevant = np.bincount(at // p, minlength=len(block))
        first, _ = _highest(block, min(n, p))
        if len(marks) < len(flat):
            marks = np.zeros(len(flat), bool)
        marks[at] = True
        hits = marks[first + np.arange(len(block))[:, None] * p] & (first >= 0)
        marks[at] = False
        scored = n_relevant > 0
        hits, n_relevant = hits[scored], n_relevant[scored]
        ideal = np.cumsum(discount)[np.minimum(n_relevant, n) - 1]
        gains = hits @ discount[: hits.shape[1]]
        sums[:3] += hits.sum() / n, (hits.sum(axis=1) / n_relevant).sum(), (gains / ideal).sum()
        if auc:
            sums[3] += _aucs(block, at, flat[at]).sum()
        n_rows += len(n_relevant)
    if not n_rows:
        raise ValueError("X must hold a positive count that is not in exclude")
    precision, recall, ndcg, area = (sums / n_rows).tolist()
    return RankingScores(precision, recall, ndcg, area if auc else None, n_rows)


def similar_columns(H: Any, columns: Any, n: int = 10, *, items: Any = None) -> Recommendations:
    """The n columns most similar to each of the given ones, by the cosine of P(j|z) over components.

    Parameters
    ----------
    H : array-like of shape (k, p) or fitted estimator
    columns : int, str or array-like of either, of shape (m,)
        Columns by number or, if H is a DataFrame, by name.
    n : int, default=10
    items : array-like of int or str, optional
        Columns that may be returned; by default all.

    Returns
    -------
    Recommendations
        `rates` are cosines, above 0 and at most 1. The index is -1 if fewer than n columns have a positive cosine. A
        column is not similar to itself.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value.

    See Also
    --------
    recommend : items for each row.
    PoissonNMF.similar_items : the same with a fitted model.

    Examples
    --------
    >>> from fastpmf import similar_columns
    >>> similar_columns([[3, 6, 0], [1, 2, 5]], [0], 1).indices.tolist()
    [[1]]
    """
    names, P = labels_of(H, 1).names, distributions(H)
    p = P.shape[1]
    columns = np.atleast_1d(positions(columns, p, "columns", names))
    if columns.ndim > 1:
        raise ValueError(f"columns must be a list of numbers, got shape {columns.shape}")
    P = safe_divide(P, np.linalg.norm(P, axis=0))
    m = len(columns)
    itself = sparse.csr_array((np.ones(m, np.uint8), columns, np.arange(m + 1)), shape=(m, p)) if m else None
    items = None if items is None else positions(items, p, "items", names)
    found = recommend(P[:, columns].T, P, n, exclude=itself, items=items)
    rates = np.minimum(found.rates, 1.0)  # rounding may add a little
    found = found._replace(rates=rates, quantity="similarity")
    return found.named(names, None if names is None else names[columns])


def choose_rows(
    rows: Any, W: Any, counts: MemoryCounts | None, labels: Labels, n_components: int
) -> tuple[np.ndarray | None, MemoryCounts | None, np.ndarray | None]:
    """W (m, n_components), counts (m, p) and names (m,) of the rows to recommend to; all rows if `rows` is None.

    W or `counts` may be None, but not both. `labels`, by which W is aligned, are those of the rows of X, or of W
    without X.
    """
    W = None if W is None else check_array(align(W, "W", rows=labels), "W")
    n_rows, names = len(np.atleast_1d(W)) if counts is None else counts.shape[0], labels.names
    W = None if W is None else check_factor(W, (n_rows, n_components), "W")
    if names is not None and len(names) != n_rows:
        raise ValueError(f"X must have a name for each of its {n_rows} rows, got {len(names)} row names")
    if rows is None:
        return W, counts, names
    at = positions(rows, n_rows, "rows", names).ravel()
    W, names = (None if A is None else A[at] for A in (W, names))
    return W, None if counts is None else counts.select_rows(at), names


def _blocks(
    W: np.ndarray, H: np.ndarray, seen: sparse.csr_array | None, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of the given rows and their rates, -inf for the entries of `seen`; the next block overwrites the rates."""
    step = max(1, _BLOCK // H.shape[1])
    buffer = np.empty((min(step, len(rows)), H.shape[1]))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        block = np.matmul(W[part].astype(np.float64, copy=False), H, out=buffer[: len(part)])
        if seen is not None:
            block.ravel()[_flat_positions(seen, part)] = -np.inf
        yield part, block


def _flat_positions(X: sparse.csr_array, rows: np.ndarray) -> np.ndarray:
    """Positions of the stored entries of the given rows in a flat C-ordered array of these rows, ascending."""
    part = X[rows]
    return np.repeat(np.arange(len(rows)), np.diff(part.indptr)) * X.shape[1] + part.indices


def _highest(block: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rates of the n highest positive rates of each row, ties by column; -1 and NaN if there are fewer."""
    m, p = block.shape
    # The n-th highest of the maxima of disjoint groups of columns is at most the n-th highest of all
    groups = min(p, max(256, 8 * n))
    maxima = block[:, : p - p % groups].reshape(m, -1, groups).max(axis=1)
    bound = np.partition(maxima, groups - n, axis=1)[:, groups - n, None]
    at = np.flatnonzero(block >= np.maximum(bound, _MIN_RATE))
    row, found = at // p, block.ravel()[at]
    order = np.lexsort((-found, row))  # stable, so that of equal rates the lower column is first
    at, row, found = at[order], row[order], found[order]
    rank = np.arange(len(at)) - np.searchsorted(row, np.arange(m))[row]
    first = rank < n
    indices, rates = np.full((m, n), -1), np.full((m, n), np.nan)
    indices[row[first], rank[first]] = at[first] % p
    rates[row[first], rank[first]] = found[first]
    return indices, rates


def _aucs(block: np.ndarray, at: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """AUC of each row with a relevant column; `at` and `rates` are those of the relevant entries. Sorts the block."""
    rows, starts = np.unique(at // block.shape[1], return_index=True)
    out = np.empty(len(rows))
    block.sort(axis=1)
    for r, (i, relevant) in enumerate(zip(rows, np.split(rates, starts[1:]), strict=True)):
        candidates = block[i, np.searchsorted(block[i], -np.inf, side="right") :]
        n_relevant, n_other = len(relevant), len(candidates) - len(relevant)
        ranks = sum(np.searchsorted(candidates, relevant, side=side).sum() for side in ("left", "right")) + n_relevant
        out[r] = (ranks - n_relevant * (n_relevant + 1)) / (2 * n_relevant * n_other) if n_other else 0.5
    return out


def _factors(W: Any, H: Any) -> tuple[np.ndarray, np.ndarray]:
    """W, which may have no rows, and H in float64, such that no rate is infinite."""
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    W, H = check_array(W, "W"), check_matrix(H, "H")
    if W.ndim == 2:
        check_components(W, H)
    W = check_factor(W, (len(np.atleast_1d(W)), len(H)), "W")
    component_sums(W, H)  # raises an error if their sum is infinite
    return W, H.astype(np.float64, copy=False)


def _counts(X: Any, m: int, p: int, name: str) -> sparse.csr_array:
    counts = as_counts(X, name=name)
    if counts.shape != (m, p):
        raise ValueError(f"{name} must have shape {(m, p)}, as W H has, got {counts.shape}")
    return counts.to_scipy()
