"""`descend`: guarded coordinate descent on the convex problem of each row, one factor fixed, two coordinates at a time.

Rows are solved in groups, of at most as many rows as a vector has lanes. A group has the rows of V that its entries
need in a block, transposed, so that a component is a unit-stride vector over the entries. There are two layouts:

short rows  side by side, one in each lane; what any of them visits is visited in all lanes
long rows   the entries of each row along the lanes. Each row lists the components that it visits: most entries of a
            factor are 0. With E vectors of entries, component k is in rows k E to (k + 1) E of the row's part of the
            block. If that part can't hold all components, it holds a strip of them, and k counts from its first one.

A visit sums the derivatives of two coordinates over the entries. The step that follows is in both layouts that of all
rows of the group at once, one in each lane.
"""

import math

import numpy as np

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels.formula import add, divide, fma, formula, maximum, minimum, multiply, sqrt, where
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.simd import QUAD
from fastpmf.kernels.special import x_log

# Scratch vectors for each vector of entries: counts, rates, ratios, rates that are not used
ENTRIES = 4
# Scratch vectors for each component or place in a list: u, its weight, or 0 where it is not visited, shape and ridge;
# for short rows also all weights, and the sums of ratios
LISTED = 6
# Scratch vectors for each group, one number for each row: the five sums of a visit (the two ratio sums, and the
# curvatures aa, ab and bb), the last two moves, which the rates do not yet include, 1 over the smallest count, whether
# a joint step was refused
_MOVE, _SHARPNESS, _REFUSED, BY_ROW = 5, 7, 8, 9
# int64 for each long row of a group: its first vector of entries, their number, the length of its list, where the two
# components that moved last are in the block, whether it is solved
_FIRST, _VECTORS, _LENGTH, _AT, _SOLVED, PLACES = 0, 1, 2, 3, 5, 6
# Vectors that are summed in their own dtype before their sum is added to one in float64. If a long row's counts and
# rates are similar, so are the rounding errors of its sum: in float32 they would reach 1e-4 of it after 10^5 entries.
_FLUSH_EVERY = 256
# Smallest fraction of a rate that remains after one move, so that rounding does not make a rate 0 or negative
_SMALLEST_RATE = 1e-6
# If lambda, see `_joint_step`, is below this, a step is safe: it is the root of -x - log(1 - x) = x^2, where the upper
# bound of a self-concordant function returns to its value.
_SAFE = 0.6838
# If a component has more than this fraction, over K, of a row's smallest count, it may be all of some rate.
_FEW = 1e-6
# Rates are updated by differences. A longer step would leave only rounding errors where u is the whole rate.
_SHRINK = 2.0**-10
# Two components are moved jointly if 1 - correlation^2 of their vectors is above this; below, the step would enlarge
# the rounding errors of the sums too much.
_INDEPENDENT = 2.0**-10


# ── reading rows ────────────────────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _read_entries(data, indices, start, length, row_length, counts, offsets):
    """Lay out the entries of a row: counts, and where their rows of V begin; then zeros."""
    own, columns = simd.section(data, start, length), simd.section(indices, start, length)
    factor = np.int32(row_length)  # the product of numbers of 32 bits takes fewer instructions
    for p in range(length):
        counts[p] = own[p]
    for p in range(length):
        offsets[p] = np.int64(columns[p]) * np.int64(factor)
    for p in range(length, len(counts)):
        counts[p] = 0
        offsets[p] = 0


@formula()
def _smaller(smallest, x):
    """The smallest of the counts, of which 0 is none."""
    return where(x > 0.0, minimum(smallest, x), smallest)


@step(inline=True)
def _count_totals(counts, first, end):
    """The sum of a row's counts, and 1 over its smallest."""
    total, zero = 0.0, simd.zero(counts, 0)
    smallest = simd.fill_like(zero, math.inf)
    for low in range(first, end, _FLUSH_EVERY):
        part = zero
        for e in range(low, min(low + _FLUSH_EVERY, end)):
            x = simd.read(counts, e)
            part, smallest = add(part, x), _smaller(smallest, x)
        total += simd.total(part)
    return total, simd.highest(divide(simd.fill_like(zero, 1.0), smallest))


@formula()
def _lifted(u, a, d, tiny):
    """u, positive wherever there is a shape a: an entry of 0 is an underflow there."""
    return maximum(u, where(a > 0.0, a * tiny / d, 0.0))


@formula()
def _if_used(u, d, fixed):
    """u where it is fixed or the weight d is positive and finite, else 0."""
    return where(fixed > 0.0, u, where(d > 0.0, where(d < math.inf, u, 0.0), 0.0))


@step(inline=True)
def _start_row(U, i, problem, steps, has_shape, tiny, out):
    """Write row i, moved into its domain; returns the sum of its shapes."""
    weight, shape, _, fixed = problem
    w, s = i * steps[0], i * steps[1]
    total = 0.0
    for v in range(simd.width(U)):
        x, d = simd.load(U, i, v), simd.load(weight, w, v)
        if has_shape:
            a = simd.load(shape, s, v)
            total += simd.total(a)
            x = _lifted(x, a, d, tiny)
        simd.store(out, i, v, _if_used(x, d, simd.load(fixed, 0, v)))
    return total


# ── rates, the gap, and the components to visit ─────────────────────────────────────────────────────────────────


@formula()
def _add_quad(y, u, v):
    """y + sum of u v over four components."""
    for c in range(QUAD):
        y = fma(u[c], v[c], y)
    return y


@step(inline=False)
def _gather(V, offsets, U, i, low, high, counts, rates, first, n_vectors, block, base):
    """Transpose the rows of V for components low to high into the block, and add sum_k u_k v_k to the rates."""
    for e in range(n_vectors):
        x, y = simd.read(counts, first + e), simd.read(rates, first + e)
        for k in range(low, high, QUAD):
            v = simd.gather_quad(V, offsets, first + e, k, x)
            simd.store_quad(block, base + (k - low) * n_vectors + e, n_vectors, v)
            y = _add_quad(y, simd.spread_quad(U, i, k), v)
        simd.write(rates, first + e, y)


@formula(QUAD)
def _add_products(r, s, v):
    """s + r v of four components."""
    return [fma(r, v[c], s[c]) for c in range(QUAD)]


