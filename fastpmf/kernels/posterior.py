"""Gamma posteriors of a factor's entries: their mean-field update, and their terms of the evidence lower bound."""

import math

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.formula import fma, formula, maximum, where
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.special import decay, exp, height, log, log_gamma_and_digamma


@formula(7)
def _posterior(
    prior, u, s, shape, mean, weight, rate_of_row, times, step, rest, mean_sum, change_sum, highest
):  # fmt: skip
    """The new shape, 1 / rate, the new mean, and minus the decay of the shape; and, of the row so far, the sums of the
    new means and of the changes of rate mean, and the highest of the fourth, which is -inf in padding columns.

    rest = 1 - step.
    """
    new = fma(fma(u, s * times, prior), step, shape * rest)
    rate = rate_of_row + weight
    change = new - rate * mean
    inverse = 1.0 / rate
    exponent = where(prior > 0.0, -decay(where(prior > 0.0, new, 1.0)), -math.inf)
    change_sum = change_sum + where(prior > 0.0, maximum(change, -change), 0.0)
    return new, inverse, new * inverse, exponent, mean_sum + new * inverse, change_sum, maximum(highest, exponent)


@formula()
def _geometric_mean(shape, exponent, inverse_rate, offset, floor):
    """exp E[log u], times exp(-offset of the row)."""
    return height(shape) * maximum(exp(offset + exponent), floor) * inverse_rate


@formula(2)
def _gamma_terms(shape, rate, prior):
    """An entry's terms of the bound, and its E[log u]; 0 in padding columns."""
    exists = prior > 0.0
    shape, rate = where(exists, shape, 1.0), where(exists, rate, 1.0)
    log_rate, (log_gamma, digamma) = log(rate), log_gamma_and_digamma(shape)
    log_mean = digamma - log_rate
    terms = fma(prior - shape, log_mean, log_gamma + shape - shape * log_rate)
    return where(exists, terms, 0.0), where(exists, log_mean, 0.0)


@formula()
def _rate(weight, rate_of_row):
    return rate_of_row + weight


@kernel(writes=8)
def update_posterior(table, block, worker):
    """Set each entry's Gamma posterior to the optimal one given the counts' allocation; a task is a block of rows.

    shape[i, k] = prior[k] + U[i, k] S[i, k]                      counts allocated to k, with S of `ratio_contract`
                  or, with a natural-gradient step of length rho on counts that represent `times` as many,
                  (1 - rho) shape[i, k] + rho (prior[k] + times U[i, k] S[i, k])
    rate[i, k]  = rate_of_row[i] + weight[i, k]                   not stored
    mean[i, k]  = shape / rate
    U[i, k]     = exp(digamma(shape[i, k]) + offset[i]) / rate    exp E[log u], up to a factor of the row

    U S does not depend on any factor of a row. This one keeps the row's largest entry far from underflow for all
    shapes. Entries are bounded below by `floor` times exp(digamma(8)) / rate, so that no rate is zero.

    in    S            (n_rows, K)    float32 or float64, K padded to whole vectors
          prior        (1, K)         same dtype, 0 in padding columns
          rate_of_row  (n_rows,)      float64
          weight       (1 or n_rows, K)  same dtype, sums of the other factor's means, inf in padding
          row_blocks   (n_blocks + 1,) int64, boundaries of blocks of rows
          weight_step  int            1 if `weight` has a row for each row, else 0
          floor, rho, times           float
    out   U            (n_rows, K)    in: exp E[log u] up to row factors; out: the new ones
          mean, shape  (n_rows, K)    in: the old ones; out: the new ones
          column_sum   (n_blocks, K)  float64, sums of `mean` over each block's rows
          row_sum      (n_rows,)      float64, sums of `mean` over components
          offset       (n_rows,)      float64, see above
          moved        (n_rows,)      float64: sum of rate |mean - old mean|, in counts; NaN where one is not finite
          exponents    (n_workers, K) same dtype, scratch
    gives bitwise the same result for any number of workers
    cost  one digamma without its logarithm and one exp for each entry, no pass over counts
    """
    (
        S, prior, rate_of_row, weight, row_blocks, weight_step, floor, rho, times, U, mean, shape, column_sum, row_sum,
        offset, moved, exponents,
    ) = arguments(table)  # fmt: skip
    width, none = simd.width(U), simd.zero(U, 0)
    simd.clear_row(column_sum, block)
    for i in range(row_blocks[block], row_blocks[block + 1]):
        means, changes, highest = none, none, simd.fill_like(none, -math.inf)
        for v in range(width):
            new_shape, inverse_rate, new_mean, exponent, means, changes, highest = _posterior(
                simd.load(prior, 0, v), simd.load(U, i, v), simd.load(S, i, v), simd.load(shape, i, v),
                simd.load(mean, i, v), simd.load(weight, i * weight_step, v), rate_of_row[i], times, rho, 1.0 - rho,
                means, changes, highest,
            )  # fmt: skip
            simd.store(shape, i, v, new_shape)
            simd.store(U, i, v, inverse_rate)  # until the offset is known
            simd.store(mean, i, v, new_mean)
            simd.store(exponents, worker, v, exponent)
            simd.add_to_sums(column_sum, block, v, new_mean)
        lowest = -simd.highest(highest)
        for v in range(width):
            u = _geometric_mean(
                simd.load(shape, i, v), simd.load(exponents, worker, v), simd.load(U, i, v), lowest, floor
            )
            simd.store(U, i, v, u)
        row_sum[i], offset[i], moved[i] = simd.total(means), lowest, simd.total(changes)


@kernel(writes=2)
def posterior_terms(table, block, worker):
    """Sum the entries' own terms of the evidence lower bound; a task is a block of rows.

    terms[b] = sum over the rows i of block b and k of
                   (prior - shape) E[log u] - shape log(rate) + log Gamma(shape) + shape
    logs[i]  = sum over k of  E[log u] = digamma(shape[i, k]) - log rate[i, k]

    in    shape, prior, rate_of_row, weight, row_blocks, weight_step   as in `update_posterior`
    out   terms  (n_blocks,) float64, overwritten; nats
          logs   (n_rows,)   float64, overwritten
    gives bitwise the same result for any number of workers; computes in float64 for any dtype
    cost  a digamma, a log Gamma and three logarithms for each entry
    """
    shape, prior, rate_of_row, weight, row_blocks, weight_step, terms, logs = arguments(table)
    total = 0.0
    for i in range(row_blocks[block], row_blocks[block + 1]):
        log_sum = 0.0
        for v in range(simd.width(shape)):
            rate = _rate(simd.load(weight, i * weight_step, v), rate_of_row[i])
            terms_, log_means = _gamma_terms(
                simd.as_float64(simd.load(shape, i, v)), simd.as_float64(rate), simd.as_float64(simd.load(prior, 0, v))
            )
            total += simd.total(terms_)
            log_sum += simd.total(log_means)
        logs[i] = log_sum
    terms[block] = total
