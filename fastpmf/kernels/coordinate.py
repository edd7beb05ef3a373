"""`descend`: guarded coordinate descent on the convex problem of each row, one factor fixed.

Rows are solved in groups. The block of a group holds, for a strip of components, the rows of V that the group's entries
need, transposed, so that a coordinate is a unit-stride vector over the entries: with E vectors of entries and a strip
that begins with component low, row (k - low) E + e of the block is component k of the entries in vector e.
"""

import math

import numpy as np

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels.formula import add, divide, fma, formula, maximum, minimum, sqrt, where
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.simd import QUAD
from fastpmf.kernels.special import x_log

ENTRIES, COMPONENTS = 4, 6  # vectors of scratch for each vector of entries, and for each component
# Vectors that are summed in their own dtype before their sum is added to one in float64. If a long row's counts and
# rates are similar, so are the rounding errors of its sum: in float32 they would reach 1e-4 of it after 10^5 entries.
_FLUSH_EVERY = 256
# Smallest fraction of a rate that remains after one move, so that rounding does not make a rate 0 or negative
_SMALLEST_RATE = 1e-6
# If lambda, see `_guarded_step`, is below this, a step to the left is safe: it is the root of -x - log(1 - x) = x^2,
# where the upper bound of a self-concordant function returns to its value.
_SAFE = 0.6838
# If a component has more than this fraction, over K, of a row's smallest count, it may be all of some rate.
_FEW = 1e-6
# Rates are updated by differences. A longer step would leave only rounding errors where u is the whole rate.
_SHRINK = 2.0**-10


# ── reading a group's rows ──────────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _spread_row(data, indices, indptr, i, row_length, counts, offsets):
    """Lay the entries of row i side by side: counts, and where their rows of V begin; then zeros."""
    start, length = indptr[i], indptr[i + 1] - indptr[i]
    own, columns = simd.section(data, start, length), simd.section(indices, start, length)
    for p in range(length):
        counts[p] = own[p]
    for p in range(length):
        offsets[p] = columns[p] * np.int64(row_length)
    for p in range(length, len(counts)):
        counts[p] = 0
        offsets[p] = 0


@step(inline=True)
def _fill_lane(data, indices, indptr, i, row_length, counts, offsets, lane, n_lanes, exists):
    """Lay the entries of row i into one lane: one in each vector; then zeros."""
    start = indptr[i]
    length = indptr[i + 1] - start if exists else 0
    own, columns = simd.section(data, start, length), simd.section(indices, start, length)
    p = np.uint64(lane)
    for e in range(length):
        counts[p] = own[e]
        offsets[p] = columns[e] * np.int64(row_length)
        p += np.uint64(n_lanes)
    while p < len(counts):
        counts[p] = 0
        offsets[p] = 0
        p += np.uint64(n_lanes)


@step(inline=True)
def _read_entries(data, indices, indptr, order, first, n_rows, n_entries, one_row, row_length, counts, offsets):
    """Lay the entries of a group's rows out in lanes."""
    n_lanes = counts.shape[1]
    flat = simd.section(counts, 0, n_entries * n_lanes)
    if one_row:
        _spread_row(data, indices, indptr, order[first], row_length, flat, offsets)
    else:
        for lane in range(n_lanes):
            i = order[first + min(lane, n_rows - 1)]
            _fill_lane(data, indices, indptr, i, row_length, flat, offsets, lane, n_lanes, lane < n_rows)


@step(inline=False)
def _read_row(source, row_step, order, first, n_rows, one_row, offsets, out, n_components):
    """Lay a group's rows of a factor, or with row_step 0 its only row, out in lanes."""
    zero = simd.zero(out, 0)
    if one_row:
        i = order[first] * row_step
        for k in range(out.shape[0]):  # all of them are padded with zeros
            simd.store(out, k, 0, simd.fill_like(zero, np.float64(source[i, k])))
    else:
        for lane in range(out.shape[1]):
            offsets[lane] = order[first + min(lane, n_rows - 1)] * row_step * np.int64(source.shape[1])
        one = simd.fill_like(zero, 1.0)
        for k in range(0, n_components, QUAD):
            simd.store_quad(out, k, 1, simd.gather_quad(source, offsets, 0, k, one))


