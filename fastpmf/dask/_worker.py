"""What runs on the workers: tasks of a fit, and what a worker holds of it between two of them.

Counts and W stay in a registry of the worker's process, outside of Dask's graph: Dask sees messages and numbers only.
A task says which fit, epoch and iteration it is of, and one that comes at another time is refused, so that whatever
Dask runs again by itself can't step twice.
"""

import copy
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numba
import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import empty_factor
from fastpmf.counts import MemoryCounts, SparseRows, as_counts
from fastpmf.counts.streamed import StreamedCounts
from fastpmf.dask._share import Gaps, Message, Points, PointShare, Posterior, Share, Start
from fastpmf.io.counts import BLOCK, blocks_from
from fastpmf.io.formats import open_counts
from fastpmf.io.sources import Compressed, Location
from fastpmf.kernels.threads import threads
from fastpmf.solvers.base import Memory

_LEASE = 30.0  # seconds between two looks at whether the client is still there
THREADS = "FASTPMF_NUM_THREADS"  # in the environment of a worker, how many it has; of `local_cluster`


class StaleError(RuntimeError):
    """A task of another iteration than the one that this worker is at, or of a fit that it knows nothing of."""


@dataclass(frozen=True)
class Rows:
    """Rows of a file, for a worker to read: into memory, or anew in each pass."""

    location: Location
    start: int
    stop: int
    streamed: bool


class Piece(NamedTuple):
    """A shard as a worker has it: its counts, or how to read them."""

    n_rows: int
    counts: MemoryCounts | None
    read: Callable[[], Iterable[MemoryCounts]] | None = None


class Opened(NamedTuple):
    """What a worker's new shards hold: rows of each, and of all of them together the rest."""

    rows: dict[int, int]
    n_columns: int
    nnz: int
    total: float
    smallest: float
    dtype: str
    sent: int


class Probed(NamedTuple):
    """Where a worker is: the iteration that its H is of, and the shards that it has W of."""

    closed: int
    shards: list[int]


@dataclass
class Held:
    """What this worker holds of a fit; `fit`, `epoch` and `lease` are the client's."""

    fit: str
    epoch: int
    lease: str
    n_threads: int | None
    pieces: dict[int, Piece] = field(default_factory=dict)
    counts: Counts | None = None  # of all pieces, once it is asked for
    exposures: dict[int, np.ndarray] = field(default_factory=dict)
    share: Share | None = None
    settled: list[int] = field(default_factory=list)  # shards that it has W of
    first: bool = False
    done: int = -1  # the latest iteration whose rows are done
    closed: int = -1
    files: dict[Location, Compressed] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def at(self) -> Share:
        if self.share is None:
            raise StaleError("this worker has no factors yet")
        return self.share

    def shared(self, model: Points | Posterior) -> Share:
        """All of these rows, without factors."""
        return model.share(self.whole(), self.exposure(self.pieces))

    def whole(self) -> Counts:
        """The counts of all pieces."""
        if self.counts is None:
            self.counts = self.gathered(self.pieces)
        return self.counts

    def gathered(self, numbers: Iterable[int]) -> Counts:
        """These pieces as one; those in memory are parts of it from then on, so that nothing is there twice."""
        numbers = list(numbers)
        pieces = [self.pieces[i] for i in numbers]
        parts = [piece.counts for piece in pieces if piece.counts is not None]
        if len(parts) < len(pieces):
            reads = [piece.read for piece in pieces if piece.read is not None]
            return StreamedCounts(lambda: chain.from_iterable(read() for read in reads))
        if len(parts) == 1:
            return parts[0]
        whole = MemoryCounts.stacked(parts)
        ends = pairwise(np.cumsum([0, *(piece.n_rows for piece in pieces)]).tolist())
        for i, (start, stop) in zip(numbers, ends, strict=True):
            self.pieces[i] = Piece(stop - start, MemoryCounts(whole.side(Side.ROWS).between(start, stop)))
        return whole

    def exposure(self, numbers: Iterable[int]) -> np.ndarray | None:
        return np.concatenate([self.exposures[i] for i in numbers]) if self.exposures else None

    def opened(self, location: Location) -> Compressed:
        if location not in self.files:
            source = open_counts(**location._asdict())
            assert isinstance(source, Compressed)  # as the client found
            self.files[location] = source
        return self.files[location]


_held: dict[str, Held] = {}
_watched = False


