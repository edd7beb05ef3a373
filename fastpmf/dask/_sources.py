"""What a fit over workers takes, cut into shards: blocks of rows that each worker makes or reads for itself."""

import math
import os
from typing import Any, Protocol

import numpy as np

from fastpmf.dask._cluster import library
from fastpmf.dask._worker import Rows
from fastpmf.io.formats import open_counts
from fastpmf.io.sources import NAMELESS, Compressed, Location, Names

PER_WORKER = 4  # shards of a file for each worker, so that what one leaves behind can be spread


class Source(Protocol):
    """Shards by number.

    Attributes
    ----------
    count : int
    names : Names
        Names of the rows and columns of X, if they are known.
    """

    count: int
    names: Names

    def homes(self, client: Any) -> dict[int, str]:
        """Workers that have a shard in memory already."""

    def sent(self, client: Any, numbers: list[int], worker: str) -> list[Any]:
        """What `open_shards` is to be given of these on that worker: futures, or what says where to read."""

    def let_go(self) -> None:
        """Workers have what was sent."""

    def parts(self) -> list[tuple[Any, float]]:
        """All shards, for tasks of a graph, and their rows; NaN where these are not known."""


class Blocks:
    """Delayed blocks or futures of them.

    Parameters
    ----------
    blocks : list of Delayed or Future
    names : Names
    sizes : sequence of int, optional
        Rows of each.
    """

    def __init__(self, blocks: list[Any], names: Names = NAMELESS, sizes: Any = None) -> None:
        self._blocks, self.count, self.names = blocks, len(blocks), names
        self._sizes = [math.nan] * len(blocks) if sizes is None else sizes
        self._made: list[Any] = []

    def parts(self) -> list[tuple[Any, float]]:
        return list(zip(self._blocks, self._sizes, strict=True))

    def homes(self, client: Any) -> dict[int, str]:
        distributed = library("distributed")
        made = {i: found[0] for i, block in enumerate(self._blocks) if len(found := distributed.futures_of(block)) == 1}
        held = client.who_has(list(made.values())) if made else {}
        return {i: held[future.key][0] for i, future in made.items() if held.get(future.key)}

    def sent(self, client: Any, numbers: list[int], worker: str) -> list[Any]:
        distributed = library("distributed")
        out = []
        for number in numbers:
            block = self._blocks[number]
            if not isinstance(block, distributed.Future):
                block = client.compute(block, workers=[worker], allow_other_workers=False)
                self._made.append(block)
            elif block.status in ("cancelled", "lost"):
                raise ValueError(
                    f"X must be made again where its worker is lost, and block {number} is a future that can't be: "
                    "give delayed blocks, a dask array or a path"
                )
            out.append(block)
        return out

    def let_go(self) -> None:
        # Until it forgets them, Dask has them in memory too; and were their worker lost, it would wait for that one,
        # and have nobody else make them, whoever asks
        for future in self._made:
            future.release()
        self._made = []


class FileRows:
    """Rows of a file that all workers can read.

    Parameters
    ----------
    location : Location
    bounds : ndarray of shape (count + 1,)
    names : Names
    streamed : bool
    """

    def __init__(self, location: Location, bounds: np.ndarray, names: Names, *, streamed: bool) -> None:
        self._location, self._bounds, self._streamed = location, bounds, streamed
        self.count, self.names = len(bounds) - 1, names

    def homes(self, client: Any) -> dict[int, str]:
        return {}

    def sent(self, client: Any, numbers: list[int], worker: str) -> list[Any]:
        return [self._rows(i) for i in numbers]

    def parts(self) -> list[tuple[Any, float]]:
        return [(rows := self._rows(i), rows.stop - rows.start) for i in range(self.count)]

    def let_go(self) -> None:
        pass

    def _rows(self, number: int) -> Rows:
        start, stop = map(int, self._bounds[number : number + 2])
        return Rows(self._location, start, stop, self._streamed)


def source_of(X: Any, n_workers: int, *, memory: bool) -> Source:
    """The shards of X.

    Raises
    ------
    TypeError, ValueError
        In one sentence: X is nothing that workers could share.
    """
    kinds = (
        library("dask.delayed").Delayed,
        library("distributed").Future,
    )
    array = library("dask.array")
    if isinstance(X, str | os.PathLike):
        return _file(X, n_workers, memory=memory)
    if not memory:
        raise ValueError("memory=False is for a path, whose rows workers can read again and again")
    names = NAMELESS
    if hasattr(X, "obsm") and hasattr(X, "layers"):
        names, X = Names(*(np.asarray(index).astype(object) for index in (X.obs_names, X.var_names))), X.X
    if isinstance(X, array.Array):
        return Blocks(delayed_of(X), names, X.chunks[0])
    if isinstance(X, list | tuple) and X and all(isinstance(x, kinds) for x in X):
        return Blocks(list(X), names)
    raise TypeError(
        "X must be a dask array with one chunk over all columns, an AnnData object whose X is one, a list of delayed "
        f"blocks of rows, or a path, got {type(X).__name__}: what this process holds is for fastpmf's own estimators"
    )


def delayed_of(X: Any) -> list[Any]:
    """The chunks of a dask array, which must be blocks of whole rows."""
    if X.ndim != 2:
        raise ValueError(f"X must be a matrix, got {X.ndim} dimension(s)")
    if X.numblocks[1] != 1:
        raise ValueError(
            f"X must have all its columns in one chunk, got {X.numblocks[1]} chunks over them: X.rechunk({{1: -1}}) has"
        )
    return list(X.to_delayed().ravel())


def _file(path: Any, n_workers: int, *, memory: bool) -> FileRows:
    with open_counts(path) as source:
        location = getattr(source, "location", None)
        if not isinstance(source, Compressed) or location is None:
            raise ValueError(f"{os.fspath(path)} can't be read by rows: convert_counts makes a folder of it, which can")
        if source.by_column:
            raise ValueError(
                f"{os.fspath(path)} holds columns (CSC), of which no worker could read its rows: convert_counts makes "
                "a folder of it that holds rows"
            )
        # Of equal work, a row being some even if it is empty, as an iteration waits for whoever has most
        work = source.indptr + np.arange(source.shape[0] + 1)
        inner = np.linspace(0, work[-1], max(1, PER_WORKER * n_workers) + 1)[1:-1]
        bounds = np.unique([0, *np.searchsorted(work, inner), source.shape[0]])
        names = Names(*(None if one is None else np.asarray(one).astype(object) for one in source.names))
    return FileRows(location, bounds, names, streamed=not memory)
