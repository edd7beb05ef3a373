"""A line on standard error where kernels take long to compile."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from numba.core import event

COMPILING = "fastpmf:compile"  # Numba's event around the compilation of a kernel that is not in the cache
MESSAGE = "compiling kernels (once per machine)"
PATIENCE = 1.0  # seconds of compilation before the message


class _Notice(event.Listener):
    """Writes `MESSAGE` once compilation has taken more than `PATIENCE` seconds since `open` was first called.

    The process has one of them, for all its threads; only one thread at a time compiles. A timer runs while it does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_open = 0
        self._written = False
        self._seconds = 0.0  # of compilations that have ended
        self._began = 0.0
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
            self._began = perf_counter()
            self._timer = threading.Timer(max(0.0, PATIENCE - self._seconds), self._write)
            self._timer.daemon = True
            self._timer.start()

    def on_end(self, _: Any) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                self._seconds += perf_counter() - self._began

    def _write(self) -> None:
        # A fork waits until no thread compiles, so a child never inherits this lock, or tqdm's, from the timer
        with self._lock:
            if self._timer is not None and self._n_open > 0 and not self._written:
                self._written = True
                _write_line(MESSAGE)

    def after_fork(self) -> None:
        """In the child: another thread of the parent may have had the lock."""
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
    """Say once, on standard error, that kernels are compiled if that takes more than a second inside.

    Nested contexts, and those of several threads that overlap, count as one. Kernels that are loaded from the cache are
    not compiled.
    """
    if not verbose:
        yield
        return
    _notice.open()
    try:
        yield
    finally:
        _notice.close()
