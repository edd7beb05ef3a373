"""What a file of counts is to a reader: three compressed arrays, or coordinates that come in chunks.

Both are closed by a with statement.

Sizes that a file claims are checked before they are allocated, see `fastpmf.utils.memory`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from fastpmf.counts import COUNT_DTYPES, Dataset
from fastpmf.counts.partition import blocks_of
from fastpmf.counts.validation import wide
from fastpmf.utils.memory import check_array_bytes, check_compression, memory_limit
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.warnings import warn

if TYPE_CHECKING:
    from fastpmf.io.counts import Location

CHUNK = 1 << 22  # entries that are held at once where not all of them are


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


class _Open:
    """What may keep a file open until it is closed."""

    def close(self) -> None:
        """Nothing is open between two reads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Compressed(_Open):
    """A CSR matrix, or with `by_column` a CSC one, whose data and indices may lie in a file and are read by slices.

    Attributes
    ----------
    data, indices : ndarray, or `Stored` or `Mapped` of `fastpmf.io.binary`
        The latter stay in their file. A slice of them is an array of its own, `whole()` all of them.
    indptr : ndarray
    shape : (int, int)
    by_column : bool
    names : Names
    place : ndarray of int, optional
        If only some of the columns (rows of CSC) are chosen: the number of each stored one among the chosen, -1 if it
        is left out. `shape` and `names` are those of the chosen; `indptr` is that of all stored entries.
    file : ExitStack
        What `close` closes. Only one thread at a time may read what lies in an HDF5 file.
    location : Location, optional
        What opens it again, in another process too; None of what never lay in a file.
    """

    data: Any
    indices: Any
    indptr: np.ndarray
    shape: tuple[int, int]
    by_column: bool = False
    names: Names = NAMELESS
    place: np.ndarray | None = None
    file: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)
    location: "Location | None" = None

    def __post_init__(self) -> None:
        check_shape(*self.shape)
        n, p, ends = self.shape[self.by_column], len(self.indptr) - 1, self.indptr
        if self.data.dtype.kind not in "biuf":
            raise ValueError(f"its counts must be numbers, got {self.data.dtype}")
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

    def close(self) -> None:
        """Close its file; what was read of it stays, more can't be read."""
        self.file.close()

    def turned(self) -> "Compressed":
        """Its transpose, for nothing."""
        where = self.location and replace(self.location, transpose=not self.location.transpose)
        return replace(
            self, shape=self.shape[::-1], by_column=not self.by_column, names=Names(*self.names[::-1]), location=where
        )

    def dataset(self) -> Dataset:
        """All of it, in memory, or mapped where its arrays can be."""
        data, indices = (A if isinstance(A, np.ndarray) else A.whole() for A in (self.data, self.indices))
        self._check(indices)
        if self.place is not None:
            ends = self.indptr
            data, indices, ends = self._chosen(data[: ends[-1]], indices[: ends[-1]], ends)
            return replace(self, data=data, indices=indices, indptr=ends, place=None).dataset()
        narrow = self.indptr[-1] <= np.iinfo(indices.dtype).max  # scipy would widen one of two dtypes at every turn
        X = (sparse.csc_array if self.by_column else sparse.csr_array)(self.shape, dtype=data.dtype)
        X.data, X.indices, X.indptr = (
            data,
            indices,
            self.indptr.astype(indices.dtype, copy=False) if narrow else self.indptr,
        )  # from a tuple scipy would copy indices of another width
        return Dataset(X, *self.names)

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some of its rows, or, by column, of its columns, read into memory.

        Parameters
        ----------
        start, stop : int
            From row start to before row stop.

        Returns
        -------
        data, indices : ndarray
            As they are stored, maybe in no order; arrays of their own, never views. The indices are in range.
        indptr : ndarray of shape (stop - start + 1,)
            From 0.

        Raises
        ------
        ValueError
            No such rows, or a damaged file.
        """
        n = len(self.indptr) - 1
        if not 0 <= start <= stop <= n:
            raise ValueError(f"start and stop must be in order and within 0 ... {n}, got {start} and {stop}")
        with self.location.said() if self.location else nullcontext():
            return self._rows(start, stop)

    def _rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ends = self.indptr[start : stop + 1]
        part = slice(int(ends[0]), int(ends[-1]))
        data, indices = (A[part].copy() if isinstance(A, np.ndarray) else A[part] for A in (self.data, self.indices))
        self._check(indices)
        return self._chosen(data, indices, ends - ends[0])

    def _chosen(
        self, data: np.ndarray, indices: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The entries of the chosen columns, or rows of CSC."""
        if self.place is None:
            return data, indices, ends
        at = self.place[indices]
        kept = at >= 0
        return data[kept], at[kept], np.concatenate([[0], np.cumsum(kept)])[ends]

    def read(self) -> Iterator[Entries]:
        """A chunk of its rows, or columns, at a time."""
        for start, stop in pairwise(blocks_of(self.indptr, CHUNK).tolist()):
            x, minor, ends = self._rows(start, stop)
            major = np.repeat(np.arange(start, stop), np.diff(ends))
            yield Entries(minor, major, x) if self.by_column else Entries(major, minor, x)

    def finish(self) -> tuple[tuple[int, int], Names]:
        """Shape and names."""
        return self.shape, self.names

    def _check(self, indices: np.ndarray) -> None:
        n = self.shape[1 - self.by_column] if self.place is None else len(self.place)
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n:
            raise ValueError(f"its indices must lie in 0 ... {n - 1}, got {int(indices.min())} to {int(indices.max())}")


