"""Kernels relative to the bounds of this machine: measured memory bandwidth and rates of arithmetic."""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np

from fastpmf import MemoryCounts, as_counts
from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums, empty_factor, padded
from fastpmf.counts.csr import ColumnSums
from fastpmf.datasets import make_poisson_counts
from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel, row_width
from fastpmf.kernels.formula import divide, fma, formula
from fastpmf.kernels.launch import arguments as kernel_arguments
from fastpmf.kernels.threads import available_threads, threads
from fastpmf.model.updates import multiplicative

sys.path.insert(0, str(Path(__file__).parents[1] / "asv_benchmarks"))
from benchmarks.bound import gather

DESCRIPTION = """\
Time each kernel on counts, with one thread and with all, and compare with the minimum time by four measured bounds:

  gather   the rows of the other factor that the kernel reads, gathered in the same blocks and order, with one
           multiply-add for each 64-byte vector
  stream   a = b + 0.5 c over arrays of the size of all others that the kernel reads or writes
  FMA      multiply-adds on vectors in registers
  divide   divisions on vectors in registers

The bound that applies is the one that takes longest: gathers and streams together, which share the memory; or flops; or
the divisions of coordinate descent. Logarithms and coordinate descent's transposition of blocks are not counted. A
fraction of 1 means that a kernel is as fast as its bound. Bounds and kernels are interleaved, and seconds are minima.

Coordinate descent does two sweeps from random factors; its flops are counted with all components active in the first
sweep, and in the second with those that are not zero afterwards. Fractions can be compared between machines;
nanoseconds can't.
"""
DTYPES = ("float32", "float64")
SHOWN = "name side threads k dtype seconds gflop_per_s gb_per_s ns_per_nonzero bound fraction"


class Row(NamedTuple):
    """A row of the table: a bound of the machine, or a kernel. `fraction` is the bound's seconds over the kernel's."""

    kind: str
    name: str
    counts: str
    side: str
    threads: int
    dtype: str
    k: int
    seconds: float
    gflop_per_s: float
    gb_per_s: float
    ns_per_nonzero: float
    bound: str
    fraction: float


@formula()
def multiply_add(a, b, c):
    """a * b + c."""
    return fma(a, b, c)


@kernel(writes=1)
def triad(table, part, worker):
    """a = b + c * 0.5: two streams read and one written; a task is a part of the rows.

    in    b, c   (n_rows, K)    float32 or float64, K padded to whole vectors
          bounds (n_parts + 1,) int64, where parts begin
    out   a      (n_rows, K)    overwritten
    cost  2 n_rows K flops, three streams over n_rows K numbers
    """
    b, c, bounds, a = kernel_arguments(table)
    for i in range(bounds[part], bounds[part + 1]):
        for v in range(simd.width(a)):
            simd.store(a, i, v, multiply_add(simd.load(c, i, v), 0.5, simd.load(b, i, v)))


@kernel(writes=1)
def fma_chains(table, part, worker):
    """Fused multiply-adds on vectors in registers; a task is a row of out.

    in    factor, term float       multiplied by, and added
          n            int         rounds
          n_vectors    Width       of the rows of out: independent chains
    out   out   (n_parts, K)       float32 or float64, K padded to whole vectors; overwritten
    cost  2 n n_parts K flops
    """
    factor, term, n, n_vectors, out = kernel_arguments(table)
    acc = simd.zero(out, n_vectors)
    for _ in range(n):
        acc = multiply_add(acc, factor, term)
    simd.store(out, part, n_vectors, acc)


