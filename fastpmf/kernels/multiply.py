"""`multiply`: the multiplicative update of all rows of a factor, with its column sums and optimality gap."""

import math

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.formula import fma, formula, maximum, minimum, sqrt, where
from fastpmf.kernels.launch import arguments


@formula()
def _divisor(d):
    """d where it is positive, else infinity: a divisor that is never 0."""
    return where(d > 0.0, d, math.inf)


@formula(2)
def _apply_shape(u, s, a, divisor, tiny):
    """u, which is positive wherever the shape a is, and t = S + a / u.

    An entry of 0 with a shape is an underflow. The counts u S of such an entry are kept while u is raised.
    """
    lifted, own = maximum(u, a * tiny / divisor), fma(u, s, a)
    u = where(a > 0.0, lifted, u)
    return u, where(a > 0.0, own / u, s)


@formula(4)
def _plain_ratio(u, s, d, divisor, counts, rate, highest):
    """The ratio of new to old entries, and the sums of the row: u t, u d, and the largest ratio."""
    ratio = s / divisor
    return ratio, counts + u * s, rate + u * d, maximum(highest, ratio)


@formula(4)
def _general_ratio(u, s, d, divisor, q, fixed, counts, rate, highest):
    """As `_plain_ratio`; the sums are of u t, of u e, e = t - d - q u, and the largest e / d, of free entries."""
    free = where(d < math.inf, 1.0 - fixed, 0.0)
    excess = s - (where(free > 0.0, d, 0.0) + q * u)
    decrease = where(free > 0.0, u * excess, 0.0)
    slack = where(free > 0.0, excess / divisor, 0.0)
    root = d + sqrt(fma(d, d, q * (u * s) * 4.0))
    with_ridge = s * 2.0 / where(root > 0.0, root, math.inf)
    ratio = where(q > 0.0, with_ridge, s / divisor)
    return ratio, counts + u * s, rate + decrease, maximum(highest, where(slack > 0.0, slack, 0.0))


@formula()
def _relaxed(ratio, b, rest):
    """The ratio moved by b towards the point with the same bound as ratio 1; rest = 1 - b."""
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

    and the bound is smallest at  out[i, k] = U[i, k] * r_k,  where, with t = S + a / u,

        r = t / d                                      without a ridge
        r = 2 t / (d + sqrt(d^2 + 4 q u t))            with one

    or, with b = relaxation, r + b (r - 1) in place of r where r > 1, and r (1 - b + b r) elsewhere. No entry shrinks
    below  min(U[i, k], tiny * total_i / d_k),  total_i = sum_k U[i, k] t_k,  and none is moved where `fixed` is 1.
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
          has_shape   int         whether there is a shape
          is_general  int         whether there is any of ridge, fixed and inf
          writes      int         whether to write `out`
          tiny, relaxation        float, the latter from 0 to 1
          n_vectors   Width       of the rows
    out   out         (n_rows, K) overwritten if `writes`; may be S
          column_sum  (n_blocks, K) float64, sums of the new rows over each block
          gap         (n_blocks,) float64, sums of gap_i; nats
          ratios      (n_workers, K) dtype of U, scratch
    gives bitwise the same result for any number of workers; if a row is not finite, `gap` isn't either
    cost  8 n_rows K flops, three streams over n_rows K numbers
    """
    (
        U, S, weight, shape, ridge, fixed, row_blocks, weight_step, shape_step, has_shape, is_general, writes, tiny,
        relaxation, n_vectors, out, column_sum, gap, ratios,
    ) = arguments(table)  # fmt: skip
    n_chunks, none = simd.n_chunks(U, n_vectors), simd.zero(U, simd.chunk(0, n_vectors))
    simd.clear_row(column_sum, block)
    block_gap = 0.0
    for i in range(row_blocks[block], row_blocks[block + 1]):
        # The ratios, and sums over the row
        u = divisor = ratio = none
        counts, rate, highest = none, none, simd.fill_like(none, -math.inf)
        for c in range(n_chunks):
            v = simd.chunk(c, n_vectors)
            u, s, d = simd.load(U, i, v), simd.load(S, i, v), simd.load(weight, i * weight_step, v)
            divisor = _divisor(d)
            if has_shape:
                u, s = _apply_shape(u, s, simd.load(shape, i * shape_step, v), divisor, tiny)
            if is_general:
                q, f = simd.load(ridge, i * shape_step, v), simd.load(fixed, 0, v)
                ratio, counts, rate, highest = _general_ratio(u, s, d, divisor, q, f, counts, rate, highest)
            else:
                ratio, counts, rate, highest = _plain_ratio(u, s, d, divisor, counts, rate, highest)
            if c < n_chunks - 1:
                simd.store(ratios, worker, v, ratio)
        total = simd.total(counts)
        if is_general:
            row_gap = total * simd.highest(highest) - simd.total(rate)
        else:
            row_gap = simd.total(rate) + total * (simd.highest(highest) - 2.0)
        if row_gap < 0.0:
            row_gap = 0.0  # it is quadratic in the distance from the optimum, so rounding may make it negative
        block_gap += row_gap
        # The new row, from its last chunk, whose ratio is still in registers, to its first
        for c in range(n_chunks - 1, -1, -1):
            v = simd.chunk(c, n_vectors)
            if c < n_chunks - 1:
                u, ratio = simd.load(U, i, v), simd.load(ratios, worker, v)
                divisor = _divisor(simd.load(weight, i * weight_step, v))
                if has_shape:
                    u, _ = _apply_shape(u, simd.load(S, i, v), simd.load(shape, i * shape_step, v), divisor, tiny)
            if relaxation > 0.0:
                ratio = _relaxed(ratio, relaxation, 1.0 - relaxation)
            new = _moved(u, ratio, divisor, tiny * total)
            if is_general:
                new = _unless_fixed(u, new, simd.load(fixed, 0, v))
            if writes:
                simd.store(out, i, v, new)
            simd.add_to_sums(column_sum, block, v, new)
    gap[block] = block_gap
