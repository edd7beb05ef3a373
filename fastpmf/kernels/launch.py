"""How a kernel is started: its arguments as a table of numbers, and the one `prange` loop that runs all kernels.

A compiled kernel is a C function of (table, task, worker). The table is an array of 64-bit words: a task counter, then
for each array its address and shape, then the integers, then the floats; a `Width` is part of the kernel's type and
takes no word. So the parallel loop has one signature and is compiled once, and a kernel is compiled as serial code,
which takes Numba a third of the time that a parallel function takes.

The table is filled by compiled code, from the C structs of NumPy's array interface, since asking an array for its
address in Python takes a microsecond.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from fastpmf.kernels._llvm import I32, I64, View, Width, make_view, operation, represent

_COUNTER = 1  # words before the arguments


class Table(types.Type):
    """The table of a kernel's arguments, with their types."""

    def __init__(self, arguments: Sequence[types.Type]) -> None:
        self.arguments = tuple(arguments)
        self.places, end = [0] * len(self.arguments), _COUNTER  # where in the table each argument begins
        ends = []
        for kind in (View, types.Integer, types.Float):
            for n, type_ in enumerate(self.arguments):
                if isinstance(type_, kind):
                    self.places[n], end = end, end + (1 + type_.ndim if isinstance(type_, View) else 1)
            ends.append(end)
        self.n_words, self.first_int = end, ends[0]
        self.n_ints, self.n_floats = ends[1] - ends[0], ends[2] - ends[1]
        super().__init__(name=f"Table{self.arguments}")


represent(Table, lambda table: I64.as_pointer())


def type_of(value: Any, *, writes: bool) -> types.Type:
    """Numba's type of an argument; arrays that a kernel does not write to are read-only."""
    if isinstance(value, np.ndarray):
        return View(from_dtype(value.dtype), value.ndim, mutable=writes)
    if isinstance(value, Width):
        return value
    return types.float64 if isinstance(value, float | np.floating) else types.intp


@operation(lambda table: table)
def arguments(table):
    """arguments(table) -> tuple, the kernel's arguments."""

    def emit(context, builder, address):
        def word(place):
            return builder.load(builder.gep(address, [I64(place)]))

        values = []
        for place, type_ in zip(table.places, table.arguments, strict=True):
            if isinstance(type_, View):
                data = builder.inttoptr(word(place), context.get_data_type(type_.dtype).as_pointer())
                shape = [word(place + 1 + axis) for axis in range(type_.ndim)]
                values.append(make_view(context, builder, type_, data, shape))
            elif isinstance(type_, Width):
                values.append(None)
            else:
                values.append(builder.bitcast(word(place), context.get_value_type(type_)))
        return values

    return types.Tuple(table.arguments)(table), emit


# ── from Python ─────────────────────────────────────────────────────────────────────────────────────────────────

# NumPy's array interface in C: two, nd, kind, itemsize, flags, shape, strides, data
_INTERFACE = ir.LiteralStructType([I32, I32, ir.IntType(8), I32, I32, I64.as_pointer(), I64.as_pointer(), I64])
_C_CONTIGUOUS, _WRITEABLE = 0x1, 0x400  # flags


@intrinsic
def _fill(typingctx, interfaces, first_written):
    def emit(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()

        def c_function(name, result, *parameters):
            return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)

        item_of = c_function("PyTuple_GetItem", pointer, pointer, I64)
        pointer_of = c_function("PyCapsule_GetPointer", pointer, pointer, pointer)
        capsules = builder.inttoptr(args[0], pointer)

        def interface_of(n):
            """The number of axes, flags, shape and data of an array."""
            capsule = builder.call(item_of, [capsules, n])
            interface = builder.call(pointer_of, [capsule, ir.Constant(pointer, None)])
            interface = builder.bitcast(interface, _INTERFACE.as_pointer())
            return [builder.load(builder.gep(interface, [I32(0), I32(field)])) for field in (1, 4, 5, 7)]

        _, _, _, address = interface_of(I64(0))
        table = builder.inttoptr(address, I64.as_pointer())
        builder.store(I64(0), table)
        place = cgutils.alloca_once_value(builder, I64(_COUNTER))
        result = cgutils.alloca_once_value(builder, address)
        n = builder.call(c_function("PyTuple_Size", I64, pointer), [capsules])

        def put(word):
            at = builder.load(place)
            builder.store(word, builder.gep(table, [at]))
            builder.store(builder.add(at, I64(1)), place)

        with cgutils.for_range_slice(builder, I64(1), n, I64(1)) as (index, _):
            n_axes, flags, shape, data = interface_of(index)
            put(data)
            with cgutils.for_range(builder, builder.zext(n_axes, I64)) as axes:
                put(builder.load(builder.gep(shape, [axes.index])))
            is_written = builder.icmp_signed(">=", index, args[1])
            required = builder.select(is_written, I32(_C_CONTIGUOUS | _WRITEABLE), I32(_C_CONTIGUOUS))
            with builder.if_then(builder.icmp_signed("!=", builder.and_(flags, required), required)):
                builder.store(I64(0), result)
        return builder.load(result)

    return types.intp(types.intp, types.intp), emit


def fill(interfaces, first_written):
    """Write arrays' addresses and shapes into a table.

    interfaces is the address of a tuple, the `__array_struct__` of the table and of each array. Those from number
    `first_written` on are written to. Returns the table's address, or 0 if an array is not C-ordered, or is to be
    written to and is not writeable.
    """
    return _fill(interfaces, first_written)


# ── the loop ────────────────────────────────────────────────────────────────────────────────────────────────────


@intrinsic
def _next_task(typingctx, table):
    def emit(context, builder, signature, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], I64.as_pointer()), I64(1), "monotonic")

    return types.intp(types.intp), emit


@intrinsic
def _call(typingctx, function, table, task, worker):
    def emit(context, builder, signature, args):
        # `void` is a pointer to Numba
        kind = ir.FunctionType(ir.IntType(8).as_pointer(), [I64, I64, I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), emit


def run(function, table, n_tasks, n_workers):
    """Run a kernel on all tasks, by workers that each take the next task when they have finished one."""
    for worker in prange(n_workers):
        task = _next_task(table)
        while task < n_tasks:
            _call(function, table, task, worker)
            task = _next_task(table)


def run_without_jit(kernel: Callable, args: Sequence[Any], n_tasks: int, n_workers: int) -> None:
    """As `run`, if nothing is compiled."""
    for task in range(n_tasks):
        kernel(tuple(args), task, task % n_workers)
