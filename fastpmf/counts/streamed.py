"""Counts that need not fit into memory: one block of rows is in use while the next is read."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastpmf.core.counts import Counts, Descent, Side, Subproblem
from fastpmf.core.factors import dot
from fastpmf.counts.csr import ColumnSums, SparseRows
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.masked import observed_counts
from fastpmf.counts.validation import Dataset, as_counts
from fastpmf.kernels.threads import threads


class StreamedCounts:
    """Counts that are read in each pass, one block of rows at a time, so that at most two blocks are in memory.

    A pass goes over the blocks in order; another thread reads the next block while one is in use. An iteration of a
    solver is one pass: it updates W of each block and accumulates its contribution to the update of H. The
    constructor makes one pass to check all blocks and compute their sums.

    Parameters
    ----------
    read : callable
        Called without arguments for each pass; returns an iterable of blocks of rows of X, each anything that
        `as_counts` reads, preferably canonical CSR. All blocks have the same columns, and each pass the same blocks.
    by_column : bool, default=False
        Whether the blocks are columns of X, given as rows of its transpose; the roles of W and H are then exchanged.
    name : str, default="X"
        Name of the argument in error messages.
    n_threads : int, optional
        Number of threads for the first pass; by default all that the process may use.

    Attributes
    ----------
    shape : (int, int)
        (n, p) of X.
    nnz : int
    dtype : dtype
        A dtype that holds the counts of all blocks.
    total, entropy, log_factorial : float
        Sums of x, x log x and log x! over all entries; the latter two in nats.
    largest : float
        The largest count.
    smallest : float
        A lower bound on the stored counts.
    block_entries : int
        Maximum number of nonzeros in a block.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or the blocks are invalid.

    See Also
    --------
    fastpmf.io.stream_counts : The counts in a file, with its names.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from fastpmf import PoissonNMF, StreamedCounts
    >>> def read():  # in practice from files
    ...     for seed in range(3):
    ...         yield sparse.csr_array(np.random.default_rng(seed).poisson(1.0, (40, 5)))
    >>> X = StreamedCounts(read)
    >>> X.shape, X.nnz
    ((120, 5), 396)
    >>> PoissonNMF(n_components=2, random_state=0).fit(X).components_.shape
    (2, 5)
    """

    row_access_only = True

    def __init__(
        self,
        read: Callable[[], Iterable[Any]],
        *,
        by_column: bool = False,
        name: str = "X",
        n_threads: int | None = None,
    ) -> None:
        if not callable(read):
            raise TypeError(
                f"{name} must be a function that returns all blocks in each pass, got {type(read).__name__}"
            )
        self._read, self._name = read, name
        self.storage_axis = Side.COLUMNS if by_column else Side.ROWS
        with threads(n_threads):
            self._check_blocks()

    def __repr__(self) -> str:
        n, p = self.shape
        return f"<{type(self).__name__}: {n:,} x {p:,}, {self.nnz:,} nonzeros, {self.dtype}>"

    def _check_blocks(self) -> None:
        """Make one pass to check all blocks and compute the attributes."""
        lengths, nnz, sums, dtypes, column_sums = list[int](), list[int](), list[np.ndarray](), set[np.dtype](), None
        self.entropy, self.log_factorial, self.largest, self.smallest = 0.0, 0.0, 0, np.inf
        for X in self._read_blocks():
            if column_sums is None:
                column_sums = np.zeros(X.n_columns)
            if X.n_columns != len(column_sums):
                raise ValueError(
                    f"{self._name} must have blocks with as many columns as the first, {len(column_sums)}, "
                    f"block {len(nnz)} has {X.n_columns}"
                )
            lengths.append(X.shape[0])
            nnz.append(len(X.data))
            dtypes.add(X.data.dtype)
            sums.append(X.sums)
            column_sums += X.column_sums
            self.largest = max(self.largest, X.data.max(initial=0).item())
            self.smallest = min(self.smallest, X.smallest)
            self.entropy += X.entropy
            self.log_factorial += X.log_factorial
        if column_sums is None:
            raise ValueError(f"{self._name} must have at least one block, and its function returned none")
        self._bounds, self._block_nnz = np.cumsum([0, *lengths]).tolist(), nnz
        self._sums = np.concatenate(sums), column_sums
        shape = len(self._sums[0]), len(column_sums)
        self.shape = shape if self.storage_axis is Side.ROWS else shape[::-1]
        self.nnz, self.block_entries, self.dtype = sum(nnz), max(nnz), np.result_type(*dtypes)
        self.total = float(self._sums[0].sum())

    def _read_blocks(self) -> Iterator[SparseRows]:
        """The blocks in order; while one is in use, another thread reads and checks the next."""
        blocks = iter(self._read())

        def read_next() -> MemoryCounts | None:
            with threads(1):
                block = next(blocks, None)
                return None if block is None else as_counts(block, name=self._name)

        with ThreadPoolExecutor(1, "fastpmf-reader") as reader:
            pending = reader.submit(read_next)
            while (block := pending.result()) is not None:
                pending = reader.submit(read_next)
                yield block.side(Side.ROWS)

    def _checked_blocks(self) -> Iterator[tuple[slice, SparseRows]]:
        """Each block and its slice of the stored side; a ValueError if the blocks differ from the first pass."""
        number = 0
        for number, X in enumerate(self._read_blocks(), 1):
            if number > len(self._block_nnz):
                break
            start, stop = self._bounds[number - 1 : number + 1]
            if (X.shape, len(X.data)) != ((stop - start, len(self._sums[1])), self._block_nnz[number - 1]):
                break
            yield slice(start, stop), X
        else:
            if number == len(self._block_nnz):
                return
        raise ValueError(f"{self._name} must have the same blocks in every pass, and they changed at block {number}")

    def blocks(self) -> Iterator[tuple[slice, MemoryCounts]]:
        """Blocks of rows, or of columns if these are stored, and their slices."""
        for rows, X in self._checked_blocks():
            yield rows, MemoryCounts(X) if self.storage_axis is Side.ROWS else MemoryCounts(None, X)

    def sums(self, side: Side) -> np.ndarray:
        """Row sums or column sums, float64."""
        return self._sums[Side(side) is not self.storage_axis]

    def contract(self, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[i] = sum_j x_ij / (U[i] . V[j]) V[j] over the stored entries; i runs over `side`."""
        if Side(side) is self.storage_axis:
            for rows, X in self._checked_blocks():
                X.contract(U[rows], V, out[rows])
            return
        sums = ColumnSums(out)
        for rows, X in self._checked_blocks():
            sums.add(X, V[rows], U)
        sums.finish()

    def contract_both(
        self, W: np.ndarray, Ht: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, with_data_term: bool = False
    ) -> float:
        """`contract` of both sides in one pass; see `Counts`."""
        (U, out), (V, other_out) = ((W, rows), (Ht, columns))[:: 1 if self.storage_axis is Side.ROWS else -1]
        sums, log_rates = ColumnSums(other_out), []
        for block, X in self._checked_blocks():
            X.contract(U[block], V, out[block])
            sums.add(X, U[block], V)
            if with_data_term:
                log_rates.append(X.log_rate(U[block], V))
        sums.finish()
        return float(np.concatenate(log_rates).sum()) if with_data_term else math.nan

    def observed_sums(self, side: Side, V: np.ndarray, v_sum: np.ndarray) -> np.ndarray:
        """v_sum, as all entries are observed."""
        return v_sum

    def rate_total(self, W: np.ndarray, Ht: np.ndarray, w_sum: np.ndarray, h_sum: np.ndarray) -> float:
        """Sum of W[i] . Ht[j] over all entries; w_sum and h_sum are the column sums of the factors."""
        with np.errstate(over="ignore"):
            return dot(w_sum, h_sum)

    def descend(
        self, subproblem: Subproblem, U: np.ndarray, out: np.ndarray, *, sweeps: int, max_rounds: int = 1,
        tol: float | None = None, zero: float = 0.0,
    ) -> Descent:  # fmt: skip
        """Lower the objective of each row by coordinate descent, for the side that is stored by rows only."""
        if subproblem.side is not self.storage_axis:
            raise ValueError("coordinate descent of one side needs the counts stored by that side")
        gap = np.empty(len(U))
        for rows, X in self._checked_blocks():
            gap[rows] = X.descend(
                subproblem.select_rows(rows), U[rows], out[rows], sweeps=sweeps, max_rounds=max_rounds, tol=tol,
                zero=zero,
            ).gap  # fmt: skip
        return Descent(gap, math.nan)

    def log_rate(self, W: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """sum_j x_ij log(W[i] . Ht[j]) over the stored entries of each row i of `storage_axis`, float64, in nats."""
        U, V = (W, Ht)[:: 1 if self.storage_axis is Side.ROWS else -1]
        return np.concatenate([X.log_rate(U[rows], V) for rows, X in self._checked_blocks()])


def as_fittable(X: Any, *, mask: Any = None, n_threads: int | None = None) -> Counts:
    """`StreamedCounts` unchanged, and any other X as `observed_counts`."""
    counts = X.X if isinstance(X, Dataset) else X
    return counts if isinstance(counts, StreamedCounts) else observed_counts(X, mask, n_threads=n_threads)
