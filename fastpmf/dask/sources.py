"""X of a distributed fit as shards: blocks of rows that workers compute or read."""

import math
import os
from itertools import pairwise
from typing import Any

import numpy as np

from fastpmf.counts.labels import Labels, MatrixLabels
from fastpmf.dask.cluster import library
from fastpmf.dask.worker import FileRows
from fastpmf.io.formats import open_counts
from fastpmf.io.sources import Compressed, Location

SHARDS_PER_WORKER = 4  # of a file, so that the rows of a lost worker can be spread over the others


class BlockSource:
    """Delayed blocks, or futures of blocks; `sizes` are their numbers of rows, if they are known."""

    def __init__(self, blocks: list[Any], labels: MatrixLabels, sizes: Any = None) -> None:
        self._blocks, self.n_shards, self.labels = blocks, len(blocks), labels
        self._sizes = [math.nan] * len(blocks) if sizes is None else sizes
        self._computed: list[Any] = []

    def parts(self) -> list[tuple[Any, float]]:
        """All shards, as arguments of delayed tasks, and their numbers of rows, NaN if unknown."""
        return list(zip(self._blocks, self._sizes, strict=True))

    def locations(self, client: Any) -> dict[int, str]:
        """Workers that have a shard in memory already."""
        distributed = library("distributed")
        futures = [distributed.futures_of(block) for block in self._blocks]
        computed = {i: found[0] for i, found in enumerate(futures) if len(found) == 1}
        workers = client.who_has(list(computed.values())) if computed else {}
        return {i: workers[future.key][0] for i, future in computed.items() if workers.get(future.key)}

    def for_worker(self, client: Any, numbers: list[int], worker: str) -> list[Any]:
        """Arguments of `open_shards` for these shards on that worker: futures, or where to read."""
        distributed = library("distributed")
        out = []
        for number in numbers:
            block = self._blocks[number]
            if not isinstance(block, distributed.Future):
                block = client.compute(block, workers=[worker], allow_other_workers=False)
                self._computed.append(block)
            elif block.status in ("cancelled", "lost"):
                raise ValueError(
                    f"block {number} of X was lost with its worker, and a future can't be computed again: give delayed "
                    "blocks, a dask array or a path"
                )
            out.append(block)
        return out

    def release(self) -> None:
        """Release the futures that `for_worker` made."""
        # As long as there are futures, Dask stores the blocks too and, if their worker is lost, waits for it instead of
        # computing them on another one
        for future in self._computed:
            future.release()
        self._computed = []


class FileSource:
    """Rows of a file that all workers can read, between `bounds`; methods as in `BlockSource`."""

    def __init__(self, location: Location, bounds: np.ndarray, labels: MatrixLabels, *, streamed: bool) -> None:
        self.n_shards, self.labels = len(bounds) - 1, labels
        self._rows = [FileRows(location, start, stop, streamed) for start, stop in pairwise(bounds.tolist())]

    def locations(self, client: Any) -> dict[int, str]:
        return {}

    def for_worker(self, client: Any, numbers: list[int], worker: str) -> list[Any]:
        return [self._rows[i] for i in numbers]

    def parts(self) -> list[tuple[Any, float]]:
        return [(rows, rows.stop - rows.start) for rows in self._rows]

    def release(self) -> None:
        pass


Source = BlockSource | FileSource


def read_source(X: Any, n_workers: int, *, memory: bool) -> Source:
    """The shards of X.

    Raises
    ------
    TypeError, ValueError
        If X has an invalid type, or its rows can't be distributed.
    """
    array, delayed, distributed = library("dask.array"), library("dask.delayed"), library("distributed")
    if isinstance(X, str | os.PathLike):
        return _open_file(X, n_workers, memory=memory)
    if not memory:
        raise ValueError("memory=False is for a path, whose rows workers can read again in each pass")
    rows = columns = None
    if hasattr(X, "obsm") and hasattr(X, "layers"):
        rows, columns, X = X.obs_names, X.var_names, X.X
    labels = _labels(rows, columns)
    if isinstance(X, array.Array):
        return BlockSource(delayed_blocks(X), labels, X.chunks[0])
    if isinstance(X, list | tuple) and X and all(isinstance(x, delayed.Delayed | distributed.Future) for x in X):
        return BlockSource(list(X), labels)
    raise TypeError(
        "X must be a dask array with one chunk over all columns, an AnnData object whose X is one, a list of delayed "
        f"blocks of rows, or a path, got {type(X).__name__}: fit counts in memory with the estimators of fastpmf"
    )


def delayed_blocks(X: Any) -> list[Any]:
    """The chunks of a dask array, which must be blocks of whole rows."""
    if X.ndim != 2:
        raise ValueError(f"X must be a matrix, got {X.ndim} dimension(s)")
    if X.numblocks[1] != 1:
        raise ValueError(
            f"X must have all its columns in one chunk, got {X.numblocks[1]} chunks: use X.rechunk({{1: -1}})"
        )
    return list(X.to_delayed().ravel())


def _open_file(path: Any, n_workers: int, *, memory: bool) -> FileSource:
    name = os.fspath(path)
    with open_counts(path) as source:
        location = getattr(source, "location", None)
        if not isinstance(source, Compressed) or location is None:
            raise ValueError(f"{name} can't be read by rows: write it to a folder with convert_counts")
        if source.by_column:
            raise ValueError(
                f"{name} is stored by columns (CSC), but workers read rows: write it to a folder with convert_counts"
            )
        # Shards of equal work, since an iteration waits for the slowest worker; an empty row counts as one entry
        work = source.indptr + np.arange(source.shape[0] + 1)
        inner = np.linspace(0, work[-1], max(1, SHARDS_PER_WORKER * n_workers) + 1)[1:-1]
        bounds = np.unique([0, *np.searchsorted(work, inner), source.shape[0]])
        labels = _labels(*source.names)
    return FileSource(location, bounds, labels, streamed=not memory)


def _labels(rows: Any, columns: Any) -> MatrixLabels:
    rows, columns = (None if names is None else np.asarray(names).astype(object) for names in (rows, columns))
    return MatrixLabels(Labels(rows), Labels(columns, item="column"))
