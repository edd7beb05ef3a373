"""The only data terms of every objective: per-row sums of x log rate, and of x log x."""

import numpy as np
from numba import prange

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel

GROUP = simd.GROUP


@kernel("out", "partial")
def log_rate(n_vectors):
    """Sum counts times log rates, one CSR row at a time.

    out[i] = sum over stored (i, j) of  data * log(U[i] . V[j])

    in    data, indices, blocks, splits, U, V   as in `ratio_contract`
          indptr     (n_rows + 1,) int64
    out   out        (n_rows,)  float64, overwritten; nats; -inf where a stored entry has rate 0
          partial    (n_slots,) float64, scratch for the pieces of split rows
    gives rates, logarithms and sums in float64 for any dtype of U and V; bitwise the same for any number of workers
    cost  2 nnz K flops and nnz logarithms; gathers nnz K itemsize bytes of V
    """

    def loop(data, indices, indptr, blocks, splits, U, V, out, partial, n_workers):
        counter = np.zeros(1, np.int64)
        for _ in prange(n_workers):
            b = simd.take(counter)
            while b < blocks.shape[0]:
                slot = blocks[b, 4]
                for i in range(blocks[b, 0], blocks[b, 1]):
                    start, stop = max(indptr[i], blocks[b, 2]), min(indptr[i + 1], blocks[b, 3])
                    whole = stop - (stop - start) % GROUP
                    u = simd.load(U, i, n_vectors)
                    total = 0.0
                    for p in range(start, whole, GROUP):
                        rate = simd.dots(u, V, simd.rows(indices, p, GROUP), out)
                        total = simd.sum_x_log(total, simd.counts(data, p, GROUP, out), rate)
                    if whole < stop:
                        rate = simd.dots(u, V, simd.rows(indices, whole, stop - whole), out)
                        total = simd.sum_x_log(total, simd.counts(data, whole, stop - whole, out), rate)
                    if slot < 0:
                        out[i] = total
                    else:
                        partial[slot] = total
                b = simd.take(counter)
        for r in range(splits.shape[0]):
            total = 0.0
            for slot in range(splits[r, 1], splits[r, 2]):
                total += partial[slot]
            out[splits[r, 0]] = total

    return loop


@kernel("out")
def log_count(n_vectors):
    """Sum counts times their own logarithms, one block of entries at a time.

    out[b] = sum over the entries of block b of  data * log(data)

    in    data   (nnz,)        counts > 0
          blocks (n_blocks, 5) int64, as in `ratio_contract`
    out   out    (n_blocks,)   float64, overwritten; nats
    gives bitwise the same result for any number of workers
    cost  nnz logarithms
    """

    def loop(data, blocks, out, n_workers):
        for b in prange(blocks.shape[0]):
            start, stop = blocks[b, 2], blocks[b, 3]
            whole = stop - (stop - start) % GROUP
            total = 0.0
            for p in range(start, whole, GROUP):
                x = simd.counts(data, p, GROUP, out)
                total = simd.sum_x_log(total, x, x)
            if whole < stop:
                x = simd.counts(data, whole, stop - whole, out)
                total = simd.sum_x_log(total, x, x)
            out[b] = total

    return loop
