"""The only place that spells a compile flag: how a kernel is compiled, cached, launched and shared between threads.

A kernel is written as a function of `n_vectors` that returns the loop; each (n_vectors, dtypes) that is really called
compiles once, under a signature that declares inputs read-only, so that plain, read-only and memory-mapped arrays
share it. No fast-math: the vectors of `simd` already say in which order everything is summed, so a result is bitwise
the same in the parallel and the serial build, for any number of threads.
"""

import hashlib
import inspect
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numba
import numpy as np
from joblib import cpu_count
from llvmlite.binding.ffi import lib as llvm
from numba.core import config, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.np.numpy_support import from_dtype
from numba.np.ufunc import parallel
from threadpoolctl import threadpool_info

from fastpmf._warnings import warn

_FLAGS = {"error_model": "numpy", "boundscheck": False, "nogil": True}

# Numba's cache only watches the file of the kernel itself. Its name in the cache carries a digest of this whole
# folder, so that a change to `simd` is never answered with yesterday's machine code.
_DIGEST = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:12]


# Every call of LLVM takes it, some outside of Numba's own lock
_llvm_lock: AbstractContextManager[Any] = getattr(llvm, "_lock", nullcontext())


class _State:
    """What this process knows about its threads; made anew in a forked child."""

    def __init__(self, *, serial: bool = False, forked: bool = False) -> None:
        self.lock = threading.RLock()
        self.serial = serial  # the parent's thread pool did not survive the fork
        self.forked = forked
        self.layer: str | None = None  # known once the threads have been started


_state = _State()
_cache_works = True  # until it is found not to, which is said once


def _before_fork() -> None:
    # Of the threads only this one lives on in the child. What another holds would be held there for ever.
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
    _state = _State(serial=_state.serial or layer not in (None, "workqueue"), forked=True)
    # Numba takes these to ask for the number of threads; the second is shared with the parent, who may be killed in it
    parallel._backend_init_thread_lock, parallel._backend_init_process_lock = threading.RLock(), nullcontext()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


