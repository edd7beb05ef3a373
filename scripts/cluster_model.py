"""What an iteration would take on clusters that are not here, from constants that are measured here.

With n workers, N nonzeros, a tree of d = ceil(log2 n) levels that is gone up and down in each iteration, and messages
of m = n_features * K * itemsize bytes (K is k, padded to whole vectors),

    seconds = c N / n  +  (2 d + 2) l  +  2 d m / b  +  d a m  +  3 n s

c is what a nonzero takes one worker in a pass; l what passes from the end of one task to the beginning of the next, on
another worker; b the bandwidth between workers, a what a byte takes to be added up, s the scheduler's part of a task.
l and b here are those of processes on one machine: give those of your network with --latency and --bandwidth. The
script measures the others with a small cluster, checks the sum against iterations of two workers, and prints, for each
number of workers, the seconds, and the nonzeros below which more is spent on all else than on counts. Two things are
done about that: more steps on W between two messages (inner_steps), and messages in float32; how many iterations each
saves, or costs, until a fit is near its end is measured too.

    python scripts/cluster_model.py
    python scripts/cluster_model.py --workers 64 1024 --bandwidth 1.25e9 --latency 1e-4 --features 36601 -k 50
"""

import argparse
import math
import time
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from provenance import write_table
from studying import add_outputs, check_outputs, draw, others_busy, progress, tell, whole_number

from fastpmf import as_counts
from fastpmf.datasets import make_poisson_counts
from fastpmf.kernels._jit import threads
from fastpmf.model.init import initialise
from fastpmf.solvers import Multiplicative, Problem, Run

SIZES = (1 << 12, 1 << 18, 1 << 20, 1 << 22, 1 << 23)  # bytes of trial messages
INNER = (1, 2, 3, 5)
NEAR = 0.01  # of the lowest objective is near its end


class Constants(NamedTuple):
    """What was measured, in seconds, bytes and bytes a second."""

    per_nonzero: float
    latency: float
    bandwidth: float
    per_added_byte: float
    per_task: float


class Line(NamedTuple):
    """A line of the table."""

    workers: int
    nonzeros: int
    features: int
    k: int
    itemsize: int
    inner_steps: int
    message_bytes: int
    counting: float
    talking: float
    scheduling: float
    seconds: float
    even_nonzeros: float


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 64, 1024], help="default: 2 4 64 1024")
    parser.add_argument("--nnz", type=whole_number, default=3_000_000_000, help="nonzeros in all; default: 3e9")
    parser.add_argument("--features", type=whole_number, default=20_000, help="columns; default: %(default)s")
    parser.add_argument("-k", type=int, default=20, help="components; default: %(default)s")
    parser.add_argument("--latency", type=float, help="seconds of a message, instead of those measured")
    parser.add_argument("--bandwidth", type=float, help="bytes a second between workers, instead of those measured")
    parser.add_argument("--trial", type=whole_number, default=2_000_000, help="nonzeros of trials; default: 2e6")
    add_outputs(parser, "cluster_model")
    arguments = parser.parse_args(argv)
    check_outputs(parser, arguments)
    if min(arguments.k, arguments.nnz, arguments.trial, *arguments.workers) < 1:
        parser.error("numbers must be at least 1")
    return arguments


