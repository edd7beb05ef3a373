"""What a machine can do at most: `gather_fma`, a contraction that only fetches its rows."""

import numpy as np
from numba.core import types

from fastpmf.counts import MemoryCounts, Side
from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels._llvm import (
    I64,
    VECTOR_BYTES,
    Width,
    call_intrinsic,
    element_pointer,
    load_vector,
    operation,
    row_pointer,
)
from fastpmf.kernels.contract import AHEAD
from fastpmf.kernels.launch import arguments

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


@kernel(writes=2)
def gather_fma(table, block, worker):
    """Gather what `ratio_contract` gathers, all columns in one panel, with one FMA per vector and nothing else.

    out[i] = sum over stored (i, j) of  U[i] * V[j], elementwise

    in    indices, blocks, U, V   as in `ratio_contract`
          indptr     (n_rows + 1,) int64
          n_vectors  Width        of the rows of U and V, never 0
    out   out        (n_rows, K)  overwritten, except split rows
          partial    (n_slots, K) the pieces of split rows
    cost  2 nnz K flops; gathers nnz K itemsize bytes of V, reading as far ahead as `ratio_contract`, without which
          this is slower where V outgrows the caches. Rows of a single vector are bound by the latency of their chain
          of additions, here as there.
    """
    indices, indptr, blocks, U, V, n_vectors, out, partial = arguments(table)
    slot, last = blocks[block, 4], indices.shape[0] - GROUP
    for i in range(blocks[block, 0], blocks[block, 1]):
        start, stop = max(indptr[i], blocks[block, 2]), min(indptr[i + 1], blocks[block, 3])
        whole = stop - (stop - start) % GROUP
        u, acc = simd.load_tile(U, i, n_vectors), simd.accumulator(out, i, 0, n_vectors)
        for p in range(start, whole, GROUP):
            simd.prefetch(V, indices, min(p + AHEAD, last), n_vectors)
            for q in range(p, p + GROUP):
                acc = fma_row(acc, u, V, indices, q)
        for p in range(whole, stop):
            acc = fma_row(acc, u, V, indices, p)
        if slot < 0:
            simd.store_tile(out, i, acc)
        else:
            simd.store_tile(partial, slot, acc)


def width(A: np.ndarray) -> Width:
    """The vectors in a row of a padded factor, however many."""
    return Width(A.shape[1] * A.itemsize // VECTOR_BYTES)


def gather(counts: MemoryCounts, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
    """`MemoryCounts.contract`, reduced to its gather."""
    X = counts.side(side)
    blocks, splits = X.work
    partial = np.empty((splits[-1, 2] if len(splits) else 0, U.shape[1]), U.dtype)
    gather_fma(len(blocks), X.indices, X.indptr, blocks, U, V, width(U), out, partial)
