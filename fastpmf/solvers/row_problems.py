"""One factor fixed: every row is a convex problem of its own, and is solved until a bound says how nearly."""

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.core.subproblem import NO_PRIOR, RowPrior
from fastpmf.counts import MemoryCounts

SWEEPS = 3  # between two looks at how far a row is from its optimum
# Rounds after which a row's moves are extrapolated. Most rows need fewer; where two components are nearly collinear,
# coordinate descent alone would take thousands.
PLAIN = 30
# Rounds without a smaller gap after which a row loses its momentum; then twice as many, and so on. Where a penalty
# makes its problem strongly convex, it can circle around the optimum for ever and never be seen to turn back.
_PATIENCE = 60
_KEPT = 0.1  # of an entry is left by one extrapolation at least, so that every rate stays positive


def solve_rows(
    counts: MemoryCounts,
    Ht: np.ndarray,
    weight: np.ndarray,
    start: np.ndarray,
    *,
    prior: RowPrior = NO_PRIOR,
    n_components: int,
    max_rounds: int,
    tol: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds of coordinate descent from `start`, for each row until its gap is at most tol times its counts.

    After `PLAIN` rounds a row's moves are carried on as in Nesterov's method, restarted where that leads back. A row
    takes the same way alone and in company.

    Parameters
    ----------
    counts : MemoryCounts of shape (n, p)
    Ht : ndarray of shape (p, K), padded
        The fixed factor.
    weight : ndarray of shape (K,) or (1 or n, K)
        Its column sums, or those of what each row observes, plus a prior's rates.
    start : ndarray of shape (n, K), padded
    prior : RowPrior, optional
    n_components, max_rounds : int
    tol : float
        Nats per count.

    Returns
    -------
    W : ndarray of shape (n, K)
        Of all rows passed through after `PLAIN` rounds, those with the least gap.
    gap : ndarray of shape (n,), float64
        What a better row could gain at most, in nats; not finite for rows with a rate that isn't.

    References
    ----------
    B. O'Donoghue and E. Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15 (2015),
    section 3.2, for when to restart.
    """

    weight = np.atleast_2d(weight)

    def descend(
        counts: MemoryCounts, start: np.ndarray, weight: np.ndarray, prior: RowPrior, rounds: int
    ) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros_like(start)
        descent = counts.descend(
            Side.ROWS, start, Ht, weight, out, prior=prior, n_components=n_components, sweeps=SWEEPS,
            max_rounds=rounds, tol=tol,
        )  # fmt: skip
        return out, descent.gap

    best, least = descend(counts, start, weight, prior, min(PLAIN, max_rounds))
    enough = tol * (counts.sums(Side.ROWS) + prior.total_shape)
    left = np.flatnonzero(np.isfinite(least) & (least > enough))
    old = ahead = best[left]
    age = np.zeros(len(left))  # rounds since a row's momentum was last 0
    since, patience = np.zeros(len(left)), np.full(len(left), _PATIENCE)  # its gap was last smaller
    some = counts.select_rows(left), *_rows_of(left, weight, prior)
    for _ in range(max_rounds - PLAIN):
        if not len(left):
            break
        new, gap = descend(some[0], ahead, *some[1:], 1)
        better = gap < least[left]
        best[left[better]], least[left[better]] = new[better], gap[better]
        with np.errstate(under="ignore"):
            back = ((ahead - new) * (new - old)).sum(axis=1) > 0
        since = np.where(better, 0, since + 1)
        tired = since >= patience
        since, patience = np.where(tired, 0, since), np.where(tired, 2 * patience, patience)
        age = np.where(back | tired, 0, age + 1)
        going = np.isfinite(gap) & (gap > enough[left])
        if not going.all():
            left, new, old, age = left[going], new[going], old[going], age[going]
            since, patience = since[going], patience[going]
            some = counts.select_rows(left), *_rows_of(left, weight, prior)
        momentum = (age / (age + 3))[:, None].astype(new.dtype)
        ahead, old = np.maximum(new + momentum * (new - old), new.dtype.type(_KEPT) * new), new
    return best, least


def _rows_of(rows: np.ndarray, weight: np.ndarray, prior: RowPrior) -> tuple[np.ndarray, RowPrior]:
    """Weights and prior of these rows, by number."""
    return weight[rows] if len(weight) > 1 else weight, prior.select_rows(rows)