def padded_width(k: int, itemsize: int) -> int:
    """Columns of a factor in memory."""
    return -(-k * itemsize // 64) * 64 // itemsize


def drawn(arguments: argparse.Namespace) -> Any:
    rows = max(round(arguments.trial / 800), 16)
    nnz = min(arguments.trial, rows * arguments.features // 4)
    return make_poisson_counts(rows, arguments.features, arguments.k, nnz=nnz, skew=0.3, random_state=0).X


def seconds_per_nonzero(X: Any, k: int, inner_steps: int = 1) -> float:
    """Of a pass of one worker with one thread over its rows, float32."""
    counts = as_counts(X)
    problem, solver = Problem(counts, k), Multiplicative(inner_steps=inner_steps)
    with threads(1):
        state = solver.init(problem, *initialise(counts, k, "random", 0, np.dtype(np.float32)))
        told = []
        for _ in range(6):
            began = time.perf_counter()
            solver.step(problem, state)
            told.append(time.perf_counter() - began)
    return median(told[1:]) / counts.nnz  # the first has the transpose made


def make(size: int, turn: int) -> np.ndarray:
    """A message, on the worker that runs this."""
    return np.full(size // 4, turn, np.float32)


def take(message: np.ndarray) -> float:
    """What the worker that gets it does."""
    return float(message[0])


def measured_messages(client: Any) -> tuple[float, float, float]:
    """Seconds of a link from task to task, bandwidth between two workers, and the scheduler's seconds for a task."""
    one, two = list(client.scheduler_info()["workers"])[:2]
    seconds = []
    for size in SIZES:
        turns: list[float] = []
        for turn in range(7):
            message = client.submit(make, size, turn, workers=[one], pure=False)
            client.submit(take, message, workers=[one], pure=False).result()
            began = time.perf_counter()
            client.submit(take, message, workers=[two], pure=False).result()
            across = time.perf_counter() - began
            began = time.perf_counter()
            client.submit(take, message, workers=[one], pure=False).result()
            turns.append(across - (time.perf_counter() - began))
        seconds.append(max(median(turns), 1e-6))
    per_byte, _ = np.polyfit(SIZES, seconds, 1)
    links = []
    for _ in range(5):
        began, link = time.perf_counter(), client.submit(abs, 1, workers=[one], pure=False)
        for n in range(20):
            link = client.submit(abs, link, workers=[(two, one)[n % 2]], pure=False)
        link.result()
        links.append((time.perf_counter() - began) / 21)
    began = time.perf_counter()
    client.gather(client.map(abs, range(400), pure=False))
    return median(links), 1 / max(float(per_byte), 1e-12), (time.perf_counter() - began) / 400


def seconds_per_added_byte() -> float:
    """Of two messages that become one."""
    a, b = np.ones(1 << 21, np.float32), np.ones(1 << 21, np.float32)
    told = []
    for _ in range(7):
        began = time.perf_counter()
        a + b
        told.append(time.perf_counter() - began)
    return median(told) / a.nbytes


def predicted(told: Constants, n: int, nnz: int, features: int, k: int, itemsize: int, inner: int, more: float) -> Line:
    """The formula at the top; `more` is what inner steps make of a pass."""
    m = features * padded_width(k, itemsize) * itemsize
    depth = math.ceil(math.log2(n))
    counting = told.per_nonzero * more * nnz / n
    talking = (2 * depth + 2) * told.latency + depth * (2 / told.bandwidth + told.per_added_byte) * m
    scheduling = 3 * n * told.per_task
    even = (talking + scheduling) * n / (told.per_nonzero * more)
    return Line(n, nnz, features, k, itemsize, inner, m, counting, talking, scheduling,
                counting + talking + scheduling, even)  # fmt: skip


def reductions(X: Any, k: int, step: Any) -> dict[tuple[int, str], tuple[int, float]]:
    """Iterations, each with one message up and down, until the objective is near the lowest, and where it ends."""
    traces = {}
    for dtype in ("float64", "float32"):
        for inner in INNER if dtype == "float64" else INNER[:1]:
            counts = as_counts(X)
            start = initialise(counts, k, "random", 0, np.dtype(dtype))
            told: list[float] = []
            run = Run(
                Multiplicative(inner_steps=inner, relaxed=True), Problem(counts, k), *start, tol=0.0, eval_every=1,
                callback=lambda record, W, H, told=told: told.append(record.objective) and None,
            )  # fmt: skip
            run.advance(100)
            traces[inner, dtype] = told
            step()
    best = min(min(trace) for trace in traces.values())
    out = {}
    for kind, trace in traces.items():
        near = [n for n, objective in enumerate(trace) if objective <= (1 + NEAR) * best]
        out[kind] = (near[0] if near else -1), min(trace) / best - 1
    return out


def checked(arguments: argparse.Namespace, client: Any, X: Any, told: Constants) -> tuple[float, float]:
    """Seconds of an iteration of two workers: as they are, and as they are predicted."""
    from dask import delayed

    from fastpmf.dask import PoissonNMF

    half = X.shape[0] // 2
    blocks = [delayed(X[:half]), delayed(X[half:])]

    def fit(iterations: int) -> float:
        model = PoissonNMF(arguments.k, client=client, solver="mu", acceleration=None, max_iter=iterations, tol=0.0,
                           eval_every=10_000, random_state=0, dtype="float32")  # fmt: skip
        began = time.perf_counter()
        model.fit(blocks)
        return time.perf_counter() - began

    fit(2)
    found = median((fit(22) - fit(2)) / 20 for _ in range(3))
    return found, predicted(told, 2, X.nnz, X.shape[1], arguments.k, 4, 1, 1.0).seconds


def paint(lines: list[Line], figure: Any) -> None:
    """Seconds by workers, what they are spent on, and where the two are even."""
    left, right = figure.subplots(1, 2)
    for n, (itemsize, inner) in enumerate(dict.fromkeys((line.itemsize, line.inner_steps) for line in lines)):
        some = [line for line in lines if (line.itemsize, line.inner_steps) == (itemsize, inner)]
        label = f"float{8 * itemsize}, {inner} step{'s' if inner > 1 else ''} on W"
        at = [line.workers for line in some]
        left.plot(at, [line.seconds for line in some], f"C{n}o-", label=label)
        left.plot(at, [line.talking + line.scheduling for line in some], f"C{n}:")
        right.plot(at, [line.even_nonzeros for line in some], f"C{n}o-", label=label)
    left.set(xscale="log", yscale="log", xlabel="workers", ylabel="seconds for an iteration; dotted: messages")
    right.set(xscale="log", yscale="log", xlabel="workers", ylabel="nonzeros at which messages take half")
    left.legend()


def main(argv: list[str] | None = None) -> None:
    from distributed import Client

    from fastpmf.dask import local_cluster

    arguments = parsed(argv)
    for line in others_busy():
        tell(line)
    X = drawn(arguments)
    with progress(len(INNER) + 4, "measurement") as step:
        pace = {inner: seconds_per_nonzero(X, arguments.k, inner) for inner in INNER}
        step()
        with local_cluster(2) as cluster, Client(cluster) as client:
            latency, bandwidth, task = measured_messages(client)
            step()
            told = Constants(pace[1], latency, bandwidth, seconds_per_added_byte(), task)
            found, wanted = checked(arguments, client, X, told)
            step()
        saved = reductions(X, arguments.k, step)
    tell(
        f"one worker and thread: {1e9 * told.per_nonzero:.2f} ns a nonzero; from task to task: "
        f"{1e3 * told.latency:.2f} ms and {told.bandwidth / 2**20:,.0f} MiB/s; adding up: "
        f"{1 / told.per_added_byte / 2**20:,.0f} MiB/s; "
        f"scheduler: {1e3 * told.per_task:.2f} ms a task"
    )
    tell(f"two workers here, {X.nnz:,} nonzeros: {found:.3f} s an iteration, predicted {wanted:.3f} s")
    told = told._replace(
        latency=told.latency if arguments.latency is None else arguments.latency,
        bandwidth=told.bandwidth if arguments.bandwidth is None else arguments.bandwidth,
    )
    lines = [
        predicted(told, n, arguments.nnz, arguments.features, arguments.k, itemsize, inner, pace[inner] / pace[1])
        for itemsize, inner in ((8, 1), (4, 1), (4, 3))
        for n in arguments.workers
    ]
    for line in lines:
        tell(
            f"{line.workers:>5} workers, float{8 * line.itemsize}, {line.inner_steps} on W: {line.seconds:9.3f} s = "
            f"{line.counting:.3f} counting + {line.talking:.3f} messages of {line.message_bytes / 2**20:.1f} MiB + "
            f"{line.scheduling:.3f} scheduling; even at {line.even_nonzeros:.2g} nonzeros"
        )
    for (inner, dtype), (near, above) in saved.items():
        tell(
            f"{inner} on W, {dtype}: {near if near >= 0 else 'more than 100'} iterations to {NEAR:.0%} above the "
            f"lowest, {above:.3%} above it after 100; a pass takes {pace[inner] / pace[1]:.2f} times as long"
        )
    write_table(arguments.csv, Line._fields, lines)
    tell(f"table: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(lines, figure), figsize=(10, 4.5))


if __name__ == "__main__":
    main()
