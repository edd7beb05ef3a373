"""The pass over the stored counts that all models and solvers are built on: for rows, and for columns."""

from fastpmf.kernels import formula, simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.csr import first_at_least
from fastpmf.kernels.launch import arguments

GROUP = simd.GROUP
AHEAD = 4 * GROUP  # distance in entries between those in flight and those whose rows are prefetched


@kernel(writes=2)
def ratio_contract(table, block, worker):
    """Contract count-to-rate ratios with V, one CSR row at a time; a task is a block.

    out[i, k] = sum over stored (i, j) of  data / (U[i] . V[j]) * V[j, k]

    in    data       (nnz,)        counts > 0: uint8, uint16, int32, float32 or float64
          indices    (nnz,)        int32 or int64, the column j of each
          begins     (n_rows,)     int64, where each row's entries begin, ascending
          ends       (n_rows,)     int64, where they end
          blocks     (n_blocks, 5) int64: first row, end row, first entry, end entry, and -1, or the slot in `partial`
                                   if the block is a segment of a row that is split
          U, V       (n_rows, K), (n_cols, K) float32 or float64, K padded to whole vectors
          n_vectors  Width         of their rows
          adds       int           1: continue the sums in out; 0: overwrite it
    out   out        (n_rows, K)   zeros in empty rows; unit counts / U; rows that are split are not written
          partial    (n_slots, K)  the sums of the segments of split rows
    needs every rate U[i] . V[j] of a stored entry > 0, else the row is not finite; out aliases neither U nor V
    gives bitwise the same result for any number of workers: one of them sums a row or segment in stored order
    cost  4 nnz K flops; gathers nnz K itemsize bytes of V
    """
    data, indices, begins, ends, blocks, U, V, n_vectors, adds, out, partial = arguments(table)
    first_row, end_row, first_entry, end_entry, slot = (
        blocks[block, 0], blocks[block, 1], blocks[block, 2], blocks[block, 3], blocks[block, 4],
    )  # fmt: skip
    last = indices.shape[0] - GROUP
    for i in range(first_row, end_row):
        start, stop = max(begins[i], first_entry), min(ends[i], end_entry)
        if adds and start == stop:
            continue
        skip = begins[min(i + 1, end_row - 1)] - stop
        tail = stop - (stop - start) % GROUP
        u = simd.load(U, i, n_vectors)
        s = simd.accumulator(out, i, adds, n_vectors) if slot < 0 else simd.accumulator(partial, slot, 0, n_vectors)
        for p in range(start, tail, GROUP):
            j = simd.rows(indices, p, GROUP)
            ahead = p + AHEAD
            if ahead >= stop:
                ahead += skip
            simd.prefetch(V, indices, min(ahead, last), n_vectors)
            ratio = formula.divide(simd.counts(data, p, GROUP, U), simd.dots(u, V, j, U))
            s = simd.add_rows(s, ratio, V, j)
        if tail < stop:
            j = simd.rows(indices, tail, stop - tail)
            ratio = formula.divide(simd.counts(data, tail, stop - tail, U), simd.dots(u, V, j, U))
            s = simd.add_rows(s, ratio, V, j)
        if slot < 0:
            simd.store(out, i, n_vectors, s)
        else:
            simd.store(partial, slot, n_vectors, s)


@kernel(writes=1)
def scatter_contract(table, panel, worker):
    """Contract count-to-rate ratios with U for the columns, from rows in CSR order; a task is a panel of columns.

    out[j, k] += sum over stored (i, j) of  data / (U[i] . V[j]) * U[i, k]

    in    data       (nnz,)        counts > 0: uint8, uint16, int32, float32 or float64
          indices    (nnz,)        int32 or int64, ascending in each row
          indptr     (n_rows + 1,) int64
          bounds     (n_panels + 1,) int64, boundaries of the panels, ascending from 0 to the number of columns
          U, V       (n_rows, K), (n_cols, K) float32 or float64, K padded to whole vectors
          n_vectors  Width         of their rows
    out   out        (n_cols, K)   dtype of U, added to
    needs every rate U[i] . V[j] of a stored entry > 0, else the column is not finite; out aliases neither U nor V
    gives bitwise the same result for any panels and any number of workers: a column is in one panel, and one worker
          adds its entries in the order of rows
    cost  4 nnz K flops; gathers nnz K itemsize bytes of V, reads and writes as many of out
    """
    data, indices, indptr, bounds, U, V, n_vectors, out = arguments(table)
    last, is_last = indices.shape[0] - GROUP, panel == bounds.shape[0] - 2
    for i in range(indptr.shape[0] - 1):
        start, stop = indptr[i], indptr[i + 1]
        if panel > 0:
            start = first_at_least(indices, start, stop, bounds[panel])
        if not is_last:
            stop = first_at_least(indices, start, stop, bounds[panel + 1])
        if start == stop:
            continue
        tail = stop - (stop - start) % GROUP
        u = simd.load(U, i, n_vectors)
        for p in range(start, tail, GROUP):
            j = simd.rows(indices, p, GROUP)
            simd.prefetch(V, indices, min(p + AHEAD, last), n_vectors)
            ratio = formula.divide(simd.counts(data, p, GROUP, U), simd.dots(u, V, j, U))
            simd.scatter_rows(out, ratio, j, u)
        if tail < stop:
            # Lanes beyond the last entry repeat it with a count of 0, and add 0
            j = simd.rows(indices, tail, stop - tail)
            ratio = formula.divide(simd.counts(data, tail, stop - tail, U), simd.dots(u, V, j, U))
            simd.scatter_rows(out, ratio, j, u)
