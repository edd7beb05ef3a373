"""The operations that the hot loops are written in, on 64-byte vectors that stay in registers.

Three kinds of value, defined in `_llvm`: a Tile is one padded factor row, Lanes hold one number for each of the GROUP
stored entries in flight, Rows the row numbers of the factor that those entries gather. Each operation is given twice:
its *meaning*, one NumPy expression that is what runs when the JIT is off, and the LLVM instructions that it becomes.
A vector is 64 bytes on every machine; LLVM splits it where registers are narrower, so the order of every sum, and with
it every bit of the result, is the same everywhere.

A kernel that asks for GROUP entries passes the literal and gets straight-line code; one that asks for what is left of
a row passes a number, and the lanes beyond it repeat the last entry with a count of zero.
"""

import operator
from collections.abc import Callable
from functools import partial
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
    Lanes,
    Rows,
    Tile,
    call_intrinsic,
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

# ── tiles ───────────────────────────────────────────────────────────────────────────────────────────────────────


@operation(lambda A, n_vectors: np.zeros(A.shape[1], A.dtype))
def zeros(typingctx, A, n_vectors):
    """zeros(A, n_vectors) -> Tile of zeros, of the dtype of A."""
    tile = Tile(A.dtype, n_vectors.literal_value)

    def emit(context, builder, signature, args):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(A, n_vectors), emit


@operation(lambda A, i, n_vectors: A[i].copy())
def load(typingctx, A, i, n_vectors):
    """load(A, i, n_vectors) -> Tile, row i of A."""
    tile = Tile(A.dtype, n_vectors.literal_value)

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        out = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for v in range(tile.n_vectors):
            out = builder.insert_value(out, load_vector(builder, row, tile.dtype, v), v)
        return out

    return tile(A, types.intp, n_vectors), emit


