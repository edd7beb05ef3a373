"""The mean-field rule on all rows of a factor of Gamma posteriors, and what they add to the evidence lower bound."""

import math

from fastpmf.kernels import lanes, simd, special
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.formula import fma, formula, larger, maximum, multiply, where
from fastpmf.kernels.launch import arguments


@formula(4)
def _posterior(prior, u, s, shape, mean, weight, rate_of_row, times, step, rest):
    """The new shape, 1 / rate, the new mean, and by how much rate mean has moved; rest = 1 - step."""
    new = fma(fma(u, s * times, prior), step, shape * rest)
    rate = rate_of_row + weight
    change = new - rate * mean
    inverse = 1.0 / rate
    return new, inverse, new * inverse, where(prior > 0.0, maximum(change, -change), 0.0)


@formula()
def _where_there(prior, a, otherwise):
    """a, or a number in padding columns."""
    return where(prior > 0.0, a, otherwise)


@formula()
def _negative(a):
    return -a


@formula()
def _below(q, lowest):
    return lowest - q


@kernel(writes=8)
def update_posterior(table, block, worker):
    """Set each entry's Gamma posterior to the best one, given how the counts are allotted to the components.

    shape[i, k] = prior[k] + U[i, k] S[i, k]                      counts allotted to k, from S of `ratio_contract`
                  or, with a natural-gradient step of length rho on counts that stand for `times` as many,
                  (1 - rho) shape[i, k] + rho (prior[k] + times U[i, k] S[i, k])
    rate[i, k]  = rate_of_row[i] + weight[i, k]                   not stored
    mean[i, k]  = shape / rate
    U[i, k]     = exp(digamma(shape[i, k]) + offset[i]) / rate    exp E[log u], up to a factor of the row

    Any factor of a row drops out of U S. This one keeps the row's largest entry far from underflow, whatever the
    shapes; and entries are bounded below by `least` times exp(digamma(8)) / rate, so that no rate is zero. A task is
    a block of rows.

    in    S            (n_rows, K)    float32 or float64, K padded to whole vectors
          prior        (1, K)         same dtype, 0 in padding columns
          rate_of_row  (n_rows,)      float64
          weight       (1 or n_rows, K)  same dtype, sums of the other factor's means, inf in padding
          row_blocks   (n_blocks + 1,) int64, boundaries of blocks of rows
          weight_step  int            1 if `weight` has a row for each row, else 0
          least, rho, times           float
    out   U            (n_rows, K)    in: exp E[log u] up to row factors; out: the new ones
          mean, shape  (n_rows, K)    in: the old ones; out: the new ones
          column_sum   (n_blocks, K)  float64, sums of `mean` over each block's rows
          row_sum      (n_rows,)      float64, sums of `mean` over components
          offset       (n_rows,)      float64, of each row's logarithms
          moved        (n_rows,)      float64: sum of rate |mean - old mean|, in counts; NaN where one is not finite
          decays       (n_workers, K) same dtype, scratch
    gives bitwise the same result for any number of workers
    cost  one digamma without its logarithm and one exp for each entry, no pass over counts
    """
    (
        S, prior, rate_of_row, weight, row_blocks, weight_step, least, rho, times, U, mean, shape, column_sum, row_sum,
        offset, moved, decays,
    ) = arguments(table)  # fmt: skip
    width = simd.width(U)
    for k in range(column_sum.shape[1]):
        column_sum[block, k] = 0.0
    for i in range(row_blocks[block], row_blocks[block + 1]):
        lowest, total, went = math.inf, 0.0, 0.0
        for v in range(width):
            a, d = simd.load(prior, 0, v), simd.load(weight, i * weight_step, v)
            s, inverse, m, change = _posterior(
                a, simd.load(U, i, v), simd.load(S, i, v), simd.load(shape, i, v), simd.load(mean, i, v), d,
                rate_of_row[i], times, rho, 1.0 - rho,
            )  # fmt: skip
            simd.store(shape, i, v, s)
            simd.store(U, i, v, inverse)  # until its geometric mean is known
            simd.store(mean, i, v, m)
            lanes.add_to_row(column_sum, block, v, m)
            went += simd.total(change)
            total += simd.total(m)
            q = _where_there(a, special.decay(_where_there(a, s, 1.0)), math.inf)
            simd.store(decays, worker, v, q)
            lowest = min(lowest, -simd.highest(_negative(q)))
        for v in range(width):
            s, q = simd.load(shape, i, v), simd.load(decays, worker, v)
            power = larger(special.exp(_below(q, lowest)), least)
            u = multiply(multiply(special.height(s), power), simd.load(U, i, v))
            simd.store(U, i, v, u)
        row_sum[i], offset[i], moved[i] = total, lowest, went


@formula()
def _rate(weight, rate_of_row):
    return rate_of_row + weight


@kernel(writes=2)
def posterior_terms(table, block, worker):
    """What the entries' own terms add to the evidence lower bound; a task is a block of rows.

    terms[b] = sum over the rows i of block b and k of
                   (prior - shape) E[log u] - shape log(rate) + log Gamma(shape) + shape,   E[log u] the entry's
    logs[i]  = sum over k of  E[log u_ik] = digamma(shape[i, k]) - log rate[i, k]

    in    shape, prior, rate_of_row, weight, row_blocks, weight_step   as in `update_posterior`
    out   terms  (n_blocks,) float64, overwritten; nats
          logs   (n_rows,)   float64, overwritten
    gives bitwise the same result for any number of workers; float64 inside whatever the dtype
    cost  a digamma, a log Gamma and four logarithms for each entry
    """
    shape, prior, rate_of_row, weight, row_blocks, weight_step, terms, logs = arguments(table)
    total = 0.0
    for i in range(row_blocks[block], row_blocks[block + 1]):
        log_sum = 0.0
        for v in range(simd.width(shape)):
            rate = _rate(simd.load(weight, i * weight_step, v), rate_of_row[i])
            more, log_mean = special.total_gamma_terms(simd.load(shape, i, v), rate, simd.load(prior, 0, v))
            total += more
            log_sum += log_mean
        logs[i] = log_sum
    terms[block] = total


@kernel(writes=4)
def evaluate_special(table, row, worker):
    """digamma, log Gamma, exp and exp(digamma) of each number, by the formulas of `special`; a task is a row.

    in    x         (n, lanes) float64, > 0
    out   digamma, log_gamma, exp, geometric  (n, lanes) float64, overwritten: digamma(x), log Gamma(x), exp(-x),
                    exp(digamma(x))
    """
    x, digamma, log_gamma, exp, geometric = arguments(table)
    a = simd.load(x, row, 0)
    simd.store(digamma, row, 0, special.digamma(a))
    simd.store(log_gamma, row, 0, special.log_gamma(a))
    simd.store(exp, row, 0, special.exp(_negative(a)))
    power = special.exp(_negative(special.decay(a)))
    simd.store(geometric, row, 0, multiply(special.height(a), power))
