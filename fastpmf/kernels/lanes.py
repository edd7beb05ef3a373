"""More operations on vectors, for kernels that lay stored entries, not components, along the lanes.

A Tile of one vector here holds one number for each of `lanes_of` entries: sixteen in float32, eight in float64. As in
`simd`, each operation has a NumPy meaning, which runs with the JIT off, and the LLVM instructions that it becomes.
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from fastpmf.kernels._llvm import (
    FLOATS,
    I64,
    VECTOR_BYTES,
    Tile,
    check_store,
    constant,
    element_pointer,
    load_vector,
    log_lanes,
    operation,
    row_pointer,
    shuffle,
    vector,
)
from fastpmf.kernels.simd import fold_lanes, store_vector

QUAD = 4  # components that are transposed at once


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
    check_store(out, tiles.dtype)

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


@operation(lambda A, i, stride: tuple(A[i + c * stride].copy() for c in range(QUAD)))
def load_quad(typingctx, A, i, stride):
    """load_quad(A, i, stride) -> four Tiles of one vector, rows i, i + stride, i + 2 stride and i + 3 stride of A."""
    tile = Tile(A.dtype, 1)

    def emit(context, builder, signature, args):
        tiles = []
        for c in range(QUAD):
            i_ = builder.add(args[1], builder.mul(I64(c), args[2]))
            row = row_pointer(context, builder, signature.args[0], args[0], i_)
            out = ir.Constant(context.get_value_type(tile), ir.Undefined)
            tiles.append(builder.insert_value(out, load_vector(builder, row, A.dtype, 0), 0))
        return context.make_tuple(builder, types.UniTuple(tile, QUAD), tiles)

    return types.UniTuple(tile, QUAD)(A, types.intp, types.intp), emit


def _store_quad_meaning(A, i, stride, tiles):
    for c, tile in enumerate(tiles):
        A[i + c * stride] = tile


@operation(_store_quad_meaning)
def store_quad(typingctx, A, i, stride, tiles):
    """store_quad(A, i, stride, tiles): rows i, i + stride, i + 2 stride and i + 3 stride of A become the tiles."""
    check_store(A, tiles.dtype)

    def emit(context, builder, signature, args):
        for c, tile in enumerate(cgutils.unpack_tuple(builder, args[3], QUAD)):
            i_ = builder.add(args[1], builder.mul(I64(c), args[2]))
            row = row_pointer(context, builder, signature.args[0], args[0], i_)
            store_vector(builder, row, A.dtype, 0, builder.extract_value(tile, 0))
        return context.get_dummy_value()

    return types.void(A, types.intp, types.intp, tiles), emit


# Sums in float64 of pieces of rows, see `simd.pieces`


def _sums_of(A, n_vectors):
    return Tile(types.float64, (n_vectors.n_vectors or 1) * 64 // A.dtype.bitwidth)


def _place_of_sums(A, piece, n_vectors, like):
    size = (n_vectors.n_vectors or 1) * VECTOR_BYTES // like.itemsize
    return slice(piece * size, (piece + 1) * size)


@operation(lambda sums, i, piece, n_vectors, like: sums[i, _place_of_sums(sums, piece, n_vectors, like)].copy())
def load_sums(typingctx, sums, i, piece, n_vectors, like):
    """load_sums(sums, i, piece, n_vectors, like) -> Tile of float64, the sums of a piece of rows of `like`."""
    tile = _sums_of(like, n_vectors)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        out = ir.Constant(context.get_value_type(tile), ir.Undefined)
        first = builder.mul(args[2], I64(tile.n_vectors))
        for v in range(tile.n_vectors):
            out = builder.insert_value(out, load_vector(builder, row, types.float64, builder.add(first, I64(v))), v)
        return out

    return tile(sums, types.intp, types.intp, n_vectors, like), emit


def _store_sums_meaning(sums, i, piece, tile):
    sums[i, piece * len(tile) : (piece + 1) * len(tile)] = tile


@operation(_store_sums_meaning)
def store_sums(typingctx, sums, i, piece, tile):
    """store_sums(sums, i, piece, tile): the sums of a piece of rows become the tile, of float64."""
    check_store(sums, tile)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        first = builder.mul(args[2], I64(tile.n_vectors))
        for v in range(tile.n_vectors):
            store_vector(builder, row, types.float64, builder.add(first, I64(v)), builder.extract_value(args[3], v))
        return context.get_dummy_value()

    return types.void(sums, types.intp, types.intp, tile), emit


@operation(lambda sums, tile: sums + tile)
def add_sums(typingctx, sums, tile):
    """add_sums(sums, tile) -> Tile of float64, sums + tile."""

    def emit(context, builder, signature, args):
        per_vector, parts = VECTOR_BYTES // 8, []
        for v in range(tile.n_vectors):
            x = builder.extract_value(args[1], v)
            if tile.dtype is types.float64:
                parts.append(x)
            else:
                halves = list(range(per_vector)), list(range(per_vector, 2 * per_vector))
                wide = ir.VectorType(ir.DoubleType(), per_vector)
                parts += [builder.fpext(shuffle(builder, x, x, half), wide) for half in halves]
        out = args[0]
        for v, part in enumerate(parts):
            out = builder.insert_value(out, builder.fadd(builder.extract_value(out, v), part), v)
        return out

    return sums(sums, tile), emit


def _add_meaning(total, i, v, tile):
    total[i, v * len(tile) : (v + 1) * len(tile)] += tile


@operation(_add_meaning)
def add_to_row(typingctx, total, i, v, tile):
    """add_to_row(total, i, v, tile): the v-th part of row i of total, float64 and as long as the tile, grows by it."""
    check_store(total, tile, types.float64)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        wide = ir.VectorType(ir.DoubleType(), vector(tile.dtype).count)
        first = builder.mul(args[2], I64(tile.n_vectors))
        for v in range(tile.n_vectors):
            more = builder.extract_value(args[3], v)
            more = more if more.type == wide else builder.fpext(more, wide)
            place = builder.gep(builder.bitcast(row, wide.as_pointer()), [builder.add(first, I64(v))])
            builder.store(builder.fadd(builder.load(place, align=8), more), place, align=8)
        return context.get_dummy_value()

    return types.void(total, types.intp, types.intp, tile), emit


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
