"""The operations that kernels are written in, on 64-byte vectors; arithmetic is in `formula` and `special`.

Two kinds of value, defined in `_llvm`: a Tile is some vectors of a factor row, and Lanes hold one number for each of
the GROUP stored entries in flight. Each operation is given twice: its *meaning*, one NumPy expression that runs when
the JIT is off, and the LLVM instructions that it becomes. A vector has 64 bytes on every machine, and LLVM splits it
where registers are narrower. So the order of every sum, and with it every bit of the result, is the same everywhere.

Where an operation takes `which`, an int is the number of a vector in a row, and a Width the whole row. A row with too
many vectors for registers (Width 0) stays in memory, and what is done with it is a loop over its vectors, in the same
order. `chunk` makes one text serve both: straight-line code for narrow rows, a loop over vectors for others.

A kernel that processes GROUP entries passes the literal and gets straight-line code. For the last entries of a row it
passes their number, and the lanes beyond them repeat the last entry with a count of zero.
"""

from functools import partial
from operator import iadd, setitem
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from fastpmf.kernels._llvm import (
    FLOATS,
    GROUP,
    I32,
    I64,
    VECTOR_BYTES,
    Array,
    Lanes,
    Tile,
    Vectors,
    View,
    Width,
    call_intrinsic,
    check_store,
    constant,
    fold,
    halves,
    lane_sums,
    load_vector,
    operation,
    shuffle,
    splat,
    store_vector,
    vector,
    widen,
)

QUAD = 4  # components that are transposed at once
_PREFETCHED = 8  # vectors


