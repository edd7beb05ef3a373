"""`multiply`: the multiplicative rule on all rows of a factor and, in the same pass, column sums and optimality gap."""

import math

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.formula import (
    add,
    divide,
    fma,
    formula,
    larger,
    maximum,
    minimum,
    positive_or_infinite,
    sqrt,
    where,
)
from fastpmf.kernels.formula import multiply as product
from fastpmf.kernels.launch import arguments


@formula(2)
def _with_shape(u, s, a, divisor, tiny):
    """u, which is positive wherever there is a shape a, and S + a / u.

    An underflow is not an exact zero. What is lifted so keeps its counts, u s, as they were found with it as it was.
    """
    lifted, own = maximum(u, a * tiny / divisor), fma(u, s, a)
    u = where(a > 0.0, lifted, u)
    return u, where(a > 0.0, own / u, s)


@formula(3)
def _general(u, s, d, divisor, q, fixed):
    """The ratio under a ridge, and of each free entry what it can lower the objective by and its slack."""
    free = where(d < math.inf, 1.0 - fixed, 0.0)
    excess = s - (where(free > 0.0, d, 0.0) + q * u)
    less = where(free > 0.0, u * excess, 0.0)
    slack = where(free > 0.0, excess / divisor, 0.0)
    root = d + sqrt(fma(d, d, q * (u * s) * 4.0))
    curved = s * 2.0 / where(root > 0.0, root, math.inf)
    return where(q > 0.0, curved, s / divisor), less, where(slack > 0.0, slack, 0.0)


@formula()
def _relaxed(ratio, b, rest):
    """A ratio that goes b of the way further, to the point that is as good as the old one; rest = 1 - b."""
    return where(ratio > 1.0, fma(b, ratio - 1.0, ratio), ratio * fma(b, ratio, rest))


@formula()
def _moved(u, ratio, divisor, smallest):
    """The new entries, which don't shrink below the floor."""
    return maximum(u * ratio, minimum(u, smallest / divisor))


@formula()
def _unless_fixed(u, new, fixed):
    return where(fixed > 0.0, u, new)


@kernel(writes=4)
def multiply(table, block, worker):
    """Move each row of U to the minimiser of an upper bound on its objective, tight at U; a task is a block of rows.

    A row's objective is, with d its row of `weight`, a of `shape`, q of `ridge`,

        f(u) = d . u + q . u^2 / 2 - a . log u - sum_j x_j log(u . v_j)

    and the least of the bound is  out[i, k] = U[i, k] * r_k,  where, with t = S + a / u,

        r = t / d                                      without a ridge
        r = 2 t / (d + sqrt(d^2 + 4 q u t))            with one

    or, with b = relaxation, r + b (r - 1) in place of r where r > 1, and r (1 - b + b r) where it is not. Nothing
    shrinks below  min(U[i, k], tiny * total_i / d_k),  total_i = sum_k U[i, k] t_k,  nor is moved where `fixed` is 1.
    With fixed components, with a ridge or where some d are inf, total_i counts those of all k, and the sums below are
    over the k that are free:

        gap_i = sum_k u_k (d_k + q_k u_k - t_k) + total_i max(0, max_k (t_k - d_k - q_k u_k) / d_k)

    an upper bound on what any other row could lower f by, 0 exactly at the optimum. Without any of them it is
    u . d + total_i (max_k t_k / d_k - 2), which is the same or less.

    in    U, S        (n_rows, K) float32 or float64, S from `ratio_contract`, K padded to whole vectors
          weight      (1 or n_rows, K) same dtype, >= 0: zero in dead and in padding columns, inf where u is to be 0
          shape, ridge (1 or n_rows, K) same dtype, >= 0, both of the same shape
          fixed       (1, K)      same dtype, 0 or 1
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          weight_step, shape_step  int: whether `weight`, and `shape` and `ridge`, have a row for each
          has_shape   int         is there a shape
          is_general  int         is there any of ridge, fixed and inf
          writes      int         is `out` wanted
          tiny, relaxation        float, the latter from 0 to 1
          n_vectors   Width       of the rows
    out   out         (n_rows, K) overwritten if wanted; may be S
          column_sum  (n_blocks, K) float64, sums of the new rows over each block
          gap         (n_blocks,) float64, sums of gap_i; nats
          ratios      (n_workers, K) dtype of U, scratch
    gives bitwise the same result for any number of workers; a row that is not finite makes `gap` so too
    cost  8 n_rows K flops, three streams over n_rows K numbers
    """
    (
        U, S, weight, shape, ridge, fixed, row_blocks, weight_step, shape_step, has_shape, is_general, writes, tiny,
        relaxation, n_vectors, out, column_sum, gap, ratios,
    ) = arguments(table)  # fmt: skip
    n_pieces, none = simd.pieces(U, n_vectors), simd.zero_piece(U, n_vectors)
    for k in range(column_sum.shape[1]):
        column_sum[block, k] = 0.0
    block_gap = 0.0
    for i in range(row_blocks[block], row_blocks[block + 1]):
        # the ratios, and what is summed over the row
        u = ratio = divisor = none
        own, rate, highest = none, none, simd.fill_like(none, -math.inf)
        for v in range(n_pieces):
            u, s, d = (
                simd.load_piece(U, i, v, n_vectors),
                simd.load_piece(S, i, v, n_vectors),
                simd.load_piece(weight, i * weight_step, v, n_vectors),
            )
            divisor = positive_or_infinite(d)
            if has_shape:
                u, s = _with_shape(u, s, simd.load_piece(shape, i * shape_step, v, n_vectors), divisor, tiny)
            own = add(own, product(u, s))
            if is_general:
                q, f = simd.load_piece(ridge, i * shape_step, v, n_vectors), simd.load_piece(fixed, 0, v, n_vectors)
                ratio, less, slack = _general(u, s, d, divisor, q, f)
                rate, highest = add(rate, less), larger(highest, slack)
            else:
                ratio = divide(s, divisor)
                rate, highest = add(rate, product(u, d)), larger(highest, ratio)
            if v < n_pieces - 1:
                simd.store_piece(ratios, worker, v, n_vectors, ratio)
        total = simd.total(own)
        if is_general:
            row_gap = total * simd.highest(highest) - simd.total(rate)
        else:
            row_gap = simd.total(rate) + total * (simd.highest(highest) - 2.0)
        if row_gap < 0.0:
            row_gap = 0.0  # it is quadratic in the distance from the optimum, so rounding may pass below it
        block_gap += row_gap
        # the new row, from its last piece, whose ratio is still in registers, to its first
        for v in range(n_pieces - 1, -1, -1):
            if v < n_pieces - 1:
                u, d = simd.load_piece(U, i, v, n_vectors), simd.load_piece(weight, i * weight_step, v, n_vectors)
                divisor, ratio = positive_or_infinite(d), simd.load_piece(ratios, worker, v, n_vectors)
                if has_shape:
                    s, a = simd.load_piece(S, i, v, n_vectors), simd.load_piece(shape, i * shape_step, v, n_vectors)
                    u, s = _with_shape(u, s, a, divisor, tiny)
            if relaxation > 0.0:
                ratio = _relaxed(ratio, relaxation, 1.0 - relaxation)
            new = _moved(u, ratio, divisor, tiny * total)
            if is_general:
                new = _unless_fixed(u, new, simd.load_piece(fixed, 0, v, n_vectors))
            if writes:
                simd.store_piece(out, i, v, n_vectors, new)
            lanes.add_to_row(column_sum, block, v, new)
    gap[block] = block_gap
