"""`multiply`: the multiplicative rule on all rows of a factor, and the sums and optimality gap that it passes by."""

import math

from numba import prange

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel


@kernel("out", "column_sum", "gap")
def multiply(n_vectors):
    """Move each row of U to where a bound on its objective, tight at U, is least.

    A row's objective is, with d its row of `weight`, a of `shape`, q of `ridge`,

        f(u) = d . u + q . u^2 / 2 - a . log u - sum_j x_j log(u . v_j)

    and the least of the bound is  out[i, k] = U[i, k] * r_k,  where, with t = S + a / u,

        r = t / d                                      without a ridge
        r = 2 t / (d + sqrt(d^2 + 4 q u t))            with one

    or, with b = relaxation, r + b (r - 1) in place of r where r > 1, and r (1 - b + b r) where it is not. Nothing
    shrinks below  min(U[i, k], tiny * total_i / d_k),  total_i = sum_k U[i, k] t_k,  nor is moved where `held` is 1.
    With held components, with a ridge or where some d are inf, total_i counts those of all k, and the sums below are
    over the k that are free:

        gap_i = sum_k u_k (d_k + q_k u_k - t_k) + total_i max(0, max_k (t_k - d_k - q_k u_k) / d_k)

    an upper bound on what any other row could lower f by, 0 exactly at the optimum. Without any of them it is
    u . d + total_i (max_k t_k / d_k - 2), which is the same or less.

    in    U, S        (n_rows, K) float32 or float64, S from `ratio_contract`
          weight      (1 or n_rows, K) same dtype, >= 0: zero in dead and in padding columns, inf where u is to be 0
          shape, ridge (1 or n_rows, K) same dtype, >= 0, both of the same shape
          held        (1, K)      same dtype, 0 or 1
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          flags       (5,)        int64: has `weight` a row for each; have `shape` and `ridge`; is there
                                  a shape; is there any of ridge, held and inf; is `out` wanted
          limits      (2,)        float64: tiny and relaxation, from 0 to 1
    out   out         (n_rows, K) overwritten if wanted; may be S
          column_sum  (n_blocks, K) float64, sums of the new rows over each block
          gap         (n_blocks,) float64, sums of gap_i; nats
    gives bitwise the same result for any number of workers; a row that is not finite makes `gap` so too
    cost  8 n_rows K flops, three streams over n_rows K numbers
    """

    def loop(U, S, weight, shape, ridge, held, row_blocks, flags, limits, out, column_sum, gap, n_workers):
        tiny, relaxation = limits[0], limits[1]
        weight_step, shape_step, shaped, general, wanted = flags[0], flags[1], flags[2], flags[3], flags[4]
        for block in prange(row_blocks.shape[0] - 1):
            column_sum[block, :] = 0.0
            block_gap = 0.0
            h = simd.load(held, 0, n_vectors)
            one, zero, endless = simd.fill_like(h, 1.0), simd.fill_like(h, 0.0), simd.fill_like(h, math.inf)
            b, rest = simd.fill_like(h, relaxation), simd.fill_like(h, 1.0 - relaxation)
            for i in range(row_blocks[block], row_blocks[block + 1]):
                u, s = simd.load(U, i, n_vectors), simd.load(S, i, n_vectors)
                d = simd.load(weight, i * weight_step, n_vectors)
                divisor = lanes.where_above(d, zero, d, endless)
                if shaped:
                    a = simd.load(shape, i * shape_step, n_vectors)
                    # It is positive wherever there is a shape: an underflow is not an exact zero. What is lifted so
                    # keeps its counts, u s, as they were found with it as it was
                    least = simd.divide(simd.multiply(a, simd.fill_like(u, tiny)), divisor)
                    own = lanes.multiply_add(u, s, a)
                    u = lanes.where_above(a, zero, simd.maximum(u, least), u)
                    s = lanes.where_above(a, zero, simd.divide(own, u), s)
                ratio = simd.divide(s, divisor)
                total = simd.total(simd.multiply(u, s))
                floor = simd.divide(simd.fill_like(u, tiny * total), divisor)
                if general:
                    q = simd.load(ridge, i * shape_step, n_vectors)
                    free = lanes.where_above(endless, d, lanes.subtract(one, h), zero)
                    slope = simd.add(lanes.where_above(free, zero, d, zero), simd.multiply(q, u))
                    excess = lanes.subtract(s, slope)
                    less = lanes.where_above(free, zero, simd.multiply(u, excess), zero)
                    slack = lanes.where_above(free, zero, simd.divide(excess, divisor), zero)
                    row_gap = total * simd.highest(simd.maximum(slack, zero)) - simd.total(less)
                    c = simd.multiply(u, s)
                    four = simd.multiply(simd.fill_like(u, 4.0), simd.multiply(q, c))
                    root = simd.add(d, lanes.root(lanes.multiply_add(d, d, four)))
                    root = lanes.where_above(root, zero, root, endless)
                    curved = simd.divide(simd.multiply(simd.fill_like(u, 2.0), s), root)
                    ratio = lanes.where_above(q, zero, curved, ratio)
                else:
                    row_gap = simd.total(simd.multiply(u, d)) + total * (simd.highest(ratio) - 2.0)
                if row_gap < 0.0:
                    row_gap = 0.0  # it is quadratic in the distance from the optimum, so rounding may pass below it
                if relaxation > 0.0:
                    more = lanes.multiply_add(b, lanes.subtract(ratio, one), ratio)
                    less = simd.multiply(ratio, lanes.multiply_add(b, ratio, rest))
                    ratio = lanes.where_above(ratio, one, more, less)
                new = simd.maximum(simd.multiply(u, ratio), simd.minimum(u, floor))
                if general:
                    new = lanes.where_above(h, zero, u, new)
                if wanted:
                    simd.store(out, i, new)
                block_gap += row_gap
                lanes.add_to_row(column_sum, block, new)
            gap[block] = block_gap

    return loop
