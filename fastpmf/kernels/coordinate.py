"""`descend`: guarded coordinate descent on the convex problem of each row, one factor fixed."""

import math

import numpy as np

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels.formula import add, divide, fma, formula, maximum, minimum, sqrt, where
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.strips import (
    FLUSH_EVERY,
    QUAD,
    add_rates,
    carry,
    fill_lane,
    gather_strip,
    spread_row,
    sum_ratios,
    take_lanes,
    visit,
)

ENTRIES, COMPONENTS = 4, 6  # vectors of scratch for each vector of entries, and for each component
# Within this many standard deviations of the row's quadratic model a whole step from the right is safe: the root of
# -x - log(1 - x) = x^2, which is where a self-concordant function's upper bound returns to its value.
_SAFE = 0.6838
# Where a component has more than this share, over K, of a row's smallest count, it may be the whole of some rate.
_FEW = 1e-6
# Rates are updated by differences. A longer step would leave only rounding errors where u is the whole rate.
_SHRINK = 2.0**-10


@formula(3)
def _newton_step(u, g, c, price, ratio, sharpness):
    """The step that is right near the optimum, the slope's share of it, and lambda^2 where the slope is negative."""
    slope = g - price
    d = slope / c
    return fma(d, ratio, u), d, where(price > g, sharpness * (slope * d), 0.0)


@formula()
def _guarded(u, g, c, price, ratio, newton, d, far):
    """The step where it is safe, else one that is shorter."""
    scaled = u * ratio
    damped = minimum(scaled, u + d / (1.0 + sqrt(far)))
    damped = maximum(damped, u * _SHRINK)
    damped = where(c > 0.0, damped, scaled)
    near = where(far < _SAFE * _SAFE, newton, damped)
    new = where(price > g, near, newton)
    return where(c < math.inf, new, scaled)


@formula()
def _not_negative(a):
    return where(a > 0.0, a, 0.0)


@step(inline=True)
def guarded_step(u, g, c, price, ratio, sharpness):
    """The next value of a coordinate, from its ratio sum g, its curvature c and its price: -f' = g - price, f'' = c.

    With d = (g - price) / c, lambda^2 = c d^2 / min x, and ratio = g / price:

        g >= price         u + d ratio                               Newton on 1 / g: never past the optimum
        lambda <= 0.6838   max(0, u + d ratio)
        otherwise          min(u ratio, u + d / (1 + lambda))        the multiplicative and the damped Newton point
                           or u / 1024, if that is more and c is not 0

    None of these steps increases the objective. sharpness = 1 / min x. With a ridge, where the price rises with u,
    ratio = 1 makes the steps Newton's own, which are as safe: g - price is convex, and a square has no third
    derivative.

    Source: Hien & Gillis, "Algorithms for nonnegative matrix factorization with the Kullback-Leibler divergence",
    J. Sci. Comput. 87 (2021), section 3.5, for the last two; the first because 1 / g is concave along a coordinate.
    """
    new, d, far = _newton_step(u, g, c, price, ratio, sharpness)
    # Rare once a fit is under way; as is a curvature past the range of floats, where the multiplicative point remains
    if not simd.highest(far) <= _SAFE * _SAFE or not simd.highest(c) < math.inf:
        new = _guarded(u, g, c, price, ratio, new, d, far)
    return _not_negative(new)


@step(inline=True)
def _read_entries(data, indices, indptr, order, first, n_rows, n_entries, wide, row_length, counts, offsets):
    """Lay the entries of a group's rows out in lanes."""
    n_lanes = counts.shape[1]
    flat = simd.section(simd.flat(counts), 0, n_entries * n_lanes)
    if wide:
        spread_row(data, indices, indptr, order[first], row_length, flat, offsets)
    else:
        for lane in range(n_lanes):
            i = order[first + min(lane, n_rows - 1)]
            fill_lane(data, indices, indptr, i, row_length, flat, offsets, lane, n_lanes, lane < n_rows)


