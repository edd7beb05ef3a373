"""Kernels on the rows of a factor; none reads the counts. A task is a block of rows."""

import math

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels.formula import fma, formula, maximum, where
from fastpmf.kernels.launch import arguments

NARROW = 4  # vectors of a row up to which sums of columns stay in registers while rows pass by


@step(inline=True)
def _rows_at_once(A, n_vectors):
    """Rows to go through for each piece: all of them if a row is one piece, else one."""
    return A.shape[0] if simd.is_whole(n_vectors) else 1


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
    at_once = _rows_at_once(A, n_vectors)
    for k in range(column_sum.shape[1]):
        column_sum[block, k] = 0.0
    for first in range(row_blocks[block], row_blocks[block + 1], at_once):
        end = min(first + at_once, row_blocks[block + 1])
        for piece in range(simd.pieces(A, n_vectors)):
            total = lanes.load_sums(column_sum, block, piece, n_vectors, A)
            for i in range(first, end):
                total = lanes.add_sums(total, simd.load_piece(A, i, piece, n_vectors))
            lanes.store_sums(column_sum, block, piece, total)


@formula()
def _extrapolated(new, old, weight, fixed, momentum, smallest):
    """The entries that lie further along the move from old to new."""
    moved = fma(momentum, new - old, new)
    return where(fixed > 0.0, new, maximum(moved, smallest / where(weight > 0.0, weight, math.inf)))


@kernel(writes=2)
def extrapolate(table, block, worker):
    """Carry a factor on along its last move, and keep it off zero.

    out[i, k] = max(new[i, k] + momentum (new[i, k] - old[i, k]),  tiny * total[i] / weight[i, k])

    in    new, old    (n_rows, K) float32 or float64, K padded to whole vectors
          total       (n_rows,)   float64, row sums of the counts
          weight      (1 or n_rows, K) same dtype as new, as in `multiply`; where it is 0 or inf there is no floor
          fixed       (1, K)      same dtype: where it is 1, the new entry stays
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
    at_once = _rows_at_once(new, n_vectors)
    for k in range(column_sum.shape[1]):
        column_sum[block, k] = 0.0
    for first in range(row_blocks[block], row_blocks[block + 1], at_once):
        end = min(first + at_once, row_blocks[block + 1])
        for piece in range(simd.pieces(new, n_vectors)):
            f = simd.load_piece(fixed, 0, piece, n_vectors)
            column_total = lanes.load_sums(column_sum, block, piece, n_vectors, new)
            for i in range(first, end):
                u, before = simd.load_piece(new, i, piece, n_vectors), simd.load_piece(old, i, piece, n_vectors)
                d = simd.load_piece(weight, i * weight_step, piece, n_vectors)
                u = _extrapolated(u, before, d, f, momentum, tiny * total[i])
                simd.store_piece(out, i, piece, n_vectors, u)
                column_total = lanes.add_sums(column_total, u)
            lanes.store_sums(column_sum, block, piece, column_total)


@kernel(writes=1)
def sum_log(table, block, worker):
    """Sum logarithms of a factor's entries, each times its own number, one block of rows at a time.

    out[b] = sum over the rows i of block b and k of  shape[i, k] * log(A[i, k]);  where shape is 0, nothing

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
                total += lanes.total_x_log(a, simd.load(A, i, v))
    out[block] = total


# Where what a row observes of a component is less than this share of it all, the sum less what is missing would have
# lost three digits and more to rounding, and a large U would make nats of the rest.
_CANCELLED = 1e-3


@kernel(writes=3)
def observed_weights(table, block, worker):
    """Sum V, for each row, over the entries that the row observes.

    out[i, k] = v_sum[k] - sum over the unobserved (i, j) of V[j, k] = sum over the observed (i, j) of V[j, k]

    the first, or the second where that leaves less than `_CANCELLED` of any component.

    in    indices     (n,)             int32 or int64, the column j of each unobserved entry, ascending in each row
          indptr      (n_rows + 1,)    int64
          U, V        (n_rows, K), (n_cols, K) float32 or float64, K padded to whole vectors
          v_sum       (K,)             float64
          row_blocks  (n_blocks + 1,)  int64, boundaries of blocks of rows
          wants_rate  int              whether `rate` is wanted
    out   out         (n_rows, K)      overwritten; unit of V
          rate        (n_blocks,)      float64, where wanted: sum over a block's observed entries of U[i] . V[j]
          sums        (n_workers, K)   float64, scratch
    gives bitwise the same result for any number of workers; sums are float64 whatever the dtype of V
    cost  n K flops for the unobserved entries, gathers n K itemsize bytes of V, one stream over n_rows K numbers; a
          pass over V more for each row of the second kind
    """
    indices, indptr, U, V, v_sum, row_blocks, wants_rate, out, rate, sums = arguments(table)
    width, n_components = simd.width(V), v_sum.shape[0]
    observed = 0.0
    for i in range(row_blocks[block], row_blocks[block + 1]):
        start, stop = indptr[i], indptr[i + 1]
        for k in range(n_components):
            sums[worker, k] = 0.0
        for p in range(start, stop):
            for v in range(width):
                lanes.add_to_row(sums, worker, v, simd.load(V, indices[p], v))
        cancelled = False
        for k in range(n_components):
            rest = v_sum[k] - sums[worker, k]
            cancelled = cancelled or rest < _CANCELLED * v_sum[k]
            sums[worker, k] = rest
        if cancelled:
            for k in range(n_components):
                sums[worker, k] = 0.0
            p = start
            for j in range(V.shape[0]):
                if p < stop and indices[p] == j:
                    p += 1
                else:
                    for v in range(width):
                        lanes.add_to_row(sums, worker, v, simd.load(V, j, v))
        for k in range(n_components):
            out[i, k] = sums[worker, k]
            if wants_rate:
                observed += U[i, k] * sums[worker, k]
    if wants_rate:
        rate[block] = observed
