"""How a kernel is compiled, cached, called and shared between threads; the only place that sets compiler options.

A kernel does one task, such as a block of rows:

    @kernel(writes=1)
    def scale(table, task, worker):
        # out[i, j] = factor A[i, j]; a task is a row
        A, factor, out = arguments(table)
        for j in range(A.shape[1]):
            out[task, j] = factor * A[task, j]

    scale(len(A), A, 2.0, out)

It is compiled as serial code, for the dtypes that it is called with. One parallel loop, compiled once, runs the tasks
of all kernels, in any order, on as many workers as there are threads, so tasks must not depend on each other. Arrays
that a kernel reads are declared read-only, so that plain, read-only and memory-mapped arrays share the code. A `step`
is a function that kernels call. There is no fast-math: the vectors of `simd` fix the order in which everything is
summed, so results are bitwise the same for any number of threads.
"""

import ctypes
import gc
import hashlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba.core import config, types
from numba.core.caching import FunctionCache, NullCache
from numba.core.compiler import Compiler, CompilerBase, DefaultPassBuilder, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.event import trigger_event
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

from fastpmf.kernels._llvm import VECTOR_BYTES, WIDEST, Width, varied
from fastpmf.kernels.launch import FILL, RUN, Table, fill, run, run_without_jit, type_of
from fastpmf.kernels.threads import ProcessState, process_state, started
from fastpmf.utils.progress import COMPILING
from fastpmf.utils.warnings import warn

_WIDTHS = [Width(n) for n in range(WIDEST + 1)]
_FLAGS = {"error_model": "numpy", "boundscheck": False}
# Kernels allocate no memory, so reference counting is off
_KERNEL_FLAGS = _FLAGS | {"_nrt": False, "no_rewrites": True}

# They are for closures, overloads that inline, literals, `with` and object mode
_IDLE_PASSES = {
    "inline_closure_likes", "inline_inlinables", "inline_overloads", "make_function_op_code_to_jit_function",
    "with_lifting", "find_literally", "literal_unroll", "LiteralPropagation", "dead_branch_prune",
    "rewrite_semantic_constants", "generic_rewrites", "nopython_rewrites",
}  # fmt: skip


# Numba's cache only watches the file of the kernel itself. Its name in the cache carries a digest of this whole
# folder, so that a change to `simd` is never answered with yesterday's machine code.
_DIGEST = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:12]


_cache_works = True  # set to False, with one warning, at the first failure


class Kernel:
    """A function that does one task of many, compiled as serial code for the dtypes that it is called with.

    Scratch space has a part for each worker: its first axis is at least `current_threads()` long, asked in the thread
    and the `threads` context of the call. The worker of a task is one of 0 to `current_threads()` - 1.

    Parameters
    ----------
    body : callable
        `body(table, task, worker)` does one task; its first line takes its arguments out of the table.
    writes : int
        So many of the arguments, the last ones, are arrays that it writes to; all other arrays are read-only.
    """

    def __init__(self, body: Callable, writes: int) -> None:
        self._body, self._writes = body, writes
        self._builds: dict[tuple, _Build] = {}
        self.__name__, self.__doc__, self.__module__ = body.__name__, body.__doc__, body.__module__

    def __call__(self, n_tasks: int, *args: Any) -> None:
        """Do the tasks 0 to n_tasks - 1, by as many workers as there are threads.

        Arrays must be C-ordered. An int is passed as int64, a float as float64; a `Width` is part of the type.
        """
        if config.DISABLE_JIT:
            run_without_jit(self._body, args, n_tasks, numba.get_num_threads())
            return
        state = started()
        key, arrays, ints, floats = _sorted_by_kind(args)
        build, run_all = self._builds.get(key) or self._build(key, args), _run(state)
        table = np.empty(build.table.n_words, np.int64)
        interfaces = (table.__array_struct__, *arrays)
        address = _fill()(id(interfaces), build.first_written)
        if not address:
            raise TypeError(f"{self.__name__} takes C-ordered arrays and writes to writeable ones, got another")
        if ints:
            table[build.table.ints] = ints
        if floats:
            table[build.table.floats].view(np.float64)[:] = floats
        if n_tasks == 1:
            build.function(address, 0, 0)
            return
        # "workqueue" can't be entered twice at once
        with state.lock if state.layer == "workqueue" else nullcontext():
            run_all(build.address, address, n_tasks, min(n_tasks, numba.get_num_threads()))

    def _build(self, key: tuple, args: tuple) -> "_Build":
        with process_state().lock:
            if key not in self._builds:
                self._builds[key] = _Build(self._body, args, len(args) - self._writes)
            return self._builds[key]


