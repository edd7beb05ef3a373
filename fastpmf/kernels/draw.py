"""Exact draws from the model: each count falls on a component, then on a column, and equal ones are merged."""

import numpy as np
from numba import prange

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.uniform import uniform


@kernel("share", "other")
def alias_tables(n_vectors):
    """Make of each row of weights a table from which a column is drawn in one step.

    With u uniform in [0, n_cols), j = floor(u):  the draw is j where u - j < share[k, j], else other[k, j].

    in    weights (K, n_cols) float64, >= 0, each row with a positive sum
    out   share   (K, n_cols) float64
          other   (K, n_cols) int32
    cost  O(n_cols) a row; Vose, "A linear algorithm for generating random numbers with a given distribution", IEEE
          Trans. Software Eng. 17 (1991)
    """

    def loop(weights, share, other, n_workers):
        n_columns = weights.shape[1]
        for k in prange(weights.shape[0]):
            waiting = np.empty(
                n_columns, np.int64
            )  # columns with too little from the left, with too much from the right
            low, high = 0, n_columns
            scale = n_columns / weights[k].sum()
            for j in range(n_columns):
                share[k, j] = weights[k, j] * scale
                other[k, j] = j
                if share[k, j] < 1.0:
                    waiting[low] = j
                    low += 1
                else:
                    high -= 1
                    waiting[high] = j
            while low > 0 and high < n_columns:
                low -= 1
                little, much = waiting[low], waiting[high]
                other[k, little] = much
                share[k, much] -= 1.0 - share[k, little]
                if share[k, much] < 1.0:
                    high += 1
                    waiting[low] = much
                    low += 1
            while low > 0:  # what rounding has left over
                low -= 1
                share[k, waiting[low]] = 1.0

    return loop


@kernel("columns", "data", "lengths")
def draw_rows(n_vectors):
    """Draw each row's counts, given how many there are, and merge those that fall on the same column.

    A count of row i falls on component k with probability proportional to W[i, k], then on a column by k's table.

    in    seed     (1,)           int64
          starts   (n_rows + 1,)  int64, room for each row: its number of counts
          W        (n_rows, K)    float64
          share, other            as in `alias_tables`
    out   columns  (n_counts,)    int32; from starts[i] on, row i's columns, ascending
          data     (n_counts,)    uint8, uint16 or int32; beside them, how many counts fell there
          lengths  (n_rows,)      int64, how many columns there are; -1 where a count is too large for data's dtype
    gives the same for any number of workers
    cost  about 3 cache misses for each count, and sorting
    """

    def loop(seed, starts, W, share, other, columns, data, lengths, n_workers):
        n_columns, n_components = share.shape[1], W.shape[1]
        most = np.iinfo(data.dtype).max
        size = 1 + W.shape[0] // 4096
        counter = np.zeros(1, np.int64)
        for _ in prange(n_workers):
            ends = np.empty(n_components)
            b = simd.take(counter)
            while b * size < W.shape[0]:
                for i in range(b * size, min((b + 1) * size, W.shape[0])):
                    total = 0.0
                    for k in range(n_components):
                        total += W[i, k]
                        ends[k] = total
                    start, stop = starts[i], starts[i + 1]
                    for c in range(start, stop):
                        place = uniform(seed[0], i, 2 * (c - start)) * total
                        k = 0
                        while k < n_components - 1 and place >= ends[k]:
                            k += 1
                        place = uniform(seed[0], i, 2 * (c - start) + 1) * n_columns
                        j = min(int(place), n_columns - 1)
                        columns[c] = j if place - j < share[k, j] else other[k, j]
                    columns[start:stop].sort()
                    n, c = 0, start
                    while c < stop:
                        column, first = columns[c], c
                        while c < stop and columns[c] == column:
                            c += 1
                        if c - first > most:
                            n = -1
                            break
                        columns[start + n] = column
                        data[start + n] = c - first
                        n += 1
                    lengths[i] = n
                b = simd.take(counter)

    return loop


@kernel("columns", "data")
def close_gaps(n_vectors):
    """Move the entries of each row down, in place, to where those of the row before end.

    in    starts  (n_rows + 1,) int64, where rows are; indptr (n_rows + 1,) int64, where they go: nowhere further up
    out   columns (n_counts,)   int32; data (n_counts,) any of the counts' dtypes
    cost  one pass over both, by one worker
    """

    def loop(starts, indptr, columns, data, n_workers):
        for _ in prange(1):  # each row's place must have been left by the rows before
            for i in range(len(starts) - 1):
                a, b = starts[i], indptr[i]
                for q in range(indptr[i + 1] - b):
                    columns[b + q] = columns[a + q]
                    data[b + q] = data[a + q]

    return loop
