"""Formulas on vectors, written once: NumPy evaluates them with the JIT off, and Numba gets their LLVM instructions.

A formula is a plain function of vectors and numbers:

    @formula(2)
    def sum_and_larger(a, b, factor):
        return fma(a, factor, b), where(a > b, a, 2.0 * b)

It uses `+ - * /`, comparisons, the functions below and those of `special`, and returns one vector or, as here, a tuple
of so many. It can't branch on vectors; a number that it is called with is the same in every element. Each instruction
rounds as IEEE arithmetic says, and none is reordered or contracted. To Numba a whole formula is one call, which keeps
compilation short: typing a call takes it longer than emitting twenty instructions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types

from fastpmf.kernels._llvm import GROUP, Lanes, Tile, as_intrinsic, call_intrinsic, constant, splat, vector


def _arithmetic(instruction: str, *, swapped: bool = False) -> Callable[["Vector", Any], "Vector"]:
    return lambda a, b: a.apply(instruction, b, a) if swapped else a.apply(instruction, a, b)


def _comparison(relation: str) -> Callable[["Vector", Any], "_Mask"]:
    return lambda a, b: _Mask(a, a.builder.fcmp_ordered(relation, a.value, a.like(b)))


class Vector:
    """One LLVM vector while a formula becomes instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32 if isinstance(self.value.type.element, ir.FloatType) else np.float64)

    def like(self, x: Any) -> Any:
        """The LLVM value of a vector, or of a number in every element."""
        return x.value if isinstance(x, Vector) else constant(self.value.type, x)

    def apply(self, instruction: str, *args: Any) -> "Vector":
        return Vector(self.builder, getattr(self.builder, instruction)(*map(self.like, args)))

    def call(self, intrinsic: str, *args: Any) -> "Vector":
        return Vector(self.builder, call_intrinsic(self.builder, intrinsic, *map(self.like, args)))

    __add__ = __radd__ = _arithmetic("fadd")
    __mul__ = __rmul__ = _arithmetic("fmul")
    __sub__, __rsub__ = _arithmetic("fsub"), _arithmetic("fsub", swapped=True)
    __truediv__, __rtruediv__ = _arithmetic("fdiv"), _arithmetic("fdiv", swapped=True)
    __gt__, __lt__ = _comparison(">"), _comparison("<")

    def __neg__(self) -> "Vector":
        return 0.0 - self


class _Mask:
    """The result of a comparison, which is false where a number is NaN."""

    def __init__(self, vector: Vector, value: Any) -> None:
        self.vector, self.value = vector, value

    def __bool__(self) -> bool:
        raise TypeError("a formula can't branch on vectors: use `where`")

    def select(self, a: Any, b: Any) -> Vector:
        like, builder = self.vector.like, self.vector.builder
        return Vector(builder, builder.select(self.value, like(a), like(b)))


def where(mask: Any, a: Any, b: Any) -> Any:
    """a where the mask is true, else b."""
    return mask.select(a, b) if isinstance(mask, _Mask) else np.where(mask, a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of each pair; b where either is NaN."""
    return where(a > b, a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of each pair; a where either is NaN."""
    return where(b < a, b, a)


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, in compiled code with one rounding."""
    one = next((x for x in (a, b, c) if isinstance(x, Vector)), None)
    return a * b + c if one is None else one.call("fma", a, b, c)


def sqrt(a: Any) -> Any:
    """The square root."""
    return a.call("sqrt", a) if isinstance(a, Vector) else np.sqrt(a)


def formula(n_results: int = 1) -> Callable[[Callable], Callable]:
    """Make an operation of a function of vectors, all of one type, and numbers; it returns so many vectors.

    Tuples of vectors are passed as such. A number is float64 where the kernel calls it, and is rounded to the vectors'
    dtype.
    """
    return lambda function: (_with_numpy if config.DISABLE_JIT else _with_llvm)(function, n_results)


def _with_numpy(function: Callable, n_results: int) -> Callable:
    def evaluate(*args: Any) -> Any:
        dtype = next(x.dtype for x in args if isinstance(x, np.ndarray))
        with np.errstate(all="ignore"):  # as compiled code is
            found = function(*(x if isinstance(x, np.ndarray | tuple) else float(x) for x in args))
        if n_results == 1:
            return found.astype(dtype, copy=False)
        return tuple(x.astype(dtype, copy=False) for x in found)

    return evaluate


def _with_llvm(function: Callable, n_results: int) -> Callable:
    def typed(*args):
        kind = next(x for x in args if isinstance(x, Tile | Lanes))
        out = kind if n_results == 1 else types.UniTuple(kind, n_results)
        parameters = [x if isinstance(x, Tile | Lanes | types.UniTuple) else types.float64 for x in args]
        whole = ir.VectorType(vector(kind.dtype).element, GROUP) if isinstance(kind, Lanes) else vector(kind.dtype)

        def emit(context, builder, signature, values):
            def argument(type_, x, v):
                """An argument of the function for vector v of the tiles."""
                if isinstance(type_, types.UniTuple):
                    return tuple(argument(kind, each, v) for each in cgutils.unpack_tuple(builder, x, len(type_)))
                return Vector(builder, builder.extract_value(x, v) if isinstance(type_, Tile) else x)

            numbers = [type_ is types.float64 for type_ in parameters]
            values = [splat(builder, whole, x) if number else x for number, x in zip(numbers, values, strict=True)]
            results = [ir.Constant(context.get_value_type(kind), ir.Undefined)] * n_results
            for v in range(1 if isinstance(kind, Lanes) else kind.n_vectors):
                found = function(*(argument(type_, x, v) for type_, x in zip(parameters, values, strict=True)))
                for n, x in enumerate([found] if n_results == 1 else found):
                    results[n] = x.value if isinstance(kind, Lanes) else builder.insert_value(results[n], x.value, v)
            return results[0] if n_results == 1 else context.make_tuple(builder, out, results)

        return out(*parameters), emit

    return as_intrinsic(typed, function)


@formula()
def add(a, b):
    """a + b."""
    return a + b


@formula()
def multiply(a, b):
    """a * b."""
    return a * b


@formula()
def divide(a, b):
    """a / b."""
    return a / b
