"""How a kernel is started: its arguments as a table of numbers, and the one `prange` loop that runs them all.

A compiled kernel is a C function of (table, task, worker). The table holds a task counter, then each argument: a
scalar's bits, or an array's address and shape. So the parallel loop has one signature and is compiled once, and a
kernel's body is compiled as serial code, which takes a third of the time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange
from numba.core import types
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array
from numba.np.numpy_support import from_dtype

from fastpmf.kernels._llvm import I64, Width, operation
from fastpmf.kernels.simd import c_array, take

_COUNTER = 1  # words before the arguments


class Table(types.Type):
    """The table of a kernel's arguments, whose types it knows."""

    def __init__(self, arguments: Sequence[types.Type]) -> None:
        self.arguments = tuple(arguments)
        super().__init__(name=f"Table{self.arguments}")


@register_model(Table)
class _TableModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Table) -> None:
        super().__init__(dmm, fe_type, I64.as_pointer())


def words_of(args: Sequence[Any]) -> np.ndarray:
    """The table of these arguments, its task counter at 0; the arrays must outlive it."""
    words, floats = [0] * _COUNTER, []
    for arg in args:
        if isinstance(arg, np.ndarray):
            if not arg.flags.c_contiguous:
                raise TypeError(f"a kernel reads C-ordered arrays, got one of strides {arg.strides}")
            words.append(arg.__array_interface__["data"][0])
            words += arg.shape
        elif isinstance(arg, float):
            floats.append((len(words), arg))
            words.append(0)
        elif not isinstance(arg, Width):
            words.append(arg)
    table = np.array(words, np.int64)
    for place, number in floats:
        table.view(np.float64)[place] = number
    return table


def type_of(value: Any, *, writes: bool) -> types.Type:
    """Numba's type of an argument; arrays that a kernel does not write to are read-only."""
    if isinstance(value, np.ndarray):
        return types.Array(from_dtype(value.dtype), value.ndim, "C", readonly=not writes)
    if isinstance(value, Width):
        return value
    return types.float64 if isinstance(value, float) else types.intp


@operation(lambda table: table)
def arguments(typingctx, table):
    """arguments(table) -> tuple, the kernel's arguments."""

    def emit(context, builder, signature, args):
        place, values = _COUNTER, []

        def word():
            nonlocal place
            place += 1
            return builder.load(builder.gep(args[0], [I64(place - 1)]))

        for type_ in table.arguments:
            if isinstance(type_, types.Array):
                data = builder.inttoptr(word(), context.get_data_type(type_.dtype).as_pointer())
                values.append(c_array(context, builder, type_, data, [word() for _ in range(type_.ndim)]))
            elif isinstance(type_, Width):
                values.append(context.get_dummy_value())
            else:
                values.append(builder.bitcast(word(), context.get_value_type(type_)))
        return context.make_tuple(builder, signature.return_type, values)

    return types.Tuple(table.arguments)(table), emit


@intrinsic
def call(typingctx, function, table, task, worker):
    """call(function, table, task, worker): run a compiled kernel, given by its address, on one task."""

    def emit(context, builder, signature, args):
        address, table_, task_, worker_ = args
        pointer = make_array(signature.args[1])(context, builder, table_).data
        kind = ir.FunctionType(ir.IntType(8).as_pointer(), [pointer.type, I64, I64])
        builder.call(builder.inttoptr(address, kind.as_pointer()), [pointer, task_, worker_])
        return context.get_dummy_value()

    return types.void(types.intp, table, types.intp, types.intp), emit


def run(function, table, n_tasks, n_workers):
    """Run a kernel on all tasks, by workers that each take the next one when they are done with the last."""
    for worker in prange(n_workers):
        task = take(table)
        while task < n_tasks:
            call(function, table, task, worker)
            task = take(table)


RUN_SIGNATURE = types.void(types.intp, types.Array(types.int64, 1, "C"), types.intp, types.intp)


def run_without_jit(kernel: Callable, args: Sequence[Any], n_tasks: int, n_workers: int) -> None:
    """As `run`, where nothing is compiled."""
    for task in range(n_tasks):
        kernel(tuple(args), task, task % n_workers)
