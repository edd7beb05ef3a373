"""Exact draws: of counts from the model, and of the components of given counts."""

import numpy as np
from llvmlite import ir
from numba.core import types

from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels._llvm import I64, operation
from fastpmf.kernels.launch import arguments

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_UNIT = 2.0**-53


def _uniform_meaning(seed, stream, n):
    z = np.uint64(seed)
    for x in (np.uint64(stream), np.uint64(n)):
        z = z + (x + np.uint64(1)) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
        z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * _UNIT


@operation(_uniform_meaning)
def uniform(seed, stream, n):
    """uniform(seed, stream, n) -> float64 in [0, 1), the n-th number of a stream, in whatever order they are drawn.

    It is the finaliser of SplitMix64, applied to the stream and then to n, so there is no generator state.
    Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17.
    """

    def emit(context, builder, z, stream, n):
        def times(z, factor):
            return builder.mul(z, ir.Constant(I64, factor - (1 << 64)))

        def folded(z, bits):
            return builder.xor(z, builder.lshr(z, I64(bits)))

        for x in (stream, n):
            z = builder.add(z, times(builder.add(x, I64(1)), _GOLDEN))
            z = folded(times(folded(times(folded(z, 30), _FIRST), 27), _SECOND), 31)
        return builder.fmul(builder.uitofp(builder.lshr(z, I64(11)), ir.DoubleType()), ir.DoubleType()(_UNIT))

    return types.float64(types.int64, types.int64, types.int64), emit


@kernel(writes=3)
def alias_tables(table, k, worker):
    """Turn each row of weights into a table for drawing columns in constant time; a task is a row.

    With u uniform in [0, n_cols) and j = floor(u), the draw is j if u - j < probability[k, j], else alias[k, j].

    in    weights     (K, n_cols) float64, >= 0, each row with a positive sum
    out   probability (K, n_cols) float64
          alias       (K, n_cols) int32
          pending     (n_workers, n_cols) int64, scratch: columns with probabilities below 1 from the left, others from
                      the right
    cost  O(n_cols) a row; Vose, "A linear algorithm for generating random numbers with a given distribution", IEEE
          Trans. Software Eng. 17 (1991)
    """
    weights, probability, alias, pending = arguments(table)
    n_columns = weights.shape[1]
    low, high, total = 0, n_columns, 0.0
    for j in range(n_columns):
        total += weights[k, j]
    scale = n_columns / total
    for j in range(n_columns):
        probability[k, j] = weights[k, j] * scale
        alias[k, j] = j
        if probability[k, j] < 1.0:
            pending[worker, low] = j
            low += 1
        else:
            high -= 1
            pending[worker, high] = j
    while low > 0 and high < n_columns:
        low -= 1
        small, large = pending[worker, low], pending[worker, high]
        alias[k, small] = large
        probability[k, large] -= 1.0 - probability[k, small]
        if probability[k, large] < 1.0:
            high += 1
            pending[worker, low] = large
            low += 1
    while low > 0:  # their probabilities differ from 1 only by rounding
        low -= 1
        probability[k, pending[worker, low]] = 1.0


@step(inline=True)
def _sort(numbers, start, stop):
    """Sort numbers[start:stop], by Shell's method with Knuth's gaps."""
    gap = 1
    while gap < (stop - start) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(start + gap, stop):
            number, place = numbers[i], i
            while place >= start + gap and numbers[place - gap] > number:
                numbers[place] = numbers[place - gap]
                place -= gap
            numbers[place] = number
        gap //= 3


ROWS_AT_ONCE = 64  # rows in a task of `draw_rows`


