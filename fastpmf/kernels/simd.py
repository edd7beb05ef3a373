"""The operations that the hot loops are written in, on 64-byte vectors.

Three kinds of value, defined in `_llvm`: a Tile is one padded factor row or a vector of it, Lanes hold one number for
each of the GROUP stored entries in flight, Rows the row numbers of the factor that those entries gather. Each
operation is given twice: its *meaning*, one NumPy expression that runs when the JIT is off, and the LLVM instructions
that it becomes; arithmetic is in `formula`, once for both. A vector is 64 bytes on every machine; LLVM splits it where
registers are narrower, so the order of every sum, and with it every bit of the result, is the same everywhere.

A kernel that asks for GROUP entries passes the literal and gets straight-line code; one that asks for what is left of
a row passes a number, and the lanes beyond it repeat the last entry with a count of zero. A wide Tile is in memory, and
what is done with it is a loop over its vectors, in the order of the straight-line code.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.np.arrayobj import make_array, populate_array

from fastpmf.kernels._llvm import (
    FLOATS,
    GROUP,
    I32,
    I64,
    VECTOR_BYTES,
    Lanes,
    Rows,
    Tile,
    call_intrinsic,
    check_store,
    constant,
    element_pointer,
    kept_vectors,
    lane_sums,
    load_vector,
    log_lanes,
    operation,
    row_pointer,
    shuffle,
    vector,
    whole,
)

_PREFETCHED = 8  # vectors

# ── vectors and tiles ───────────────────────────────────────────────────────────────────────────────────────────


def _part_of_row(A, v):
    lanes = VECTOR_BYTES // A.itemsize
    return slice(v * lanes, (v + 1) * lanes)


@operation(lambda A: np.zeros(VECTOR_BYTES // A.itemsize, A.dtype))
def zero(typingctx, A):
    """zero(A) -> Tile of one vector, zeros of the dtype of A."""
    tile = Tile(A.dtype, 1)

    def emit(context, builder, signature, args):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(A), emit


@operation(lambda A: A.shape[1] * A.itemsize // VECTOR_BYTES)
def width(typingctx, A):
    """width(A) -> int, the vectors in a row of A."""

    def emit(context, builder, signature, args):
        return wide_row(context, builder, signature.args[0], args[0], I64(0))[1]

    return types.intp(A), emit


@operation(lambda A, i, v: A[i, _part_of_row(A, v)].copy())
def load(typingctx, A, i, v):
    """load(A, i, v) -> Tile of one vector, the v-th of row i of A."""
    tile = Tile(A.dtype, 1)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        out = ir.Constant(context.get_value_type(tile), ir.Undefined)
        return builder.insert_value(out, load_vector(builder, row, tile.dtype, args[2]), 0)

    return tile(A, types.intp, types.intp), emit


def _store_meaning(A, i, v, tile):
    A[i, _part_of_row(A, v)] = tile


@operation(_store_meaning)
def store(typingctx, A, i, v, tile):
    """store(A, i, v, tile): the v-th vector of row i of A becomes the tile, of one vector."""
    check_store(A, tile)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        store_vector(builder, row, tile.dtype, args[2], builder.extract_value(args[3], 0))
        return context.get_dummy_value()

    return types.void(A, types.intp, types.intp, tile), emit


def store_vector(builder: Any, row: Any, dtype: types.Float, v: Any, value: Any) -> None:
    pointer = builder.bitcast(row, vector(dtype).as_pointer())
    builder.store(value, builder.gep(pointer, [I64(v) if isinstance(v, int) else v]), align=dtype.bitwidth // 8)


@operation(lambda A, number: A[number])
def part(typingctx, A, number):
    """part(A, number) -> array, A[number], no copy; number is not negative."""
    out = types.Array(A.dtype, A.ndim - 1, "C", readonly=not A.mutable)

    def emit(context, builder, signature, args):
        array = make_array(signature.args[0])(context, builder, args[0])
        shape = cgutils.unpack_tuple(builder, array.shape, A.ndim)[1:]
        size = args[1]
        for length in shape:
            size = builder.mul(size, length)
        return c_array(context, builder, out, builder.gep(array.data, [size]), shape)

    return out(A, types.intp), emit


@operation(lambda A, n: tuple(A))
def parts(typingctx, A, n):
    """parts(A, n) -> n arrays, `part` of A for each of the n numbers that there are; n is a constant."""
    out = types.Array(A.dtype, A.ndim - 1, "C", readonly=not A.mutable)

    def emit(context, builder, signature, args):
        array = make_array(signature.args[0])(context, builder, args[0])
        shape = cgutils.unpack_tuple(builder, array.shape, A.ndim)[1:]
        views = []
        for number in range(n.literal_value):
            size = I64(number)
            for length in shape:
                size = builder.mul(size, length)
            views.append(c_array(context, builder, out, builder.gep(array.data, [size]), shape))
        return context.make_tuple(builder, signature.return_type, views)

    return types.UniTuple(out, n.literal_value)(A, n), emit


@operation(lambda A, start, length: A[start : start + length])
def section(typingctx, A, start, length):
    """section(A, start, length) -> array, so many elements of an array of one dimension, no copy."""
    out = types.Array(A.dtype, 1, "C", readonly=not A.mutable)

    def emit(context, builder, signature, args):
        array = make_array(signature.args[0])(context, builder, args[0])
        return c_array(context, builder, out, builder.gep(array.data, [args[1]]), [args[2]])

    return out(A, types.intp, types.intp), emit


@operation(lambda A: A.reshape(-1))
def flat(typingctx, A):
    """flat(A) -> array of one dimension, A's elements, no copy."""
    out = types.Array(A.dtype, 1, "C", readonly=not A.mutable)

    def emit(context, builder, signature, args):
        array = make_array(signature.args[0])(context, builder, args[0])
        return c_array(context, builder, out, array.data, [array.nitems])

    return out(A), emit


