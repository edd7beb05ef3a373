"""Loops over the rows of a factor alone, which no count enters."""

import math

from numba import prange

from fastpmf.kernels import lanes, simd
from fastpmf.kernels._jit import kernel


@kernel("column_sum")
def sum_columns(n_vectors):
    """Sum a matrix over its rows, one block of rows at a time, in float64.

    column_sum[b, k] = sum over the rows i of block b of  A[i, k]

    in    A           (n_rows, K)     float32 or float64, K = n_vectors * 64 bytes
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
    out   column_sum  (n_blocks, K)   float64, overwritten
    gives bitwise the same result for any number of workers
    cost  one stream over A
    """

    def loop(A, row_blocks, column_sum, n_workers):
        for b in prange(row_blocks.shape[0] - 1):
            column_sum[b, :] = 0.0
            for i in range(row_blocks[b], row_blocks[b + 1]):
                lanes.add_to_row(column_sum, b, simd.load(A, i, n_vectors))

    return loop


@kernel("out", "column_sum")
def extrapolate(n_vectors):
    """Carry a factor on along its last move, and keep it off zero.

    out[i, k] = max(new[i, k] + momentum (new[i, k] - old[i, k]),  tiny * total[i] / weight[i, k])

    in    new, old    (n_rows, K) float32 or float64
          total       (n_rows,)   float64, row sums of the counts
          weight      (1 or n_rows, K) same dtype as new, as in `multiply`; where it is 0 or inf there is no floor
          held        (1, K)      same dtype: where it is 1, the new entry stays
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          step        int         0: one row of weights; 1: one for each row
          limits      (2,)        float64: momentum and tiny
    out   out         (n_rows, K) overwritten; may be old
          column_sum  (n_blocks, K) float64, sums of `out` over each block's rows
    gives bitwise the same result for any number of workers
    cost  5 n_rows K flops, three streams over n_rows K numbers
    """

    def loop(new, old, total, weight, held, row_blocks, step, limits, out, column_sum, n_workers):
        momentum, tiny = limits[0], limits[1]
        for b in prange(row_blocks.shape[0] - 1):
            column_sum[b, :] = 0.0
            h = simd.load(held, 0, n_vectors)
            beta, zero, endless = (
                simd.fill_like(h, momentum),
                simd.fill_like(h, 0.0),
                simd.fill_like(h, math.inf),
            )
            for i in range(row_blocks[b], row_blocks[b + 1]):
                u, d = simd.load(new, i, n_vectors), simd.load(weight, i * step, n_vectors)
                move = lanes.subtract(u, simd.load(old, i, n_vectors))
                d = lanes.where_above(d, zero, d, endless)
                floor = simd.divide(simd.fill_like(u, tiny * total[i]), d)
                moved = simd.maximum(lanes.multiply_add(beta, move, u), floor)
                u = lanes.where_above(h, zero, u, moved)
                simd.store(out, i, u)
                lanes.add_to_row(column_sum, b, u)

    return loop


@kernel("out")
def sum_log(n_vectors):
    """Sum logarithms of a factor's entries, each times its own number, one block of rows at a time.

    out[b] = sum over the rows i of block b and k of  shape[i, k] * log(A[i, k]);  where shape is 0, nothing

    in    A           (n_rows * width, n)  float32 or float64, a factor cut into its vectors
          shape       (width or n_rows * width, n) same dtype, >= 0
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          width       int              vectors in a row
          step        int              0: one row of shapes; 1: one for each row
    out   out         (n_blocks,)      float64, overwritten; nats
    gives bitwise the same result for any number of workers
    cost  n_rows K logarithms, in float64
    """

    def loop(A, shape, row_blocks, width, step, out, n_workers):
        for b in prange(row_blocks.shape[0] - 1):
            total = 0.0
            for i in range(row_blocks[b], row_blocks[b + 1]):
                for v in range(width):
                    a = simd.load(shape, i * width * step + v, 1)
                    if simd.highest(a) > 0.0:
                        total += lanes.total_x_log(a, simd.load(A, i * width + v, 1))
            out[b] = total

    return loop


# Where what a row observes of a component is less than this share of it all, the sum less what is missing would have
# lost three digits and more to rounding, and a large U would make nats of the rest.
_CANCELLED = 1e-3


@kernel("out", "rate", "sums")
def observed_weights(n_vectors):
    """Sum V, for each row, over the entries that the row observes.

    out[i, k] = v_sum[k] - sum over the unobserved (i, j) of V[j, k] = sum over the observed (i, j) of V[j, k]

    the first, or the second where that leaves less than `_CANCELLED` of any component.

    in    indices     (n,)             int32 or int64, the column j of each unobserved entry, ascending in each row
          indptr      (n_rows + 1,)    int64
          U, V        (n_rows, K), (n_cols, K) float32 or float64
          v_sum       (K,)             float64
          row_blocks  (n_blocks + 1,)  int64, boundaries of blocks of rows
          wanted      int              whether `rate` is
    out   out         (n_rows, K)      overwritten; unit of V
          rate        (n_blocks,)      float64, where wanted: sum over a block's observed entries of U[i] . V[j]
          sums        (n_blocks, K)    float64, scratch
    gives bitwise the same result for any number of workers; sums are float64 whatever the dtype of V
    cost  n K flops for the unobserved entries, gathers n K itemsize bytes of V, one stream over n_rows K numbers; a
          pass over V more for each row of the second kind
    """

    def loop(indices, indptr, U, V, v_sum, row_blocks, wanted, out, rate, sums, n_workers):
        for b in prange(row_blocks.shape[0] - 1):
            seen = 0.0
            for i in range(row_blocks[b], row_blocks[b + 1]):
                start, stop = indptr[i], indptr[i + 1]
                total = lanes.zeros_wide(V, n_vectors)
                for p in range(start, stop):
                    total = simd.add(total, lanes.load_wide(V, indices[p], n_vectors))
                simd.store(sums, b, total)
                cancelled = False
                for k in range(v_sum.shape[0]):
                    rest = v_sum[k] - sums[b, k]
                    cancelled = cancelled or rest < _CANCELLED * v_sum[k]
                    sums[b, k] = rest
                if cancelled:
                    total = lanes.zeros_wide(V, n_vectors)
                    p = start
                    for j in range(V.shape[0]):
                        if p < stop and indices[p] == j:
                            p += 1
                        else:
                            total = simd.add(total, lanes.load_wide(V, j, n_vectors))
                    simd.store(sums, b, total)
                for k in range(v_sum.shape[0]):
                    out[i, k] = sums[b, k]
                    if wanted:
                        seen += U[i, k] * sums[b, k]
            if wanted:
                rate[b] = seen

    return loop
