"""Counts of any size into a folder of .npy, which are memory-mapped from then on: a chunk in memory at a time."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from scipy import sparse

from fastpmf.counts import COUNT_DTYPES
from fastpmf.counts.partition import blocks_of
from fastpmf.io.binary import npy_folder
from fastpmf.io.sources import CHUNK, Compressed, Source
from fastpmf.utils.files import check_folder, remove, temporary_beside
from fastpmf.utils.validation import not_finite

Progress = Callable[[int], object]
_EMPTY = "it must hold at least one positive count"


def write_folder(path: str | os.PathLike[str], source: Source, progress: Progress = lambda n: None) -> Compressed:
    """Write canonical CSR: data.npy, indices.npy, indptr.npy, shape.npy, and rows.txt and columns.txt where named.

    The source is read twice: once to count what each row holds, once to put it there. Then each row is sorted, what
    stands twice in it added up, and zeros dropped. Counts take the smallest dtype that holds them exactly.

    Parameters
    ----------
    path : path-like
        A folder, which appears once all is written; it must not be there, or be such a folder, which it replaces.
    source : Source
    progress : callable, optional
        Called with the number of entries dealt with since the last call; each is dealt with three times.

    Returns
    -------
    Compressed
        What was written, memory-mapped.

    Raises
    ------
    FileExistsError
        The path is something else.
    FileNotFoundError, PermissionError
        There is no folder to write it in, or no permission.
    ValueError
        Negative, NaN or infinite counts, or none at all.
    """
    target = Path(os.path.realpath(path))  # what a symbolic link points to is replaced, not the link
    if target.exists() and not (target / "indptr.npy").is_file():
        raise FileExistsError(f"{target} is there already, and is no folder of .npy that could be replaced")
    check_folder(target)
    held, dtype = _survey(source, progress)
    shape, names = source.finish()
    ends = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(held, out=ends[1 : len(held) + 1])
    ends[len(held) + 1 :] = ends[len(held)]
    if not ends[-1]:
        raise ValueError(_EMPTY)
    with _appearing(target) as folder:
        index = np.dtype(np.int32 if shape[1] <= np.iinfo(np.int32).max else np.int64)
        ends, data = _filled(folder, source, ends, index, dtype, shape[1], progress)
        if not ends[-1]:
            raise ValueError(_EMPTY)
        _shorten(folder / "indices.npy", int(ends[-1]), folder / "indices.npy")
        _shorten(data, int(ends[-1]), folder / "data.npy")
        for narrower in folder.glob("data.*.npy"):
            narrower.unlink()
        for name, A in (("indptr", ends), ("shape", np.array(shape))):
            _made(folder / f"{name}.npy", A.dtype, len(A))[:] = A
        for side, name in zip(names, ("rows", "columns"), strict=True):
            if side is not None:
                lines = "".join(" ".join(re.split(r"[\r\n]+", str(line))) + "\n" for line in side)
                (folder / f"{name}.txt").write_text(lines, "utf-8", newline="\n")
    return npy_folder(target)


def _survey(source: Source, progress: Progress) -> tuple[np.ndarray, np.dtype]:
    """How many entries each row holds, and the dtype that holds each count."""
    held, most, whole, single = np.zeros(0, np.int64), 0.0, True, True
    for entries in source.read():
        x = entries.x
        if len(x):
            low, high = float(x.min()), float(x.max())  # NaN goes through both
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(f"its counts must be finite, and it holds {not_finite(low)}")
            if low < 0:
                raise ValueError(f"its counts must be >= 0, and it holds {low:g}")
            most = max(most, high)
            whole = whole and (x.dtype.kind in "biu" or bool((x == np.floor(x)).all()))
            single = single and x.dtype in (np.float16, np.float32)
            first = int(entries.i.min())
            more = np.bincount(entries.i - first)
            if first + len(more) > len(held):
                held = np.concatenate([held, np.zeros(first + len(more) - len(held), np.int64)])
            held[first : first + len(more)] += more
        progress(len(x))
    return held, _dtype_of(most) if whole else np.dtype(np.float32 if single else np.float64)


def _dtype_of(most: float) -> np.dtype:
    """The smallest dtype for whole counts up to this."""
    return next((np.dtype(d) for d in COUNT_DTYPES[:3] if most <= np.iinfo(d).max), np.dtype(np.float64))


def _filled(
    folder: Path, source: Source, ends: np.ndarray, index: np.dtype, dtype: np.dtype, n_columns: int,
    progress: Progress,
) -> tuple[np.ndarray, Path]:  # fmt: skip
    """Write all entries; where each row ends, and the file of the counts, whose dtype may have had to grow.

    No file is mapped once this returns: what is mapped can't be renamed on Windows.
    """
    indices, data = (_made(folder / f"{A}.npy", t, int(ends[-1])) for A, t in (("indices", index), ("data", dtype)))
    _scatter(source, ends, indices, data, progress)
    data, ends = _settle(folder, ends, indices, data, n_columns, progress)
    for A in (indices, data):
        A.flush()
    return ends, Path(str(data.filename))


def _scatter(source: Source, ends: np.ndarray, indices: np.ndarray, data: np.ndarray, progress: Progress) -> None:
    """Put each entry behind those of its row that came before."""
    place = ends[:-1].copy()
    for i, j, x in source.read():
        if len(i) > 1 and (i[1:] < i[:-1]).any():
            order = np.argsort(i, kind="stable")
            i, j, x = i[order], j[order], x[order]
        starts = np.flatnonzero(np.diff(i, prepend=-1))
        held = np.diff(starts, append=len(i))
        at = place[i] + np.arange(len(i)) - np.repeat(starts, held)
        indices[at], data[at] = j, x
        place[i[starts]] += held
        progress(len(x))


def _settle(
    folder: Path, ends: np.ndarray, indices: np.ndarray, data: np.memmap, n_columns: int, progress: Progress
) -> tuple[np.memmap, np.ndarray]:
    """Sort rows, add up what stands twice, and drop zeros, in place; the counts, in a wider dtype if need be."""
    out, kept = np.zeros_like(ends), 0
    wide = np.int64 if data.dtype.kind in "iu" else np.float64
    for start, stop in pairwise(blocks_of(ends, CHUNK).tolist()):
        part = slice(int(ends[start]), int(ends[stop]))
        X = sparse.csr_array(
            (data[part].astype(wide), indices[part].copy(), ends[start : stop + 1] - ends[start]),
            shape=(stop - start, n_columns),
        )
        X.sum_duplicates()
        X.eliminate_zeros()
        if data.dtype.kind in "iu" and X.nnz and X.data.max() > np.iinfo(data.dtype).max:
            data = _widened(folder, data, _dtype_of(float(X.data.max())))
        indices[kept : kept + X.nnz], data[kept : kept + X.nnz] = X.indices, X.data
        out[start + 1 : stop + 1] = kept + X.indptr[1:]
        kept += X.nnz
        progress(part.stop - part.start)
    return data, out


def _widened(folder: Path, data: np.ndarray, dtype: np.dtype) -> np.memmap:
    wider = _made(folder / f"data.{dtype.name}.npy", dtype, len(data))
    _copy(data, wider, len(data))
    return wider


def _shorten(path: Path, n: int, target: Path) -> None:
    """Make the file the target, of the first n numbers."""
    if n < len(open_memmap(path, "r")):
        longer, path = path, path.with_name("shorter.npy")
        _cut(longer, n, path)
    os.replace(path, target)


def _cut(longer: Path, n: int, path: Path) -> None:
    A = open_memmap(longer, "r")
    shorter = _made(path, A.dtype, n)
    _copy(A, shorter, n)
    shorter.flush()


def _made(path: Path, dtype: np.dtype, n: int) -> np.memmap:
    """A vector in a new file, memory-mapped.

    Its room is taken at once. Else a full disk would show when a page is written, by a signal that ends the process.
    """
    A: np.memmap = open_memmap(path, "w+", dtype, (n,))
    n_bytes = path.stat().st_size
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:  # zeros that are written take it, those that are not there don't
            file.seek(A.offset)
            for start in range(A.offset, n_bytes, CHUNK):
                file.write(bytes(min(CHUNK, n_bytes - start)))
    return A


def _copy(source: np.ndarray, target: np.ndarray, n: int) -> None:
    for start in range(0, n, CHUNK):
        target[start : min(start + CHUNK, n)] = source[start : min(start + CHUNK, n)]


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when all is written, and vanishes when anything fails."""
    with temporary_beside(target) as folder:
        old = folder.with_suffix(".old")
        try:
            folder.mkdir()
            yield folder
            if target.exists():
                os.replace(target, old)
            os.replace(folder, target)
        finally:
            if old.exists() and not target.exists():
                os.replace(old, target)
            try:
                remove(folder)
            finally:
                remove(old)
