"""Special functions that Numba lacks, on vectors, for use in a `formula`.

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
times max(1, |digamma(x)|). The logarithm, digamma and log Gamma are for float64 only.

Source: Abramowitz & Stegun, "Handbook of mathematical functions" (1964), 6.1.15, 6.1.40 and 6.3.18.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from fastpmf.kernels._llvm import I32, I64, constant
from fastpmf.kernels.formula import Vector, fma, formula, where

_FAR = 8.0
# B_2n / (2 n) and B_2n / (2 n (2 n - 1)), n from 1 on
_DIGAMMA = [1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160]
_STIRLING = [b / (2 * n - 1) for n, b in enumerate(_DIGAMMA, 1)]
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class _Constants(NamedTuple):
    """Constants of the formulas for one dtype."""

    above: list[float]  # coefficients of P and of Q
    below: list[float]
    root: tuple[float, float]  # x0, in two parts
    n_digamma: int  # terms of digamma's series from x = 8 on
    n_exp: int  # terms of the series of the exponential
    lowest: float  # e to this is still a normal number
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
    np.dtype(np.float64): _Constants(
        _ABOVE, _BELOW, (0.46163214496836236, -1.5522348162858677e-17), 8, 14, -708.0,
        (0.693147180369123816490, 1.90821492927058770002e-10), 52,
    ),
    np.dtype(np.float32): _Constants(
        _ABOVE32, _BELOW32, (0.4616321325302124, 1.243815006546356e-08), 4, 8, -87.0,
        (0.693359375, -0.00021219444170128554), 23,
    ),
}  # fmt: skip


def _series(terms: list[float], w: Any) -> Any:
    """The polynomial in w with these coefficients."""
    total = terms[-1]
    for term in terms[-2::-1]:
        total = fma(total, w, term)
    return total


def _halves(terms: list[float], x: Any) -> Any:
    """As `_series`, with even and odd powers apart, a chain of half as many roundings."""
    square = x * x
    return fma(_series(terms[1::2], square), x, _series(terms[::2], square))


def height(x: Any) -> Any:
    """1 where x < 8, else x."""
    return where(x < _FAR, 1.0, x)


def decay(x: Any) -> Any:
    """log height(x) - digamma(x)."""
    c, one = _CONSTANTS[x.dtype], 1.0 / x
    w = one * one
    far = fma(_series(_DIGAMMA[: c.n_digamma], w) * one, one, one * 0.5)
    near = fma(c.root[0] - x + c.root[1], _halves(c.above, x) / _halves(c.below, x), one)
    return where(x < _FAR, near, far)


def log_gamma_and_digamma(x: Any) -> tuple[Any, Any]:
    """log Gamma(x) and its derivative, which share a logarithm."""
    near = x < _FAR
    y, t = where(near, x + _FAR, x), x * (x + 7.0)
    product = where(near, _series([720.0, 252.0, 28.0, 1.0], t) * t, 1.0)  # x (x + 1) ... (x + 7)
    one, log_y = 1.0 / y, log(y)
    out = fma(_series(_STIRLING, one * one), one, _HALF_LOG_2PI)
    return out - y + (y - 0.5) * log_y - log(product), where(near, 0.0, log_y) - decay(x)


def exp(x: Any) -> Any:
    """e to the power x, for x <= 0; at least the smallest normal number."""
    c = _CONSTANTS[x.dtype]
    x = where(x < c.lowest, c.lowest, x)
    if not isinstance(x, Vector):
        return np.exp(x)
    magic, b = 1.5 * 2.0**c.digits, x.builder
    turns = fma(x, 1 / math.log(2), magic)
    n = turns - magic
    r = fma(n, -c.log2[1], fma(n, -c.log2[0], x))
    power = _series([1 / math.factorial(i) for i in range(c.n_exp)], r)
    ints = ir.VectorType(I64 if c.digits == 52 else I32, x.value.type.count)
    shift = b.shl(b.bitcast(turns.value, ints), constant(ints, c.digits))
    return Vector(b, b.bitcast(b.add(b.bitcast(power.value, ints), shift), x.value.type))


def log(x: Any) -> Any:
    """Natural logarithm in float64, to two units in the last place; -inf at 0, NaN below it and at NaN.

    x = 2^e m with m in [1/sqrt 2, sqrt 2), log x = e log 2 + 2 atanh f with f = (m - 1) / (m + 1), |f| < 0.172;
    ten terms of the series of atanh leave less than 2e-17 of it.
    """
    if not isinstance(x, Vector):
        return np.log(x)
    b, floats, ints = x.builder, x.value.type, ir.VectorType(I64, x.value.type.count)

    def bits_of(number: float) -> int:
        return int(np.array(number).view(np.int64))

    tiny = x < 2.0**-1022  # subnormal: bring it into range first
    # Counted from 1/sqrt 2, the exponent field is e and the rest is m
    bits = b.bitcast(where(tiny, x * 2.0**54, x).value, ints)
    e = b.ashr(b.sub(bits, constant(ints, bits_of(math.sqrt(0.5)) & ~0xFFFFFFFF)), constant(ints, 52))
    m = Vector(b, b.bitcast(b.sub(bits, b.shl(e, constant(ints, 52))), floats))
    e = b.sub(e, b.select(tiny.value, constant(ints, 54), constant(ints, 0)))
    f = (m - 1.0) / (m + 1.0)
    square = f * f
    tail = f * square * _series([2.0 / odd for odd in range(3, 23, 2)], square)
    # A small integer as a float, where no instruction converts whole vectors: 2^52 + 2^51 has it in its last bits
    magic = 1.5 * 2.0**52
    exponent = Vector(b, b.bitcast(b.add(e, constant(ints, bits_of(magic))), floats)) - magic
    out = fma(exponent, math.log(2), fma(2.0, f, tail))
    for relation, bound, value in (("==", math.inf, math.inf), ("==", 0.0, -math.inf), ("<", 0.0, math.nan)):
        at_bound = b.fcmp_ordered(relation, x.value, constant(floats, bound))
        out = Vector(b, b.select(at_bound, constant(floats, value), out.value))
    return Vector(b, b.select(b.fcmp_unordered("uno", x.value, x.value), x.value, out.value))


@formula()
def x_log(x, y):
    """x log y, in float64; exactly 0 where x is 0."""
    return x * log(where(x > 0.0, y, 1.0))