@contextmanager
def _at(fit: str, epoch: int, *, done: int | None = None, closed: int | None = None) -> Iterator[Held]:
    """What is held of a fit, for one task at a time, if it is where the task thinks that it is."""
    held = _held.get(fit)
    if held is None:
        raise StaleError("this worker holds nothing of the fit, or no longer; what it held can be had by fitting again")
    with held.lock, threads(held.n_threads):
        if held.epoch != epoch or _held.get(fit) is not held:
            raise StaleError(f"this worker is in epoch {held.epoch}, the task is of {epoch}")
        for name, is_at, wanted in (("W", held.done, done), ("H", held.closed, closed)):
            if wanted is not None and is_at != wanted:
                raise StaleError(f"{name} is of iteration {is_at} here, and the task wants it of {wanted}")
        yield held


def lease(fit: str) -> None:
    """While Dask knows this task, the client that asked for it has a use for what is held."""


def open_shards(
    fit: str, epoch: int, lease: str, n_threads: int | None, numbers: list[int], given: list[Any]
) -> Opened:
    """Take these shards: blocks of counts, or `Rows` of a file."""
    from distributed import get_worker

    worker, n_threads = get_worker(), _own_threads(n_threads)
    with threads(n_threads):
        held = _held.setdefault(fit, Held(fit, epoch, lease, n_threads))
        with held.lock:
            if held.epoch > epoch:
                raise StaleError(f"this worker is in epoch {held.epoch}, the task is of {epoch}")
            held.epoch, held.lease = epoch, lease
            _watch(worker)
            new = {number: _piece(held, shard) for number, shard in zip(numbers, given, strict=True)}
            more = bool(held.pieces)
            held.pieces |= new
            counts = held.gathered(new)
            held.counts = None if more else counts
    sizes = {number: piece.n_rows for number, piece in new.items()}
    sent = worker.transfer_outgoing_bytes_total
    return Opened(sizes, counts.shape[1], counts.nnz, counts.total, counts.smallest, str(counts.dtype), sent)


def _own_threads(n_threads: int | None) -> int:
    """What was asked for, else what this process was told, else as many tasks as Dask would run at once."""
    from distributed import get_worker

    if n_threads is not None:
        return n_threads
    told = os.environ.get(THREADS) or os.environ.get("NUMBA_NUM_THREADS") or get_worker().state.nthreads
    return min(int(told), numba.config.NUMBA_NUM_THREADS)


def transformed(model: Any, shard: Any, exposure: np.ndarray | None) -> np.ndarray:
    """`model.transform` of a shard, with a worker's threads."""
    own = copy.copy(model)
    own.n_threads = _own_threads(model.n_threads)
    shard = _read(shard) if isinstance(shard, Rows) else shard
    return own.transform(shard) if exposure is None else own.transform(shard, row_exposure=exposure)


def _piece(held: Held, shard: Any) -> Piece:
    if isinstance(shard, Rows) and shard.streamed:
        read = partial(blocks_from, held.opened(shard.location), BLOCK, shard.start, shard.stop)
        return Piece(shard.stop - shard.start, None, read)
    counts = _read(shard) if isinstance(shard, Rows) else as_counts(shard)
    return Piece(counts.shape[0], counts)


def _read(shard: Rows) -> MemoryCounts:
    with open_counts(**shard.location._asdict()) as source:
        assert isinstance(source, Compressed)
        shape = (shard.stop - shard.start, source.shape[1])
        return as_counts(source.rows(shard.start, shard.stop), shape=shape)


def prepare(fit: str, epoch: int, model: Points | Posterior) -> None:
    """Compile or load the kernels of a fit, by a few iterations on two rows of counts like those of this worker."""
    with _at(fit, epoch) as state:
        counts = state.whole()
        p, k = counts.shape[1], model.n_components
        ends = np.array([0, p - 1], np.int32 if p <= np.iinfo(np.int32).max else np.int64)
        few: Counts = MemoryCounts(SparseRows(np.ones(2, counts.dtype), ends, np.arange(3), p))
        if counts.row_access_only:
            blocks = [few]
            few = StreamedCounts(lambda: blocks)
        share = model.share(few, None)
        factors = [empty_factor(n, k, model.dtype) for n in (2, p)]
        for A in factors:
            A[:, :k] = 1
        share.begin(factors[0], factors[1])
        share.close(share.first(), first=True)
        for _ in range(share.warm_up + 2):
            share.close(share.rows(), first=False)
        share.objective(columns_too=True)
        if isinstance(share, PointShare):
            share.gap(share.look())


