"""Random numbers without a state to pass on, so that what is drawn does not depend on who draws it and when."""

import numpy as np
from llvmlite import ir
from numba.core import types

from fastpmf.kernels._llvm import I64, operation

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_UNIT = 2.0**-53


def _uniform_meaning(seed, stream, n):
    z = np.uint64(seed)
    for step in (np.uint64(stream), np.uint64(n)):
        z = z + (step + np.uint64(1)) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
        z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * _UNIT


@operation(_uniform_meaning)
def uniform(typingctx, seed, stream, n):
    """uniform(seed, stream, n) -> float64 in [0, 1), the n-th number of a stream, whoever asks for it and when.

    A counter is hashed, so nothing has to be remembered: the finaliser of SplitMix64 over the stream, then over n.
    Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17.
    """

    def emit(context, builder, signature, args):
        def times(z, factor):
            return builder.mul(z, ir.Constant(I64, factor - (1 << 64)))

        def folded(z, bits):
            return builder.xor(z, builder.lshr(z, I64(bits)))

        z, *steps = args
        for step in steps:
            z = builder.add(z, times(builder.add(step, I64(1)), _GOLDEN))
            z = folded(times(folded(times(folded(z, 30), _FIRST), 27), _SECOND), 31)
        return builder.fmul(builder.uitofp(builder.lshr(z, I64(11)), ir.DoubleType()), ir.DoubleType()(_UNIT))

    return types.float64(types.int64, types.int64, types.int64), emit