@step(inline=False)
def _read_row(source, row_step, order, first, n_rows, wide, offsets, out, n_components):
    """Lay a group's rows of a factor, or the one row that all share, out in lanes."""
    if wide:
        zero, i = simd.zero(out), order[first] * row_step
        for k in range(out.shape[0]):  # all of them are padded with zeros
            simd.store(out, k, 0, simd.fill_like(zero, np.float64(source[i, k])))
    else:
        take_lanes(source, row_step, order, first, n_rows, offsets, out, n_components)


@formula()
def _sharper(sharpness, x):
    """The largest 1 / x of the counts."""
    return maximum(sharpness, where(x > 0.0, 1.0 / x, 0.0))


@step(inline=True)
def _count_totals(counts, n_entries, wide):
    """Each row's sum of counts, and 1 over its smallest."""
    total = sharpness = simd.zero(counts)
    safe = 0.0
    for first in range(0, n_entries, FLUSH_EVERY):
        for e in range(first, min(first + FLUSH_EVERY, n_entries)):
            x = simd.load(counts, e, 0)
            total, sharpness = add(total, x), _sharper(sharpness, x)
        if wide:  # all lanes belong to one row
            safe, total = safe + simd.total(total), simd.zero(counts)
    if wide:
        total, sharpness = simd.fill_like(total, safe), simd.fill_like(total, simd.highest(sharpness))
    return total, sharpness


@formula()
def _lifted(u, a, d, tiny):
    """u, positive wherever there is a shape a: an underflow is not an exact zero."""
    return maximum(u, where(a > 0.0, a * tiny / d, 0.0))


@formula()
def _if_used(u, d):
    """u where the price d is positive and finite, else 0."""
    return where(d > 0.0, where(d < math.inf, u, 0.0), 0.0)


@step(inline=True)
def _start_row(u, price, shape, fixed, has_shape, tiny, n_components, total):
    """Bring u into the range where it may be; the counts and shapes of each row, summed."""
    for k in range(n_components):
        x, d = simd.load(u, k, 0), simd.load(price, k, 0)
        if has_shape:
            a = simd.load(shape, k, 0)
            total = add(total, a)
            x = _lifted(x, a, d, tiny)
        if not fixed[k]:
            x = _if_used(x, d)
        simd.store(u, k, 0, x)
    return total


@formula(3)
def _ratio(x, y, sum_):
    """The rate, 1 where there is no count, the ratio of count to rate, and the sum of ratios."""
    y = where(x > 0.0, y, 1.0)
    ratio = x / y
    return y, ratio, sum_ + ratio


@step(inline=True)
def _measure(V, offsets, counts, rates, ratios, spare, block, n_entries, strip, kept, wide, u, sums, n_components):
    """The rates at u, the ratios of counts to rates, and their sums with V; the strip that the block holds then."""
    zero = simd.zero(counts)
    for e in range(n_entries):
        simd.store(rates, e, 0, zero)
    for low in range(0, n_components, strip):
        high = min(low + strip, n_components)
        if kept == low:
            add_rates(block, n_entries, u, low, high, rates)
        else:
            gather_strip(V, offsets, counts, rates, block, n_entries, u, low, high)
            kept = low
    ratio_sum = zero
    for e in range(n_entries):
        y, ratio, ratio_sum = _ratio(simd.load(counts, e, 0), simd.load(rates, e, 0), ratio_sum)
        simd.store(rates, e, 0, y)
        simd.store(ratios, e, 0, ratio)
    for low in range(0, n_components, strip):
        high = min(low + strip, n_components)
        if kept != low:
            gather_strip(V, offsets, counts, spare, block, n_entries, u, low, high)
            kept = low
        sum_ratios(block, n_entries, ratios, wide, sums, low, high)
    if wide:
        ratio_sum = simd.fill_like(zero, simd.total(ratio_sum))
    return kept, ratio_sum


@formula()
def _sum_with_shape(s, a, u):
    return s + where(a > 0.0, a / u, 0.0)


@formula(2)
def _bound_term(rate, highest, s, u, d):
    """The sums of the bound without ridges, fixed components and infinite prices."""
    return fma(u, d, rate), maximum(where(d > 0.0, s / d, 0.0), highest)


