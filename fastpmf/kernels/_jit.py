"""How a kernel is compiled, cached and called; the only place that sets compiler options.

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
that a kernel only reads are declared read-only, so that plain, read-only and memory-mapped arrays share the code. A
`step` is a function that kernels call. There is no fast-math: the vectors of `simd` fix the order in which everything
is summed, so results are bitwise the same for any number of threads.
"""

import ctypes
import gc
import hashlib
import signal
import struct
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

from fastpmf.kernels._llvm import VECTOR_BYTES, WIDEST, Width, as_intrinsic
from fastpmf.kernels.launch import Table, fill, run, run_without_jit, type_of
from fastpmf.kernels.threads import current_threads, process_state, start_threads
from fastpmf.utils.progress import COMPILING
from fastpmf.utils.warnings import warn

_INTEGERS = np.integer, np.bool_
_WIDTHS = [Width(n) for n in range(WIDEST + 1)]
_FLAGS = {"error_model": "numpy", "boundscheck": False}
# Kernels allocate no memory, so reference counting is off
_KERNEL_FLAGS = _FLAGS | {"_nrt": False, "no_rewrites": True}

# For closures, overloads that inline, literals, `with`, object mode, and `del` at the end of each variable's life
_UNUSED_PASSES = {
    "inline_closure_likes", "inline_inlinables", "inline_overloads", "make_function_op_code_to_jit_function",
    "with_lifting", "find_literally", "literal_unroll", "LiteralPropagation", "dead_branch_prune",
    "rewrite_semantic_constants", "generic_rewrites", "nopython_rewrites", "ir_legalization", "ir_processing",
}  # fmt: skip


# Numba's cache checks only the file of the kernel itself for changes. Names in the cache include a digest of this whole
# folder, so that no machine code is loaded that was compiled before a change of `simd`.
_DIGEST = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:12]


def kernel(*, writes: int) -> "Callable[[Callable], Kernel]":
    """Make a `Kernel` of a function of (table, task, worker) that writes to its last `writes` arguments."""
    return lambda body: Kernel(body, writes)


class Kernel:
    """A function that does one task of many, compiled as serial code for the dtypes that it is called with.

    Scratch arrays have one part for each worker: their first axis is at least `current_threads()` long, as of the
    thread and the `threads` context of the call. Workers are numbered from 0 to `current_threads()` - 1.

    Parameters
    ----------
    body : callable
        `body(table, task, worker)` does one task; its first line takes its arguments from the table.
    n_written : int
        The last so many arguments are arrays that it writes to; all other arrays are read-only.
    """

    def __init__(self, body: Callable, n_written: int) -> None:
        self._body, self._n_written = body, n_written
        self._overloads: dict[tuple, _Overload] = {}  # by the kinds of their arguments
        self.__name__, self.__doc__, self.__module__ = body.__name__, body.__doc__, body.__module__

    def __call__(self, n_tasks: int, *args: Any) -> None:
        """Do the tasks 0 to n_tasks - 1, by as many workers as there are threads.

        Arrays must be C-ordered. An int is passed as int64, a float as float64; a `Width` is part of the type.
        """
        if config.DISABLE_JIT:
            run_without_jit(self._body, args, n_tasks, numba.get_num_threads())
            return
        state = start_threads()
        key, interfaces, ints, floats = _sort_arguments(args)
        overload = self._overloads.get(key) or self._compile(key, args)
        run_tasks = _launcher("run serial" if state.serial else "run parallel")
        table: Any = np.empty(overload.table.n_words, np.int64)
        with_table = (table.__array_struct__, *interfaces)
        address = _launcher("fill")(id(with_table), overload.first_written)
        if not address:
            raise TypeError(
                f"{self.__name__}: arrays must be C-ordered, and writeable where the kernel writes to them, got another"
            )
        overload.numbers.pack_into(table, overload.first_number, *ints, *floats)
        if n_tasks == 1:
            overload.function(address, 0, 0)
            return
        # "workqueue" can't be entered twice at once
        with state.lock if state.layer == "workqueue" else nullcontext():
            run_tasks(overload.address, address, n_tasks, min(n_tasks, current_threads()))

    def _compile(self, key: tuple, args: tuple) -> "_Overload":
        with process_state().lock:
            if key not in self._overloads:
                self._overloads[key] = _Overload(self._body, args, len(args) - self._n_written)
            return self._overloads[key]


