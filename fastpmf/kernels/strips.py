"""What `descend` does with a group of rows: lays their entries and weights out in lanes, and passes over their block.

The block holds, for a strip of components, the rows of V that the group's entries need, transposed: a coordinate is a
unit-stride vector over the entries.
"""

import numpy as np
from numba.extending import register_jitable

from fastpmf.kernels import lanes, simd

QUAD = lanes.QUAD
_LEFT = 1e-6  # of a rate is kept at least, in one move: rounding must not carry a rate to 0 or below


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
