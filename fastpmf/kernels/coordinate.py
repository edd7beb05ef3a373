"""`descend`: guarded coordinate descent on the convex problem of each row, one factor fixed, two coordinates at a time.

Rows are solved in groups, of at most as many rows as a vector has lanes. What is a sum over the entries of a row has
the entries along the lanes; what is done with the sums has the rows along the lanes, so that the division, the root and
the tests of a step are shared by all rows of the group.

Most entries of a factor are 0. Each row lists the components that it visits, and only these are gathered, into a block
in which a listed component is a unit-stride vector over the entries: component number n of the list of a row that has E
vectors of entries is in E rows of the block, its slot.
"""

import math

import numpy as np

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels.formula import add, fma, formula, maximum, minimum, sqrt, where
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.simd import GROUP
from fastpmf.kernels.special import x_log

ENTRIES, LISTED, PRODUCTS, BY_ROW, PLACES = 3, 4, 2, 9, 5  # parts of the scratch arrays, see `descend`
# Vectors that are summed in their own dtype before their sum is added to one in float64. If a long row's counts and
# rates are similar, so are the rounding errors of its sum: in float32 they would reach 1e-4 of it after 10^5 entries.
_FLUSH_EVERY = 256
_AT_ONCE = 16  # vectors of entries whose rows of V are read twice in succession, the second time from the cache
# Smallest fraction of a rate that remains after one move, so that rounding does not make a rate 0 or negative
_SMALLEST_RATE = 1e-6
# If lambda, see `_guarded_step`, is below this, a step is safe: it is the root of -x - log(1 - x) = x^2, where the
# upper bound of a self-concordant function returns to its value.
_SAFE = 0.6838
# If a component has more than this fraction, over K, of a row's smallest count, it may be all of some rate.
_FEW = 1e-6
# Rates are updated by differences. A longer step would leave only rounding errors where u is the whole rate.
_SHRINK = 2.0**-10
# Two components are moved jointly if their correlation, squared, is at most 1 minus this. Otherwise rounding errors
# of the sums would be enlarged too much.
_INDEPENDENT = 2.0**-10


# ── reading a group's rows ──────────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _read_entries(data, indices, start, length, row_length, counts, offsets):
    """Lay out the entries of a row: counts, and where their rows of V begin; then zeros."""
    own, columns = simd.section(data, start, length), simd.section(indices, start, length)
    for p in range(length):
        counts[p] = own[p]
    for p in range(length):
        offsets[p] = columns[p] * np.int64(row_length)
    for p in range(length, len(counts)):
        counts[p] = 0
        offsets[p] = 0


@formula()
def _sharper(sharpness, x):
    """The largest 1 / x of the counts."""
    return maximum(sharpness, where(x > 0.0, 1.0 / x, 0.0))


@step(inline=True)
def _count_totals(counts, first, end):
    """The sum of a row's counts, and 1 over its smallest."""
    total, sharpness = 0.0, simd.zero(counts, 0)
    for low in range(first, end, _FLUSH_EVERY):
        part = simd.zero(counts, 0)
        for e in range(low, min(low + _FLUSH_EVERY, end)):
            x = simd.load(counts, e, 0)
            part, sharpness = add(part, x), _sharper(sharpness, x)
        total += simd.total(part)
    return total, simd.highest(sharpness)


@formula()
def _lifted(u, a, d, tiny):
    """u, positive wherever there is a shape a: an entry of 0 is an underflow there."""
    return maximum(u, where(a > 0.0, a * tiny / d, 0.0))


@formula()
def _if_used(u, d, fixed):
    """u where it is fixed or the weight d is positive and finite, else 0."""
    return where(fixed > 0.0, u, where(d > 0.0, where(d < math.inf, u, 0.0), 0.0))


