"""`descend`: guarded coordinate descent on the convex problem of each row, one factor fixed."""

import math

import numpy as np
from numba import prange
from numba.extending import register_jitable

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.strips import (
    PIECE,
    QUAD,
    add_rates,
    carry,
    fill_lane,
    fold,
    fold_highest,
    gather_strip,
    ratio_sums,
    settle,
    spread_row,
    take_lanes,
    visit,
)

PLANES = 6  # vectors of scratch for each component: u, S, who wants to move, weight, shape, ridge
# Within this many standard deviations of the row's quadratic model a whole step from the right is safe: the root of
# -x - log(1 - x) = x^2, which is where a self-concordant function's upper bound returns to its value.
_SAFE = 0.6838
# Where a component has more than this share, over K, of a row's least count it may be all that some rate has.
_FEW = 1e-6
# Rates are kept up by differences: after a longer step they would be made of rounding errors where u is all there is.
_SHRINK = 2.0**-10


@register_jitable
def guarded_step(u, g, c, v, ratio, sharpness):
    """The next value of a coordinate, from its ratio sum g, its curvature c and its price v: -f' = g - v, f'' = c.

    With d = (g - v) / c, lambda^2 = c d^2 / min x, and ratio = g / v:

        g >= v             u + d ratio                               Newton on 1 / g: never past the optimum
        lambda <= 0.6838   max(0, u + d ratio)
        otherwise          min(u ratio, u + d / (1 + lambda))        the multiplicative and the damped Newton point
                           or u / 1024, if that is more and c is not 0

    each of which can't raise the objective. sharpness = 1 / min x. With a ridge, where v rises with u, ratio = 1 makes
    the steps Newton's own, which are as safe: g - v is convex, and a square has no third derivative.

    Source: Hien & Gillis, "Algorithms for nonnegative matrix factorization with the Kullback-Leibler divergence",
    J. Sci. Comput. 87 (2021), section 3.5, for the last two; the first because 1 / g is concave along a coordinate.
    """
    zero = simd.fill_like(u, 0.0)
    slope = lanes.subtract(g, v)
    d = simd.divide(slope, c)
    step = lanes.multiply_add(d, ratio, u)
    far = lanes.where_above(v, g, simd.multiply(sharpness, simd.multiply(slope, d)), zero)
    safe = simd.fill_like(u, _SAFE * _SAFE)
    # Rare once a fit is under way; as is a curvature past the range of floats, where the multiplicative point remains
    if not simd.highest(far) <= _SAFE * _SAFE or not simd.highest(c) < math.inf:
        scaled = simd.multiply(u, ratio)
        one = simd.fill_like(u, 1.0)
        damped = simd.minimum(scaled, simd.add(u, simd.divide(d, simd.add(one, lanes.root(far)))))
        damped = simd.maximum(damped, simd.multiply(u, simd.fill_like(u, _SHRINK)))
        damped = lanes.where_above(c, zero, damped, scaled)
        near = lanes.where_above(safe, far, step, damped)
        step = lanes.where_above(v, g, near, step)
        step = lanes.where_above(simd.fill_like(u, math.inf), c, step, scaled)
    return simd.maximum(step, zero)


