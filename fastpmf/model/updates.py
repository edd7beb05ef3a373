"""The rules: what becomes of a factor U, given S = sum_j x_ij / (u_i . v_j) v_j and the sums of the other factor."""

import math
from typing import NamedTuple

import numpy as np

from fastpmf.kernels.multiply import multiply
from fastpmf.kernels.simd import VECTOR_BYTES

_ROWS = 512  # in a block of the rule's own partial sums; a constant, so that they don't depend on the threads


class Update(NamedTuple):
    """What a rule knows of a factor once it has gone through it.

    Attributes
    ----------
    sums : ndarray of shape (K,), float64
        Column sums of the updated factor.
    residual : float
        sum_ik U_ik |v_sum_k - S_ik|, plus for each row its total count times the largest S/v_sum - 1 > 0 among its
        zeros, all before the update, in counts. 0 where U is optimal given V; NaN where a rate was 0.
    n_moved : int
        Rows that were changed.
    """

    sums: np.ndarray
    residual: float
    n_moved: int


def multiplicative(U: np.ndarray, S: np.ndarray, v_sum: np.ndarray, out: np.ndarray, tol: float = 0.0) -> Update:
    """U * S / v_sum, the update of Lee & Seung: the divergence never rises, and row sums are matched exactly.

    Parameters
    ----------
    U, S : ndarray of shape (n_rows, K), padded
    v_sum : ndarray of shape (K,), float64
        Column sums of the other factor. A component with sum 0 explains nothing and becomes 0 here too.
    out : ndarray of shape (n_rows, K)
        The updated factor; may be S.
    tol : float, default=0.0
        Rows whose share of `residual` is at most `tol` times their total count stay as they are.

    References
    ----------
    D. D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, theorem 2.
    """
    n_rows, width = U.shape
    bounds = np.append(np.arange(0, n_rows, _ROWS), n_rows)
    n_blocks = len(bounds) - 1
    sums, residual, moved = np.empty((n_blocks, width)), np.empty(n_blocks), np.empty(n_blocks, np.int64)
    divisor = np.where(v_sum > 0, v_sum, 1.0)
    multiply(
        U,
        S,
        v_sum[None].astype(U.dtype),
        divisor[None].astype(U.dtype),
        bounds,
        np.array([tol]),
        out,
        sums,
        residual,
        moved,
        n_vectors=width * U.itemsize // VECTOR_BYTES,
    )
    total = float(residual.sum())
    return Update(sums.sum(axis=0), total if math.isfinite(total) else math.nan, int(moved.sum()))