@step(inline=True)
def _sum_ratios(block, base, low, high, ratios, first, n_vectors, sums, wide_sums):
    """sums_k = sum r v_k for components low to high, which are in the block; r are the ratios x / y."""
    zero = simd.zero(ratios, 0)
    zeros = zero, zero, zero, zero
    for k in range(low, high, QUAD):
        b = base + (k - low) * n_vectors
        for start in range(0, max(n_vectors, 1), _FLUSH_EVERY):
            s = zeros
            for e in range(start, min(start + _FLUSH_EVERY, n_vectors)):
                s = _add_products(simd.read(ratios, first + e), s, simd.load_quad(block, b + e, n_vectors))
            simd.store_four_totals(sums, k, s)
            if n_vectors > _FLUSH_EVERY:
                for c in range(k, k + QUAD):
                    total = simd.get(sums, 0, c) + (simd.get(wide_sums, 0, c) if start else 0.0)
                    simd.put(wide_sums, 0, c, total)
                    simd.put(sums, 0, c, total)


@formula(3)
def _ratio(x, y, sum_):
    """The rate, 1 where there is no count; the ratio of count to rate; and the sum of ratios."""
    y = where(x > 0.0, y, 1.0)
    ratio = x / y
    return y, ratio, sum_ + ratio


@step(inline=True)
def _measure(V, offsets, U, i, width, entries, first, n_vectors, block, base, strip, sums, wide_sums):
    """Compute the rates of row i of U, the ratios of counts to rates, and `sums`, of V times the ratios.

    The block holds all components then, unless they are in strips. Returns the sum of the ratios.
    """
    counts, rates, ratios, unused = entries
    ratio_sum = simd.zero(counts, 0)
    for e in range(first, first + n_vectors):
        simd.write(rates, e, ratio_sum)
    for low in range(0, width, strip):
        _gather(V, offsets, U, i, low, min(low + strip, width), counts, rates, first, n_vectors, block, base)
    for e in range(first, first + n_vectors):
        y, ratio, ratio_sum = _ratio(simd.read(counts, e), simd.read(rates, e), ratio_sum)
        simd.write(rates, e, y)
        simd.write(ratios, e, ratio)
    for low in range(0, width, strip):
        high = min(low + strip, width)
        if strip < width:
            _gather(V, offsets, U, i, low, high, counts, unused, first, n_vectors, block, base)
        _sum_ratios(block, base, low, high, ratios, first, n_vectors, sums, wide_sums)
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
def _gap(U, i, problem, steps, sums, has_shape, is_general, total, ratio_sum):
    """The bound on what a better row could gain; the shapes' part is added to `sums`.

    It is at least 0: near the optimum it is quadratic, and rounding may make it negative. NaN if a rate is 0.
    """
    weight, shape, ridge, fixed = problem
    w, s, rate = i * steps[0], i * steps[1], simd.zero(U, 0)
    highest = rate
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
    bound = simd.total(rate) + total * (simd.highest(highest) - (0.0 if is_general else 2.0))
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
def _choose(U, i, problem, steps, sums, has_shape, sharpness, smallest, few, chosen, lane):
    """Choose the components to visit, and set all others of row i of U to 0, except fixed ones.

    Returns whether any was set to 0 that was not before.
    """
    weight, shape, _, fixed = problem
    w, s, a, dropped = i * steps[0], i * steps[1], simd.zero(U, 0), 0
    for v in range(simd.width(U)):
        if has_shape:
            a = simd.load(shape, s, v)
        x, d, t, f = simd.load(U, i, v), simd.load(weight, w, v), simd.load(sums, 0, v), simd.load(fixed, 0, v)
        visit, kept = _choice(x, d, t, a, f, sharpness, smallest, few)
        simd.put(chosen, lane, v, simd.bits(visit))
        simd.store(U, i, v, kept)
        dropped |= simd.bits(x) & ~simd.bits(kept)
    return dropped != 0


@formula()
def _rate_of_none(x):
    """The rate without any component: 0, and 1 where there is no count."""
    return where(x > 0.0, 0.0, 1.0)


@formula()
def _add_product(y, u, v):
    """y + u v."""
    return fma(u, v, y)


@step(inline=True)
def _reset_rates(V, offsets, U, i, width, counts, rates, first, n_vectors, block, base, strip):
    """Compute the rates of row i of U again, after some components have become 0."""
    for e in range(first, first + n_vectors):
        simd.write(rates, e, _rate_of_none(simd.read(counts, e)))
    if strip < width:
        for low in range(0, width, strip):
            _gather(V, offsets, U, i, low, min(low + strip, width), counts, rates, first, n_vectors, block, base)
        return
    for k in range(width):
        if simd.get(U, i, k) > 0.0:
            u = simd.fill_like(simd.zero(counts, 0), simd.get(U, i, k))
            for e in range(n_vectors):
                y = _add_product(simd.read(rates, first + e), u, simd.read(block, base + k * n_vectors + e))
                simd.write(rates, first + e, y)


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
    a, b = simd.get(by_row, _MOVE, lane), simd.get(by_row, _MOVE + 1, lane)
    return simd.fill_like(zero, a), simd.fill_like(zero, b)


@step(inline=True)
def _settle(block, by_row, places, lane, rates):
    """Add the last moves of a row to its rates."""
    first, n_vectors, moves = simd.get(places, _FIRST, lane), simd.get(places, _VECTORS, lane), _pending(by_row, lane)
    old_a, old_b = simd.get(places, _AT, lane), simd.get(places, _AT + 1, lane)
    for e in range(n_vectors):
        v = simd.read(block, old_a + e), simd.read(block, old_b + e)
        simd.write(rates, first + e, _moved_rates(simd.read(rates, first + e), moves, v))


@step(inline=True)
def _sum_derivatives(block, a, b, old_a, old_b, moves, counts, rates, first, low, high):
    """As `_settle`, and in the same loop sum the derivatives of the coordinates whose vectors begin at rows a and b."""
    zero = simd.zero(counts, 0)
    s = zero, zero, zero, zero, zero
    for e in range(low, high):
        v = simd.read(block, old_a + e), simd.read(block, old_b + e)
        y = _moved_rates(simd.read(rates, first + e), moves, v)
        simd.write(rates, first + e, y)
        v = simd.read(block, a + e), simd.read(block, b + e)
        s = _add_derivatives(s, simd.read(counts, first + e), y, v)
    return s


