"""Numba types of arrays and vectors, and how an operation on them becomes LLVM instructions.

View    an array as kernels see it: an address and a shape
Width   how many vectors a padded factor row has: known when a kernel is compiled, or 0 if kernels loop over them
Tile    some vectors of a padded factor row, 64 bytes each, in registers; with `n_vectors` 0 a whole row in memory,
        given by its address and its number of vectors
Lanes   one number for each of the GROUP stored entries in flight, in registers
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.errors import TypingError
from numba.core.imputils import lower_builtin, lower_getattr
from numba.core.registry import cpu_target
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, infer_global
from numba.extending import models, register_model

VECTOR_BYTES = 64
GROUP = 4  # stored entries in flight; eight was no faster, and its registers spill from k = 64 on
WIDEST = 16  # vectors of a factor row up to which a kernel is compiled for their number, as straight-line code

I32, I64 = ir.IntType(32), ir.IntType(64)
FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


class View(types.Type):
    """A C-ordered array, given by its address and its shape.

    Numba's own arrays have six more fields, and compiling what passes and indexes them takes twice as long. A view has
    `shape`, `len`, and elements at full indices, none of which is ever negative.
    """

    def __init__(self, dtype: types.Type, ndim: int, *, mutable: bool) -> None:
        self.dtype, self.ndim, self.mutable = dtype, ndim, mutable
        super().__init__(name=f"View({dtype}, {ndim}, {'mutable' if mutable else 'readonly'})")


class Width(types.Type):
    """Number of vectors in a padded factor row; 0 if it is not known when a kernel is compiled."""

    def __init__(self, n_vectors: int) -> None:
        self.n_vectors = n_vectors
        super().__init__(name=f"Width({n_vectors})")


class Tile(types.Type):
    """Some vectors of a padded factor row in registers, or with `n_vectors` 0 a whole row in memory."""

    def __init__(self, dtype: types.Float, n_vectors: int) -> None:
        self.dtype, self.n_vectors = dtype, n_vectors
        super().__init__(name=f"Tile({dtype}, {n_vectors})")


class Lanes(types.Type):
    """One number for each stored entry in flight."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


def vector(dtype: types.Float) -> ir.VectorType:
    """LLVM's type of 64 bytes of this dtype."""
    return ir.VectorType(FLOATS[dtype], 8 * VECTOR_BYTES // dtype.bitwidth)


def _tile_representation(tile: Tile) -> ir.Type:
    if tile.n_vectors:
        return ir.ArrayType(vector(tile.dtype), tile.n_vectors)
    return ir.LiteralStructType([vector(tile.dtype).as_pointer(), I64])


def represent(type_: type[types.Type], representation: Callable[[Any], ir.Type]) -> None:
    """Tell Numba how LLVM represents the values of a type."""

    @register_model(type_)
    class Model(models.PrimitiveModel):
        def __init__(self, dmm: Any, fe_type: Any) -> None:
            super().__init__(dmm, fe_type, representation(fe_type))


@register_model(View)
class _ViewModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, view: View) -> None:
        element = dmm.lookup(view.dtype).get_data_type()
        super().__init__(dmm, view, ir.LiteralStructType([element.as_pointer(), *[I64] * view.ndim]))


register_model(Width)(models.OpaqueModel)
represent(Tile, _tile_representation)
represent(Lanes, lambda lanes: ir.VectorType(FLOATS[lanes.dtype], GROUP))


# ── indexing ────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_full_index(view, index):
    indices = list(index) if isinstance(index, types.BaseTuple) else [index]
    return isinstance(view, View) and len(indices) == view.ndim and all(isinstance(i, types.Integer) for i in indices)


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> Any:
        return signature(args[0].dtype, *args) if _is_full_index(*args) else None


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> Any:
        view, index, value = args
        is_element = _is_full_index(view, index) and view.mutable and isinstance(value, types.Number | types.Boolean)
        return signature(types.void, view, index, view.dtype) if is_element else None


