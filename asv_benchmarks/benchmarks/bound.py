"""A bound on the speed of the contraction: the kernel `gather_fma`, which only gathers the same rows."""

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.counts import MemoryCounts
from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel, row_width
from fastpmf.kernels.contract import AHEAD, GROUP
from fastpmf.kernels.formula import multiply
from fastpmf.kernels.launch import arguments


@kernel(writes=2)
def gather_fma(table, block, worker):
    """Gather what `ratio_contract` gathers, with one FMA per vector and nothing else; a task is a block.

    out[i, k] = U[i, k] * sum over stored (i, j) of  V[j, k]

    in    indices, blocks, U, V, n_vectors   as in `ratio_contract`
          indptr  (n_rows + 1,) int64
          ones    (GROUP,)      dtype of U, multiplied with gathered rows before they are added
    out   out     (n_rows, K)   overwritten, except split rows
          partial (n_slots, K)  the sums of the segments of split rows
    cost  2 nnz K flops; gathers nnz K itemsize bytes of V. Prefetches as far ahead as `ratio_contract`, since it would
          otherwise be slower for V larger than the caches. Both kernels are bound by the latency of their additions
          if a row has a single vector.
    """
    indices, indptr, blocks, U, V, n_vectors, ones, out, partial = arguments(table)
    first_entry, end_entry, slot = blocks[block, 2], blocks[block, 3], blocks[block, 4]
    last, weights = indices.shape[0] - GROUP, simd.counts(ones, 0, GROUP, U)
    for i in range(blocks[block, 0], blocks[block, 1]):
        start, stop = max(indptr[i], first_entry), min(indptr[i + 1], end_entry)
        tail = stop - (stop - start) % GROUP
        target, row = (out, i) if slot < 0 else (partial, slot)
        s = simd.accumulator(target, row, 0, n_vectors)
        for p in range(start, tail, GROUP):
            simd.prefetch(V, indices, min(p + AHEAD, last), n_vectors)
            s = simd.add_rows(s, weights, V, simd.rows(indices, p, GROUP))
        if tail < stop:
            n = stop - tail
            s = simd.add_rows(s, simd.counts(ones, 0, n, U), V, simd.rows(indices, tail, n))
        simd.store(target, row, n_vectors, s)
        for c in range(simd.n_chunks(U, n_vectors)):
            v = simd.chunk(c, n_vectors)
            simd.store(target, row, v, multiply(simd.load(U, i, v), simd.load(target, row, v)))


def gather(counts: MemoryCounts, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
    """The gathers of `MemoryCounts.contract` without its other arithmetic."""
    X = counts.side(side)
    blocks, splits = X.work
    partial = np.empty((splits[-1, 2] if len(splits) else 0, U.shape[1]), U.dtype)
    gather_fma(len(blocks), X.indices, X.indptr, blocks, U, V, row_width(U), np.ones(GROUP, U.dtype), out, partial)
