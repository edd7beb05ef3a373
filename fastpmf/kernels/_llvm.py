"""Numba's types of the vectors in `simd`, and the LLVM instructions that its operations are made of.

Tile    one padded factor row: `n_vectors` LLVM vectors of 64 bytes each, in registers; a wide one, whose
        `n_vectors` is 0, is an address and a number of vectors
Lanes   one number for each of the GROUP stored entries in flight, in registers
Rows    the row numbers of the factor that those entries gather, in registers
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

VECTOR_BYTES = 64
GROUP = 4  # stored entries in flight; eight was no faster and spills from k = 64 on

I32, I64 = ir.IntType(32), ir.IntType(64)
FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


WIDEST = 16  # vectors of a factor row up to which a kernel is compiled for their number, as straight-line code


class Width(types.Type):
    """Vectors in a padded factor row, known when a kernel is compiled; 0: not known, so that kernels loop."""

    def __init__(self, n_vectors: int) -> None:
        self.n_vectors = n_vectors
        super().__init__(name=f"Width({n_vectors})")


register_model(Width)(models.OpaqueModel)


class Tile(types.Type):
    """A padded factor row, or some vectors of it."""

    def __init__(self, dtype: types.Float, n_vectors: int) -> None:
        self.dtype, self.n_vectors = dtype, n_vectors
        super().__init__(name=f"Tile({dtype}, {n_vectors})")


class Lanes(types.Type):
    """One number for each entry in flight."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


class Rows(types.Type):
    """The gathered row of each entry in flight."""

    def __init__(self) -> None:
        super().__init__(name="Rows")


def vector(dtype: types.Float) -> ir.VectorType:
    return ir.VectorType(FLOATS[dtype], 8 * VECTOR_BYTES // dtype.bitwidth)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Tile) -> None:
        if fe_type.n_vectors:
            type_ = ir.ArrayType(vector(fe_type.dtype), fe_type.n_vectors)
        else:
            type_ = ir.LiteralStructType([vector(fe_type.dtype).as_pointer(), I64])
        super().__init__(dmm, fe_type, type_)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(FLOATS[fe_type.dtype], GROUP))


@register_model(Rows)
class _RowsModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Rows) -> None:
        super().__init__(dmm, fe_type, ir.ArrayType(I64, GROUP))


def operation(meaning: Callable) -> Callable[[Callable], Callable]:
    """Give an operation its NumPy meaning, and its instructions where there is a compiler."""

    def silent(*args: Any) -> Any:
        with np.errstate(all="ignore"):  # as compiled code is
            return meaning(*args)

    return lambda emit: silent if config.DISABLE_JIT else intrinsic(prefer_literal=True)(emit)


def varied(typed: Callable, function: Callable) -> Callable:
    """The intrinsic of `typed(typingctx, *args)`, with the parameters of a function, as Numba allows no *args."""
    context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    typed.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    typed.__name__, typed.__doc__ = function.__name__, function.__doc__
    return intrinsic(typed)


def check_store(A: types.Array, tile: Tile, dtype: Any = None) -> None:
    """Refuse to compile a store into an input of a kernel, or into an array of another dtype."""
    if not A.mutable or A.dtype != (dtype or tile.dtype):
        raise TypingError(f"{tile} can't be stored in {A}")


def whole(n: types.Type) -> bool:
    """Whether `n` is the literal GROUP, so that no lane is to be masked."""
    return isinstance(n, types.Literal) and n.literal_value == GROUP


