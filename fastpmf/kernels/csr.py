"""The structure of large CSR matrices: their transpose, and cuts of their rows into panels of columns."""

from fastpmf.kernels._jit import kernel, step
from fastpmf.kernels.launch import arguments


@kernel(writes=1)
def count_columns(table, block, worker):
    """Count the entries of each column; a task is a block of rows.

    out[b, j] = number of stored entries (i, j) with i in block b

    in    indices    (nnz,)          int32 or int64
          indptr     (n_rows + 1,)   int64
          row_blocks (n_blocks + 1,) int64, boundaries of blocks of rows
    out   out        (n_blocks, n_cols) int64, overwritten
    """
    indices, indptr, row_blocks, out = arguments(table)
    for j in range(out.shape[1]):
        out[block, j] = 0
    for p in range(indptr[row_blocks[block]], indptr[row_blocks[block + 1]]):
        out[block, indices[p]] += 1


@kernel(writes=3)
def scatter_columns(table, block, worker):
    """Write the transpose of a CSR matrix, with rows ascending in each column; a task is a block of rows.

    in    data, indices, indptr      the matrix
          row_blocks (n_blocks + 1,) int64
    out   place      (n_blocks, n_cols) int64: in: where block b's first entry of column j goes; out: scratch
          out_data    (nnz,)  dtype of data
          out_indices (nnz,)  int32 or int64, the row of each entry
    gives the same result for any number of blocks and workers
    """
    data, indices, indptr, row_blocks, place, out_data, out_indices = arguments(table)
    for i in range(row_blocks[block], row_blocks[block + 1]):
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            q = place[block, j]
            place[block, j] = q + 1
            out_data[q] = data[p]
            out_indices[q] = i


@step(inline=True)
def first_at_least(indices, low, end, bound):
    """Position of the first of the ascending indices[low:end] that is at least `bound`, else `end`."""
    n = end - low
    while n > 0:
        half = (n + 1) // 2
        low += half if indices[low + half - 1] < bound else 0  # without a branch, which half the rows would mispredict
        n -= half
    return low


CUT_AT_ONCE = 4096  # rows in a task of `cut_rows`


@kernel(writes=1)
def cut_rows(table, block, worker):
    """Find where each row enters each panel of columns; a task is `CUT_AT_ONCE` rows.

    out[b, i] = position of the first stored entry (i, j) with j >= bounds[b], or the end of row i

    in    indices (nnz,)          int32 or int64, ascending in each row
          indptr  (n_rows + 1,)   int64
          bounds  (n_panels + 1,) int64, from 0 to the number of columns, ascending
    out   out     (n_panels + 1, n_rows) int64, overwritten
    cost  n_rows n_panels binary searches
    """
    indices, indptr, bounds, out = arguments(table)
    for i in range(block * CUT_AT_ONCE, min((block + 1) * CUT_AT_ONCE, out.shape[1])):
        out[0, i] = indptr[i]
        for b in range(1, out.shape[0]):
            out[b, i] = first_at_least(indices, out[b - 1, i], indptr[i + 1], bounds[b])