@step(inline=True)
def _start_row(U, i, weight, w, shape, s, fixed, has_shape, tiny, out):
    """Write row i, moved into its domain; returns the sum of its shapes."""
    total = 0.0
    for v in range(simd.width(U)):
        x, d = simd.load(U, i, v), simd.load(weight, w, v)
        if has_shape:
            a = simd.load(shape, s, v)
            total += simd.total(a)
            x = _lifted(x, a, d, tiny)
        simd.store(out, i, v, _if_used(x, d, simd.load(fixed, 0, v)))
    return total


# ── the gap, and the components to visit ────────────────────────────────────────────────────────────────────────


@formula(3)
def _ratio(x, y, sum_):
    """The rate, 1 where there is no count; the ratio of count to rate; and the sum of ratios."""
    y = where(x > 0.0, y, 1.0)
    ratio = x / y
    return y, ratio, sum_ + ratio


@step(inline=True)
def _measure(V, U, i, offsets, counts, rates, ratios, first, n_vectors, n_entries, sums, wide_sums):
    """Compute the rates of row i of U, the ratios of counts to rates, and `sums`, of V times the ratios.

    Returns the sum of the ratios.
    """
    n_lanes = counts.shape[1]
    end, last = first + n_vectors, first * n_lanes + n_entries
    flat_rates, flat_ratios = simd.section(rates, 0, end * n_lanes), simd.section(ratios, 0, end * n_lanes)
    ratio_sum = simd.zero(counts, 0)
    simd.clear_row(sums, 0)
    if n_vectors > _AT_ONCE:
        simd.clear_row(wide_sums, 0)
    for low in range(first, end, _AT_ONCE):
        high = min(low + _AT_ONCE, end)
        begin, stop = low * n_lanes, min(high * n_lanes, last)
        for p in range(begin, stop, GROUP):
            simd.store_lanes(flat_rates, p, simd.dots_at(U, i, V, offsets, p))
        for e in range(low, high):
            y, ratio, ratio_sum = _ratio(simd.load(counts, e, 0), simd.load(rates, e, 0), ratio_sum)
            simd.store(rates, e, 0, y)
            simd.store(ratios, e, 0, ratio)
        for v in range(0, simd.width(U), 2):
            other = min(v + 1, simd.width(U) - 1)
            s, t = simd.zero(U, 0), simd.zero(U, 0)
            for p in range(begin, stop, GROUP):
                more_s, more_t = simd.weighted_rows(V, offsets, flat_ratios, p, v, other)
                s, t = add(s, more_s), add(t, more_t)
            if n_vectors > _AT_ONCE:
                simd.add_to_sums(wide_sums, 0, v, s)
                if other > v:
                    simd.add_to_sums(wide_sums, 0, other, t)
            else:
                simd.store(sums, 0, v, s)
                simd.store(sums, 0, other, t)
    if n_vectors > _AT_ONCE:
        for k in range(sums.shape[1]):
            sums[0, k] = wide_sums[0, k]
    return simd.total(ratio_sum)


@formula()
def _sum_with_shape(s, a, u):
    return s + where(a > 0.0, a / u, 0.0)


@formula(2)
def _bound_term(rate, highest, s, u, d):
    """The sums of the bound without ridges, fixed components and infinite weights."""
    return fma(u, d, rate), maximum(where(d > 0.0, s / d, 0.0), highest)


@formula(2)
def _general_bound_term(rate, highest, s, u, d, q, fixed):
    """The sums of the bound."""
    excess = where(fixed > 0.0, 0.0, where(d < math.inf, s - fma(q, u, d), 0.0))
    return rate - u * excess, maximum(where(d > 0.0, excess / d, 0.0), highest)


