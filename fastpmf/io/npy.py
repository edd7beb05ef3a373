"""NumPy's files: scipy.sparse's .npz, and folders of .npy, read as memory maps and written a chunk at a time."""

import os
import re
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from scipy import sparse

from fastpmf.counts import COUNT_DTYPES
from fastpmf.counts.partition import blocks_of
from fastpmf.io.hdf5 import as_shape
from fastpmf.io.sources import CHUNK, Compressed, Names, Source, check_shape, summed
from fastpmf.io.text import beside, read_name_file
from fastpmf.utils.files import check_folder, open_npz, remove, temporary_path
from fastpmf.utils.validation import not_finite

Progress = Callable[[int], object]


def scipy_npz(path: Path) -> Compressed:
    """A file that `scipy.sparse.save_npz` wrote; compressed archives can only be read whole."""
    with open_npz(path) as (arrays, file):
        if not {"format", "shape"} <= set(arrays.files):
            if "header" in arrays.files:
                raise ValueError("it holds a fitted model, which fastpmf.io.load_model reads, not a sparse matrix")
            raise ValueError(f"it holds {', '.join(arrays.files)}, not a sparse matrix")
        check_shape(*as_shape(arrays["shape"]))
        file.seek(0)
        X = sparse.load_npz(file)
    if X.format not in ("csr", "csc"):
        if X.format == "bsr":
            X.check_format(full_check=True)  # else scipy may access memory out of bounds
        X = summed(X.tocoo())
    return Compressed(X.data, X.indices, X.indptr, as_shape(X.shape), by_column=X.format == "csc")


