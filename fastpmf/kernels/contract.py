"""The one pass over the stored counts that every model and solver here is built from: for rows, and for columns."""

import numpy as np
from numba import prange

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel

GROUP = simd.GROUP


@kernel("out", "partial")
def ratio_contract(n_vectors):
    """Contract count-to-rate ratios with V, one CSR row at a time.

    out[i, k] = sum over stored (i, j) of  data / (U[i] . V[j]) * V[j, k]

    in    data       (nnz,)        counts > 0: uint8, uint16, int32, float32 or float64
          indices    (nnz,)        int32 or int64, the column j of each
          begins     (n_rows,)     int64, where each row's entries begin, ascending
          ends       (n_rows,)     int64, where they end
          blocks     (n_blocks, 5) int64: first row, end row, first entry, end entry, slot
          splits     (n_split, 3)  int64: row, first slot, end slot
          U, V       (n_rows, K), (n_cols, K) float32 or float64, K = n_vectors * 64 bytes
          more       int           1: add to what is in out, as if each row went on; 0: overwrite it
    out   out        (n_rows, K)   zeros in empty rows; unit counts / U
          partial    (n_slots, K)  scratch for the pieces of split rows
    needs every rate U[i] . V[j] of a stored entry > 0, else the row is not finite; out aliases neither U nor V
    gives bitwise the same result for any number of workers: a row is summed in stored order by one of them, the
          pieces of a split row in slot order
    cost  4 nnz K flops; gathers nnz K itemsize bytes of V
    """
    ahead = 4 * GROUP if n_vectors <= 8 else 0  # wider rows fill the queue of memory requests by themselves

    def loop(data, indices, begins, ends, blocks, splits, U, V, more, out, partial, n_workers):
        counter = np.zeros(1, np.int64)
        for _ in prange(n_workers):
            b = simd.take(counter)
            while b < blocks.shape[0]:
                slot = blocks[b, 4]
                for i in range(blocks[b, 0], blocks[b, 1]):
                    start, stop = max(begins[i], blocks[b, 2]), min(ends[i], blocks[b, 3])
                    if more and start == stop:
                        continue
                    skip = begins[min(i + 1, blocks[b, 1] - 1)] - stop
                    whole = stop - (stop - start) % GROUP
                    u = simd.load(U, i, n_vectors)
                    s = simd.zeros(U, n_vectors)
                    if more and slot < 0:
                        s = simd.load(out, i, n_vectors)
                    for p in range(start, whole, GROUP):
                        j = simd.rows(indices, p, GROUP)
                        if ahead:
                            q = p + ahead
                            if q >= stop:
                                q += skip
                            simd.prefetch(V, indices, min(q, indices.shape[0] - GROUP), n_vectors)
                        ratio = simd.divide(simd.counts(data, p, GROUP, U), simd.dots(u, V, j, U))
                        s = simd.add_rows(s, ratio, V, j)
                    if whole < stop:
                        j = simd.rows(indices, whole, stop - whole)
                        ratio = simd.divide(simd.counts(data, whole, stop - whole, U), simd.dots(u, V, j, U))
                        s = simd.add_rows(s, ratio, V, j)
                    if slot < 0:
                        simd.store(out, i, s)
                    else:
                        simd.store(partial, slot, s)
                b = simd.take(counter)
        for r in range(splits.shape[0]):
            s = simd.zeros(U, n_vectors)
            if more:
                s = simd.load(out, splits[r, 0], n_vectors)
            for slot in range(splits[r, 1], splits[r, 2]):
                s = simd.add(s, simd.load(partial, slot, n_vectors))
            simd.store(out, splits[r, 0], s)

    return loop


@kernel("out")
def scatter_contract(n_vectors):
    """Contract count-to-rate ratios with U for the columns, over rows that lie in CSR order.

    out[j, k] += sum over stored (i, j) of  data / (U[i] . V[j]) * U[i, k]

    in    data       (nnz,)        counts > 0: uint8, uint16, int32, float32 or float64
          indices    (nnz,)        int32 or int64, ascending in each row
          cuts       (n_panels + 1, n_rows) int64, from `cut_rows`: where rows pass from panel to panel
          U, V       (n_rows, K), (n_cols, K) float32 or float64, K = n_vectors * 64 bytes
    out   out        (n_cols, K)   dtype of U, added to
    needs every rate U[i] . V[j] of a stored entry > 0, else the column is not finite; out aliases neither U nor V
    gives bitwise the same result for any panels and any number of workers, as a column is in one panel, whose rows one
          worker adds in their order
    cost  4 nnz K flops; gathers nnz K itemsize bytes of V, reads and writes as many of out
    """
    ahead = 4 * GROUP if n_vectors <= 8 else 0

    def loop(data, indices, cuts, U, V, out, n_workers):
        counter = np.zeros(1, np.int64)
        for _ in prange(n_workers):
            b = simd.take(counter)
            while b < cuts.shape[0] - 1:
                for i in range(cuts.shape[1]):
                    start, stop = cuts[b, i], cuts[b + 1, i]
                    if start == stop:
                        continue
                    whole = stop - (stop - start) % GROUP
                    u = simd.load(U, i, n_vectors)
                    for p in range(start, whole, GROUP):
                        j = simd.rows(indices, p, GROUP)
                        if ahead:
                            simd.prefetch(V, indices, min(p + ahead, indices.shape[0] - GROUP), n_vectors)
                        ratio = simd.divide(simd.counts(data, p, GROUP, U), simd.dots(u, V, j, U))
                        simd.scatter_rows(out, ratio, j, u)
                    if whole < stop:
                        # Lanes beyond the last entry repeat it with a count of 0, and add 0
                        j = simd.rows(indices, whole, stop - whole)
                        ratio = simd.divide(simd.counts(data, whole, stop - whole, U), simd.dots(u, V, j, U))
                        simd.scatter_rows(out, ratio, j, u)
                b = simd.take(counter)

    return loop
