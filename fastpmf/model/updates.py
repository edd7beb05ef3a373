"""The rules: what becomes of a factor U, given S = sum_j x_ij / (u_i . v_j) v_j and the sums of the other factor."""

import math
from typing import NamedTuple

import numpy as np

from fastpmf.kernels.multiply import multiply
from fastpmf.kernels.rows import extrapolate
from fastpmf.kernels.simd import VECTOR_BYTES
from fastpmf.model.factors import row_bounds

# An entry that shrinks at every update ends in an underflow, and then it is locked at 0, whatever the data want later;
# on the way there, arithmetic on subnormal numbers is several times slower. So no entry shrinks below this share of its
# row's counts. It is the only floor here: relative to the data, never raising an entry, and so never the objective.
TINY = 1e-12
RELAXATION = 0.9


class Update(NamedTuple):
    """What a rule knows of a factor once it has gone through it.

    Attributes
    ----------
    sums : ndarray of shape (K,), float64
        Column sums of the updated factor.
    gap : float
        Upper bound, before the update, on what any other U could lower the divergence by while V stays: the sum over
        rows of u_i . v_sum + x_i (max_k S_ik / v_sum_k - 2), x_i the row's sum of counts. In nats; 0 exactly where U is
        optimal given V; NaN where a rate was 0.
    data_term : float, optional
        Sum of x log rate over all entries at the updated factor, in nats, where that came free.
    """

    sums: np.ndarray
    gap: float
    data_term: float | None = None


def multiplicative(
    U: np.ndarray, S: np.ndarray, v_sum: np.ndarray, out: np.ndarray, *, relaxed: bool = False
) -> Update:
    """U * S / v_sum, the update of Lee & Seung: the divergence never rises, and row sums are matched.

    Relaxed, it goes nearly twice as far, and the divergence still never rises. The update minimises, entry by entry, a
    bound on the divergence, v u - c log u with c = u_k S_k, which is least at u* = c / v. Upwards from there it climbs
    slower than it fell on the way, since log is concave: 2 u* - u is no worse than u. Downwards so does it along log u,
    since exp is convex: u*^2 / u is no worse. Nor is anything between u* and these; all the way to them would be to
    leap to and fro where the bound is tight. Row sums are then not matched.

    The gap follows from convexity: with v_sum - S the gradient in u, no u* is better than u by more than
    (v_sum - S) . (u - u*), and an optimal u* has u* . v_sum = x_i.

    Parameters
    ----------
    U, S : ndarray of shape (n_rows, K), padded
    v_sum : ndarray of shape (K,), float64
        Column sums of the other factor. A component with sum 0 explains nothing and becomes 0 here too.
    out : ndarray of shape (n_rows, K)
        The updated factor; may be S.
    relaxed : bool, default=False
        Go `RELAXATION` of the way from u* to the point as good as u.

    References
    ----------
    D. D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, theorem 2.
    """
    width, bounds = U.shape[1], row_bounds(len(U))
    sums, gap = np.empty((len(bounds) - 1, width)), np.empty(len(bounds) - 1)
    divisor = np.where(v_sum > 0, v_sum, np.inf)
    multiply(
        U,
        S,
        v_sum[None].astype(U.dtype),
        divisor[None].astype(U.dtype),
        bounds,
        np.array([TINY, RELAXATION * relaxed]),
        out,
        sums,
        gap,
        n_vectors=width * U.itemsize // VECTOR_BYTES,
    )
    return Update(sums.sum(axis=0), finite_sum(gap))


def finite_sum(gaps: np.ndarray) -> float:
    """Their sum, or NaN where one of them is not finite."""
    total = float(gaps.sum())
    return total if math.isfinite(total) else math.nan


def extrapolated(
    new: np.ndarray, old: np.ndarray, momentum: float, totals: np.ndarray, v_sum: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """Where the move from `old` to `new` leads to when it goes on: new + momentum (new - old), and no exact zeros.

    No entry is below `TINY` of its row's counts. In an exact zero, or past it, an extrapolated entry would be locked
    for multiplicative updates, and could leave a positive count with rate 0.

    Parameters
    ----------
    new, old : ndarray of shape (n_rows, K), padded
    momentum : float
    totals : ndarray of shape (n_rows,), float64
        Row sums of the counts.
    v_sum : ndarray of shape (K,), float64
        Column sums of the other factor.
    out : ndarray of shape (n_rows, K)
        May be `old`.

    Returns
    -------
    ndarray of shape (K,)
        Column sums of `out`, float64.
    """
    bounds = row_bounds(len(new))
    sums = np.empty((len(bounds) - 1, new.shape[1]))
    extrapolate(
        new,
        old,
        totals,
        np.where(v_sum > 0, v_sum, np.inf)[None].astype(new.dtype),
        bounds,
        np.array([momentum, TINY]),
        out,
        sums,
        n_vectors=new.shape[1] * new.itemsize // VECTOR_BYTES,
    )
    return sums.sum(axis=0)