@dataclass(frozen=True)
class Coordinates(_Open):
    """Entries in the file's order, read from the beginning each time that `read` is called.

    Attributes
    ----------
    chunks : callable
        Yields `Entries`.
    finish : callable
        Called after a whole `read`: shape and `Names`.
    distinct : bool
        Nothing stands twice, so that nothing is added up, and counts keep their dtype.
    stored : int, optional
        Bytes of the file; None of what never lay in one.
    """

    chunks: Callable[[], Iterator[Entries]]
    finish: Callable[[], tuple[tuple[int, int], Names]]
    distinct: bool = False
    stored: int | None = None

    def read(self) -> Iterator[Entries]:
        """The chunks, as long as the file's bytes can be so many: what repeats itself can be packed without end."""
        held = 0
        for part in self.chunks():
            held += sum(A.nbytes for A in part)
            if self.stored is not None:
                check_compression(held, self.stored)
            yield part

    def turned(self) -> "Coordinates":
        """Its transpose, for nothing."""

        def finish() -> tuple[tuple[int, int], Names]:
            shape, names = self.finish()
            return shape[::-1], Names(*names[::-1])

        return Coordinates(lambda: (Entries(e.j, e.i, e.x) for e in self.chunks()), finish, self.distinct, self.stored)

    def dataset(self) -> Dataset:
        """All of it, in memory."""
        i, j, x = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint8)
        ascending, last = True, 0
        for part in self.read():
            if ascending and len(part.i):
                ascending = last <= part.i[0] and bool((part.i[1:] >= part.i[:-1]).all())
                last = part.i[-1]
            # Scipy adds up in the dtype it gets
            kind = part.x.dtype if self.distinct else np.int64 if part.x.dtype.kind == "b" else wide(part.x.dtype)
            i, j, x = _longer(i, part.i), _longer(j, part.j), _longer(x, part.x.astype(kind, copy=False))
            check_array_bytes(i.nbytes + j.nbytes + x.nbytes, memory_limit())
        shape, names = self.finish()
        check_shape(*shape)
        index = np.int32 if max(*shape, len(x)) <= np.iinfo(np.int32).max else np.int64  # as scipy's own files have it
        j = j.astype(index, copy=False)
        if not ascending or last >= shape[0]:
            i = i.astype(index, copy=False)
            X = sparse.coo_array((x, (i, j)), shape=shape).tocsr()
            X.data = X.data if self.distinct else narrowed(X.data)
            return Dataset(X, *names)
        # Rows in their order, as most files have them, need no copy to be put there
        ends = np.append(np.searchsorted(i, np.arange(shape[0], dtype=i.dtype)), len(i)).astype(index)
        del i
        X = sparse.csr_array((x, j, ends), shape=shape)
        X.sum_duplicates()
        X.data = X.data if self.distinct else narrowed(X.data)
        return Dataset(X, *names)


