"""What `descend` does with a group of rows: lays their entries out in lanes, and passes over their block.

The block holds, for a strip of components, the rows of V that the group's entries need, transposed: a coordinate is a
unit-stride vector over the entries. Row (k - low) E + e of it is component k of the entries in vector e, for E vectors
of entries and a strip that begins with component low.
"""

import numpy as np

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import step
from fastpmf.kernels.formula import fma, formula, maximum

QUAD = lanes.QUAD
# Vectors that are summed in their own dtype before their sum is added to one in float64. Where a long row's counts and
# rates are alike, so are the rounding errors of its sum: in float32 they would reach 1e-4 of it after 10^5 entries.
FLUSH_EVERY = 256
_LEFT = 1e-6  # smallest share of a rate that one move leaves, as rounding must not take a rate to 0 or below


@step(inline=True)
def spread_row(data, indices, indptr, i, row_length, counts, offsets):
    """Lay the entries of row i side by side: counts, and where their rows of V begin; zeros behind."""
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
def fill_lane(data, indices, indptr, i, row_length, counts, offsets, lane, n_lanes, is_there):
    """Lay the entries of row i into one lane: one in each vector; zeros behind."""
    start = indptr[i]
    length = indptr[i + 1] - start if is_there else 0
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
def take_lanes(source, row_step, order, first, n_rows, offsets, out, n_components):
    """Lay a group's rows of a factor, or the one row that all share, side by side: one in each lane."""
    for lane in range(out.shape[1]):
        offsets[lane] = order[first + min(lane, n_rows - 1)] * row_step * np.int64(source.shape[1])
    one = simd.fill_like(simd.zero(out), 1.0)
    for k in range(0, n_components, QUAD):
        lanes.store_quad(out, k, 1, lanes.gather_quad(source, offsets, 0, k, one))


@formula()
def _add_quad(y, u0, u1, u2, u3, v0, v1, v2, v3):
    """y + sum of u v."""
    return fma(u3, v3, fma(u2, v2, fma(u1, v1, fma(u0, v0, y))))


@step(inline=False)
def gather_strip(V, offsets, counts, rates, block, n_entries, u, low, high):
    """Rows of V, transposed, for components low to high; in passing, rates += sum_k u_k v_k over the strip."""
    for e in range(n_entries):
        x, y = simd.load(counts, e, 0), simd.load(rates, e, 0)
        b = e
        for k in range(low, high, QUAD):
            v0, v1, v2, v3 = lanes.gather_quad(V, offsets, e, k, x)
            lanes.store_quad(block, b, n_entries, (v0, v1, v2, v3))
            u0, u1, u2, u3 = lanes.load_quad(u, k, 1)
            y = _add_quad(y, u0, u1, u2, u3, v0, v1, v2, v3)
            b += QUAD * n_entries
        simd.store(rates, e, 0, y)


@step(inline=True)
def add_rates(block, n_entries, u, low, high, rates):
    """rates += sum_k u_k v_k over the strip."""
    for k in range(low, high, QUAD):
        u0, u1, u2, u3 = lanes.load_quad(u, k, 1)
        b = (k - low) * n_entries
        for e in range(n_entries):
            v0, v1, v2, v3 = lanes.load_quad(block, b + e, n_entries)
            simd.store(rates, e, 0, _add_quad(simd.load(rates, e, 0), u0, u1, u2, u3, v0, v1, v2, v3))


@formula(4)
def _add_products(r, s0, s1, s2, s3, v0, v1, v2, v3):
    """s + r v."""
    return fma(r, v0, s0), fma(r, v1, s1), fma(r, v2, s2), fma(r, v3, s3)


@step(inline=True)
def sum_ratios(block, n_entries, ratios, wide, sums, low, high):
    """sums_k = sum r v_k over the strip, r the ratios x / y."""
    for k in range(low, high, QUAD):
        b = (k - low) * n_entries
        s0 = s1 = s2 = s3 = simd.zero(ratios)
        t0 = t1 = t2 = t3 = 0.0
        for first in range(0, n_entries, FLUSH_EVERY):
            for e in range(first, min(first + FLUSH_EVERY, n_entries)):
                v0, v1, v2, v3 = lanes.load_quad(block, b + e, n_entries)
                s0, s1, s2, s3 = _add_products(simd.load(ratios, e, 0), s0, s1, s2, s3, v0, v1, v2, v3)
            if wide:
                t0, t1, t2, t3 = t0 + simd.total(s0), t1 + simd.total(s1), t2 + simd.total(s2), t3 + simd.total(s3)
                s0 = s1 = s2 = s3 = simd.zero(ratios)
        if wide:
            s0, s1, s2, s3 = (
                simd.fill_like(s0, t0), simd.fill_like(s0, t1), simd.fill_like(s0, t2), simd.fill_like(s0, t3),
            )  # fmt: skip
        lanes.store_quad(sums, k, 1, (s0, s1, s2, s3))


@formula()
def _carried(y, moved, v):
    """The rates after a coordinate has moved."""
    return maximum(fma(moved, v, y), y * _LEFT)


@step(inline=True)
def carry(block, past, moved, rates, n_entries):
    """Carry the last move of a strip into the rates."""
    for e in range(n_entries):
        y = _carried(simd.load(rates, e, 0), moved, simd.load(block, past + e, 0))
        simd.store(rates, e, 0, y)


@formula(2)
def _add_derivatives(g, c, x, y, v):
    """What an entry adds to the ratio sum and to the curvature."""
    w = v / y
    xw = x * w
    return g + xw, fma(xw, w, c)


@step(inline=True)
def visit(block, b, past, moved, counts, rates, n_entries, wide):
    """As `carry`, and in the same go sum what the next coordinate needs: g and c."""
    g = c = simd.zero(counts)
    safe_g = safe_c = 0.0
    for first in range(0, n_entries, FLUSH_EVERY):
        for e in range(first, min(first + FLUSH_EVERY, n_entries)):
            y = _carried(simd.load(rates, e, 0), moved, simd.load(block, past + e, 0))
            simd.store(rates, e, 0, y)
            g, c = _add_derivatives(g, c, simd.load(counts, e, 0), y, simd.load(block, b + e, 0))
        if wide:
            safe_g, safe_c = safe_g + simd.total(g), safe_c + simd.total(c)
            g = c = simd.zero(counts)
    if wide:
        g, c = simd.fill_like(g, safe_g), simd.fill_like(c, safe_c)
    return g, c
