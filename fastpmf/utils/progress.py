"""Output of `verbose` on standard error: stages and compilation that take more than a second, and progress.

Progress is a bar of tqdm, if it is installed, in terminals and notebooks. Elsewhere, as in a file, it is lines of text.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from numba.core import event

from fastpmf.utils.messages import printable

COMPILING = "fastpmf:compile"  # Numba event of the compilation of a kernel that is not in the cache
MESSAGE = "compiling kernels for this kind of model and counts, once per machine"
DELAY = 1.0  # seconds of compilation before the message


_shown: ContextVar[bool] = ContextVar("shown", default=False)


def _tqdm() -> Any:
    """The class of tqdm's bars, that for notebooks in a notebook; None if tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm


def _bar_class() -> Any:
    """The class of tqdm's bars if standard error shows them, a terminal or a notebook; else None: lines are written."""
    if (tqdm := _tqdm()) is None:
        return None
    in_notebook = any("notebook" in base.__module__ for base in tqdm.__mro__)
    return tqdm if in_notebook or sys.stderr.isatty() else None


def write_line(text: str) -> None:
    """Write a line on standard error, above any bars."""
    if (tqdm := _tqdm()) is None:
        sys.stderr.write(f"{text}\n")
    else:
        tqdm.write(text, file=sys.stderr)


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
                write_line(MESSAGE)


_notice = _Notice()
event.register(COMPILING, _notice)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notice.reset_lock)


@contextmanager
def compilation_shown(*, verbose: bool) -> Iterator[None]:
    """Show stages, and that kernels are compiled if this takes more than a second, on standard error if `verbose`.

    Nested contexts, and overlapping ones of several threads, count as one for the message on compilation, which is
    written once. Loading from the cache is not compilation.
    """
    if not verbose:
        yield
        return
    token = _shown.set(True)
    _notice.open()
    try:
        yield
    finally:
        _notice.close()
        _shown.reset(token)


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Write a line, such as "reading counts.mtx", if this block takes more than a second inside `compilation_shown`."""
    if not _shown.get():
        yield
        return
    timer = threading.Timer(DELAY, lambda: write_line(printable(text)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Lines:
    """Limits the lines of a long computation: the next one after a second, later after a tenth of the time so far."""

    def __init__(self) -> None:
        self._start = self._last = perf_counter()

    def write(self, text: str) -> None:
        self._last = perf_counter()
        sys.stderr.write(f"{printable(text)}\n")

    def write_if_due(self, text: str) -> bool:
        """Write a line if it is due; return whether it is."""
        now = perf_counter()
        if is_due := now - self._last >= min(60.0, max(1.0, 0.1 * (now - self._start))):
            self.write(text)
        return is_due


class Progress:
    """Progress over `total` units, or an unknown number of them, shown by a bar or by lines; nothing unless `verbose`.

    `unit` is a plural, such as "entries". Use `progress_bar`.
    """

    def __init__(self, total: int | None, unit: str, *, verbose: bool) -> None:
        self._total, self._unit, self._verbose, self._done = total, unit, verbose, 0
        bars = _bar_class() if verbose else None
        self._lines = _Lines()
        self._bar = None if bars is None else bars(
            total=total, unit=f" {unit}", unit_scale=total is None, file=sys.stderr, dynamic_ncols=True
        )  # fmt: skip

    def describe(self, text: str) -> None:
        """Say which unit begins."""
        if self._bar is not None:
            self._bar.set_description_str(text)
        elif self._verbose:
            self._lines.write(text if self._total is None else f"{text} ({self._done + 1} of {self._total})")

    def update(self, n: int = 1) -> None:
        """Say that n more units are done."""
        self._done += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._verbose and self._total is None:
            self._lines.write_if_due(f"{self._done:,} {self._unit}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress_bar(total: int | None, unit: str, *, verbose: bool) -> Iterator[Progress]:
    """The progress of a computation; it ends with the block, also after an error."""
    with compilation_shown(verbose=verbose):
        progress = Progress(total, unit, verbose=verbose)
        try:
            yield progress
        finally:
            progress.close()


class FitProgress:
    """Progress of a fit, an observer of its runs: iterations, objective and residual; nothing unless `verbose`.

    Use `fit_progress`. `residual` is the name of the residual.
    """

    def __init__(self, max_iter: int, residual: str, n_starts: int, *, verbose: bool) -> None:
        self._max_iter, self._residual, self._n_starts, self._verbose = max_iter, residual, n_starts, verbose
        self._start = ""
        self._lines: _Lines | None = None
        self._written = -1  # iteration of the last line
        bars = _bar_class() if verbose else None
        self._bar = None if bars is None else bars(total=max_iter, unit="it", file=sys.stderr, dynamic_ncols=True)

    def begin_start(self, number: int, n_iter: int) -> None:
        """Say that the start with this number, from 0, continues after `n_iter` iterations."""
        self._start = f"start {number + 1} of {self._n_starts}"
        if self._bar is not None:
            self._bar.set_description_str(self._start, refresh=False)
            self._bar.reset()
            self._bar.n = self._bar.initial = n_iter

    def __call__(self, record: Any, *_: Any) -> None:
        if not self._verbose:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(self._text(record), refresh=False)
            self._bar.update(record.n_iter - self._bar.n)
        elif self._lines is None:
            self._lines = _Lines()
            self._lines.write(self._line(record))
            self._written = record.n_iter
        elif self._lines.write_if_due(self._line(record)):
            self._written = record.n_iter

    def end(self, solution: Any) -> None:
        """Show the solution, and why the fit stopped, unless an exception says it; then a bar is not full."""
        self._start = ""
        interrupted = solution.status.name in ("INTERRUPTED", "UNMEASURED")
        if self._bar is not None:
            self._bar.set_description_str(solution.status.name.lower().replace("_", " "), refresh=False)
            self._bar.set_postfix_str(self._text(solution), refresh=False)
            self._bar.n = solution.n_iter
            if not interrupted:
                self._bar.total = solution.n_iter
            self._bar.refresh()
        elif self._verbose:
            status = "" if interrupted else f"  {solution.status}"
            (self._lines or _Lines()).write(f"{self._line(solution)}{status}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _text(self, fit: Any) -> str:
        text = f"objective {fit.objective:.6g} nats"
        return f"{text}, {self._residual} {fit.kkt_residual:.2g}" if fit.n_iter else text

    def _line(self, fit: Any) -> str:
        start = f"{self._start}, " if self._start else ""
        at = f"iteration {fit.n_iter:>5} of {self._max_iter}"
        if is_solution := not hasattr(fit, "seconds"):
            # Its residual is that of the final factors, and that of the last record was measured during the iteration
            at = "final factors" if fit.n_iter == self._written else at
        seconds = fit.trace["seconds"][-1] if is_solution else fit.seconds
        return f"{start}{at}  {self._text(fit)}  {seconds:.1f} s"


@contextmanager
def fit_progress(max_iter: int, residual: str, n_starts: int = 1, *, verbose: bool) -> Iterator[FitProgress]:
    """The progress of a fit; it ends with the block, also after an error."""
    with compilation_shown(verbose=verbose):
        progress = FitProgress(max_iter, residual, n_starts, verbose=verbose)
        try:
            yield progress
        finally:
            progress.close()
