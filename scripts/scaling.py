"""Time and memory by threads, nonzeros, components, density and skew; of counts on disk; and over Dask workers."""

import argparse
import contextlib
import functools
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import common
import numpy as np

from fastpmf import StreamedCounts, as_counts, plan, poisson_nmf
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import read_counts, stream_counts, write_counts
from fastpmf.kernels.threads import available_threads

DESCRIPTION = """\
Time one iteration of multiplicative updates ("mu") and of the default solver, coordinate descent ("cd"), and measure
the peak memory of a fit, on counts drawn from the model. Each study varies one thing:

  threads   1, 2, 4, ... up to --threads on the same counts: strong scaling
  weak      the same number of nonzeros per thread: weak scaling
  nnz       the number of rows, from 1e5 nonzeros to --max-nnz
  k         the number of components
  density   the size of square matrices with the same number of nonzeros
  skew      row and column sums that decrease like rank ** -skew
  streamed  as nnz, for counts in a folder, which are read in each iteration
  workers   as threads, for Dask workers with one thread each, which read the counts from a folder

Drawn counts have 20,000 columns and 200 nonzeros in a row, unless the study varies these. With --data the studies
threads, k, streamed and workers use these counts instead.

Each matrix is measured in a new process, which compiles the kernels, measures the peak memory of a default fit beyond
its input (on Linux), and then times iterations 13 to 24 of a fit, with one evaluation of the objective. Solvers and
numbers of threads are interleaved, and seconds are medians over --repeats. CPU seconds are those of all threads or
workers in the whole fit, divided by its number of iterations. Coordinate descent is extrapolated in memory only;
otherwise only W is updated by coordinate descent, and H by multiplicative steps. Folders have just been written, so
they are still in the system's page cache.

Predictions are those of fastpmf.plan. Slopes s of seconds ~ nnz ** s are least-squares estimates on logarithms, with
standard errors. By default a matrix and its fit take at most half of the memory that is available now.
"""
STUDIES = ("threads", "weak", "nnz", "k", "density", "skew", "streamed", "workers")
VARIES = {"weak": "threads", "streamed": "nnz", "workers": "threads"}  # if it is not the study's name
WITH_DATA = ("threads", "k", "streamed", "workers")
MEMORY, STREAMED, WORKERS = "memory", "streamed", "workers"
N_COLUMNS, PER_ROW, PLANTED = 20_000, 200, 10
EVERY = 12  # iterations between evaluations of the objective: the warm-up of coordinate descent, and two more
N_ITER = 2 * EVERY + 1
BLOCK = 1 << 23  # nonzeros of a streamed block
BYTES_PER_NONZERO = 24  # of counts, transpose, factors and drawing them; limits the default --max-nnz
NONZEROS_PER_SECOND = 300_000  # and thread, everything included; limits the default --max-nnz to about two minutes
SECONDS = 120


class Case(NamedTuple):
    """A matrix, whether it is in memory, streamed or on workers, and the numbers of threads or workers."""

    shape: tuple[int, int]
    nnz: int
    k: int
    skew: float
    threads: tuple[int, ...]
    place: str = MEMORY
    data: str | None = None
    clock: str = "wall"


SHOWN = "study nnz k threads solver seconds ns_per_nonzero cpu_seconds objective peak_bytes planned_bytes"


class Row(NamedTuple):
    """A row of the table: one solver. Seconds are of an iteration, objectives in nats per count after `iterations`."""

    study: str
    place: str
    n_rows: int
    n_columns: int
    nnz: int
    density: float
    k: int
    skew: float
    dtype: str
    counts_dtype: str
    threads: int
    solver: str
    seconds: float
    ns_per_nonzero: float
    cpu_seconds: float
    iterations: int
    objective: float
    peak_bytes: float
    planned_bytes: float
    message_bytes: float  # between workers, in an iteration

    @property
    def value(self) -> float:
        """What the study varies."""
        return getattr(self, VARIES.get(self.study, self.study))


