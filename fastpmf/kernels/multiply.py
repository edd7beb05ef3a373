"""`multiply`: the multiplicative rule on all rows of a factor, and the sums and residual it passes by."""

import math

from numba import prange

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel


@kernel("out", "column_sum", "residual", "unsettled")
def multiply(n_vectors):
    """Multiply each row of U by S / v_sum, unless the row is already within `tol` of optimal.

    out[i, k] = U[i, k] * S[i, k] / v_sum[k]

    with, for each row,  residual_i = sum_k U[i, k] |v_sum[k] - S[i, k]|  +  total_i max(0, max S/v_sum - 1 where U = 0)
                         total_i    = sum_k U[i, k] S[i, k],  the row's sum of counts

    in    U, S        (n_rows, K) float32 or float64, S from `ratio_contract`
          v_sum       (1, K)      same dtype, zero in dead and in padding columns
          divisor     (1, K)      v_sum with its zeros replaced by 1
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          tol         (1,)        float64; rows with residual_i <= tol * total_i are copied as they are
    out   out         (n_rows, K) overwritten; may be S
          column_sum  (n_blocks, K) float64, sums of `out` over each block's rows
          residual    (n_blocks,) float64, sums of residual_i; counts
          unsettled   (n_blocks,) int64, how many rows were multiplied
    gives bitwise the same result for any number of workers; a row that is not finite is copied and makes residual NaN
    cost  7 n_rows K flops, three streams over n_rows K numbers
    """

    def loop(U, S, v_sum, divisor, row_blocks, tol, out, column_sum, residual, unsettled, n_workers):
        for b in prange(row_blocks.shape[0] - 1):
            column_sum[b, :] = 0.0
            moved, count = 0.0, 0
            v, d = simd.load(v_sum, 0, n_vectors), simd.load(divisor, 0, n_vectors)
            for i in range(row_blocks[b], row_blocks[b + 1]):
                u, s = simd.load(U, i, n_vectors), simd.load(S, i, n_vectors)
                ratio, mass = simd.divide(s, d), simd.multiply(u, s)
                total = simd.total(mass)
                row = simd.total(simd.absolute(simd.subtract(simd.multiply(u, v), mass)))
                row += total * max(simd.highest_where_zero(ratio, u) - 1.0, 0.0)
                if row > tol[0] * total and row < math.inf:
                    simd.store(out, i, simd.multiply(u, ratio))
                    count += 1
                else:
                    simd.store(out, i, u)
                moved += row
                for k in range(out.shape[1]):
                    column_sum[b, k] += out[i, k]
            residual[b] = moved - moved if moved == math.inf else moved
            unsettled[b] = count

    return loop
