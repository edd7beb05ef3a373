"""What `scaling_study` measures of one matrix: counts in memory, on a disk, or over workers, in a fresh process."""

import functools
import math
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from compare_solvers import Ours, start
from studying import peak_memory, tell

import fastpmf
from fastpmf import as_counts, poisson_nmf
from fastpmf.counts import Side
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import stream_counts, write_counts
from fastpmf.io.counts import BLOCK
from fastpmf.kernels._jit import threads

MEMORY, STREAMED, WORKERS = "memory", "streamed", "workers"
# Coordinate descent that is extrapolated wants the counts by columns too, in one place
SOLVERS = {
    MEMORY: {"mu": "mu", "cd": "cd+x"},
    STREAMED: {"mu": "mu", "cd": "cd"},
    WORKERS: {"mu": "mu", "cd": "cd"},
}
BEFORE = 12  # iterations before the clocks run: ten of warm-up, and two in which all of extrapolation is at work
PLANTED = 10


@dataclass(frozen=True)
class Case:
    """One matrix, where its counts are, and the numbers of threads, or of workers, that fits of it are clocked with."""

    shape: tuple[int, int]
    nnz: int
    k: int
    skew: float
    threads: tuple[int, ...]
    where: str = MEMORY


Told = dict[int, tuple[list[float], list[float]]]  # seconds and objectives, by number of threads


@functools.cache  # studies share matrices
def fresh(case: Case, repeats: int, dtype: str) -> list[tuple]:
    """`measure` in a process of its own, beside what was predicted: all of each `Point` but its study."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            (shape, nnz, counts_dtype), told, peak = process.submit(measure, case, repeats, dtype).result()
    except (BrokenProcessPool, MemoryError, ValueError) as error:
        why = str(error) if isinstance(error, ValueError) else "its process was ended, as a rule for want of memory"
        tell(f"left out, {case}: {why}")
        return []
    most = max(case.threads)  # what the memory was measured, and all was predicted, for
    predicted = predict(shape, nnz, case, dtype, counts_dtype, most)
    density = nnz / math.prod(shape)
    return [
        (
            *shape, nnz, density, case.k, case.skew, dtype, counts_dtype, t,
            *seconds, *(1e9 * s / nnz for s in seconds), BEFORE + repeats, *objectives,
            *((peak, *predicted) if t == most else 3 * (math.nan,)),
        )
        for t, (seconds, objectives) in told.items()
    ]  # fmt: skip


def predict(
    shape: tuple[int, int], nnz: int, case: Case, dtype: str, counts_dtype: str, n_threads: int
) -> tuple[float, float]:
    """Peak bytes above the input, and seconds per iteration, of a default fit; nobody predicts those of workers."""
    if case.where == WORKERS:
        return math.nan, math.nan
    block = BLOCK if case.where == STREAMED else None
    fit = fastpmf.plan(
        shape, nnz, case.k, dtype, counts_dtype=counts_dtype, n_threads=n_threads, block_entries=block
    )  # fmt: skip
    return fit.peak_bytes, fit.seconds_per_iteration


def measure(case: Case, repeats: int, dtype: str) -> tuple[tuple, Told, float]:
    """What the counts are; seconds and objectives by number of threads; the peak memory of a fit."""
    warnings.filterwarnings("ignore", message=".*carry no counts")
    X = make_poisson_counts(*case.shape, PLANTED, nnz=case.nnz, skew=case.skew, random_state=0).X
    known = X.shape, X.nnz, str(X.dtype)
    if case.where == MEMORY:
        return known, *in_memory(X, case, repeats, dtype)
    with tempfile.TemporaryDirectory(prefix="fastpmf-") as place:
        folder = Path(place) / "counts"
        write_counts(folder, X)
        few, total = X[:500], float(X.sum())
        del X
        if case.where == WORKERS:
            return known, over_workers(folder, total, case, repeats, dtype), math.nan
        return known, *streamed(folder, few, case, repeats, dtype)


def default_fit(X: Any, case: Case, dtype: str) -> None:
    poisson_nmf(
        X, case.k, max_iter=BEFORE, tol=0, eval_every=10**9, dtype=dtype, random_state=0, n_threads=max(case.threads)
    )


def in_memory(X: Any, case: Case, repeats: int, dtype: str) -> tuple[Told, float]:
    """Of counts in memory."""
    default_fit(X[:500], case, dtype)  # compiles
    peak = peak_memory(lambda: default_fit(X, case, dtype))
    with threads(max(case.threads)):
        counts = as_counts(X)
        counts.side(Side.COLUMNS)
    return clocked(counts, case, repeats, dtype), peak


def streamed(folder: Path, few: Any, case: Case, repeats: int, dtype: str) -> tuple[Told, float]:
    """Of counts in a folder, which this process has just written, so that the system still has them in memory."""
    default_fit(fastpmf.StreamedCounts(lambda: [few]), case, dtype)  # compiles
    peak = peak_memory(lambda: default_fit(stream_counts(folder), case, dtype))
    return clocked(stream_counts(folder).X, case, repeats, dtype), peak


def clocked(counts: Any, case: Case, repeats: int, dtype: str) -> Told:
    """Single iterations, solvers and numbers of threads taking turns; medians."""
    factors = start(counts, case.k, 0, np.dtype(dtype))
    solvers = SOLVERS[case.where]
    fits = {(name, t): Ours(solver, counts, *factors) for t in case.threads for name, solver in solvers.items()}
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in fits}
    for turn in range(1 + repeats):
        for (name, t), racer in fits.items():
            with threads(t):
                began = time.perf_counter()
                racer.advance(1 if turn else BEFORE)
                if turn:
                    seconds[name, t].append(time.perf_counter() - began)
    return {
        t: (
            [median(seconds[name, t]) for name in solvers],
            [fits[name, t].objective() / counts.total for name in solvers],
        )
        for t in case.threads
    }


def over_workers(folder: Path, total: float, case: Case, repeats: int, dtype: str) -> Told:
    """Iterations of crews of one-thread workers, each of which reads its rows from the folder; medians."""
    from distributed import Client

    from fastpmf.dask import PoissonNMF, _crew, local_cluster

    plain, seconds = _crew.Crew.iterate, list[float]()

    def iterate(crew: Any) -> Any:
        began = time.perf_counter()
        out = plain(crew)
        seconds.append(time.perf_counter() - began)
        return out

    _crew.Crew.iterate = iterate  # of this process, which does nothing else
    told = {}
    for n in case.threads:
        found: tuple[list[float], list[float]] = [], []
        with local_cluster(n) as cluster, Client(cluster) as client:
            for solver in SOLVERS[WORKERS].values():
                seconds.clear()
                model = PoissonNMF(
                    case.k, client=client, solver=solver, acceleration=None, max_iter=BEFORE + repeats, tol=0,
                    eval_every=10**9, dtype=dtype, random_state=0,
                ).fit(folder)  # fmt: skip
                found[0].append(median(seconds[BEFORE:]))
                found[1].append(model.objective_ / total)
        told[n] = found
    return told