class Kernel:
    """One loop over rows, compiled for the dtypes and the number of vectors that it is called with.

    Parameters
    ----------
    build : callable
        `build(n_vectors)` returns the loop. The loop's last argument is `n_workers`, which the launch supplies.
    writes : sequence of str
        The arguments that the loop writes to; all other arrays are declared read-only.
    """

    def __init__(self, build: Callable[[int], Callable], writes: tuple[str, ...]) -> None:
        self._build, self._writes = build, writes
        self._parameters = list(inspect.signature(build(1)).parameters)
        self._compiled: dict[tuple, Callable] = {}
        self.__name__, self.__doc__, self.__module__ = build.__name__, build.__doc__, build.__module__

    def __call__(self, *args: Any, n_vectors: int = 1) -> None:
        state = _started()
        loop = self._loop(args, n_vectors, parallel=not state.serial)
        # "workqueue" can't be entered twice at once
        with state.lock if state.layer == "workqueue" else nullcontext():
            loop(*args, numba.get_num_threads())

    def _loop(self, args: tuple, n_vectors: int, *, parallel: bool) -> Callable:
        key = (n_vectors, parallel, *(a.dtype if isinstance(a, np.ndarray) else None for a in args))
        loop = self._compiled.get(key)
        if loop is None:
            with _state.lock:
                loop = self._compiled.get(key)
                if loop is None:
                    loop = self._compiled[key] = self._compile(args, n_vectors, parallel)
        return loop

    def _compile(self, args: tuple, n_vectors: int, parallel: bool) -> Callable:
        global _cache_works
        signature = types.void(*map(self._type, self._parameters, (*args, 1)))
        function = self._function(signature, n_vectors, parallel)
        loop = numba.njit(parallel=parallel, **_FLAGS)(function)
        if config.DISABLE_JIT:
            return loop
        try:
            loop.enable_caching()
            self._compile_cached(loop, signature)
        except Exception as error:  # no writable place, a full disk: there is a way without, unless it fails too
            if not loop.overloads:
                loop = numba.njit(signature, parallel=parallel, **_FLAGS)(function)
            if _cache_works:
                _cache_works = False
                warn(
                    f"compiled kernels can't be kept on disk, so this process compiles its own: {error}; "
                    "set NUMBA_CACHE_DIR to a writable directory, or empty the one it names",
                    RuntimeWarning,
                )
        loop.disable_compile()
        return loop

    @staticmethod
    def _compile_cached(loop: Any, signature: Any) -> None:
        try:
            loop.compile(signature)
        except Exception:
            if loop.overloads:  # it is compiled, and could not be saved
                raise
            loop._cache.flush()  # a torn file, which can raise anything: begin anew
            loop.compile(signature)

    def _function(self, signature: Any, n_vectors: int, parallel: bool) -> Callable:
        """The loop, under a name that no other build of it has, by any process that shares the cache.

        Numba keeps all builds of a name in one index. Two processes that begin it at once give their first builds the
        same file, and the index that is left calls one the other: it would run on other vectors, dtypes, or another
        CPU's instructions. Nor does the index know the flags.
        """
        function = self._build(n_vectors)
        build = (_DIGEST, numba.__version__, cpu_target.target_context.codegen().magic_tuple(), str(signature))
        digest = hashlib.sha256(repr(build).encode()).hexdigest()[:16]
        function.__qualname__ = f"{self.__name__}-{'parallel' if parallel else 'serial'}-{n_vectors}-{digest}"
        return function

    def _type(self, name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return types.intp
        return types.Array(from_dtype(value.dtype), value.ndim, "C", readonly=name not in self._writes)


def _started() -> _State:
    """The state of this process, its threading layer running."""
    state = _state
    if state.layer is None and not (state.serial or config.DISABLE_JIT):
        with state.lock:
            if state.layer is None and not state.serial:
                _start(state)
    return state


def _start(state: _State) -> None:
    used_by_parent = state.forked and _gnu_openmp_is_loaded()
    with _patient_openmp(), _start_method_left_open():
        numba.get_num_threads()  # this starts it
    layer = numba.threading_layer()
    if used_by_parent and layer == "omp":
        state.serial = True
    else:
        state.layer = layer


def _gnu_openmp_is_loaded() -> bool:
    """Whether the library that Numba's layer "omp" shares is here already, as of the parent, who may have used it."""
    return any(Path(library["filepath"]).name.startswith("libgomp.so") for library in threadpool_info())


@contextmanager
def _start_method_left_open() -> Iterator[None]:
    """Numba asks how processes start when its threads do, after which `multiprocessing.set_start_method` refuses."""
    chosen = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        if chosen is None:
            multiprocessing.set_start_method(None, force=True)


@contextmanager
def _patient_openmp() -> Iterator[None]:
    """Have GNU OpenMP, which starts inside, wait briefly and then sleep, unless the user has said how it should wait.

    By default an idle thread spins for milliseconds between two of our passes, which are as short. Where another
    process wants the core, it has then used up its time slice when the next pass begins, and everybody waits for it:
    fits were measured up to fifty times slower beside one busy process. With these few microseconds they are about
    twice as slow, and no slower where the machine is quiet.
    """
    ours = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    if ours:
        os.environ["GOMP_SPINCOUNT"] = "5000"  # it is read once, when the library is loaded
    try:
        yield
    finally:
        if ours:
            del os.environ["GOMP_SPINCOUNT"]


def kernel(*writes: str) -> Callable[[Callable[[int], Callable]], Kernel]:
    """Make a `Kernel` of a function of `n_vectors`; `writes` names the arguments that it writes to."""
    return lambda build: Kernel(build, writes)


def available_threads() -> int:
    """Threads that this process may really use: its affinity and its cgroup's quota, within Numba's own limit."""
    return max(1, min(cpu_count(), config.NUMBA_NUM_THREADS))


@contextmanager
def threads(n_threads: int | None = None) -> Iterator[int]:
    """Run the kernels called inside with `n_threads` threads; None or -1 means `available_threads()`.

    More threads than Numba started with (NUMBA_NUM_THREADS) can't be had, and are not an error: the result is the same.
    """
    if n_threads is None or n_threads == -1:
        wanted = available_threads()
    elif isinstance(n_threads, (int, np.integer)) and not isinstance(n_threads, bool) and n_threads >= 1:
        wanted = min(int(n_threads), config.NUMBA_NUM_THREADS)
    else:
        raise ValueError(f"n_threads must be a positive integer, -1 or None, got {n_threads!r}")
    _started()
    before = numba.get_num_threads()
    numba.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        numba.set_num_threads(before)


def current_threads() -> int:
    """Threads that a kernel called now would use."""
    return numba.get_num_threads()


def threading_layer() -> str | None:
    """Name of the threading layer in use: "tbb", "omp" or "workqueue"; None in a serial child or without the JIT."""
    return _started().layer