@formula()
def _sharper(sharpness, x):
    """The largest 1 / x of the counts."""
    return maximum(sharpness, where(x > 0.0, 1.0 / x, 0.0))


@step(inline=True)
def _count_totals(counts, n_entries, one_row):
    """Each row's sum of counts, and 1 over its smallest."""
    total = sharpness = simd.zero(counts, 0)
    safe = 0.0
    for first in range(0, n_entries, _FLUSH_EVERY):
        for e in range(first, min(first + _FLUSH_EVERY, n_entries)):
            x = simd.load(counts, e, 0)
            total, sharpness = add(total, x), _sharper(sharpness, x)
        if one_row:
            safe, total = safe + simd.total(total), simd.zero(counts, 0)
    if one_row:
        total, sharpness = simd.fill_like(total, safe), simd.fill_like(total, simd.highest(sharpness))
    return total, sharpness


@formula()
def _lifted(u, a, d, tiny):
    """u, positive wherever there is a shape a: an entry of 0 is an underflow there."""
    return maximum(u, where(a > 0.0, a * tiny / d, 0.0))


@formula()
def _if_used(u, d):
    """u where the weight d is positive and finite, else 0."""
    return where(d > 0.0, where(d < math.inf, u, 0.0), 0.0)


@step(inline=True)
def _start_row(u, weight, shape, fixed, has_shape, tiny, n_components, total):
    """Move u into its domain; the counts and shapes of each row, summed."""
    for k in range(n_components):
        x, d = simd.load(u, k, 0), simd.load(weight, k, 0)
        if has_shape:
            a = simd.load(shape, k, 0)
            total = add(total, a)
            x = _lifted(x, a, d, tiny)
        if not fixed[k]:
            x = _if_used(x, d)
        simd.store(u, k, 0, x)
    return total


# ── rates and the gap ───────────────────────────────────────────────────────────────────────────────────────────


@formula()
def _add_quad(y, u, v):
    """y + sum of u v over four components."""
    for c in range(QUAD):
        y = fma(u[c], v[c], y)
    return y


@step(inline=False)
def _gather_strip(V, offsets, counts, rates, block, n_entries, u, low, high):
    """Transpose the rows of V for components low to high into the block; rates += sum_k u_k v_k over the strip."""
    for e in range(n_entries):
        x, y = simd.load(counts, e, 0), simd.load(rates, e, 0)
        b = e
        for k in range(low, high, QUAD):
            v = simd.gather_quad(V, offsets, e, k, x)
            simd.store_quad(block, b, n_entries, v)
            y = _add_quad(y, simd.load_quad(u, k, 1), v)
            b += QUAD * n_entries
        simd.store(rates, e, 0, y)


@step(inline=True)
def _add_rates(block, n_entries, u, low, high, rates):
    """rates += sum_k u_k v_k over the strip that is in the block."""
    for k in range(low, high, QUAD):
        u_quad, b = simd.load_quad(u, k, 1), (k - low) * n_entries
        for e in range(n_entries):
            y = _add_quad(simd.load(rates, e, 0), u_quad, simd.load_quad(block, b + e, n_entries))
            simd.store(rates, e, 0, y)


@formula(QUAD)
def _add_products(r, s, v):
    """s + r v of four components."""
    return [fma(r, v[c], s[c]) for c in range(QUAD)]


@step(inline=True)
def _sum_ratios(block, n_entries, ratios, one_row, sums, low, high):
    """sums_k = sum r v_k over the strip, r the ratios x / y."""
    zero = simd.zero(ratios, 0)
    zeros = zero, zero, zero, zero
    for k in range(low, high, QUAD):
        b, s, t = (k - low) * n_entries, zeros, (0.0, 0.0, 0.0, 0.0)
        for first in range(0, n_entries, _FLUSH_EVERY):
            for e in range(first, min(first + _FLUSH_EVERY, n_entries)):
                s = _add_products(simd.load(ratios, e, 0), s, simd.load_quad(block, b + e, n_entries))
            if one_row:
                s0, s1, s2, s3 = s
                t = t[0] + simd.total(s0), t[1] + simd.total(s1), t[2] + simd.total(s2), t[3] + simd.total(s3)
                s = zeros
        if one_row:
            s = (
                simd.fill_like(zero, t[0]), simd.fill_like(zero, t[1]), simd.fill_like(zero, t[2]),
                simd.fill_like(zero, t[3]),
            )  # fmt: skip
        simd.store_quad(sums, k, 1, s)


