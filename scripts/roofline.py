"""How near each kernel is to what this machine can do: its bounds, measured, and the kernels on the roofline."""

import argparse
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from provenance import write_table
from roofs import STEP, SUMS, division_chains, fma_chains, gather_rows, triad
from studying import add_outputs, check_outputs, draw, others_busy, progress, tell, whole_number

from fastpmf import as_counts
from fastpmf.counts import MemoryCounts, Side
from fastpmf.counts.rows import ColumnSums
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import read_counts
from fastpmf.kernels._jit import available_threads, row_width, threads
from fastpmf.kernels.simd import GROUP, VECTOR_BYTES
from fastpmf.model.factors import aligned, column_sums, empty_factor, padded
from fastpmf.model.updates import multiplicative

DESCRIPTION = """\
Measure what this machine can do at most, in Numba, with one thread and with all:

  stream   a = b + 0.5 c over arrays beyond the caches (bytes read and written; what a cache line that is to
           be overwritten costs to fetch is not counted)
  gather   random rows of K numbers from a table that half a second-level cache holds, half of the third-level
           caches, or none ("memory")
  FMA      multiply-adds on 64-byte vectors that stay in registers
  divide   divisions, likewise

then time each kernel on counts, and divide the least seconds that the bounds allow by its own: streams and
gathers from arrays as large as its own, in turns with it. Flops and bytes are those of the kernels'
docstrings, with what they stream besides. The bound that applies is the one that takes longest: gathers and
then streams, which share the memory, or flops, or the divisions of coordinate descent, a flop each. Logarithms
and transposition are not charged, and rows that repeat come from nearer caches than random ones: a fraction
is a distance from an ideal, above 1 where the ideal was none.

Seconds are the least of several, of bounds and kernels alike. Coordinate descent does two sweeps from random
factors; its flops are counted with all components active in the first, and in the second with those that are
not zero afterwards.
"""
DTYPES = ("float32", "float64")
LINE = "{:<16}{:>5}{:>8}{:>10}{:>9}{:>9}{:>11}{:>9}{:>9}{:>9}{:>9}"


