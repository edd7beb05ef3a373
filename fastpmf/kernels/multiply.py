"""`multiply`: the multiplicative rule on all rows of a factor, and the sums and optimality gap that it passes by."""

from numba import prange

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel


@kernel("out", "column_sum", "gap")
def multiply(n_vectors):
    """Multiply each row of U by S / v_sum.

    out[i, k] = max(U[i, k] * r,  min(U[i, k], tiny * total_i / v_sum[k])),      r = S[i, k] / v_sum[k]

    or, with b = relaxation, r + b (r - 1) in place of r where r > 1, and r (1 - b + b r) where it is not,
    with, for each row,  total_i = sum_k U[i, k] S[i, k], its sum of counts, and
                         gap_i   = sum_k U[i, k] v_sum[k] + total_i (max_k S[i, k] / v_sum[k] - 2),
    an upper bound on what any other row could lower the divergence by, which is 0 exactly at the optimum

    in    U, S        (n_rows, K) float32 or float64, S from `ratio_contract`
          v_sum       (1, K)      same dtype, zero in dead and in padding columns
          divisor     (1, K)      v_sum with its zeros replaced by inf
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          limits      (2,)        float64: tiny and relaxation, from 0 to 1
    out   out         (n_rows, K) overwritten; may be S
          column_sum  (n_blocks, K) float64, sums of `out` over each block's rows
          gap         (n_blocks,) float64, sums of gap_i; nats
    gives bitwise the same result for any number of workers; a row that is not finite makes `gap` so too
    cost  8 n_rows K flops, three streams over n_rows K numbers
    """

    def loop(U, S, v_sum, divisor, row_blocks, limits, out, column_sum, gap, n_workers):
        tiny, relaxation = limits[0], limits[1]
        for block in prange(row_blocks.shape[0] - 1):
            column_sum[block, :] = 0.0
            block_gap = 0.0
            v, d = simd.load(v_sum, 0, n_vectors), simd.load(divisor, 0, n_vectors)
            one, b, rest = simd.fill_like(v, 1.0), simd.fill_like(v, relaxation), simd.fill_like(v, 1.0 - relaxation)
            for i in range(row_blocks[block], row_blocks[block + 1]):
                u, s = simd.load(U, i, n_vectors), simd.load(S, i, n_vectors)
                ratio = simd.divide(s, d)
                total = simd.total(simd.multiply(u, s))
                row_gap = simd.total(simd.multiply(u, v)) + total * (simd.highest(ratio) - 2.0)
                if row_gap < 0.0:
                    row_gap = 0.0  # it is quadratic in the distance from the optimum, so rounding may pass below it
                floor = simd.divide(simd.fill_like(u, tiny * total), d)
                if relaxation > 0.0:
                    more = lanes.multiply_add(b, lanes.subtract(ratio, one), ratio)
                    less = simd.multiply(ratio, lanes.multiply_add(b, ratio, rest))
                    ratio = lanes.where_above(ratio, one, more, less)
                u = simd.maximum(simd.multiply(u, ratio), simd.minimum(u, floor))
                simd.store(out, i, u)
                block_gap += row_gap
                lanes.add_to_row(column_sum, block, u)
            gap[block] = block_gap

    return loop
