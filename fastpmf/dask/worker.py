"""Tasks that run on the workers, and the data of a fit that a worker stores between tasks.

Counts and W are in a registry of the worker's process, outside of Dask's graph; results of tasks are numbers. The task
`iterate` runs on all workers at once, which send each other what their rows contribute to the update of H. Arguments of
a task include its fit, epoch and iteration, and it is rejected if the worker is at another one, so that a task that
Dask runs twice does not repeat a step.
"""

import copy
import math
import os
import threading
import time
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
from fastpmf.dask.exchange import RECEIVE, Exchange, Message, StaleTaskError, Step, Team
from fastpmf.dask.shard import ColumnState, CustomStart, Model, PoissonShard, RandomStart, RowState, RowSum, ShardState
from fastpmf.io.counts import BLOCK, blocks_from
from fastpmf.io.formats import open_counts
from fastpmf.io.sources import Compressed, Location
from fastpmf.kernels.threads import threads
from fastpmf.model.groups import Groups
from fastpmf.solvers.base import Contribution
from fastpmf.utils.messages import listed

CHECK_EVERY = 30.0  # seconds between checks that the client is still connected
THREADS = "FASTPMF_NUM_THREADS"  # environment variable of a worker of `local_cluster`: its number of threads


@dataclass(frozen=True)
class FileRows:
    """Rows of a file that a worker reads: into memory, or in each pass if `streamed`."""

    location: Location
    start: int
    stop: int
    streamed: bool


class Shard(NamedTuple):
    """A block of rows on a worker: its counts, or a function that reads them."""

    n_rows: int
    counts: MemoryCounts | None
    read: Callable[[], Iterable[MemoryCounts]] | None = None


class RowData(NamedTuple):
    """Data of the rows of a shard: exposures, the start of W in the units of the solver, and numbers of groups."""

    exposure: np.ndarray | None = None
    W: np.ndarray | None = None
    group: np.ndarray | None = None