def _sorted_by_kind(args: tuple) -> tuple[tuple, list[Any], list[Any], list[Any]]:
    """What a kernel is compiled for, the arrays' interfaces, the integers and the floats."""
    key: list[Any] = []
    arrays, ints, floats = [], [], []
    for a in args:
        if isinstance(a, np.ndarray):
            key += a.dtype, a.ndim
            arrays.append(a.__array_struct__)
        elif isinstance(a, float | np.floating):
            key.append(float)
            floats.append(a)
        elif isinstance(a, Width):
            key.append(a)
        elif isinstance(a, int | np.integer | np.bool_):
            key.append(int)
            ints.append(a)
        else:
            raise TypeError(f"a kernel takes arrays and numbers, got a {type(a).__name__}")
    return tuple(key), arrays, ints, floats


class _Build:
    """A kernel compiled for arguments of some types, of which those from number `n_read` on are written to."""

    def __init__(self, body: Callable, args: tuple, n_read: int) -> None:
        self.table = table = Table([type_of(a, writes=n >= n_read) for n, a in enumerate(args)])
        self.address, self.cached = _compiled(body, types.void(table, types.intp, types.intp), _KERNEL_FLAGS)
        self.function = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 3)(self.address)
        self.first_written = 1 + sum(isinstance(a, np.ndarray) for a in args[:n_read])


def _compiled(function: Callable, kind: Any, flags: dict[str, Any]) -> tuple[int, bool]:
    """Address of a C function of these types, and whether it was in the cache."""
    with global_compiler_lock:
        function = renamed(function, kind, flags)
        cache = _Cache(function)
        compiled = cache.load(kind)
        cached = compiled is not None
        if compiled is None:
            with _interrupts_deferred(), trigger_event(COMPILING), _no_garbage_collection():
                compiled = _Library(function.__qualname__, flags).compile(function, kind)
                cache.save(kind, compiled)
        return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name), cached


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C waits for the end of a compilation: Numba does not recover from one while it fills its registries."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    caught: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *received: caught.append(received))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[-1])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A compilation makes millions of objects, going over which again and again takes a tenth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Pipeline(CompilerBase):
    """Numba's compiler without the passes that find nothing to do in a kernel, which take a tenth of its time."""

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        kept = [(pass_, text) for pass_, text in manager.passes if pass_.name() not in _IDLE_PASSES]
        manager = PassManager("kernel")
        for pass_, text in kept:
            manager.add_pass(pass_, text)
        manager.finalize()
        return [manager]


class _Library:
    """The code of one kernel and of its steps, which LLVM sees as a whole."""

    current: "_Library"  # the one that is being compiled, under Numba's lock

    def __init__(self, name: str, flags: dict[str, Any]) -> None:
        self._code = cpu_target.target_context.codegen().create_library(name)
        self._code.enable_object_caching()
        self._flags = flags
        self._steps: dict[tuple, Any] = {}

    def compile(self, function: Callable, kind: Any) -> Any:
        """Compile the kernel, with a C function that calls it."""
        _Library.current = self
        compiled = self._add(function, kind.args, no_cfunc_wrapper=False)
        for code in self._code._final_module.functions:
            if not code.is_declaration and code.name != compiled.fndesc.llvm_cfunc_wrapper_name:
                code.linkage = "internal"
        return compiled

    def step(self, function: Callable, arguments: tuple, *, inline: bool) -> Any:
        """A step, compiled if it is not there yet."""
        if (function, arguments) not in self._steps:
            self._steps[function, arguments] = self._add(function, arguments, forceinline=inline)
        return self._steps[function, arguments]

    def _add(self, function: Callable, arguments: tuple, **options: Any) -> Any:
        flags, context = Flags(), cpu_target.target_context
        options = {"nopython": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **self._flags, **options}
        cpu_target.options.parse_as_flags(flags, options)
        flags.no_compile = True  # to machine code, which is the library's to do
        pipeline = Compiler if self._flags.get("parallel") else _Pipeline
        return compile_extra(
            cpu_target.typing_context, context, function, arguments, None, flags, {}, self._code, pipeline
        )


