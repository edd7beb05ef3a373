"""Counts on a disk against the same counts in memory: time, memory and objective of equal iterations.

Each fit runs in a process of its own, one after the other, turn by turn. Of each the table says the nanoseconds that an
iteration takes for a nonzero (the median), the most memory that the process held above what it had before there were
any counts, what `fastpmf.plan` says of it, and the divergence that the iterations ended at. A cold pass is one that
begins when the system has been told to forget the files.

    python scripts/streamed_study.py --nnz 1e7 1e8 --solver mu cd
    python scripts/streamed_study.py --folder counts/ -k 20
"""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from provenance import write_table
from studying import (
    add_outputs,
    available_memory,
    check_outputs,
    draw,
    others_busy,
    peak_memory,
    progress,
    tell,
    whole_number,
)

from fastpmf import as_counts, plan, poisson_nmf
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import stream_counts
from fastpmf.model.init import initialise
from fastpmf.solvers import SOLVERS, Problem, solver_of

MEMORY, STREAMED, COLD = "in memory", "streamed", "streamed, cold"
FILES = ("data", "indices", "indptr")


class Line(NamedTuple):
    """A line of the table. Peaks are in MiB, objectives divergences in nats per count."""

    nonzeros: int
    rows: int
    columns: int
    k: int
    dtype: str
    counts: str
    solver: str
    where: str
    threads: int
    seconds: float
    nanoseconds: float
    ratio: float
    peak_mib: float
    planned_mib: float
    objective: float
    mib_per_second: float