@step(inline=True)
def _visit(block, a, b, by_row, places, lane, counts, rates, wide_sums):
    """Visit the coordinates of a row whose vectors begin at rows a and b."""
    first, n_vectors, moves = simd.get(places, _FIRST, lane), simd.get(places, _VECTORS, lane), _pending(by_row, lane)
    old_a, old_b = simd.get(places, _AT, lane), simd.get(places, _AT + 1, lane)
    for low in range(0, max(n_vectors, 1), _FLUSH_EVERY):
        high = min(low + _FLUSH_EVERY, n_vectors)
        s = _sum_derivatives(block, a, b, old_a, old_b, moves, counts, rates, first, low, high)
        simd.store_totals(by_row, lane, s)
        if n_vectors > _FLUSH_EVERY:
            for n in range(5):
                total = simd.get(by_row, n, lane) + (simd.get(wide_sums, 0, n) if low else 0.0)
                simd.put(wide_sums, 0, n, total)
                simd.put(by_row, n, lane, total)
    simd.put(places, _AT, lane, a)
    simd.put(places, _AT + 1, lane, b)


@formula(3)
def _add_shape(g, c, sharpness, a, u):
    """Add a shape to the derivatives, and take it into account in the sharpness."""
    pull = where(a > 0.0, a / u, 0.0)
    return g + pull, c + where(a > 0.0, pull / u, 0.0), maximum(where(a > 0.0, 1.0 / a, 0.0), sharpness)


@formula(2)
def _add_ridge(c, d, q, u):
    """Curvature and price with a ridge."""
    return c + q, fma(q, u, d)


@formula(4)
def _if_moved(u, g, c, price, weight):
    """Value, derivatives and price where the weight is positive, else those of a component that no entry has."""
    return (
        where(weight > 0.0, u, 0.0), where(weight > 0.0, g, 0.0), where(weight > 0.0, c, 0.0),
        where(weight > 0.0, price, 1.0),
    )  # fmt: skip


@step(inline=True)
def _derivatives(n, part, lists, by_row, has_shape, has_ridge):
    """Coordinate n of each row, which was part 0 or 1 of the visited pair: u, g, c, price, ridge and sharpness."""
    u, weights, shapes, ridges, _, _ = lists
    x, weight, q = simd.read(u, n), simd.read(weights, n), simd.zero(u, 0)
    g, c, sharpness = simd.read(by_row, part), simd.read(by_row, 2 + 2 * part), simd.read(by_row, _SHARPNESS)
    d = weight
    if has_shape:
        g, c, sharpness = _add_shape(g, c, sharpness, simd.read(shapes, n), x)
    if has_ridge:
        q = simd.read(ridges, n)
        c, d = _add_ridge(c, d, q, x)
    x, g, c, d = _if_moved(x, g, c, d, weight)
    return x, g, c, d, q, sharpness


@formula(3)
def _joint_step(u, g, c, price, sharpness, visited, normal):
    """The minimum of the quadratic model over values >= 0 as a step (a, b); and 1 where it is refused.

    With slope s = g - price and Hessian C of the pair, it is the minimum of  -s.p + p.C p / 2  over u + p >= 0, so that
    s.p >= p.C p. Along p the objective is self-concordant: with lambda^2 = p.C p / min x, it rises by at most
    (-s.p / min x - lambda - log(1 - lambda)) min x, which is not positive for lambda <= 0.6838. If neither coordinate
    shrinks, all rates grow, the curvature falls along p, and any lambda is safe.

    Source: as of `_guarded_step`; the same bound holds along every line.
    """
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
    # Smaller curvatures have lost digits to an underflow
    safe = where(aa > normal, safe, where(g[0] > 0.0, 0.0, safe))
    safe = where(bb > normal, safe, where(g[1] > 0.0, 0.0, safe))
    return a, b, where(visited > 0.0, where(independence > _INDEPENDENT, 1.0 - safe, 1.0), 0.0)


@formula(2)
def _lengthened(u, a, b, g, price, q):
    """The coordinates after a step p; if none shrinks, after p (p.g) / (p.price), but with a ridge after p itself.

    That is Newton's step on 1 / g along the line, which does not pass the optimum, since 1 / g is concave there.
    """
    gain, cost = fma(a, g[0], b * g[1]), fma(a, price[0], b * price[1])
    longer = where(q > 0.0, 1.0, where(gain > cost, gain / cost, 1.0))
    length = where(a < 0.0, 1.0, where(b < 0.0, 1.0, longer))
    return fma(length, a, u[0]), fma(length, b, u[1])


@formula()
def _both(ab, first_weight, second_weight):
    """The mixed curvature if both are moved."""
    return where(first_weight > 0.0, where(second_weight > 0.0, ab, 0.0), 0.0)


@formula(2)
def _next(u, new, weight, visited, old_move, refused):
    """A coordinate after a step, at least 0, and its move."""
    new = where(new > 0.0, new, 0.0)
    new = where(weight > 0.0, where(refused > 0.0, u, new), u)
    return new, where(visited > 0.0, new - u, old_move)


@step(inline=False)
def _move_pair(n, visited, lists, by_row, has_shape, has_ridge, normal):
    """Move coordinates n and n + 1 of each row jointly, by the sums of its visit; returns whether any is refused."""
    u, weights, _, _, _, _ = lists
    u0, g0, aa, d0, q0, sharp0 = _derivatives(n, 0, lists, by_row, has_shape, has_ridge)
    u1, g1, bb, d1, q1, sharp1 = _derivatives(n + 1, 1, lists, by_row, has_shape, has_ridge)
    w0, w1 = simd.read(weights, n), simd.read(weights, n + 1)
    x, g, c, price = (u0, u1), (g0, g1), (aa, _both(simd.read(by_row, 3), w0, w1), bb), (d0, d1)
    a, b, refused = _joint_step(x, g, c, price, _larger(sharp0, sharp1), visited, normal)
    new0, new1 = _lengthened(x, a, b, g, price, add(q0, q1))
    new0, move0 = _next(simd.read(u, n), new0, w0, visited, simd.read(by_row, _MOVE), refused)
    new1, move1 = _next(simd.read(u, n + 1), new1, w1, visited, simd.read(by_row, _MOVE + 1), refused)
    simd.write(u, n, new0)
    simd.write(u, n + 1, new1)
    simd.write(by_row, _MOVE, move0)
    simd.write(by_row, _MOVE + 1, move1)
    simd.write(by_row, _REFUSED, refused)
    return simd.highest(refused) > 0.0


