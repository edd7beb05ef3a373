"""Output of `verbose` on standard error: a message if kernels take long to compile, and the progress of a fit.

Progress is shown by a tqdm bar if tqdm is installed, else by lines of text.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from numba.core import event

COMPILING = "fastpmf:compile"  # Numba event of the compilation of a kernel that is not in the cache
MESSAGE = "compiling kernels (once per machine)"
DELAY = 1.0  # seconds of compilation before the message


def _tqdm() -> Any:
    """The class of tqdm's bars; None if tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm


class _Notice(event.Listener):
    """Writes `MESSAGE` once if compilations inside of `compilation_shown` take more than `DELAY` seconds in all.

    All threads share one instance; Numba compiles in one thread at a time, while a timer runs.
    """

    def __init__(self) -> None:
        self.reset_lock()
        self._n_open = 0  # contexts
        self._written = False
        self._seconds = 0.0  # total of completed compilations
        self._start = 0.0
        self._timer: threading.Timer | None = None

    def reset_lock(self) -> None:
        """Make a new lock; in a child process, as a thread of the parent may hold the old one."""
        self._lock = threading.Lock()

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
        # A fork waits until no thread compiles, so that a child never inherits this lock, or tqdm's, from the timer
        with self._lock:
            if self._timer is not None and self._n_open > 0 and not self._written:
                self._written = True
                if (tqdm := _tqdm()) is None:
                    sys.stderr.write(f"{MESSAGE}\n")
                else:
                    tqdm.write(MESSAGE, file=sys.stderr)  # above any bars


_notice = _Notice()
event.register(COMPILING, _notice)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notice.reset_lock)


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


@contextmanager
def progress_bar(total: int | None, unit: str, *, verbose: bool) -> Iterator[Callable[..., object]]:
    """A function to call when n more units, 1 by default, are done; it advances a bar if tqdm is installed."""
    with compilation_shown(verbose=verbose):
        if not verbose or (tqdm := _tqdm()) is None:
            yield lambda n=1: None
            return
        with tqdm(total=total, unit=unit, unit_scale=total is None, file=sys.stderr) as bar:
            yield bar.update


@contextmanager
def progress_observer(max_iter: int, residual: str, *, verbose: bool) -> Iterator[Callable[..., None] | None]:
    """An observer that shows objective and residual at each record of a fit; None unless `verbose`.

    `residual` is the name of the residual.
    """
    if not verbose:
        yield None
        return
    tqdm = _tqdm()
    bar = None if tqdm is None else tqdm(total=max_iter, unit="it", file=sys.stderr, leave=True)

    def show(record: Any, *_: Any) -> None:
        text = f"objective {record.objective:.6g} nats"
        if record.n_iter:
            text += f", {residual} {record.kkt_residual:.2g}"
        if bar is None:
            sys.stderr.write(f"iteration {record.n_iter:>5} of {max_iter}  {text}  {record.seconds:.1f} s\n")
        else:
            bar.set_postfix_str(text, refresh=False)
            bar.update(record.n_iter - bar.n)

    try:
        with compilation_shown(verbose=True):
            yield show
    finally:
        if bar is not None:
            bar.close()
