"""A message on standard error if kernels take long to compile."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from numba.core import event

COMPILING = "fastpmf:compile"  # Numba event of the compilation of a kernel that is not in the cache
MESSAGE = "compiling kernels (once per machine)"
DELAY = 1.0  # seconds of compilation before the message


class _Notice(event.Listener):
    """Writes `MESSAGE` once if compilations after the first `open` take more than `DELAY` seconds in all.

    All threads share one instance; Numba compiles in one thread at a time, while a timer runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_open = 0
        self._written = False
        self._seconds = 0.0  # total of completed compilations
        self._start = 0.0
        self._timer: threading.Timer | None = None

    def open(self) -> None:
        with self._lock:
            if self._n_open == 0:
                self._written, self._seconds = False, 0.0
            self._n_open += 1

    def close(self) -> None:
        with self._lock:
            self._n_open -= 1

    def on_start(self, _: Any) -> None:
        with self._lock:
            if self._n_open == 0 or self._written:
                return
            self._start = perf_counter()
            self._timer = threading.Timer(max(0.0, DELAY - self._seconds), self._write)
            self._timer.daemon = True
            self._timer.start()

    def on_end(self, _: Any) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                self._seconds += perf_counter() - self._start

    def _write(self) -> None:
        # A fork waits until no thread compiles, so a child never inherits this lock, or tqdm's, from the timer
        with self._lock:
            if self._timer is not None and self._n_open > 0 and not self._written:
                self._written = True
                _write_line(MESSAGE)

    def after_fork(self) -> None:
        """Replace the lock in the child process, as a thread of the parent may have held it."""
        self._lock = threading.Lock()


def _write_line(line: str) -> None:
    """Write a line on standard error, above any progress bars."""
    try:
        from tqdm import tqdm
    except ImportError:
        sys.stderr.write(f"{line}\n")
    else:
        tqdm.write(line, file=sys.stderr)


_notice = _Notice()
event.register(COMPILING, _notice)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notice.after_fork)


@contextmanager
def compilation_shown(*, verbose: bool) -> Iterator[None]:
    """Write a message on standard error, once, if compilation inside this context takes more than a second.

    Nested contexts, and overlapping ones of several threads, count as one. Loading from the cache is not compilation.
    """
    if not verbose:
        yield
        return
    _notice.open()
    try:
        yield
    finally:
        _notice.close()