@formula(3)
def _ratio(x, y, sum_):
    """The rate, 1 where there is no count; the ratio of count to rate; and the sum of ratios."""
    y = where(x > 0.0, y, 1.0)
    ratio = x / y
    return y, ratio, sum_ + ratio


@step(inline=True)
def _measure(
    V, offsets, counts, rates, ratios, unused, block, n_entries, strip, loaded, one_row, u, sums, n_components
):
    """Compute the rates at u, the ratios of counts to rates, and `sums`, of V times the ratios.

    Returns the first component of the strip that is in the block then, and the sum of the ratios.
    """
    zero = simd.zero(counts, 0)
    for e in range(n_entries):
        simd.store(rates, e, 0, zero)
    for low in range(0, n_components, strip):
        high = min(low + strip, n_components)
        if loaded == low:
            _add_rates(block, n_entries, u, low, high, rates)
        else:
            _gather_strip(V, offsets, counts, rates, block, n_entries, u, low, high)
            loaded = low
    ratio_sum = zero
    for e in range(n_entries):
        y, ratio, ratio_sum = _ratio(simd.load(counts, e, 0), simd.load(rates, e, 0), ratio_sum)
        simd.store(rates, e, 0, y)
        simd.store(ratios, e, 0, ratio)
    for low in range(0, n_components, strip):
        high = min(low + strip, n_components)
        if loaded != low:
            _gather_strip(V, offsets, counts, unused, block, n_entries, u, low, high)
            loaded = low
        _sum_ratios(block, n_entries, ratios, one_row, sums, low, high)
    if one_row:
        ratio_sum = simd.fill_like(zero, simd.total(ratio_sum))
    return loaded, ratio_sum


@formula()
def _sum_with_shape(s, a, u):
    return s + where(a > 0.0, a / u, 0.0)


@formula(2)
def _bound_term(rate, highest, s, u, d):
    """The sums of the bound without ridges, fixed components and infinite weights."""
    return fma(u, d, rate), maximum(where(d > 0.0, s / d, 0.0), highest)


@formula(2)
def _general_bound_term(rate, highest, s, u, d, q):
    """The sums of the bound."""
    excess = where(d < math.inf, s - fma(q, u, d), 0.0)
    return rate - u * excess, maximum(where(d > 0.0, excess / d, 0.0), highest)


@formula()
def _bound(rate, highest, total, ratio_sum, shift):
    """The gap, at least 0; near the optimum it is quadratic, and rounding may make it negative. NaN if a rate is 0."""
    bound = fma(total, highest - shift, rate)
    return fma(ratio_sum, 0.0, where(bound < 0.0, 0.0, bound))


@step(inline=True)
def _gap(u, weight, shape, ridge, sums, fixed, has_shape, is_general, n_components, total, ratio_sum):
    """The bound on what a better row could gain; the shapes' part is added to `sums`."""
    rate = highest = simd.zero(u, 0)
    for k in range(n_components):
        x, d, s = simd.load(u, k, 0), simd.load(weight, k, 0), simd.load(sums, k, 0)
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


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────────────


@formula()
def _action(u, d, s, a, total, sharpness, active, tiny, few):
    """What each lane does with a coordinate: 1 visit it, 2 set it to 0, which also updates the rates, 0 nothing."""
    action = where(s > d, 1.0, 0.0)
    action = where(u * s * sharpness > few, 1.0, action)
    action = where(a > 0.0, 1.0, action)  # no entry with a shape is ever 0, however small
    action = where(u > total * tiny / d, 1.0, action) * active
    action = where(d > 0.0, where(d < math.inf, action, 0.0), 0.0)
    return where(u > 0.0, where(active > action, 2.0, action), action)