class Point(NamedTuple):
    """A line of the table: a bound, or a kernel. `fraction` is the bound's seconds over the kernel's."""

    kind: str
    name: str
    side: str
    threads: int
    dtype: str
    k: int
    seconds: float
    gflop: float
    gathered_gb: float
    streamed_gb: float
    gflop_per_s: float
    gb_per_s: float
    ns_per_row: float  # of a gather; of a kernel's nonzero
    flop_per_byte: float
    bound: str
    fraction: float


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="counts, .npz or .mtx[.gz] (default: drawn from the model)")
    parser.add_argument("--nnz", type=whole_number, default=10_000_000, help="if drawn; default: 1e7")
    parser.add_argument("--skew", type=float, default=0.5, help="if drawn: sums fall like rank ** -skew; default: 0.5")
    parser.add_argument("-k", "--components", type=int, default=32, metavar="K", help="default: %(default)s")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="T", help="the most (default: all this process may use)")
    parser.add_argument(
        "--repeats", type=int, default=9, metavar="R", help="at least, the best counts; default: %(default)s"
    )
    parser.add_argument("--mib", type=int, help="of an array beyond the caches; default: 4 times the caches, >= 128")
    add_outputs(parser, "roofline")
    arguments = parser.parse_args()
    if min(arguments.components, arguments.repeats, arguments.threads or 1, arguments.mib or 1) < 1:
        parser.error("--components, --repeats, --threads and --mib must be at least 1")
    check_outputs(parser, arguments)
    try:
        counts = as_counts(read_counts(arguments.data).X if arguments.data else drawn(arguments.nnz, arguments.skew))
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    if counts.total == 0:
        parser.error("the counts are all zero")

    most = min(arguments.threads or available_threads(), available_threads())
    n, p = counts.shape
    tell(
        f"{arguments.data or 'drawn'}: {n:,} x {p:,} counts, {counts.nnz:,} positive, {counts.dtype}; k = "
        f"{arguments.components}, {arguments.dtype}, 1 and {most} thread(s)"
    )
    points: list[Point] = []
    busy = others_busy()
    machine = Machine(arguments, np.dtype(arguments.dtype))
    runs = [(t, run) for t in sorted({1, most}) for run in (machine.bounds, lambda t: machine.kernels(counts, t))]
    with progress(len(runs), "part") as tick:
        for t, run in runs:
            with threads(t):
                points += run(t)
            write_table(arguments.csv, Point._fields, points)
            tick()
    tell_table(points)
    tell(f"table: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, points), figsize=(10, 7))
    tell()
    for sentence in [*verdict(points), *busy]:
        tell(sentence)
    return 0


def drawn(nnz: int, skew: float):
    """Counts of 20,000 columns, 200 nonzeros in a row on average."""
    return make_poisson_counts(max(nnz // 200, 1), 20_000, nnz=nnz, skew=skew, random_state=0).X


def cache_bytes() -> tuple[int, int]:
    """The second-level cache of a core, and all third-level caches together; 1 and 32 MiB where nobody tells."""
    found: dict[int, dict[str, int]] = {2: {}, 3: {}}
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
        with suppress(OSError, ValueError):
            level, size, shared = ((folder / name).read_text().strip() for name in ("level", "size", "shared_cpu_list"))
            if int(level) in found:
                found[int(level)][shared] = 1024 * int(size.removesuffix("K"))
    return max(found[2].values(), default=1 << 20), sum(found[3].values()) or 32 << 20


def parts(n: int, n_parts: int) -> np.ndarray:
    """Where equal parts of n begin, and n."""
    return np.arange(n_parts + 1) * n // n_parts


class Machine:
    """The bounds of this machine, and the kernels that are held against them."""

    def __init__(self, arguments: argparse.Namespace, dtype: np.dtype) -> None:
        self._k, self._dtype, self._repeats = arguments.components, dtype, arguments.repeats
        self._width = empty_factor(1, self._k, dtype).shape[1]
        self._row = self._width * dtype.itemsize
        self._level2, self._level3 = cache_bytes()
        self._beyond = (arguments.mib << 20) if arguments.mib else max(4 * self._level3, 128 << 20)
        self._known: dict[tuple, float] = {}  # flops, or divisions, per second

    def bounds(self, t: int) -> list[Point]:
        """Stream, gathers and FMA with the threads there are."""
        lines = [self._stream(t)]
        for name, size in (("L2", self._level2 // 2), ("L3", self._level3 // 2), ("memory", self._beyond)):
            lines.append(self._gather(t, f"gather {name}", size))
        for name, run, each in (("FMA", fma_chains, 2), ("divide", division_chains, 1)):
            lines += [self._compute(t, f"{name} {dtype}", run, each, np.dtype(dtype)) for dtype in DTYPES]
        return lines

    def _clock(self, *calls: Callable[[], object]) -> list[float]:
        """Least seconds of each call: what else the machine does can only add to them. They take turns."""
        for call in calls:
            call()  # compiles, and touches the pages
        least, turns, since = len(calls) * [math.inf], 0, time.perf_counter()
        # What takes no time is repeated more often: some turn will find the machine undisturbed
        while turns < self._repeats or time.perf_counter() < since + 0.02 * self._repeats:
            turns += 1
            for c, call in enumerate(calls):
                began = time.perf_counter()
                call()
                least[c] = min(least[c], time.perf_counter() - began)
        return least

    def _streaming(self, t: int, n_bytes: int) -> tuple[Callable, int]:
        """A triad of so many bytes in all, if not more than is beyond the caches; and how many they are."""
        n_rows = max(min(n_bytes // 3, self._beyond) // VECTOR_BYTES, 1)
        a, b, c = (aligned(n_rows, VECTOR_BYTES // 8, np.dtype(float), np.zeros) for _ in range(3))
        bounds = parts(n_rows, t)
        triad(t, c, c, bounds, b)  # pages that nobody has written to are all the same
        triad(t, b, b, bounds, c)
        return lambda: triad(t, b, c, bounds, a), 3 * a.nbytes

    def _stream(self, t: int) -> Point:
        call, moved = self._streaming(t, 3 * self._beyond)
        (seconds,) = self._clock(call)
        return point("bound", "stream", "", t, "float64", 0, seconds, moved // 12, 0, moved)

    def _gathering(self, t: int, n_rows: int, n: int) -> Callable:
        """So many gathers from a table of so many rows."""
        n_steps = -(-n // STEP)
        indices = np.random.default_rng(0).integers(0, n_rows, n_steps * STEP, dtype=np.int32)
        V, bounds, ones = (
            empty_factor(n_rows, self._k, self._dtype),
            STEP * parts(n_steps, t),
            np.ones(GROUP, self._dtype),
        )
        V[:] = 1  # pages that nobody has written to are all the same
        out, several = empty_factor(t * SUMS, self._k, self._dtype), self._row <= SUMS * VECTOR_BYTES
        return lambda: gather_rows(t, indices, bounds, ones, V, row_width(V), several, out)

    def _gather(self, t: int, name: str, n_bytes: int) -> Point:
        n_rows = max(n_bytes // self._row, 1)
        n = max(1 << 20, 4 * n_rows)  # each row some times, and milliseconds in all
        (seconds,) = self._clock(self._gathering(t, n_rows, n))
        flops, ns = 2 * n * self._width, 1e9 * seconds / n
        return point("bound", name, "", t, self._dtype, self._k, seconds, flops, n * self._row, 0, ns)

    def _compute(self, t: int, name: str, run: Callable, each: int, dtype: np.dtype) -> Point:
        found, rounds = [], 1_000_000 // each
        for chains in (5, 10):  # as many as hide the latency, and no more than there are registers
            out = aligned(t, chains * VECTOR_BYTES // dtype.itemsize, dtype)
            (seconds,) = self._clock(lambda o=out: run(t, 0.5, 1.0, rounds, row_width(o), o))
            found.append((each * rounds * out.size / seconds, seconds, each * rounds * out.size))
        self._known[name, t], seconds, flops = max(found)
        return point("bound", name, "", t, dtype, 0, seconds, flops, 0, 0)

    def kernels(self, counts: MemoryCounts, t: int) -> list[Point]:
        """Each kernel, on the side of W and, where it has one, on that of H."""
        rng = np.random.default_rng(0)
        factors = [padded(rng.random((m, self._k)) + 0.5, self._dtype) for m in counts.shape]  # no rate is near 0
        nnz, K, row = counts.nnz, self._width, self._row
        lines = []
        for side in Side:
            U, V = factors[side], factors[1 - side]
            X, v_sum = counts.side(side), column_sums(V)
            S, out = np.zeros_like(U), np.zeros_like(U)
            counts.contract(side, U, V, S)
            stored = nnz * (X.data.itemsize + X.indices.itemsize) + X.indptr.nbytes
            streams = stored + 2 * U.nbytes

            def descend(side=side, U=U, V=V, v_sum=v_sum, out=out) -> None:
                # sweeps and zero as `Coordinate` has them
                counts.descend(side, U, V, v_sum, out, n_components=self._k, sweeps=2, zero=1e-11)

            descend()
            alive = float((out > 0).sum(axis=1) @ np.diff(X.indptr))  # components of nonzeros, in the second sweep
            visits = nnz * self._k + alive
            run = {  # call, flops, bytes gathered, bytes streamed, divisions
                "ratio_contract": (
                    lambda side=side, U=U, V=V, out=S: counts.contract(side, U, V, out),
                    4 * nnz * K, nnz * row, streams, 0,
                ),
                "multiply": (
                    lambda U=U, S=S, v=v_sum, o=out: multiplicative(U, S, v, o), 8 * U.size, 0, 3 * U.nbytes, 0,
                ),
                "descend": (descend, 8 * nnz * K + 8 * visits, nnz * row, streams, visits),
            }  # fmt: skip
            if side is Side.ROWS:
                T = np.zeros_like(V)
                # A row of T is written to where it has just been read from
                run["scatter_contract"] = (
                    lambda X=X, U=U, V=V, T=T: ColumnSums(T).add(X, U, V),
                    4 * nnz * K, 2 * nnz * row, stored + U.nbytes, 0,
                )  # fmt: skip
                run["log_rate"] = (
                    lambda U=U, V=V: counts.log_rate(U, V), 2 * nnz * K, nnz * row, stored + U.nbytes, 0,
                )  # fmt: skip
            # Gathers and streams as large and as many as the kernels' own take turns with them
            n = min(nnz, 1 << 26)
            roofs = [(self._gathering(t, len(V), n), n * row), *(self._streaming(t, r[3]) for r in run.values())]
            clocked = self._clock(*(call for call, *_ in run.values()), *(call for call, _ in roofs))
            gather, *stream = (each / moved for each, (_, moved) in zip(clocked[len(run) :], roofs, strict=True))
            for (name, (_, flops, *moved, divisions)), took, streaming in zip(
                run.items(), clocked[: len(run)], stream, strict=True
            ):
                memory = [moved[0] * gather, moved[1] * streaming]
                worked_in = "float64" if name == "log_rate" else self._dtype
                least, bound = max(
                    (sum(memory), "gather" if memory[0] > memory[1] else "stream"),
                    (flops / self._known[f"FMA {worked_in}", t], "FMA"),
                    (divisions / self._known[f"divide {worked_in}", t], "divide"),
                )
                lines.append(
                    point(
                        "kernel", name, "WH"[side], t, self._dtype, self._k, took, flops, *moved,
                        1e9 * took / nnz, bound, least / took,
                    )
                )  # fmt: skip
        return lines


def point(
    kind, name, side, t, dtype, k, seconds, flops, gathered, streamed, ns=math.nan, bound="", fraction=math.nan
) -> Point:
    """A line, its rates worked out."""
    moved = gathered + streamed
    scaled = (1e-9 * x for x in (flops, gathered, streamed, flops / seconds, moved / seconds))
    intensity = flops / moved if moved else math.nan
    return Point(kind, name, side, t, str(dtype), k, seconds, *scaled, ns, intensity, bound, fraction)


def tell_table(points: list[Point]) -> None:
    """Print the bounds, then the kernels."""
    tell(
        LINE.format("", "side", "threads", "dtype", "ms", "GFLOP/s", "flop/byte", "GB/s", "ns/row", "bound", "fraction")
    )
    for p in points:
        told = [f"{x:.3g}" if x == x else "" for x in (p.gflop_per_s, p.flop_per_byte, p.gb_per_s, p.ns_per_row)]
        fraction = f"{p.fraction:.2f}" if p.fraction == p.fraction else ""
        tell(LINE.format(p.name, p.side, p.threads, p.dtype, f"{1e3 * p.seconds:.2f}", *told, p.bound, fraction))


def verdict(points: list[Point]) -> list[str]:
    """What came of it, in words."""
    most = max(p.threads for p in points)
    bounds = {p.name: p for p in points if p.kind == "bound" and p.threads == most}
    kernels = [p for p in points if p.kind == "kernel" and p.threads == most]
    gathers = ", ".join(f"{bounds[f'gather {n}'].gb_per_s:.3g} from {n}" for n in ("L2", "L3", "memory"))
    dtype = kernels[0].dtype
    lines = [
        f"With {most} thread(s) this machine streams {bounds['stream'].gb_per_s:.3g} GB/s, gathers rows of "
        f"{kernels[0].k} components in {dtype} at {gathers}, and does {bounds[f'FMA {dtype}'].gflop_per_s:.4g} GFLOP/s "
        f"or {bounds[f'divide {dtype}'].gflop_per_s:.3g} divisions a nanosecond."
    ]
    if most > 1:
        alone = {p.name: p for p in points if p.kind == "bound" and p.threads == 1}
        gains = (f"{name} {rate(bounds[name]) / rate(alone[name]):.2f}" for name in bounds)
        lines.append(f"That is so many times what one thread has: {', '.join(gains)}.")

    def told(p: Point) -> str:
        return f"{p.name} of {p.side} {p.fraction:.0%} ({p.bound})"

    by = sorted(kernels, key=lambda p: -p.fraction)
    lines.append(f"Share of the bound that applies, nearest first: {'; '.join(map(told, by))}.")
    lines.append(
        "No bound charges logarithms, of which log_rate takes one for each nonzero, or descend's transposition."
    )
    slowest = max(kernels, key=lambda p: p.seconds)
    lines.append(
        f"At its bound, the longest of them, {slowest.name} of {slowest.side}, would take "
        f"{1e3 * slowest.seconds * slowest.fraction:.3g} ms instead of {1e3 * slowest.seconds:.3g}."
    )
    return lines


def rate(p: Point) -> float:
    """What a bound is in."""
    return p.gb_per_s if p.gb_per_s else p.gflop_per_s


def paint(figure, points: list[Point]) -> None:
    """The roofs, of one thread dashed, and the kernels under them."""
    axes = figure.subplots()
    most = max(p.threads for p in points)
    kernels = [p for p in points if p.kind == "kernel"]
    intensities = [p.flop_per_byte for p in kernels]
    low, high, dtype = min(intensities) / 3, max(intensities) * 10, kernels[0].dtype
    for t in sorted({1, most}):
        bounds = {p.name: p for p in points if p.kind == "bound" and p.threads == t}
        peak, style = bounds[f"FMA {dtype}"].gflop_per_s, {"lw": 1, "ls": "-" if t == most else ":"}
        for i, name in enumerate(("stream", "gather L2", "gather L3", "gather memory")):
            label = f"{name}, {bounds[name].gb_per_s:.3g} GB/s" if t == most else None
            x = np.array([low, max(low, min(high, peak / bounds[name].gb_per_s))])  # up to where it meets the peak
            axes.plot(x, x * bounds[name].gb_per_s, color=f"C{i}", label=label, **style)
        label = f"FMA {dtype}, {peak:.4g} GFLOP/s" if t == most else None
        axes.plot([low, high], [peak, peak], color="0.3", label=label, **style)
    names = list(dict.fromkeys(p.name for p in kernels))
    for p in sorted(kernels, key=lambda p: p.threads):  # the black ones above
        marker = "osD^v"[names.index(p.name)]
        label = p.name if p.threads == most and p.side == "W" else None
        color = "k" if p.threads == most else "0.6"
        face = "none" if p.side == "H" else color
        axes.plot(p.flop_per_byte, p.gflop_per_s, marker, color=color, mfc=face, ms=8, ls="", label=label)
    title = (
        f"{most} threads: lines and black; one: dotted and grey; hollow: the side of H" if most > 1 else "one thread"
    )
    axes.set(xscale="log", yscale="log", xlabel="flops per byte", ylabel="GFLOP/s", title=title)
    figure.legend(loc="outside right upper")


if __name__ == "__main__":
    sys.exit(main())