def main() -> int:
    """Run the studies."""
    most = available_threads()
    parser = common.Parser(DESCRIPTION)
    parser.shared(components=32, threads=most, dtype="float32", repeats=3, clock="wall")
    size = common.number(int, 10_000)
    parser.option("--studies", "by default all, or with --data those that can use it", [], choices=STUDIES)
    parser.option("--data", "counts for threads, k, streamed and workers")
    parser.option(
        "--nnz",
        "nonzeros if not varied; by default 1e7, or 1e6 per thread if that is more",
        type=size,
    )
    parser.option("--max-nnz", "by default limited by memory and time, at most 1e9", type=size)
    parser.option("--ks", "numbers of components of the study k", [8, 16, 32, 64, 128])
    parser.option("--densities", "of the study density", [1e-4, 1e-3, 1e-2, 1e-1], type=common.number(float, 1e-9, 0.5))
    parser.option("--skews", "of the study skew", [0.0, 0.5, 1.0], type=common.number(float, 0, 2))
    parser.add_argument(
        "--quick", action="store_true", help="at most 3e5 nonzeros, unless --nnz and --max-nnz are given"
    )
    arguments = parser.parse_args()
    if arguments.threads > most:
        parser.error(f"--threads must be at most {most}, the number that this process may use, got {arguments.threads}")
    affordable = min(
        1e9, common.available_memory() / 2 / BYTES_PER_NONZERO, SECONDS * NONZEROS_PER_SECOND * arguments.threads
    )
    steps = [step for step in (1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9) if step <= affordable]
    usual = {"nnz": max(10_000_000, 1_000_000 * arguments.threads), "max_nnz": int(max(steps, default=1e6))}
    for name, default in usual.items():
        setattr(arguments, name, getattr(arguments, name) or (300_000 if arguments.quick else default))
    arguments.studies = arguments.studies or (WITH_DATA if arguments.data else STUDIES)
    if arguments.clock == "processor" and (arguments.threads > 1 or WORKERS in arguments.studies):
        parser.error("--clock processor needs --threads 1, and --studies without workers")
    if arguments.data and (others := set(arguments.studies) - {*WITH_DATA}):
        parser.error(f"--data is for {', '.join(WITH_DATA)}, not for {', '.join(sorted(others))}")
    try:
        counts = {Path(arguments.data).stem: read_counts(arguments.data).X} if arguments.data else {}
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    load, planned = common.warning_of_load(), cases(arguments)
    for name, X in counts.items():
        common.echo(f"{name}: {common.describe(X)}")
    del counts  # each process reads its own
    batches = (run(study, case, arguments) for study, case in planned)
    rows = common.collect(batches, len(planned), arguments, unit="matrix", show=SHOWN)
    if not rows:
        parser.error("no matrix could be measured")
    return common.conclude(arguments, functools.partial(plot, rows), [*verdict(rows), *load])


