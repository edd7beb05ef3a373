"""The only data terms of every objective: per-row sums of x log rate, and of x log x."""

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.launch import arguments

GROUP = simd.GROUP


@kernel(writes=2)
def log_rate(table, block, worker):
    """Sum counts times log rates, one CSR row at a time; a task is a block.

    out[i] = sum over stored (i, j) of  data * log(U[i] . V[j])

    in    data, indices, blocks, U, V, n_vectors   as in `ratio_contract`
          indptr     (n_rows + 1,) int64
    out   out        (n_rows, 1)  float64, overwritten; nats; -inf where a stored entry has rate 0
          partial    (n_slots, 1) float64, the sums of pieces of split rows
    gives rates, logarithms and sums in float64 for any dtype of U and V; bitwise the same for any number of workers
    cost  2 nnz K flops and nnz logarithms; gathers nnz K itemsize bytes of V
    """
    data, indices, indptr, blocks, U, V, n_vectors, out, partial = arguments(table)
    first_entry, end_entry, slot = blocks[block, 2], blocks[block, 3], blocks[block, 4]
    for i in range(blocks[block, 0], blocks[block, 1]):
        start, stop = max(indptr[i], first_entry), min(indptr[i + 1], end_entry)
        whole = stop - (stop - start) % GROUP
        u = simd.load_tile(U, i, n_vectors)
        total = 0.0
        for p in range(start, whole, GROUP):
            rate = simd.dots(u, V, simd.rows(indices, p, GROUP), out)
            total = simd.sum_x_log(total, simd.counts(data, p, GROUP, out), rate)
        if whole < stop:
            rate = simd.dots(u, V, simd.rows(indices, whole, stop - whole), out)
            total = simd.sum_x_log(total, simd.counts(data, whole, stop - whole, out), rate)
        if slot < 0:
            out[i, 0] = total
        else:
            partial[slot, 0] = total


@kernel(writes=1)
def log_count(table, block, worker):
    """Sum counts times their own logarithms; a task is a block of entries.

    out[b] = sum over the entries of block b of  data * log(data)

    in    data   (nnz,)        counts > 0
          blocks (n_blocks, 5) int64, as in `ratio_contract`
    out   out    (n_blocks,)   float64, overwritten; nats
    gives bitwise the same result for any number of workers
    cost  nnz logarithms
    """
    data, blocks, out = arguments(table)
    start, stop = blocks[block, 2], blocks[block, 3]
    whole = stop - (stop - start) % GROUP
    total = 0.0
    for p in range(start, whole, GROUP):
        x = simd.counts(data, p, GROUP, out)
        total = simd.sum_x_log(total, x, x)
    if whole < stop:
        x = simd.counts(data, whole, stop - whole, out)
        total = simd.sum_x_log(total, x, x)
    out[block] = total
