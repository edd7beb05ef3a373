"""The rules: what becomes of a factor U, given S = sum_j x_ij / (u_i . v_j) v_j and the sums of the other factor."""

import math
from typing import NamedTuple

import numpy as np

from fastpmf.kernels.multiply import multiply
from fastpmf.kernels.simd import VECTOR_BYTES

# An entry that shrinks at every update ends in an underflow, and then it is locked at 0, whatever the data want later;
# on the way there, arithmetic on subnormal numbers is several times slower. So no entry shrinks below this share of its
# row's counts. It is the only floor here: relative to the data, never raising an entry, and so never the objective.
TINY = 1e-12
_ROWS = 512  # in a block of the rule's own partial sums; a constant, so that they don't depend on the threads


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
    n_moved : int
        Rows that were changed.
    """

    sums: np.ndarray
    gap: float
    n_moved: int


def multiplicative(
    U: np.ndarray, S: np.ndarray, v_sum: np.ndarray, out: np.ndarray, tol: float | None = None
) -> Update:
    """U * S / v_sum, the update of Lee & Seung: the divergence never rises, and row sums are matched.

    The gap follows from convexity: with v_sum - S the gradient in u, no u* is better than u by more than
    (v_sum - S) . (u - u*), and an optimal u* has u* . v_sum = x_i.

    Parameters
    ----------
    U, S : ndarray of shape (n_rows, K), padded
    v_sum : ndarray of shape (K,), float64
        Column sums of the other factor. A component with sum 0 explains nothing and becomes 0 here too.
    out : ndarray of shape (n_rows, K)
        The updated factor; may be S.
    tol : float, optional
        Given, each row is on its own: it stays as it is if its part of `gap` is at most `tol` times its sum of counts,
        or is not finite and then no part of `gap`.

    References
    ----------
    D. D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, theorem 2.
    """
    n_rows, width = U.shape
    bounds = np.append(np.arange(0, n_rows, _ROWS), n_rows)
    n_blocks = len(bounds) - 1
    sums, gap, moved = np.empty((n_blocks, width)), np.empty(n_blocks), np.empty(n_blocks, np.int64)
    divisor = np.where(v_sum > 0, v_sum, np.inf)
    multiply(
        U,
        S,
        v_sum[None].astype(U.dtype),
        divisor[None].astype(U.dtype),
        bounds,
        np.array([-1.0 if tol is None else tol, TINY]),
        out,
        sums,
        gap,
        moved,
        n_vectors=width * U.itemsize // VECTOR_BYTES,
    )
    total_gap = float(gap.sum())
    return Update(sums.sum(axis=0), total_gap if math.isfinite(total_gap) else math.nan, int(moved.sum()))
