"""Special functions that Numba lacks, on vectors: what posteriors of Gamma distributions need.

    digamma(x) = (x - x0) P(x) / Q(x) - 1 / x                                          where x < 8
               = log x - 1 / (2 x) - w / 12 + w^2 / 120 - ... + 3617 w^8 / 8160        elsewhere, w = 1 / x^2

within 7e-16 max(1, |digamma(x)|) for every normal x > 0, under six units in the last place of that. P / Q is a rational
of degrees 8 and 8, within 1.5e-16 of digamma(x + 1) / (x - x0), x0 its root, on [0, 8], all of whose coefficients are
positive. The exponential needs no logarithm where the other has one: exp(digamma(x)) = height(x) exp(-decay(x)), with
height 1 or x, is within 7e-16 of itself times max(1, |digamma(x)|). exp(x) is within one unit in the last place for
x <= 0, and never less than a normal number.

log Gamma takes eight steps of the recurrence to get to where Stirling's series is good; within 1e-14 of
max(1, |log Gamma(x)|).

In float32 the rational has degrees 4 and 4 and the sums have fewer terms: exp(digamma(x)) is within 5e-7 of itself
times max(1, |digamma(x)|). log Gamma is always float64.

As in `simd`, each operation has a NumPy meaning and its instructions.

Source: Abramowitz & Stegun, "Handbook of mathematical functions" (1964), 6.1.15, 6.1.40 and 6.3.18.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types

from fastpmf.kernels._llvm import I32, I64, Tile, call_intrinsic, constant, log_lanes, operation
from fastpmf.kernels.simd import fold_lanes

_FAR = 8.0
# B_2n / (2 n) and B_2n / (2 n (2 n - 1)), n from 1 on
_DIGAMMA = [1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160]
_STIRLING = [b / (2 * n - 1) for n, b in enumerate(_DIGAMMA, 1)]


class _Constants(NamedTuple):
    """What the formulas need of a floating-point type."""

    above: list[float]  # P and Q
    below: list[float]
    root: tuple[float, float]  # x0, in two parts
    far: int  # terms of digamma's series from x = 8 on
    power: int  # terms of the series of the exponential
    least: float  # e to this is still a normal number
    log2: tuple[float, float]  # in two parts, the first of few bits
    digits: int  # of a fraction; 1.5 2^digits added to a small number leaves its nearest integer in the lowest bits


_ABOVE = [
    1.2503801375034054, 2.060014245053417, 1.2566054516600254, 0.36362120783329155, 0.05269413486814053,
    0.00368660584908566, 0.00010903620482619954, 9.735457058646063e-07, 4.4965071157884036e-10,
]  # fmt: skip
_BELOW = [
    1.0, 2.3310571867167518, 1.9965738459545703, 0.8242083545920935, 0.1775882543088363, 0.01996961652889508,
    0.001098096754056558, 2.5198876658369966e-05, 1.63071909721988e-07,
]  # fmt: skip
_ABOVE32 = [1.2503801088224145, 1.2471201827351868, 0.3090046252018746, 0.0171896706487622, 4.516489537430241e-05]
_BELOW32 = [1.0, 1.6809381955200917, 0.7943515449740366, 0.11654846732267497, 0.003873757149111572]
_CONSTANTS = {
    64: _Constants(
        _ABOVE, _BELOW, (0.46163214496836236, -1.5522348162858677e-17), 8, 14, -708.0,
        (0.693147180369123816490, 1.90821492927058770002e-10), 52,
    ),
    32: _Constants(
        _ABOVE32, _BELOW32, (0.4616321325302124, 1.243815006546356e-08), 4, 8, -87.0,
        (0.693359375, -0.00021219444170128554), 23,
    ),
}  # fmt: skip
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _height(x):
    return np.where(x < _FAR, 1.0, x)


def _constants(dtype: Any) -> _Constants:
    return _CONSTANTS[dtype.bitwidth if isinstance(dtype, types.Float) else 8 * np.dtype(dtype).itemsize]


def _decay(x):
    c = _constants(x.dtype)
    near = (x - c.root[0] - c.root[1]) * _series(c.above, x) / _series(c.below, x) - 1 / x
    far = 0.5 / x + _series(_DIGAMMA[: c.far], 1 / (x * x)) / (x * x)
    return np.where(x < _FAR, -near, far)


def _series(terms, w):
    total = terms[-1]
    for term in terms[-2::-1]:
        total = total * w + term
    return total


def _log_gamma(x):
    y = np.where(x < _FAR, x + _FAR, x)
    t = x * (x + 7)
    passed = np.where(x < _FAR, (((t + 28) * t + 252) * t + 720) * t, 1)
    return (y - 0.5) * np.log(y) - y + _HALF_LOG_2PI + _series(_STIRLING, 1 / (y * y)) / y - np.log(passed)


class _Builder:
    """The same formulas as instructions on vectors."""

    def __init__(self, builder: Any, x: Any) -> None:
        self._builder, self._type = builder, x.type
        self._constants = _CONSTANTS[32 if isinstance(x.type.element, ir.FloatType) else 64]

    def number(self, value: float) -> Any:
        return constant(self._type, value)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return call_intrinsic(self._builder, "fma", a, b, c)

    def series(self, terms: list[float], w: Any) -> Any:
        total = self.number(terms[-1])
        for term in terms[-2::-1]:
            total = self.fma(total, w, self.number(term))
        return total

    def halves(self, terms: list[float], x: Any) -> Any:
        """As `series`, even and odd powers apart, which rounds half as often in a row."""
        square = self._builder.fmul(x, x)
        return self.fma(self.series(terms[1::2], square), x, self.series(terms[::2], square))

    def near(self, x: Any) -> Any:
        return self._builder.fcmp_ordered("<", x, self.number(_FAR))

    def height(self, x: Any) -> Any:
        return self._builder.select(self.near(x), self.number(1.0), x)

    def decay(self, x: Any) -> Any:
        b, c = self._builder, self._constants
        one = b.fdiv(self.number(1.0), x)
        w = b.fmul(one, one)
        far = self.fma(b.fmul(self.series(_DIGAMMA[: c.far], w), one), one, b.fmul(one, self.number(0.5)))
        way = b.fsub(b.fsub(self.number(c.root[0]), x), self.number(-c.root[1]))
        share = b.fdiv(self.halves(c.above, x), self.halves(c.below, x))
        return b.select(self.near(x), self.fma(way, share, one), far)

    def digamma(self, x: Any) -> Any:
        return self._builder.fsub(log_lanes(self._builder, self.height(x)), self.decay(x))

    def exp(self, x: Any) -> Any:
        b, c = self._builder, self._constants
        least, magic = self.number(c.least), self.number(1.5 * 2.0**c.digits)
        x = b.select(b.fcmp_ordered("<", x, least), least, x)
        turns = self.fma(x, self.number(1 / math.log(2)), magic)
        n = b.fsub(turns, magic)
        r = self.fma(n, self.number(-c.log2[1]), self.fma(n, self.number(-c.log2[0]), x))
        power = self.series([1 / math.factorial(i) for i in range(c.power)], r)
        ints = ir.VectorType(I64 if c.digits == 52 else I32, self._type.count)
        shift = b.shl(b.bitcast(turns, ints), constant(ints, c.digits))
        return b.bitcast(b.add(b.bitcast(power, ints), shift), self._type)

    def log_gamma(self, x: Any) -> Any:
        b = self._builder
        y = b.select(self.near(x), b.fadd(x, self.number(_FAR)), x)
        t = b.fmul(x, b.fadd(x, self.number(7.0)))
        product = b.fmul(self.series([720.0, 252.0, 28.0, 1.0], t), t)  # x (x + 1) ... (x + 7)
        one = b.fdiv(self.number(1.0), y)
        product = b.select(self.near(x), product, self.number(1.0))
        out = self.fma(self.series(_STIRLING, b.fmul(one, one)), one, self.number(_HALF_LOG_2PI))
        out = b.fadd(b.fsub(out, y), b.fmul(b.fsub(y, self.number(0.5)), log_lanes(b, y)))
        return b.fsub(out, log_lanes(b, product))


def _wide(builder: Any, tile: Tile, value: Any) -> list[Any]:
    """The vectors of a tile, as float64."""
    vectors = [builder.extract_value(value, v) for v in range(tile.n_vectors)]
    if tile.dtype is types.float64:
        return vectors
    return [builder.fpext(v, ir.VectorType(ir.DoubleType(), v.type.count)) for v in vectors]


def _elementwise(meaning: Callable, formula: Callable) -> Callable:
    """An operation on each element of a tile, in its dtype."""

    @operation(lambda tile: np.asarray(meaning(tile), tile.dtype))
    def unary(typingctx, tile):
        def emit(context, builder, signature, args):
            out = args[0]
            for v in range(tile.n_vectors):
                x = builder.extract_value(args[0], v)
                out = builder.insert_value(out, formula(_Builder(builder, x), x), v)
            return out

        return tile(tile), emit

    return unary


height = _elementwise(_height, lambda b, x: b.height(x))
decay = _elementwise(_decay, lambda b, x: b.decay(x))
exp = _elementwise(lambda x: np.exp(np.maximum(x, _constants(x.dtype).least)), lambda b, x: b.exp(x))
digamma = _elementwise(lambda x: np.log(_height(x)) - _decay(x), lambda b, x: b.digamma(x))
log_gamma = _elementwise(_log_gamma, lambda b, x: b.log_gamma(x))


def _gamma_terms_meaning(shape, rate, prior):
    shape, rate, prior = (A.astype(np.float64) for A in (shape, rate, prior))
    there = prior > 0
    shape, rate = np.where(there, shape, 1), np.where(there, rate, 1)
    log_mean = np.log(_height(shape)) - _decay(shape) - np.log(rate)
    terms = (prior - shape) * log_mean - shape * np.log(rate) + _log_gamma(shape) + shape
    return float(np.where(there, terms, 0).sum()), float(np.where(there, log_mean, 0).sum())


@operation(_gamma_terms_meaning)
def total_gamma_terms(typingctx, shape, rate, prior):
    """total_gamma_terms(shape, rate, prior) -> (float64, float64), sums over the elements where prior > 0 of

    (prior - shape) E log u - shape log rate + log Gamma(shape) + shape,  and of  E log u = digamma(shape) - log rate
    """
    tile = Tile(types.float64, 1)

    def emit(context, builder, signature, args):
        sums = []
        for s, r, a in zip(*(_wide(builder, shape, x) for x in args), strict=True):
            b = _Builder(builder, s)
            there = builder.fcmp_ordered(">", a, b.number(0.0))
            s, r = (builder.select(there, x, b.number(1.0)) for x in (s, r))
            log_rate = log_lanes(builder, r)
            log_mean = builder.fsub(b.digamma(s), log_rate)
            terms = builder.fadd(b.log_gamma(s), s)
            terms = builder.fsub(terms, builder.fmul(s, log_rate))
            terms = b.fma(builder.fsub(a, s), log_mean, terms)
            sums.append([builder.select(there, x, b.number(0.0)) for x in (terms, log_mean)])
        out = [fold_lanes(builder, tile, list(vectors), builder.fadd) for vectors in zip(*sums, strict=True)]
        return context.make_tuple(builder, types.UniTuple(types.float64, 2), out)

    return types.UniTuple(types.float64, 2)(shape, rate, prior), emit