@operation(lambda A, i, tile: A.__setitem__(i, tile))
def store(typingctx, A, i, tile):
    """store(A, i, tile): row i of A becomes the tile."""

    def emit(context, builder, signature, args):
        row = row_pointer(context, builder, signature.args[0], args[0], args[1])
        pointer = builder.bitcast(row, vector(tile.dtype).as_pointer())
        for v in range(tile.n_vectors):
            value = builder.extract_value(args[2], v)
            builder.store(value, builder.gep(pointer, [I64(v)]), align=tile.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(A, types.intp, tile), emit


def elementwise(meaning: Callable, instruction: str) -> Callable:
    """An elementwise operation on two Tiles or two Lanes of one type, as in IEEE arithmetic."""

    @operation(meaning)
    def binary(typingctx, a, b):
        def emit(context, builder, signature, args):
            apply = getattr(builder, instruction)
            if isinstance(a, Lanes):
                return apply(*args)
            out = args[0]
            for v in range(a.n_vectors):
                out = builder.insert_value(out, apply(*(builder.extract_value(x, v) for x in args)), v)
            return out

        return a(a, b), emit

    return binary


add, multiply, divide = (
    elementwise(operator.add, "fadd"),
    elementwise(operator.mul, "fmul"),
    elementwise(operator.truediv, "fdiv"),
)


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
    """total(tile) -> float64, the sum of a tile, formed in its own dtype."""

    def emit(context, builder, signature, args):
        vectors = [builder.extract_value(args[0], v) for v in range(tile.n_vectors)]
        return fold_lanes(builder, tile, vectors, builder.fadd)

    return types.float64(tile), emit


def _higher(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@operation(lambda a, b: np.where(a > b, a, b))
def maximum(typingctx, a, b):
    """maximum(a, b) -> Tile, elementwise; b where either is NaN."""

    def emit(context, builder, signature, args):
        out = args[0]
        for v in range(a.n_vectors):
            out = builder.insert_value(out, _higher(builder, *(builder.extract_value(x, v) for x in args)), v)
        return out

    return a(a, b), emit


@operation(lambda a, b: np.where(b < a, b, a))
def minimum(typingctx, a, b):
    """minimum(a, b) -> Tile, elementwise; a where either is NaN."""

    def emit(context, builder, signature, args):
        out = args[0]
        for v in range(a.n_vectors):
            x, y = (builder.extract_value(z, v) for z in args)
            out = builder.insert_value(out, builder.select(builder.fcmp_ordered("<", y, x), y, x), v)
        return out

    return a(a, b), emit


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
    """prefetch(V, indices, p, n_vectors): ask the memory for the rows of V that GROUP entries from p on will gather."""

    def emit(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        signature_ = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        ask = cgutils.get_or_insert_function(builder.module, signature_, "llvm.prefetch.p0")
        for q in range(GROUP):
            position = builder.add(args[2], I64(q))
            j = builder.load(element_pointer(context, builder, signature.args[1], args[1], position))
            j = builder.zext(j, I64) if j.type.width < 64 else j
            row = builder.bitcast(row_pointer(context, builder, signature.args[0], args[0], j), byte)
            for v in range(n_vectors.literal_value):
                builder.call(ask, [builder.gep(row, [I64(VECTOR_BYTES * v)]), I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(V, indices, types.intp, n_vectors), emit


@operation(lambda u, V, rows, A: (V[rows].astype(A.dtype) * u.astype(A.dtype)).sum(axis=1))
def dots(typingctx, u, V, rows, A):
    """dots(u, V, rows, A) -> Lanes, the products u . V[j] formed and summed in the dtype of A."""
    lanes = Lanes(A.dtype)

    def emit(context, builder, signature, args):
        width = vector(u.dtype).count
        wide = ir.VectorType(FLOATS[A.dtype], width)

        def widen(x):
            return x if x.type == wide else builder.fpext(x, wide)

        sums = []
        for q in range(GROUP):
            j = builder.extract_value(args[2], q)
            row = row_pointer(context, builder, signature.args[1], args[1], j)
            total = None
            for k in range(u.n_vectors):
                a = widen(builder.extract_value(args[0], k))
                b = widen(load_vector(builder, row, u.dtype, k))
                total = builder.fmul(a, b) if total is None else call_intrinsic(builder, "fma", a, b, total)
            sums.append(total)
        return lane_sums(builder, sums)

    return lanes(u, V, rows, A), emit


@operation(lambda tile, weights, V, rows: tile + weights @ V[rows])
def add_rows(typingctx, tile, weights, V, rows):
    """add_rows(tile, weights, V, rows) -> Tile, tile + sum over the entries in flight of weight * V[j]."""

    def emit(context, builder, signature, args):
        out, weight, V_, rows_ = args
        width = vector(tile.dtype).count
        splats = [shuffle(builder, weight, weight, [q] * width) for q in range(GROUP)]
        pointers, kept = [], tile.n_vectors <= kept_vectors(context)
        for q in range(GROUP):
            row = row_pointer(context, builder, signature.args[2], V_, builder.extract_value(rows_, q))
            if not kept:
                # An empty instruction hides that these are the addresses that `dots` has just read.
                row = builder.asm(ir.FunctionType(row.type, [row.type]), "", "=r,0", [row], side_effect=False)
            pointers.append(row)
        for k in range(tile.n_vectors):
            total = builder.extract_value(out, k)
            for q in range(GROUP):
                v = load_vector(builder, pointers[q], tile.dtype, k)
                total = call_intrinsic(builder, "fma", v, splats[q], total)
            out = builder.insert_value(out, total, k)
        return out

    return tile(tile, weights, V, rows), emit


def _scatter_meaning(T, weights, rows, u):
    for weight, j in zip(weights, rows, strict=True):
        T[j] += weight * u


@operation(_scatter_meaning)
def scatter_rows(typingctx, T, weights, rows, u):
    """scatter_rows(T, weights, rows, u): T[j] += weight * u for the entries in flight in their order, rounded once."""

    def emit(context, builder, signature, args):
        T_, weight, rows_, u_ = args
        whole_vector = vector(u.dtype)
        for q in range(GROUP):
            splat = shuffle(builder, weight, weight, [q] * whole_vector.count)
            row = row_pointer(context, builder, signature.args[0], T_, builder.extract_value(rows_, q))
            pointer = builder.bitcast(row, whole_vector.as_pointer())
            for k in range(u.n_vectors):
                old = load_vector(builder, row, u.dtype, k)
                new = call_intrinsic(builder, "fma", builder.extract_value(u_, k), splat, old)
                builder.store(new, builder.gep(pointer, [I64(k)]), align=u.dtype.bitwidth // 8)
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


# ── work sharing ────────────────────────────────────────────────────────────────────────────────────────────────


def _take_meaning(counter):
    taken = counter[0]
    counter[0] += 1
    return taken


@operation(_take_meaning)
def take(typingctx, counter):
    """take(counter) -> int, the counter's value before it is raised by one, atomically."""

    def emit(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], I64(0))
        return builder.atomic_rmw("add", pointer, I64(1), "monotonic")

    return types.intp(counter), emit
