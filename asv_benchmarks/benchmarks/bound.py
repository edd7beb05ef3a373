"""What a machine can do at most: `gather_fma`, a contraction that only fetches its rows."""

import numpy as np
from numba import prange
from numba.core import types

from fastpmf.counts import MemoryCounts, Side
from fastpmf.kernels import simd
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