@step(inline=True)
def _choose(u, weight, shape, sums, actions, visits, fixed, has_shape, tiny, n_components, total, sharpness, active):
    """List the components that any lane visits; returns their number."""
    n_visits, a = 0, simd.zero(u, 0)
    for k in range(n_components):
        if not fixed[k]:
            if has_shape:
                a = simd.load(shape, k, 0)
            x, d, s = simd.load(u, k, 0), simd.load(weight, k, 0), simd.load(sums, k, 0)
            action = _action(x, d, s, a, total, sharpness, active, tiny, _FEW / n_components)
            simd.store(actions, k, 0, action)
            if simd.highest(action) > 0.0:
                visits[n_visits] = k
                n_visits += 1
    return n_visits


@formula()
def _moved_rates(y, move, v):
    """The rates after a coordinate has moved."""
    return maximum(fma(move, v, y), y * _SMALLEST_RATE)


@step(inline=True)
def _update_rates(block, previous, move, rates, n_entries):
    """Add the move of the coordinate whose vectors begin at row `previous` of the block to the rates."""
    for e in range(n_entries):
        y = _moved_rates(simd.load(rates, e, 0), move, simd.load(block, previous + e, 0))
        simd.store(rates, e, 0, y)


@formula(2)
def _add_derivatives(g, c, x, y, v):
    """Add an entry to the ratio sum and to the curvature."""
    w = v / y
    xw = x * w
    return g + xw, fma(xw, w, c)


@step(inline=True)
def _visit(block, b, previous, move, counts, rates, n_entries, one_row):
    """As `_update_rates`, and in the same loop sum g and c of the coordinate whose vectors begin at row b."""
    g = c = simd.zero(counts, 0)
    safe_g = safe_c = 0.0
    for first in range(0, n_entries, _FLUSH_EVERY):
        for e in range(first, min(first + _FLUSH_EVERY, n_entries)):
            y = _moved_rates(simd.load(rates, e, 0), move, simd.load(block, previous + e, 0))
            simd.store(rates, e, 0, y)
            g, c = _add_derivatives(g, c, simd.load(counts, e, 0), y, simd.load(block, b + e, 0))
        if one_row:
            safe_g, safe_c = safe_g + simd.total(g), safe_c + simd.total(c)
            g = c = simd.zero(counts, 0)
    if one_row:
        g, c = simd.fill_like(g, safe_g), simd.fill_like(c, safe_c)
    return g, c


@formula(3)
def _add_shape(g, c, sharpness, a, u):
    """Add a shape to the derivatives, and take it into account in the sharpness."""
    pull = where(a > 0.0, a / u, 0.0)
    return g + pull, c + where(a > 0.0, pull / u, 0.0), maximum(where(a > 0.0, 1.0 / a, 0.0), sharpness)


@formula(3)
def _add_ridge(c, d, ratio, q, u):
    """Curvature, price and ratio with a ridge."""
    return c + q, fma(q, u, d), where(q > 0.0, 1.0, ratio)


@formula(3)
def _newton_step(u, g, c, price, ratio, sharpness):
    """The step for the neighbourhood of the optimum, its (g - price) / c, and lambda^2 where the slope is negative."""
    slope = g - price
    d = slope / c
    return fma(d, ratio, u), d, where(price > g, sharpness * (slope * d), 0.0)


@formula()
def _guarded(u, g, c, price, ratio, newton, d, far):
    """The Newton step where it is safe, else a shorter one."""
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
def _guarded_step(u, g, c, price, ratio, sharpness):
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
    # Rare after a few iterations. If the curvature overflows, the multiplicative point is used
    if not simd.highest(far) <= _SAFE * _SAFE or not simd.highest(c) < math.inf:
        new = _guarded(u, g, c, price, ratio, new, d, far)
    return _not_negative(new)


@formula(3)
def _move(u, new, action):
    """The coordinate after the step, its move, and its next action: an entry that is 0 stays 0 in this round."""
    new = where(action > 1.0, 0.0, where(action > 0.0, new, u))
    return new, new - u, where(new > 0.0, action, 0.0)


