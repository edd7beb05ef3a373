"""What a fit allocates, added up."""

from typing import NamedTuple

import numpy as np

from fastpmf.counts.blocks import panel_width
from fastpmf.counts.rows import SAFE_ROWS
from fastpmf.kernels._jit import current_threads
from fastpmf.kernels.simd import VECTOR_BYTES
from fastpmf.solvers.base import Solver


class Bytes(NamedTuple):
    """As `fastpmf.plan.Plan` has them."""

    counts: int
    transpose: int
    blocks: int
    factors: int

    @property
    def peak(self) -> int:
        """Beyond the counts."""
        return self.transpose + self.blocks + self.factors


def bytes_of(
    shape: tuple[int, int], nnz: int, n_components: int, work: np.dtype, counts_dtype: np.dtype, solver: Solver, *,
    block_entries: int | None = None, n_init: int = 1,
) -> Bytes:  # fmt: skip
    """Of a fit with the threads as they are; `block_entries` is None for counts in memory."""
    n, p = shape
    nnz = max(nnz, 1)
    counts, transpose = (
        nnz * (counts_dtype.itemsize + (4 if across <= np.iinfo(np.int32).max else 8)) + 8 * (along + 1)
        for along, across in ((n, p), (p, n))
    )
    row = -(-n_components // (VECTOR_BYTES // work.itemsize)) * VECTOR_BYTES
    # What the solver holds; S of both sides for the last look at the optimality, with what summing the columns' takes
    factors = (n_init * solver.copies + 1) * (n + p) * row
    factors += 40 * (n + p)  # sums, bounds and the order of the rows
    factors += _summing(n, p, -(-n * min(block_entries or nnz, nnz) // nnz), row, work)
    transpose = transpose + _cuts(n, p, nnz, row) + _cuts(p, n, nnz, row) if solver.transposed else 0
    blocks = 0
    if block_entries is not None:
        entry, block = (counts - 8 * (n + 1)) // nnz, min(block_entries, nnz)
        rows = -(-block * n // nnz)
        # Pointers and sums of all rows; of a block's rows, pointers, cuts and the order that they are descended in
        transpose, blocks = 0, 2 * block * entry + 24 * n + (80 + _cuts(1, p, block, row)) * rows
    return Bytes(counts, transpose, blocks, factors)


def _summing(n: int, p: int, n_at_once: int, row: int, work: np.dtype) -> int:
    """Bytes beside the columns' sums while they are formed, of so many rows at once.

    Cuts of these rows, and in float32 what is kept in float64.
    """
    cuts = 8 * (current_threads() + 2) * min(n_at_once, SAFE_ROWS)
    return cuts + (2 * p * row if work.itemsize == 4 and n >= SAFE_ROWS else 0)


def _cuts(n_rows: int, n_columns: int, nnz: int, row_bytes: int) -> int:
    """Bytes of where rows pass from one panel of columns to the next, if there are several."""
    n_panels = -(-n_columns // panel_width(n_rows, n_columns, nnz, row_bytes))
    return 8 * (n_panels + 1) * n_rows if n_panels > 1 else 0
