"""What a machine can do at most: loops that only stream, gather, multiply or divide, for all kernels' roofs."""

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.contract import AHEAD, GROUP
from fastpmf.kernels.formula import divide, fma, formula
from fastpmf.kernels.launch import arguments

SUMS = 4  # that `gather_rows` keeps where a row has at most so many vectors
STEP = SUMS * GROUP


@formula()
def _fma(a, b, c):
    """a * b + c."""
    return fma(a, b, c)


@kernel(writes=1)
def triad(table, part, worker):
    """a = b + c * 0.5: two streams read and one written; a task is a part of the rows.

    in    b, c   (n_rows, K)    float32 or float64, K padded to whole vectors
          bounds (n_parts + 1,) int64, where parts begin
    out   a      (n_rows, K)    overwritten
    cost  2 n_rows K flops, three streams over n_rows K numbers
    """
    b, c, bounds, a = arguments(table)
    for i in range(bounds[part], bounds[part + 1]):
        for v in range(simd.width(a)):
            simd.store(a, i, v, _fma(simd.load(c, i, v), 0.5, simd.load(b, i, v)))


@kernel(writes=1)
def gather_rows(table, part, worker):
    """Sum rows of V in the order of `indices`; a task is a part of the indices.

    in    indices   (n,)              int32, rows of V
          bounds    (n_parts + 1,)    int64, where parts begin, multiples of STEP
          ones      (GROUP,)          of the dtype of V, what rows are multiplied by before they are added
          V         (n_rows, K)       float32 or float64, K padded to whole vectors
          n_vectors Width             of its rows
          several   int               1: keep SUMS sums at once; 0: one, as wide rows have as many chains by themselves
    out   out       (n_parts SUMS, K) overwritten; the sums of each part's rows
    cost  2 n K flops; gathers n K itemsize bytes of V, and the first-level cache hides no latency of a chain of sums
    """
    indices, bounds, ones, V, n_vectors, several, out = arguments(table)
    start, stop, last, weights = bounds[part], bounds[part + 1], len(indices) - GROUP, simd.counts(ones, 0, GROUP, V)
    first = part * SUMS
    s0, s1, s2, s3 = (
        simd.accumulator(out, first, 0, n_vectors), simd.accumulator(out, first + 1, 0, n_vectors),
        simd.accumulator(out, first + 2, 0, n_vectors), simd.accumulator(out, first + 3, 0, n_vectors),
    )  # fmt: skip
    if several:
        for p in range(start, stop, STEP):
            for q in range(p + AHEAD, p + AHEAD + STEP, GROUP):
                simd.prefetch(V, indices, min(q, last), n_vectors)
            s0 = simd.add_rows(s0, weights, V, simd.rows(indices, p, GROUP))
            s1 = simd.add_rows(s1, weights, V, simd.rows(indices, p + GROUP, GROUP))
            s2 = simd.add_rows(s2, weights, V, simd.rows(indices, p + 2 * GROUP, GROUP))
            s3 = simd.add_rows(s3, weights, V, simd.rows(indices, p + 3 * GROUP, GROUP))
    else:
        for p in range(start, stop, GROUP):
            simd.prefetch(V, indices, min(p + AHEAD, last), n_vectors)
            s0 = simd.add_rows(s0, weights, V, simd.rows(indices, p, GROUP))
    simd.store(out, first, n_vectors, s0)
    simd.store(out, first + 1, n_vectors, s1)
    simd.store(out, first + 2, n_vectors, s2)
    simd.store(out, first + 3, n_vectors, s3)


@kernel(writes=1)
def fma_chains(table, part, worker):
    """Fused multiply-adds on vectors that never leave their registers; a task is a row of out.

    in    factor, term float       what is multiplied by and what is added
          n            int         rounds
          n_vectors    Width       of the rows of out, chains side by side
    out   out   (n_parts, K)       float32 or float64, K padded to whole vectors; overwritten
    cost  2 n n_parts K flops
    """
    factor, term, n, n_vectors, out = arguments(table)
    chunk = simd.chunk(0, n_vectors)
    acc = simd.zero(out, chunk)
    for _ in range(n):
        acc = _fma(acc, factor, term)
    simd.store(out, part, chunk, acc)


@kernel(writes=1)
def division_chains(table, part, worker):
    """As `fma_chains`, with divisions: x, at first `first`, becomes dividend / x, and `first` again in the next round.

    cost  n n_parts K divisions
    """
    first, dividend, n, n_vectors, out = arguments(table)
    chunk = simd.chunk(0, n_vectors)
    acc = simd.fill_like(simd.zero(out, chunk), first)
    for _ in range(n):
        acc = divide(dividend, acc)
    simd.store(out, part, chunk, acc)