def c_array(context: Any, builder: Any, type_: types.Array, data: Any, shape: list[Any]) -> Any:
    """A C-ordered array of the elements at an address; it does not own them."""
    array = make_array(type_)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(type_.dtype))
    strides = [I64(itemsize)]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(array, data, shape, strides, itemsize, None)
    return array._getvalue()


# A row in pieces: all of it at once where its number of vectors is known, else one vector after the other, so that one
# text is straight-line code for narrow rows and a loop for others.


def _piece(A, piece, n_vectors):
    size = (n_vectors.n_vectors or 1) * VECTOR_BYTES // A.itemsize
    return slice(piece * size, (piece + 1) * size)


def _piece_of(A, n_vectors):
    return Tile(A.dtype, n_vectors.n_vectors or 1)


@operation(lambda A, n_vectors: 1 if n_vectors.n_vectors else A.shape[1] * A.itemsize // VECTOR_BYTES)
def pieces(typingctx, A, n_vectors):
    """pieces(A, n_vectors) -> int, how many there are in a row of A."""

    def emit(context, builder, signature, args):
        return I64(1) if n_vectors.n_vectors else wide_row(context, builder, signature.args[0], args[0], I64(0))[1]

    return types.intp(A, n_vectors), emit


@operation(lambda n_vectors: n_vectors.n_vectors > 0)
def is_whole(typingctx, n_vectors):
    """is_whole(n_vectors) -> bool, a constant: whether a row is one piece."""

    def emit(context, builder, signature, args):
        return ir.Constant(ir.IntType(1), n_vectors.n_vectors > 0)

    return types.boolean(n_vectors), emit


@operation(lambda A, n_vectors: np.zeros_like(A[0, _piece(A, 0, n_vectors)]))
def zero_piece(typingctx, A, n_vectors):
    """zero_piece(A, n_vectors) -> Tile of zeros."""
    tile = _piece_of(A, n_vectors)

    def emit(context, builder, signature, args):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(A, n_vectors), emit


@operation(lambda A, i, piece, n_vectors: A[i, _piece(A, piece, n_vectors)].copy())
def load_piece(typingctx, A, i, piece, n_vectors):
    """load_piece(A, i, piece, n_vectors) -> Tile, a piece of row i of A."""
    tile = _piece_of(A, n_vectors)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        out = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for v in range(tile.n_vectors):
            place = I64(v) if n_vectors.n_vectors else args[2]
            out = builder.insert_value(out, load_vector(builder, row, tile.dtype, place), v)
        return out

    return tile(A, types.intp, types.intp, n_vectors), emit


def _store_piece_meaning(A, i, piece, n_vectors, tile):
    A[i, _piece(A, piece, n_vectors)] = tile


@operation(_store_piece_meaning)
def store_piece(typingctx, A, i, piece, n_vectors, tile):
    """store_piece(A, i, piece, n_vectors, tile): a piece of row i of A becomes the tile."""
    check_store(A, tile)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        for v in range(tile.n_vectors):
            place = I64(v) if n_vectors.n_vectors else args[2]
            store_vector(builder, row, tile.dtype, place, builder.extract_value(args[4], v))
        return context.get_dummy_value()

    return types.void(A, types.intp, types.intp, n_vectors, tile), emit


def wide_row(context: Any, builder: Any, array_type: Any, array: Any, i: Any) -> tuple[Any, Any]:
    """Address of a row as vectors, and how many there are."""
    row = row_pointer(context, builder, array_type, array, i)
    lanes = vector(array_type.dtype).count
    width = builder.extract_value(make_array(array_type)(context, builder, array).shape, 1)
    return builder.bitcast(row, vector(array_type.dtype).as_pointer()), builder.sdiv(width, I64(lanes))


def _wide_tile(context: Any, builder: Any, tile: Tile, address: Any, n: Any) -> Any:
    out = ir.Constant(context.get_value_type(tile), ir.Undefined)
    return builder.insert_value(builder.insert_value(out, address, 0), n, 1)


@operation(lambda A, i, n_vectors: A[i].copy())
def load_tile(typingctx, A, i, n_vectors):
    """load_tile(A, i, n_vectors) -> Tile, row i of A; a wide one stays where it is."""
    tile = Tile(A.dtype, n_vectors.n_vectors)

    def emit(context, builder, signature, args):
        if not tile.n_vectors:
            return _wide_tile(context, builder, tile, *wide_row(context, builder, signature.args[0], *args[:2]))
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        out = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for v in range(tile.n_vectors):
            out = builder.insert_value(out, load_vector(builder, row, tile.dtype, v), v)
        return out

    return tile(A, types.intp, n_vectors), emit


@operation(lambda A, i, adds, n_vectors: A[i].copy() if adds else np.zeros_like(A[i]))
def accumulator(typingctx, A, i, adds, n_vectors):
    """accumulator(A, i, adds, n_vectors) -> Tile to sum in and to store in row i of A: that row if adds, else zeros.

    A wide one is row i itself.
    """
    tile = Tile(A.dtype, n_vectors.n_vectors)
    check_store(A, tile)

    def emit(context, builder, signature, args):
        zeros = ir.Constant(vector(tile.dtype), None)
        adds_ = builder.icmp_signed("!=", args[2], I64(0))
        if not tile.n_vectors:
            address, n = wide_row(context, builder, signature.args[0], *args[:2])
            with builder.if_then(builder.not_(adds_)), cgutils.for_range(builder, n) as loop:
                builder.store(zeros, builder.gep(address, [loop.index]), align=tile.dtype.bitwidth // 8)
            return _wide_tile(context, builder, tile, address, n)
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        out = cgutils.alloca_once_value(builder, ir.Constant(context.get_value_type(tile), None))
        with builder.if_then(adds_):
            value = builder.load(out)
            for v in range(tile.n_vectors):
                value = builder.insert_value(value, load_vector(builder, row, tile.dtype, v), v)
            builder.store(value, out)
        return builder.load(out)

    return tile(A, types.intp, types.intp, n_vectors), emit


@operation(lambda A, i, tile: A.__setitem__(i, tile))
def store_tile(typingctx, A, i, tile):
    """store_tile(A, i, tile): row i of A becomes the tile; a wide one is an accumulator of this row and is there."""
    check_store(A, tile)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        for v in range(tile.n_vectors):
            store_vector(builder, row, tile.dtype, v, builder.extract_value(args[2], v))
        return context.get_dummy_value()

    return types.void(A, types.intp, tile), emit


def fold_lanes(builder: Any, tile: Tile, vectors: list[Any], combine: Callable) -> Any:
    """One float64 of all lanes of a tile's vectors, by a fixed tree."""
    total = vectors[0]
    for more in vectors[1:]:
        total = combine(total, more)
    width = total.type.count
    while width > 1:
        width //= 2
        low, high = list(range(width)), list(range(width, 2 * width))
        total = combine(shuffle(builder, total, total, low), shuffle(builder, total, total, high))
    scalar = builder.extract_element(total, I32(0))
    return scalar if tile.dtype is types.float64 else builder.fpext(scalar, ir.DoubleType())


@operation(lambda tile: float(tile.sum()))
def total(typingctx, tile):
    """total(tile) -> float64, the sum of a tile in registers, formed in its own dtype."""

    def emit(context, builder, signature, args):
        vectors = [builder.extract_value(args[0], v) for v in range(tile.n_vectors)]
        return fold_lanes(builder, tile, vectors, builder.fadd)

    return types.float64(tile), emit


def _higher(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@operation(lambda tile: float(tile.max()))
def highest(typingctx, tile):
    """highest(tile) -> float64, the largest element."""

    def emit(context, builder, signature, args):
        vectors = [builder.extract_value(args[0], v) for v in range(tile.n_vectors)]
        return fold_lanes(builder, tile, vectors, partial(_higher, builder))

    return types.float64(tile), emit


@operation(lambda tile, number: np.full_like(tile, number))
def fill_like(typingctx, tile, number):
    """fill_like(tile, number) -> Tile, the float64 number in every element."""

    def emit(context, builder, signature, args):
        x = args[1]
        if tile.dtype is types.float32:
            x = builder.fptrunc(x, FLOATS[types.float32])
        whole_vector = vector(tile.dtype)
        one = builder.insert_element(ir.Constant(whole_vector, ir.Undefined), x, I32(0))
        splat = shuffle(builder, one, one, [0] * whole_vector.count)
        out = args[0]
        for v in range(tile.n_vectors):
            out = builder.insert_value(out, splat, v)
        return out

    return tile(tile, types.float64), emit


# ── entries in flight ───────────────────────────────────────────────────────────────────────────────────────────


def positions(builder: Any, n: Any, p: Any, left: Any) -> list[tuple[Any, Any]]:
    """(position, is it there) of each lane; a lane beyond what is left repeats the last entry."""
    lanes = [builder.add(p, I64(q)) for q in range(GROUP)]
    if whole(n):
        return [(position, None) for position in lanes]
    last = builder.sub(builder.add(p, left), I64(1))
    there = [builder.icmp_signed("<=", position, last) for position in lanes]
    return [(builder.select(t, position, last), t) for position, t in zip(lanes, there, strict=True)]


@operation(lambda indices, p, n: indices[np.minimum(np.arange(p, p + GROUP), p + n - 1)])
def rows(typingctx, indices, p, n):
    """rows(indices, p, n) -> Rows, the column indices of the n <= GROUP entries from p on."""

    def emit(context, builder, signature, args):
        out = ir.Constant(ir.ArrayType(I64, GROUP), ir.Undefined)
        for q, (position, _) in enumerate(positions(builder, n, args[1], args[2])):
            j = builder.load(element_pointer(context, builder, signature.args[0], args[0], position))
            out = builder.insert_value(out, builder.zext(j, I64) if j.type.width < 64 else j, q)
        return out

    return Rows()(indices, types.intp, n if whole(n) else types.intp), emit


def _counts_meaning(data, p, n, A):
    out = np.zeros(GROUP, A.dtype)
    out[:n] = data[p : p + n]
    return out


@operation(_counts_meaning)
def counts(typingctx, data, p, n, A):
    """counts(data, p, n, A) -> Lanes in the dtype of A, the n <= GROUP counts from p on, then zeros."""
    lanes = Lanes(A.dtype)

    def emit(context, builder, signature, args):
        stored = context.get_data_type(data.dtype)
        x = ir.Constant(ir.VectorType(stored, GROUP), None)
        if whole(n):
            pointer = element_pointer(context, builder, signature.args[0], args[0], args[1])
            x = builder.load(builder.bitcast(pointer, x.type.as_pointer()), align=data.dtype.bitwidth // 8)
        else:
            for q, (position, there) in enumerate(positions(builder, n, args[1], args[2])):
                value = builder.load(element_pointer(context, builder, signature.args[0], args[0], position))
                value = builder.select(there, value, ir.Constant(stored, 0))
                x = builder.insert_element(x, value, I32(q))
        wanted = context.get_value_type(lanes)
        if x.type == wanted:
            return x
        if isinstance(data.dtype, types.Integer):
            return (builder.sitofp if data.dtype.signed else builder.uitofp)(x, wanted)
        return (builder.fpext if data.dtype.bitwidth < A.dtype.bitwidth else builder.fptrunc)(x, wanted)

    return lanes(data, types.intp, n if whole(n) else types.intp, A), emit


@operation(lambda V, indices, p, n_vectors: None)
def prefetch(typingctx, V, indices, p, n_vectors):
    """prefetch(V, indices, p, n_vectors): ask the memory for the rows of V that GROUP entries from p on will gather.

    Rows of more than `_PREFETCHED` vectors fill the queue of memory requests by themselves.
    """

    def emit(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        signature_ = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        ask = cgutils.get_or_insert_function(builder.module, signature_, "llvm.prefetch.p0")

        if not 0 < n_vectors.n_vectors <= _PREFETCHED:
            return context.get_dummy_value()
        for q in range(GROUP):
            position = builder.add(args[2], I64(q))
            j = builder.load(element_pointer(context, builder, signature.args[1], args[1], position))
            j = builder.zext(j, I64) if j.type.width < 64 else j
            row = builder.bitcast(row_pointer(context, builder, signature.args[0], args[0], j), byte)
            for v in range(n_vectors.n_vectors):
                builder.call(ask, [builder.gep(row, [I64(VECTOR_BYTES * v)]), I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(V, indices, types.intp, n_vectors), emit


def _each_vector(builder: Any, tile: Any, n: Any) -> Iterator[Any]:
    """The number of each vector of a tile: Python's where it is in registers, else that of a loop up to n."""
    if tile.n_vectors:
        yield from range(tile.n_vectors)
    else:
        with cgutils.for_range(builder, n) as loop:
            yield loop.index


def _vector_of(builder: Any, tile: Tile, value: Any, v: Any) -> Any:
    """The v-th vector of a tile."""
    if tile.n_vectors:
        return builder.extract_value(value, v)
    return builder.load(builder.gep(builder.extract_value(value, 0), [v]), align=tile.dtype.bitwidth // 8)


def _count_of(builder: Any, tile: Tile, value: Any) -> Any:
    """Vectors of a wide tile; None of another, whose type says it."""
    return None if tile.n_vectors else builder.extract_value(value, 1)


@operation(lambda u, V, rows, A: (V[rows].astype(A.dtype) * u.astype(A.dtype)).sum(axis=1))
def dots(typingctx, u, V, rows, A):
    """dots(u, V, rows, A) -> Lanes, the products u . V[j] formed and summed in the dtype of A."""
    lanes = Lanes(A.dtype)

    def emit(context, builder, signature, args):
        wide = ir.VectorType(FLOATS[A.dtype], vector(u.dtype).count)

        def widen(x):
            return x if x.type == wide else builder.fpext(x, wide)

        pointers = [
            row_pointer(context, builder, signature.args[1], args[1], builder.extract_value(args[2], q))
            for q in range(GROUP)
        ]
        sums = [cgutils.alloca_once_value(builder, ir.Constant(wide, None)) for _ in range(GROUP)]
        for v in _each_vector(builder, u, _count_of(builder, u, args[0])):
            a = widen(_vector_of(builder, u, args[0], v))
            for pointer, total in zip(pointers, sums, strict=True):
                b = widen(load_vector(builder, pointer, u.dtype, v))
                first = isinstance(v, int) and v == 0
                more = builder.fmul(a, b) if first else call_intrinsic(builder, "fma", a, b, builder.load(total))
                builder.store(more, total)
        return lane_sums(builder, [builder.load(total) for total in sums])

    return lanes(u, V, rows, A), emit


@operation(lambda tile, weights, V, rows: tile + weights @ V[rows])
def add_rows(typingctx, tile, weights, V, rows):
    """add_rows(tile, weights, V, rows) -> Tile, tile + sum over the entries in flight of weight * V[j]."""

    def emit(context, builder, signature, args):
        out, weight, V_, rows_ = args
        splats = [shuffle(builder, weight, weight, [q] * vector(tile.dtype).count) for q in range(GROUP)]
        pointers, kept = [], 0 < tile.n_vectors <= kept_vectors(context)
        for q in range(GROUP):
            row = row_pointer(context, builder, signature.args[2], V_, builder.extract_value(rows_, q))
            if not kept:
                # An empty instruction hides that these are the addresses that `dots` has just read.
                row = builder.asm(ir.FunctionType(row.type, [row.type]), "", "=r,0", [row], side_effect=False)
            pointers.append(row)
        for v in _each_vector(builder, tile, _count_of(builder, tile, out)):
            total = _vector_of(builder, tile, out, v)
            for q in range(GROUP):
                row = load_vector(builder, pointers[q], tile.dtype, v)
                total = call_intrinsic(builder, "fma", row, splats[q], total)
            if tile.n_vectors:
                out = builder.insert_value(out, total, v)
            else:
                place = builder.gep(builder.extract_value(out, 0), [v])
                builder.store(total, place, align=tile.dtype.bitwidth // 8)
        return out

    return tile(tile, weights, V, rows), emit


def _scatter_meaning(T, weights, rows, u):
    for weight, j in zip(weights, rows, strict=True):
        T[j] += weight * u


@operation(_scatter_meaning)
def scatter_rows(typingctx, T, weights, rows, u):
    """scatter_rows(T, weights, rows, u): T[j] += weight * u for the entries in flight in their order, rounded once."""
    check_store(T, u)

    def emit(context, builder, signature, args):
        T_, weight, rows_, u_ = args
        for q in range(GROUP):
            splat = shuffle(builder, weight, weight, [q] * vector(u.dtype).count)
            row = row_pointer(context, builder, signature.args[0], T_, builder.extract_value(rows_, q))
            for v in _each_vector(builder, u, _count_of(builder, u, u_)):
                old = load_vector(builder, row, u.dtype, v)
                new = call_intrinsic(builder, "fma", _vector_of(builder, u, u_, v), splat, old)
                store_vector(builder, row, u.dtype, v, new)
        return context.get_dummy_value()

    return types.void(T, weights, rows, u), emit


def _sum_x_log_meaning(total, x, y):
    return total + float(np.sum(x * np.log(np.where(x > 0, y, 1.0))))


@operation(_sum_x_log_meaning)
def sum_x_log(typingctx, total, x, y):
    """sum_x_log(total, x, y) -> float64, total + sum over the lanes of x log y; a lane with x = 0 adds exactly 0."""

    def emit(context, builder, signature, args):
        total, x, y = args
        y = builder.select(builder.fcmp_unordered("==", x, constant(x.type, 0.0)), constant(x.type, 1.0), y)
        terms = builder.fmul(x, log_lanes(builder, y))
        low, high = shuffle(builder, terms, terms, [0, 1]), shuffle(builder, terms, terms, [2, 3])
        pair = builder.fadd(low, high)
        lane = [builder.extract_element(pair, I32(q)) for q in (0, 1)]
        return builder.fadd(total, builder.fadd(*lane))

    return types.float64(types.float64, x, y), emit
