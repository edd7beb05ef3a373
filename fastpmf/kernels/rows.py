"""Kernels on the rows of a factor; none reads the counts. A task is a block of rows."""

import math

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.formula import add, fma, formula, maximum, where
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.special import x_log

NARROW = 4  # vectors of a row up to which column sums stay in registers over all rows of a block


@kernel(writes=1)
def sum_columns(table, block, worker):
    """Sum a matrix over its rows, one block of rows at a time, in float64.

    column_sum[b, k] = sum over the rows i of block b of  A[i, k]

    in    A           (n_rows, K)     float32 or float64, K padded to whole vectors
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          n_vectors   Width           of the rows
    out   column_sum  (n_blocks, K)   float64, overwritten
    gives bitwise the same result for any number of workers
    cost  one stream over A
    """
    A, row_blocks, n_vectors, column_sum = arguments(table)
    simd.clear_row(column_sum, block)
    at_once = A.shape[0] if simd.is_one_chunk(n_vectors) else 1  # rows whose sums stay in registers
    for first in range(row_blocks[block], row_blocks[block + 1], at_once):
        end = min(first + at_once, row_blocks[block + 1])
        for c in range(simd.n_chunks(A, n_vectors)):
            v = simd.chunk(c, n_vectors)
            total = simd.load_sums(column_sum, block, v, A)
            for i in range(first, end):
                total = add(total, simd.as_float64(simd.load(A, i, v)))
            simd.store_sums(column_sum, block, v, total)


@formula()
def _extrapolated(new, old, weight, fixed, momentum, smallest):
    """The entries further along the move from old to new."""
    moved = fma(momentum, new - old, new)
    return where(fixed > 0.0, new, maximum(moved, smallest / where(weight > 0.0, weight, math.inf)))


@kernel(writes=2)
def extrapolate(table, block, worker):
    """Extrapolate a factor along its last move, without exact zeros; a task is a block of rows.

    out[i, k] = max(new[i, k] + momentum (new[i, k] - old[i, k]),  tiny * total[i] / weight[i, k])

    in    new, old    (n_rows, K) float32 or float64, K padded to whole vectors
          total       (n_rows,)   float64, row sums of the counts
          weight      (1 or n_rows, K) same dtype as new, as in `multiply`; where it is 0 or inf there is no floor
          fixed       (1, K)      same dtype: where it is 1, out is new
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          weight_step int         0: one row of weights; 1: one for each row
          momentum, tiny  float
          n_vectors   Width       of the rows
    out   out         (n_rows, K) overwritten; may be old
          column_sum  (n_blocks, K) float64, sums of `out` over each block's rows
    gives bitwise the same result for any number of workers
    cost  5 n_rows K flops, three streams over n_rows K numbers
    """
    new, old, total, weight, fixed, row_blocks, weight_step, momentum, tiny, n_vectors, out, column_sum = arguments(
        table
    )
    simd.clear_row(column_sum, block)
    at_once = new.shape[0] if simd.is_one_chunk(n_vectors) else 1  # as in `sum_columns`
    for first in range(row_blocks[block], row_blocks[block + 1], at_once):
        end = min(first + at_once, row_blocks[block + 1])
        for c in range(simd.n_chunks(new, n_vectors)):
            v = simd.chunk(c, n_vectors)
            f, column_total = simd.load(fixed, 0, v), simd.load_sums(column_sum, block, v, new)
            for i in range(first, end):
                u = _extrapolated(
                    simd.load(new, i, v), simd.load(old, i, v), simd.load(weight, i * weight_step, v), f, momentum,
                    tiny * total[i],
                )  # fmt: skip
                simd.store(out, i, v, u)
                column_total = add(column_total, simd.as_float64(u))
            simd.store_sums(column_sum, block, v, column_total)


@kernel(writes=1)
def sum_log(table, block, worker):
    """Sum the logarithms of a factor's entries, each times its shape, one block of rows at a time.

    out[b] = sum over the rows i of block b and k of  shape[i, k] * log(A[i, k]), or of 0 where shape is 0

    in    A           (n_rows, K)     float32 or float64, K padded to whole vectors
          shape       (1 or n_rows, K) same dtype, >= 0
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          shape_step  int             0: one row of shapes; 1: one for each row
    out   out         (n_blocks,)     float64, overwritten; nats
    gives bitwise the same result for any number of workers
    cost  n_rows K logarithms, in float64
    """
    A, shape, row_blocks, shape_step, out = arguments(table)
    total = 0.0
    for i in range(row_blocks[block], row_blocks[block + 1]):
        for v in range(simd.width(A)):
            a = simd.load(shape, i * shape_step, v)
            if simd.highest(a) > 0.0:
                total += simd.total(x_log(simd.as_float64(a), simd.as_float64(simd.load(A, i, v))))
    out[block] = total


# If a row observes less than this fraction of a component's sum, the difference of the sum and what is missing has lost
# three or more digits to rounding, and a large U turns the error into nats.
_CANCELLED = 1e-3


@kernel(writes=3)
def observed_weights(table, block, worker):
    """Sum V, for each row, over the entries that the row observes.

    out[i, k] = v_sum[k] - sum over the unobserved (i, j) of V[j, k] = sum over the observed (i, j) of V[j, k]

    by the second expression if the first leaves less than `_CANCELLED` times v_sum of any component.

    in    indices     (n,)             int32 or int64, the column j of each unobserved entry, ascending in each row
          indptr      (n_rows + 1,)    int64
          U, V        (n_rows, K), (n_cols, K) float32 or float64, K padded to whole vectors
          v_sum       (K,)             float64
          row_blocks  (n_blocks + 1,)  int64, boundaries of blocks of rows
          wants_rate  int              whether to sum `rate`
    out   out         (n_rows, K)      overwritten; unit of V
          rate        (n_blocks,)      float64, if `wants_rate`: sum over a block's observed entries of U[i] . V[j]
          sums        (n_workers, K)   float64, scratch
    gives bitwise the same result for any number of workers; sums are float64 whatever the dtype of V
    cost  n K flops for the unobserved entries, gathers n K itemsize bytes of V, one stream over n_rows K numbers; one
          more pass over V for each row that uses the second expression
    """
    indices, indptr, U, V, v_sum, row_blocks, wants_rate, out, rate, sums = arguments(table)
    width, n_components = simd.width(V), v_sum.shape[0]
    observed = 0.0
    for i in range(row_blocks[block], row_blocks[block + 1]):
        start, stop = indptr[i], indptr[i + 1]
        simd.clear_row(sums, worker)
        for p in range(start, stop):
            for v in range(width):
                simd.add_to_sums(sums, worker, v, simd.load(V, indices[p], v))
        cancelled = False
        for k in range(n_components):
            rest = v_sum[k] - sums[worker, k]
            cancelled = cancelled or rest < _CANCELLED * v_sum[k]
            sums[worker, k] = rest
        if cancelled:
            simd.clear_row(sums, worker)
            p = start
            for j in range(V.shape[0]):
                if p < stop and indices[p] == j:
                    p += 1
                else:
                    for v in range(width):
                        simd.add_to_sums(sums, worker, v, simd.load(V, j, v))
        for k in range(n_components):
            out[i, k] = sums[worker, k]
            if wants_rate:
                observed += U[i, k] * sums[worker, k]
    if wants_rate:
        rate[block] = observed
