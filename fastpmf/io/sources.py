"""What a file of counts is to a reader: three compressed arrays, or coordinates that come in chunks.

Nothing that a file says of its own size is believed: what has to be allocated is held against the machine's memory and
against the bytes that are there, before it is.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from fastpmf.counts.named import Dataset

CHUNK = 1 << 22  # entries that are held at once where not all of them are
_RATIO = 2_000  # bytes that a stored byte may become: more than deflate can, and real counts never come near
_SMALL = 1 << 26


class RefusedError(ValueError):
    """The file is whole, but what was asked of it is not in it, or is not clear."""


class Entries(NamedTuple):
    """Coordinates i, j and counts x of some entries, in any order; what stands twice is added up."""

    i: np.ndarray
    j: np.ndarray
    x: np.ndarray


class Names(NamedTuple):
    """What rows and columns are called, where the file says it."""

    rows: np.ndarray | None = None
    columns: np.ndarray | None = None


NAMELESS = Names()


@dataclass(frozen=True)
class Compressed:
    """A CSR matrix, or with `by_column` a CSC one, whose data and indices may lie in a file and are read by slices.

    Attributes
    ----------
    data, indices : array-like
    indptr : ndarray
    shape : (int, int)
    by_column : bool
    names : Names
    """

    data: Any
    indices: Any
    indptr: np.ndarray
    shape: tuple[int, int]
    by_column: bool = False
    names: Names = NAMELESS

    def __post_init__(self) -> None:
        check_shape(*self.shape)
        n, p, ends = self.shape[self.by_column], len(self.indptr) - 1, self.indptr
        whole = ends.ndim == 1 and ends.dtype.kind in "iu" and self.indices.dtype.kind in "iu"
        if not whole or n != p:
            raise ValueError(f"its indices must be whole numbers and its indptr {n + 1} of them")
        if (
            len(self.data) != len(self.indices)
            or ends[0] != 0
            or ends[-1] > len(self.data)
            or (ends[1:] < ends[:-1]).any()
        ):
            raise ValueError(f"its indptr must ascend from 0 to at most its {len(self.data)} counts and indices")

    def turned(self) -> "Compressed":
        """Its transpose, for nothing."""
        return Compressed(
            self.data, self.indices, self.indptr, self.shape[::-1], not self.by_column, Names(*self.names[::-1])
        )

    def dataset(self) -> Dataset:
        """All of it, in memory, or mapped where its arrays are."""
        data, indices = (A if isinstance(A, np.ndarray) else A[:] for A in (self.data, self.indices))
        self._check(indices)
        X = (sparse.csc_array if self.by_column else sparse.csr_array)(self.shape, dtype=data.dtype)
        X.data, X.indices, X.indptr = (
            data,
            indices,
            self.indptr,
        )  # from a tuple scipy would copy indices of another width
        return Dataset(X, *self.names)

    def read(self) -> Iterator[Entries]:
        """A chunk of its rows, or columns, at a time."""
        ends, start = self.indptr, 0
        while start < len(ends) - 1:
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + CHUNK, side="right")) - 1)
            part = slice(int(ends[start]), int(ends[stop]))
            major = np.repeat(np.arange(start, stop), np.diff(ends[start : stop + 1]))
            minor, x = np.asarray(self.indices[part]), np.asarray(self.data[part])
            self._check(minor)
            yield Entries(minor, major, x) if self.by_column else Entries(major, minor, x)
            start = stop

    def finish(self) -> tuple[tuple[int, int], Names]:
        """Shape and names."""
        return self.shape, self.names

    def _check(self, indices: np.ndarray) -> None:
        n = self.shape[1 - self.by_column]
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n:
            raise ValueError(f"its indices must lie in 0 ... {n - 1}, got {int(indices.min())} to {int(indices.max())}")


@dataclass(frozen=True)
class Coordinates:
    """Entries in the file's order, read from the beginning each time that `read` is called.

    Attributes
    ----------
    read : callable
        Yields `Entries`.
    finish : callable
        Called after a whole `read`: shape and `Names`.
    """

    read: Callable[[], Iterator[Entries]]
    finish: Callable[[], tuple[tuple[int, int], Names]]

    def turned(self) -> "Coordinates":
        """Its transpose, for nothing."""

        def finish() -> tuple[tuple[int, int], Names]:
            shape, names = self.finish()
            return shape[::-1], Names(*names[::-1])

        return Coordinates(lambda: (Entries(e.j, e.i, e.x) for e in self.read()), finish)

    def dataset(self) -> Dataset:
        """All of it, in memory."""
        i, j, x = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64)
        ascending, last = True, 0
        for part in self.read():
            if ascending and len(part.i):
                ascending = last <= part.i[0] and bool((part.i[1:] >= part.i[:-1]).all())
                last = part.i[-1]
            # Scipy adds up in the dtype it gets
            wide = part.x.astype(np.int64 if part.x.dtype.kind in "biu" else np.float64, copy=False)
            i, j, x = _longer(i, part.i), _longer(j, part.j), _longer(x, wide)
        shape, names = self.finish()
        check_shape(*shape)
        index = np.int32 if max(*shape, len(x)) <= np.iinfo(np.int32).max else np.int64  # as scipy's own files have it
        j = j.astype(index, copy=False)
        if not ascending or last >= shape[0]:
            i = i.astype(index, copy=False)
            return Dataset(sparse.coo_array((x, (i, j)), shape=shape).tocsr(), *names)
        # Rows in their order, as most files have them, need no copy to be put there
        ends = np.append(np.searchsorted(i, np.arange(shape[0], dtype=i.dtype)), len(i)).astype(index)
        del i
        X = sparse.csr_array((x, j, ends), shape=shape)
        X.sum_duplicates()
        return Dataset(X, *names)


Source = Compressed | Coordinates


def _longer(A: np.ndarray, more: np.ndarray) -> np.ndarray:
    """A with more behind it; A itself where its dtype will do, which the system moves rather than copies."""
    n = len(A)
    A = A.astype(np.result_type(A, more), copy=False)
    A.resize(n + len(more), refcheck=False)
    A[n:] = more
    return A


def memory() -> int:
    """Bytes of this machine's memory; a great many where it doesn't say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 1 << 62
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_room(n_bytes: int, stored: int) -> None:
    """Turn away arrays that this machine can't hold, or that so few stored bytes can't be."""
    if n_bytes > _SMALL and n_bytes > _RATIO * stored:
        raise ValueError(f"it says that it holds {n_bytes / 2**30:,.1f} GiB, which its {stored:,} bytes can't be")
    if n_bytes > memory():
        raise ValueError(f"it holds {n_bytes / 2**30:,.1f} GiB, and this machine has {memory() / 2**30:,.1f} GiB")


def check_shape(n: int, p: int) -> None:
    """Turn away shapes whose mere row and column pointers would fill the memory."""
    if n < 1 or p < 1:
        raise ValueError(f"it must have at least one row and one column, got {n} x {p}")
    if 16 * (n + p) > memory():
        raise ValueError(f"it says that it is {n} x {p}, more rows and columns than this machine's memory can point at")