@formula()
def _larger(a, b):
    return maximum(a, b)


@formula()
def _guarded_step(u, g, c, price, q, sharpness):
    """The next value of one coordinate, by its ratio sum g, curvature c and price: -f' = g - price, f'' = c.

    With d = (g - price) / c, lambda^2 = c d^2 / min x, and ratio = g / price:

        g >= price         u + d ratio                               Newton on 1 / g: never past the optimum
        lambda <= 0.6838   max(0, u + d ratio)
        otherwise          min(u ratio, u + d / (1 + lambda))        the multiplicative and the damped Newton point
                           or u / 1024, if that is more and c is not 0

    None of these steps increases the objective. If the curvature overflows, the multiplicative point is used. With a
    ridge, where the price rises with u, ratio = 1 makes the steps Newton's own, which are as safe: g - price is convex,
    and a square has no third derivative.

    Source: Hien & Gillis, "Algorithms for nonnegative matrix factorization with the Kullback-Leibler divergence",
    J. Sci. Comput. 87 (2021), section 3.5, for the last two; the first because 1 / g is concave along a coordinate.
    """
    ratio = where(q > 0.0, 1.0, g / price)
    d, scaled = (g - price) / c, u * ratio
    newton, far = fma(d, ratio, u), sharpness * ((g - price) * d)
    damped = minimum(scaled, u + d / (1.0 + sqrt(far)))
    damped = where(c > 0.0, maximum(damped, u * _SHRINK), scaled)
    new = where(price > g, where(far < _SAFE * _SAFE, newton, damped), newton)
    return where(c < math.inf, new, scaled)


@formula(2)
def _next_alone(u, new, weight, old_move, refused):
    """A coordinate after its own step, at least 0, where the joint one is refused; and its move."""
    new = where(new > 0.0, new, 0.0)
    new = where(weight > 0.0, where(refused > 0.0, new, u), u)
    return new, where(refused > 0.0, new - u, old_move)


@formula()
def _unless(x, refused):
    """0 where a joint step is refused."""
    return where(refused > 0.0, 0.0, x)


@step(inline=False)
def _move_alone(n, part, lists, by_row, has_shape, has_ridge):
    """Move coordinate n alone where the joint step was refused; n is part 0 or 1 of the visited pair."""
    u, weights, _, _, _, _ = lists
    x, g, c, d, q, sharpness = _derivatives(n, part, lists, by_row, has_shape, has_ridge)
    new, refused = _guarded_step(x, g, c, d, q, sharpness), simd.read(by_row, _REFUSED)
    new, move = _next_alone(simd.read(u, n), new, simd.read(weights, n), simd.read(by_row, _MOVE + part), refused)
    simd.write(u, n, new)
    simd.write(by_row, _MOVE + part, move)
    simd.write(by_row, _MOVE + 1 - part, _unless(simd.read(by_row, _MOVE + 1 - part), refused))