class Case(NamedTuple):
    """What a process is to do."""

    folder: str
    k: int
    dtype: str
    solver: str
    where: str
    threads: int
    iterations: int
    block: int


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nnz", type=whole_number, nargs="+", default=[10_000_000], help="nonzeros to draw, one study each"
    )
    parser.add_argument(
        "--per-row", type=whole_number, default=800, help="of them in a row, about; default: %(default)s"
    )
    parser.add_argument("--features", type=whole_number, default=20_000, help="columns; default: %(default)s")
    parser.add_argument("--folder", help="counts to take instead, as `fastpmf convert` writes them")
    parser.add_argument("-k", type=int, default=20, help="components; default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--solver", nargs="+", choices=SOLVERS, default=["mu", "cd"], help="default: mu cd")
    parser.add_argument("--iterations", type=int, default=5, help="of each fit; default: %(default)s")
    parser.add_argument("--turns", type=int, default=3, help="fits of each kind; default: %(default)s")
    parser.add_argument("--block", type=whole_number, default=1 << 23, help="nonzeros in a block; default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    parser.add_argument("--cold", action="store_true", help="also stream files that the system was told to forget")
    add_outputs(parser, "streamed_study")
    arguments = parser.parse_args(argv)
    check_outputs(parser, arguments)
    if min(arguments.k, arguments.iterations, arguments.turns, arguments.threads, *arguments.nnz) < 1:
        parser.error("numbers must be at least 1")
    if arguments.folder and not (Path(arguments.folder) / "indptr.npy").is_file():
        parser.error(f"--folder must be a folder with indptr.npy, got {arguments.folder}")
    return arguments


def write_drawn(folder: Path, nnz: int, arguments: argparse.Namespace) -> None:
    """Counts drawn from the model, as `fastpmf.io.write_counts` would write them, for less memory."""
    n = max(round(nnz / arguments.per_row), 2)
    X = make_poisson_counts(n, arguments.features, arguments.k, nnz=nnz, skew=0.3, random_state=0).X
    folder.mkdir()
    for name, A in zip(FILES, (X.data, X.indices, X.indptr.astype(np.int64)), strict=True):
        np.save(folder / f"{name}.npy", A)
    np.save(folder / "shape.npy", np.array(X.shape))


def forget(folder: Path) -> None:
    """Tell the system that what it has of these files in memory is not needed."""
    for name in FILES:
        with open(folder / f"{name}.npy", "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(case: Case) -> tuple[list[float], float, float]:
    """Seconds of each iteration, bytes at the peak, and the objective per count, in a process that has just begun."""
    warm = make_poisson_counts(200, 64, 4, nnz=2_000, random_state=0).X.astype(
        np.load(f"{case.folder}/data.npy", "r").dtype
    )
    told = {"dtype": case.dtype, "random_state": 0, "max_iter": 15, "tol": 0, "acceleration": None}
    poisson_nmf(warm, case.k, solver=case.solver, **told)
    found: list = []

    def fit() -> None:
        if case.where == MEMORY:
            arrays = (np.fromfile(f"{case.folder}/{name}.npy", **_layout(case, name)) for name in FILES)
            shape = tuple(map(int, np.load(f"{case.folder}/shape.npy")))
            counts = as_counts(tuple(arrays), shape=shape)
        else:
            counts = stream_counts(case.folder, block_entries=case.block).X
        problem = Problem(counts, case.k)
        solver = solver_of(case.solver, None, one_sided=True)()  # the same warm-up on both sides
        start = initialise(counts, case.k, "random", 0, np.dtype(case.dtype))
        state = solver.init(problem, *start)
        seconds = []
        for number in range(case.iterations + solver.warm_up + 1):
            if case.where == COLD:
                forget(Path(case.folder))
            began = time.perf_counter()
            solver.step(problem, state)
            if number > solver.warm_up:  # the first has the transpose made
                seconds.append(time.perf_counter() - began)
        found.extend([seconds, problem.objective(state) / counts.total])

    peak = peak_memory(fit)
    return found[0], peak, found[1]


def _layout(case: Case, name: str) -> dict:
    """How the numbers of a .npy file are read without a map of it."""
    A = np.load(f"{case.folder}/{name}.npy", "r")
    return {"dtype": A.dtype, "offset": A.offset, "count": len(A)}


def study(folder: Path, arguments: argparse.Namespace, step) -> list[Line]:
    """All solvers and places on one matrix, turn by turn."""
    X, shape = np.load(folder / "data.npy", "r"), tuple(map(int, np.load(folder / "shape.npy")))
    places = [STREAMED, MEMORY] + [COLD] * arguments.cold
    stored = sum((folder / f"{name}.npy").stat().st_size for name in FILES)
    if 2.6 * stored > available_memory():
        tell(f"{len(X):,} nonzeros and their transpose don't fit in memory here, so they are streamed only")
        places.remove(MEMORY)
    lines = []
    for solver in arguments.solver:
        runs: dict[str, list] = {place: [] for place in places}
        for _ in range(arguments.turns):
            for place in places:
                case = Case(str(folder), arguments.k, arguments.dtype, solver, place, arguments.threads,
                            arguments.iterations, arguments.block)  # fmt: skip
                os.environ["NUMBA_NUM_THREADS"] = str(arguments.threads)
                with multiprocessing.get_context("spawn").Pool(1) as process:
                    runs[place].append(process.apply(measured, [case]))
                step()
        base = median([s for seconds, *_ in runs.get(MEMORY, []) for s in seconds] or [float("nan")])
        for place in places:
            middle = median([s for seconds, *_ in runs[place] for s in seconds])
            block = None if place == MEMORY else arguments.block
            told = plan(shape, len(X), arguments.k, arguments.dtype, counts_dtype=X.dtype, solver=solver,
                        acceleration=None, block_entries=block, trial=False)  # fmt: skip
            planned = told.peak_bytes + (told.input_bytes if place == MEMORY else 0)
            pace = middle, 1e9 * middle / len(X), middle / base
            peak = max(peak for _, peak, _ in runs[place])
            told = len(X), *shape, arguments.k, arguments.dtype, str(X.dtype), solver, place, arguments.threads
            lines.append(Line(*told, *pace, peak / 2**20, planned / 2**20, runs[place][0][2], stored / middle / 2**20))
            tell(told_of(lines[-1]))
    return lines


def told_of(line: Line) -> str:
    """One line of the table, for a reader."""
    return (
        f"{line.nonzeros:>13,} {line.solver} {line.where:<14} {line.seconds:8.3f} s {line.nanoseconds:6.2f} ns/nonzero "
        f"{line.ratio:5.2f}x  peak {line.peak_mib:7,.0f} MiB (planned {line.planned_mib:7,.0f})  "
        f"{line.objective:.6f} nats/count  {line.mib_per_second:6,.0f} MiB/s"
    )


def paint(lines: list[Line], figure) -> None:
    """Nanoseconds and peaks by nonzeros."""
    left, right = figure.subplots(1, 2)
    colours = {MEMORY: "C0", STREAMED: "C1", COLD: "C2"}
    for solver in dict.fromkeys(line.solver for line in lines):
        for place, colour in colours.items():
            some = [line for line in lines if (line.solver, line.where) == (solver, place)]
            if some:
                style = {"color": colour, "marker": "o", "linestyle": "-" if solver == "mu" else "--"}
                left.plot(
                    [x.nonzeros for x in some], [x.nanoseconds for x in some], label=f"{solver}, {place}", **style
                )
                right.plot([x.nonzeros for x in some], [x.peak_mib for x in some], **style)
                right.plot([x.nonzeros for x in some], [x.planned_mib for x in some], "kx", markersize=4)
    left.set(xscale="log", xlabel="nonzeros", ylabel="nanoseconds per nonzero and iteration", ylim=(0, None))
    right.set(xscale="log", yscale="log", xlabel="nonzeros", ylabel="peak memory, MiB; x: planned")
    left.legend()


def main(argv: list[str] | None = None) -> None:
    arguments = parsed(argv)
    for line in others_busy():
        tell(line)
    lines: list[Line] = []
    sizes = [0] if arguments.folder else arguments.nnz
    total = len(sizes) * len(arguments.solver) * arguments.turns * (2 + arguments.cold)
    with progress(total, "fit") as step, contextlib.ExitStack() as last:
        for nnz in sizes:
            if arguments.folder:
                folder = Path(arguments.folder)
            else:
                place = Path(tempfile.mkdtemp(prefix="fastpmf-"))
                last.callback(partial(shutil.rmtree, place, ignore_errors=True))
                folder = place / "counts"
                write_drawn(folder, nnz, arguments)
            lines += study(folder, arguments, step)
    write_table(arguments.csv, Line._fields, lines)
    tell(f"table: {arguments.csv}")
    draw(arguments.png, partial(paint, lines), figsize=(10, 4.5))


if __name__ == "__main__":
    main()
