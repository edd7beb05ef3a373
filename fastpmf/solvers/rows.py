"""One factor fixed: every row is a convex problem of its own, and is solved until a bound says how nearly."""

import numpy as np

from fastpmf.counts import MemoryCounts, Side

SWEEPS = 3  # between two looks at how far a row is from its optimum
# Rounds after which a row's moves are extrapolated. Most rows need fewer; where two components are nearly collinear,
# coordinate descent alone would take thousands.
PLAIN = 30
_KEPT = 0.1  # of an entry is left by one extrapolation at least, so that every rate stays positive


def solve_rows(
    counts: MemoryCounts,
    Ht: np.ndarray,
    v_sum: np.ndarray,
    start: np.ndarray,
    *,
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
    v_sum : ndarray of shape (K,), float64
        Its column sums.
    start : ndarray of shape (n, K), padded
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

    def descend(counts: MemoryCounts, start: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros_like(start)
        descent = counts.descend(
            Side.ROWS, start, Ht, v_sum, out, n_components=n_components, sweeps=SWEEPS, max_rounds=rounds, tol=tol
        )
        return out, descent.gap

    best, least = descend(counts, start, min(PLAIN, max_rounds))
    enough = tol * counts.sums(Side.ROWS)
    left = np.flatnonzero(np.isfinite(least) & (least > enough))
    old = ahead = best[left]
    age = np.zeros(len(left))  # rounds since a row's momentum was last 0
    some = counts.select_rows(left)
    for _ in range(max_rounds - PLAIN):
        if not len(left):
            break
        new, gap = descend(some, ahead, 1)
        better = gap < least[left]
        best[left[better]], least[left[better]] = new[better], gap[better]
        back = ((ahead - new) * (new - old)).sum(axis=1) > 0
        age = np.where(back, 0, age + 1)
        going = np.isfinite(gap) & (gap > enough[left])
        if not going.all():
            left, new, old, age = left[going], new[going], old[going], age[going]
            some = counts.select_rows(left)
        momentum = (age / (age + 3))[:, None].astype(new.dtype)
        ahead, old = np.maximum(new + momentum * (new - old), new.dtype.type(_KEPT) * new), new
    return best, least
