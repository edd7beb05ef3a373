"""The client's side of a fit: which worker has which rows, what they are told to do, and what happens when one is lost.

Of an iteration the client sees two numbers. Messages of p x K go from worker to worker: up a binary tree, in the order
of the groups of shards whoever is done first, and from its root to all.
"""

import uuid
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastpmf.dask import _worker
from fastpmf.dask._calls import TICK, Calls, LostError, Task, log
from fastpmf.dask._share import Gaps, Points, Posterior, Start, plus
from fastpmf.dask._sources import Source
from fastpmf.dask._worker import Opened
from fastpmf.solvers.base import Memory

_VAIN = 5  # recoveries in a row without an iteration in between end the fit
T = TypeVar("T")


class Traffic(NamedTuple):
    """Bytes and messages of a fit so far."""

    messages: int
    message_bytes: int
    between_workers: int
    to_client: int


class Crew(Calls):
    """The workers of a fit.

    Parameters
    ----------
    client : distributed.Client
    source : Source
    n_threads : int or None
    timeout : float
        Seconds that no wait is longer than.

    Attributes
    ----------
    iteration : int
        The latest complete one.
    recoveries : int
    """

    def __init__(self, client: Any, source: Source, *, n_threads: int | None, timeout: float) -> None:
        super().__init__(client, timeout)
        self._source, self._n_threads, self._epoch = source, n_threads, 0
        self._leases: dict[str, Any] = {}  # futures; with a client that is gone they go
        self._exposure: np.ndarray | None = None
        self._sent: dict[str, list[int]] = {}  # bytes by each worker: before the fit, and until now
        self.iteration, self.recoveries, self._in_vain, self._torn = -1, 0, 0, False
        self.messages, self.message_bytes = 0, 0

    # What is asked of the workers

    def open(self) -> list[Opened]:
        """Spread the shards over the workers, and say what each worker's hold."""
        while True:
            try:
                self._groups = _spread(self._source.count, self._source.homes(self._client), self._living())
                opened = self._open(self._groups)
                self._let_go()
                return opened
            except LostError as lost:
                self._count_recovery(lost)
                self._begin_again()

    def prepare(self, model: Points | Posterior) -> None:
        """Have all workers compile their kernels before the first iteration."""
        tasks = [
            self._submit(_worker.prepare, self._epoch, model, worker=worker, doing="compiling the kernels")
            for worker in self._groups
        ]
        try:
            self._results(tasks)
        except LostError as lost:  # the fit starts on the remaining workers
            self._torn = True
            log.info("%s", lost)

    def begin(
        self, model: Points | Posterior, start: Start, sizes: np.ndarray, exposure: np.ndarray | None,
        columns: Memory | None = None, iteration: int = 0,
    ) -> None:  # fmt: skip
        """Draw factors and do iteration 0, or go on after `iteration` from H as it is in `columns`."""
        self._model, self._start, self._columns, self._exposure = model, start, columns, exposure
        self._places = np.cumsum([0, *sizes])
        self.iteration = iteration
        try:
            if not self._torn:
                self._first()
        except LostError as lost:
            self._torn = True
            log.info("%s", lost)

    def iterate(self) -> Gaps:
        """One iteration."""
        return self._whole(lambda: self._iterate(self.iteration + 1))

    def objective(self) -> float:
        """Of the factors as they are, in nats."""

        def ask() -> float:
            tasks = [
                self._submit(_worker.objective, self._epoch, self.iteration, n == 0, worker=worker,
                             doing="the objective")
                for n, worker in enumerate(self._groups)
            ]  # fmt: skip
            return float(sum(self._results(tasks)))

        return self._whole(ask)

    def gap(self) -> float:
        """What any other W, or any other H, could gain at most, in nats."""

        def ask() -> float:
            tasks = self._each(_worker.look, self.iteration, doing="the residual")
            total = self._summed(tasks)
            return self._results([self._submit(_worker.gap, self._epoch, total.future, worker=total.worker,
                                               doing="the residual of H")])[0]  # fmt: skip

        return self._whole(ask)

    def columns(self) -> Memory:
        """H, on the client."""

        def ask() -> Memory:
            worker = next(iter(self._groups))
            memory = self._results([self._submit(_worker.columns, self._epoch, worker=worker, doing="H")])[0]
            return {name: np.array(A) for name, A in memory.items()}

        self._columns = self._whole(ask)  # should all workers be lost
        return self._columns

    def found(self) -> list[Any]:
        """Futures of W of each shard, which stay on their workers."""

        def ask() -> list[Any]:
            told: dict[str, Any] = {"doing": "W", "loose": True}
            # Were a worker lost later, Dask would wait for it to come back; elsewhere the task says what is the matter
            by_worker = {
                worker: self._submit(_worker.found, self._epoch, self.iteration, worker=worker, **told).future
                for worker in self._groups
            }
            picked = {
                number: self._submit(_worker.pick, by_worker[worker], number, worker=worker, bare=True, **told)
                for worker, numbers in self._groups.items()
                for number in numbers
            }
            self._wait(list(picked.values()))
            self._tasks = [task for task in self._tasks if task not in picked.values()]
            return [picked[number].future for number in sorted(picked)]

        return self._whole(ask)

    def traffic(self) -> Traffic:
        """What was sent so far."""
        sent = sum(now - before for before, now in self._sent.values())
        return Traffic(self.messages, self.message_bytes, sent - self.to_client, self.to_client)

    def release(self) -> None:
        """Free what workers hold, as far as they can be reached; a worker that hangs does it when it wakes up."""
        if self._client.status != "running":
            return
        self._cancel()
        alive = self._alive()
        futures = {
            worker: self._client.submit(
                _worker.forget, self.fit, workers=[worker], pure=False, key=f"fastpmf-forget-{self.fit}-{n}"
            )
            for n, worker in enumerate(self._groups)
            if worker in alive
        }
        try:
            self._distributed.wait(list(futures.values()), timeout=min(self._timeout, 20 * TICK))
            for worker, sent in zip(futures, self._client.gather(list(futures.values())), strict=True):
                self._sent.setdefault(worker, [sent, sent])[1] = sent
        except (TimeoutError, self._distributed.CancelledError) as error:
            log.info("not all workers were heard of in the end: %s", error)
            late = [future for future in futures.values() if not future.done()]  # what is done would stay
            self._distributed.fire_and_forget(late)
        for future in (*futures.values(), *self._leases.values()):
            future.release()

    # How

    def _iterate(self, iteration: int) -> Gaps:
        tasks = self._each(_worker.rows, iteration, doing=f"the rows of iteration {iteration}")
        total = self._summed(tasks)
        # All of them, before the total goes: whoever took it on would keep all that it came from known to Dask
        ends = self._each(_worker.close, iteration, total.future, doing=f"the columns of iteration {iteration}")
        self._wait(ends)
        gaps: Gaps = self._results(ends[:1])[0]
        self.messages += 2 * (len(tasks) - 1)
        self.iteration, self._in_vain = iteration, 0
        return gaps

    def _first(self) -> None:
        if self._columns is not None:
            self._settle(self._columns, self._groups)
            return
        tasks = []
        for worker, numbers in self._groups.items():
            places = {i: int(self._places[i]) for i in numbers}
            tasks.append(self._submit(
                _worker.begin, self._epoch, self.iteration, self._model, self._start, places,
                self._exposures(worker, numbers), worker=worker, doing="the first factors",
            ))  # fmt: skip
        self._results(tasks)
        self._iterate(self.iteration)

    def _open(self, groups: dict[str, list[int]]) -> list[Opened]:
        tasks = []
        for worker, numbers in groups.items():
            if worker not in self._leases:
                self._leases[worker] = self._client.submit(
                    _worker.lease, self.fit, workers=[worker], pure=False, key=f"fastpmf-lease-{self.fit}-{worker}"
                )
            given = self._source.sent(self._client, numbers, worker)
            lease = self._leases[worker].key
            tasks.append(self._submit(
                _worker.open_shards, self._epoch, lease, self._n_threads, numbers, given, worker=worker,
                doing="opening its rows",
            ))  # fmt: skip
        opened: list[Opened] = self._results(tasks)
        for task, told in zip(tasks, opened, strict=True):
            self._sent.setdefault(task.worker, [told.sent, told.sent])
        return opened

    def _settle(self, columns: Any, new: dict[str, list[int]]) -> None:
        if isinstance(columns, dict):
            columns = self._client.scatter([columns], hash=False)[0]
        self._results([
            self._submit(
                _worker.settle, self._epoch, self.iteration, self._model, columns, new.get(worker, []),
                self._exposures(worker, new.get(worker, [])), worker=worker, doing="solving W from H",
            )
            for worker in self._groups
        ])  # fmt: skip

    def _exposures(self, worker: str, numbers: list[int]) -> Any:
        if self._exposure is None or not numbers:
            return {}
        parts = {i: self._exposure[self._places[i] : self._places[i + 1]] for i in numbers}
        return self._client.scatter([parts], workers=[worker], hash=False)[0]

    def _let_go(self) -> None:
        super()._let_go()
        self._source.let_go()

    def _each(self, function: Callable[..., Any], *args: Any, doing: str) -> list[Task]:
        return [self._submit(function, self._epoch, *args, worker=worker, doing=doing) for worker in self._groups]

    def _summed(self, tasks: list[Task]) -> Task:
        """Their sum, by a binary tree whose shape and order are those of the groups."""
        while len(tasks) > 1:
            pairs = [tasks[n : n + 2] for n in range(0, len(tasks), 2)]
            tasks = [
                pair[0] if len(pair) == 1 else self._submit(
                    plus, pair[0].future, pair[1].future, worker=pair[0].worker, doing="adding up", bare=True
                )
                for pair in pairs
            ]  # fmt: skip
        return tasks[0]

    def _whole(self, ask: Callable[[], T]) -> T:
        """What `ask` returns, asked again after each recovery until it comes through."""
        while True:
            try:
                if self._torn:
                    self._recover()
                self._let_go()
                self._torn = True
                out = ask()
                self._let_go()
                self._torn = False
                return out
            except LostError as lost:
                log.info("%s", lost)

    def _begin_again(self) -> None:
        """Forget all that was done on workers."""
        self._cancel()
        self._leases.clear()
        self.fit, self._epoch = uuid.uuid4().hex, 0

    def _count_recovery(self, why: object, *, counted: bool = True) -> None:
        self.recoveries, self._in_vain = self.recoveries + counted, self._in_vain + 1
        if self._in_vain > _VAIN:
            raise RuntimeError(f"workers were lost {_VAIN} times in a row before the fit could go on: {why}")

    def _recover(self) -> None:
        """Go on from the newest H that a living worker has, with rows of lost workers given to others."""
        self._epoch += 1
        self._cancel()
        old, alive = self._groups, set(self._living())
        self._groups = {worker: numbers for worker, numbers in old.items() if worker in alive}
        told = self._results(self._each(_worker.probe, doing="telling where it is"))
        at = {worker: probed for worker, probed in zip(self._groups, told, strict=True) if probed is not None}
        self._groups = {worker: list(probed.shards) for worker, probed in at.items()}
        lost = sorted(set(range(self._source.count)) - {i for numbers in self._groups.values() for i in numbers})
        self._leases = {worker: lease for worker, lease in self._leases.items() if worker in alive}
        why = f"{len(lost)} of {self._source.count} shards" if self._groups else "all shards"
        self._count_recovery(why, counted=bool(lost))
        if not self._groups:
            log.warning("all workers were lost in iteration %d: the fit begins again on new ones", self.iteration + 1)
            self._begin_again()
            self._groups = _spread(self._source.count, {}, self._living())
            self._open(self._groups)
            self._first()
            return
        if lost:
            log.warning(
                "%s were lost with their workers in iteration %d: others take them over, and the fit goes on",
                why, self.iteration + 1,
            )  # fmt: skip
        newest = max(self._groups, key=lambda worker: at[worker].closed)
        columns = self._submit(_worker.columns, self._epoch, worker=newest, doing="handing on H")
        new = _shared_out(lost, self._groups, sorted(alive))
        self._groups = {w: self._groups.get(w, []) + new.get(w, []) for w in [*self._groups, *new]}
        self._open(new)
        self._settle(columns.future, new)


def _spread(count: int, homes: dict[int, str], workers: list[str]) -> dict[str, list[int]]:
    """Which worker gets which shards: where they are already, else consecutive ones, as many for each."""
    n = min(count, len(workers))
    homes = {i: worker for i, worker in homes.items() if worker in workers}
    out: dict[str, list[int]] = {}
    for i in range(count):
        out.setdefault(homes.get(i) or workers[i * n // count], []).append(i)
    return out


def _shared_out(lost: Iterable[int], groups: dict[str, list[int]], workers: list[str]) -> dict[str, list[int]]:
    """Lost shards to those workers that have the fewest."""
    held = {worker: len(groups.get(worker, [])) for worker in workers}
    out: dict[str, list[int]] = {}
    for i in lost:
        worker = min(held, key=lambda w: held[w])
        held[worker] += 1
        out.setdefault(worker, []).append(i)
    return out
