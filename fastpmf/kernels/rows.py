"""Loops over the rows of a factor alone, which no count enters."""

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

    out[i, k] = max(new[i, k] + momentum (new[i, k] - old[i, k]),  tiny * total[i] / divisor[k])

    in    new, old    (n_rows, K) float32 or float64
          total       (n_rows,)   float64, row sums of the counts
          divisor     (1, K)      same dtype as new: sums of the other factor, inf instead of 0
          row_blocks  (n_blocks + 1,) int64, boundaries of blocks of rows
          limits      (2,)        float64: momentum and tiny
    out   out         (n_rows, K) overwritten; may be old
          column_sum  (n_blocks, K) float64, sums of `out` over each block's rows
    gives bitwise the same result for any number of workers
    cost  5 n_rows K flops, three streams over n_rows K numbers
    """

    def loop(new, old, total, divisor, row_blocks, limits, out, column_sum, n_workers):
        momentum, tiny = limits[0], limits[1]
        for b in prange(row_blocks.shape[0] - 1):
            column_sum[b, :] = 0.0
            d = simd.load(divisor, 0, n_vectors)
            beta = simd.fill_like(d, momentum)
            for i in range(row_blocks[b], row_blocks[b + 1]):
                u = simd.load(new, i, n_vectors)
                move = lanes.subtract(u, simd.load(old, i, n_vectors))
                floor = simd.divide(simd.fill_like(u, tiny * total[i]), d)
                u = simd.maximum(lanes.multiply_add(beta, move, u), floor)
                simd.store(out, i, u)
                lanes.add_to_row(column_sum, b, u)

    return loop
