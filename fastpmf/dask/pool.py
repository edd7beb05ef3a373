"""The client's side of a fit: assignment of rows to workers, the tasks of a fit, and recovery of lost workers.

A task of each worker does several iterations, in which the workers send each other what their rows contribute to the
update of H. The client receives a few numbers at the end.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable
from functools import wraps
from operator import getitem
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.dask import worker as on_worker
from fastpmf.dask.cluster import library
from fastpmf.dask.exchange import StaleTaskError, Team, late
from fastpmf.dask.shard import ColumnState, CustomStart, Model, RandomStart
from fastpmf.dask.sources import Source
from fastpmf.dask.worker import RowData, Survey

log = logging.getLogger("fastpmf.dask")
TICK = 0.25  # seconds between checks that all workers are alive
MAX_FAILURES = 5  # recoveries in a row without an iteration in between
SECONDS = 1.0  # of iterations in a task, which Dask takes about ten milliseconds to start and to finish
# Finished tasks of which Dask stores the results. The client sends its scheduler a message every ten milliseconds at
# most, so releasing tasks can delay the next ones.
MAX_TASKS = 100
T = TypeVar("T")


class LostWorkerError(RuntimeError):
    """A worker has left, or no longer stores its rows."""


class Task(NamedTuple):
    """A submitted task; `description` is for messages."""

    description: str
    worker: str
    future: Any


def recovering(method: Callable[..., T]) -> Callable[..., T]:
    """Repeat a method of `WorkerPool` after each recovery until it succeeds."""

    @wraps(method)
    def repeated(pool: "WorkerPool", *args: Any, **kwargs: Any) -> T:
        while True:
            try:
                if pool.is_broken:
                    pool.recover()
                if len(pool.tasks) > MAX_TASKS:
                    pool.release_tasks()
                pool.is_broken = True
                out = method(pool, *args, **kwargs)
                pool.is_broken = False
                return out
            except LostWorkerError as error:
                log.info("%s", error)

    return repeated


class WorkerPool:
    """The workers of a fit. At the end of a with statement they free all data of the fit except W.

    Parameters
    ----------
    client : distributed.Client
    source : Source
    n_threads : int or None
    timeout : float
        Maximum seconds to wait for the workers.

    Attributes
    ----------
    iteration : int
        The latest complete iteration.
    recoveries : int
        How often rows of lost workers were assigned to others.
    """

    def __init__(self, client: Any, source: Source, *, n_threads: int | None, timeout: Any) -> None:
        check_scalar(timeout, "timeout", (int, float, np.number), min_val=0, include_boundaries="neither")
        if not math.isfinite(timeout):
            raise ValueError(f"timeout must be a finite number of seconds, got {timeout}")
        self._client, self._source, self._n_threads, self._timeout = client, source, n_threads, float(timeout)
        self._distributed = library("distributed")
        self._fit, self._epoch, self._n_submitted = uuid.uuid4().hex, 0, 0  # in the keys and arguments of tasks
        self._shards: dict[str, list[int]] = {}  # of each worker; sums are added in this order
        self.tasks: list[Task] = []
        self._keepalive: dict[str, Any] = {}  # futures, which Dask forgets when the client disconnects
        self.is_broken = False  # whether workers must be recovered first
        self.iteration, self.recoveries, self._failures = -1, 0, 0
        self._objective = math.nan  # after `iteration`, if it is known
        self._n_messages = self._between_workers = self._to_client = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def open(self) -> Survey:
        """Assign the shards to workers, which read them."""
        while True:
            try:
                locations = self._source.locations(self._client)
                self._shards = _assign(self._source.n_shards, locations, self._wait_for_any())
                self.survey = Survey.join(self._open(self._shards))
                self.release_tasks()
                return self.survey
            except LostWorkerError as error:
                self._count_recovery(error)
                self._reset()

    def counts_by_group(self, group: np.ndarray, n_groups: int) -> np.ndarray:
        """Sums of the counts of each feature over the rows of each group, (p, n_groups)."""
        slices = self.survey.slices
        while True:
            try:
                return sum(self._results([
                    self._submit_to(
                        worker, on_worker.counts_by_group, {i: group[slices[i]] for i in numbers}, n_groups,
                        description="the counts of the groups",
                    )
                    for worker, numbers in self._shards.items()
                ]))  # fmt: skip
            except LostWorkerError as error:
                self._count_recovery(error)
                self._reset()
                self.open()

    def prepare(self, model: Model, row_data: RowData) -> None:
        """Compile the kernels on all workers. `row_data` are those of all rows."""
        self._model, self._data = model, row_data
        what = "compiling the kernels"
        self._attempt(lambda: self._results(self._submit_to_all(on_worker.compile_kernels, model, description=what)))

    def start(self, start: RandomStart | CustomStart | ColumnState, iteration: int = 0) -> None:
        """Make factors, or continue from a state of H after an iteration."""
        self._start, self.iteration, self._objective = start, iteration, math.nan
        self._attempt(self._start_all)

    def _attempt(self, step: Callable[[], object]) -> None:
        """Do a step. If a worker is lost, the workers are recovered before the next iteration or evaluation."""
        try:
            if not self.is_broken:
                step()
        except LostWorkerError as error:
            self.is_broken = True
            log.info("%s", error)

    @recovering
    def iterate(self, stop: int, *, seconds: float, tol: float, measures: bool) -> np.ndarray:
        """Iterate up to `stop`, or less if it takes longer than `seconds`, or if the residual is NaN or at most `tol`.

        Returns `State.gaps`. If `measures`, the workers also compute the objective after `stop`.
        """
        seconds = min(max(seconds, 0.0), SECONDS)
        return self._iterate(self.iteration, stop, seconds=seconds, tol=tol, measures=measures)

    @recovering
    def objective(self) -> float:
        """Objective of the current factors, in nats."""
        if math.isnan(self._objective):
            self._objective = float(sum(self._results([
                self._call(worker, "objective", n == 0, description="the objective")
                for n, worker in enumerate(self._shards)
            ])))  # fmt: skip
        return self._objective

    @recovering
    def gap(self) -> float:
        """The larger gap of the current factors, in nats; see `Problem.residual`."""
        return self._results(self._submit_to_team(on_worker.gap, self.iteration, description="the residual"))[0]

    @recovering
    def complete(self) -> None:
        """Complete the effects of groups, and rescale the factors; the second time nothing changes."""
        self._results([self._call(worker, "complete", description="the effects") for worker in self._shards])
        self._objective = math.nan

    @recovering
    def column_state(self) -> ColumnState:
        """The state of H. If all workers are lost later, the fit restarts from it."""
        found = self._call(next(iter(self._shards)), "column_state", description="H")
        self._start = {name: np.array(A) for name, A in self._results([found])[0].items()}
        self.release_tasks()
        return self._start

    @recovering
    def W(self) -> list[Any]:
        """Futures of W of each shard, which stay on their workers."""
        # Any worker is allowed, since Dask would wait for a lost one; on another worker the task raises an error
        parts = {}
        for worker, numbers in self._shards.items():
            args = self._fit, self._epoch, self.iteration
            W = self._submit(worker, on_worker.fitted_W, *args, description="W", any_worker=True)
            for i in numbers:
                parts[i] = self._submit(worker, getitem, W.future, i, description="W", any_worker=True)
        self._wait(list(parts.values()))
        self.tasks = [task for task in self.tasks if task not in parts.values()]
        return [parts[number].future for number in sorted(parts)]

    def traffic(self) -> dict[str, int]:
        """Messages and bytes sent until `release`; see `PoissonNMF.communication_`."""
        return {
            "messages": self._n_messages, "between_workers": self._between_workers, "to_client": self._to_client
        }  # fmt: skip

    def release(self) -> None:
        """Free the data of the fit on all workers. A worker that hangs does so when it continues."""
        if self._client.status != "running":
            return
        self._cancel()
        alive = self._alive()
        self._shards = {worker: numbers for worker, numbers in self._shards.items() if worker in alive}
        tasks = [
            self._submit(worker, on_worker.forget, self._fit, description="freeing memory") for worker in self._shards
        ]
        try:
            for n_messages, n_bytes in self._results(tasks, min(self._timeout, 20 * TICK)):
                self._n_messages, self._between_workers = self._n_messages + n_messages, self._between_workers + n_bytes
        except (TimeoutError, LostWorkerError) as error:
            log.info("not all workers confirmed that they freed the fit: %s", error)
            futures = [task.future for task in tasks if not task.future.done()]  # completed ones would stay in memory
            self._distributed.fire_and_forget(futures)
        self.release_tasks()
        for future in self._keepalive.values():
            future.release()

    # Steps of a fit, which fail if a worker is lost

    def _open(self, shards: dict[str, list[int]]) -> list[Survey]:
        tasks = []
        for worker, numbers in shards.items():
            if worker not in self._keepalive:
                self._keepalive[worker] = self._client.submit(
                    on_worker.keep_alive, self._fit, workers=[worker], pure=False,
                    key=f"fastpmf-keep_alive-{self._fit}-{worker}",
                )  # fmt: skip
            blocks = self._source.for_worker(self._client, numbers, worker)
            tasks.append(self._submit_to(
                worker, on_worker.open_shards, self._keepalive[worker].key, self._n_threads, numbers, blocks,
                description="reading its rows",
            ))  # fmt: skip
        return self._results(tasks)

    def _start_all(self) -> None:
        if isinstance(self._start, dict):
            self._load(self._start, self._shards)
            return
        self._results([
            self._submit_to(
                worker, on_worker.make_factors, self.iteration, self._model, self._start,
                self._send_row_data(worker, numbers, with_W=True), description="the first factors",
            )
            for worker, numbers in self._shards.items()
        ])  # fmt: skip
        self._iterate(self.iteration - 1, self.iteration, seconds=0.0, tol=0.0, measures=True)

    def _iterate(self, start: int, stop: int, **limits: Any) -> np.ndarray:
        """The iterations after `start` up to `stop`; see `iterate`."""
        tasks = self._submit_to_team(
            on_worker.iterate, start, stop, **limits, total=self.survey.total,
            description=f"the rows of iteration {start + 1}",
        )  # fmt: skip
        # Workers that wait for others give up before this does, and can say for whom they wait
        found = self._results(tasks, self._timeout + limits["seconds"] + 4 * TICK)
        self.iteration, gaps, _ = found[0]
        self._objective = float(sum(progress.objective for progress in found))
        self._failures = 0
        return gaps

    def _load(self, columns: Any, new: dict[str, list[int]]) -> None:
        """Continue from a state of H, or a future of one; W of the new shards is solved from it."""
        if isinstance(columns, dict):
            columns = self._client.scatter([columns], hash=False)[0]
        self._results([
            self._submit_to(
                worker, on_worker.load, self.iteration, self._model, columns, new.get(worker, []),
                self._send_row_data(worker, new.get(worker, []), with_W=False), description="solving W from H",
            )
            for worker in self._shards
        ])  # fmt: skip

    def _send_row_data(self, worker: str, numbers: list[int], *, with_W: bool) -> Any:
        data = self._data if with_W else self._data._replace(W=None)
        if not numbers or all(A is None for A in data):
            return {i: RowData() for i in numbers}
        slices = self.survey.slices
        parts = {i: RowData(*(None if A is None else A[slices[i]] for A in data)) for i in numbers}
        return self._client.scatter([parts], workers=[worker], hash=False)[0]

    # Recovery

    def recover(self) -> None:
        """Continue from the latest H of the remaining workers, to which the rows of lost workers are assigned."""
        self._epoch, self._objective = self._epoch + 1, math.nan
        self._cancel()
        alive = set(self._wait_for_any())
        self._shards = {worker: numbers for worker, numbers in self._shards.items() if worker in alive}
        tasks = self._submit_to_all(on_worker.position, description="its position")
        found = zip(self._shards, self._results(tasks), strict=True)
        positions = {worker: position for worker, position in found if position is not None}
        self._shards = {worker: list(shards) for worker, (_, shards) in positions.items()}
        lost = sorted(set(range(self._source.n_shards)) - {i for numbers in self._shards.values() for i in numbers})
        self._keepalive = {worker: future for worker, future in self._keepalive.items() if worker in alive}
        what = f"{len(lost)} of {self._source.n_shards} shards" if self._shards else "all shards"
        self._count_recovery(what, counted=bool(lost))
        if not self._shards:
            log.warning("all workers were lost in iteration %d: the fit restarts on new ones", self.iteration + 1)
            self._reset()
            self._shards = _assign(self._source.n_shards, {}, self._wait_for_any())
            self._open(self._shards)
            self._start_all()
            return
        if lost:
            log.warning(
                "%s were lost with their workers in iteration %d and are assigned to other workers", what,
                self.iteration + 1,
            )  # fmt: skip
        latest = max(self._shards, key=lambda worker: positions[worker][0])
        self.iteration = positions[latest][0]
        columns = self._call(latest, "column_state", description="sending H", check=False)
        new = _reassign(lost, self._shards, sorted(alive))
        self._shards = {w: self._shards.get(w, []) + new.get(w, []) for w in [*self._shards, *new]}
        self._open(new)
        self._load(columns.future, new)

    def _reset(self) -> None:
        """Start again, as a new fit on the workers."""
        self._cancel()
        self._keepalive.clear()
        self._fit, self._epoch = uuid.uuid4().hex, 0

    def _count_recovery(self, what: object, *, counted: bool = True) -> None:
        self.recoveries, self._failures = self.recoveries + counted, self._failures + 1
        if self._failures > MAX_FAILURES:
            raise RuntimeError(f"workers were lost {MAX_FAILURES} times without an iteration in between: {what}")

    # Tasks are for one worker each; waiting ends at the timeout, and lost workers raise LostWorkerError

    def _submit_to_all(self, function: Callable[..., Any], *args: Any, description: str) -> list[Task]:
        return [self._submit_to(worker, function, *args, description=description) for worker in self._shards]

    def _submit_to(
        self, worker: str, function: Callable[..., Any], *args: Any, description: str, **kwargs: Any
    ) -> Task:  # fmt: skip
        return self._submit(worker, function, self._fit, self._epoch, *args, description=description, **kwargs)

    def _submit_to_team(self, function: Callable[..., Any], *args: Any, description: str, **kwargs: Any) -> list[Task]:
        """Submit a task that all workers do together."""
        workers = list(self._shards)
        return [
            self._submit_to(
                worker, function, Team(workers, n, self._timeout), *args, description=description, **kwargs
            )
            for n, worker in enumerate(workers)
        ]  # fmt: skip

    def _call(self, worker: str, method: str, *args: Any, description: str, check: bool = True) -> Task:
        """Submit a method of the worker's `ShardState`; `check` that it is at the current iteration."""
        args = self._fit, self._epoch, self.iteration if check else None, method, *args
        return self._submit(worker, on_worker.call, *args, description=description, name=method)

    def _submit(
        self, worker: str, function: Callable[..., Any], *args: Any, description: str, any_worker: bool = False,
        name: str | None = None, **kwargs: Any,
    ) -> Task:  # fmt: skip
        self._n_submitted += 1
        future = self._client.submit(
            function, *args, **kwargs, key=f"fastpmf-{name or function.__name__}-{self._fit}-{self._n_submitted}",
            workers=[worker], allow_other_workers=any_worker, pure=False, retries=0,
        )  # fmt: skip
        task = Task(description, worker, future)
        self.tasks.append(task)
        return task

    def _results(self, tasks: list[Task], timeout: float | None = None) -> list[Any]:
        """Wait for the tasks and return their results."""
        self._wait(tasks, timeout)

        async def results() -> list[Any]:
            return await asyncio.gather(*(task.future for task in tasks))

        try:
            out = self._client.sync(results, callback_timeout=self._timeout)
        except (TimeoutError, self._distributed.CancelledError) as error:
            raise LostWorkerError(f"results were lost: {error}") from None
        self._to_client += sum(map(self._distributed.sizeof.sizeof, out))
        return out

    def _wait(self, tasks: list[Task], timeout: float | None = None) -> None:
        """Wait until all tasks are done; raises an error if one fails, is lost, or takes too long."""
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        while True:
            try:
                self._distributed.wait([task.future for task in tasks], timeout=TICK)
                break
            except TimeoutError:
                if any(task.future.status == "error" for task in tasks):
                    break  # the others may be waiting for this one
                if gone := self._shards.keys() - self._alive():
                    raise LostWorkerError(f"worker(s) {', '.join(sorted(gone))} have left") from None
                if time.monotonic() >= end:
                    raise self._timed_out() from None
            except self._distributed.CancelledError as error:
                raise LostWorkerError(f"tasks were lost: {error}") from None
        dask = self._distributed
        lost = StaleTaskError, dask.scheduler.KilledWorker, dask.CancelledError, dask.comm.CommClosedError
        for task in tasks:
            failure = task.future.exception() if task.future.status == "error" else None
            if isinstance(failure, lost):
                raise LostWorkerError(f"worker {task.worker}, {task.description}: {failure}")
            if failure is not None:
                raise failure

    def _timed_out(self) -> TimeoutError:
        tasks = [task for task in self.tasks if not task.future.done()] or self.tasks[-1:]
        # Later tasks may be waiting for these
        names = [task.worker for task in tasks if task.description == tasks[0].description]
        return late(names, tasks[0].description, self._timeout)

    def _alive(self) -> set[str]:
        """The workers of the scheduler."""
        if self._client.status != "running":
            raise ConnectionError(f"the client has lost its scheduler, its status is {self._client.status!r}")
        return set(self._client.sync(self._client.scheduler.ncores, callback_timeout=self._timeout))

    def _wait_for_any(self) -> list[str]:
        """The workers of the scheduler; if there are none, wait for one."""
        while not (alive := self._alive()):
            try:
                self._client.wait_for_workers(1, timeout=self._timeout)
            except TimeoutError:
                raise TimeoutError(
                    f"client must have a worker, and its cluster had none within timeout={self._timeout:g} s"
                ) from None
        if (n := sum(address.startswith("inproc://") for address in alive)) > 1:
            raise ValueError(
                f"client must have workers in processes of their own, or a single one in this process, got {n}: "
                "Client(fastpmf.dask.local_cluster()) has worker processes"
            )
        return sorted(alive)

    def _cancel(self) -> None:
        futures = [task.future for task in self.tasks if not task.future.done()]
        if futures and self._client.status == "running":
            self._client.cancel(futures, force=True)
        self.release_tasks()

    def release_tasks(self) -> None:
        """Let Dask forget all tasks so far."""
        for task in self.tasks:
            task.future.release()
        self.tasks = []
        self._source.release()


def _assign(n_shards: int, locations: dict[int, str], workers: list[str]) -> dict[str, list[int]]:
    """Assign shards to workers: to those that have them in memory, others in consecutive runs of equal length."""
    n = min(n_shards, len(workers))
    locations = {i: worker for i, worker in locations.items() if worker in workers}
    out: dict[str, list[int]] = {}
    for i in range(n_shards):
        out.setdefault(locations.get(i) or workers[i * n // n_shards], []).append(i)
    return out


def _reassign(lost: Iterable[int], shards: dict[str, list[int]], workers: list[str]) -> dict[str, list[int]]:
    """Assign lost shards to the workers that have the fewest."""
    counts = {worker: len(shards.get(worker, [])) for worker in workers}
    out: dict[str, list[int]] = {}
    for i in lost:
        worker = min(counts, key=lambda w: counts[w])
        counts[worker] += 1
        out.setdefault(worker, []).append(i)
    return out