class _Cache:
    """Numba's cache of a function's machine code, for which no file on the disk is an error."""

    def __init__(self, function: Callable) -> None:
        try:
            self._cache = FunctionCache(function)
        except RuntimeError as error:  # no writable place
            self._cache = NullCache()
            _warn_of_cache(error)

    def load(self, kind: Any) -> Any:
        """What is kept for these types, or None."""
        context = cpu_target.target_context
        try:
            # `load_overload` would first import what compiling needs, which takes longer than loading
            rtsys.initialize(context)
            return self._cache._load_overload(kind, context)
        except Exception:  # a damaged file can raise anything: discard it and compile
            self._discard()
            return None

    def _discard(self) -> None:
        try:
            self._cache.flush()
        except Exception as error:  # such as a full disk
            _warn_of_cache(error)

    def save(self, kind: Any, compiled: Any) -> None:
        try:
            self._cache.save_overload(kind, compiled)
        except Exception as error:  # such as a full disk
            _warn_of_cache(error)


def _warn_of_cache(error: Exception) -> None:
    global _cache_works
    if _cache_works:
        _cache_works = False
        warn(
            f"compiled kernels can't be kept on disk, so this process compiles its own: {error}; "
            "set NUMBA_CACHE_DIR to a writable directory, or empty the one it names",
            RuntimeWarning,
        )


def renamed(function: Callable, kind: Any, flags: dict[str, Any]) -> Callable:
    """A copy of the function, under a name that no other build of it has, by any process that shares the cache.

    Numba keeps all builds of a name in one index. Two processes that begin it at once give their first builds the
    same file, and the index that is left calls one the other: it would run on other vectors, dtypes, or another
    CPU's instructions. Nor does the index know the flags.
    """
    target = cpu_target.target_context.codegen().magic_tuple()
    digest = hashlib.sha256(repr((_DIGEST, numba.__version__, target, str(kind), flags)).encode()).hexdigest()[:16]
    copy = FunctionType(function.__code__, function.__globals__, function.__name__, closure=function.__closure__)
    copy.__module__, copy.__qualname__ = function.__module__, f"{function.__name__}-{digest}"
    return copy


_c_functions: dict[Any, Callable] = {}


def _fill() -> Callable:
    """`launch.fill`, compiled, which reads Python objects and so keeps the interpreter's lock."""
    return _c_functions.get("fill") or _c_function("fill", fill, FILL, _KERNEL_FLAGS, ctypes.PYFUNCTYPE)


def _run(state: ProcessState) -> Callable:
    """`launch.run`, compiled, which runs the tasks of every kernel."""
    parallel = not state.serial
    flags = _FLAGS | {"parallel": parallel}
    return _c_functions.get(parallel) or _c_function(parallel, run, RUN, flags, ctypes.CFUNCTYPE)


def _c_function(key: Any, function: Callable, kind: Any, flags: dict[str, Any], prototype: Callable) -> Callable:
    with process_state().lock:
        if key not in _c_functions:
            result = None if kind.return_type is types.void else ctypes.c_ssize_t
            declared = prototype(result, *[ctypes.c_ssize_t] * len(kind.args))
            _c_functions[key] = declared(_compiled(function, kind, flags)[0])
        return _c_functions[key]


def step(*, inline: bool) -> Callable[[Callable], Callable]:
    """Make a function a step of kernels, which is compiled for the types that it is called with.

    A step that is called from one place, or in a hot loop, is inlined; one that is called from several is cheaper to
    compile once. Numba's own functions that call each other would each be compiled to machine code, beside what calls
    them, with wrappers for C and Python. A step's code goes into the library of the kernel alone.
    """
    return lambda function: function if config.DISABLE_JIT else _step(function, inline)


def _step(function: Callable, inline: bool) -> Callable:
    def typed(typingctx, *arguments):
        # Numba asks once for each kind of arguments, whatever kernel is compiled
        type_ = _Library.current.step(function, arguments, inline=inline).signature

        def emit(context, builder, signature, values):
            callee = _Library.current.step(function, arguments, inline=inline).fndesc
            _, out = context.call_conv.call_function(
                builder, context.declare_function(builder.module, callee), signature.return_type, signature.args,
                values, () if inline else ("noinline",),
            )  # fmt: skip
            return out

        return type_, emit

    return varied(typed, function)


def kernel(*, writes: int) -> Callable[[Callable], Kernel]:
    """Make a `Kernel` of a function of (table, task, worker) that writes to its last `writes` arguments."""
    return lambda body: Kernel(body, writes)


def row_width(A: np.ndarray, widest: int = WIDEST) -> Width:
    """The vectors in a row of a padded factor, as a kernel is compiled for them; 0 if they are more than `widest`."""
    n = A.shape[1] * A.itemsize // VECTOR_BYTES
    return _WIDTHS[n if n <= widest else 0]