@formula(2)
def _general_bound_term(rate, highest, s, u, d, q):
    """The sums of the bound."""
    excess = where(d < math.inf, s - fma(q, u, d), 0.0)
    return rate - u * excess, maximum(where(d > 0.0, excess / d, 0.0), highest)


@formula()
def _bound(rate, highest, total, ratio_sum, shift):
    """What a better row could gain; quadratic at the optimum, so that rounding may pass below 0. NaN if a rate is 0."""
    bound = fma(total, highest - shift, rate)
    return fma(ratio_sum, 0.0, where(bound < 0.0, 0.0, bound))


@step(inline=True)
def _gap(u, price, shape, ridge, sums, fixed, has_shape, is_general, n_components, total, ratio_sum):
    """The bound on what a better row could gain; `sums` gets what the shapes add to it."""
    rate = highest = simd.zero(u)
    for k in range(n_components):
        x, d, s = simd.load(u, k, 0), simd.load(price, k, 0), simd.load(sums, k, 0)
        if has_shape:
            s = _sum_with_shape(s, simd.load(shape, k, 0), x)
            simd.store(sums, k, 0, s)
        if not fixed[k]:
            if is_general:
                rate, highest = _general_bound_term(rate, highest, s, x, d, simd.load(ridge, k, 0))
            else:
                rate, highest = _bound_term(rate, highest, s, x, d)
    return _bound(rate, highest, total, ratio_sum, 0.0 if is_general else 2.0)


@formula()
def _unsolved(bound, total, tol):
    """1 in the lanes whose gap is above tol and finite."""
    return where(bound > total * tol, where(bound < math.inf, 1.0, 0.0), 0.0)


@formula()
def _action(u, d, s, a, total, sharpness, going, tiny, few):
    """Which lanes are to visit a coordinate: 1; 2 if it is to become 0, so that rates are updated; 0 in the others."""
    action = where(s > d, 1.0, 0.0)
    action = where(u * s * sharpness > few, 1.0, action)
    action = where(a > 0.0, 1.0, action)  # no entry with a shape is ever 0, however small its share
    action = where(u > total * tiny / d, 1.0, action) * going
    action = where(d > 0.0, where(d < math.inf, action, 0.0), 0.0)
    return where(u > 0.0, where(going > action, 2.0, action), action)


@step(inline=True)
def _choose(u, price, shape, sums, actions, visits, fixed, has_shape, tiny, n_components, total, sharpness, going):
    """List the components that any lane is to visit; their number."""
    n_visits, a = 0, simd.zero(u)
    for k in range(n_components):
        if not fixed[k]:
            if has_shape:
                a = simd.load(shape, k, 0)
            x, d, s = simd.load(u, k, 0), simd.load(price, k, 0), simd.load(sums, k, 0)
            action = _action(x, d, s, a, total, sharpness, going, tiny, _FEW / n_components)
            simd.store(actions, k, 0, action)
            if simd.highest(action) > 0.0:
                visits[n_visits] = k
                n_visits += 1
    return n_visits


@formula(3)
def _add_shape(g, c, sharpness, a, u):
    """What a shape adds to the derivatives, and the sharpness beside it."""
    pull = where(a > 0.0, a / u, 0.0)
    return g + pull, c + where(a > 0.0, pull / u, 0.0), maximum(where(a > 0.0, 1.0 / a, 0.0), sharpness)


@formula(3)
def _add_ridge(c, d, ratio, q, u):
    """Curvature, price and ratio under a ridge."""
    return c + q, fma(q, u, d), where(q > 0.0, 1.0, ratio)


@formula(3)
def _move(u, new, action):
    """The coordinate after the step, its move, and the lanes to visit it again, as what is 0 stays 0 in this round."""
    new = where(action > 1.0, 0.0, where(action > 0.0, new, u))
    return new, new - u, where(new > 0.0, action, 0.0)