@step(inline=True)
def _gap(U, i, weight, w, shape, ridge, s, sums, fixed, has_shape, is_general, total, ratio_sum):
    """The bound on what a better row could gain; the shapes' part is added to `sums`.

    It is at least 0: near the optimum it is quadratic, and rounding may make it negative. NaN if a rate is 0.
    """
    rate = highest = simd.zero(U, 0)
    for v in range(simd.width(U)):
        x, d, t = simd.load(U, i, v), simd.load(weight, w, v), simd.load(sums, 0, v)
        if has_shape:
            t = _sum_with_shape(t, simd.load(shape, s, v), x)
            simd.store(sums, 0, v, t)
        if is_general:
            q, f = simd.load(ridge, s, v), simd.load(fixed, 0, v)
            rate, highest = _general_bound_term(rate, highest, t, x, d, q, f)
        else:
            rate, highest = _bound_term(rate, highest, t, x, d)
    shift = 0.0 if is_general else 2.0
    bound = simd.total(rate) + total * (simd.highest(highest) - shift)
    return (0.0 if bound < 0.0 else bound) + 0.0 * ratio_sum


@formula(2)
def _choice(u, d, s, a, fixed, sharpness, smallest, few):
    """1 for the components to visit; and u, 0 if it is neither visited nor fixed."""
    visit = where(s > d, 1.0, 0.0)
    visit = where(u * s * sharpness > few, 1.0, visit)
    visit = where(a > 0.0, 1.0, visit)  # no entry with a shape is ever 0, however small
    visit = where(u > smallest / d, 1.0, visit)
    visit = where(d > 0.0, where(d < math.inf, visit, 0.0), 0.0)
    visit = where(fixed > 0.0, 0.0, visit)
    return visit, where(fixed > 0.0, u, where(visit > 0.0, u, 0.0))


@step(inline=True)
def _choose(U, i, weight, w, shape, s, sums, choice, visits, fixed, has_shape, sharpness, smallest, few, n_components):
    """List the components to visit, set all others of row i of U to 0; returns the number of the listed."""
    a = simd.zero(U, 0)
    for v in range(simd.width(U)):
        if has_shape:
            a = simd.load(shape, s, v)
        x, d, t, f = simd.load(U, i, v), simd.load(weight, w, v), simd.load(sums, 0, v), simd.load(fixed, 0, v)
        visit, x = _choice(x, d, t, a, f, sharpness, smallest, few)
        simd.store(choice, 0, v, visit)
        simd.store(U, i, v, x)
    n = 0
    for k in range(n_components):
        visits[n] = k
        n += 1 if choice[0, k] > 0.0 else 0
    return n


@step(inline=True)
def _copy_listed(source, i, visits, n_listed, out, lane):
    """Copy the listed components of row i of a factor into a lane."""
    for n in range(n_listed):
        out[n, lane] = source[i, visits[n]]


@step(inline=True)
def _end_list(visits, n_listed, u, weights, shapes, ridges, lane):
    """Make the length of a list even, by a component that no entry has, -1; returns the length."""
    if n_listed % 2:
        visits[n_listed] = -1
        u[n_listed, lane] = shapes[n_listed, lane] = ridges[n_listed, lane] = 0.0
        weights[n_listed, lane] = 1.0
    return n_listed + n_listed % 2


# ── gathering ───────────────────────────────────────────────────────────────────────────────────────────────────


@formula()
def _add_product(a, b, c):
    """a b + c."""
    return fma(a, b, c)


@formula()
def _empty_rate(x):
    """The rate without any component: 0, and 1 where there is no count."""
    return where(x > 0.0, 0.0, 1.0)


@step(inline=True)
def _fixed_rates(V, U, i, fixed, is_general, offsets, counts, rates, first, n_vectors, n_components):
    """Set the rates of row i of U to those of the fixed components."""
    for e in range(first, first + n_vectors):
        simd.store(rates, e, 0, _empty_rate(simd.load(counts, e, 0)))
    if is_general:
        for k in range(n_components):
            if fixed[0, k] > 0.0:
                u = simd.fill_like(simd.zero(counts, 0), np.float64(U[i, k]))
                for e in range(first, first + n_vectors):
                    v = simd.gather(V, offsets, e, k, simd.load(counts, e, 0))
                    simd.store(rates, e, 0, _add_product(u, v, simd.load(rates, e, 0)))


