"""What a machine can do at most: `gather_fma`, a contraction that only fetches its rows, and roofs for all kernels."""

import numpy as np
from numba import prange
from numba.core import types

from fastpmf.counts import MemoryCounts, Side
from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels._llvm import I64, call_intrinsic, element_pointer, load_vector, operation, row_pointer

GROUP = simd.GROUP


@operation(lambda acc, u, V, indices, p: acc + u * V[indices[p]])
def fma_row(typingctx, acc, u, V, indices, p):
    """fma_row(acc, u, V, indices, p) -> Tile, acc + u * V[j] elementwise, j the column of entry p."""

    def emit(context, builder, signature, args):
        out, u_, V_, indices_, p_ = args
        j = builder.load(element_pointer(context, builder, indices, indices_, p_))
        j = builder.zext(j, I64) if j.type.width < 64 else j
        row = row_pointer(context, builder, V, V_, j)
        for k in range(acc.n_vectors):
            a, total = (builder.extract_value(tile, k) for tile in (u_, out))
            fma = call_intrinsic(builder, "fma", a, load_vector(builder, row, acc.dtype, k), total)
            out = builder.insert_value(out, fma, k)
        return out

    return acc(acc, u, V, indices, types.intp), emit


@kernel("out", "partial")
def gather_fma(n_vectors):
    """Gather what `ratio_contract` gathers, all columns in one panel, with one FMA per vector and nothing else.

    out[i] = sum over stored (i, j) of  U[i] * V[j], elementwise

    in    indices, blocks, U, V   as in `ratio_contract`
          indptr  (n_rows + 1,) int64
    out   out     (n_rows, K)   overwritten, except split rows
          partial (n_slots, K)  the pieces of split rows
    cost  2 nnz K flops; gathers nnz K itemsize bytes of V, reading as far ahead as `ratio_contract`, without which
          this is slower where V outgrows the caches. Rows of a single vector are bound by the latency of their chain
          of additions, here as there.
    """
    ahead = 4 * GROUP if n_vectors <= 8 else 0

    def loop(indices, indptr, blocks, U, V, out, partial, n_workers):
        counter = np.zeros(1, np.int64)
        for _ in prange(n_workers):
            b = simd.take(counter)
            while b < blocks.shape[0]:
                slot = blocks[b, 4]
                for i in range(blocks[b, 0], blocks[b, 1]):
                    start, stop = max(indptr[i], blocks[b, 2]), min(indptr[i + 1], blocks[b, 3])
                    whole = stop - (stop - start) % GROUP
                    u, acc = simd.load(U, i, n_vectors), simd.zeros(U, n_vectors)
                    for p in range(start, whole, GROUP):
                        if ahead:
                            simd.prefetch(V, indices, min(p + ahead, indices.shape[0] - GROUP), n_vectors)
                        for q in range(p, p + GROUP):
                            acc = fma_row(acc, u, V, indices, q)
                    for p in range(whole, stop):
                        acc = fma_row(acc, u, V, indices, p)
                    if slot < 0:
                        simd.store(out, i, acc)
                    else:
                        simd.store(partial, slot, acc)
                b = simd.take(counter)

    return loop


def gather(counts: MemoryCounts, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
    """`MemoryCounts.contract`, reduced to its gather."""
    X = counts.side(side)
    blocks, splits = X.work
    partial = np.empty((splits[-1, 2] if len(splits) else 0, U.shape[1]), U.dtype)
    n_vectors = U.shape[1] * U.itemsize // simd.VECTOR_BYTES
    gather_fma(X.indices, X.indptr, blocks, U, V, out, partial, n_vectors=n_vectors)


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