@step(inline=True)
def _sweep(
    V, offsets, counts, rates, spare, block, n_entries, strip, kept, wide, u, price, shape, ridge, actions, visits,
    n_visits, has_shape, has_ridge, n_components, sharpness,
):  # fmt: skip
    """One sweep over the listed components; those that are left for the next, and the strip that the block holds."""
    n = n_left = 0
    for low in range(0, n_components, strip):
        high = min(low + strip, n_components)
        if n < n_visits and visits[n] < high and kept != low:
            gather_strip(V, offsets, counts, spare, block, n_entries, u, low, high)
            kept = low
        moved, past = simd.zero(counts), 0
        while n < n_visits and visits[n] < high:
            k = visits[n]
            b = (k - low) * n_entries
            g, c = visit(block, b, past, moved, counts, rates, n_entries, wide)
            x, d, sharp = simd.load(u, k, 0), simd.load(price, k, 0), sharpness
            if has_shape:
                g, c, sharp = _add_shape(g, c, sharp, simd.load(shape, k, 0), x)
            ratio = divide(g, d)
            if has_ridge:
                c, d, ratio = _add_ridge(c, d, ratio, simd.load(ridge, k, 0), x)
            new = guarded_step(x, g, c, d, ratio, sharp)
            new, moved, action = _move(x, new, simd.load(actions, k, 0))
            past = b
            simd.store(u, k, 0, new)
            simd.store(actions, k, 0, action)
            n += 1
            if simd.highest(action) > 0.0:
                visits[n_left] = k
                n_left += 1
        carry(block, past, moved, rates, n_entries)
    return n_left, kept


@step(inline=True)
def _write(order, first, n_rows, u, bound, offsets, n_components, out, gap):
    """Scatter the rows of a group and their gaps."""
    for lane in range(n_rows):
        i = order[first + lane]
        gap[i] = lanes.lane_of(bound, lane)
        offsets[lane] = i * np.int64(out.shape[1])
    for k in range(0, n_components, QUAD):
        lanes.scatter_quad(out, offsets, n_rows, k, lanes.load_quad(u, k, 1))


@step(inline=True)
def _data_term(counts, rates, n_entries):
    """sum of x log rate over the entries, nats."""
    total = 0.0
    for e in range(n_entries):
        total += lanes.total_x_log(simd.load(counts, e, 0), simd.load(rates, e, 0))
    return total


