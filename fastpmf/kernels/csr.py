"""What has to be known and made of a CSR structure before anything is contracted: its order and its transpose."""

from numba import prange

from fastpmf.kernels._jit import kernel


@kernel("out")
def ascending(n_vectors):
    """Tell whether every row's column indices strictly ascend: sorted, and none twice.

    in    indices    (nnz,)          int32 or int64
          indptr     (n_rows + 1,)   int64
          row_blocks (n_blocks + 1,) int64, boundaries of blocks of rows
    out   out        (n_blocks,)     int64, overwritten: 1 where they do in the whole block, else 0
    cost  one pass over indices
    """

    def loop(indices, indptr, row_blocks, out, n_workers):
        for b in prange(row_blocks.shape[0] - 1):
            fine = 1
            for i in range(row_blocks[b], row_blocks[b + 1]):
                for p in range(indptr[i] + 1, indptr[i + 1]):
                    if indices[p] <= indices[p - 1]:
                        fine = 0
            out[b] = fine

    return loop


@kernel("out")
def count_columns(n_vectors):
    """Count each column's entries, one block of rows at a time.

    out[b, j] = number of stored entries (i, j) with i in block b

    in    indices    (nnz,)          int32 or int64
          indptr     (n_rows + 1,)   int64
          row_blocks (n_blocks + 1,) int64
    out   out        (n_blocks, n_cols) int64, overwritten
    """

    def loop(indices, indptr, row_blocks, out, n_workers):
        for b in prange(row_blocks.shape[0] - 1):
            out[b, :] = 0
            for p in range(indptr[row_blocks[b]], indptr[row_blocks[b + 1]]):
                out[b, indices[p]] += 1

    return loop


@kernel("place", "out_data", "out_indices")
def scatter_columns(n_vectors):
    """Write the transpose of a CSR matrix; within a column, rows stay in ascending order.

    in    data, indices, indptr      the matrix
          row_blocks (n_blocks + 1,) int64
          place      (n_blocks, n_cols) int64: where block b's first entry of column j goes; used up
    out   out_data    (nnz,)  dtype of data
          out_indices (nnz,)  int32 or int64, the row of each entry
    gives the same result for any number of blocks and workers
    """

    def loop(data, indices, indptr, row_blocks, place, out_data, out_indices, n_workers):
        for b in prange(row_blocks.shape[0] - 1):
            for i in range(row_blocks[b], row_blocks[b + 1]):
                for p in range(indptr[i], indptr[i + 1]):
                    j = indices[p]
                    q = place[b, j]
                    place[b, j] = q + 1
                    out_data[q] = data[p]
                    out_indices[q] = i

    return loop


@kernel("out")
def cut_rows(n_vectors):
    """Find where each row passes from one panel of columns to the next.

    out[b, i] = position of the first stored entry (i, j) with j >= bounds[b], or where row i ends

    in    indices (nnz,)          int32 or int64, ascending in each row
          indptr  (n_rows + 1,)   int64
          bounds  (n_panels + 1,) int64, from 0 to the number of columns, ascending
    out   out     (n_panels + 1, n_rows) int64, overwritten
    cost  n_rows n_panels binary searches
    """

    def loop(indices, indptr, bounds, out, n_workers):
        for i in prange(out.shape[1]):
            out[0, i] = indptr[i]
            for b in range(1, out.shape[0]):
                low, high = out[b - 1, i], indptr[i + 1]
                while low < high:
                    middle = (low + high) // 2
                    if indices[middle] < bounds[b]:
                        low = middle + 1
                    else:
                        high = middle
                out[b, i] = low

    return loop