def lanes_of(dtype: np.dtype) -> int:
    """Elements in one 64-byte vector."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


# ── views of arrays ─────────────────────────────────────────────────────────────────────────────────────────────


@operation(lambda A, i: A[i])
def subarray(A, i):
    """subarray(A, i) -> array, A[i] without a copy."""
    type_ = View(A.dtype, A.ndim - 1, mutable=A.mutable)
    return type_(A, types.intp), lambda context, builder, A, i: _subarray(type_, A, i)


@operation(lambda A, n: tuple(A))
def subarrays(A, n):
    """subarrays(A, n) -> n arrays, A[0] to A[n - 1] without a copy; n is a constant, the length of A."""
    type_ = View(A.dtype, A.ndim - 1, mutable=A.mutable)

    def emit(context, builder, A, _):
        return [_subarray(type_, A, I64(i)) for i in range(n.literal_value)]

    return types.UniTuple(type_, n.literal_value)(A, n), emit


def _subarray(type_: View, A: Array, i: Any) -> Any:
    position, shape = i, A.shape[1:]
    for length in shape:
        position = A.builder.mul(position, length)
    return A.part(type_, position, shape)


@operation(lambda A, start, length: A.reshape(-1)[start : start + length])
def section(A, start, length):
    """section(A, start, length) -> array of one dimension, so many elements of A in memory order, without a copy."""
    type_ = View(A.dtype, 1, mutable=A.mutable)

    def emit(context, builder, A, start, length):
        return A.part(type_, start, [length])

    return type_(A, types.intp, types.intp), emit


# ── factor rows ─────────────────────────────────────────────────────────────────────────────────────────────────


@operation(lambda A: A.shape[1] // lanes_of(A.dtype))
def width(A):
    """width(A) -> int, the number of vectors in a row of A."""
    return types.intp(A), lambda context, builder, A: A.n_vectors


@operation(lambda A, n_vectors: 1 if n_vectors.n_vectors else A.shape[1] // lanes_of(A.dtype))
def n_chunks(A, n_vectors):
    """n_chunks(A, n_vectors) -> int, chunks of a row of A: one if its width is known, else its vectors."""
    return types.intp(A, n_vectors), lambda context, builder, A, _: I64(1) if n_vectors.n_vectors else A.n_vectors


@operation(lambda n_vectors: n_vectors.n_vectors > 0)
def is_one_chunk(n_vectors):
    """is_one_chunk(n_vectors) -> bool, a constant: whether a row is one chunk."""
    return types.boolean(n_vectors), lambda context, builder, _: ir.Constant(ir.IntType(1), n_vectors.n_vectors > 0)


@operation(lambda number, n_vectors: n_vectors if n_vectors.n_vectors else number)
def chunk(number, n_vectors):
    """chunk(number, n_vectors) -> a chunk of a row, as `load` and others take it."""
    type_ = n_vectors if n_vectors.n_vectors else types.intp

    def emit(context, builder, number, _):
        return None if n_vectors.n_vectors else number

    return type_(types.intp, n_vectors), emit


def _columns(A, which):
    lanes = lanes_of(A.dtype)
    return slice(None) if isinstance(which, Width) else slice(which * lanes, (which + 1) * lanes)


def _tile(A, which):
    return Tile(A.dtype, which.n_vectors if isinstance(which, Width) else 1)


def _argument(which):
    return which if isinstance(which, Width) else types.intp


def _places(builder, which, number, n_vectors):
    """Number in its row of each of the n_vectors of a tile."""
    if isinstance(which, Width):
        return range(n_vectors)
    return [builder.add(builder.mul(number, I64(n_vectors)), I64(v)) for v in range(n_vectors)]


@operation(lambda A, which: np.zeros_like(A[0, _columns(A, which)]))
def zero(A, which):
    """zero(A, which) -> Tile of zeros, like `load(A, i, which)`."""
    tile = _tile(A, which)

    def emit(context, builder, A, _):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(A, _argument(which)), emit


@operation(lambda A, i, which: A[i, _columns(A, which)].copy())
def load(A, i, which):
    """load(A, i, which) -> Tile, a vector of row i of A or the whole row; if that has Width 0, it stays in memory."""
    tile = _tile(A, which)

    def emit(context, builder, A, i, number):
        row = A.row(i)
        if not tile.n_vectors:
            return _in_memory(context, builder, tile, row, A.n_vectors)
        return [load_vector(builder, row, v) for v in _places(builder, which, number, tile.n_vectors)]

    return tile(A, types.intp, _argument(which)), emit


@operation(lambda A, i, which, tile: setitem(A, (i, _columns(A, which)), tile))
def store(A, i, which, tile):
    """store(A, i, which, tile): store a tile in row i of A; nothing to do for an `accumulator` in memory."""
    check_store(A, tile.dtype)

    def emit(context, builder, A, i, number, vectors):
        row = A.row(i)
        for v, x in zip(_places(builder, which, number, tile.n_vectors), vectors, strict=True):
            store_vector(builder, row, v, x)

    return types.void(A, types.intp, _argument(which), tile), emit


def _vector_row(builder: Any, A: Array, i: Any) -> Any:
    """Address of row i of an array with rows of one vector, whose length is known to the compiler."""
    start = A.element(builder.mul(i, I64(vector(A.dtype).count)))
    return builder.bitcast(start, vector(A.dtype).as_pointer())


@operation(lambda A, i: A[i].copy())
def read(A, i):
    """read(A, i) -> Tile, row i of an array with rows of one vector."""
    return Tile(A.dtype, 1)(A, types.intp), lambda context, builder, A, i: [
        load_vector(builder, _vector_row(builder, A, i), 0)
    ]


@operation(lambda A, i, tile: setitem(A, i, tile))
def write(A, i, tile):
    """write(A, i, tile): store a tile of one vector in row i of an array with rows of one vector."""
    check_store(A, tile.dtype)

    def emit(context, builder, A, i, vectors):
        store_vector(builder, _vector_row(builder, A, i), 0, vectors[0])

    return types.void(A, types.intp, tile), emit


def _in_memory(context: Any, builder: Any, tile: Tile, address: Any, n_vectors: Any) -> Any:
    out = ir.Constant(context.get_value_type(tile), ir.Undefined)
    return builder.insert_value(builder.insert_value(out, address, 0), n_vectors, 1)


@operation(lambda A, i, adds, n_vectors: A[i].copy() if adds else np.zeros_like(A[i]))
def accumulator(A, i, adds, n_vectors):
    """accumulator(A, i, adds, n_vectors) -> Tile to sum in and to store in row i of A: that row if adds, else zeros.

    With Width 0 it is row i itself.
    """
    tile = Tile(A.dtype, n_vectors.n_vectors)
    check_store(A, tile.dtype)

    def emit(context, builder, A, i, adds, _):
        row, adds = A.row(i), builder.icmp_signed("!=", adds, I64(0))
        if not tile.n_vectors:
            n_vectors = A.n_vectors
            with builder.if_then(builder.not_(adds)), cgutils.for_range(builder, n_vectors) as loop:
                store_vector(builder, row, loop.index, ir.Constant(vector(tile.dtype), None))
            return _in_memory(context, builder, tile, row, n_vectors)
        out = cgutils.alloca_once_value(builder, ir.Constant(context.get_value_type(tile), None))
        with builder.if_then(adds):
            vectors = Vectors(builder, tile, builder.load(out))
            for v in range(tile.n_vectors):
                vectors[v] = load_vector(builder, row, v)
            builder.store(vectors.value, out)
        return builder.load(out)

    return tile(A, types.intp, types.intp, n_vectors), emit


@operation(lambda A, i: A[i].fill(0))
def clear_row(A, i):
    """clear_row(A, i): set row i of A to zeros."""
    check_store(A, A.dtype)

    def emit(context, builder, A, i):
        size = builder.mul(A.n_vectors, I64(VECTOR_BYTES))
        cgutils.memset(builder, A.row(i), size, 0)

    return types.void(A, types.intp), emit


@operation(lambda tile: float(tile.sum()))
def total(tile):
    """total(tile) -> float64, the sum of a tile in registers or of Lanes, formed in its own dtype."""

    def emit(context, builder, x):
        return fold(builder, [x] if isinstance(tile, Lanes) else list(x), builder.fadd)

    return types.float64(tile), emit


def _higher(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@operation(lambda tile: float(tile.max()))
def highest(tile):
    """highest(tile) -> float64, the largest element."""

    def emit(context, builder, vectors):
        return fold(builder, list(vectors), partial(_higher, builder))

    return types.float64(tile), emit


@operation(lambda tile, number: np.full_like(tile, number))
def fill_like(tile, number):
    """fill_like(tile, number) -> Tile, the float64 number in every element."""

    def emit(context, builder, _, number):
        return [splat(builder, vector(tile.dtype), number)] * tile.n_vectors

    return tile(tile, types.float64), emit


# ── float64 sums of factor rows ─────────────────────────────────────────────────────────────────────────────────


@operation(lambda tile: tile.astype(np.float64))
def as_float64(tile):
    """as_float64(tile) -> Tile of float64, the same numbers."""
    out = Tile(types.float64, tile.n_vectors * 64 // tile.dtype.bitwidth)
    return out(tile), lambda context, builder, vectors: [wide for x in vectors for wide in widen(builder, x)]


@operation(lambda sums, i, which, like: sums[i, _columns(like, which)].copy())
def load_sums(sums, i, which, like):
    """load_sums(sums, i, which, like) -> Tile of float64, the sums in row i that belong to `load(like, ..., which)`."""
    tile = Tile(types.float64, _tile(like, which).n_vectors * 64 // like.dtype.bitwidth)

    def emit(context, builder, sums, i, number, _):
        row = sums.row(i)
        return [load_vector(builder, row, v) for v in _places(builder, which, number, tile.n_vectors)]

    return tile(sums, types.intp, _argument(which), like), emit


def _sum_columns(which, tile):
    return slice(None) if isinstance(which, Width) else slice(which * len(tile), (which + 1) * len(tile))


@operation(lambda sums, i, which, tile: setitem(sums, (i, _sum_columns(which, tile)), tile))
def store_sums(sums, i, which, tile):
    """store_sums(sums, i, which, tile): store what `load_sums` loads."""
    check_store(sums, tile.dtype)

    def emit(context, builder, sums, i, number, vectors):
        row = sums.row(i)
        for v, x in zip(_places(builder, which, number, tile.n_vectors), vectors, strict=True):
            store_vector(builder, row, v, x)

    return types.void(sums, types.intp, _argument(which), tile), emit


@operation(lambda sums, i, which, tile: iadd(sums[i, _sum_columns(which, tile)], tile))
def add_to_sums(sums, i, which, tile):
    """add_to_sums(sums, i, which, tile): add a tile, as float64, to the sums in row i that belong to it."""
    check_store(sums, types.float64)

    def emit(context, builder, sums, i, number, vectors):
        row, wide = sums.row(i), [part for x in vectors for part in widen(builder, x)]
        for v, x in zip(_places(builder, which, number, len(wide)), wide, strict=True):
            store_vector(builder, row, v, builder.fadd(load_vector(builder, row, v), x))

    return types.void(sums, types.intp, _argument(which), tile), emit


# ── entries in flight ───────────────────────────────────────────────────────────────────────────────────────────


def _is_group(n: types.Type) -> bool:
    """Whether `n` is the literal GROUP, so that no lane is to be masked."""
    return isinstance(n, types.Literal) and n.literal_value == GROUP


def _positions(builder: Any, n: types.Type, p: Any, n_left: Any) -> list[tuple[Any, Any]]:
    """(position, whether there is an entry) of each lane; a lane beyond the last entry repeats it."""
    lanes = [builder.add(p, I64(q)) for q in range(GROUP)]
    if _is_group(n):
        return [(position, None) for position in lanes]
    last = builder.sub(builder.add(p, n_left), I64(1))
    exists = [builder.icmp_signed("<=", position, last) for position in lanes]
    return [(builder.select(e, position, last), e) for position, e in zip(lanes, exists, strict=True)]


@operation(lambda indices, p, n: indices[np.minimum(np.arange(p, p + GROUP), p + n - 1)])
def rows(indices, p, n):
    """rows(indices, p, n) -> tuple, the column indices of the n <= GROUP entries from p on, which are rows of V."""

    def emit(context, builder, indices, p, n_left):
        return [indices.load_element(position) for position, _ in _positions(builder, n, p, n_left)]

    return types.UniTuple(types.intp, GROUP)(indices, types.intp, n if _is_group(n) else types.intp), emit


def _counts_meaning(data, p, n, A):
    out = np.zeros(GROUP, A.dtype)
    out[:n] = data[p : p + n]
    return out


@operation(_counts_meaning)
def counts(data, p, n, A):
    """counts(data, p, n, A) -> Lanes in the dtype of A, the n <= GROUP counts from p on, then zeros."""
    lanes, stored = Lanes(A.dtype), data.dtype

    def emit(context, builder, data, p, n_left, _):
        element = context.get_data_type(stored)
        x = ir.Constant(ir.VectorType(element, GROUP), None)
        if _is_group(n):
            x = builder.load(builder.bitcast(data.element(p), x.type.as_pointer()), align=stored.bitwidth // 8)
        else:
            for q, (position, exists) in enumerate(_positions(builder, n, p, n_left)):
                value = builder.select(exists, builder.load(data.element(position)), ir.Constant(element, 0))
                x = builder.insert_element(x, value, I32(q))
        type_ = context.get_value_type(lanes)
        if x.type == type_:
            return x
        if isinstance(stored, types.Integer):
            return (builder.sitofp if stored.signed else builder.uitofp)(x, type_)
        return (builder.fpext if stored.bitwidth < lanes.dtype.bitwidth else builder.fptrunc)(x, type_)

    return lanes(data, types.intp, n if _is_group(n) else types.intp, A), emit


@operation(lambda V, indices, p, n_vectors: None)
def prefetch(V, indices, p, n_vectors):
    """prefetch(V, indices, p, n_vectors): request the rows of V that the GROUP entries from p on will read.

    Rows of more than `_PREFETCHED` vectors fill the queue of memory requests by themselves.
    """

    def emit(context, builder, V, indices, p, _):
        if not 0 < n_vectors.n_vectors <= _PREFETCHED:
            return
        byte = ir.IntType(8).as_pointer()
        signature = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        request = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        for q in range(GROUP):
            row = builder.bitcast(V.row(indices.load_element(builder.add(p, I64(q)))), byte)
            for v in range(n_vectors.n_vectors):
                builder.call(request, [builder.gep(row, [I64(VECTOR_BYTES * v)]), I32(0), I32(3), I32(1)])

    return types.void(V, indices, types.intp, n_vectors), emit


@operation(lambda u, V, rows, A: (V[rows].astype(A.dtype) * u.astype(A.dtype)).sum(axis=1))
def dots(u, V, rows, A):
    """dots(u, V, rows, A) -> Lanes, the products u . V[j] formed and summed in the dtype of A."""
    lanes = Lanes(A.dtype)
    wide = ir.VectorType(FLOATS[A.dtype], vector(u.dtype).count)

    def emit(context, builder, u, V, rows, _):
        def cast(x):
            return x if x.type == wide else builder.fpext(x, wide)

        others = [V.row(j) for j in rows]
        sums = [cgutils.alloca_once_value(builder, ir.Constant(wide, None)) for _ in range(GROUP)]
        for v in u.numbers():
            a = cast(u[v])
            for row, total in zip(others, sums, strict=True):
                b = cast(load_vector(builder, row, v))
                is_first = isinstance(v, int) and v == 0
                x = builder.fmul(a, b) if is_first else call_intrinsic(builder, "fma", a, b, builder.load(total))
                builder.store(x, total)
        return lane_sums(builder, [builder.load(total) for total in sums])

    return lanes(u, V, rows, A), emit


def _vectors_in_registers(context: Any) -> int:
    """Vectors up to which the rows of a group stay in registers between their dot products and their use.

    GROUP rows, what they are multiplied by and their sum fit into the 32 registers of AVX-512, of a vector each, up to
    4; into the fewer bytes of AVX2 and NEON if a row is a single vector. Wider rows are read again from the first-level
    cache, which is cheaper than if LLVM spilled them.
    """
    *_, features = context.codegen().magic_tuple()
    return 4 if "+avx512f" in features.split(",") else 1


@operation(lambda tile, weights, V, rows: tile + weights @ V[rows])
def add_rows(tile, weights, V, rows):
    """add_rows(tile, weights, V, rows) -> Tile, tile + sum over the entries in flight of weight * V[j]."""

    def emit(context, builder, out, weights, V, rows):
        splats = [shuffle(builder, weights, weights, [q] * vector(tile.dtype).count) for q in range(GROUP)]
        others = [V.row(j) for j in rows]
        if not 0 < tile.n_vectors <= _vectors_in_registers(context):
            # An empty instruction hides that these are the addresses that `dots` has just read
            pointer = others[0].type
            hide = ir.FunctionType(pointer, [pointer])
            others = [builder.asm(hide, "", "=r,0", [row], side_effect=False) for row in others]
        for v in out.numbers():
            total = out[v]
            for row, weight in zip(others, splats, strict=True):
                total = call_intrinsic(builder, "fma", load_vector(builder, row, v), weight, total)
            out[v] = total
        return out

    return tile(tile, weights, V, rows), emit


def _scatter_rows_meaning(T, weights, rows, u):
    for weight, j in zip(weights, rows, strict=True):
        T[j] += weight * u


@operation(_scatter_rows_meaning)
def scatter_rows(T, weights, rows, u):
    """scatter_rows(T, weights, rows, u): T[j] += weight * u for the entries in flight in their order, rounded once."""
    check_store(T, u.dtype)

    def emit(context, builder, T, weights, rows, vectors):
        for q, j in enumerate(rows):
            weight, row = shuffle(builder, weights, weights, [q] * vector(u.dtype).count), T.row(j)
            for v in vectors.numbers():
                new = call_intrinsic(builder, "fma", vectors[v], weight, load_vector(builder, row, v))
                store_vector(builder, row, v, new)

    return types.void(T, weights, rows, u), emit


# ── entries along the lanes: four components of as many rows as a vector has lanes ──────────────────────────────


def _transpose_quarters(builder, rows):
    """Transpose, within each quarter of four vectors, the four by four numbers."""
    lanes = rows[0].type.count

    def interleave(a, b, lanes_of_quarter):
        pattern = [q + (lane if lane < QUAD else lane - QUAD + lanes) for q in range(0, lanes, QUAD)
                   for lane in lanes_of_quarter]  # fmt: skip
        return shuffle(builder, a, b, pattern)

    pairs = [[interleave(rows[t], rows[t + 1], half) for t in (0, 2)] for half in ([0, 4, 1, 5], [2, 6, 3, 7])]
    return [interleave(low, high, half) for low, high in pairs for half in ([0, 1, 4, 5], [2, 3, 6, 7])]


def _gather_quad_meaning(V, offsets, e, k, x):
    lanes = len(x)
    columns = V.ravel()[offsets[e * lanes : (e + 1) * lanes, None] + np.arange(k, k + QUAD)]
    return tuple(np.where(x > 0, columns[:, c], 0).astype(V.dtype) for c in range(QUAD))


@operation(_gather_quad_meaning)
def gather_quad(V, offsets, e, k, x):
    """gather_quad(V, offsets, e, k, x) -> four Tiles: components k to k + 3 of the rows of V of a vector of entries.

    `offsets` holds, from e times the number of lanes on, where in V each entry's row begins. Where the count x is 0
    there is no entry, and the result is 0. Four rows are read into the four quarters of a vector and so on, then
    transposed in quarters.
    """
    tile, whole = Tile(V.dtype, 1), vector(V.dtype)

    def emit(context, builder, V, offsets, e, k, x):
        first = builder.mul(e, I64(whole.count))
        quarter = ir.VectorType(whole.element, QUAD).as_pointer()
        quarters = []
        start = V.element(k)
        for lane in range(whole.count):
            offset = offsets.load_element(builder.add(first, I64(lane)))
            place = builder.bitcast(builder.gep(start, [offset]), quarter)
            quarters.append(builder.load(place, align=V.dtype.bitwidth // 8))
        rows = []  # rows[t] holds, in quarter q, the four components of entry 4 q + t
        for t in range(QUAD):
            joined = quarters[t::QUAD]
            while len(joined) > 1:
                joined = [
                    shuffle(builder, a, b, list(range(2 * a.type.count)))
                    for a, b in zip(joined[::2], joined[1::2], strict=True)
                ]
            rows += joined
        zeros = constant(whole, 0.0)
        exists = builder.fcmp_ordered(">", x[0], zeros)
        return [[builder.select(exists, column, zeros)] for column in _transpose_quarters(builder, rows)]

    return types.UniTuple(tile, QUAD)(V, offsets, types.intp, types.intp, x), emit


def _scatter_quad_meaning(out, offsets, n, k, tiles):
    flat = out.reshape(-1)
    for lane in range(n):
        flat[offsets[lane] + k : offsets[lane] + k + QUAD] = [tile[lane] for tile in tiles]


@operation(_scatter_quad_meaning)
def scatter_quad(out, offsets, n, k, tiles):
    """scatter_quad(out, offsets, n, k, tiles): store components k to k + 3 of the rows of the first n lanes."""
    check_store(out, tiles.dtype.dtype)

    def emit(context, builder, out, offsets, n, k, columns):
        quarter = ir.VectorType(FLOATS[out.dtype], QUAD).as_pointer()
        for t, row in enumerate(_transpose_quarters(builder, [column[0] for column in columns])):
            for q in range(0, row.type.count, QUAD):
                with builder.if_then(builder.icmp_signed("<", I64(q + t), n)):
                    offset = offsets.load_element(I64(q + t))
                    place = builder.bitcast(out.element(builder.add(offset, k)), quarter)
                    x = shuffle(builder, row, row, list(range(q, q + QUAD)))
                    builder.store(x, place, align=out.dtype.bitwidth // 8)

    return types.void(out, offsets, types.intp, types.intp, tiles), emit


def _quad_rows(builder: Any, A: Array, i: Any, stride: Any) -> list[Any]:
    return [_vector_row(builder, A, builder.add(i, builder.mul(I64(c), stride))) for c in range(QUAD)]


@operation(lambda A, i, stride: tuple(A[i + c * stride].copy() for c in range(QUAD)))
def load_quad(A, i, stride):
    """load_quad(A, i, stride) -> four Tiles of one vector, rows i, i + stride, i + 2 stride and i + 3 stride of A."""

    def emit(context, builder, A, i, stride):
        return [[load_vector(builder, row, 0)] for row in _quad_rows(builder, A, i, stride)]

    return types.UniTuple(Tile(A.dtype, 1), QUAD)(A, types.intp, types.intp), emit


def _store_quad_meaning(A, i, stride, tiles):
    for c, tile in enumerate(tiles):
        A[i + c * stride] = tile


@operation(_store_quad_meaning)
def store_quad(A, i, stride, tiles):
    """store_quad(A, i, stride, tiles): store the tiles in rows i, i + stride, i + 2 stride and i + 3 stride of A."""
    check_store(A, tiles.dtype.dtype)

    def emit(context, builder, A, i, stride, tiles):
        for row, tile in zip(_quad_rows(builder, A, i, stride), tiles, strict=True):
            store_vector(builder, row, 0, tile[0])

    return types.void(A, types.intp, types.intp, tiles), emit


@operation(lambda A, i, k: tuple(np.full(lanes_of(A.dtype), A[i, k + c]) for c in range(QUAD)))
def spread_quad(A, i, k):
    """spread_quad(A, i, k) -> four Tiles of one vector, each filled with one of A[i, k] to A[i, k + 3]."""

    def emit(context, builder, A, i, k):
        place, whole, out = builder.add(builder.mul(i, A.shape[1]), k), vector(A.dtype), []
        for c in range(QUAD):
            number = A.load_element(builder.add(place, I64(c)))
            one = builder.insert_element(ir.Constant(whole, ir.Undefined), number, I32(0))
            out.append([shuffle(builder, one, one, [0] * whole.count)])
        return out

    return types.UniTuple(Tile(A.dtype, 1), QUAD)(A, types.intp, types.intp), emit


def _store_four_totals_meaning(A, k, tiles):
    A[0, k : k + QUAD] = [tile.sum() for tile in tiles]


@operation(_store_four_totals_meaning)
def store_four_totals(A, k, tiles):
    """store_four_totals(A, k, tiles): store the sums of four tiles of one vector in A[0, k] to A[0, k + 3]."""
    check_store(A, tiles.dtype.dtype)

    def emit(context, builder, A, k, tiles):
        sums = lane_sums(builder, [tile[0] for tile in tiles])
        builder.store(sums, builder.bitcast(A.element(k), sums.type.as_pointer()), align=A.dtype.bitwidth // 8)

    return types.void(A, types.intp, tiles), emit


def _store_totals_meaning(A, lane, tiles):
    for n, tile in enumerate(tiles):
        A[n, lane] = tile.sum()


@operation(_store_totals_meaning)
def store_totals(A, lane, tiles):
    """store_totals(A, lane, tiles): store the sums of five tiles of one vector in rows 0 to 4 of A, at this lane."""
    check_store(A, tiles.dtype.dtype)

    def emit(context, builder, A, lane, tiles):
        *first, last = (tile[0] for tile in tiles)
        sums = lane_sums(builder, first)
        while last.type.count > 1:
            last = builder.fadd(*halves(builder, last))
        totals = [builder.extract_element(sums, I32(n)) for n in range(GROUP)] + [builder.extract_element(last, I32(0))]
        for n, total in enumerate(totals):
            place = builder.add(I64(n * vector(A.dtype).count), lane)
            builder.store(total, A.element(place))

    return types.void(A, types.intp, tiles), emit


@operation(lambda tile: sum(1 << n for n in range(len(tile)) if tile[n] > 0))
def bits(tile):
    """bits(tile) -> int64, whose bit n is 1 if element n of a tile of one vector is positive."""

    def emit(context, builder, vectors):
        (x,) = vectors
        positive = builder.fcmp_ordered(">", x, constant(x.type, 0.0))
        return builder.zext(builder.bitcast(positive, ir.IntType(x.type.count)), I64)

    return types.int64(tile), emit


# ── single elements as numbers of 64 bits ───────────────────────────────────────────────────────────────────────


@operation(lambda A, i, j: A[i, j].item())
def get(A, i, j):
    """get(A, i, j) -> float64 or int64, the element A[i, j]."""
    type_ = types.float64 if isinstance(A.dtype, types.Float) else types.int64

    def emit(context, builder, A, i, j):
        x = A.load_element(A.position([i, j]))
        return builder.fpext(x, ir.DoubleType()) if isinstance(x.type, ir.FloatType) else x

    return type_(A, types.intp, types.intp), emit


@operation(lambda A, i, j, x: setitem(A, (i, j), x))
def put(A, i, j, x):
    """put(A, i, j, x): A[i, j] = x, rounded to the dtype of A."""
    type_ = types.float64 if isinstance(A.dtype, types.Float) else types.int64
    check_store(A, A.dtype)

    def emit(context, builder, A, i, j, x):
        if A.dtype is types.float32:
            x = builder.fptrunc(x, ir.FloatType())
        builder.store(x, A.element(A.position([i, j])))

    return types.void(A, types.intp, types.intp, type_), emit
