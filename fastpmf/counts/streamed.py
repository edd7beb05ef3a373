"""Counts that need not fit in memory: a block of rows at a time, the next one read while this one is computed."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastpmf.core.counts import Counts, Descent, Side, Subproblem
from fastpmf.core.factors import dot
from fastpmf.counts.csr import ColumnSums, SparseRows
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.masked import observed_counts
from fastpmf.counts.named import Dataset
from fastpmf.counts.validation import as_counts
from fastpmf.kernels.threads import threads


class StreamedCounts:
    """Counts that are read anew in each pass, a block of rows at a time, for a fit that holds two blocks of them.

    A pass goes over the blocks in their order, and while one is worked on the next is read by another thread. An
    iteration of a solver is one pass, which serves both factors: W of a block is updated, then the block's part of what
    H needs is added up. All blocks are read once here, to be checked and counted.

    Parameters
    ----------
    read : callable
        Called without arguments for each pass; returns an iterable of the blocks, each some rows of X as anything that
        `as_counts` reads, best a canonical CSR matrix. All have the same columns, and each pass has the same blocks.
    by_column : bool, default=False
        The blocks are some columns of X, each given as a matrix of shape (n_columns, n_rows), X transposed: the two
        factors change their roles.
    name : str, default="X"
        What error messages call it.
    n_threads : int, optional
        Threads to use while it is read for the first time.

    Attributes
    ----------
    shape : (int, int)
        (n, p) of X.
    nnz : int
    dtype : dtype
        That all blocks' counts go into.
    total, entropy, log_factorial : float
        Sums of x, x log x and log x! over all entries; the latter two in nats.
    largest : float
        The largest count.
    block_entries : int
        Nonzeros in the block that has most.

    Raises
    ------
    TypeError, ValueError
        In one sentence: `read` can't be called, or a block isn't counts, or isn't as wide as the first.

    See Also
    --------
    fastpmf.io.stream_counts : those of a file, with its names.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from fastpmf import PoissonNMF, StreamedCounts
    >>> def read():  # from a disk, in earnest
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
                f"{name} must be a function that returns the blocks anew for each pass, got {type(read).__name__}"
            )
        self._read, self._name = read, name
        self.storage_axis = Side.COLUMNS if by_column else Side.ROWS
        with threads(n_threads):
            self._survey()

    def _survey(self) -> None:
        """One pass, to learn what the blocks hold."""
        bounds, held, sums, dtypes = [0], list[int](), list[np.ndarray](), set[np.dtype]()
        across, self.entropy, self.log_factorial, self.largest = np.zeros(0), 0.0, 0.0, 0
        self.smallest = np.inf
        for X in self._passed():
            if not held:
                across = np.zeros(X.n_columns)
            if X.n_columns != len(across):
                raise ValueError(
                    f"{self._name} must have blocks of as many columns as the first, {len(across)}, "
                    f"block {len(held)} has {X.n_columns}"
                )
            bounds.append(bounds[-1] + X.shape[0])
            held.append(len(X.data))
            dtypes.add(X.data.dtype)
            sums.append(X.sums)
            across += X.column_sums
            self.largest = max(self.largest, X.data.max(initial=0).item())
            self.smallest = min(self.smallest, X.smallest)
            self.entropy += X.entropy
            self.log_factorial += X.log_factorial
        if not held:
            raise ValueError(f"{self._name} must have at least one block, and its function returned none")
        self._bounds, self._held = bounds, held
        self._sums = np.concatenate(sums), across
        shape = bounds[-1], len(across)
        self.shape = shape if self.storage_axis is Side.ROWS else shape[::-1]
        self.nnz, self.block_entries, self.dtype = sum(held), max(held), np.result_type(*dtypes)
        self.total = float(self._sums[0].sum())

    def _passed(self) -> Iterator[SparseRows]:
        """The blocks in their order; while one is in use, another thread reads and checks the next."""
        source = iter(self._read())

        def advance() -> MemoryCounts | None:
            with threads(1):
                block = next(source, None)
                return None if block is None else as_counts(block, name=self._name)

        with ThreadPoolExecutor(1, "fastpmf-reader") as reader:
            coming = reader.submit(advance)
            while (block := coming.result()) is not None:
                coming = reader.submit(advance)
                yield block.side(Side.ROWS)

    def _each(self) -> Iterator[tuple[slice, SparseRows]]:
        """The blocks and where their rows are, of the side that they are rows of; as they were in the first pass."""
        number = 0
        for number, X in enumerate(self._passed(), 1):
            if number > len(self._held):
                break
            start, stop = self._bounds[number - 1 : number + 1]
            if (X.shape, len(X.data)) != ((stop - start, len(self._sums[1])), self._held[number - 1]):
                break
            yield slice(start, stop), X
        else:
            if number == len(self._held):
                return
        raise ValueError(f"{self._name} must have the same blocks in every pass, and they changed at block {number}")

    def blocks(self) -> Iterator[tuple[slice, MemoryCounts]]:
        """Blocks of rows, or of columns where it is those that are stored, and which they are."""
        for rows, X in self._each():
            yield rows, MemoryCounts(X) if self.storage_axis is Side.ROWS else MemoryCounts(None, X)

    def sums(self, side: Side) -> np.ndarray:
        """Row sums or column sums, float64."""
        return self._sums[Side(side) is not self.storage_axis]

    def contract(self, side: Side, U: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
        """out[i] = sum_j x_ij / (U[i] . V[j]) V[j] over the stored entries; i owns `side`."""
        if Side(side) is self.storage_axis:
            for rows, X in self._each():
                X.contract(U[rows], V, out[rows])
            return
        sums = ColumnSums(out)
        for rows, X in self._each():
            sums.add(X, V[rows], U)
        sums.finish()

    def contract_both(
        self, W: np.ndarray, Ht: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, with_data_term: bool = False
    ) -> float | None:
        """`contract` of both sides, optionally with the sum of `log_rate`, in one pass."""
        (U, out), (V, across) = ((W, rows), (Ht, columns))[:: 1 if self.storage_axis is Side.ROWS else -1]
        sums, log_rates = ColumnSums(across), []
        for some, X in self._each():
            X.contract(U[some], V, out[some])
            sums.add(X, U[some], V)
            if with_data_term:
                log_rates.append(X.log_rate(U[some], V))
        sums.finish()
        return float(np.concatenate(log_rates).sum()) if with_data_term else None

    def observed_sums(self, side: Side, V: np.ndarray, v_sum: np.ndarray) -> np.ndarray:
        """v_sum itself: all is observed."""
        return v_sum

    def rate_total(self, W: np.ndarray, Ht: np.ndarray, w_sum: np.ndarray, h_sum: np.ndarray) -> float:
        """Sum of W[i] . Ht[j] over all entries; w_sum and h_sum are the factors' column sums."""
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
        for rows, X in self._each():
            gap[rows] = X.descend(
                subproblem.select_rows(rows), U[rows], out[rows], sweeps=sweeps, max_rounds=max_rounds, tol=tol,
                zero=zero,
            ).gap  # fmt: skip
        return Descent(gap, None)

    def log_rate(self, W: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """sum_j x_ij log(W[i] . Ht[j]) over the stored entries of each row i of `storage_axis`, float64, in nats."""
        U, V = (W, Ht)[:: 1 if self.storage_axis is Side.ROWS else -1]
        return np.concatenate([X.log_rate(U[rows], V) for rows, X in self._each()])


def as_fittable(X: Any, *, mask: Any = None, n_threads: int | None = None) -> Counts:
    """`StreamedCounts` as they are, and all else in memory, without the entries of `mask`; see `observed_counts`."""
    counts = X.X if isinstance(X, Dataset) else X
    return counts if isinstance(counts, StreamedCounts) else observed_counts(X, mask, n_threads=n_threads)
