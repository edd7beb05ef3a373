"""Formulas on vectors, written once: NumPy evaluates them with the JIT off, and Numba gets their LLVM instructions.

A formula is a plain function of vectors and numbers:

    @formula(2)
    def sum_and_larger(a, b, factor):
        return fma(a, factor, b), where(a > b, a, 2.0 * b)

It uses `+ - * /`, comparisons, and the functions below, and returns one vector or, as here, a tuple of so many. It
can't branch on vectors; a number that it is called with is the same in every element. Each instruction rounds as IEEE
arithmetic says, and none is reordered or contracted. To Numba a whole formula is one call, which keeps compilation
short: typing a call takes it longer than emitting twenty instructions.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import config, types

from fastpmf.kernels._llvm import FLOATS, GROUP, I32, Lanes, Tile, call_intrinsic, constant, shuffle, varied, vector


class _Vector:
    """One LLVM vector while a formula is turned into instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _apply(self, instruction: str, a: Any, b: Any) -> "_Vector":
        return _Vector(self.builder, getattr(self.builder, instruction)(self._of(a), self._of(b)))

    def _of(self, x: Any) -> Any:
        return x.value if isinstance(x, _Vector) else constant(self.value.type, x)

    def _compare(self, relation: str, other: Any) -> "_Mask":
        return _Mask(self, self.builder.fcmp_ordered(relation, self.value, self._of(other)))

    def __add__(self, other: Any) -> "_Vector":
        return self._apply("fadd", self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "_Vector":
        return self._apply("fsub", self, other)

    def __rsub__(self, other: Any) -> "_Vector":
        return self._apply("fsub", other, self)

    def __mul__(self, other: Any) -> "_Vector":
        return self._apply("fmul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "_Vector":
        return self._apply("fdiv", self, other)

    def __rtruediv__(self, other: Any) -> "_Vector":
        return self._apply("fdiv", other, self)

    def __neg__(self) -> "_Vector":
        return self._apply("fsub", 0.0, self)

    def __gt__(self, other: Any) -> "_Mask":
        return self._compare(">", other)

    def __lt__(self, other: Any) -> "_Mask":
        return self._compare("<", other)

    def __ge__(self, other: Any) -> "_Mask":
        return self._compare(">=", other)

    def __le__(self, other: Any) -> "_Mask":
        return self._compare("<=", other)


class _Mask:
    """The result of a comparison, which is false where a number is NaN."""

    def __init__(self, vector: _Vector, value: Any) -> None:
        self.vector, self.value = vector, value

    def __bool__(self) -> bool:
        raise TypeError("a formula can't branch on vectors: use `where`")

    def select(self, a: Any, b: Any) -> _Vector:
        like, builder = self.vector, self.vector.builder
        return _Vector(builder, builder.select(self.value, like._of(a), like._of(b)))


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
    like = next((x for x in (a, b, c) if isinstance(x, _Vector)), None)
    if like is None:
        return a * b + c
    return _Vector(like.builder, call_intrinsic(like.builder, "fma", like._of(a), like._of(b), like._of(c)))


def sqrt(a: Any) -> Any:
    """The square root."""
    if isinstance(a, _Vector):
        return _Vector(a.builder, call_intrinsic(a.builder, "sqrt", a.value))
    return np.sqrt(a)


def formula(n_results: int = 1) -> Callable[[Callable], Callable]:
    """Make an operation of a function of vectors, all of one type, and numbers; it returns so many vectors.

    A number is float64 where the kernel calls it, and is rounded to the vectors' dtype.
    """
    return lambda function: _evaluated(function, n_results) if config.DISABLE_JIT else _compiled(function, n_results)


def _evaluated(function: Callable, n_results: int) -> Callable:
    def evaluate(*args: Any) -> Any:
        dtype = next(x.dtype for x in args if isinstance(x, np.ndarray))
        with np.errstate(all="ignore"):  # as compiled code is
            found = function(*(x if isinstance(x, np.ndarray) else float(x) for x in args))
        if n_results == 1:
            return found.astype(dtype, copy=False)
        return tuple(x.astype(dtype, copy=False) for x in found)

    return evaluate


def _compiled(function: Callable, n_results: int) -> Callable:
    def typed(typingctx, *args):
        kind = next(x for x in args if isinstance(x, Tile | Lanes))
        out = kind if n_results == 1 else types.UniTuple(kind, n_results)
        parameters = [x if isinstance(x, Tile | Lanes) else types.float64 for x in args]

        def emit(context, builder, signature, values):
            splat = {}

            def vectors(v):
                for place, (type_, value) in enumerate(zip(parameters, values, strict=True)):
                    if type_ is types.float64:
                        if place not in splat:
                            splat[place] = _splat(builder, kind, value)
                        yield _Vector(builder, splat[place])
                    elif isinstance(type_, Lanes):
                        yield _Vector(builder, value)
                    else:
                        yield _Vector(builder, builder.extract_value(value, v))

            results = [ir.Constant(context.get_value_type(kind), ir.Undefined)] * n_results
            for v in range(1 if isinstance(kind, Lanes) else kind.n_vectors):
                found = function(*vectors(v))
                for n, x in enumerate([found] if n_results == 1 else found):
                    results[n] = x.value if isinstance(kind, Lanes) else builder.insert_value(results[n], x.value, v)
            return results[0] if n_results == 1 else context.make_tuple(builder, out, results)

        return out(*parameters), emit

    return varied(typed, function)


def _splat(builder: Any, kind: Any, number: Any) -> Any:
    """The float64 number, rounded, in every element of a vector."""
    if kind.dtype is types.float32:
        number = builder.fptrunc(number, FLOATS[types.float32])
    whole = ir.VectorType(number.type, GROUP) if isinstance(kind, Lanes) else vector(kind.dtype)
    one = builder.insert_element(ir.Constant(whole, ir.Undefined), number, I32(0))
    return shuffle(builder, one, one, [0] * whole.count)


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


@formula()
def larger(a, b):
    """The larger of each pair; b where either is NaN."""
    return maximum(a, b)


@formula()
def positive_or_infinite(a):
    """a where it is positive, else infinity: a divisor that never is 0."""
    return where(a > 0.0, a, math.inf)
