"""Tasks for workers: each is pinned to one, no wait for them is without an end, and what was lost is told as that."""

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from fastpmf.dask._cluster import library
from fastpmf.dask._worker import StaleError

log = logging.getLogger("fastpmf.dask")
TICK = 0.25  # seconds between two looks at who is still there


class LostError(RuntimeError):
    """A worker is gone, or no longer has what it had."""


class Task(NamedTuple):
    """A task under way, and in words what it does."""

    doing: str
    worker: str
    future: Any


class Calls:
    """What a client asks of some workers.

    Parameters
    ----------
    client : distributed.Client
    timeout : float
        Seconds that no wait is longer than.

    Attributes
    ----------
    fit : str
        Which fit it is for; it is in the keys of all its tasks.
    to_client : int
        Bytes of the results so far.
    """

    def __init__(self, client: Any, timeout: float) -> None:
        self._client, self._timeout = client, timeout
        self._distributed = library("distributed")
        self.fit, self.to_client, self._keys = uuid.uuid4().hex, 0, 0
        self._groups: dict[str, list[int]] = {}  # the workers' shards, in the order in which they are summed
        self._tasks: list[Task] = []

    def _submit(
        self, function: Callable[..., Any], *args: Any, worker: str, doing: str, bare: bool = False, loose: bool = False
    ) -> Task:
        self._keys += 1
        name = function.__name__.split("_")[0]
        future = self._client.submit(
            function, *(args if bare else (self.fit, *args)), key=f"fastpmf-{name}-{self.fit}-{self._keys}",
            workers=[worker], allow_other_workers=loose, pure=False, retries=0,
        )  # fmt: skip
        task = Task(doing, worker, future)
        self._tasks.append(task)
        return task

    def _results(self, tasks: list[Task]) -> list[Any]:
        """What they return, once all are done."""
        self._wait(tasks)
        try:
            out = [task.future.result(timeout=self._timeout) for task in tasks]
        except (TimeoutError, self._distributed.CancelledError) as error:
            raise LostError(f"results were lost on their way: {error}") from None
        self.to_client += sum(map(self._distributed.sizeof.sizeof, out))
        return out

    @property
    def _lost(self) -> tuple[type[BaseException], ...]:
        """What tasks end in whose worker is gone or has begun anew."""
        dask = self._distributed
        return StaleError, dask.scheduler.KilledWorker, dask.CancelledError, dask.comm.CommClosedError

    def _wait(self, tasks: list[Task]) -> None:
        """Until they are done, or one of them can't be."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                self._distributed.wait([task.future for task in tasks], timeout=TICK)
            except TimeoutError:
                gone = self._groups.keys() - self._alive()
                if gone:
                    raise LostError(f"worker(s) {', '.join(sorted(gone))} are gone") from None
                if time.monotonic() >= end:
                    raise self._too_late() from None
                continue
            except self._distributed.CancelledError as error:
                raise LostError(f"tasks were lost: {error}") from None
            break
        for task in tasks:
            failure = task.future.exception() if task.future.status == "error" else None
            if isinstance(failure, self._lost):
                raise LostError(f"worker {task.worker}, at {task.doing}: {failure}")
            if failure is not None:
                raise failure

    def _too_late(self) -> TimeoutError:
        late = [task for task in self._tasks if not task.future.done()] or self._tasks[-1:]
        names = [task.worker for task in late if task.doing == late[0].doing]  # others may only wait for these
        return TimeoutError(
            f"worker(s) {', '.join(names)} had not finished {late[0].doing} within timeout={self._timeout:g} s; "
            "they may be busy with something else, or hang: look at their logs, or raise timeout"
        )

    def _alive(self) -> set[str]:
        """Workers that the scheduler sees."""
        if self._client.status != "running":
            raise ConnectionError(f"the client has lost its scheduler, its status is {self._client.status!r}")
        return set(self._client.sync(self._client.scheduler.ncores, callback_timeout=self._timeout))

    def _living(self) -> list[str]:
        """Workers, waited for if there are none, or none any more."""
        while not (alive := self._alive()):
            try:
                self._client.wait_for_workers(1, timeout=self._timeout)
            except TimeoutError:
                raise TimeoutError(
                    f"client must have a worker, and its cluster had none for timeout={self._timeout:g} s"
                ) from None
        return sorted(alive)

    def _cancel(self) -> None:
        futures = [task.future for task in self._tasks if not task.future.done()]
        if futures and self._client.status == "running":
            self._client.cancel(futures, force=True)
        self._let_go()

    def _let_go(self) -> None:
        """Have Dask forget the tasks so far."""
        for task in self._tasks:
            task.future.release()
        self._tasks = []