@kernel(writes=1)
def division_chains(table, part, worker):
    """As `fma_chains`, with divisions: x starts as `first`, becomes dividend / x, and then `first` again.

    cost  n n_parts K divisions
    """
    first, dividend, n, n_vectors, out = kernel_arguments(table)
    acc = simd.fill_like(simd.zero(out, n_vectors), first)
    for _ in range(n):
        acc = divide(dividend, acc)
    simd.store(out, part, n_vectors, acc)


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION)
    parser.shared(data=[], components=[32], dtype=["float32"], threads=None, repeats=7, clock="wall")
    parser.option("--nnz", "nonzeros of the counts that are drawn without --data", 10_000_000)
    parser.option("--mib", "MiB of the arrays of the stream bound", 256)
    arguments = parser.parse_args()
    if arguments.data:
        matrices = common.read_matrices(parser, arguments.data)
    else:  # 200 nonzeros in a row
        X = make_poisson_counts(max(arguments.nnz // 200, 1), 20_000, nnz=arguments.nnz, random_state=0).X
        matrices = {"drawn": X}
    load = common.warning_of_load()
    ladder = sorted({1, min(arguments.threads or available_threads(), available_threads())})
    total = len(ladder) * (1 + len(matrices) * len(arguments.components) * len(arguments.dtype))
    batches = measure(matrices, ladder, arguments)
    rows = common.collect(batches, total, arguments, unit="part", counts=matrices, show=SHOWN)
    return common.conclude(arguments, partial(plot, rows), [*verdict(rows), *load])


def measure(matrices: dict[str, Any], ladder: list[int], arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """The machine, then the kernels on all counts, for each number of threads."""
    for t in ladder:
        with threads(t):
            machine = measure_machine(t, arguments)
            yield machine
            rates = {row.name: 1e9 * row.gflop_per_s for row in machine if row.gflop_per_s}
            for name, X in matrices.items():
                counts = as_counts(X)
                for k in arguments.components:
                    for dtype in arguments.dtype:
                        yield measure_kernels(name, counts, t, k, np.dtype(dtype), rates, arguments)


def min_seconds(calls: list[Callable[[], object]], repeats: int, clock: str) -> list[float]:
    """Minimum seconds of each call, interleaved. Other activity of the machine can only increase them."""
    for call in calls:
        call()  # compiles, and touches the pages
    best, turns, since = len(calls) * [math.inf], 0, time.perf_counter()
    while turns < repeats or time.perf_counter() < since + 0.02 * repeats:  # short calls are repeated more often
        turns += 1
        for c, call in enumerate(calls):
            best[c] = min(best[c], common.timed(call, clock)[1])
    return best


def stream(t: int, n_bytes: int) -> tuple[Callable[[], object], int]:
    """A triad over about `n_bytes` bytes, and their exact number."""
    n_rows = max(n_bytes // 3 // 64, 1)
    a, b, c = (padded(np.ones((n_rows, 8)), np.dtype(float)) for _ in range(3))
    bounds = np.arange(t + 1) * n_rows // t
    return lambda: triad(t, b, c, bounds, a), 3 * a.nbytes


def measure_machine(t: int, arguments: argparse.Namespace) -> list[Row]:
    """Bandwidth, and rates of multiply-adds and divisions."""
    call, moved = stream(t, arguments.mib << 20)
    (seconds,) = min_seconds([call], arguments.repeats, arguments.clock)
    rows = [Row("bound", "stream", "", "", t, "float64", 0, seconds, 0, 1e-9 * moved / seconds, math.nan, "", math.nan)]
    for name, chains, flops in (("FMA", fma_chains, 2), ("divide", division_chains, 1)):
        for dtype in DTYPES:
            rates, rounds = [], 1_000_000 // flops
            for n in (5, 10):  # chains that hide the latency, without running out of registers
                out = empty_factor(t, n * 64 // np.dtype(dtype).itemsize, np.dtype(dtype))
                run = partial(chains, t, 0.5, 1.0, rounds, row_width(out), out)
                (seconds,) = min_seconds([run], arguments.repeats, arguments.clock)
                rates.append((1e-9 * flops * rounds * out.size / seconds, seconds))
            rate, seconds = max(rates)
            rows.append(Row("bound", f"{name} {dtype}", "", "", t, dtype, 0, seconds, rate, 0, math.nan, "", math.nan))
    return rows


def measure_kernels(
    name: str, counts: MemoryCounts, t: int, k: int, dtype: np.dtype, rates: dict[str, float],
    arguments: argparse.Namespace,
) -> list[Row]:  # fmt: skip
    """Each kernel, on the side of W and, where it has one, on that of H."""
    rng, nnz, rows = np.random.default_rng(0), counts.nnz, []
    factors = [padded(rng.random((m, k)) + 0.5, dtype) for m in counts.shape]  # no rate is near 0
    for side in Side:
        U, V = factors[side], factors[1 - side]
        X, width = counts.side(side), U.shape[1]
        subproblem = Subproblem(side, k, V, column_sums(V)[None])
        S, out, gathered = (empty_factor(len(U), k, dtype) for _ in range(3))
        counts.contract(side, U, V, S)
        descend = partial(counts.descend, subproblem, U, out, sweeps=2, zero=1e-11)
        descend()
        visits = 2.0 * float((out > 0).sum(axis=1) @ np.diff(X.indptr))  # of components, in both sweeps; at least
        # Call, flops, gathers of V, other bytes, divisions
        kernels = {
            "ratio_contract": (partial(counts.contract, side, U, V, S), 4 * nnz * width, 1, X.data.nbytes, 0),
            "multiply": (partial(multiplicative, subproblem, U, S, out), 8 * U.size, 0, 3 * U.nbytes, 0),
            "descend": (descend, 4 * nnz * width + 9 * visits, 1, X.data.nbytes, visits / 2),
        }
        if side is Side.ROWS:
            T = np.zeros_like(V)
            add = partial(ColumnSums(T).add, X, U, V)
            kernels["scatter_contract"] = (add, 4 * nnz * width, 2, X.data.nbytes, 0)  # reads and writes rows of T
            kernels["log_rate"] = (partial(counts.log_rate, U, V), 2 * nnz * width, 1, X.data.nbytes, 0)
        streams = [stream(t, n_bytes) for _, _, _, n_bytes, _ in kernels.values()]
        calls = [call for call, *_ in kernels.values()] + [call for call, _ in streams]
        seconds = min_seconds([*calls, partial(gather, counts, side, U, V, gathered)], arguments.repeats,
                              arguments.clock)  # fmt: skip
        for i, (label, (_, flops, n_gathers, n_bytes, divisions)) in enumerate(kernels.items()):
            streaming = seconds[len(kernels) + i] * n_bytes / streams[i][1]
            memory, works_in = n_gathers * seconds[-1] + streaming, "float64" if label == "log_rate" else dtype
            allowed, bound = max(
                (memory, "gather" if n_gathers else "stream"),
                (flops / rates[f"FMA {works_in}"], "FMA"),
                (divisions / rates[f"divide {works_in}"], "divide"),
            )
            took = seconds[i]
            moved = n_gathers * nnz * width * dtype.itemsize + n_bytes
            rows.append(Row("kernel", label, name, "WH"[side], t, str(dtype), k, took, 1e-9 * flops / took,
                            1e-9 * moved / took, 1e9 * took / nnz, bound, allowed / took))  # fmt: skip
    return rows


def verdict(rows: list[Row]) -> list[str]:
    """The bounds of the machine, and the kernels as fractions of them."""
    most = max(row.threads for row in rows)
    bounds = {row.name: row for row in rows if row.kind == "bound" and row.threads == most}
    flops = ", ".join(f"{name} {row.gflop_per_s:.4g} G/s" for name, row in bounds.items() if row.gflop_per_s)
    lines = [f"With {most} thread(s) this machine streams {bounds['stream'].gb_per_s:.3g} GB/s; {flops}."]
    for (name, k, dtype), own in common.group([r for r in rows if r.kind == "kernel"], "counts", "k", "dtype").items():
        own = sorted((row for row in own if row.threads == most), key=lambda row: -row.fraction)
        near = ", ".join(f"{row.name} of {row.side} {row.fraction:.0%} ({row.bound})" for row in own)
        lines.append(f"{name}, k = {k}, {dtype}: fraction of the bound that applies, highest first: {near}.")
    return lines


def plot(rows: list[Row], figure: Any) -> None:
    """For each case the nanoseconds of the kernels, and of their bounds."""
    cases = common.group([row for row in rows if row.kind == "kernel"], "counts", "k", "dtype")
    for axes, ((name, k, dtype), own) in zip(
        common.grid(figure, len(cases), size=(5.5, 4)), cases.items(), strict=True
    ):
        for offset, (_, subset) in enumerate(common.group(own, "threads").items()):
            y = np.arange(len(subset)) + 0.4 * offset
            axes.barh(y, [row.ns_per_nonzero for row in subset], 0.38, color=f"C{offset}", alpha=0.4,
                      label=f"{subset[0].threads} thread(s)")  # fmt: skip
            axes.barh(y, [row.fraction * row.ns_per_nonzero for row in subset], 0.38, color=f"C{offset}")
            axes.set_yticks(
                range(len(subset)), [f"{row.name} {row.side}, {row.bound}" for row in subset], fontsize="small"
            )
        axes.set(xscale="log", xlabel="ns per nonzero; dark: the bound", title=f"{name}, k = {k}, {dtype}")
        axes.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