class _ReusedMemory:
    """Memory of arrays that are no longer in use, for the next arrays: getting new pages takes as long as reading."""

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=2)

    def array(self, n: int, dtype: np.dtype) -> np.ndarray:
        """A vector whose memory is used again once the vector and all views of it are gone."""
        n_bytes = n * dtype.itemsize
        try:
            memory = self._free.popleft()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < n_bytes:
            memory = np.empty(-(-n_bytes // 4096) * 4096, np.uint8)  # blocks differ by a few entries
        out = np.frombuffer(memory.data, dtype, n)  # views of it have it, not the memory, as their base
        weakref.finalize(out, self._free.append, memory).atexit = False
        return out


class MappedVector:
    """A vector in a .npy file. A slice is read, since pages of a memory map count as this process's memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._map = path, np.load(path, mmap_mode="r", allow_pickle=False)
        if self._map.ndim != 1:
            raise ValueError(f"its {path.name} must be a vector, got shape {self._map.shape}")
        self.dtype: np.dtype = self._map.dtype
        self._memory = _ReusedMemory()

    def __len__(self) -> int:
        return len(self._map)

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        values = self._memory.array(max(stop - start, 0), self.dtype)
        rest = values.view(np.uint8).data
        with open(self._path, "rb", buffering=0) as file:
            file.seek(self._map.offset + start * self.dtype.itemsize)
            while len(rest):
                n_bytes = file.readinto(rest)
                if not n_bytes:
                    raise ValueError(f"its {self._path.name} ends before {len(self)} numbers")
                rest = rest[n_bytes:]
        return values

    def whole(self) -> np.ndarray:
        """All of it, memory-mapped."""
        return self._map


def read_folder(path: Path) -> Compressed:
    """data.npy, indices.npy and indptr.npy of a CSR matrix; shape.npy, rows.txt and columns.txt are optional.

    Without shape.npy the number of columns is the largest index plus 1.
    """
    if missing := [name for name in ("data.npy", "indices.npy", "indptr.npy") if not (path / name).is_file()]:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    data, indices = MappedVector(path / "data.npy"), MappedVector(path / "indices.npy")
    indptr = np.load(path / "indptr.npy", mmap_mode="r", allow_pickle=False)
    if indptr.ndim != 1 or len(indptr) < 2 or not len(indices):
        raise ValueError("its data, indices and indptr must be vectors, with at least one row and one count")
    if (path / "shape.npy").is_file():
        shape = as_shape(np.load(path / "shape.npy", mmap_mode="r", allow_pickle=False))
    else:
        starts = range(0, len(indices), CHUNK)
        shape = len(indptr) - 1, max(int(indices[start : start + CHUNK].max()) for start in starts) + 1
    files = (beside(path / "indptr.npy", f"{name}.txt") for name in ("rows", "columns"))
    names = (read_name_file(file, n) for file, n in zip(files, shape, strict=True))
    indptr = np.array(indptr, np.int64) if indptr.dtype.kind in "iu" else indptr
    return Compressed(data, indices, indptr, shape, names=Names(*names))


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise an error if `write_folder` can't write to a path."""
    target = Path(os.path.realpath(path))
    if target.exists() and not (target / "indptr.npy").is_file():
        raise FileExistsError(f"{target} exists and is not a folder of .npy, which could be replaced")
    check_folder(path)


def write_folder(path: str | os.PathLike[str], source: Source, progress: Progress = lambda n: None) -> Compressed:
    """Write canonical CSR: data.npy, indices.npy, indptr.npy, shape.npy, and the names as rows.txt and columns.txt.

    The source is read twice, to count the entries of each row and to write them. Then each row is sorted, duplicates
    are summed, and zeros dropped. Counts take the smallest dtype that holds them exactly.

    Parameters
    ----------
    path : path-like
        As checked by `check_target`. The folder appears when it is complete.
    source : Source
    progress : callable, optional
        Called with the number of entries processed since the last call; each is processed three times.

    Returns
    -------
    Compressed
        The counts in the folder.

    Raises
    ------
    ValueError
        If there are negative, NaN or infinite counts, or no positive count.
    """
    target = Path(os.path.realpath(path))  # replaces the target of a symbolic link, not the link
    n_entries, dtype = _survey(source, progress)
    shape, names = source.describe()
    ends = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(n_entries, out=ends[1 : len(n_entries) + 1])
    ends[len(n_entries) + 1 :] = ends[len(n_entries)]
    with _replacing_folder(target) as folder:
        while True:
            stored, largest = _write_entries(folder, source, ends, shape[1], dtype, progress)
            if dtype.kind == "f" or largest <= np.iinfo(dtype).max:
                break
            dtype = _dtype_for(largest)  # sums of duplicates may need a wider one
        for name in ("indices", "data"):
            _truncate(folder / f"{name}.npy", int(stored[-1]))
        np.save(folder / "indptr.npy", stored)
        np.save(folder / "shape.npy", np.array(shape))
        for values, name in zip(names, ("rows", "columns"), strict=True):
            if values is not None:
                lines = "".join(" ".join(re.split(r"[\r\n]+", str(line))) + "\n" for line in values)
                (folder / f"{name}.txt").write_text(lines, "utf-8", newline="\n")
    return read_folder(target)


def _survey(source: Source, progress: Progress) -> tuple[np.ndarray, np.dtype]:
    """The number of entries in each row up to the last one that has any, and the dtype that holds each count."""
    n_entries, largest, whole, single = np.zeros(0, np.int64), 0.0, True, True
    for i, _, x in source.entries():
        if len(x):
            low, high = float(x.min()), float(x.max())  # both are NaN if a count is
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(f"its counts must be finite, got {not_finite(low)}")
            if low < 0:
                raise ValueError(f"its counts must be >= 0, got {low:g}")
            largest = max(largest, high)
            whole = whole and (x.dtype.kind in "biu" or bool((x == np.floor(x)).all()))
            single = single and x.dtype in (np.float16, np.float32)
            first = int(i.min())
            here = np.bincount(i - first)
            if first + len(here) > len(n_entries):
                n_entries = np.append(n_entries, np.zeros(first + len(here) - len(n_entries), np.int64))
            n_entries[first : first + len(here)] += here
        progress(len(x))
    if not largest:
        raise ValueError("it must hold at least one positive count")
    return n_entries, _dtype_for(largest) if whole else np.dtype(np.float32 if single else np.float64)


def _dtype_for(largest: float) -> np.dtype:
    """The smallest dtype for whole counts up to this."""
    return next((dtype for dtype in COUNT_DTYPES[:3] if largest <= np.iinfo(dtype).max), np.dtype(np.float64))


def _write_entries(
    folder: Path, source: Source, ends: np.ndarray, n_columns: int, dtype: np.dtype, progress: Progress
) -> tuple[np.ndarray, float]:
    """Write data.npy and indices.npy, with unused space at their end in place of duplicates; indptr and largest count.

    No file is mapped when this returns, since Windows can't rename mapped files.
    """
    index = np.dtype(np.int32 if n_columns <= np.iinfo(np.int32).max else np.int64)
    indices, data = (_create(folder / f"{A}.npy", t, int(ends[-1])) for A, t in (("indices", index), ("data", dtype)))
    place = ends[:-1].copy()  # of the next entry of each row
    for i, j, x in source.entries():
        if len(i) > 1 and (i[1:] < i[:-1]).any():
            order = np.argsort(i, kind="stable")
            i, j, x = i[order], j[order], x[order]
        starts = np.flatnonzero(np.diff(i, prepend=-1))
        lengths = np.diff(starts, append=len(i))
        at = place[i] + np.arange(len(i)) - np.repeat(starts, lengths)
        indices[at], data[at] = j, x
        place[i[starts]] += lengths
        progress(len(x))
    stored, largest = np.zeros_like(ends), 0.0
    wide = np.int64 if dtype.kind in "iu" else np.float64
    for start, stop in pairwise(blocks_of(ends, CHUNK).tolist()):
        part = slice(int(ends[start]), int(ends[stop]))
        X = sparse.csr_array(
            (data[part].astype(wide), indices[part].copy(), ends[start : stop + 1] - ends[start]),
            shape=(stop - start, n_columns),
        )
        X.sum_duplicates()
        X.eliminate_zeros()
        first = int(stored[start])
        indices[first : first + X.nnz], data[first : first + X.nnz] = X.indices, X.data
        stored[start + 1 : stop + 1] = first + X.indptr[1:]
        largest = max(largest, float(X.data.max(initial=0)))
        progress(part.stop - part.start)
    for A in (indices, data):
        A.flush()
    return stored, largest


def _create(path: Path, dtype: np.dtype, n: int) -> np.memmap:
    """A vector in a new file, memory-mapped.

    Its disk space is allocated at once, since the process would be killed if the disk were full when a page is written.
    """
    A: np.memmap = npy.open_memmap(path, "w+", dtype, (n,))
    n_bytes = path.stat().st_size
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.seek(A.offset)
            for start in range(A.offset, n_bytes, CHUNK):
                file.write(bytes(min(CHUNK, n_bytes - start)))
    return A


def _truncate(path: Path, n: int) -> None:
    """Truncate a file to the first n numbers of its vector."""
    with path.open("r+b") as file:
        npy.read_magic(file)
        _, _, dtype = npy.read_array_header_1_0(file)
        offset = file.tell()
        file.seek(0)  # NumPy pads the header, so its length does not depend on n
        npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (n,)})
        assert file.tell() == offset
        file.truncate(offset + n * dtype.itemsize)


@contextmanager
def _replacing_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that replaces the target when it is complete, and is removed if anything fails."""
    with temporary_path(target) as folder:
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
