"""Threads of this process: how many kernels use, how they are started, and what remains of them after a fork."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numba
import numpy as np
from joblib import cpu_count
from llvmlite.binding.ffi import lib as llvm
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel
from threadpoolctl import threadpool_info

# ── how many ────────────────────────────────────────────────────────────────────────────────────────────────────


def available_threads() -> int:
    """Threads that this process may really use: its affinity and its cgroup's quota, within Numba's own limit."""
    return max(1, min(cpu_count(), config.NUMBA_NUM_THREADS))


@contextmanager
def threads(n_threads: int | None = None) -> Iterator[int]:
    """Run the kernels called inside with `n_threads` threads; None or -1 means `available_threads()`.

    A number above the one that Numba started with (NUMBA_NUM_THREADS) is reduced to that; the result is the same.
    """
    if n_threads is None or n_threads == -1:
        n = available_threads()
    elif isinstance(n_threads, (int, np.integer)) and not isinstance(n_threads, bool) and n_threads >= 1:
        n = min(int(n_threads), config.NUMBA_NUM_THREADS)
    else:
        raise ValueError(f"n_threads must be a positive integer, -1 or None, got {n_threads!r}")
    start_threads()
    before = numba.get_num_threads()
    numba.set_num_threads(n)
    try:
        yield n
    finally:
        numba.set_num_threads(before)


def current_threads() -> int:
    """Threads that a kernel called now would use."""
    if start_threads().layer is None:
        return numba.get_num_threads()
    return parallel._get_num_threads()  # without the locks of `numba.get_num_threads`, which start threads


def threading_layer() -> str | None:
    """Name of the threading layer in use: "tbb", "omp" or "workqueue"; None in a serial child or without the JIT."""
    return start_threads().layer


# ── starting and forking ────────────────────────────────────────────────────────────────────────────────────────


class ProcessState:
    """The state of this process's threads; a forked child gets a new one."""

    def __init__(self, *, serial: bool = False, forked: bool = False) -> None:
        self.lock = threading.RLock()  # for compilation, starting threads, and calls with the layer "workqueue"
        self.serial = serial  # kernels run without a thread pool, as the parent's did not survive the fork
        self.forked = forked
        self.layer: str | None = None  # set when threads are started


_state = ProcessState()


def process_state() -> ProcessState:
    """The state of this process, whether its threads have been started or not."""
    return _state


def start_threads() -> ProcessState:
    """Start Numba's thread pool unless it runs; the state of this process."""
    state = _state
    if state.layer is None and not (state.serial or config.DISABLE_JIT):
        with state.lock:
            if state.layer is None and not state.serial:
                _start(state)
    return state


def _start(state: ProcessState) -> None:
    used_by_parent = state.forked and _gnu_openmp_is_loaded()
    with _short_openmp_spin(), _start_method_unchanged():
        numba.get_num_threads()  # this starts it
    layer = numba.threading_layer()
    if used_by_parent and layer == "omp":
        state.serial = True
    else:
        state.layer = layer


def _gnu_openmp_is_loaded() -> bool:
    """Whether the library of Numba's layer "omp" is loaded already: in a forked child, because of the parent."""
    return any(Path(library["filepath"]).name.startswith("libgomp.so") for library in threadpool_info())


@contextmanager
def _start_method_unchanged() -> Iterator[None]:
    """Starting its threads, Numba asks for multiprocessing's start method, which fixes it: undo that."""
    chosen = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        if chosen is None:
            multiprocessing.set_start_method(None, force=True)


@contextmanager
def _short_openmp_spin() -> Iterator[None]:
    """Let idle threads of GNU OpenMP, which starts inside, spin briefly before they sleep, unless the user set it.

    By default an idle thread spins for milliseconds between two passes, which are as short. If another process wants
    the core, the thread has used up its time slice when the next pass begins, and all others wait for it: fits were
    measured up to fifty times slower beside one busy process. With these few microseconds they are about twice as slow,
    and no slower on an idle machine.
    """
    is_default = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    if is_default:
        os.environ["GOMP_SPINCOUNT"] = "5000"  # read once, when the library is loaded
    try:
        yield
    finally:
        if is_default:
            del os.environ["GOMP_SPINCOUNT"]


# Every call of LLVM takes it, some of them outside of Numba's own lock
_llvm_lock: AbstractContextManager[Any] = getattr(llvm, "_lock", nullcontext())


def _before_fork() -> None:
    # Only this thread exists in the child. A lock that another thread holds would never be released there.
    _state.lock.acquire()
    global_compiler_lock.acquire()
    _llvm_lock.__enter__()


def _after_fork() -> None:
    _llvm_lock.__exit__(None, None, None)
    global_compiler_lock.release()
    _state.lock.release()


def _after_fork_in_child() -> None:
    global _state
    _after_fork()
    # Any code may have started Numba's threads. GNU OpenMP and TBB can't start again in a child of a process that used
    # them; workqueue can.
    layer = parallel._threading_layer
    _state = ProcessState(serial=_state.serial or layer not in (None, "workqueue"), forked=True)
    # Numba takes these to ask for the number of threads; the second is shared with the parent, who may be killed in it
    parallel._backend_init_thread_lock, parallel._backend_init_process_lock = threading.RLock(), nullcontext()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
