"""Leverages of counts: how far the fitted rate of an entry follows the count of this entry."""

import math

from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels.launch import arguments

_ROUNDING = 1e-12  # of a pivot, relative to its diagonal entry: more than rounding errors, less than any information


@step(inline=True)
def _take_shares(U, V, i, j, shares, worker):
    """The shares of the components in U[i] . V[j], up to their number; returns U[i] . V[j]."""
    rate = 0.0
    for k in range(U.shape[1]):
        rate += U[i, k] * V[j, k]
    scale = 1.0 / rate if rate > 0.0 else 0.0
    for k in range(shares.shape[1]):
        shares[worker, k] = U[i, k] * V[j, k] * scale
    return rate


@step(inline=True)
def _cholesky(root, first, diagonal, worker):
    """Replace the upper triangle of A by R with R' R = A; rows of R whose pivot is zero up to rounding are zero."""
    n = root.shape[1]
    for a in range(n):
        diagonal[worker, a] = root[first + a, a]
    for a in range(n):
        pivot = root[first + a, a]
        scale = 1.0 / math.sqrt(pivot) if pivot > _ROUNDING * diagonal[worker, a] else 0.0
        for b in range(a, n):
            root[first + a, b] *= scale
        for c in range(a + 1, n):
            factor = root[first + a, c]
            for b in range(c, n):
                root[first + c, b] -= factor * root[first + a, b]


@step(inline=True)
def _squared_length(root, first, shares, worker):
    """|y|^2 of the solution of R' y = shares, which are overwritten; y is 0 where the row of R is zero."""
    n, total = root.shape[1], 0.0
    for a in range(n):
        pivot = root[first + a, a]
        y = shares[worker, a] / pivot if pivot > 0.0 else 0.0
        total += y * y
        for b in range(a + 1, n):
            shares[worker, b] -= root[first + a, b] * y
    return total


@kernel(writes=4)
def leverages(table, block, worker):
    """Rates of the stored entries, and leverages of their counts in the fit of a row's weights; a task is a block.

    With the shares p_ij = U_i * V_j / (U_i . V_j) of the first k components, elementwise,

        rate_ij = U_i . V_j          A_i = sum_j x_ij p_ij p_ij' + diag(max(expected_i - sum_j x_ij p_ij, 0))
        out_ij = x_ij p_ij' A_i^- p_ij

    where A_i^- is a generalised inverse, from a Cholesky factorization without the pivots that are zero up to rounding.

    in    data        (nnz,)          counts > 0: uint8, uint16, int32, float32 or float64
          indices     (nnz,)          int32 or int64
          indptr      (n_rows + 1,)   int64
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          U, V        (n_rows, K), (n_cols, K) float64, without padding, >= 0
          expected    (n_rows, k)     float64, sums of the rates of each component over all entries; k <= K
    out   rate        (nnz,)          float64, overwritten
          out         (nnz,)          float64, overwritten; from 0 to 1, and 0 where the rate is 0
          root        (n_workers k, k) float64, scratch
          shares      (n_workers, k)  float64, scratch
    gives bitwise the same result for any number of workers and blocks
    cost  2 nnz k^2 + n_rows k^3 / 3 flops; gathers nnz K numbers twice
    """
    data, indices, indptr, row_blocks, U, V, expected, rate, out, root, shares = arguments(table)
    k, first = expected.shape[1], worker * expected.shape[1]
    for i in range(row_blocks[block], row_blocks[block + 1]):
        for a in range(k):
            for b in range(a, k):
                root[first + a, b] = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            rate[p] = _take_shares(U, V, i, indices[p], shares, worker)
            for a in range(k):
                scaled = data[p] * shares[worker, a]
                for b in range(a, k):
                    root[first + a, b] += scaled * shares[worker, b]
        for a in range(k):
            shares[worker, a] = expected[i, a]
        for p in range(indptr[i], indptr[i + 1]):
            scale = data[p] / rate[p] if rate[p] > 0.0 else 0.0
            for a in range(k):
                shares[worker, a] -= U[i, a] * V[indices[p], a] * scale
        for a in range(k):
            root[first + a, a] += max(shares[worker, a], 0.0)
        _cholesky(root, first, shares, worker)
        for p in range(indptr[i], indptr[i + 1]):
            _take_shares(U, V, i, indices[p], shares, worker)
            out[p] = min(1.0, data[p] * _squared_length(root, first, shares, worker))
