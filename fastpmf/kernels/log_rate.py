"""The data terms of all objectives: sums of x log rate for each row, and of x log x."""

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.contract import AHEAD
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.special import x_log

GROUP = simd.GROUP


@kernel(writes=2)
def log_rate(table, block, worker):
    """Sum counts times log rates, one CSR row at a time; a task is a block.

    out[i] = sum over stored (i, j) of  data * log(U[i] . V[j])

    in    data, indices, blocks, U, V, n_vectors   as in `ratio_contract`
          indptr     (n_rows + 1,) int64
    out   out        (n_rows, 1)  float64, overwritten; nats; -inf where a stored entry has rate 0
          partial    (n_slots, 1) float64, the sums of the segments of split rows
    gives rates, logarithms and sums in float64 for any dtype of U and V; bitwise the same for any number of workers
    cost  2 nnz K flops and nnz logarithms; gathers nnz K itemsize bytes of V
    """
    data, indices, indptr, blocks, U, V, n_vectors, out, partial = arguments(table)
    first_entry, end_entry, slot = blocks[block, 2], blocks[block, 3], blocks[block, 4]
    last = indices.shape[0] - GROUP
    for i in range(blocks[block, 0], blocks[block, 1]):
        start, stop = max(indptr[i], first_entry), min(indptr[i + 1], end_entry)
        tail = stop - (stop - start) % GROUP
        u = simd.load(U, i, n_vectors)
        total = 0.0
        for p in range(start, tail, GROUP):
            simd.prefetch(V, indices, min(p + AHEAD, last), n_vectors)
            rate = simd.dots(u, V, simd.rows(indices, p, GROUP), out)
            total += simd.total(x_log(simd.counts(data, p, GROUP, out), rate))
        if tail < stop:
            rate = simd.dots(u, V, simd.rows(indices, tail, stop - tail), out)
            total += simd.total(x_log(simd.counts(data, tail, stop - tail, out), rate))
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
    tail = stop - (stop - start) % GROUP
    total = 0.0
    for p in range(start, tail, GROUP):
        x = simd.counts(data, p, GROUP, out)
        total += simd.total(x_log(x, x))
    if tail < stop:
        x = simd.counts(data, tail, stop - tail, out)
        total += simd.total(x_log(x, x))
    out[block] = total
