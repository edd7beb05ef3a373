"""`descend`: guarded coordinate descent on the convex problem of each row, one factor fixed."""

import math

import numpy as np
from numba import prange
from numba.extending import register_jitable

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel

QUAD = lanes.QUAD
# Within this many standard deviations of the row's quadratic model a whole step from the right is safe: the root of
# -x - log(1 - x) = x^2, which is where a self-concordant function's upper bound returns to its value.
_SAFE = 0.6838
_LEFT = 1e-6  # of a rate is kept at least, in one move: rounding must not carry a rate to 0 or below


@register_jitable
def guarded_step(u, g, c, v, share, sharpness):
    """The next value of a coordinate, from its ratio sum g, its curvature c and the other factor's sum v.

    With d = (g - v) / c, lambda^2 = c d^2 / min x, and share = 1 / v:

        g >= v             u + d g / v                               Newton on 1 / g: never past the optimum
        lambda <= 0.6838   max(0, u + d g / v)
        otherwise          min(u g / v, u + d / (1 + lambda))        the multiplicative and the damped Newton point

    each of which can't raise the objective. sharpness = 1 / min x. Source: Hien & Gillis, "Algorithms for nonnegative
    matrix factorization with the Kullback-Leibler divergence", J. Sci. Comput. 87 (2021), section 3.5, for the last
    two; the first because 1 / g is concave along a coordinate.
    """
    zero = simd.fill_like(u, 0.0)
    slope = lanes.subtract(g, v)
    d = simd.divide(slope, c)
    ratio = simd.multiply(g, share)
    step = lanes.multiply_add(d, ratio, u)
    far = lanes.where_above(v, g, simd.multiply(sharpness, simd.multiply(slope, d)), zero)
    safe = simd.fill_like(u, _SAFE * _SAFE)
    # Rare once a fit is under way; as is a curvature past the range of floats, where the multiplicative point remains
    if not simd.highest(far) <= _SAFE * _SAFE or not simd.highest(c) < math.inf:
        scaled = simd.multiply(u, ratio)
        one = simd.fill_like(u, 1.0)
        damped = simd.minimum(scaled, simd.add(u, simd.divide(d, simd.add(one, lanes.root(far)))))
        near = lanes.where_above(safe, far, step, damped)
        step = lanes.where_above(v, g, near, step)
        step = lanes.where_above(simd.fill_like(u, math.inf), c, step, scaled)
    return simd.maximum(step, zero)


@register_jitable
def fold(tile, wide, highest):
    """In a wide group all lanes belong to one row: its sum, or its highest element, in every lane."""
    if not wide:
        return tile
    return simd.fill_like(tile, simd.highest(tile) if highest else simd.total(tile))


@register_jitable
def spread_row(data, indices, indptr, i, V, offset, x):
    """Lay the entries of row i side by side: counts in x, where their rows of V begin in offset; zeros behind."""
    start, length, width = indptr[i], indptr[i + 1] - indptr[i], V.shape[1]
    some, columns = data[start : start + length], indices[start : start + length]
    for p in range(length):
        x[p] = some[p]
    for p in range(length):
        offset[p] = columns[p] * np.int64(width)
    for p in range(length, len(x)):
        x[p] = 0
        offset[p] = 0


@register_jitable
def fill_lane(data, indices, indptr, i, V, offset, x, lane, n_lanes, there):
    """Lay the entries of row i into one lane: one in each vector; zeros behind."""
    start, width = indptr[i], V.shape[1]
    length = indptr[i + 1] - start if there else 0
    some, columns = data[start : start + length], indices[start : start + length]
    p = np.uint64(lane)
    for e in range(length):
        x[p] = some[e]
        offset[p] = columns[e] * np.int64(width)
        p += np.uint64(n_lanes)
    while p < len(x):
        x[p] = 0
        offset[p] = 0
        p += np.uint64(n_lanes)