@step(inline=True)
def _gather(V, visits, slots, low, high, unused, u, lane, offsets, counts, rates, scale, block, base, first, n_vectors):
    """Gather the components low to high of a list into the block, and add `scale` u times them to the rates."""
    zero = simd.zero(counts, 0)
    for n in range(low, high):
        k = visits[n]
        slots[n] = n - low if k >= 0 else unused
        if k >= 0:
            b, x = base + (n - low) * n_vectors, simd.fill_like(zero, scale * np.float64(u[n, lane]))
            for e in range(n_vectors):
                v = simd.gather(V, offsets, first + e, k, simd.load(counts, first + e, 0))
                simd.store(block, b + e, 0, v)
                simd.store(rates, first + e, 0, _add_product(x, v, simd.load(rates, first + e, 0)))


# ── visits ──────────────────────────────────────────────────────────────────────────────────────────────────────


@formula()
def _moved_rates(y, moves, v):
    """The rates after two coordinates have moved."""
    return maximum(fma(moves[1], v[1], fma(moves[0], v[0], y)), y * _SMALLEST_RATE)


@formula(5)
def _add_derivatives(sums, x, y, v):
    """Add an entry to both ratio sums and to the curvatures aa, ab and bb."""
    r = 1.0 / y
    a, b = v[0] * r, v[1] * r
    xa, xb = x * a, x * b
    return sums[0] + xa, sums[1] + xb, fma(xa, a, sums[2]), fma(xa, b, sums[3]), fma(xb, b, sums[4])


@step(inline=True)
def _pending(by_row, lane):
    """The last moves of a row, which its rates do not include."""
    zero = simd.zero(by_row, 0)
    a, b = np.float64(by_row[5, lane]), np.float64(by_row[6, lane])
    return simd.fill_like(zero, a), simd.fill_like(zero, b)


@step(inline=True)
def _settle(block, previous_a, previous_b, by_row, lane, rates, first, n_vectors):
    """Add the last moves of a row to its rates."""
    moves = _pending(by_row, lane)
    for e in range(n_vectors):
        v = simd.load(block, previous_a + e, 0), simd.load(block, previous_b + e, 0)
        simd.store(rates, first + e, 0, _moved_rates(simd.load(rates, first + e, 0), moves, v))


@step(inline=True)
def _visit(block, a, b, previous_a, previous_b, by_row, lane, counts, rates, first, n_vectors):
    """As `_settle`, and in the same loop sum the derivatives of the coordinates whose vectors begin at rows a and b."""
    moves, zero = _pending(by_row, lane), simd.zero(counts, 0)
    zeros = zero, zero, zero, zero, zero
    total = 0.0, 0.0, 0.0, 0.0, 0.0
    for low in range(0, n_vectors, _FLUSH_EVERY):
        s = zeros
        for e in range(low, min(low + _FLUSH_EVERY, n_vectors)):
            v = simd.load(block, previous_a + e, 0), simd.load(block, previous_b + e, 0)
            y = _moved_rates(simd.load(rates, first + e, 0), moves, v)
            simd.store(rates, first + e, 0, y)
            v = simd.load(block, a + e, 0), simd.load(block, b + e, 0)
            s = _add_derivatives(s, simd.load(counts, first + e, 0), y, v)
        s0, s1, s2, s3, s4 = s
        total = (
            total[0] + simd.total(s0), total[1] + simd.total(s1), total[2] + simd.total(s2), total[3] + simd.total(s3),
            total[4] + simd.total(s4),
        )  # fmt: skip
    for n in range(5):
        by_row[n, lane] = total[n]