@infer_global(len)
class _Len(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> Any:
        return signature(types.intp, *args) if isinstance(args[0], View) else None


@infer_getattr
class _Attributes(AttributeTemplate):
    key = View

    def resolve_shape(self, view):
        return types.UniTuple(types.intp, view.ndim)


def _element(context, builder, signature, values):
    """Address of the element that a getitem or setitem names."""
    view, index = signature.args[:2]
    array = Array(context, builder, view, values[0])
    indices, kinds = [values[1]], [index]
    if isinstance(index, types.BaseTuple):
        indices, kinds = cgutils.unpack_tuple(builder, values[1], len(index)), list(index)
    return array.element(
        array.position([context.cast(builder, *pair, types.intp) for pair in zip(indices, kinds, strict=True)])
    )


@lower_builtin(operator.getitem, View, types.Any)
def _lower_getitem(context, builder, signature, values):
    return context.unpack_value(builder, signature.return_type, _element(context, builder, signature, values))


@lower_builtin(operator.setitem, View, types.Any, types.Any)
def _lower_setitem(context, builder, signature, values):
    place = _element(context, builder, signature, values)
    context.pack_value(builder, signature.args[2], values[2], place)
    return context.get_dummy_value()


@lower_builtin(len, View)
def _lower_len(context, builder, signature, values):
    return builder.extract_value(values[0], 1)


@lower_getattr(View, "shape")
def _lower_shape(context, builder, view, value):
    return cgutils.pack_array(builder, [builder.extract_value(value, 1 + axis) for axis in range(view.ndim)])


# ── operations ──────────────────────────────────────────────────────────────────────────────────────────────────


def operation(meaning: Callable) -> Callable[[Callable], Callable]:
    """Make an operation that kernels can call from its NumPy meaning, for the JIT off, and its LLVM instructions.

    The decorated function gets the Numba types of the arguments and returns a signature and a function
    `emit(context, builder, *values)`, which gets arrays as `Array`, tiles as `Vectors`, tuples as lists, and all else
    as LLVM values. It returns an LLVM value, the vectors of a tile as `Vectors` or a list, a list for a tuple, or None.
    """

    def silent(*args: Any) -> Any:
        with np.errstate(all="ignore"):  # as compiled code is
            return meaning(*args)

    def compiled(function: Callable) -> Callable:
        def typed(*args: types.Type) -> Any:
            signature, emit = function(*args)

            def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                opened = [_open(context, builder, *pair) for pair in zip(signature.args, values, strict=True)]
                return _close(context, builder, signature.return_type, emit(context, builder, *opened))

            return signature, lower

        return as_intrinsic(typed, function, prefer_literal=True)

    return lambda function: silent if config.DISABLE_JIT else compiled(function)


def as_intrinsic(typed: Callable, function: Callable, *, prefer_literal: bool = False) -> Callable:
    """Make kernels that call `function` emit the instructions of `typed(*types)`, a signature and an `emit`.

    `numba.extending.intrinsic` does the same, but reads all registries of Numba again at each call that it compiles.
    """
    signatures: dict[tuple, Any] = {}

    class Template(AbstractTemplate):
        key = function

        def generic(self, args: tuple, kws: dict) -> Any:
            if args not in signatures:
                signatures[args], emit = typed(*args)
                cpu_target.target_context.insert_func_defn([(emit, function, signatures[args].args)])
            return signatures[args]

    Template.prefer_literal = prefer_literal
    infer_global(function, types.Function(Template))
    return function


def _open(context, builder, type_, value):
    if isinstance(type_, View):
        return Array(context, builder, type_, value)
    if isinstance(type_, Tile):
        return Vectors(builder, type_, value)
    if isinstance(type_, types.BaseTuple):
        values = cgutils.unpack_tuple(builder, value, len(type_))
        return [_open(context, builder, *pair) for pair in zip(type_, values, strict=True)]
    return value


def _close(context, builder, type_, result):
    if result is None:
        return context.get_dummy_value()
    if isinstance(type_, types.BaseTuple):
        values = [_close(context, builder, *pair) for pair in zip(type_, result, strict=True)]
        return context.make_tuple(builder, type_, values)
    if isinstance(type_, Tile) and isinstance(result, list):
        value = ir.Constant(context.get_value_type(type_), ir.Undefined)
        for v, x in enumerate(result):
            value = builder.insert_value(value, x, v)
        return value
    return result.value if isinstance(result, Vectors) else result


class Array:
    """A view in an `emit`."""

    def __init__(self, context: Any, builder: Any, type_: View, value: Any) -> None:
        self.context, self.builder, self.type, self._value = context, builder, type_, value
        self.dtype: Any = type_.dtype

    @property
    def data(self) -> Any:
        """Address of the first element."""
        return self.builder.extract_value(self._value, 0)

    @property
    def shape(self) -> list[Any]:
        return [self.builder.extract_value(self._value, 1 + axis) for axis in range(self.type.ndim)]

    @property
    def n_vectors(self) -> Any:
        """Vectors in a row."""
        return self.builder.sdiv(self.shape[1], I64(vector(self.dtype).count))

    def position(self, indices: list[Any]) -> Any:
        """Position in memory of the element at these indices."""
        place = indices[0]
        for length, index in zip(self.shape[1:], indices[1:], strict=True):
            place = self.builder.add(self.builder.mul(place, length), index)
        return place

    def element(self, position: Any) -> Any:
        """Address of an element, by its position in memory."""
        return self.builder.gep(self.data, [position])

    def load_element(self, position: Any) -> Any:
        """An element; an integer of fewer than 64 bits, which is not negative, as one of 64."""
        x = self.builder.load(self.element(position))
        return self.builder.zext(x, I64) if isinstance(x.type, ir.IntType) and x.type.width < 64 else x

    def row(self, i: Any) -> Any:
        """Address of row i of a matrix, as an address of vectors."""
        start = self.element(self.builder.mul(i, self.shape[1]))
        return self.builder.bitcast(start, vector(self.dtype).as_pointer())

    def part(self, type_: View, position: Any, shape: list[Any]) -> Any:
        """The elements from a position on as a view."""
        return make_view(self.context, self.builder, type_, self.element(position), shape)


def make_view(context: Any, builder: Any, type_: View, data: Any, shape: list[Any]) -> Any:
    """A view of the elements at an address."""
    view = ir.Constant(context.get_value_type(type_), ir.Undefined)
    for n, field in enumerate([data, *shape]):
        view = builder.insert_value(view, field, n)
    return view


class Vectors:
    """The vectors of a tile in an `emit`."""

    def __init__(self, builder: Any, tile: Tile, value: Any) -> None:
        self.builder, self.tile, self.value = builder, tile, value

    def numbers(self) -> Iterator[Any]:
        """The number of each vector: an int if they are in registers, else the index of a loop."""
        if self.tile.n_vectors:
            yield from range(self.tile.n_vectors)
        else:
            with cgutils.for_range(self.builder, self.builder.extract_value(self.value, 1)) as loop:
                yield loop.index

    def __iter__(self) -> Iterator[Any]:
        """The vectors in registers."""
        return (self[v] for v in range(self.tile.n_vectors))

    def __getitem__(self, v: Any) -> Any:
        if self.tile.n_vectors:
            return self.builder.extract_value(self.value, v)
        return load_vector(self.builder, self.builder.extract_value(self.value, 0), v)

    def __setitem__(self, v: Any, x: Any) -> None:
        if self.tile.n_vectors:
            self.value = self.builder.insert_value(self.value, x, v)
        else:
            store_vector(self.builder, self.builder.extract_value(self.value, 0), v, x)


def check_store(A: View, dtype: types.Float) -> None:
    """Refuse to compile a store into an input of a kernel, or into an array of another dtype."""
    if not A.mutable or A.dtype != dtype:
        raise TypingError(f"vectors of {dtype} can't be stored in {A}")


# ── instructions ────────────────────────────────────────────────────────────────────────────────────────────────


def load_vector(builder: Any, row: Any, v: Any) -> Any:
    """Vector v of a row."""
    # Rows are allocated on 64-byte boundaries, but a caller's may not be: only elements are aligned for certain
    place = builder.gep(row, [I64(v) if isinstance(v, int) else v])
    return builder.load(place, align=VECTOR_BYTES // row.type.pointee.count)


def store_vector(builder: Any, row: Any, v: Any, x: Any) -> None:
    place = builder.gep(row, [I64(v) if isinstance(v, int) else v])
    builder.store(x, place, align=VECTOR_BYTES // x.type.count)


def constant(vector: ir.VectorType, value: float | int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def call_intrinsic(builder: Any, name: str, *args: Any) -> Any:
    vector = args[0].type
    suffix = f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"
    signature = ir.FunctionType(vector, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}"), args)


def shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def splat(builder: Any, vector: ir.VectorType, number: Any) -> Any:
    """The float64 number, rounded to the type of the vector's elements, in all of them."""
    if isinstance(vector.element, ir.FloatType):
        number = builder.fptrunc(number, vector.element)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, I32(0))
    return shuffle(builder, one, one, [0] * vector.count)


def halves(builder: Any, x: Any) -> tuple[Any, Any]:
    """The lower and the upper half of a vector."""
    n = x.type.count
    return shuffle(builder, x, x, list(range(n // 2))), shuffle(builder, x, x, list(range(n // 2, n)))


def widen(builder: Any, x: Any) -> list[Any]:
    """A vector as vectors of float64."""
    wide = vector(types.float64)
    return [builder.fpext(half, wide) for half in halves(builder, x)] if x.type.count > wide.count else [x]


def fold(builder: Any, vectors: list[Any], combine: Callable) -> Any:
    """All lanes of some vectors combined into one float64, by a fixed tree."""
    total, *others = vectors
    for other in others:
        total = combine(total, other)
    while total.type.count > 1:
        total = combine(*halves(builder, total))
    scalar = builder.extract_element(total, I32(0))
    return builder.fpext(scalar, ir.DoubleType()) if isinstance(scalar.type, ir.FloatType) else scalar


def lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """Sum each of GROUP vectors over its lanes, into one vector of GROUP, by a fixed tree of interleaved additions."""
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
    while total.type.count > GROUP:
        total = builder.fadd(*halves(builder, total))
    return total