# ── long rows: lists and sweeps ─────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _list(chosen, lane, low, high, n_lanes, visits):
    """List the chosen components among low to high of a row; returns their number."""
    n = 0
    for v in range(low // n_lanes, (high + n_lanes - 1) // n_lanes):
        visit = simd.get(chosen, lane, v)
        for first in range(v * n_lanes, (v + 1) * n_lanes, QUAD):
            for c in range(QUAD):
                simd.put(visits, lane, n, first + c)
                n += visit >> c & 1
            visit >>= QUAD
    return n


@step(inline=True)
def _copy_listed(source, i, visits, n_listed, out, lane):
    """Copy the listed components of row i of a factor into a lane."""
    for n in range(n_listed):
        simd.put(out, n, lane, simd.get(source, i, simd.get(visits, lane, n)))


@step(inline=True)
def _end_list(visits, lane, n_listed, none, lists):
    """Make the length of a list even, by a component `none` that no entry has; returns the length."""
    u, weights, shapes, ridges, _, _ = lists
    if n_listed % 2:
        simd.put(visits, lane, n_listed, none)
        simd.put(u, n_listed, lane, 0.0)
        simd.put(weights, n_listed, lane, 1.0)
        simd.put(shapes, n_listed, lane, 0.0)
        simd.put(ridges, n_listed, lane, 0.0)
    return n_listed + n_listed % 2


@step(inline=True)
def _start_list(U, i, lane, low, none, problem, steps, has_shape, has_ridge, lists, index, base):
    """List the chosen components among low to none, with their values, weights, shapes and ridges."""
    weight, shape, ridge, _ = problem
    u, weights, shapes, ridges, _, _ = lists
    places, visits, chosen = index
    n_listed = _list(chosen, lane, low, min(none, U.shape[1]), weights.shape[1], visits)
    _copy_listed(U, i, visits, n_listed, u, lane)
    _copy_listed(weight, i * steps[0], visits, n_listed, weights, lane)
    if has_shape:
        _copy_listed(shape, i * steps[1], visits, n_listed, shapes, lane)
    if has_ridge:
        _copy_listed(ridge, i * steps[1], visits, n_listed, ridges, lane)
    simd.put(places, _LENGTH, lane, _end_list(visits, lane, n_listed, none, lists))
    simd.put(places, _AT, lane, base)
    simd.put(places, _AT + 1, lane, base)


@step(inline=True)
def _sweep(low, longest, n_rows, strip, index, lists, block, entries, by_row, wide_sums, has_shape, has_ridge, normal):
    """Visit the listed components of all rows of the group once; those of the block begin with component low."""
    places, visits, _ = index
    _, weights, _, _, _, _ = lists
    counts, rates, _, _ = entries
    for n in range(0, longest, 2):
        for lane in range(n_rows):
            if n < simd.get(places, _LENGTH, lane):
                base, n_vectors = simd.get(places, _FIRST, lane) * (strip + 1), simd.get(places, _VECTORS, lane)
                a = base + (simd.get(visits, lane, n) - low) * n_vectors
                b = base + (simd.get(visits, lane, n + 1) - low) * n_vectors
                _visit(block, a, b, by_row, places, lane, counts, rates, wide_sums)
        if _move_pair(n, simd.read(weights, n), lists, by_row, has_shape, has_ridge, normal):
            _move_alone(n, 0, lists, by_row, has_shape, has_ridge)
            for lane in range(n_rows):
                if simd.get(by_row, _REFUSED, lane) > 0.0:
                    a, b = simd.get(places, _AT, lane), simd.get(places, _AT + 1, lane)
                    _visit(block, a, b, by_row, places, lane, counts, rates, wide_sums)
            _move_alone(n + 1, 1, lists, by_row, has_shape, has_ridge)


@step(inline=True)
def _write_listed(out, i, visits, n_listed, none, u, lane):
    """Write the listed components of a row."""
    for n in range(n_listed):
        k = simd.get(visits, lane, n)
        if k < none:
            simd.put(out, i, k, simd.get(u, n, lane))


@step(inline=True)
def _drop_zeros(out, i, index, lane, none, lists):
    """Remove the components that are 0 from a list and from the row."""
    places, visits, chosen = index
    u, weights, shapes, ridges, _, _ = lists
    kept, n_listed, n_lanes = 0, simd.get(places, _LENGTH, lane), weights.shape[1]
    for n in range(n_listed):
        k, x = simd.get(visits, lane, n), simd.get(u, n, lane)
        if x > 0.0:
            if kept < n:
                simd.put(visits, lane, kept, k)
                simd.put(u, kept, lane, x)
                simd.put(weights, kept, lane, simd.get(weights, n, lane))
                simd.put(shapes, kept, lane, simd.get(shapes, n, lane))
                simd.put(ridges, kept, lane, simd.get(ridges, n, lane))
            kept += 1
        elif k < none:
            simd.put(out, i, k, 0.0)
            simd.put(chosen, lane, k // n_lanes, simd.get(chosen, lane, k // n_lanes) & ~(1 << k % n_lanes))
    for n in range(kept, n_listed):
        simd.put(weights, n, lane, 0.0)
    simd.put(places, _LENGTH, lane, _end_list(visits, lane, kept, none, lists))


# ── long rows: the group ────────────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _read_group(
    data, indices, indptr, order, first_row, n_rows, U, problem, steps, has_shape, tiny, strip, offsets, counts, block,
    places, by_row, totals, out,
):  # fmt: skip
    """Read the entries and the start of each row."""
    n_lanes, n_filled = counts.shape[1], 0
    for lane in range(n_rows):
        i = order[first_row + lane]
        start, length = indptr[i], indptr[i + 1] - indptr[i]
        n_vectors = (length + n_lanes - 1) // n_lanes
        begin, size = n_filled * n_lanes, n_vectors * n_lanes
        own, own_offsets = simd.section(counts, begin, size), simd.section(offsets, begin, size)
        _read_entries(data, indices, start, length, U.shape[1], own, own_offsets)
        total, sharpness = _count_totals(counts, n_filled, n_filled + n_vectors)
        total += _start_row(U, i, problem, steps, has_shape, tiny, out)
        simd.put(places, _FIRST, lane, n_filled)
        simd.put(places, _VECTORS, lane, n_vectors)
        simd.put(places, _SOLVED, lane, 0)
        simd.put(totals, 0, lane, total)
        simd.put(by_row, _SHARPNESS, lane, sharpness)
        for e in range(n_vectors):  # the component that no entry has
            simd.write(block, n_filled * (strip + 1) + strip * n_vectors + e, simd.zero(counts, 0))
        n_filled += n_vectors


@step(inline=True)
def _start_lists(
    low, V, out, order, first_row, n_rows, problem, steps, has_shape, has_ridge, width, strip, offsets, entries, block,
    lists, index, by_row,
):  # fmt: skip
    """List what each row visits of a strip of components, and gather the strip if the block can't hold all."""
    counts, _, _, unused = entries
    places, _, _ = index
    zero = simd.zero(counts, 0)
    for n in range(lists[1].shape[0]):
        simd.write(lists[1], n, zero)
    simd.write(by_row, _MOVE, zero)
    simd.write(by_row, _MOVE + 1, zero)
    for lane in range(n_rows):
        if not simd.get(places, _SOLVED, lane):
            i, first = order[first_row + lane], simd.get(places, _FIRST, lane)
            n_vectors, base = simd.get(places, _VECTORS, lane), first * (strip + 1)
            _start_list(out, i, lane, low, low + strip, problem, steps, has_shape, has_ridge, lists, index, base)
            if strip < width:
                high = min(low + strip, width)
                _gather(V, offsets, out, i, low, high, counts, unused, first, n_vectors, block, base)


@step(inline=True)
def _longest_list(places, n_rows):
    longest = 0
    for lane in range(n_rows):
        longest = max(longest, simd.get(places, _LENGTH, lane))
    return longest


@step(inline=False)
def _solve_long_rows(
    data, indices, indptr, order, first_row, n_rows, U, V, problem, steps, n_components, sweeps, max_rounds, has_shape,
    has_ridge, is_general, wants_data_term, tol, tiny, normal, strip, offsets, index, entries, block, lists, sums,
    wide_sums, by_row, totals, out, gap,
):  # fmt: skip
    """The rounds of a group of long rows."""
    counts, rates, _, _ = entries
    places, visits, chosen = index
    width, n_rounds = (n_components + QUAD - 1) // QUAD * QUAD, 0
    _read_group(
        data, indices, indptr, order, first_row, n_rows, U, problem, steps, has_shape, tiny, strip, offsets, counts,
        block, places, by_row, totals, out,
    )  # fmt: skip
    simd.clear_row(sums, 0)
    while True:
        n_unsolved = 0
        for lane in range(n_rows):
            if not simd.get(places, _SOLVED, lane):
                i, first, total = order[first_row + lane], simd.get(places, _FIRST, lane), simd.get(totals, 0, lane)
                n_vectors, base = simd.get(places, _VECTORS, lane), first * (strip + 1)
                ratio_sum = _measure(
                    V, offsets, out, i, width, entries, first, n_vectors, block, base, strip, sums, wide_sums
                )
                bound = _gap(out, i, problem, steps, sums, has_shape, is_general, total, ratio_sum)
                gap[i] = bound
                if n_rounds == max_rounds or (tol >= 0.0 and not (total * tol < bound < math.inf)):
                    simd.put(places, _SOLVED, lane, 1)
                    simd.put(places, _LENGTH, lane, 0)
                else:
                    n_unsolved += 1
                    sharpness, few = simd.get(by_row, _SHARPNESS, lane), _FEW / n_components
                    if _choose(out, i, problem, steps, sums, has_shape, sharpness, total * tiny, few, chosen, lane):
                        _reset_rates(V, offsets, out, i, width, counts, rates, first, n_vectors, block, base, strip)
        if n_unsolved == 0:
            break
        for sweep in range(sweeps):
            for low in range(0, width, strip):
                if sweep == 0 or strip < width:
                    _start_lists(
                        low, V, out, order, first_row, n_rows, problem, steps, has_shape, has_ridge, width, strip,
                        offsets, entries, block, lists, index, by_row,
                    )  # fmt: skip
                _sweep(
                    low, _longest_list(places, n_rows), n_rows, strip, index, lists, block, entries, by_row, wide_sums,
                    has_shape, has_ridge, normal,
                )  # fmt: skip
                for lane in range(n_rows):
                    i, n_listed = order[first_row + lane], simd.get(places, _LENGTH, lane)
                    if n_listed > 0 and (strip < width or (wants_data_term and sweep == sweeps - 1)):
                        _settle(block, by_row, places, lane, rates)
                    if strip < width or sweep == sweeps - 1:
                        _write_listed(out, i, visits, n_listed, low + strip, lists[0], lane)
                    if strip < width or sweep < sweeps - 1:
                        _drop_zeros(out, i, index, lane, low + strip, lists)
        n_rounds += 1
        if tol < 0.0:
            break


# ── short rows side by side ─────────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _fill_lane(data, indices, indptr, i, row_length, counts, offsets, lane, n_lanes, exists):
    """Lay the entries of row i into one lane: one in each vector; then zeros."""
    start = indptr[i]
    length = indptr[i + 1] - start if exists else 0
    own, columns = simd.section(data, start, length), simd.section(indices, start, length)
    factor, p = np.int32(row_length), np.uint64(lane)
    for e in range(length):
        counts[p] = own[e]
        offsets[p] = np.int64(columns[e]) * np.int64(factor)
        p += np.uint64(n_lanes)
    while p < len(counts):
        counts[p] = 0
        offsets[p] = 0
        p += np.uint64(n_lanes)


@step(inline=False)
def _read_lanes(source, row_step, order, first_row, n_rows, offsets, out, width):
    """Lay some rows of a factor out in lanes."""
    one = simd.fill_like(simd.zero(out, 0), 1.0)
    for lane in range(out.shape[1]):
        offsets[lane] = order[first_row + min(lane, n_rows - 1)] * row_step * np.int64(source.shape[1])
    for k in range(0, width, QUAD):
        simd.store_quad(out, k, 1, simd.gather_quad(source, offsets, 0, k, one))


@step(inline=True)
def _measure_lanes(V, offsets, counts, rates, ratios, n_vectors, block, loaded, lists, width):
    """As `_measure`, of rows in lanes; returns the sums of the ratios."""
    u, _, _, _, _, sums = lists
    zero = ratio_sum = simd.zero(counts, 0)
    zeros = zero, zero, zero, zero
    for e in range(n_vectors):
        x, y = simd.read(counts, e), zero
        for k in range(0, width, QUAD):
            if loaded:
                v = simd.load_quad(block, k * n_vectors + e, n_vectors)
            else:
                v = simd.gather_quad(V, offsets, e, k, x)
                simd.store_quad(block, k * n_vectors + e, n_vectors, v)
            y = _add_quad(y, simd.load_quad(u, k, 1), v)
        y, ratio, ratio_sum = _ratio(x, y, ratio_sum)
        simd.write(rates, e, y)
        simd.write(ratios, e, ratio)
    for k in range(0, width, QUAD):
        s = zeros
        for e in range(n_vectors):
            s = _add_products(simd.read(ratios, e), s, simd.load_quad(block, k * n_vectors + e, n_vectors))
        simd.store_quad(sums, k, 1, s)
    return ratio_sum


@formula()
def _bound(rate, highest, total, ratio_sum, shift):
    """The gap, see `_gap`."""
    bound = fma(total, highest - shift, rate)
    return fma(ratio_sum, 0.0, where(bound < 0.0, 0.0, bound))


@step(inline=True)
def _gap_lanes(lists, fixed, has_shape, is_general, n_components, total, ratio_sum):
    """As `_gap`, of rows in lanes."""
    u, _, shapes, ridges, prices, sums = lists
    rate = highest = zero = simd.zero(u, 0)
    for k in range(n_components):
        x, d, s = simd.read(u, k), simd.read(prices, k), simd.read(sums, k)
        if has_shape:
            s = _sum_with_shape(s, simd.read(shapes, k), x)
            simd.write(sums, k, s)
        if simd.get(fixed, 0, k) == 0.0:
            if is_general:
                rate, highest = _general_bound_term(rate, highest, s, x, d, simd.read(ridges, k), zero)
            else:
                rate, highest = _bound_term(rate, highest, s, x, d)
    return _bound(rate, highest, total, ratio_sum, 0.0 if is_general else 2.0)


@formula()
def _unsolved(bound, total, tol):
    """1 in the lanes whose gap is above tol and finite."""
    return where(bound > total * tol, where(bound < math.inf, 1.0, 0.0), 0.0)


@formula(2)
def _if_unsolved(u, kept, visit, d, active):
    """A component in the lanes that are not solved, and its weight where it is to be visited."""
    return where(active > 0.0, kept, u), where(active > 0.0, where(visit > 0.0, d, 0.0), 0.0)


@step(inline=True)
def _choose_lanes(lists, visits, fixed, has_shape, total, tiny, sharpness, active, n_components):
    """As `_choose` and `_list`, of rows in lanes: the list has the pairs that any of them visits.

    The weights are positive where a component is visited. Returns the length of the list.
    """
    u, weights, shapes, _, prices, sums = lists
    zero = a = simd.zero(u, 0)
    smallest, n = multiply(total, simd.fill_like(zero, tiny)), 0
    for k in range(0, n_components, 2):
        is_used = False
        for c in range(k, k + 2):
            visit, x = zero, simd.read(u, c)
            if c < n_components and simd.get(fixed, 0, c) == 0.0:
                if has_shape:
                    a = simd.read(shapes, c)
                d = simd.read(prices, c)
                visit, kept = _choice(x, d, simd.read(sums, c), a, zero, sharpness, smallest, _FEW / n_components)
                kept, visit = _if_unsolved(x, kept, visit, d, active)
                simd.write(u, c, kept)
            simd.write(weights, c, visit)
            is_used |= simd.bits(visit) != 0
        if is_used:
            simd.put(visits, 0, n, k)
            n += 1
    return n


@step(inline=True)
def _reset_lanes(block, counts, rates, n_vectors, u, width):
    """As `_reset_rates`, of rows in lanes."""
    for e in range(n_vectors):
        y = _rate_of_none(simd.read(counts, e))
        for k in range(0, width, QUAD):
            y = _add_quad(y, simd.load_quad(u, k, 1), simd.load_quad(block, k * n_vectors + e, n_vectors))
        simd.write(rates, e, y)


@step(inline=False)
def _visit_lanes(block, a, b, old_a, old_b, by_row, counts, rates, n_vectors):
    """Visit the coordinates whose vectors begin at rows a and b, of rows in lanes."""
    moves = simd.read(by_row, _MOVE), simd.read(by_row, _MOVE + 1)
    s = _sum_derivatives(block, a, b, old_a, old_b, moves, counts, rates, 0, 0, n_vectors)
    for n in range(5):
        simd.write(by_row, n, s[n])


@formula()
def _weight_of_positive(weight, u):
    """The weight where u is positive; entries that are 0 are not visited again."""
    return where(u > 0.0, weight, 0.0)


@step(inline=True)
def _sweep_lanes(n_listed, visits, block, counts, rates, n_vectors, lists, by_row, has_shape, has_ridge, normal):
    """As `_sweep`, of rows in lanes; returns the number of pairs in the list of the next sweep."""
    u, weights, _, _, _, _ = lists
    zero, kept, old = simd.zero(u, 0), 0, 0
    visited = simd.fill_like(zero, 1.0)
    simd.write(by_row, _MOVE, zero)
    simd.write(by_row, _MOVE + 1, zero)
    for n in range(n_listed):
        k = simd.get(visits, 0, n)
        a = k * n_vectors
        _visit_lanes(block, a, a + n_vectors, old, old + n_vectors, by_row, counts, rates, n_vectors)
        if _move_pair(k, visited, lists, by_row, has_shape, has_ridge, normal):
            _move_alone(k, 0, lists, by_row, has_shape, has_ridge)
            _visit_lanes(block, a, a + n_vectors, a, a + n_vectors, by_row, counts, rates, n_vectors)
            simd.write(by_row, _MOVE, zero)
            simd.write(by_row, _MOVE + 1, zero)
            _move_alone(k + 1, 1, lists, by_row, has_shape, has_ridge)
        old, stays = a, False
        for c in range(k, k + 2):
            weight = _weight_of_positive(simd.read(weights, c), simd.read(u, c))
            simd.write(weights, c, weight)
            stays |= simd.bits(weight) != 0
        if stays:
            simd.put(visits, 0, kept, k)
            kept += 1
    if n_listed:
        moves = simd.read(by_row, _MOVE), simd.read(by_row, _MOVE + 1)
        for e in range(n_vectors):
            v = simd.read(block, old + e), simd.read(block, old + n_vectors + e)
            simd.write(rates, e, _moved_rates(simd.read(rates, e), moves, v))
    return kept


@step(inline=True)
def _read_side_by_side(
    data, indices, indptr, order, first_row, n_rows, n_vectors, U, problem, steps, has_shape, is_general, width, tiny,
    offsets, counts, lists, by_row,
):  # fmt: skip
    """Read the entries and the start of each row; returns the sums of their counts and shapes."""
    weight, shape, ridge, fixed = problem
    u, _, shapes, ridges, prices, _ = lists
    zero, n_lanes = simd.zero(counts, 0), counts.shape[1]
    _read_lanes(U, 1, order, first_row, n_rows, offsets, u, width)
    _read_lanes(weight, steps[0], order, first_row, n_rows, offsets, prices, width)
    if has_shape:
        _read_lanes(shape, steps[1], order, first_row, n_rows, offsets, shapes, width)
    if is_general:
        _read_lanes(ridge, steps[1], order, first_row, n_rows, offsets, ridges, width)
    flat = simd.section(counts, 0, n_vectors * n_lanes)
    for lane in range(n_lanes):
        i = order[first_row + min(lane, n_rows - 1)]
        _fill_lane(data, indices, indptr, i, U.shape[1], flat, offsets, lane, n_lanes, lane < n_rows)
    total, smallest = zero, simd.fill_like(zero, math.inf)
    for e in range(n_vectors):
        x = simd.read(counts, e)
        total, smallest = add(total, x), _smaller(smallest, x)
    simd.write(by_row, _SHARPNESS, divide(simd.fill_like(zero, 1.0), smallest))
    for k in range(width):
        x, d = simd.read(u, k), simd.read(prices, k)
        if has_shape:
            a = simd.read(shapes, k)
            total, x = add(total, a), _lifted(x, a, d, tiny)
        simd.write(u, k, _if_used(x, d, simd.fill_like(zero, simd.get(fixed, 0, k))))
    return total


@step(inline=False)
def _solve_short_rows(
    data, indices, indptr, order, first_row, n_rows, n_vectors, U, V, problem, steps, n_components, sweeps, max_rounds,
    has_shape, has_ridge, is_general, tol, tiny, normal, offsets, index, entries, block, lists, by_row, out, gap,
):  # fmt: skip
    """The rounds of a group of short rows."""
    counts, rates, ratios, _ = entries
    fixed, visits, u = problem[3], index[1], lists[0]
    width, n_rounds, active = (n_components + QUAD - 1) // QUAD * QUAD, 0, simd.fill_like(simd.zero(counts, 0), 1.0)
    total = _read_side_by_side(
        data, indices, indptr, order, first_row, n_rows, n_vectors, U, problem, steps, has_shape, is_general, width,
        tiny, offsets, counts, lists, by_row,
    )  # fmt: skip
    while True:
        ratio_sum = _measure_lanes(V, offsets, counts, rates, ratios, n_vectors, block, n_rounds > 0, lists, width)
        bound = _gap_lanes(lists, fixed, has_shape, is_general, n_components, total, ratio_sum)
        simd.write(by_row, _MOVE, bound)
        for lane in range(n_rows):
            gap[order[first_row + lane]] = simd.get(by_row, _MOVE, lane)
        if tol >= 0.0:
            active = _unsolved(bound, total, tol)
        if n_rounds == max_rounds or simd.bits(active) == 0:
            break
        n_listed = _choose_lanes(
            lists, visits, fixed, has_shape, total, tiny, simd.read(by_row, _SHARPNESS), active, n_components
        )
        _reset_lanes(block, counts, rates, n_vectors, u, width)
        for _ in range(sweeps):
            n_listed = _sweep_lanes(
                n_listed, visits, block, counts, rates, n_vectors, lists, by_row, has_shape, has_ridge, normal
            )
        n_rounds += 1
        if tol < 0.0:
            break
    for lane in range(n_rows):
        offsets[lane] = order[first_row + lane] * np.int64(out.shape[1])
    for k in range(0, width, QUAD):
        simd.scatter_quad(out, offsets, n_rows, k, simd.load_quad(u, k, 1))


# ── the kernel ──────────────────────────────────────────────────────────────────────────────────────────────────


@step(inline=True)
def _data_term(counts, rates, n_vectors):
    """sum of x log rate over the entries, nats."""
    total = 0.0
    for e in range(n_vectors):
        x, y = simd.as_float64(simd.read(counts, e)), simd.as_float64(simd.read(rates, e))
        total += simd.total(x_log(x, y))
    return total


@kernel(writes=14)
def descend(table, group, worker):
    """Lower the divergence of each row by cyclic coordinate descent, V fixed; monotone, without function evaluation.

    A task is a group of rows, in one of two layouts, see the head of this file. A row's objective is that of
    `multiply`, with d its row of `weight`, a of `shape` and q of `ridge`. With y the row's rates and
    total = sum_j x_j + sum_k a_k,

        S_k   = sum_j x_j / y_j v_jk + a_k / u_k,                  gap as in `multiply`
        C_kl  = sum_j x_j v_jk v_jl / y_j^2 + a_k / u_k^2 + q_k,   the last two if k = l
        (u_k, u_l) <- `_joint_step` (u, S, C, d + q u), or if that isn't safe `_guarded_step` of one after the other

    over pairs of the active k: those with u_k > `tiny` total / d_k, with a_k > 0, with S_k > d_k or with u_k S_k, the
    counts of k, > `_FEW` min x / K. The others are set to exactly 0, except fixed ones, which stay. Short rows pair
    components 2 m and 2 m + 1, long ones each two in the list of their active components.

    in    data, indices, U, V   as in `ratio_contract`
          indptr     (n_rows + 1,)  int64
          order      (n_rows,)      int64, the rows, those of a group side by side
          groups     (n_groups, 5)  int64: first place in `order`, number of rows, vectors of entries, 1 for short rows
                                    side by side or 0 for long ones, strip
          weight, shape, ridge  (1 or n_rows, K) as in `multiply`
          fixed      (1, K)         1 for fixed components, else 0; dtype of U
          n_components, sweeps, max_rounds  int
          weight_step, shape_step  int: whether `weight`, and `shape` and `ridge`, have a row for each
          has_shape, has_ridge, is_general  int: whether there is a shape; a ridge; any of ridge, fixed and inf
          wants_data_term  int: whether to sum `data_term`
          tol, tiny        float
          normal           float: curvatures below have lost digits to underflow
    out   offsets    (n_workers, n * lanes) int64, scratch: where the entries' rows of V begin
          visits     (n_workers, lanes, K) int64, scratch: the components to visit
          chosen     (n_workers, lanes, K / lanes) int64, scratch: the same as bits, of each vector of a row
          places     (n_workers, PLACES, lanes) int64, scratch
          entries    (n_workers, ENTRIES, n, lanes), scratch
          block      (n_workers, n, lanes), scratch: transposed rows of V
          lists      (n_workers, LISTED, K, lanes), scratch
          sums, wide_sums  (n_workers, 1, K), scratch: S of a row; the latter float64
          by_row     (n_workers, BY_ROW, lanes), scratch
          totals     (n_workers, 1, lanes) float64, scratch
          out        (n_rows, K)    overwritten
          gap        (n_rows,)      float64, nats: the bound on what a better row could gain, see `tol`
          data_term  (n_groups,)    float64, if `wants_data_term`: sum over the rows of  data log(rate), at `out`; nats
          If tol < 0, there is one round of sweeps, and gap is that of U. Otherwise rounds are repeated until gap, then
          that of `out`, is at most tol * total; a row of U whose gap already is comes back unchanged.
    gives bitwise the same row for any number of workers and any other rows
    cost  per sweep about 9 nnz flops for each active component, and nnz divisions for two; 4 nnz K flops for the gap;
          gathers nnz K itemsize bytes of V
    """
    (
        data, indices, indptr, order, groups, U, V, weight, shape, ridge, fixed, n_components, sweeps, max_rounds,
        weight_step, shape_step, has_shape, has_ridge, is_general, wants_data_term, tol, tiny, normal, all_offsets,
        all_visits, all_chosen, all_places, all_entries, all_blocks, all_lists, all_sums, all_wide, all_by_row,
        all_totals, out, gap, data_term,
    ) = arguments(table)  # fmt: skip
    first_row, n_rows, n_vectors = groups[group, 0], groups[group, 1], groups[group, 2]
    side_by_side, strip = groups[group, 3] == 1, groups[group, 4]
    offsets, block = simd.subarray(all_offsets, worker), simd.subarray(all_blocks, worker)
    index = simd.subarray(all_places, worker), simd.subarray(all_visits, worker), simd.subarray(all_chosen, worker)
    entries = simd.subarrays(simd.subarray(all_entries, worker), ENTRIES)
    lists, by_row = simd.subarrays(simd.subarray(all_lists, worker), LISTED), simd.subarray(all_by_row, worker)
    sums, wide_sums = simd.subarray(all_sums, worker), simd.subarray(all_wide, worker)
    problem, steps = (weight, shape, ridge, fixed), (weight_step, shape_step)
    if side_by_side:
        _solve_short_rows(
            data, indices, indptr, order, first_row, n_rows, n_vectors, U, V, problem, steps, n_components, sweeps,
            max_rounds, has_shape, has_ridge, is_general, tol, tiny, normal, offsets, index, entries, block, lists,
            by_row, out, gap,
        )  # fmt: skip
    else:
        _solve_long_rows(
            data, indices, indptr, order, first_row, n_rows, U, V, problem, steps, n_components, sweeps, max_rounds,
            has_shape, has_ridge, is_general, wants_data_term, tol, tiny, normal, strip, offsets, index, entries, block,
            lists, sums, wide_sums, by_row, simd.subarray(all_totals, worker), out, gap,
        )  # fmt: skip
    if wants_data_term:
        data_term[group] = _data_term(entries[0], entries[1], n_vectors)