@step(inline=True)
def _sweep(
    V, offsets, counts, rates, unused, block, n_entries, strip, loaded, one_row, u, weight, shape, ridge, actions,
    visits, n_visits, has_shape, has_ridge, n_components, sharpness,
):  # fmt: skip
    """Sweep over the listed components once.

    Returns the number of components listed for the next sweep, and the first one of the strip that is in the block.
    """
    n = n_next = 0
    for low in range(0, n_components, strip):
        high = min(low + strip, n_components)
        if n < n_visits and visits[n] < high and loaded != low:
            _gather_strip(V, offsets, counts, unused, block, n_entries, u, low, high)
            loaded = low
        move, previous = simd.zero(counts, 0), 0
        while n < n_visits and visits[n] < high:
            k = visits[n]
            b = (k - low) * n_entries
            g, c = _visit(block, b, previous, move, counts, rates, n_entries, one_row)
            x, d, sharp = simd.load(u, k, 0), simd.load(weight, k, 0), sharpness
            if has_shape:
                g, c, sharp = _add_shape(g, c, sharp, simd.load(shape, k, 0), x)
            ratio = divide(g, d)
            if has_ridge:
                c, d, ratio = _add_ridge(c, d, ratio, simd.load(ridge, k, 0), x)
            new = _guarded_step(x, g, c, d, ratio, sharp)
            new, move, action = _move(x, new, simd.load(actions, k, 0))
            previous = b
            simd.store(u, k, 0, new)
            simd.store(actions, k, 0, action)
            n += 1
            if simd.highest(action) > 0.0:
                visits[n_next] = k
                n_next += 1
        _update_rates(block, previous, move, rates, n_entries)
    return n_next, loaded


# ── the kernel ──────────────────────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _write(order, first, n_rows, u, bound, offsets, n_components, out, gap):
    """Write the rows of a group and their gaps."""
    for lane in range(n_rows):
        i = order[first + lane]
        gap[i] = simd.lane_of(bound, lane)
        offsets[lane] = i * np.int64(out.shape[1])
    for k in range(0, n_components, QUAD):
        simd.scatter_quad(out, offsets, n_rows, k, simd.load_quad(u, k, 1))


@step(inline=True)
def _data_term(counts, rates, n_entries):
    """sum of x log rate over the entries, nats."""
    total = 0.0
    for e in range(n_entries):
        x, y = simd.as_float64(simd.load(counts, e, 0)), simd.as_float64(simd.load(rates, e, 0))
        total += simd.total(x_log(x, y))
    return total