def cases(arguments: argparse.Namespace) -> list[tuple[str, Case]]:
    """Every matrix of every study."""
    nnz, k, t = arguments.nnz, arguments.components, arguments.threads
    ladder = tuple(sorted({*(2**i for i in range(t.bit_length()) if 2**i < t), t}))
    sizes = [*(10**e for e in range(5, 10) if 10**e < arguments.max_nnz), arguments.max_nnz]

    def case(*, nnz: int = nnz, k: int = k, skew: float = 0.0, density: float = 0.0, threads: tuple = (t,),
             place: str = MEMORY) -> Case:  # fmt: skip
        side = round(math.sqrt(nnz / density)) if density else 0
        shape = (side, side) if density else (max(nnz // PER_ROW, 1), N_COLUMNS)
        return Case(shape, nnz, k, skew, threads, place, arguments.data, arguments.clock)

    found = {
        "threads": [case(threads=ladder)],
        "weak": [case(nnz=nnz * n // t, threads=(n,)) for n in ladder],
        "nnz": [case(nnz=size) for size in sizes],
        "k": [case(k=k) for k in arguments.ks],
        "density": [case(density=density) for density in arguments.densities],
        "skew": [case(skew=skew) for skew in arguments.skews],
        "streamed": [case(nnz=size, place=STREAMED) for size in (sizes if not arguments.data else sizes[-1:])],
        "workers": [case(threads=ladder, place=WORKERS)],
    }
    return [(study, one) for study in STUDIES if study in arguments.studies for one in found[study]]


def run(study: str, case: Case, arguments: argparse.Namespace) -> list[Row]:
    """The rows of one matrix; none, and a message, if it is too large for the memory."""
    try:
        return [Row(study, *values) for values in fresh(case, arguments.repeats, arguments.dtype)]
    except (BrokenProcessPool, MemoryError, ValueError) as error:
        why = str(error) if isinstance(error, ValueError) else "its process was killed, probably for lack of memory"
        common.echo(f"left out, {study}, {case.nnz:,} nonzeros: {why}")
        return []


@functools.cache  # studies share matrices
def fresh(case: Case, repeats: int, dtype: str) -> list[tuple]:
    """`measure` in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure, case, repeats, dtype).result()


def measure(case: Case, repeats: int, dtype: str) -> list[tuple]:
    """The fields of each `Row` after its study."""
    warnings.filterwarnings("ignore", message=".*(carry no counts|Stopped at max_iter)")
    most = max(case.threads)
    if case.data:
        X = read_counts(case.data).X.tocsr()
    else:
        X = make_poisson_counts(*case.shape, PLANTED, nnz=case.nnz, skew=case.skew, random_state=0).X
    shape, nnz, kind, total, few = X.shape, X.nnz, str(X.dtype), float(X.sum()), X[:500]
    facts = (case.place, *shape, nnz, nnz / math.prod(shape), case.k, case.skew, dtype, kind)
    options = {"max_iter": N_ITER, "tol": 0, "eval_every": EVERY, "dtype": dtype, "random_state": 0}
    peak, planned = math.nan, math.nan
    with contextlib.ExitStack() as stack:
        source: Any = X
        if case.place != MEMORY:
            source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastpmf-"))) / "counts"
            write_counts(source, X)
            del X
        if case.place != WORKERS:
            opened = functools.partial(stream_counts, source, block_entries=BLOCK)
            if case.place == MEMORY:
                opened = functools.partial(as_counts, source)
            poisson_nmf(few if case.place == MEMORY else StreamedCounts(lambda: [few]), case.k, **options)  # compiles
            peak = common.peak_memory(lambda: poisson_nmf(opened(), case.k, n_threads=most, **options))
            block = BLOCK if case.place == STREAMED else None
            prediction = plan(shape, nnz, case.k, dtype, counts_dtype=kind, n_threads=most, block_entries=block)
            planned, counts = prediction.peak_bytes, opened()
            fits = {t: functools.partial(local_fit, counts, case, t, options, total) for t in case.threads}
        else:
            fits = {t: stack.enter_context(worker_fit(source, case, t, options, total)) for t in case.threads}
        clock: dict[tuple[int, str], list[tuple]] = {(t, solver): [] for t in case.threads for solver in ("mu", "cd")}
        for _ in range(repeats):
            for (t, solver), found in clock.items():
                found.append(fits[t](solver))
    rows = []
    for (t, solver), found in clock.items():
        seconds, cpu, messages, objective = map(median, zip(*found, strict=True))
        rows.append((
            *facts, t, solver, seconds, 1e9 * seconds / nnz, cpu, N_ITER, objective,
            *((peak, planned) if t == most else (math.nan, math.nan)), messages,
        ))  # fmt: skip
    return rows


def local_fit(counts: Any, case: Case, t: int, options: dict, total: float, solver: str) -> tuple:
    """Seconds, processor seconds and bytes between workers of an iteration, and the objective per count."""
    extrapolated = solver == "cd" and case.place == MEMORY
    now, readings = common.CLOCKS[case.clock], {}

    def callback(record: Any, W: np.ndarray, H: np.ndarray) -> None:
        readings[record.n_iter] = now()

    cpu = time.process_time()
    solution = poisson_nmf(counts, case.k, solver=solver, acceleration="extrapolation" if extrapolated else None,
                           n_threads=t, callback=callback, **options)  # fmt: skip
    cpu = (time.process_time() - cpu) / N_ITER
    return (readings[2 * EVERY] - readings[EVERY]) / EVERY, cpu, 0.0, solution.objective / total


@contextlib.contextmanager
def worker_fit(folder: Path, case: Case, n: int, options: dict, total: float) -> Iterator[Callable[[str], tuple]]:
    """As `local_fit`, over n workers, which exist within the context."""
    from distributed import Client

    from fastpmf.dask import PoissonNMF, local_cluster

    with local_cluster(n) as cluster, Client(cluster) as client:

        def fit(solver: str) -> tuple:
            model = PoissonNMF(case.k, client=client, solver=solver, acceleration=None, **options)
            cpu = sum(client.run(time.process_time).values())
            model.fit(folder)
            cpu = (sum(client.run(time.process_time).values()) - cpu) / N_ITER
            messages = float(model.communication_["between_workers"]) / N_ITER
            return common.seconds_per_iteration(model.trace_, EVERY, 2 * EVERY), cpu, messages, model.objective_ / total

        fit("cd")  # compiles
        yield fit


def efficiencies(rows: list[Row]) -> list[float]:
    """Nonzeros per second and thread, relative to the first row."""
    cost = [row.ns_per_nonzero * row.threads for row in rows]
    return [cost[0] / each for each in cost]


def verdict(rows: list[Row]) -> list[str]:
    """The results of each study."""
    lines, studies = [], common.group(rows, "study", "solver")
    for (study, solver), own in studies.items():
        first, last = own[0], own[-1]
        if len(own) < 2:
            continue
        if VARIES.get(study, study) == "threads":
            share, who = efficiencies(own)[-1], "workers" if study == "workers" else "threads"
            lines.append(
                f"{study}: {last.threads} {who} are {share * last.threads:.2f} times as fast as one in {solver} "
                f"(efficiency {share:.0%})."
            )
        elif VARIES.get(study, study) == "nnz":
            best, error = common.slope([r.value for r in own], [r.seconds for r in own])
            power = f"nnz ** {best:.3f}{f' +- {error:.3f}' if error == error else ''}"
            ends = (f"{row.ns_per_nonzero:.2f} ns per nonzero at {row.nnz:.1g}" for row in (first, last))
            lines.append(f"{study}: seconds of {solver} grow like {power}, {', '.join(ends)}.")
        else:
            ratio, values = last.ns_per_nonzero / first.ns_per_nonzero, f"{last.value:.3g} instead of {first.value:.3g}"
            lines.append(f"{study}: with {values} a nonzero takes {ratio:.2f} times as long in {solver}.")
    for study, base, what in (("streamed", "nnz", "streaming takes"), ("workers", "threads", "workers take")):
        for solver in ("mu", "cd"):
            known = {(r.nnz, r.threads): r for r in studies.get((base, solver), [])}
            own = [row for row in studies.get((study, solver), []) if (row.nnz, row.threads) in known]
            if pairs := [(row, known[row.nnz, row.threads]) for row in own]:
                wall, cpu = (common.format_range((getattr(a, column) / getattr(b, column) for a, b in pairs), ".2f")
                             for column in ("seconds", "cpu_seconds"))  # fmt: skip
                lines.append(
                    f"{study}: {what} {wall} times the seconds of {base} in {solver}, {cpu} times its CPU time."
                )
    for (study, solver), own in studies.items():
        if study == "threads":
            same = "bitwise the same" if len({r.objective for r in own}) == 1 else "NOT the same"
            lines.append(f"threads: the objective of {solver} is {same} for any number of threads.")
    ratios = [row.peak_bytes / row.planned_bytes for row in rows if row.solver == "cd"]
    if ratios := [ratio for ratio in ratios if math.isfinite(ratio)]:
        lines.append(f"cd, peak_bytes over planned_bytes: {common.format_range(ratios, '.2f')}.")
    return lines


def plot(rows: list[Row], figure: Any) -> None:
    """A panel for each study, and one of measured over planned memory."""
    studies = common.group(rows, "study")
    panels = common.grid(figure, len(studies) + 1, columns=3)
    for axes, ((study,), own) in zip(panels, studies.items(), strict=False):
        scaled = VARIES.get(study, study) == "threads"
        for i, solver in enumerate(("mu", "cd")):
            subset = [row for row in own if row.solver == solver]
            y = efficiencies(subset) if scaled else [row.ns_per_nonzero for row in subset]
            axes.plot([row.value for row in subset], y, f"C{i}o-", label=solver)
        axes.set(xlabel=VARIES.get(study, study), title=study, ylabel="efficiency" if scaled else "ns per nonzero")
        if study != "skew":
            axes.set_xscale("log", base=2 if scaled or study == "k" else 10)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.legend()
    x, y = zip(*((r.planned_bytes, r.peak_bytes / r.planned_bytes) for r in rows), strict=True)
    panels[-1].plot(x, y, "C2o")
    panels[-1].axhline(1, color="0.7", lw=0.8, zorder=0)
    panels[-1].set(xscale="log", xlabel="planned bytes at the peak", ylabel="measured / planned", title="memory")


if __name__ == "__main__":
    sys.exit(main())