@register_jitable
def gather_strip(V, offset, entries, X, block, B, E, components, A, low, high, Y):
    """Rows of V, transposed, for components low to high: block[B + (k - low) E + e] = V[., k] of vector e.

    In passing, y += sum_k u_k v_k over the strip.
    """
    for e in range(E):
        x, y = simd.load(entries, X + e, 1), simd.load(entries, Y + e, 1)
        b = B + e
        for k in range(low, high, QUAD):
            b0, b1, b2, b3 = lanes.gather_quad(V, offset, e, k, x)
            simd.store(block, b, b0)
            simd.store(block, b + E, b1)
            simd.store(block, b + 2 * E, b2)
            simd.store(block, b + 3 * E, b3)
            y = lanes.multiply_add(simd.load(components, A + k, 1), b0, y)
            y = lanes.multiply_add(simd.load(components, A + k + 1, 1), b1, y)
            y = lanes.multiply_add(simd.load(components, A + k + 2, 1), b2, y)
            y = lanes.multiply_add(simd.load(components, A + k + 3, 1), b3, y)
            b += QUAD * E
        simd.store(entries, Y + e, y)


@register_jitable
def add_rates(block, B, E, components, A, low, high, entries, Y):
    """y += sum_k u_k v_k over the strip."""
    for k in range(low, high, QUAD):
        u0, u1 = simd.load(components, A + k, 1), simd.load(components, A + k + 1, 1)
        u2, u3 = simd.load(components, A + k + 2, 1), simd.load(components, A + k + 3, 1)
        b = B + (k - low) * E
        for e in range(E):
            y = lanes.multiply_add(u0, simd.load(block, b + e, 1), simd.load(entries, Y + e, 1))
            y = lanes.multiply_add(u1, simd.load(block, b + E + e, 1), y)
            y = lanes.multiply_add(u2, simd.load(block, b + 2 * E + e, 1), y)
            y = lanes.multiply_add(u3, simd.load(block, b + 3 * E + e, 1), y)
            simd.store(entries, Y + e, y)


@register_jitable
def ratio_sums(block, B, E, entries, R, wide, components, S, low, high):
    """S_k = sum r v_k over the strip, r the ratios x / y."""
    for k in range(low, high, QUAD):
        b = B + (k - low) * E
        s0 = s1 = s2 = s3 = simd.zeros(entries, 1)
        for e in range(E):
            r = simd.load(entries, R + e, 1)
            s0 = lanes.multiply_add(r, simd.load(block, b + e, 1), s0)
            s1 = lanes.multiply_add(r, simd.load(block, b + E + e, 1), s1)
            s2 = lanes.multiply_add(r, simd.load(block, b + 2 * E + e, 1), s2)
            s3 = lanes.multiply_add(r, simd.load(block, b + 3 * E + e, 1), s3)
        simd.store(components, S + k, fold(s0, wide, False))
        simd.store(components, S + k + 1, fold(s1, wide, False))
        simd.store(components, S + k + 2, fold(s2, wide, False))
        simd.store(components, S + k + 3, fold(s3, wide, False))


@register_jitable
def carry(block, past, moved, entries, Y, E):
    """Carry the last move of a strip into the rates."""
    least = simd.fill_like(moved, _LEFT)
    for e in range(E):
        y = simd.load(entries, Y + e, 1)
        y = simd.maximum(lanes.multiply_add(moved, simd.load(block, past + e, 1), y), simd.multiply(y, least))
        simd.store(entries, Y + e, y)


@register_jitable(inline="always")
def visit(block, b, past, moved, entries, X, Y, E):
    """As `carry`, and in the same go sum what the next coordinate needs: g and c."""
    g = c = simd.zeros(entries, 1)
    least = simd.fill_like(g, _LEFT)
    for e in range(E):
        y = simd.load(entries, Y + e, 1)
        y = simd.maximum(lanes.multiply_add(moved, simd.load(block, past + e, 1), y), simd.multiply(y, least))
        simd.store(entries, Y + e, y)
        w = simd.divide(simd.load(block, b + e, 1), y)
        xw = simd.multiply(simd.load(entries, X + e, 1), w)
        g = simd.add(g, xw)
        c = lanes.multiply_add(xw, w, c)
    return g, c