def constant(vector: ir.VectorType, value: float | int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def call_intrinsic(builder: Any, name: str, *args: Any) -> Any:
    vector = args[0].type
    suffix = f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"
    signature = ir.FunctionType(vector, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}"), args)


def shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def element_pointer(context: Any, builder: Any, array_type: types.Array, array: Any, p: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [p])


def row_pointer(context: Any, builder: Any, array_type: types.Array, array: Any, i: Any) -> Any:
    """Pointer to row `i` of a C-ordered matrix; `i` is never negative, so there is no wrap-around to test."""
    view = context.make_array(array_type)(context, builder, array)
    return builder.gep(view.data, [builder.mul(i, builder.extract_value(view.shape, 1))])


def load_vector(builder: Any, row: Any, dtype: types.Float, v: Any) -> Any:
    pointer = builder.bitcast(row, vector(dtype).as_pointer())
    # Rows are allocated on 64-byte boundaries, but a caller's need not be: only elements' alignment is promised.
    return builder.load(builder.gep(pointer, [I64(v) if isinstance(v, int) else v]), align=dtype.bitwidth // 8)


def kept_vectors(context: Any) -> int:
    """Vectors up to which gathered rows stay in registers between their dot products and their use.

    GROUP rows, what they are multiplied by and their sum fit into the 32 registers of AVX-512, of a vector each, up to
    4; into the fewer bytes of AVX2 and NEON if a row is a single vector. Wider rows are read again from the first-level
    cache, which is cheaper than the spill that LLVM would make of them.
    """
    *_, features = context.codegen().magic_tuple()
    return 4 if "+avx512f" in features.split(",") else 1


def lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """Sum each of GROUP vectors over its lanes, into one vector of GROUP, by a fixed tree of interleaved adds."""
    width, run = vectors[0].type.count, 1
    while len(vectors) > 1:
        low, high = [], []
        for s in range(0, width, 2 * run):
            low += [*range(s, s + run), *range(width + s, width + s + run)]
            high += [*range(s + run, s + 2 * run), *range(width + s + run, width + s + 2 * run)]
        vectors = [
            builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        run *= 2
    (total,) = vectors
    while width > GROUP:
        width //= 2
        low, high = list(range(width)), list(range(width, 2 * width))
        total = builder.fadd(shuffle(builder, total, total, low), shuffle(builder, total, total, high))
    return total


def log_lanes(builder: Any, x: Any) -> Any:
    """Natural logarithm of each lane, to two units in the last place; -inf at 0, NaN below it and at NaN.

    x = 2^e m with m in [1/sqrt 2, sqrt 2), log x = e log 2 + 2 atanh f with f = (m - 1) / (m + 1), |f| < 0.172;
    ten terms of the series of atanh leave less than 2e-17 of it.
    """
    floats, ints = x.type, ir.VectorType(I64, x.type.count)

    def fma(a, b, c):
        return call_intrinsic(builder, "fma", a, b, c)

    tiny = builder.fcmp_ordered("<", x, constant(floats, 2.0**-1022))  # subnormal: bring it into range first
    scaled = builder.select(tiny, builder.fmul(x, constant(floats, 2.0**54)), x)
    # Counted from 1/sqrt 2, the exponent field is e and the rest is m.
    offset = int(np.array(math.sqrt(0.5)).view(np.int64)) & ~0xFFFFFFFF
    bits = builder.bitcast(scaled, ints)
    e = builder.ashr(builder.sub(bits, constant(ints, offset)), constant(ints, 52))
    m = builder.bitcast(builder.sub(bits, builder.shl(e, constant(ints, 52))), floats)
    e = builder.sub(e, builder.select(tiny, constant(ints, 54), constant(ints, 0)))
    f = builder.fdiv(builder.fsub(m, constant(floats, 1.0)), builder.fadd(m, constant(floats, 1.0)))
    square = builder.fmul(f, f)
    series = constant(floats, 2.0 / 21)
    for odd in range(19, 1, -2):
        series = fma(series, square, constant(floats, 2.0 / odd))
    tail = builder.fmul(builder.fmul(f, square), series)
    # A small integer as a float, where no instruction turns whole vectors of them: 2^52 + 2^51 has it in its last bits
    magic = 1.5 * 2.0**52
    bits = builder.add(e, constant(ints, int(np.array(magic).view(np.int64))))
    exponent = builder.fsub(builder.bitcast(bits, floats), constant(floats, magic))
    out = fma(exponent, constant(floats, math.log(2)), fma(constant(floats, 2.0), f, tail))
    for relation, bound, value in (("==", math.inf, math.inf), ("==", 0.0, -math.inf), ("<", 0.0, math.nan)):
        out = builder.select(builder.fcmp_ordered(relation, x, constant(floats, bound)), constant(floats, value), out)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, out)
