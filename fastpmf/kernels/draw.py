"""Exact draws from the model: each count falls on a component, then on a column, and equal ones are merged."""

from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.uniform import uniform


@kernel(writes=3)
def alias_tables(table, k, worker):
    """Make of each row of weights a table from which a column is drawn in one step; a task is a row.

    With u uniform in [0, n_cols), j = floor(u):  the draw is j where u - j < share[k, j], else other[k, j].

    in    weights (K, n_cols) float64, >= 0, each row with a positive sum
    out   share   (K, n_cols) float64
          other   (K, n_cols) int32
          waiting (n_workers, n_cols) int64, scratch: columns with too little from the left, too much from the right
    cost  O(n_cols) a row; Vose, "A linear algorithm for generating random numbers with a given distribution", IEEE
          Trans. Software Eng. 17 (1991)
    """
    weights, share, other, waiting = arguments(table)
    n_columns = weights.shape[1]
    low, high, total = 0, n_columns, 0.0
    for j in range(n_columns):
        total += weights[k, j]
    scale = n_columns / total
    for j in range(n_columns):
        share[k, j] = weights[k, j] * scale
        other[k, j] = j
        if share[k, j] < 1.0:
            waiting[worker, low] = j
            low += 1
        else:
            high -= 1
            waiting[worker, high] = j
    while low > 0 and high < n_columns:
        low -= 1
        little, much = waiting[worker, low], waiting[worker, high]
        other[k, little] = much
        share[k, much] -= 1.0 - share[k, little]
        if share[k, much] < 1.0:
            high += 1
            waiting[worker, low] = much
            low += 1
    while low > 0:  # which differ from 1 only by rounding
        low -= 1
        share[k, waiting[worker, low]] = 1.0


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
    """Draw each row's counts, given how many there are, and merge those that fall on the same column.

    A count of row i falls on component k with probability proportional to W[i, k], then on a column by k's table. A
    task is `ROWS_AT_ONCE` rows.

    in    seed     int
          largest  int            largest number that data's dtype holds
          starts   (n_rows + 1,)  int64, room for each row: its number of counts
          W        (n_rows, K)    float64
          share, other            as in `alias_tables`
    out   columns  (n_counts,)    int32; from starts[i] on, row i's columns, ascending
          data     (n_counts,)    uint8, uint16 or int32; beside them, how many counts fell there
          lengths  (n_rows,)      int64, how many columns there are; -1 where a count is too large for data's dtype
          ends     (n_workers, K) float64, scratch
    gives the same for any number of workers
    cost  about 3 cache misses for each count, and sorting
    """
    seed, largest, starts, W, share, other, columns, data, lengths, ends = arguments(table)
    n_columns, n_components = share.shape[1], W.shape[1]
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
            columns[c] = j if place - j < share[k, j] else other[k, j]
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
    """Move the entries of each row down, in place, to where those of the row before end; all of it is one task.

    in    starts  (n_rows + 1,) int64, where rows are
          indptr  (n_rows + 1,) int64, where they go: nowhere further up
    out   columns (n_counts,)   int32
          data    (n_counts,)   any of the counts' dtypes
    cost  one pass over both, by one worker: each row's place must have been left by the rows before
    """
    starts, indptr, columns, data = arguments(table)
    for i in range(len(starts) - 1):
        a, b = starts[i], indptr[i]
        for q in range(indptr[i + 1] - b):
            columns[b + q] = columns[a + q]
            data[b + q] = data[a + q]