@kernel(writes=8)
def descend(table, group, worker):
    """Lower the divergence of each row by cyclic coordinate descent, V fixed; monotone, without function evaluation.

    Rows come in groups, which are the tasks. A wide group is one row, its entries spread over the lanes; a narrow one
    is as many rows as there are lanes, of about equal length, one in each. The rows of V are gathered and transposed
    once, so that a coordinate is a unit-stride vector; where that block would outgrow `strip` components it is gathered
    again, strip by strip, in each sweep. A row's objective is that of `multiply`, with d its row of `weight`, a of
    `shape` and q of `ridge`. With y the row's rates and total = sum_j x_j + sum_k a_k,

        S_k   = sum_j x_j / y_j v_jk + a_k / u_k,                  gap as in `multiply`
        g, c  = S_k,  sum_j x_j v_jk^2 / y_j^2 + a_k / u_k^2 + q_k,      u_k <- guarded_step(u_k, g, c, d_k + q_k u_k)

    over the active k: those with u_k above `tiny` total / d_k, a_k > 0, S_k > d_k or u_k S_k, its share of
    the counts, > `_FEW` min x / K. The others become exactly 0, but for the fixed ones, which stay.

    in    data, indices, U, V   as in `ratio_contract`
          indptr     (n_rows + 1,)  int64
          order      (n_rows,)      int64, the rows, those of a group side by side
          groups     (n_groups, 5)  int64: first place in `order`, rows, vectors of entries, wide?, strip
          weight, shape, ridge  (1 or n_rows, K) as in `multiply`
          fixed      (K,)           bool
          n_components, sweeps, max_rounds  int
          weight_step, shape_step  int, whether `weight`, and `shape` and `ridge`, have a row for each
          has_shape, has_ridge, is_general  int, is there a shape, a ridge, any of ridge, fixed and inf
          wants_data_term  int
          tol, tiny        float
    out   offsets    (n_workers, n) int64, scratch: where the entries' rows of V begin
          visits     (n_workers, K) int64, scratch: the components to visit
          entries    (n_workers, ENTRIES, n, lanes), scratch: counts, rates, ratios, and a spare
          block      (n_workers, n, lanes), scratch: transposed rows of V
          components (n_workers, COMPONENTS, K, lanes), scratch: u, S, which lanes to visit, weight, shape, ridge
          out        (n_rows, K)    overwritten, padding excepted
          gap        (n_rows,)      float64, nats: the bound on what a better row could gain. With tol < 0, of U; with
                                    tol >= 0 rounds of sweeps go on until it is at most tol * total, and it is that of
                                    `out`, U's own coming back unchanged where it is met at once
          data_term  (n_groups,)    float64, where wanted: sum over the rows of  data log(rate), at `out`; nats
    gives bitwise the same row for any number of workers, whatever the other rows are
    cost  per sweep about 8 nnz flops and nnz divisions for each active component; 8 nnz K flops to measure; gathers
          nnz K itemsize bytes of V
    """
    (
        data, indices, indptr, order, groups, U, V, weight, shape, ridge, fixed, n_components, sweeps, max_rounds,
        weight_step, shape_step, has_shape, has_ridge, is_general, wants_data_term, tol, tiny, all_offsets, all_visits,
        all_entries, all_blocks, all_components, out, gap, data_term,
    ) = arguments(table)  # fmt: skip
    first, n_rows, n_entries = groups[group, 0], groups[group, 1], groups[group, 2]
    wide, strip = groups[group, 3] == 1, groups[group, 4]
    offsets, visits, block = (
        simd.part(all_offsets, worker),
        simd.part(all_visits, worker),
        simd.part(all_blocks, worker),
    )
    counts, rates, ratios, spare = simd.parts(simd.part(all_entries, worker), ENTRIES)
    u, sums, actions, price, shapes, ridges = simd.parts(simd.part(all_components, worker), COMPONENTS)

    _read_row(U, 1, order, first, n_rows, wide, offsets, u, n_components)
    _read_row(weight, weight_step, order, first, n_rows, wide, offsets, price, n_components)
    if has_shape:
        _read_row(shape, shape_step, order, first, n_rows, wide, offsets, shapes, n_components)
    if is_general:
        _read_row(ridge, shape_step, order, first, n_rows, wide, offsets, ridges, n_components)
    _read_entries(data, indices, indptr, order, first, n_rows, n_entries, wide, V.shape[1], counts, offsets)
    total, sharpness = _count_totals(counts, n_entries, wide)
    total = _start_row(u, price, shapes, fixed, has_shape, tiny, n_components, total)
    going = simd.fill_like(total, 1.0)
    kept, done = -1, 0  # the strip that the block holds; rounds done
    while True:
        kept, ratio_sum = _measure(
            V, offsets, counts, rates, ratios, spare, block, n_entries, strip, kept, wide, u, sums, n_components
        )
        bound = _gap(u, price, shapes, ridges, sums, fixed, has_shape, is_general, n_components, total, ratio_sum)
        if tol >= 0.0:
            going = _unsolved(bound, total, tol)
        if done == max_rounds or simd.highest(going) == 0.0:
            break
        n_visits = _choose(
            u, price, shapes, sums, actions, visits, fixed, has_shape, tiny, n_components, total, sharpness, going
        )
        for _ in range(sweeps):
            n_visits, kept = _sweep(
                V, offsets, counts, rates, spare, block, n_entries, strip, kept, wide, u, price, shapes, ridges,
                actions, visits, n_visits, has_shape, has_ridge, n_components, sharpness,
            )  # fmt: skip
        done += 1
        if tol < 0.0:
            break
    _write(order, first, n_rows, u, bound, offsets, n_components, out, gap)
    if wants_data_term:
        data_term[group] = _data_term(counts, rates, n_entries)