@kernel("offsets", "entries", "block", "components", "active", "out", "gap", "data_term")
def descend(n_vectors):
    """Lower the divergence of each row by cyclic coordinate descent, V fixed; monotone, without function evaluation.

    Rows come in groups. A wide group is one row, its entries spread over the lanes; a narrow one is as many rows as
    there are lanes, of about equal length, one in each. The rows of V are gathered and transposed once, so that a
    coordinate is a unit-stride vector; where that block would outgrow `strip` components it is gathered again, strip
    by strip, in each sweep. A row's objective is that of `multiply`, with d its row of `weight`, a of `shape` and q of
    `ridge`. With y the row's rates and total = sum_j x_j + sum_k a_k,

        S_k   = sum_j x_j / y_j v_jk + a_k / u_k,                  gap as in `multiply`
        g, c  = S_k,  sum_j x_j v_jk^2 / y_j^2 + a_k / u_k^2 + q_k,      u_k <- guarded_step(u_k, g, c, d_k + q_k u_k)

    over the active k: those with u_k above `zero` total / d_k, a_k > 0, S_k > d_k or u_k S_k, its share of
    the counts, > `_FEW` min x / K. The others become exactly 0, but for the held ones, which stay.

    in    data, indices, U, V   as in `ratio_contract`
          indptr     (n_rows + 1,)  int64
          order      (n_rows,)      int64, the rows, those of a group side by side
          groups     (n_groups, 5)  int64: first place in `order`, rows, vectors of entries, wide?, strip
          weight, shape, ridge  (1 or n_rows, K) as in `multiply`
          held       (K,)           bool
          limits     (2,)           float64: tol and zero
          sizes      (9,)           int64: n_components, sweeps, rounds, whether `data_term` is wanted, has `weight` a
                                    row for each, have `shape` and `ridge`, is there a shape, a ridge, any of ridge,
                                    held and inf
    out   out        (n_rows, K)    overwritten, padding excepted
          gap        (n_rows,)      float64, nats: the bound on what a better row could gain. With tol < 0, of U; with
                                    tol >= 0 rounds of sweeps go on until it is at most tol * total, and it is that of
                                    `out`, U's own coming back unchanged where it is met at once
          data_term  (n_groups,)    float64, where wanted: sum over the rows of  data log(rate), at `out`; nats
          offsets, entries, block, components, active    scratch, a part for each worker
    gives bitwise the same row for any number of workers, and alone or in company
    cost  per sweep about 8 nnz flops and nnz divisions for each active component; 8 nnz K flops to measure; gathers
          nnz K itemsize bytes of V
    """

    def loop(
        data, indices, indptr, order, groups, U, V, weight, shape, ridge, held, limits, sizes,
        offsets, entries, block, components, active, out, gap, data_term, n_workers,
    ):  # fmt: skip
        n_lanes, flat = entries.shape[1], entries.reshape(entries.size)
        n_components, sweeps, rounds, wanted = sizes[0], sizes[1], sizes[2], sizes[3]
        weight_step, shape_step, shaped, ridged, general = sizes[4], sizes[5], sizes[6], sizes[7], sizes[8]
        tol, tiny = limits[0], limits[1]
        n_entries, n_block = entries.shape[0] // (4 * n_workers), block.shape[0] // n_workers
        n_kept = components.shape[0] // (PLANES * n_workers)
        counter = np.zeros(1, np.int64)
        for worker in prange(n_workers):
            X, B, A = 4 * worker * n_entries, worker * n_block, PLANES * worker * n_kept
            Y, R, Z = X + n_entries, X + 2 * n_entries, X + 3 * n_entries
            S, M, D, P, Q = A + n_kept, A + 2 * n_kept, A + 3 * n_kept, A + 4 * n_kept, A + 5 * n_kept
            offset, visits = offsets[worker], active[worker]
            zero = simd.zeros(entries, 1)
            one, tiny_ = simd.fill_like(zero, 1.0), simd.fill_like(zero, tiny)
            two, few = simd.fill_like(zero, 2.0), simd.fill_like(zero, _FEW / n_components)
            endless = simd.fill_like(zero, math.inf)
            t = simd.take(counter)
            while t < groups.shape[0]:
                first, n_rows, E, wide, strip = (
                    groups[t, 0],
                    groups[t, 1],
                    groups[t, 2],
                    groups[t, 3] == 1,
                    groups[t, 4],
                )
                # the rows' entries and weights
                if wide:
                    i = order[first]
                    spread_row(data, indices, indptr, i, V, offset, flat[X * n_lanes : (X + E) * n_lanes])
                    for k in range(n_kept):  # all of them are padded with zeros
                        simd.store(components, A + k, simd.fill_like(zero, np.float64(U[i, k])))
                        simd.store(components, D + k, simd.fill_like(zero, np.float64(weight[i * weight_step, k])))
                        if shaped:
                            simd.store(components, P + k, simd.fill_like(zero, np.float64(shape[i * shape_step, k])))
                        if general:
                            simd.store(components, Q + k, simd.fill_like(zero, np.float64(ridge[i * shape_step, k])))
                else:
                    take_lanes(U, 1, order, first, n_rows, offset, one, components, A, n_components)
                    take_lanes(weight, weight_step, order, first, n_rows, offset, one, components, D, n_components)
                    if shaped:
                        take_lanes(shape, shape_step, order, first, n_rows, offset, one, components, P, n_components)
                    if general:
                        take_lanes(ridge, shape_step, order, first, n_rows, offset, one, components, Q, n_components)
                    x = flat[X * n_lanes : (X + E) * n_lanes]
                    for lane in range(n_lanes):
                        i = order[first + min(lane, n_rows - 1)]
                        fill_lane(data, indices, indptr, i, V, offset, x, lane, n_lanes, lane < n_rows)
                total, sharpness, safe = zero, zero, 0.0
                for first_e in range(0, E, PIECE):
                    for e in range(first_e, min(first_e + PIECE, E)):
                        x = simd.load(entries, X + e, 1)
                        total = simd.add(total, x)
                        sharpness = simd.maximum(sharpness, lanes.where_above(x, zero, simd.divide(one, x), zero))
                    total, safe = settle(total, wide, safe)
                total, sharpness = fold(total, wide, safe), fold_highest(sharpness, wide)
                for k in range(n_components):
                    u, d = simd.load(components, A + k, 1), simd.load(components, D + k, 1)
                    if shaped:
                        a = simd.load(components, P + k, 1)
                        total = simd.add(total, a)
                        # It is positive wherever there is a shape: an underflow is not an exact zero
                        u = simd.maximum(u, lanes.where_above(a, zero, simd.divide(simd.multiply(a, tiny_), d), zero))
                    if not held[k]:
                        u = lanes.where_above(d, zero, lanes.where_above(endless, d, u, zero), zero)
                    simd.store(components, A + k, u)

                kept, done = -1, 0  # the strip that the block holds; rounds done
                while True:
                    # measure: the rates, S and the gap
                    for e in range(E):
                        simd.store(entries, Y + e, zero)
                    for low in range(0, n_components, strip):
                        high = min(low + strip, n_components)
                        if kept == low:
                            add_rates(block, B, E, components, A, low, high, entries, Y)
                        else:
                            gather_strip(V, offset, entries, X, block, B, E, components, A, low, high, Y)
                            kept = low
                    ratios = zero
                    for e in range(E):
                        x, y = simd.load(entries, X + e, 1), simd.load(entries, Y + e, 1)
                        y = lanes.where_above(x, zero, y, one)
                        ratio = simd.divide(x, y)
                        simd.store(entries, Y + e, y)
                        simd.store(entries, R + e, ratio)
                        ratios = simd.add(ratios, ratio)
                    for low in range(0, n_components, strip):
                        high = min(low + strip, n_components)
                        if kept != low:
                            gather_strip(V, offset, entries, X, block, B, E, components, A, low, high, Z)
                            kept = low
                        ratio_sums(block, B, E, entries, R, wide, components, S, low, high)
                    rate, highest = zero, zero
                    for k in range(n_components):
                        d, u, s = (
                            simd.load(components, D + k, 1),
                            simd.load(components, A + k, 1),
                            simd.load(components, S + k, 1),
                        )
                        if shaped:
                            a = simd.load(components, P + k, 1)
                            s = simd.add(s, lanes.where_above(a, zero, simd.divide(a, u), zero))
                            simd.store(components, S + k, s)
                        if held[k]:
                            continue
                        if general:
                            price = lanes.multiply_add(simd.load(components, Q + k, 1), u, d)
                            excess = lanes.where_above(endless, d, lanes.subtract(s, price), zero)
                            rate = lanes.subtract(rate, simd.multiply(u, excess))
                            share = simd.divide(excess, d)
                        else:
                            rate = lanes.multiply_add(u, d, rate)
                            share = simd.divide(s, d)
                        highest = simd.maximum(lanes.where_above(d, zero, share, zero), highest)
                    if not general:
                        highest = lanes.subtract(highest, simd.fill_like(zero, 2.0))
                    bound = lanes.multiply_add(total, highest, rate)
                    bound = lanes.where_above(zero, bound, zero, bound)  # quadratic at the optimum: rounding
                    ratios, safe = settle(ratios, wide, 0.0)
                    bound = lanes.multiply_add(fold(ratios, wide, safe), zero, bound)  # NaN where a rate is 0
                    going = one
                    if tol >= 0.0:
                        going = lanes.where_above(bound, simd.multiply(total, simd.fill_like(zero, tol)), one, zero)
                        going = lanes.where_above(simd.fill_like(zero, math.inf), bound, going, zero)
                    if done == rounds or simd.highest(going) == 0.0:
                        break

                    # whom to visit, in which lanes: 1, or 2 to become 0, so that rates know; the others are 0
                    n_visits = 0
                    for k in range(n_components):
                        if not held[k]:
                            u, d = simd.load(components, A + k, 1), simd.load(components, D + k, 1)
                            least = simd.divide(simd.multiply(total, tiny_), d)
                            s = simd.load(components, S + k, 1)
                            wanting = lanes.where_above(s, d, one, zero)
                            own = simd.multiply(simd.multiply(u, s), sharpness)
                            wanting = lanes.where_above(own, few, one, wanting)
                            if shaped:  # no entry with a shape is ever 0, however small its share
                                wanting = lanes.where_above(simd.load(components, P + k, 1), zero, one, wanting)
                            wanting = simd.multiply(lanes.where_above(u, least, one, wanting), going)
                            wanting = lanes.where_above(d, zero, lanes.where_above(endless, d, wanting, zero), zero)
                            gone = lanes.where_above(going, wanting, two, wanting)
                            wanting = lanes.where_above(u, zero, gone, wanting)
                            simd.store(components, M + k, wanting)
                            if simd.highest(wanting) > 0.0:
                                visits[n_visits] = k
                                n_visits += 1

                    for _ in range(sweeps):
                        n = n_left = 0
                        for low in range(0, n_components, strip):
                            high = min(low + strip, n_components)
                            if n < n_visits and visits[n] < high and kept != low:
                                gather_strip(V, offset, entries, X, block, B, E, components, A, low, high, Z)
                                kept = low
                            moved, past = zero, B
                            while n < n_visits and visits[n] < high:
                                k = visits[n]
                                b = B + (k - low) * E
                                g, c = visit(block, b, past, moved, entries, X, Y, E, wide)
                                u, d = simd.load(components, A + k, 1), simd.load(components, D + k, 1)
                                sharp = sharpness
                                if shaped:
                                    a = simd.load(components, P + k, 1)
                                    pull = lanes.where_above(a, zero, simd.divide(a, u), zero)
                                    bend = lanes.where_above(a, zero, simd.divide(pull, u), zero)
                                    g, c = simd.add(g, pull), simd.add(c, bend)
                                    sharp = simd.maximum(lanes.where_above(a, zero, simd.divide(one, a), zero), sharp)
                                ratio = simd.divide(g, d)
                                if ridged:
                                    q = simd.load(components, Q + k, 1)
                                    ratio = lanes.where_above(q, zero, one, ratio)
                                    d, c = lanes.multiply_add(q, u, d), simd.add(c, q)
                                step, wanting = guarded_step(u, g, c, d, ratio, sharp), simd.load(components, M + k, 1)
                                step = lanes.where_above(wanting, one, zero, lanes.where_above(wanting, zero, step, u))
                                moved, past = lanes.subtract(step, u), b
                                u = step
                                simd.store(components, A + k, u)
                                # What became 0 stays so for the rest of this round
                                wanting = lanes.where_above(u, zero, wanting, zero)
                                simd.store(components, M + k, wanting)
                                n += 1
                                if simd.highest(wanting) > 0.0:
                                    visits[n_left] = k
                                    n_left += 1
                            carry(block, past, moved, entries, Y, E)
                        n_visits = n_left
                    done += 1
                    if tol < 0.0:
                        break

                # the rows' results
                if wanted:
                    sum_ = 0.0
                    for e in range(E):
                        sum_ += lanes.total_x_log(simd.load(entries, X + e, 1), simd.load(entries, Y + e, 1))
                    data_term[t] = sum_
                for lane in range(n_rows):
                    i = order[first + lane]
                    gap[i] = lanes.lane_of(bound, lane)
                    offset[lane] = i * np.int64(out.shape[1])
                for k in range(0, n_components, QUAD):
                    u0, u1 = simd.load(components, A + k, 1), simd.load(components, A + k + 1, 1)
                    u2, u3 = simd.load(components, A + k + 2, 1), simd.load(components, A + k + 3, 1)
                    lanes.scatter_quad(out, offset, n_rows, k, (u0, u1, u2, u3))
                t = simd.take(counter)

    return loop
