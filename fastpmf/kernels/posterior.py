"""The mean-field rule on all rows of a factor of Gamma posteriors, and what they add to the evidence lower bound.

A factor is cut into its vectors here, so that one loop serves any number of components: A of shape (n_rows, K) is
(n_rows * width, lanes), `width` vectors to a row.
"""

import math

from numba import prange

from fastpmf.kernels import lanes, simd, special
from fastpmf.kernels._jit import kernel


@kernel("U", "mean", "shape", "column_sum", "row_sum", "offset", "moved", "scratch")
def update_posterior(n_vectors):
    """Set each entry's Gamma posterior to the best one, given how the counts are allotted to the components.

    shape[i, k] = prior[k] + U[i, k] S[i, k]                      counts allotted to k, from S of `ratio_contract`
                  or, with a natural-gradient step of length rho on counts that stand for `times` as many,
                  (1 - rho) shape[i, k] + rho (prior[k] + times U[i, k] S[i, k])
    rate[i, k]  = rate_of_row[i] + weight[i, k]                   not stored
    mean[i, k]  = shape / rate
    U[i, k]     = exp(digamma(shape[i, k]) + offset[i]) / rate    exp E[log u], up to a factor of the row

    Any factor of a row drops out of U S. This one keeps the row's largest entry far from underflow, whatever the
    shapes; and no entry is taken for smaller than `least` of exp(digamma(8)) / rate, so that no rate is zero.

    in    S            (n_rows * width, lanes) float32 or float64
          prior        (width, lanes)  same dtype, 0 in padding columns
          rate_of_row  (n_rows,)       float64
          weight       (width or n_rows * width, lanes)  same dtype, sums of the other factor's means, inf in padding
          row_blocks   (n_blocks + 1,) int64, boundaries of blocks of rows
          sizes        (2,)            int64: width; 1 if `weight` has a row for each row, else 0
          limits       (3,)            float64: least, rho and times
          scratch      (n_blocks * width, lanes) same dtype
    out   U            (n_rows * width, lanes) in: exp E[log u] up to row factors; out: the new ones
          mean, shape  (n_rows * width, lanes) in: the old ones; out: the new ones
          column_sum   (n_blocks * width, lanes) float64, sums of `mean` over each block's rows
          row_sum      (n_rows,)       float64, sums of `mean` over components
          offset       (n_rows,)       float64, of each row's logarithms
          moved        (n_rows,)       float64: sum of rate |mean - old mean|, in counts; NaN where one is not finite
    gives bitwise the same result for any number of workers
    cost  one digamma without its logarithm and one exp for each entry, no pass over counts
    """

    def loop(
        U, S, prior, rate_of_row, weight, row_blocks, sizes, limits, mean, shape, column_sum, row_sum, offset, moved,
        scratch, n_workers,
    ):  # fmt: skip
        width, step = sizes[0], sizes[1]
        least, rho, times = limits[0], limits[1], limits[2]
        for b in prange(row_blocks.shape[0] - 1):
            for v in range(width):
                column_sum[b * width + v, :] = 0.0
            for i in range(row_blocks[b], row_blocks[b + 1]):
                lowest, total, went = math.inf, 0.0, 0.0
                for v in range(width):
                    p = i * width + v
                    a = simd.load(prior, v, 1)
                    zero, one = simd.fill_like(a, 0.0), simd.fill_like(a, 1.0)
                    s = simd.multiply(simd.load(S, p, 1), simd.fill_like(a, times))
                    s = lanes.multiply_add(simd.load(U, p, 1), s, a)
                    kept = simd.multiply(simd.load(shape, p, 1), simd.fill_like(a, 1.0 - rho))
                    s = lanes.multiply_add(s, simd.fill_like(a, rho), kept)
                    simd.store(shape, p, s)
                    rate = simd.add(simd.fill_like(a, rate_of_row[i]), simd.load(weight, (i * width) * step + v, 1))
                    change = lanes.subtract(s, simd.multiply(rate, simd.load(mean, p, 1)))
                    change = lanes.where_above(a, zero, simd.maximum(change, lanes.subtract(zero, change)), zero)
                    went += simd.total(change)
                    inverse = simd.divide(one, rate)
                    simd.store(U, p, inverse)  # until its geometric mean is known
                    m = simd.multiply(s, inverse)
                    simd.store(mean, p, m)
                    lanes.add_to_row(column_sum, b * width + v, m)
                    total += simd.total(m)
                    q = special.decay(lanes.where_above(a, zero, s, one))
                    q = lanes.where_above(a, zero, q, simd.fill_like(a, math.inf))
                    simd.store(scratch, b * width + v, q)
                    lowest = min(lowest, -simd.highest(lanes.subtract(zero, q)))
                for v in range(width):
                    p = i * width + v
                    s, q = simd.load(shape, p, 1), simd.load(scratch, b * width + v, 1)
                    power = special.exp(lanes.subtract(simd.fill_like(s, lowest), q))
                    height = simd.multiply(special.height(s), simd.maximum(power, simd.fill_like(s, least)))
                    simd.store(U, p, simd.multiply(height, simd.load(U, p, 1)))
                row_sum[i], offset[i], moved[i] = total, lowest, went

    return loop


@kernel("terms", "logs")
def posterior_terms(n_vectors):
    """What the entries' own terms add to the evidence lower bound, one block of rows at a time.

    terms[b] = sum over the rows i of block b and k of
                   (prior - shape) E[log u] - shape log(rate) + log Gamma(shape) + shape,   E[log u] the entry's
    logs[i]  = sum over k of  E[log u_ik] = digamma(shape[i, k]) - log rate[i, k]

    in    shape, prior, rate_of_row, weight, row_blocks, sizes   as in `update_posterior`
    out   terms  (n_blocks,) float64, overwritten; nats
          logs   (n_rows,)   float64, overwritten
    gives bitwise the same result for any number of workers; float64 inside whatever the dtype
    cost  a digamma, a log Gamma and four logarithms for each entry
    """

    def loop(shape, prior, rate_of_row, weight, row_blocks, sizes, terms, logs, n_workers):
        width, step = sizes[0], sizes[1]
        for b in prange(row_blocks.shape[0] - 1):
            total = 0.0
            for i in range(row_blocks[b], row_blocks[b + 1]):
                log_sum = 0.0
                for v in range(width):
                    a = simd.load(prior, v, 1)
                    rate = simd.add(simd.fill_like(a, rate_of_row[i]), simd.load(weight, (i * width) * step + v, 1))
                    more, log_mean = special.total_gamma_terms(simd.load(shape, i * width + v, 1), rate, a)
                    total += more
                    log_sum += log_mean
                logs[i] = log_sum
            terms[b] = total

    return loop


@kernel("out")
def evaluate_special(n_vectors):
    """digamma, log Gamma, exp and exp(digamma) of each number, by the formulas of `special`.

    in    x    (n, lanes) float64, > 0
    out   out  (4, n, lanes) float64, overwritten: digamma(x), log Gamma(x), exp(-x), exp(digamma(x))
    """

    def loop(x, out, n_workers):
        digamma, log_gamma, exp, geometric = out[0], out[1], out[2], out[3]
        for i in prange(x.shape[0]):
            a = simd.load(x, i, 1)
            zero = simd.fill_like(a, 0.0)
            simd.store(digamma, i, special.digamma(a))
            simd.store(log_gamma, i, special.log_gamma(a))
            simd.store(exp, i, special.exp(lanes.subtract(zero, a)))
            power = special.exp(lanes.subtract(zero, special.decay(a)))
            simd.store(geometric, i, simd.multiply(special.height(a), power))

    return loop