def begin(
    fit: str, epoch: int, iteration: int, model: Points | Posterior, start: Start, places: dict[int, int],
    exposures: dict[int, np.ndarray],
) -> None:  # fmt: skip
    """Draw W of the shards, of which each begins at its place, and H; the next task is `rows` of this iteration."""
    with _at(fit, epoch) as held:
        held.exposures = exposures
        held.share = held.shared(model)
        kept = (slice(places[i], places[i] + piece.n_rows) for i, piece in held.pieces.items())
        held.share.begin(*start.drawn(kept, model.n_components, model.dtype))
        held.first, held.done, held.closed, held.settled = True, iteration - 1, iteration - 1, list(held.pieces)


def settle(
    fit: str, epoch: int, iteration: int, model: Points | Posterior, columns: Memory, new: list[int],
    exposures: dict[int, np.ndarray],
) -> None:  # fmt: skip
    """Go on from this H after this iteration; W of the shards that are new is solved from it."""
    with _at(fit, epoch) as held:
        own = [] if held.share is None else [held.share.own()]
        held.exposures |= exposures
        if new:
            some = model.share(held.gathered(new), held.exposure(new))
            own.append(some.solved(columns))
        if held.share is None or new:
            held.share = held.shared(model)
        held.share.settle(columns, own)
        held.first, held.done, held.closed, held.settled = False, iteration, iteration, list(held.pieces)


def rows(fit: str, epoch: int, iteration: int) -> Message:
    """The first half of an iteration."""
    with _at(fit, epoch, done=iteration - 1, closed=iteration - 1) as held:
        message = held.at.first() if held.first else held.at.rows()
        held.done = iteration
        return message


def close(fit: str, epoch: int, iteration: int, total: Message) -> Gaps:
    """The second half."""
    with _at(fit, epoch, done=iteration, closed=iteration - 1) as held:
        gaps = held.at.close(total, first=held.first)
        held.closed, held.first = iteration, False
        return gaps


def objective(fit: str, epoch: int, iteration: int, columns_too: bool) -> float:
    """What this worker's rows add to the objective; see `Share.objective`."""
    with _at(fit, epoch, done=iteration, closed=iteration) as held:
        return held.at.objective(columns_too=columns_too)


def look(fit: str, epoch: int, iteration: int) -> Message:
    """What `gap` needs to be summed."""
    with _at(fit, epoch, done=iteration, closed=iteration) as held:
        assert isinstance(held.share, PointShare)
        return held.share.look()


def gap(fit: str, epoch: int, seen: Message) -> float:
    """See `PointShare.gap`."""
    with _at(fit, epoch) as held:
        assert isinstance(held.share, PointShare)
        return held.share.gap(seen)


def columns(fit: str, epoch: int) -> Memory:
    """H as it is here."""
    with _at(fit, epoch) as held:
        return held.at.columns()


def found(fit: str, epoch: int, iteration: int) -> dict[int, np.ndarray]:
    """W of each shard."""
    with _at(fit, epoch, done=iteration, closed=iteration) as held:
        W, last = held.at.found(), np.cumsum([piece.n_rows for piece in held.pieces.values()])
        return dict(zip(held.pieces, np.split(W, last[:-1]), strict=True))


def pick(found: dict[int, np.ndarray], number: int) -> np.ndarray:
    """W of one shard."""
    return found[number]


def probe(fit: str, epoch: int) -> Probed | None:
    """Where this worker is, or None where it has no H; from now on tasks of earlier epochs are refused."""
    held = _held.get(fit)
    if held is None:
        return None
    with held.lock:
        if held.share is None or held.first:
            _drop(fit)
            return None
        held.epoch = epoch
        if list(held.pieces) != held.settled:  # opened in a recovery that was cut short
            held.pieces, held.counts = {i: held.pieces[i] for i in held.settled}, None
        return Probed(held.closed, held.settled)


def forget(fit: str) -> int:
    """Free all that is held of a fit; bytes that this worker has sent since it began."""
    from distributed import get_worker

    _drop(fit)
    return get_worker().transfer_outgoing_bytes_total


def _drop(fit: str) -> None:
    held = _held.pop(fit, None)
    if held is not None:
        for file in held.files.values():
            file.close()


def _watch(worker: Any) -> None:
    """Free fits whose client is gone, which Dask shows by forgetting the task that opened them."""
    global _watched
    if _watched:
        return

    def look_around() -> None:
        global _watched
        for held in list(_held.values()):
            if held.lease not in worker.state.tasks:
                _drop(held.fit)
        _watched = bool(_held)
        if _watched:
            worker.loop.call_later(_LEASE, look_around)

    _watched = True
    worker.loop.add_callback(worker.loop.call_later, _LEASE, look_around)
