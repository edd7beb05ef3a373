"""More operations on vectors, for kernels that lay stored entries, not components, along the lanes.

A Tile of one vector here holds one number for each of LANES entries: sixteen in float32, eight in float64. As in
`simd`, each operation has a NumPy meaning, which runs with the JIT off, and the LLVM instructions that it becomes.
"""

import operator

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from fastpmf.kernels._llvm import (
    FLOATS,
    I64,
    VECTOR_BYTES,
    Tile,
    call_intrinsic,
    constant,
    element_pointer,
    log_lanes,
    operation,
    row_pointer,
    shuffle,
    vector,
)
from fastpmf.kernels.simd import elementwise, fold_lanes

QUAD = 4  # components that are transposed at once

subtract = elementwise(operator.sub, "fsub")


def _each(builder, tile, emit, *args):
    """Apply `emit` to each vector of the tiles `args`."""
    out = args[0]
    for v in range(tile.n_vectors):
        out = builder.insert_value(out, emit(*(builder.extract_value(x, v) for x in args)), v)
    return out


@operation(lambda a, b, c: a * b + c)
def multiply_add(typingctx, a, b, c):
    """multiply_add(a, b, c) -> Tile, a * b + c with one rounding."""

    def emit(context, builder, signature, args):
        return _each(builder, a, lambda x, y, z: call_intrinsic(builder, "fma", x, y, z), *args)

    return a(a, b, c), emit


@operation(np.sqrt)
def root(typingctx, a):
    """root(a) -> Tile, the square root of each element."""

    def emit(context, builder, signature, args):
        return _each(builder, a, lambda x: call_intrinsic(builder, "sqrt", x), *args)

    return a(a), emit


@operation(lambda a, b, x, y: np.where(a > b, x, y))
def where_above(typingctx, a, b, x, y):
    """where_above(a, b, x, y) -> Tile, x where a > b, else y; y where a or b is NaN."""

    def emit(context, builder, signature, args):
        def choose(a, b, x, y):
            return builder.select(builder.fcmp_ordered(">", a, b), x, y)

        return _each(builder, a, choose, *args)

    return a(a, b, x, y), emit


def _transpose_quarters(builder, rows):
    """Transpose, within each quarter of four vectors, the four by four numbers that are there."""
    lanes = rows[0].type.count

    def interleave(a, b, lanes_of_quarter):
        pattern = [q + (lane if lane < QUAD else lane - QUAD + lanes) for q in range(0, lanes, QUAD)
                   for lane in lanes_of_quarter]  # fmt: skip
        return shuffle(builder, a, b, pattern)

    pairs = [[interleave(rows[t], rows[t + 1], half) for t in (0, 2)] for half in ([0, 4, 1, 5], [2, 6, 3, 7])]
    return [interleave(low, high, half) for low, high in pairs for half in ([0, 1, 4, 5], [2, 3, 6, 7])]


def _gather_meaning(V, offsets, e, k, x):
    lanes = len(x)
    columns = V.ravel()[offsets[e * lanes : (e + 1) * lanes, None] + np.arange(k, k + QUAD)]
    return tuple(np.where(x > 0, columns[:, c], 0).astype(V.dtype) for c in range(QUAD))


