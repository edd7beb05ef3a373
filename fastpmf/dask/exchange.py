"""Sums over the workers of a fit, by messages from each worker to every other one. The scheduler takes no part.

Terms are added in the order of the workers, whichever message arrives first, so all workers get the same bits.
"""

import threading
import time
from typing import Any, NamedTuple

import numpy as np

from fastpmf.core.factors import aligned

RECEIVE = "fastpmf_receive"  # name of the workers' handler of messages
MESSAGE = 350_000  # number of bytes that take as long to send as a message takes beside its bytes


class StaleTaskError(RuntimeError):
    """A task of another iteration than that of this worker, of a fit that is not stored here, or without the others."""


class Team(NamedTuple):
    """The workers of a fit, as one of them sees them."""

    workers: list[str]  # addresses, in the order in which terms are added
    me: int  # number of this worker
    timeout: float  # maximum seconds that another one may take for an iteration


class Step(NamedTuple):
    """A sum that all workers compute together."""

    fit: str
    epoch: int
    name: str  # unique among the sums in progress; also for error messages
    end: float  # when the other workers are too late, on the clock `time.monotonic`


class Message(NamedTuple):
    """Terms or a sum from another worker."""

    rows: Any  # of an array with K columns
    numbers: np.ndarray


class Exchange:
    """The messages of a fit that one worker has sent and received.

    Attributes
    ----------
    n_messages, n_bytes : int
        Sent so far.
    """

    def __init__(self) -> None:
        self.n_messages = self.n_bytes = 0
        self._epoch: int | None = None
        self._arrived: dict[tuple[int, str, str, int], Message] = {}  # by epoch, step, part, and sender
        self._failure: OSError | None = None
        self._changed = threading.Condition()
        self._spare = np.empty((0, 0))

    def set_epoch(self, epoch: int | None) -> None:
        """Drop the messages of other epochs. Threads that wait for one raise a StaleTaskError."""
        with self._changed:
            self._epoch, self._failure = epoch, None
            self._arrived = {key: message for key, message in self._arrived.items() if key[0] == epoch}
            self._changed.notify_all()

    def receive(self, key: tuple[int, str, str, int], message: Message) -> None:
        """Store a message; called in the event loop."""
        with self._changed:
            if key[0] == self._epoch:
                self._arrived[key] = message
                self._changed.notify_all()

    def sum(self, step: Step, team: Team, S: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sums of S, (p, K), and of `numbers`, (m,), over all workers.

        S must not be changed any more: the sum is another array, which may be.

        With two workers, or a small S, each sends its S to all others. Otherwise each adds up a slice of the rows of
        S: it receives the terms of its slice, and sends their sum to all others.
        """
        # S is being sent until the other workers take part in the next step, whose sum is then written to it
        n, me, p = len(team.workers), team.me, len(S)
        if n == 1:
            return S, numbers
        total = self._spare if self._spare.shape == S.shape else aligned(p, S.shape[1], S.dtype)
        is_sliced = S.nbytes * (1 - 2 / n) > MESSAGE
        slices = [slice(i * p // n, (i + 1) * p // n) if is_sliced else slice(0, p) for i in range(n)]
        own, others = slices[me], [(me + i) % n for i in range(1, n)]
        for i in others:
            self._send(step, "terms", team, i, Message(S[slices[i]], numbers))
        terms = self._take(step, "terms", team, others) | {me: Message(S[own], numbers)}
        np.add(terms[0].rows, terms[1].rows, out=total[own])
        numbers = terms[0].numbers + terms[1].numbers
        for i in range(2, n):
            total[own] += terms[i].rows
            numbers += terms[i].numbers
        if is_sliced:
            S[own] = total[own]
            for i in others:
                self._send(step, "sum", team, i, Message(S[own], numbers))
            for i, part in self._take(step, "sum", team, others).items():
                total[slices[i]] = part.rows
        self._spare = S
        return total, numbers

    def _send(self, step: Step, part: str, team: Team, to: int, message: Message) -> None:
        """Send a message from the event loop, without waiting for it."""
        from distributed import get_worker
        from distributed.protocol.serialize import to_serialize

        worker, key = get_worker(), (step.epoch, step.name, part, team.me)
        rows: Any = to_serialize(message.rows)  # type: ignore[no-untyped-call]
        sent = {"rows": rows, "numbers": message.numbers.tobytes()}
        self.n_messages, self.n_bytes = self.n_messages + 1, self.n_bytes + message.rows.nbytes + message.numbers.nbytes

        async def send() -> None:
            try:
                await getattr(worker.rpc(team.workers[to]), RECEIVE)(fit=step.fit, key=key, reply=False, **sent)
            except OSError as error:
                with self._changed:
                    self._failure = error if self._epoch == step.epoch else self._failure
                    self._changed.notify_all()

        worker.loop.add_callback(send)

    def _take(self, step: Step, part: str, team: Team, senders: list[int]) -> dict[int, Message]:
        """Wait for messages, and remove them."""
        keys = {i: (step.epoch, step.name, part, i) for i in senders}
        with self._changed:
            while missing := [i for i, key in keys.items() if key not in self._arrived]:
                if self._epoch != step.epoch:
                    raise StaleTaskError(f"this worker is in epoch {self._epoch}, the task is of epoch {step.epoch}")
                if self._failure is not None:
                    raise StaleTaskError(f"a message could not be sent: {self._failure}") from self._failure
                if not self._changed.wait(step.end - time.monotonic()):
                    raise late([team.workers[i] for i in missing], step.name, team.timeout)
            return {i: self._arrived.pop(key) for i, key in keys.items()}


def late(workers: list[str], what: str, timeout: float) -> TimeoutError:
    """The error for workers that did not answer within `timeout` seconds."""
    return TimeoutError(
        f"worker(s) {', '.join(workers)} did not finish {what} within timeout={timeout:g} s: they are busy with other "
        "tasks, or hang; see their logs, or increase timeout"
    )