@kernel(writes=4)
def draw_rows(table, block, worker):
    """Draw the column of each count of a row, given their number, and merge counts on the same column.

    A count of row i belongs to component k with probability proportional to W[i, k], and its column is drawn from the
    table of k. A task is `ROWS_AT_ONCE` rows.

    in    seed     int
          largest  int            largest number that the dtype of `data` represents
          starts   (n_rows + 1,)  int64, where each row begins in columns and data; its length is its number of counts
          W        (n_rows, K)    float64
          probability, alias      as in `alias_tables`
    out   columns  (n_counts,)    int32; from starts[i] on, row i's columns, ascending
          data     (n_counts,)    uint8, uint16 or int32, the number of counts on each of these columns
          lengths  (n_rows,)      int64, number of distinct columns; -1 if a count is too large for the dtype of data
          ends     (n_workers, K) float64, scratch
    gives bitwise the same result for any number of workers
    cost  about 3 cache misses for each count, and sorting
    """
    seed, largest, starts, W, probability, alias, columns, data, lengths, ends = arguments(table)
    n_columns, n_components = probability.shape[1], W.shape[1]
    for i in range(block * ROWS_AT_ONCE, min((block + 1) * ROWS_AT_ONCE, W.shape[0])):
        total = 0.0
        for k in range(n_components):
            total += W[i, k]
            ends[worker, k] = total
        start, stop = starts[i], starts[i + 1]
        for c in range(start, stop):
            place = uniform(seed, i, 2 * (c - start)) * total
            k = 0
            while k < n_components - 1 and place >= ends[worker, k]:
                k += 1
            place = uniform(seed, i, 2 * (c - start) + 1) * n_columns
            j = min(int(place), n_columns - 1)
            columns[c] = j if place - j < probability[k, j] else alias[k, j]
        _sort(columns, start, stop)
        n, c = 0, start
        while c < stop:
            column, first = columns[c], c
            while c < stop and columns[c] == column:
                c += 1
            if c - first > largest:
                n = -1
                break
            columns[start + n] = column
            data[start + n] = c - first
            n += 1
        lengths[i] = n


@kernel(writes=2)
def close_gaps(table, task, worker):
    """Move the entries of each row down, in place, to the end of the row before; there is one task.

    in    starts  (n_rows + 1,) int64, where rows begin
          indptr  (n_rows + 1,) int64, where they are moved to: to lower or equal positions
    out   columns (n_counts,)   int32
          data    (n_counts,)   any of the counts' dtypes
    cost  one pass over both, by one worker, since a row moves to where earlier rows were
    """
    starts, indptr, columns, data = arguments(table)
    for i in range(len(starts) - 1):
        a, b = starts[i], indptr[i]
        for q in range(indptr[i + 1] - b):
            columns[b + q] = columns[a + q]
            data[b + q] = data[a + q]


@kernel(writes=3)
def allocate(table, block, worker):
    """Draw the component of each unit of each count, given the factors, and count them; exact.

    The counts of an entry are Multinomial(x_ij, U_ik V_jk / (U_i . V_j)) over the components. A task is `ROWS_AT_ONCE`
    rows.

    in    seed     int
          first    int           number of the first row in the whole matrix, which selects its random numbers
          data     (nnz,)        whole counts > 0: uint8, uint16, int32, float32 or float64
          indices  (nnz,)        int32 or int64, the column j of each
          indptr   (n_rows + 1,) int64
          U, V     (n_rows, K), (n_cols, K) float64, without padding, > 0
    out   of_rows     (n_rows, K)            int64, overwritten
          of_columns  (n_workers, n_cols, K) int64, added to; its sum over the workers is that of the columns
          ends        (n_workers, K)         float64, scratch
    gives bitwise the same result for any number of workers and blocks, once `of_columns` is summed
    cost  2 nnz K flops and a gather of nnz K numbers, and K comparisons for each unit of a count
    """
    seed, first, data, indices, indptr, U, V, of_rows, of_columns, ends = arguments(table)
    n_components = U.shape[1]
    for i in range(block * ROWS_AT_ONCE, min((block + 1) * ROWS_AT_ONCE, U.shape[0])):
        for k in range(n_components):
            of_rows[i, k] = 0
        n_drawn = 0
        for p in range(indptr[i], indptr[i + 1]):
            j, total = indices[p], 0.0
            for k in range(n_components):
                total += U[i, k] * V[j, k]
                ends[worker, k] = total
            for c in range(int(data[p])):
                place, z = uniform(seed, first + i, n_drawn + c) * total, 0
                for k in range(n_components - 1):
                    z += place >= ends[worker, k]
                of_rows[i, z] += 1
                of_columns[worker, j, z] += 1
            n_drawn += int(data[p])