@formula(3)
def _add_shape(g, c, sharpness, a, u):
    """Add a shape to the derivatives, and take it into account in the sharpness."""
    pull = where(a > 0.0, a / u, 0.0)
    return g + pull, c + where(a > 0.0, pull / u, 0.0), maximum(where(a > 0.0, 1.0 / a, 0.0), sharpness)


@formula(2)
def _add_ridge(c, d, q, u):
    """Curvature and price with a ridge."""
    return c + q, fma(q, u, d)


@formula(3)
def _joint_step(u, g, c, price, sharpness, used):
    """The minimum of the quadratic model over values >= 0 as a step (a, b); and 1 where it isn't a safe one."""
    aa, ab, bb = c
    slope, lowest = (g[0] - price[0], g[1] - price[1]), (-u[0], -u[1])
    # The Newton steps of each alone, and how much less each moves for a step of the other
    alone = where(aa > 0.0, slope[0] / aa, lowest[0]), where(bb > 0.0, slope[1] / bb, lowest[1])
    less = where(aa > 0.0, ab / aa, 0.0), where(bb > 0.0, ab / bb, 0.0)
    independence = 1.0 - less[0] * less[1]
    a = (alone[0] - less[0] * alone[1]) / independence
    b = (alone[1] - less[1] * alone[0]) / independence
    # If the minimum has one negative entry, that one becomes 0, and the other one's best value for this is the minimum
    a, b = (
        where(a > lowest[0], where(b > lowest[1], a, maximum(fma(less[0], u[1], alone[0]), lowest[0])), lowest[0]),
        where(b > lowest[1], where(a > lowest[0], b, maximum(fma(less[1], u[0], alone[1]), lowest[1])), lowest[1]),
    )
    far = sharpness * (a * fma(aa, a, 2.0 * ab * b) + bb * b * b)
    shrinks = where(a < 0.0, 1.0, where(b < 0.0, 1.0, 0.0))
    safe = where(far < _SAFE * _SAFE, 1.0, where(shrinks > 0.0, 0.0, where(far < math.inf, 1.0, 0.0)))
    refused = where(independence > _INDEPENDENT, 1.0 - safe, 1.0)
    return a, b, where(used > 0.0, refused, 0.0)


@formula(2)
def _lengthened(u, a, b, g, price, q):
    """The coordinates after a step; a longer one if none shrinks: Newton's on 1 / g, never past the optimum."""
    gain, cost = fma(a, g[0], b * g[1]), fma(a, price[0], b * price[1])
    longer = where(q > 0.0, 1.0, where(gain > cost, gain / cost, 1.0))
    length = where(a < 0.0, 1.0, where(b < 0.0, 1.0, longer))
    return fma(length, a, u[0]), fma(length, b, u[1])


@formula(2)
def _next(u, new, old_move, used, refused):
    """A coordinate after a joint step, at least 0, and its move."""
    new = where(refused > 0.0, u, where(new > 0.0, new, 0.0))
    return new, where(used > 0.0, new - u, old_move)


@step(inline=True)
def _derivatives(n, part, u, weights, shapes, ridges, by_row, has_shape, has_ridge):
    """Coordinate n of each row, which was part 0 or 1 of the visited pair: u, g, c, price, ridge and sharpness."""
    x, d, q = simd.load(u, n, 0), simd.load(weights, n, 0), simd.zero(u, 0)
    g, c, sharpness = simd.load(by_row, part, 0), simd.load(by_row, 2 + 2 * part, 0), simd.load(by_row, 7, 0)
    if has_shape:
        g, c, sharpness = _add_shape(g, c, sharpness, simd.load(shapes, n, 0), x)
    if has_ridge:
        q = simd.load(ridges, n, 0)
        c, d = _add_ridge(c, d, q, x)
    return x, g, c, d, q, sharpness


@formula()
def _larger(a, b):
    return maximum(a, b)