Source = Compressed | Coordinates


def _longer(A: np.ndarray, more: np.ndarray) -> np.ndarray:
    """A with more behind it; A itself where its dtype will do, which the system moves rather than copies."""
    n = len(A)
    A = A.astype(np.result_type(A, more), copy=False)
    A.resize(n + len(more), refcheck=False)
    A[n:] = more
    return A


def as_integers(counts: np.ndarray) -> np.ndarray:
    """Counts of a text or float column as int64 if all are whole numbers that float64 represents exactly."""
    whole = (counts == np.floor(counts)) & (np.abs(counts) < 2**53)
    return counts.astype(np.int64) if whole.all() else counts


def narrowed(counts: np.ndarray) -> np.ndarray:
    """Integers >= 0 in the smallest integer dtype that the kernels read; other counts unchanged."""
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        return counts
    most = counts.max(initial=0)
    return next((counts.astype(dtype) for dtype in COUNT_DTYPES[:3] if most <= np.iinfo(dtype).max), counts)


GENES = "Gene Expression"  # the feature type of 10x Genomics that is read by default


def chosen_features(kinds: np.ndarray | None, wanted: str | Sequence[str] | None) -> np.ndarray | None:
    """Which features of 10x Genomics' files are read, as bools, or None for all.

    Parameters
    ----------
    kinds : ndarray of str, or None
        Type of each feature; None for version 2, which has no types.
    wanted : str or sequence of str, optional
        Types, or "all". By default genes alone if there are several types, with a warning.

    Raises
    ------
    RefusedError
        If the file lacks a type in `wanted`, or has several types but no genes and `wanted` is not given.
    """
    if kinds is None:
        if wanted not in (None, "all"):
            raise RefusedError(f"its features have no types: feature_types must be None or 'all', got {brief(wanted)}")
        return None
    there, sizes = np.unique(kinds, return_counts=True)
    types = listed(there.tolist())
    if wanted == "all" or (wanted is None and len(there) == 1):
        return None
    if wanted is None:
        if GENES not in there:
            raise RefusedError(f"its features are of several types: feature_types must be of {types}, or 'all'")
        left_out = " and ".join(
            f"{n:,} of type {t!r}" for t, n in zip(there.tolist(), sizes.tolist(), strict=True) if t != GENES
        )
        warn(
            f"the file's features are of several types: {GENES!r} is read, {left_out} are left out; feature_types "
            "chooses others, or 'all'"
        )
        return np.asarray(kinds == GENES)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if not names or not set(names) <= set(there.tolist()):
        raise RefusedError(f"feature_types must be of {types}, or 'all', got {wanted!r}")
    return np.isin(kinds, names)


def check_shape(n: int, p: int) -> None:
    """Turn away shapes whose mere row and column pointers would fill the memory."""
    if n < 1 or p < 1:
        raise ValueError(f"it must have at least one row and one column, got {n} x {p}")
    if 16 * (n + p) > memory_limit():
        raise ValueError(f"it says that it is {n} x {p}, more rows and columns than this process's memory can point at")


def as_names(names: list[str], stored: int) -> np.ndarray:
    """Names as an array, in which each takes the room of the longest: their stored bytes must be able to fill it."""
    check_array_bytes(4 * len(names) * max(map(len, names), default=0), stored)
    return np.array(names, str)