def _sort_arguments(args: tuple) -> tuple[tuple, list[Any], list[Any], list[Any]]:
    """The kinds of arguments, for each of which a kernel is compiled; the arrays' interfaces; the ints; the floats."""
    key: list[Any] = []
    interfaces, ints, floats = [], [], []
    for a in args:  # the usual types first: this takes longer than some kernels
        if isinstance(a, np.ndarray):
            key += a.dtype, a.ndim
            interfaces.append(a.__array_struct__)
        elif isinstance(a, int):
            key.append(int)
            ints.append(a)
        elif isinstance(a, float):
            key.append(float)
            floats.append(a)
        elif isinstance(a, Width):
            key.append(a)
        elif isinstance(a, _INTEGERS):
            key.append(int)
            ints.append(int(a))
        elif isinstance(a, np.floating):
            key.append(float)
            floats.append(float(a))
        else:
            raise TypeError(f"the arguments of a kernel must be arrays or numbers, got {type(a).__name__}")
    return tuple(key), interfaces, ints, floats


class _Overload:
    """A kernel compiled for arguments of some types, of which those from number `n_read` on are written to."""

    def __init__(self, body: Callable, args: tuple, n_read: int) -> None:
        self.table = table = Table([type_of(a, writes=n >= n_read) for n, a in enumerate(args)])
        signature = types.void(table, types.intp, types.intp)
        self.address, self.from_cache = _load_or_compile(body, signature, _KERNEL_FLAGS)
        self.function = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 3)(self.address)
        self.first_written = 1 + sum(isinstance(a, np.ndarray) for a in args[:n_read])
        # The numbers, as they are packed into the table from this byte on
        self.numbers, self.first_number = struct.Struct(f"={table.n_ints}q{table.n_floats}d"), 8 * table.first_int


# The functions of `launch`. `fill` reads Python objects, so it holds the interpreter's lock, as PYFUNCTYPE says
_RUN = types.void(types.intp, types.intp, types.intp, types.intp)
_LAUNCH_FUNCTIONS: dict[str, tuple[Callable, Any, dict[str, Any], Callable]] = {
    "fill": (fill, types.intp(types.intp, types.intp), _KERNEL_FLAGS, ctypes.PYFUNCTYPE),
    "run serial": (run, _RUN, _FLAGS | {"parallel": False}, ctypes.CFUNCTYPE),
    "run parallel": (run, _RUN, _FLAGS | {"parallel": True}, ctypes.CFUNCTYPE),
}
_launchers: dict[str, Callable] = {}  # those that are compiled


def _launcher(name: str) -> Callable:
    """One of `_LAUNCH_FUNCTIONS`, compiled at its first use."""
    if name in _launchers:
        return _launchers[name]
    with process_state().lock:
        if name not in _launchers:
            function, signature, flags, prototype = _LAUNCH_FUNCTIONS[name]
            result = None if signature.return_type is types.void else ctypes.c_ssize_t
            declared = prototype(result, *[ctypes.c_ssize_t] * len(signature.args))
            _launchers[name] = declared(_load_or_compile(function, signature, flags)[0])
        return _launchers[name]


def row_width(A: np.ndarray, widest: int = WIDEST) -> Width:
    """The vectors in a row of a padded factor, as a kernel is compiled for them; 0 if they are more than `widest`."""
    n = A.shape[1] * A.itemsize // VECTOR_BYTES
    return _WIDTHS[n if n <= widest else 0]


# ── compiling ───────────────────────────────────────────────────────────────────────────────────────────────────


