"""One factor fixed: each row is a convex problem, solved until a bound on its distance from the optimum is small."""

import numpy as np

from fastpmf.core.counts import Side, Subproblem
from fastpmf.counts import MemoryCounts

SWEEPS = 3  # in a round
# Rounds before the moves of a row are extrapolated. Most rows need fewer; if two components are nearly collinear,
# coordinate descent alone would take thousands.
PLAIN_ROUNDS = 30
# Rounds without a smaller gap before the momentum of a row is reset; doubled each time. If a penalty makes the problem
# strongly convex, a row can circle around the optimum without any move that turns back.
_PATIENCE = 60
_MIN_SHARE = 0.1  # minimum share of an entry after an extrapolation, so that every rate stays positive


def solve_rows(
    counts: MemoryCounts, subproblem: Subproblem, start: np.ndarray, *, max_rounds: int, tol: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinate descent for each row, until its gap is at most `tol` times its counts.

    After `PLAIN_ROUNDS` rounds the moves of a row are extrapolated as in Nesterov's method, with restarts. The result
    for a row does not depend on which other rows are passed with it (bitwise).

    Parameters
    ----------
    counts : MemoryCounts of shape (n, p)
    subproblem : Subproblem
        V is the fixed factor, (p, K).
    start : ndarray of shape (n, K), padded
    max_rounds : int
    tol : float
        Nats per count.

    Returns
    -------
    W : ndarray of shape (n, K)
        For each row, the point with the smallest gap among those after `PLAIN_ROUNDS` rounds or more.
    gap : ndarray of shape (n,), float64
        Upper bound on the decrease of the objective that another row could reach, in nats; not finite for rows with a
        rate that is not.

    References
    ----------
    B. O'Donoghue and E. Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15 (2015),
    section 3.2.
    """
    best = np.zeros_like(start)
    rounds = min(PLAIN_ROUNDS, max_rounds)
    gap = counts.descend(subproblem, start, best, sweeps=SWEEPS, max_rounds=rounds, tol=tol).gap
    threshold = tol * (counts.sums(Side.ROWS) + subproblem.total_shape)
    active = np.flatnonzero(np.isfinite(gap) & (gap > threshold))
    old = ahead = best[active]
    age = np.zeros(len(active))  # rounds since the momentum of a row was 0
    stalled, patience = np.zeros(len(active)), np.full(len(active), _PATIENCE)  # rounds without a smaller gap
    active_counts, active_problem = counts.select_rows(active), subproblem.select_rows(active)
    for _ in range(max_rounds - PLAIN_ROUNDS):
        if not len(active):
            break
        new = np.zeros_like(ahead)
        new_gap = active_counts.descend(active_problem, ahead, new, sweeps=SWEEPS, tol=tol).gap
        better = new_gap < gap[active]
        best[active[better]], gap[active[better]] = new[better], new_gap[better]
        with np.errstate(under="ignore"):
            turns_back = ((ahead - new) * (new - old)).sum(axis=1) > 0
        stalled = np.where(better, 0, stalled + 1)
        resets = stalled >= patience
        stalled, patience = np.where(resets, 0, stalled), np.where(resets, 2 * patience, patience)
        age = np.where(turns_back | resets, 0, age + 1)
        unsolved = np.isfinite(new_gap) & (new_gap > threshold[active])
        if not unsolved.all():
            active, new, old, age = active[unsolved], new[unsolved], old[unsolved], age[unsolved]
            stalled, patience = stalled[unsolved], patience[unsolved]
            active_counts, active_problem = counts.select_rows(active), subproblem.select_rows(active)
        momentum = (age / (age + 3))[:, None].astype(new.dtype)
        ahead, old = np.maximum(new + momentum * (new - old), new.dtype.type(_MIN_SHARE) * new), new
    return best, gap
