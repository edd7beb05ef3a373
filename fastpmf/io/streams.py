"""Counts that stay in their file, and are read from it in each pass of a fit."""

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.core.counts import Side
from fastpmf.counts import Dataset, MemoryCounts, SparseRows, as_counts
from fastpmf.counts.partition import blocks_of
from fastpmf.counts.streamed import StreamedCounts
from fastpmf.io.counts import format_of, open_counts
from fastpmf.io.sources import Compressed

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # data, indices and indptr
BLOCK = 1 << 23  # entries: some 50 MB, so that what a block costs by itself is lost beside its work


def stream_counts(
    path: str | os.PathLike[str], format: str | None = None, *, layer: str | None = None,
    feature_types: str | Sequence[str] | None = None, feature_names: str = "name", transpose: bool = False,
    block_entries: int = BLOCK, n_threads: int | None = None,
) -> Dataset:  # fmt: skip
    """Counts for a fit that reads them from their file in each pass, and holds two blocks of them at once.

    It reads the file once, to check it. From then on the file must stay as it is.

    Parameters
    ----------
    path, format, layer, feature_types, feature_names, transpose
        As in `read_counts`, of formats that can be read by rows or columns: a folder of .npy ("npy"), .h5ad, 10x
        Genomics' .h5, and .zarr. What is compressed is decompressed in each pass, so a folder, which `convert_counts`
        makes of any format, is soonest. What is stored by columns (CSC) is streamed by columns. A pipe can't be
        streamed.
    block_entries : int, default=8388608
        Most nonzeros in a block, but for a longer row.
    n_threads : int, optional
        Threads to use while the file is read for the first time.

    Returns
    -------
    Dataset
        X, a `StreamedCounts`, for `fit`, `transform` and `score`; row_names and column_names, or None.

    Raises
    ------
    FileNotFoundError, ImportError
        As `read_counts` raises them.
    ValueError
        Not a whole file of its format, no counts, or a format that can't be streamed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastpmf import PoissonNMF, datasets
    >>> from fastpmf.io import stream_counts, write_counts
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "counts"
    >>> write_counts(folder, datasets.make_poisson_counts(500, 40, 3, nnz=5_000, random_state=0).X)
    >>> X = stream_counts(folder, block_entries=1000)
    >>> PoissonNMF(n_components=3, random_state=0).fit(X).components_.shape
    (3, 40)
    """
    check_scalar(block_entries, "block_entries", (int, np.integer), min_val=1)
    kind = format_of(path, format)
    source = open_counts(
        path, kind, layer=layer, feature_types=feature_types, feature_names=feature_names, transpose=transpose
    )
    if not isinstance(source, Compressed) or kind == "npz":
        source.close()
        raise ValueError(
            f"{os.fspath(path)} can't be streamed, as {'dense' if kind in ('h5ad', 'zarr') else kind} can't be read by "
            "rows: convert_counts makes a folder of it, which can"
        )
    at_first = _stamps(Path(path))
    as_it_is = False  # once all blocks have been through the door, and came out unchanged

    def read() -> Iterator[MemoryCounts]:
        nonlocal as_it_is
        if _stamps(Path(path)) != at_first:
            raise ValueError(f"{os.fspath(path)} was changed since it was read for the first time")
        same = True
        for parts in _parts(source, block_entries):
            if as_it_is:
                yield MemoryCounts(SparseRows(*parts, source.shape[1 - source.by_column]))
            else:
                block = _entered(parts, source)
                same = same and _is_of(block.side(Side.ROWS), *parts)
                yield block
        as_it_is = as_it_is or same

    counts = StreamedCounts(read, by_column=source.by_column, n_threads=n_threads)
    return Dataset(counts, *source.names)


def blocks_from(source: Compressed, n_entries: int, start: int = 0, stop: int | None = None) -> Iterator[MemoryCounts]:
    """The rows start:stop of a source, or its columns where it lies by them, in blocks, checked."""
    for parts in _parts(source, n_entries, start, stop):
        yield _entered(parts, source)


def _parts(source: Compressed, n_entries: int, start: int = 0, stop: int | None = None) -> Iterator[Parts]:
    """Of these rows, blocks as they lie there."""
    ends = source.indptr[start : len(source.indptr) if stop is None else stop + 1]
    for first, last in pairwise((start + blocks_of(ends, n_entries)).tolist()):
        yield source.rows(first, last)


def _entered(parts: Parts, source: Compressed) -> MemoryCounts:
    """One of them through the door."""
    return as_counts(parts, shape=(len(parts[2]) - 1, source.shape[1 - source.by_column]))


def _is_of(X: SparseRows, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> bool:
    """Whether the door had nothing to put right in these arrays."""
    same = (A.dtype == B.dtype and len(A) == len(B) and np.may_share_memory(A, B)
            for A, B in ((X.data, data), (X.indices, indices)))  # fmt: skip
    return indptr.dtype == np.int64 and all(same)


def _stamps(path: Path) -> list[tuple[int, int]]:
    """When a file, or those in a folder, were last written, and how long they are."""
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return [(told.st_mtime_ns, told.st_size) for told in map(os.stat, files)]