def _load_or_compile(function: Callable, signature: Any, flags: dict[str, Any]) -> tuple[int, bool]:
    """Address of a C function with this signature, and whether it was in the cache."""
    with global_compiler_lock:
        function = with_unique_name(function, signature, flags)
        cache = _Cache(function)
        compiled = cache.load(signature)
        from_cache = compiled is not None
        if compiled is None:
            with _interrupts_deferred(), trigger_event(COMPILING), _no_garbage_collection():
                compiled = _Library(function.__qualname__, flags).compile(function, signature)
                cache.save(signature, compiled)
        return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name), from_cache


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Delay Ctrl-C to the end of a compilation: Numba does not recover from one while it fills its registries."""
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
    """Compilation makes millions of objects; collecting garbage among them takes a tenth of its time."""
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
        kept = [(pass_, text) for pass_, text in manager.passes if pass_.name() not in _UNUSED_PASSES]
        manager = PassManager("kernel")
        for pass_, text in kept:
            manager.add_pass(pass_, text)
        manager.finalize()
        return [manager]


class _Library:
    """The code of one kernel and of its steps, which LLVM optimises as a whole."""

    current: "_Library"  # the one that is being compiled, under Numba's lock

    def __init__(self, name: str, flags: dict[str, Any]) -> None:
        self._code = cpu_target.target_context.codegen().create_library(name)
        self._code.enable_object_caching()
        # Numba would optimise each function on its own as well, which is of no use to code that is inlined later
        self._code._optimize_functions = self._set_data_layout
        self._flags = flags
        self._steps: dict[tuple, Any] = {}

    def _set_data_layout(self, module: Any) -> None:
        module.data_layout = self._code.codegen._data_layout

    def compile(self, function: Callable, signature: Any) -> Any:
        """Compile the kernel, with a C function that calls it."""
        _Library.current = self
        compiled = self._add(function, signature.args, no_cfunc_wrapper=False)
        for code in self._code._final_module.functions:
            if not code.is_declaration and code.name != compiled.fndesc.llvm_cfunc_wrapper_name:
                code.linkage = "internal"
        return compiled

    def step(self, function: Callable, arguments: tuple, *, inline: bool) -> Any:
        """A step for arguments of these types, compiled at its first call."""
        if (function, arguments) not in self._steps:
            self._steps[function, arguments] = self._add(function, arguments, forceinline=inline)
        return self._steps[function, arguments]

    def _add(self, function: Callable, arguments: tuple, **options: Any) -> Any:
        flags, context = Flags(), cpu_target.target_context
        options = {"nopython": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **self._flags, **options}
        cpu_target.options.parse_as_flags(flags, options)
        flags.no_compile = True  # LLVM compiles the whole library later
        pipeline = Compiler if self._flags.get("parallel") else _Pipeline
        return compile_extra(
            cpu_target.typing_context, context, function, arguments, None, flags, {}, self._code, pipeline
        )


def step(*, inline: bool) -> Callable[[Callable], Callable]:
    """Make a function that kernels call, compiled for the types that it is called with.

    Inline a step that is called from one place or in a hot loop; one that is called from several places is cheaper to
    compile once. A step is compiled into the library of its kernel alone, whereas each of several `numba.njit`
    functions that call each other is compiled to machine code of its own, with wrappers for C and Python.
    """
    return lambda function: function if config.DISABLE_JIT else _step(function, inline)


def _step(function: Callable, inline: bool) -> Callable:
    def typed(*arguments):
        # Numba calls this once for each kind of arguments, not once for each kernel
        type_ = _Library.current.step(function, arguments, inline=inline).signature

        def emit(context, builder, signature, values):
            callee = _Library.current.step(function, arguments, inline=inline).fndesc
            _, out = context.call_conv.call_function(
                builder, context.declare_function(builder.module, callee), signature.return_type, signature.args,
                values, () if inline else ("noinline",),
            )  # fmt: skip
            return out

        return type_, emit

    return as_intrinsic(typed, function)


# ── caching ─────────────────────────────────────────────────────────────────────────────────────────────────────


def with_unique_name(function: Callable, signature: Any, flags: dict[str, Any]) -> Callable:
    """A copy of the function whose name in the cache differs for each signature, CPU, Numba version and set of flags.

    Numba keeps one index for all signatures of a name. If two processes begin it at once, both give their first machine
    code the same file, and the index that remains names the wrong one: code for other vectors, dtypes or another CPU
    would run. The index does not know the flags either.
    """
    target = cpu_target.target_context.codegen().magic_tuple()
    digest = hashlib.sha256(repr((_DIGEST, numba.__version__, target, str(signature), flags)).encode()).hexdigest()[:16]
    copy = FunctionType(function.__code__, function.__globals__, function.__name__, closure=function.__closure__)
    copy.__module__, copy.__qualname__ = function.__module__, f"{function.__name__}-{digest}"
    return copy


_cache_works = True  # set to False, with one warning, at the first failure


class _Cache:
    """Numba's cache of a function's machine code, for which no file on the disk is an error."""

    def __init__(self, function: Callable) -> None:
        try:
            self._cache = FunctionCache(function)
        except RuntimeError as error:  # no writable place
            self._cache = NullCache()
            _warn_of_cache(error)

    def load(self, signature: Any) -> Any:
        """The code for this signature, or None."""
        context = cpu_target.target_context
        try:
            # `load_overload` would first import what compiling needs, which takes longer than loading
            rtsys.initialize(context)
            return self._cache._load_overload(signature, context)
        except Exception:  # a damaged file can raise anything: discard it and compile
            self._write("flush")
            return None

    def save(self, signature: Any, compiled: Any) -> None:
        self._write("save_overload", signature, compiled)

    def _write(self, method: str, *args: Any) -> None:
        try:
            getattr(self._cache, method)(*args)
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