class Survey(NamedTuple):
    """Sizes of some shards: the number of rows of each, and facts of all their counts."""

    rows: dict[int, int]
    n_columns: int
    nnz: int
    total: float
    smallest: float
    largest: float
    dtype: np.dtype

    @classmethod
    def join(cls, parts: "list[Survey]") -> "Survey":
        """The survey of all parts; raises a ValueError if they have different numbers of columns."""
        rows, widths, nnz, total, smallest, largest, dtypes = zip(*parts, strict=True)
        if len(set(widths)) > 1:
            raise ValueError(f"X must have blocks with the same number of columns, got {listed(sorted(set(widths)))}")
        rows = {i: n for part in rows for i, n in part.items()}
        return cls(
            dict(sorted(rows.items())), widths[0], sum(nnz), sum(total), min(smallest), max(largest),
            np.result_type(*dtypes),
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        return sum(self.rows.values()), self.n_columns

    @property
    def slices(self) -> dict[int, slice]:
        """The rows of X in each shard."""
        ends = np.cumsum(list(self.rows.values())).tolist()
        return {i: slice(end - n, end) for (i, n), end in zip(self.rows.items(), ends, strict=True)}


@dataclass
class WorkerFit:
    """The data of a fit that a worker stores."""

    fit: str
    epoch: int  # number of recoveries; tasks of other epochs are rejected
    keepalive: str  # key of a task that Dask forgets when the client disconnects
    n_threads: int | None
    shards: dict[int, Shard] = field(default_factory=dict)
    row_data: dict[int, RowData] = field(default_factory=dict)
    state: ShardState | None = None  # of all rows, once there are factors
    with_W: list[int] = field(default_factory=list)  # shards in `state`
    is_prepared: bool = False  # for the first iteration
    W_iteration: int = -1  # of the latest update
    H_iteration: int = -1
    files: dict[Location, Compressed] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    joined: Counts | None = None  # the counts of all shards, if they have been joined
    exchange: Exchange = field(default_factory=Exchange)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.exchange.set_epoch(epoch)

    @property
    def factors(self) -> ShardState:
        if self.state is None:
            raise StaleTaskError("this worker has no factors yet")
        return self.state

    @property
    def counts(self) -> Counts:
        """The counts of all shards."""
        if self.joined is None:
            self.joined = self.join(self.shards)
        return self.joined

    def join(self, numbers: Iterable[int]) -> Counts:
        """The counts of some shards as one matrix. Shards in memory become views of it, so nothing is stored twice."""
        numbers = list(numbers)
        shards = [self.shards[i] for i in numbers]
        parts = [shard.counts for shard in shards if shard.counts is not None]
        if len(parts) < len(shards):
            reads = [shard.read for shard in shards if shard.read is not None]
            return StreamedCounts(lambda: chain.from_iterable(read() for read in reads))
        if len(parts) == 1:
            return parts[0]
        joined = MemoryCounts.stacked(parts)
        ends = pairwise(np.cumsum([0, *(shard.n_rows for shard in shards)]).tolist())
        for i, (start, stop) in zip(numbers, ends, strict=True):
            self.shards[i] = Shard(stop - start, MemoryCounts(joined.side(Side.ROWS).slice_rows(start, stop)))
        return joined

    def shard_state(self, model: Model, counts: Counts, numbers: Iterable[int]) -> ShardState:
        """The state of the rows of some shards, without factors; `counts` are theirs."""
        found = [self.row_data[i] for i in numbers] if self.row_data else []
        exposures = [data.exposure for data in found if data.exposure is not None]
        groups = [data.group for data in found if data.group is not None]
        return model.shard_state(counts, *(np.concatenate(parts) if parts else None for parts in (exposures, groups)))

    def open_file(self, location: Location) -> Compressed:
        if location not in self.files:
            source = open_counts(**location._asdict())
            assert isinstance(source, Compressed)  # checked by the client
            self.files[location] = source
        return self.files[location]

    def close(self) -> None:
        self.exchange.set_epoch(None)
        for file in self.files.values():
            file.close()


fits: dict[str, WorkerFit] = {}
_is_checking = False


@contextmanager
def _stored(
    fit: str, epoch: int, *, W_iteration: int | None = None, H_iteration: int | None = None
) -> Iterator[WorkerFit]:
    """The stored data of a fit, for one task at a time; raises an error if they are at another iteration."""
    stored = _find(fit)
    with stored.lock, threads(stored.n_threads):
        if stored.epoch != epoch or fits.get(fit) is not stored:
            raise StaleTaskError(f"this worker is in epoch {stored.epoch}, the task is of epoch {epoch}")
        for name, at, expected in (("W", stored.W_iteration, W_iteration), ("H", stored.H_iteration, H_iteration)):
            if expected is not None and at != expected:
                raise StaleTaskError(f"{name} is at iteration {at} on this worker, the task expects {expected}")
        yield stored


def _find(fit: str) -> WorkerFit:
    stored = fits.get(fit)
    if stored is None:
        raise StaleTaskError("this worker does not store the fit, or has freed it; fit again to get its results")
    return stored


def keep_alive(fit: str) -> None:
    """A task that Dask forgets when the client disconnects."""


def open_shards(
    fit: str, epoch: int, keepalive: str, n_threads: int | None, numbers: list[int], blocks: list[Any]
) -> Survey:
    """Store shards, given as blocks of counts or `FileRows`; returns their sizes."""
    from distributed import get_worker

    worker, n_threads = get_worker(), worker_threads(n_threads)
    worker.handlers[RECEIVE] = receive
    with threads(n_threads):
        stored = fits.setdefault(fit, WorkerFit(fit, epoch, keepalive, n_threads))
        with stored.lock:
            if stored.epoch > epoch:
                raise StaleTaskError(f"this worker is in epoch {stored.epoch}, the task is of epoch {epoch}")
            stored.set_epoch(epoch)
            stored.keepalive = keepalive
            _check_clients(worker)
            new = {number: _shard(stored, block) for number, block in zip(numbers, blocks, strict=True)}
            is_first = not stored.shards
            stored.shards |= new
            counts = stored.join(new)
            stored.joined = counts if is_first else None
    rows = {number: shard.n_rows for number, shard in new.items()}
    return Survey(rows, counts.shape[1], counts.nnz, counts.total, counts.smallest, counts.largest, counts.dtype)


def receive(fit: str, key: Any, rows: np.ndarray, numbers: bytes) -> None:
    """The handler of messages from other workers."""
    if (stored := fits.get(fit)) is not None:
        stored.exchange.receive(tuple(key), Message(rows, np.frombuffer(numbers)))


def worker_threads(n_threads: int | None) -> int:
    """`n_threads`, by default from the environment of the worker, or the number of tasks that Dask runs at a time."""
    from distributed import get_worker

    if n_threads is not None:
        return n_threads
    found = os.environ.get(THREADS) or os.environ.get("NUMBA_NUM_THREADS") or get_worker().state.nthreads
    return min(int(found), numba.config.NUMBA_NUM_THREADS)


def _shard(stored: WorkerFit, block: Any) -> Shard:
    if isinstance(block, FileRows) and block.streamed:
        read = partial(blocks_from, stored.open_file(block.location), BLOCK, block.start, block.stop)
        return Shard(block.stop - block.start, None, read)
    counts = _read(block) if isinstance(block, FileRows) else as_counts(block)
    return Shard(counts.shape[0], counts)


def _read(rows: FileRows) -> MemoryCounts:
    with open_counts(**rows.location._asdict()) as source:
        assert isinstance(source, Compressed)
        shape = (rows.stop - rows.start, source.shape[1])
        return as_counts(source.rows(rows.start, rows.stop), shape=shape)


def transform_block(model: Any, block: Any, given: dict[str, np.ndarray]) -> np.ndarray:
    """`model.transform` of a block of rows, with the threads of the worker."""
    model = copy.copy(model)
    model.n_threads = worker_threads(model.n_threads)
    block = _read(block) if isinstance(block, FileRows) else block
    return model.transform(block, **given)


def counts_by_group(fit: str, epoch: int, groups: dict[int, np.ndarray], n_groups: int) -> np.ndarray:
    """Sums of the counts of each feature over the rows of each group, (p, n_groups)."""
    with _stored(fit, epoch) as stored:
        group = np.concatenate([groups[i] for i in stored.shards])
        return Groups.of(stored.counts, group, np.ones((stored.counts.shape[1], n_groups)), 1.0).counts


def compile_kernels(fit: str, epoch: int, model: Model) -> None:
    """Compile or load the kernels of a fit by a few iterations on two rows of counts like those of this worker."""
    with _stored(fit, epoch) as stored:
        counts = stored.counts
        p, k = counts.shape[1], model.n_components
        indices = np.array([0, p - 1], np.int32 if p <= np.iinfo(np.int32).max else np.int64)
        sample: Counts = MemoryCounts(SparseRows(np.ones(2, counts.dtype), indices, np.arange(3), p))
        if counts.row_access_only:
            blocks = [sample]
            sample = StreamedCounts(lambda: blocks)
        state = model.shard_state(sample, None, None)
        W, Ht = (empty_factor(n, k, model.dtype) for n in (2, p))
        W[:, :k] = Ht[:, :k] = 1
        state.start(W, Ht, check=False)
        state.prepare(state.first_sum())
        for _ in range(state.warm_up + 2):
            state.update_columns(state.update_rows())
        state.objective(True)
        if isinstance(state, PoissonShard):
            state.residual_columns(state.residual_rows())


def make_factors(
    fit: str, epoch: int, iteration: int, model: Model, start: RandomStart | CustomStart,
    row_data: dict[int, RowData],
) -> None:  # fmt: skip
    """Initialise the factors of the shards for `update_rows` of this iteration."""
    with _stored(fit, epoch) as stored:
        stored.row_data = {i: data._replace(W=None) for i, data in row_data.items()}
        state = stored.shard_state(model, stored.counts, stored.shards)
        if isinstance(start, RandomStart):
            W, Ht = start.draw([start.slices[i] for i in stored.shards], model.n_components, model.dtype)
        else:
            W = np.concatenate([row_data[i].W for i in stored.shards]).astype(model.dtype)
            Ht = start.Ht.astype(model.dtype)
        state.start(W, Ht, check=True)
        stored.state, stored.with_W, stored.is_prepared = state, list(stored.shards), False
        stored.W_iteration = stored.H_iteration = iteration - 1


def load(
    fit: str, epoch: int, iteration: int, model: Model, columns: ColumnState, new: list[int],
    row_data: dict[int, RowData],
) -> None:  # fmt: skip
    """Continue from the state of H after an iteration, from which W of the new shards is solved."""
    with _stored(fit, epoch) as stored:
        columns = columns | {"n_steps": np.array(iteration)}
        parts: list[RowState] = [] if stored.state is None else [stored.state.row_state()]
        stored.row_data |= row_data
        if new:
            parts.append(stored.shard_state(model, stored.join(new), new).solve_rows(columns))
        if stored.state is None or new:
            stored.state = stored.shard_state(model, stored.counts, stored.shards)
        stored.state.load(columns, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        stored.with_W, stored.is_prepared = list(stored.shards), True
        stored.W_iteration = stored.H_iteration = iteration


def update_rows(fit: str, epoch: int, iteration: int) -> RowSum:
    """The first half of an iteration."""
    with _stored(fit, epoch, W_iteration=iteration - 1, H_iteration=iteration - 1) as stored:
        found = stored.factors.update_rows() if stored.is_prepared else stored.factors.first_sum()
        stored.W_iteration = iteration
        return found


def update_columns(fit: str, epoch: int, iteration: int, total: RowSum) -> np.ndarray:
    """The second half of an iteration; returns `State.gaps`."""
    with _stored(fit, epoch, W_iteration=iteration, H_iteration=iteration - 1) as stored:
        if stored.is_prepared:
            stored.factors.update_columns(total)
        else:
            stored.factors.prepare(total)
        stored.H_iteration, stored.is_prepared = iteration, True
        return stored.factors.state.gaps


class Progress(NamedTuple):
    """Where a worker is after `iterate`."""

    iteration: int
    gaps: np.ndarray  # `State.gaps`
    objective: float  # the contribution of its rows; NaN if it was not computed


def iterate(
    fit: str, epoch: int, team: Team, iteration: int, stop: int, *, seconds: float, tol: float, total: float,
    measures: bool,
) -> Progress:  # fmt: skip
    """The iterations after `iteration` up to `stop`, together with the other workers.

    The last one is the first that ends after `seconds`, or with a residual that is NaN or at most `tol`. If `measures`,
    the objective is computed after `stop`.
    """
    end = time.monotonic() + seconds
    _leave_pool()
    while iteration < stop:
        iteration += 1
        step = Step(fit, epoch, f"the rows of iteration {iteration}", time.monotonic() + team.timeout)
        own = update_rows(fit, epoch, iteration)
        rows, is_late = _sum(step, team, own, is_late=time.monotonic() >= end)
        gaps = update_columns(fit, epoch, iteration, rows)
        if is_late or not np.max(gaps) / total > tol:
            break
    with _stored(fit, epoch, W_iteration=iteration, H_iteration=iteration) as stored:
        state, objective = stored.factors, math.nan
        if measures and iteration == stop:
            objective = state.objective(team.me == 0)
        return Progress(iteration, state.state.gaps.copy(), objective)


def gap(fit: str, epoch: int, team: Team, iteration: int) -> float:
    """The larger gap of the current factors, in nats, computed together with the other workers."""
    _leave_pool()
    step = Step(fit, epoch, f"the residual of iteration {iteration}", time.monotonic() + team.timeout)
    with _stored(fit, epoch, W_iteration=iteration, H_iteration=iteration) as stored:
        assert isinstance(stored.factors, PoissonShard)
        own = stored.factors.residual_rows()
    rows, _ = _sum(step, team, own)
    with _stored(fit, epoch, W_iteration=iteration, H_iteration=iteration) as stored:
        assert isinstance(stored.factors, PoissonShard)
        return stored.factors.residual_columns(rows)


def _leave_pool() -> None:
    """Let Dask run other tasks beside this one, as another worker may be waiting for the result of one of them."""
    from distributed import secede

    secede()  # type: ignore[no-untyped-call]


def _sum(step: Step, team: Team, own: RowSum, *, is_late: bool = False) -> tuple[RowSum, bool]:
    """The sum over all workers, and whether any of them is late; see `Exchange.sum`."""
    (S, sums, gap), K = own.rows, len(own.rows.sums)
    numbers = np.concatenate([sums, own.moments.ravel(), own.by_group.ravel(), [gap, is_late]])
    S, numbers = _find(step.fit).exchange.sum(step, team, S, numbers)
    moments, by_group = np.split(numbers[K:-2].reshape(-1, K).copy(), [3])
    total = RowSum(Contribution(S, numbers[:K], float(numbers[-2])), moments, by_group.reshape(own.by_group.shape))
    return total, numbers[-1] > 0


def call(fit: str, epoch: int, iteration: int | None, method: str, *args: Any) -> Any:
    """The result of a method of `ShardState` after this iteration, or after any if it is None."""
    with _stored(fit, epoch, W_iteration=iteration, H_iteration=iteration) as stored:
        return getattr(stored.factors, method)(*args)


def fitted_W(fit: str, epoch: int, iteration: int) -> dict[int, np.ndarray]:
    """W of each shard."""
    with _stored(fit, epoch, W_iteration=iteration, H_iteration=iteration) as stored:
        W, ends = stored.factors.W(), np.cumsum([shard.n_rows for shard in stored.shards.values()])
        return dict(zip(stored.shards, np.split(W, ends[:-1]), strict=True))


def position(fit: str, epoch: int) -> tuple[int, list[int]] | None:
    """The iteration of H and the shards with W, or None without H. Tasks of earlier epochs are rejected afterwards."""
    stored = fits.get(fit)
    if stored is None:
        return None
    with stored.lock:
        if stored.state is None or not stored.is_prepared:
            _remove(fit)
            return None
        stored.set_epoch(epoch)
        if list(stored.shards) != stored.with_W:  # after a recovery that did not end
            stored.shards, stored.joined = {i: stored.shards[i] for i in stored.with_W}, None
        return stored.H_iteration, stored.with_W


def forget(fit: str) -> tuple[int, int]:
    """Free everything of a fit; returns the numbers of messages and of bytes that this worker has sent to others."""
    exchange = fits[fit].exchange if fit in fits else Exchange()
    _remove(fit)
    return exchange.n_messages, exchange.n_bytes


def _remove(fit: str) -> None:
    stored = fits.pop(fit, None)
    if stored is not None:
        stored.close()


def _check_clients(worker: Any) -> None:
    """Free fits whose client has disconnected: Dask has then forgotten the task `keepalive`."""
    global _is_checking
    if _is_checking:
        return

    def check() -> None:
        global _is_checking
        for stored in list(fits.values()):
            if stored.keepalive not in worker.state.tasks:
                _remove(stored.fit)
        _is_checking = bool(fits)
        if _is_checking:
            worker.loop.call_later(CHECK_EVERY, check)

    _is_checking = True
    worker.loop.add_callback(worker.loop.call_later, CHECK_EVERY, check)