@step(inline=True)
def _move_pair(n, u, weights, shapes, ridges, by_row, has_shape, has_ridge):
    """Move coordinates n and n + 1 of each row jointly by the sums of its visit; returns whether a step is refused."""
    u0, g0, aa, d0, q0, sharp0 = _derivatives(n, 0, u, weights, shapes, ridges, by_row, has_shape, has_ridge)
    u1, g1, bb, d1, q1, sharp1 = _derivatives(n + 1, 1, u, weights, shapes, ridges, by_row, has_shape, has_ridge)
    used = simd.load(weights, n, 0)
    x, g, c, price = (u0, u1), (g0, g1), (aa, simd.load(by_row, 3, 0), bb), (d0, d1)
    a, b, refused = _joint_step(x, g, c, price, _larger(sharp0, sharp1), used)
    new0, new1 = _lengthened(x, a, b, g, price, add(q0, q1))
    new0, move0 = _next(u0, new0, simd.load(by_row, 5, 0), used, refused)
    new1, move1 = _next(u1, new1, simd.load(by_row, 6, 0), used, refused)
    simd.store(u, n, 0, new0)
    simd.store(u, n + 1, 0, new1)
    simd.store(by_row, 5, 0, move0)
    simd.store(by_row, 6, 0, move1)
    simd.store(by_row, 8, 0, refused)
    return simd.highest(refused) > 0.0


@formula()
def _guarded_step(u, g, c, price, q, sharpness):
    """The next value of one coordinate: the Newton step where it is safe, else a shorter one."""
    ratio = where(q > 0.0, 1.0, g / price)
    d, scaled = (g - price) / c, u * ratio
    newton, far = fma(d, ratio, u), sharpness * ((g - price) * d)
    damped = minimum(scaled, u + d / (1.0 + sqrt(far)))
    damped = where(c > 0.0, maximum(damped, u * _SHRINK), scaled)
    new = where(price > g, where(far < _SAFE * _SAFE, newton, damped), newton)
    new = where(c < math.inf, new, scaled)
    return where(new > 0.0, new, 0.0)


@formula(3)
def _next_alone(u, new, move, other_move, refused):
    """A coordinate after its own step, where the joint one is refused; its move, and that of the other."""
    new = where(refused > 0.0, new, u)
    return new, where(refused > 0.0, new - u, move), where(refused > 0.0, 0.0, other_move)


@step(inline=True)
def _move_alone(n, part, u, weights, shapes, ridges, by_row, has_shape, has_ridge):
    """Move coordinate n alone where the joint step was refused; n is part 0 or 1 of the visited pair."""
    x, g, c, d, q, sharpness = _derivatives(n, part, u, weights, shapes, ridges, by_row, has_shape, has_ridge)
    new = _guarded_step(x, g, c, d, q, sharpness)
    moves = simd.load(by_row, 5 + part, 0), simd.load(by_row, 6 - part, 0)
    new, move, other_move = _next_alone(x, new, moves[0], moves[1], simd.load(by_row, 8, 0))
    simd.store(u, n, 0, new)
    simd.store(by_row, 5 + part, 0, move)
    simd.store(by_row, 6 - part, 0, other_move)


# ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _sweep(low, high, n_rows, strip, places, slots, block, counts, rates, u, weights, shapes, ridges, by_row, has_shape, has_ridge):
    """Visit the components low to high of each list, which are in the block."""
    for n in range(low, high, 2):
        for lane in range(n_rows):
            if n < places[2, lane]:
                first, n_vectors = places[0, lane], places[1, lane]
                base = first * (strip + 1)
                a, b = base + slots[lane, n] * n_vectors, base + slots[lane, n + 1] * n_vectors
                _visit(block, a, b, places[3, lane], places[4, lane], by_row, lane, counts, rates, first, n_vectors)
                places[3, lane], places[4, lane] = a, b
        if _move_pair(n, u, weights, shapes, ridges, by_row, has_shape, has_ridge):  # rare after a few iterations
            _move_alone(n, 0, u, weights, shapes, ridges, by_row, has_shape, has_ridge)
            for lane in range(n_rows):
                if by_row[8, lane] > 0.0:
                    a, b = places[3, lane], places[4, lane]
                    _visit(block, a, b, a, b, by_row, lane, counts, rates, places[0, lane], places[1, lane])
            _move_alone(n + 1, 1, u, weights, shapes, ridges, by_row, has_shape, has_ridge)