@operation(_gather_meaning)
def gather_quad(typingctx, V, offsets, e, k, x):
    """gather_quad(V, offsets, e, k, x) -> four Tiles: components k to k + 3 of the rows of V that LANES entries need.

    `offsets` holds, from e * LANES on, where in V each entry's row begins; where the count x is 0 there is no entry,
    and the result is 0. Four rows are read into the four quarters of a vector and so on, then transposed in quarters.
    """
    tile = Tile(V.dtype, 1)

    def emit(context, builder, signature, args):
        V_, offsets_, e_, k_, x_ = args
        whole = vector(V.dtype)
        lanes = whole.count
        data = context.make_array(V)(context, builder, V_).data
        first = builder.mul(e_, I64(lanes))
        quarter = ir.VectorType(FLOATS[V.dtype], QUAD)
        parts = []
        for lane in range(lanes):
            position = builder.add(first, I64(lane))
            offset = builder.load(element_pointer(context, builder, signature.args[1], offsets_, position))
            pointer = builder.bitcast(builder.gep(data, [builder.add(offset, k_)]), quarter.as_pointer())
            parts.append(builder.load(pointer, align=V.dtype.bitwidth // 8))
        rows = []  # rows[t] holds, in quarter q, the four components of entry 4 q + t
        for t in range(QUAD):
            joined = parts[t::QUAD]
            while len(joined) > 1:
                joined = [
                    shuffle(builder, a, b, list(range(2 * a.type.count)))
                    for a, b in zip(joined[::2], joined[1::2], strict=True)
                ]
            rows.append(joined[0])
        there = builder.fcmp_ordered(">", builder.extract_value(x_, 0), constant(whole, 0.0))
        columns = []
        for column in _transpose_quarters(builder, rows):
            out = ir.Constant(context.get_value_type(tile), ir.Undefined)
            columns.append(builder.insert_value(out, builder.select(there, column, constant(whole, 0.0)), 0))
        return context.make_tuple(builder, types.UniTuple(tile, QUAD), columns)

    return types.UniTuple(tile, QUAD)(V, offsets, types.intp, types.intp, x), emit


def _scatter_meaning(out, offsets, n, k, tiles):
    flat = out.reshape(-1)
    for lane in range(n):
        flat[offsets[lane] + k : offsets[lane] + k + QUAD] = [tile[lane] for tile in tiles]


@operation(_scatter_meaning)
def scatter_quad(typingctx, out, offsets, n, k, tiles):
    """scatter_quad(out, offsets, n, k, tiles): components k to k + 3 of the rows that the first n lanes own."""

    def emit(context, builder, signature, args):
        out_, offsets_, n_, k_, tiles_ = args
        data = context.make_array(out)(context, builder, out_).data
        columns = [builder.extract_value(tile, 0) for tile in cgutils.unpack_tuple(builder, tiles_, QUAD)]
        quarter = ir.VectorType(FLOATS[out.dtype], QUAD).as_pointer()
        for t, row in enumerate(_transpose_quarters(builder, columns)):
            for q in range(0, row.type.count, QUAD):
                with builder.if_then(builder.icmp_signed("<", I64(q + t), n_)):
                    offset = builder.load(element_pointer(context, builder, signature.args[1], offsets_, I64(q + t)))
                    pointer = builder.bitcast(builder.gep(data, [builder.add(offset, k_)]), quarter)
                    part = shuffle(builder, row, row, list(range(q, q + QUAD)))
                    builder.store(part, pointer, align=out.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(out, offsets, types.intp, types.intp, tiles), emit


@operation(lambda total, b, tile: total.__setitem__(b, total[b] + tile))
def add_to_row(typingctx, total, b, tile):
    """add_to_row(total, b, tile): row b of total, float64 and as wide as the tile, grows by it."""

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        width = vector(tile.dtype).count
        wide = ir.VectorType(ir.DoubleType(), width)
        pointer = builder.bitcast(row, wide.as_pointer())
        for v in range(tile.n_vectors):
            more = builder.extract_value(args[2], v)
            more = more if more.type == wide else builder.fpext(more, wide)
            place = builder.gep(pointer, [I64(v)])
            builder.store(builder.fadd(builder.load(place, align=8), more), place, align=8)
        return context.get_dummy_value()

    return types.void(total, types.intp, tile), emit


@operation(lambda A, n_vectors: np.zeros(A.shape[1]))
def zeros_wide(typingctx, A, n_vectors):
    """zeros_wide(A, n_vectors) -> Tile of float64 zeros, as wide as a row of A."""
    tile = Tile(types.float64, n_vectors.literal_value * 64 // A.dtype.bitwidth)

    def emit(context, builder, signature, args):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(A, n_vectors), emit


@operation(lambda A, i, n_vectors: A[i].astype(np.float64))
def load_wide(typingctx, A, i, n_vectors):
    """load_wide(A, i, n_vectors) -> Tile of float64, row i of A."""
    width = VECTOR_BYTES // 8
    tile = Tile(types.float64, n_vectors.literal_value * 64 // A.dtype.bitwidth)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        pointer = builder.bitcast(row, ir.VectorType(FLOATS[A.dtype], width).as_pointer())
        out = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for v in range(tile.n_vectors):
            x = builder.load(builder.gep(pointer, [I64(v)]), align=A.dtype.bitwidth // 8)
            wide = ir.VectorType(ir.DoubleType(), width)
            out = builder.insert_value(out, x if x.type == wide else builder.fpext(x, wide), v)
        return out

    return tile(A, types.intp, n_vectors), emit


def _sum_x_log_tile_meaning(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(np.sum(x * np.log(np.where(x > 0, y, 1.0))))


@operation(_sum_x_log_tile_meaning)
def total_x_log(typingctx, x, y):
    """total_x_log(x, y) -> float64, the sum of x log y, in float64; an element with x = 0 adds exactly 0."""

    def emit(context, builder, signature, args):
        wide = Tile(types.float64, 1)
        counts, rates = (builder.extract_value(a, 0) for a in args)
        if x.dtype is not types.float64:
            type_ = ir.VectorType(ir.DoubleType(), counts.type.count)
            counts, rates = builder.fpext(counts, type_), builder.fpext(rates, type_)
        there = builder.fcmp_ordered(">", counts, constant(counts.type, 0.0))
        rates = builder.select(there, rates, constant(rates.type, 1.0))
        return fold_lanes(builder, wide, [builder.fmul(counts, log_lanes(builder, rates))], builder.fadd)

    return types.float64(x, y), emit


@operation(lambda tile, lane: float(tile[lane]))
def lane_of(typingctx, tile, lane):
    """lane_of(tile, lane) -> float64, one element of a tile of one vector."""

    def emit(context, builder, signature, args):
        number = builder.extract_element(builder.extract_value(args[0], 0), args[1])
        return number if tile.dtype is types.float64 else builder.fpext(number, ir.DoubleType())

    return types.float64(tile, types.intp), emit


def lanes_of(dtype: np.dtype) -> int:
    """Elements in one 64-byte vector."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize
