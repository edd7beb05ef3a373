"""What a machine can do at most: loops that only stream, gather, multiply or divide, for all kernels' roofs."""

import sys
from pathlib import Path

from numba import prange

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel

sys.path.insert(0, str(Path(__file__).parents[1] / "asv_benchmarks"))
from benchmarks.bound import GROUP, fma_row


@kernel("a")
def triad(n_vectors):
    """a = b + c * 0.5: two streams read and one written, by a fixed part of the rows for each worker.

    in    b, c  (n_rows, K)  float32 or float64, K = n_vectors * 64 bytes
    out   a     (n_rows, K)  overwritten
    cost  2 n_rows K flops, three streams over n_rows K numbers
    """

    def loop(b, c, a, n_workers):
        for worker in prange(n_workers):
            for i in range(worker * len(a) // n_workers, (worker + 1) * len(a) // n_workers):
                x = simd.load(c, i, n_vectors)
                simd.store(a, i, lanes.multiply_add(x, simd.fill_like(x, 0.5), simd.load(b, i, n_vectors)))

    return loop


@kernel("out")
def gather_rows(n_vectors):
    """Sum rows of a table in the order of `indices`, a part for each worker, several sums at once.

    in    indices (n,)            int32, rows of V
          u       (1, K)          of the dtype of V, what rows are multiplied by
          V       (n_rows, K)     float32 or float64, K = n_vectors * 64 bytes
    out   out     (n_workers, K)  overwritten; u times the sum of each worker's rows
    cost  2 n K flops; gathers n K itemsize bytes of V, and the first-level cache hides no latency of a chain of sums
    """
    ahead = 4 * GROUP if n_vectors <= 8 else 0
    several = n_vectors <= 4  # wider rows are as many chains by themselves

    def loop(indices, u, V, out, n_workers):
        for worker in prange(n_workers):
            start, stop = worker * len(indices) // n_workers, (worker + 1) * len(indices) // n_workers
            x = simd.load(u, 0, n_vectors)
            s0 = s1 = s2 = s3 = simd.zeros(V, n_vectors)
            whole = stop - (stop - start) % GROUP
            for p in range(start, whole, GROUP):
                if ahead:
                    simd.prefetch(V, indices, min(p + ahead, indices.shape[0] - GROUP), n_vectors)
                if several:
                    s0 = fma_row(s0, x, V, indices, p)
                    s1 = fma_row(s1, x, V, indices, p + 1)
                    s2 = fma_row(s2, x, V, indices, p + 2)
                    s3 = fma_row(s3, x, V, indices, p + 3)
                else:
                    for q in range(p, p + GROUP):
                        s0 = fma_row(s0, x, V, indices, q)
            for p in range(whole, stop):
                s0 = fma_row(s0, x, V, indices, p)
            simd.store(out, worker, simd.add(simd.add(s0, s1), simd.add(s2, s3)))

    return loop


@kernel("out")
def fma_chains(n_vectors):
    """Fused multiply-adds on vectors that never leave their registers, `n_vectors` chains side by side.

    in    factors (2,)            float64, what is multiplied by and what is added
          n       (1,)            int64, rounds for each worker
    out   out     (n_workers, K)  float32 or float64, K = n_vectors * 64 bytes; overwritten
    cost  2 n n_workers K flops
    """

    def loop(factors, n, out, n_workers):
        for worker in prange(n_workers):
            acc = simd.zeros(out, n_vectors)
            a, b = simd.fill_like(acc, factors[0]), simd.fill_like(acc, factors[1])
            for _ in range(n[0]):
                acc = lanes.multiply_add(acc, a, b)
            simd.store(out, worker, acc)

    return loop


@kernel("out")
def division_chains(n_vectors):
    """As `fma_chains`, with divisions: x becomes b / x, and a again in the next round.

    cost  n n_workers K divisions
    """

    def loop(factors, n, out, n_workers):
        for worker in prange(n_workers):
            zero = simd.zeros(out, n_vectors)
            acc, b = simd.fill_like(zero, factors[0]), simd.fill_like(zero, factors[1])
            for _ in range(n[0]):
                acc = simd.divide(b, acc)
            simd.store(out, worker, acc)

    return loop