@step(inline=True)
def _write(out, i, visits, slots, n_listed, u, weights, shapes, ridges, lane, unused):
    """Write the listed components of a row, and remove those that are 0 from the list; returns its length."""
    kept = 0
    for n in range(n_listed):
        k, x = visits[n], u[n, lane]
        if k >= 0:
            out[i, k] = x
        if x > 0.0:
            visits[kept], slots[kept] = k, slots[n]
            u[kept, lane], weights[kept, lane] = x, weights[n, lane]
            shapes[kept, lane], ridges[kept, lane] = shapes[n, lane], ridges[n, lane]
            kept += 1
    for n in range(kept, n_listed):
        weights[n, lane] = 0.0
    slots[kept] = unused
    return _end_list(visits, kept, u, weights, shapes, ridges, lane)


@step(inline=True)
def _data_term(counts, rates, n_vectors):
    """sum of x log rate over the entries, nats."""
    total = 0.0
    for e in range(n_vectors):
        x, y = simd.as_float64(simd.load(counts, e, 0)), simd.as_float64(simd.load(rates, e, 0))
        total += simd.total(x_log(x, y))
    return total


@kernel(writes=13)
def descend(table, group, worker):
    """TODO"""
    (
        data, indices, indptr, order, groups, U, V, weight, shape, ridge, fixed, n_components, sweeps, max_rounds,
        weight_step, shape_step, has_shape, has_ridge, is_general, wants_data_term, tol, tiny, all_offsets, all_lists,
        all_places, all_entries, all_blocks, all_listed, all_products, all_wide, all_by_row, all_totals, out, gap, data_term,
    ) = arguments(table)  # fmt: skip
    first_row, n_rows, strip = groups[group, 0], groups[group, 1], groups[group, 2]
    offsets, places = simd.subarray(all_offsets, worker), simd.subarray(all_places, worker)
    visits, slots = simd.subarrays(simd.subarray(all_lists, worker), 2)
    counts, rates, ratios = simd.subarrays(simd.subarray(all_entries, worker), ENTRIES)
    block, by_row = simd.subarray(all_blocks, worker), simd.subarray(all_by_row, worker)
    u, weights, shapes, ridges = simd.subarrays(simd.subarray(all_listed, worker), LISTED)
    sums, choice = simd.subarrays(simd.subarray(all_products, worker), PRODUCTS)
    wide_sums, totals = simd.subarray(all_wide, worker), simd.subarray(all_totals, worker)
    n_lanes, n_filled, zero = counts.shape[1], 0, simd.zero(counts, 0)

    for lane in range(n_rows):
        i = order[first_row + lane]
        start, length = indptr[i], indptr[i + 1] - indptr[i]
        n_vectors = (length + n_lanes - 1) // n_lanes
        begin, size = n_filled * n_lanes, n_vectors * n_lanes
        _read_entries(
            data, indices, start, length, V.shape[1], simd.section(counts, begin, size),
            simd.section(offsets, begin, size),
        )  # fmt: skip
        total, sharpness = _count_totals(counts, n_filled, n_filled + n_vectors)
        total += _start_row(U, i, weight, i * weight_step, shape, i * shape_step, fixed, has_shape, tiny, out)
        places[0, lane], places[1, lane], places[2, lane] = n_filled, n_vectors, 0
        totals[lane], by_row[7, lane] = total, sharpness
        for e in range(n_vectors):
            simd.store(block, n_filled * (strip + 1) + strip * n_vectors + e, 0, zero)
        n_filled += n_vectors

    n_rounds = 0
    while True:
        longest = 0
        for n in range(u.shape[0]):
            simd.store(weights, n, 0, zero)
        for lane in range(n_rows):
            if places[2, lane] >= 0:
                i, first, n_vectors = order[first_row + lane], places[0, lane], places[1, lane]
                w, s, total = i * weight_step, i * shape_step, float(totals[lane])
                ratio_sum = _measure(
                    V, out, i, offsets, counts, rates, ratios, first, n_vectors, indptr[i + 1] - indptr[i], sums,
                    wide_sums,
                )  # fmt: skip
                bound = _gap(
                    out, i, weight, w, shape, ridge, s, sums, fixed, has_shape, is_general, total, ratio_sum
                )
                gap[i] = bound
                if n_rounds == max_rounds or (tol >= 0.0 and not (total * tol < bound < math.inf)):
                    places[2, lane] = -1
                else:
                    own = simd.subarray(visits, lane)
                    n_listed = _choose(
                        out, i, weight, w, shape, s, sums, choice, own, fixed, has_shape, float(by_row[7, lane]),
                        total * tiny, _FEW / n_components, n_components,
                    )  # fmt: skip
                    _copy_listed(out, i, own, n_listed, u, lane)
                    _copy_listed(weight, w, own, n_listed, weights, lane)
                    if has_shape:
                        _copy_listed(shape, s, own, n_listed, shapes, lane)
                    if has_ridge:
                        _copy_listed(ridge, s, own, n_listed, ridges, lane)
                    n_listed = _end_list(own, n_listed, u, weights, shapes, ridges, lane)
                    _fixed_rates(
                        V, out, i, fixed, is_general, offsets, counts, rates, first, n_vectors, n_components
                    )
                    places[2, lane] = n_listed
                    places[3, lane] = places[4, lane] = first * (strip + 1)
                    by_row[5, lane] = by_row[6, lane] = 0.0
                    longest = max(longest, n_listed)
        if longest == 0:
            break
        in_strips = longest > strip
        for sweep in range(sweeps + 1):  # the first only gathers, and computes the rates
            for low in range(0, longest, strip):
                if sweep == 0 or in_strips:
                    for lane in range(n_rows):
                        first, n_vectors = places[0, lane], places[1, lane]
                        _gather(
                            V, simd.subarray(visits, lane), simd.subarray(slots, lane), low,
                            min(low + strip, places[2, lane]), strip, u, lane, offsets, counts, rates,
                            1.0 if sweep == 0 else 0.0, block, first * (strip + 1), first, n_vectors,
                        )  # fmt: skip
                if sweep > 0:
                    _sweep(
                        low, min(low + strip, longest), n_rows, strip, places, slots, block, counts, rates, u, weights,
                        shapes, ridges, by_row, has_shape, has_ridge,
                    )  # fmt: skip
                    if in_strips or (wants_data_term and sweep == sweeps):
                        for lane in range(n_rows):
                            if places[2, lane] > 0:
                                _settle(
                                    block, places[3, lane], places[4, lane], by_row, lane, rates, places[0, lane],
                                    places[1, lane],
                                )  # fmt: skip
                                by_row[5, lane] = by_row[6, lane] = 0.0
            if sweep > 0:
                longest = 0
                for lane in range(n_rows):
                    if places[2, lane] > 0:
                        places[2, lane] = _write(
                            out, order[first_row + lane], simd.subarray(visits, lane), simd.subarray(slots, lane),
                            places[2, lane], u, weights, shapes, ridges, lane, strip,
                        )  # fmt: skip
                        longest = max(longest, places[2, lane])
        n_rounds += 1
        if tol < 0.0:
            break
    if wants_data_term:
        data_term[group] = _data_term(counts, rates, n_filled)