@kernel("offsets", "entries", "block", "components", "active", "out", "gap", "data_term")
def descend(n_vectors):
    """Lower the divergence of each row by cyclic coordinate descent, V fixed; monotone, without function evaluation.

    Rows come in groups. A wide group is one row, its entries spread over the lanes; a narrow one is as many rows as
    there are lanes, of about equal length, one in each. The rows of V are gathered and transposed once, so that a
    coordinate is a unit-stride vector; where that block would outgrow `strip` components it is gathered again, strip
    by strip, in each sweep. With y the row's rates,

        S_k   = sum_j x_j / y_j v_jk,      gap = u . v_sum + total (max_k S_k / v_sum_k - 2)
        g, c  = sum_j x_j v_jk / y_j,  sum_j x_j v_jk^2 / y_j^2,      u_k <- guarded_step(u_k, g, c, v_sum_k)

    over the active k: those with u_k above `zero` total / v_sum_k, or S_k > v_sum_k. The others become exactly 0.

    in    data, indices, U, V   as in `ratio_contract`
          indptr     (n_rows + 1,)  int64
          order      (n_rows,)      int64, the rows, those of a group side by side
          groups     (n_groups, 5)  int64: first place in `order`, rows, vectors of entries, wide?, strip
          v_sum      (K,)           float64
          limits     (2,)           float64: tol and zero
          sizes      (4,)           int64: n_components, sweeps, rounds, whether `data_term` is wanted
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
        data, indices, indptr, order, groups, U, V, v_sum, limits, sizes,
        offsets, entries, block, components, active, out, gap, data_term, n_workers,
    ):  # fmt: skip
        n_lanes, flat = entries.shape[1], entries.reshape(entries.size)
        n_components, sweeps, rounds, wanted = sizes[0], sizes[1], sizes[2], sizes[3]
        tol, tiny = limits[0], limits[1]
        n_entries, n_block = entries.shape[0] // (4 * n_workers), block.shape[0] // n_workers
        n_kept = components.shape[0] // (3 * n_workers)
        counter = np.zeros(1, np.int64)
        for worker in prange(n_workers):
            X, B, A = 4 * worker * n_entries, worker * n_block, 3 * worker * n_kept
            Y, R, Z, S, M = X + n_entries, X + 2 * n_entries, X + 3 * n_entries, A + n_kept, A + 2 * n_kept
            offset, visits = offsets[worker], active[worker]
            zero = simd.zeros(entries, 1)
            one = simd.fill_like(zero, 1.0)
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
                    for k in range(n_kept):  # U and v_sum are padded with zeros
                        u = U[i, k] if v_sum[k] > 0.0 else 0
                        simd.store(components, A + k, simd.fill_like(zero, np.float64(u)))
                else:
                    for lane in range(n_lanes):
                        offset[lane] = order[first + min(lane, n_rows - 1)] * np.int64(U.shape[1])
                    for k in range(0, n_components, QUAD):
                        u0, u1, u2, u3 = lanes.gather_quad(U, offset, 0, k, one)
                        simd.store(components, A + k, u0)
                        simd.store(components, A + k + 1, u1)
                        simd.store(components, A + k + 2, u2)
                        simd.store(components, A + k + 3, u3)
                    for k in range(n_components):
                        if not v_sum[k] > 0.0:
                            simd.store(components, A + k, zero)
                    x = flat[X * n_lanes : (X + E) * n_lanes]
                    for lane in range(n_lanes):
                        i = order[first + min(lane, n_rows - 1)]
                        fill_lane(data, indices, indptr, i, V, offset, x, lane, n_lanes, lane < n_rows)
                total, sharpness = zero, zero
                for e in range(E):
                    x = simd.load(entries, X + e, 1)
                    total = simd.add(total, x)
                    sharpness = simd.maximum(sharpness, lanes.where_above(x, zero, simd.divide(one, x), zero))
                total, sharpness = fold(total, wide, False), fold(sharpness, wide, True)

                held, done = -1, 0  # the strip that the block holds; rounds done
                while True:
                    # measure: the rates, S and the gap
                    for e in range(E):
                        simd.store(entries, Y + e, zero)
                    for low in range(0, n_components, strip):
                        high = min(low + strip, n_components)
                        if held == low:
                            add_rates(block, B, E, components, A, low, high, entries, Y)
                        else:
                            gather_strip(V, offset, entries, X, block, B, E, components, A, low, high, Y)
                            held = low
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
                        if held != low:
                            gather_strip(V, offset, entries, X, block, B, E, components, A, low, high, Z)
                            held = low
                        ratio_sums(block, B, E, entries, R, wide, components, S, low, high)
                    rate, highest = zero, zero
                    for k in range(n_components):
                        if v_sum[k] > 0.0:
                            v = simd.fill_like(zero, v_sum[k])
                            rate = lanes.multiply_add(simd.load(components, A + k, 1), v, rate)
                            highest = simd.maximum(simd.divide(simd.load(components, S + k, 1), v), highest)
                    bound = lanes.multiply_add(total, lanes.subtract(highest, simd.fill_like(zero, 2.0)), rate)
                    bound = lanes.where_above(zero, bound, zero, bound)  # quadratic at the optimum: rounding
                    bound = lanes.multiply_add(fold(ratios, wide, False), zero, bound)  # NaN where a rate is 0
                    going = one
                    if tol >= 0.0:
                        going = lanes.where_above(bound, simd.multiply(total, simd.fill_like(zero, tol)), one, zero)
                        going = lanes.where_above(simd.fill_like(zero, math.inf), bound, going, zero)
                    if done == rounds or simd.highest(going) == 0.0:
                        break

                    # whom to visit, in which lanes; the others are, and stay, 0
                    n_visits = 0
                    for k in range(n_components):
                        if v_sum[k] > 0.0:
                            u, v = simd.load(components, A + k, 1), simd.fill_like(zero, v_sum[k])
                            least = simd.divide(simd.multiply(total, simd.fill_like(zero, tiny)), v)
                            wanting = lanes.where_above(simd.load(components, S + k, 1), v, one, zero)
                            wanting = simd.multiply(lanes.where_above(u, least, one, wanting), going)
                            simd.store(components, M + k, wanting)
                            simd.store(components, A + k, lanes.where_above(going, wanting, zero, u))
                            if simd.highest(wanting) > 0.0:
                                visits[n_visits] = k
                                n_visits += 1

                    for _ in range(sweeps):
                        n = n_left = 0
                        for low in range(0, n_components, strip):
                            high = min(low + strip, n_components)
                            if n < n_visits and visits[n] < high and held != low:
                                gather_strip(V, offset, entries, X, block, B, E, components, A, low, high, Z)
                                held = low
                            moved, past = zero, B
                            while n < n_visits and visits[n] < high:
                                k = visits[n]
                                b = B + (k - low) * E
                                g, c = visit(block, b, past, moved, entries, X, Y, E)
                                g, c = fold(g, wide, False), fold(c, wide, False)
                                u, v = simd.load(components, A + k, 1), simd.fill_like(zero, v_sum[k])
                                share = simd.fill_like(zero, 1.0 / v_sum[k])
                                step = lanes.subtract(guarded_step(u, g, c, v, share, sharpness), u)
                                wanting = simd.load(components, M + k, 1)
                                moved, past = simd.multiply(step, wanting), b
                                u = simd.add(u, moved)
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
