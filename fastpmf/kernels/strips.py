"""What `descend` does with a group of rows: lays their entries and weights out in lanes, and passes over their block.

The block holds, for a strip of components, the rows of V that the group's entries need, transposed: a coordinate is a
unit-stride vector over the entries.
"""

import numpy as np
from numba.extending import register_jitable

from fastpmf.kernels import lanes, simd

QUAD = lanes.QUAD
# Vectors that are summed in their own dtype, before what they hold goes over to float64. Where a long row's counts and
# rates are alike so are the roundings of a sum, which in float32 would come to 1e-4 of it after 10^5 entries.
PIECE = 256
_LEFT = 1e-6  # of a rate is kept at least, in one move: rounding must not carry a rate to 0 or below


@register_jitable
def settle(tile, wide, safe):
    """In a wide group all lanes belong to one row: what a piece has summed in them goes over to `safe`, float64."""
    if not wide:
        return tile, safe
    return simd.fill_like(tile, 0.0), safe + simd.total(tile)


@register_jitable
def fold(tile, wide, safe):
    """A group's sums, those of a wide one settled: its row's in every lane."""
    return simd.fill_like(tile, safe) if wide else tile


@register_jitable
def fold_highest(tile, wide):
    """In a wide group its row's highest element in every lane."""
    return simd.fill_like(tile, simd.highest(tile)) if wide else tile


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
def take_lanes(source, step, order, first, n_rows, offset, one, components, to, n_components):
    """Lay a group's rows of a factor, or the one row that all share, side by side: one in each lane."""
    for lane in range(components.shape[1]):
        offset[lane] = order[first + min(lane, n_rows - 1)] * step * np.int64(source.shape[1])
    for k in range(0, n_components, QUAD):
        u0, u1, u2, u3 = lanes.gather_quad(source, offset, 0, k, one)
        simd.store(components, to + k, u0)
        simd.store(components, to + k + 1, u1)
        simd.store(components, to + k + 2, u2)
        simd.store(components, to + k + 3, u3)


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
        t0 = t1 = t2 = t3 = 0.0
        for first in range(0, E, PIECE):
            for e in range(first, min(first + PIECE, E)):
                r = simd.load(entries, R + e, 1)
                s0 = lanes.multiply_add(r, simd.load(block, b + e, 1), s0)
                s1 = lanes.multiply_add(r, simd.load(block, b + E + e, 1), s1)
                s2 = lanes.multiply_add(r, simd.load(block, b + 2 * E + e, 1), s2)
                s3 = lanes.multiply_add(r, simd.load(block, b + 3 * E + e, 1), s3)
            (s0, t0), (s1, t1) = settle(s0, wide, t0), settle(s1, wide, t1)
            (s2, t2), (s3, t3) = settle(s2, wide, t2), settle(s3, wide, t3)
        simd.store(components, S + k, fold(s0, wide, t0))
        simd.store(components, S + k + 1, fold(s1, wide, t1))
        simd.store(components, S + k + 2, fold(s2, wide, t2))
        simd.store(components, S + k + 3, fold(s3, wide, t3))


@register_jitable
def carry(block, past, moved, entries, Y, E):
    """Carry the last move of a strip into the rates."""
    least = simd.fill_like(moved, _LEFT)
    for e in range(E):
        y = simd.load(entries, Y + e, 1)
        y = simd.maximum(lanes.multiply_add(moved, simd.load(block, past + e, 1), y), simd.multiply(y, least))
        simd.store(entries, Y + e, y)


@register_jitable(inline="always")
def visit(block, b, past, moved, entries, X, Y, E, wide):
    """As `carry`, and in the same go sum what the next coordinate needs: g and c."""
    g = c = simd.zeros(entries, 1)
    safe_g = safe_c = 0.0
    least = simd.fill_like(g, _LEFT)
    for first in range(0, E, PIECE):
        for e in range(first, min(first + PIECE, E)):
            y = simd.load(entries, Y + e, 1)
            y = simd.maximum(lanes.multiply_add(moved, simd.load(block, past + e, 1), y), simd.multiply(y, least))
            simd.store(entries, Y + e, y)
            w = simd.divide(simd.load(block, b + e, 1), y)
            xw = simd.multiply(simd.load(entries, X + e, 1), w)
            g = simd.add(g, xw)
            c = lanes.multiply_add(xw, w, c)
        (g, safe_g), (c, safe_c) = settle(g, wide, safe_g), settle(c, wide, safe_c)
    return fold(g, wide, safe_g), fold(c, wide, safe_c)