@kernel(writes=8)
def descend(table, group, worker):
    """Lower the divergence of each row by cyclic coordinate descent, V fixed; monotone, without function evaluation.

    A task is a group of rows: either one row, its entries spread over the lanes, or as many rows as there are lanes, of
    about equal length, one in each. The rows of V are gathered and transposed once, so that a coordinate is a
    unit-stride vector. If the transposed block would have more than `strip` components, it is gathered again, strip by
    strip, in each sweep. A row's objective is that of `multiply`, with d its row of `weight`, a of `shape` and q of
    `ridge`. With y the row's rates and total = sum_j x_j + sum_k a_k,

        S_k   = sum_j x_j / y_j v_jk + a_k / u_k,                  gap as in `multiply`
        g, c  = S_k,  sum_j x_j v_jk^2 / y_j^2 + a_k / u_k^2 + q_k,      u_k <- guarded step(u_k, g, c, d_k + q_k u_k)

    over the active k: those with u_k > `tiny` total / d_k, with a_k > 0, with S_k > d_k or with u_k S_k, the counts of
    k, > `_FEW` min x / K. The others are set to exactly 0, except fixed ones, which stay.

    in    data, indices, U, V   as in `ratio_contract`
          indptr     (n_rows + 1,)  int64
          order      (n_rows,)      int64, the rows, those of a group side by side
          groups     (n_groups, 5)  int64: first place in `order`, number of rows, vectors of entries, 1 for one row in
                                    all lanes or 0 for one row a lane, strip
          weight, shape, ridge  (1 or n_rows, K) as in `multiply`
          fixed      (K,)           bool
          n_components, sweeps, max_rounds  int
          weight_step, shape_step  int: whether `weight`, and `shape` and `ridge`, have a row for each
          has_shape, has_ridge, is_general  int: whether there is a shape; a ridge; any of ridge, fixed and inf
          wants_data_term  int: whether to sum `data_term`
          tol, tiny        float
    out   offsets    (n_workers, n) int64, scratch: where the entries' rows of V begin
          visits     (n_workers, K) int64, scratch: the components to visit
          entries    (n_workers, ENTRIES, n, lanes), scratch: counts, rates, ratios, unused rates
          block      (n_workers, n, lanes), scratch: transposed rows of V
          components (n_workers, COMPONENTS, K, lanes), scratch: u, S, actions, weight, shape, ridge
          out        (n_rows, K)    overwritten, padding excepted
          gap        (n_rows,)      float64, nats: the bound on what a better row could gain, see `tol`
          data_term  (n_groups,)    float64, if `wants_data_term`: sum over the rows of  data log(rate), at `out`; nats
          If tol < 0, there is one round of sweeps, and gap is that of U. Otherwise rounds are repeated until gap, then
          that of `out`, is at most tol * total; a row of U whose gap already is comes back unchanged.
    gives bitwise the same row for any number of workers and any other rows
    cost  per sweep about 8 nnz flops and nnz divisions for each active component; 8 nnz K flops for the gap; gathers
          nnz K itemsize bytes of V
    """
    (
        data, indices, indptr, order, groups, U, V, weight, shape, ridge, fixed, n_components, sweeps, max_rounds,
        weight_step, shape_step, has_shape, has_ridge, is_general, wants_data_term, tol, tiny, all_offsets, all_visits,
        all_entries, all_blocks, all_components, out, gap, data_term,
    ) = arguments(table)  # fmt: skip
    first, n_rows, n_entries = groups[group, 0], groups[group, 1], groups[group, 2]
    one_row, strip = groups[group, 3] == 1, groups[group, 4]
    offsets, visits = simd.subarray(all_offsets, worker), simd.subarray(all_visits, worker)
    block = simd.subarray(all_blocks, worker)
    counts, rates, ratios, unused = simd.subarrays(simd.subarray(all_entries, worker), ENTRIES)
    u, sums, actions, weights, shapes, ridges = simd.subarrays(simd.subarray(all_components, worker), COMPONENTS)

    _read_row(U, 1, order, first, n_rows, one_row, offsets, u, n_components)
    _read_row(weight, weight_step, order, first, n_rows, one_row, offsets, weights, n_components)
    if has_shape:
        _read_row(shape, shape_step, order, first, n_rows, one_row, offsets, shapes, n_components)
    if is_general:
        _read_row(ridge, shape_step, order, first, n_rows, one_row, offsets, ridges, n_components)
    _read_entries(data, indices, indptr, order, first, n_rows, n_entries, one_row, V.shape[1], counts, offsets)
    total, sharpness = _count_totals(counts, n_entries, one_row)
    total = _start_row(u, weights, shapes, fixed, has_shape, tiny, n_components, total)
    active = simd.fill_like(total, 1.0)
    loaded, n_rounds = -1, 0  # first component of the strip that is in the block
    while True:
        loaded, ratio_sum = _measure(
            V, offsets, counts, rates, ratios, unused, block, n_entries, strip, loaded, one_row, u, sums, n_components
        )
        bound = _gap(u, weights, shapes, ridges, sums, fixed, has_shape, is_general, n_components, total, ratio_sum)
        if tol >= 0.0:
            active = _unsolved(bound, total, tol)
        if n_rounds == max_rounds or simd.highest(active) == 0.0:
            break
        n_visits = _choose(
            u, weights, shapes, sums, actions, visits, fixed, has_shape, tiny, n_components, total, sharpness, active
        )
        for _ in range(sweeps):
            n_visits, loaded = _sweep(
                V, offsets, counts, rates, unused, block, n_entries, strip, loaded, one_row, u, weights, shapes, ridges,
                actions, visits, n_visits, has_shape, has_ridge, n_components, sharpness,
            )  # fmt: skip
        n_rounds += 1
        if tol < 0.0:
            break
    _write(order, first, n_rows, u, bound, offsets, n_components, out, gap)
    if wants_data_term:
        data_term[group] = _data_term(counts, rates, n_entries)
