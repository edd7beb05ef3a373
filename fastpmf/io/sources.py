"""Counts in an opened file: compressed arrays, which are read by slices, or coordinates, which are read in chunks.

The sizes in a file are compared with its number of bytes before memory is allocated; see `fastpmf.utils.memory`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from fastpmf.counts import COUNT_DTYPES, Dataset
from fastpmf.counts.partition import blocks_of
from fastpmf.counts.validation import check_sums, sum_dtype
from fastpmf.utils.files import READ_ERRORS
from fastpmf.utils.memory import check_array_bytes, check_compression, memory_limit
from fastpmf.utils.messages import printable

CHUNK = 1 << 22  # entries in memory at a time if a file is not read whole


class Entries(NamedTuple):
    """Row indices i, column indices j and counts x of entries in any order; duplicates are summed."""

    i: np.ndarray
    j: np.ndarray
    x: np.ndarray


class Names(NamedTuple):
    """Names of rows and columns, if the file has them."""

    rows: np.ndarray | None = None
    columns: np.ndarray | None = None


NAMELESS = Names()


class Location(NamedTuple):
    """Arguments of `open_counts` that open the same counts again, for example in another process."""

    path: str
    format: str
    layer: str | None = None
    transpose: bool = False
    feature_types: str | Sequence[str] | None = None


class _Open:
    """A context manager that closes `file`, if there is one."""

    file: ExitStack | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


@dataclass(frozen=True)
class Compressed(_Open):
    """A CSR matrix, or with `by_column` a CSC matrix, whose data and indices may stay in a file.

    Attributes
    ----------
    data, indices : ndarray, or a vector in a file
        A slice of a vector in a file is an array in memory; its method `whole` returns all of it.
    indptr : ndarray
    shape : (int, int)
    by_column : bool
    names : Names
    new_index : ndarray of int, optional
        Selects columns (rows of CSC): the index of each stored column among the selected ones, -1 if it is not
        selected. `shape` and `names` are those of the selected columns; `indptr` counts all stored entries.
    file : ExitStack, optional
        Closed by `close`. Only one thread at a time may read from an HDF5 file.
    location : Location, optional
        If data and indices are in a file.
    """

    data: Any
    indices: Any
    indptr: np.ndarray
    shape: tuple[int, int]
    by_column: bool = False
    names: Names = NAMELESS
    new_index: np.ndarray | None = None
    file: ExitStack | None = None
    location: Location | None = None

    def __post_init__(self) -> None:
        check_shape(*self.shape)
        check_counts_dtype(self.data.dtype)
        n, ends = self.shape[self.by_column], self.indptr
        if ends.ndim != 1 or ends.dtype.kind not in "iu" or self.indices.dtype.kind not in "iu" or len(ends) != n + 1:
            raise ValueError(f"its indices and indptr must be integers, {n + 1} of them in indptr")
        stored = len(self.data)
        if stored != len(self.indices) or ends[0] != 0 or ends[-1] > stored or (ends[1:] < ends[:-1]).any():
            raise ValueError(f"its indptr must ascend from 0 to at most its {stored} counts and indices")

    @property
    def in_file(self) -> bool:
        """Whether data and indices are read from a file when they are needed."""
        return not isinstance(self.data, np.ndarray)

    def transposed(self) -> "Compressed":
        """The transpose, which shares the arrays."""
        location = self.location and self.location._replace(transpose=not self.location.transpose)
        return replace(
            self, shape=self.shape[::-1], by_column=not self.by_column, names=Names(*self.names[::-1]),
            location=location,
        )  # fmt: skip

    def to_dataset(self) -> Dataset:
        """All counts, in memory or memory-mapped."""
        data, indices = (A.whole() if self.in_file else A for A in (self.data, self.indices))
        self._check(indices)
        data, indices, indptr = self._select(data, indices, self.indptr)
        if indptr[-1] <= np.iinfo(indices.dtype).max:  # scipy requires one dtype for both, and would widen the indices
            indptr = indptr.astype(indices.dtype, copy=False)
        X = (sparse.csc_array if self.by_column else sparse.csr_array)(self.shape, dtype=data.dtype)
        X.data, X.indices, X.indptr = data, indices, indptr  # the constructor may copy, and loses memory maps
        return Dataset(X, *self.names)

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read consecutive rows, or columns if `by_column`, into memory.

        Parameters
        ----------
        start, stop : int
            From row start to before row stop.

        Returns
        -------
        data, indices : ndarray
            In their stored order, never views. The indices are in range.
        indptr : ndarray of shape (stop - start + 1,)
            From 0.

        Raises
        ------
        ValueError
            If there are no such rows, or the file is damaged.
        """
        n = len(self.indptr) - 1
        if not 0 <= start <= stop <= n:
            raise ValueError(f"start and stop must be in order and within 0 ... {n}, got {start} and {stop}")
        with file_errors(self.location.path, self.location.format) if self.location else nullcontext():
            return self._rows(start, stop)

    def _rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ends = self.indptr[start : stop + 1]
        part = slice(int(ends[0]), int(ends[-1]))
        data, indices = (A[part] if self.in_file else A[part].copy() for A in (self.data, self.indices))
        self._check(indices)
        return self._select(data, indices, ends - ends[0])

    def _select(
        self, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The entries of the selected columns, or rows of CSC."""
        if self.new_index is None:
            return data, indices, indptr
        indices = self.new_index[indices]
        selected = indices >= 0
        return data[selected], indices[selected], np.concatenate([[0], np.cumsum(selected)])[indptr]

    def _check(self, indices: np.ndarray) -> None:
        n = self.shape[1 - self.by_column] if self.new_index is None else len(self.new_index)
        # A negative index is a large one without its sign, so one pass over the indices is enough
        if len(indices) and int(indices.view(indices.dtype.str.replace("i", "u")).max()) >= n:
            raise ValueError(f"its indices must lie in 0 ... {n - 1}, got {int(indices.min())} to {int(indices.max())}")

    def entries(self) -> Iterator[Entries]:
        """All entries, a chunk of rows, or columns, at a time."""
        for start, stop in pairwise(blocks_of(self.indptr, CHUNK).tolist()):
            x, minor, ends = self._rows(start, stop)
            major = np.repeat(np.arange(start, stop), np.diff(ends))
            yield Entries(minor, major, x) if self.by_column else Entries(major, minor, x)

    def describe(self) -> tuple[tuple[int, int], Names]:
        """Shape and names."""
        return self.shape, self.names


@dataclass(frozen=True)
class Coordinates(_Open):
    """Entries in the order of the file, which is opened and read from its beginning each time.

    Attributes
    ----------
    chunks : callable
        Yields `Entries`.
    describe : callable
        Returns shape and `Names`; to be called after all chunks have been read.
    distinct : bool
        Whether there are no duplicates; the counts then keep their dtype.
    stored : int, optional
        Bytes of the file.
    """

    chunks: Callable[[], Iterator[Entries]]
    describe: Callable[[], tuple[tuple[int, int], Names]]
    distinct: bool = False
    stored: int | None = None

    def entries(self) -> Iterator[Entries]:
        """The chunks; raises an error if they are larger than the file's bytes can be."""
        n_bytes = 0
        for chunk in self.chunks():
            n_bytes += sum(A.nbytes for A in chunk)
            if self.stored is not None:
                check_compression(n_bytes, self.stored)
            yield chunk

    def transposed(self) -> "Coordinates":
        """The transpose."""

        def describe() -> tuple[tuple[int, int], Names]:
            shape, names = self.describe()
            return shape[::-1], Names(*names[::-1])

        return replace(self, chunks=lambda: (Entries(e.j, e.i, e.x) for e in self.chunks()), describe=describe)

    def to_dataset(self) -> Dataset:
        """All counts, in memory."""
        chunks, n_bytes = list[Entries](), 0
        for chunk in self.entries():
            chunks.append(chunk)
            n_bytes += sum(A.nbytes for A in chunk)
            check_array_bytes(n_bytes, memory_limit())
        shape, names = self.describe()
        check_shape(*shape)
        i, j, x = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        del chunks
        X = sparse.coo_array((x, (i, j)), shape=shape)
        if self.distinct:
            return Dataset(X.tocsr(), *names)
        counts = summed(X)
        check_sums(counts, *names, "its counts")
        return Dataset(counts, *names)


Source = Compressed | Coordinates


@contextmanager
def file_errors(path: str | os.PathLike[str], format: str) -> Iterator[None]:
    """Raise any error of a damaged or unsuitable file as a ValueError of one line that names the file.

    Errors of the operating system, such as a full disk, are raised unchanged.
    """
    try:
        yield
    except READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno:  # libraries raise OSErrors without a number for damaged files
            raise
        reason = printable(" ".join(str(error).split()) or type(error).__name__)[:300]
        raise ValueError(f"{os.fspath(path)} can't be read as {format}: {reason}") from None


def summed(X: sparse.coo_array) -> sparse.csr_array:
    """Coordinates as CSR: duplicates are summed, integers >= 0 take the smallest dtype that the kernels read."""
    check_shape(*X.shape)
    check_counts_dtype(X.dtype)
    counts = X.data.astype(np.int64 if X.dtype.kind == "b" else sum_dtype(X.dtype), copy=False)
    X = sparse.coo_array((counts, X.coords), shape=X.shape).tocsr()  # X.astype would sort the entries
    if X.dtype.kind in "iu" and X.data.min(initial=0) >= 0:
        largest = X.data.max(initial=0)
        X.data = next((X.data.astype(dtype) for dtype in COUNT_DTYPES[:3] if largest <= np.iinfo(dtype).max), X.data)
    return X


def as_integers(counts: np.ndarray) -> np.ndarray:
    """Counts of a text or float column as int64 if all are whole numbers that float64 represents exactly."""
    if counts.dtype.kind != "f":
        return counts
    whole = (counts == np.floor(counts)) & (np.abs(counts) < 2**53)
    return counts.astype(np.int64) if whole.all() else counts


def check_counts_dtype(dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        raise ValueError(f"its counts must be numbers, got {dtype}")


def check_shape(n: int, p: int) -> None:
    """Raise an error for shapes whose row and column pointers alone exceed the memory limit."""
    if n < 1 or p < 1:
        raise ValueError(f"it must have at least one row and one column, got {n} x {p}")
    if 16 * (n + p) > memory_limit():
        raise ValueError(f"its shape is {n} x {p}, and the pointers of its rows and columns exceed the memory limit")


def as_names(names: list[str]) -> np.ndarray:
    """Names as an array of str, in which each takes the space of the longest."""
    check_array_bytes(4 * len(names) * max(map(len, names), default=0), sum(map(len, names)))
    return np.array(names, str)
