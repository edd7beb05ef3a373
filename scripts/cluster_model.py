"""What an iteration would take on a Dask cluster that is not here, from constants that are measured here."""

import argparse
import math
import sys
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from common import LoadCheck, add_options, collect, conclude, make_parser, number, positive_int, progress, timed

from fastpmf import as_counts, poisson_nmf
from fastpmf.datasets import make_poisson_counts

DESCRIPTION = """\
With n workers, N nonzeros, a tree of d = ceil(log2 n) levels that is traversed up and down in each iteration, and
messages of m = n_features * K * itemsize bytes (K is k, padded to whole 64-byte vectors), an iteration takes

    seconds = c N / n  +  (2 d + 2) l  +  2 d m / b  +  d a m  +  3 n s

c is what a nonzero takes one worker in a pass, l the time from the end of one task to the beginning of the next on
another worker, b the bandwidth between workers, a the time to add up a byte, s the scheduler's time for a task. All are
measured here with two workers, and the formula is checked against their iterations; l and b are then those of processes
on one machine, so give those of your network by --latency and --bandwidth.

The table has, for each number of workers, the seconds, what they are spent on, and the number of nonzeros below which
more is spent on everything else than on counts. Two things reduce messages: several steps on W between two messages
(inner_steps), and float32. How many iterations each needs to within 1 % of the lowest objective is measured too.
"""
EXAMPLES = """\
  python scripts/cluster_model.py
  python scripts/cluster_model.py --workers 64 1024 --bandwidth 1.25e9 --latency 1e-4 --features 36601 -k 50
"""
MESSAGES = (1 << 12, 1 << 18, 1 << 20, 1 << 22, 1 << 23)  # bytes
INNER_STEPS = (1, 2, 3, 5)
NEAR = 0.01


class Constants(NamedTuple):
    """What was measured, in seconds, and bytes a second."""

    per_nonzero: float
    latency: float
    bandwidth: float
    per_added_byte: float
    per_task: float


class Row(NamedTuple):
    """A row of the table; times in seconds."""

    workers: int
    nonzeros: int
    features: int
    k: int
    itemsize: int
    inner_steps: int
    message_bytes: int
    counting: float
    messages: float
    scheduling: float
    seconds: float
    even_nonzeros: float


def main() -> int:
    """Run the study."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    count, above_0 = number(int, 1), number(float, 0, strict=True)
    add("--workers", type=positive_int, nargs="+", default=[2, 4, 64, 1024], help="default: 2 4 64 1024")
    add("--nnz", type=count, default=3_000_000_000, metavar="N", help="nonzeros in all; default: 3e9")
    add("--features", type=count, default=20_000, metavar="P", help="columns; default: %(default)s")
    add_options(parser, components=20)
    add("--latency", type=above_0, help="seconds of a message; default: measured")
    add("--bandwidth", type=above_0, help="bytes a second between workers; default: measured")
    add("--trial", type=number(int, 10_000), default=2_000_000, metavar="N", help="nonzeros of trials; default: 2e6")
    arguments = parser.parse_args()
    load, k = LoadCheck(), arguments.components
    n_rows = max(arguments.trial // 800, 16)
    nnz = min(arguments.trial, n_rows * arguments.features // 4)
    X = make_poisson_counts(n_rows, arguments.features, k, nnz=nnz, skew=0.3, random_state=0).X
    with progress(len(INNER_STEPS) + 2, "measurement") as advance:
        pace = {}
        for inner in INNER_STEPS:
            pace[inner] = seconds_per_nonzero(X, k, inner)
            advance()
        constants, checked = measure_cluster(X, k, pace[1])
        advance()
        needed = iterations_needed(X, k)
        advance()
    given = {name: getattr(arguments, name) for name in ("latency", "bandwidth") if getattr(arguments, name)}
    used = constants._replace(**given)
    rows = collect(predictions(used, pace, arguments), 3, arguments, unit="model", cells=cells)
    sentences = [
        f"One worker and thread: {1e9 * constants.per_nonzero:.2f} ns a nonzero; from task to task "
        f"{1e3 * constants.latency:.2f} ms and {constants.bandwidth / 2**20:,.0f} MiB/s; adding up "
        f"{1 / constants.per_added_byte / 2**20:,.0f} MiB/s; scheduler {1e3 * constants.per_task:.2f} ms a task.",
        f"Two workers here, {X.nnz:,} nonzeros: {checked:.3f} s an iteration, predicted "
        f"{predict(constants, 2, X.nnz, X.shape[1], k, 4, 1, 1.0).seconds:.3f} s.",
        *(f"{inner} steps on W, {dtype}: {n or 'more than 100'} iterations to within {NEAR:.0%} of the lowest objective; "
          f"a pass takes {pace[inner] / pace[1]:.2f} times as long." for (inner, dtype), n in needed.items()),
    ]  # fmt: skip
    return conclude(arguments, partial(plot, rows), [*sentences, *load.warning], (10, 4.5))


def predictions(constants: Constants, pace: dict[int, float], arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """For float64, float32, and float32 with three inner steps."""
    for itemsize, inner in ((8, 1), (4, 1), (4, 3)):
        fixed = (arguments.nnz, arguments.features, arguments.components, itemsize, inner, pace[inner] / pace[1])
        yield [predict(constants, n, *fixed) for n in arguments.workers]


def predict(
    constants: Constants, n: int, nnz: int, features: int, k: int, itemsize: int, inner: int, pass_ratio: float
) -> Row:
    """The formula of the description; `pass_ratio` is how many times as long a pass with inner steps takes."""
    m = features * -(-k * itemsize // 64) * 64
    depth = math.ceil(math.log2(n))
    counting = constants.per_nonzero * pass_ratio * nnz / n
    messages = (2 * depth + 2) * constants.latency + depth * (2 / constants.bandwidth + constants.per_added_byte) * m
    scheduling = 3 * n * constants.per_task
    even = (messages + scheduling) * n / (constants.per_nonzero * pass_ratio)
    return Row(n, nnz, features, k, itemsize, inner, m, counting, messages, scheduling,
               counting + messages + scheduling, even)  # fmt: skip


def seconds_per_nonzero(X: Any, k: int, inner_steps: int) -> float:
    """Of a pass of one thread, in float32."""
    fit = partial(poisson_nmf, as_counts(X), k, solver="mu", acceleration=None, inner_steps=inner_steps, n_threads=1,
                  tol=0, eval_every=10**9, random_state=0, dtype="float32")  # fmt: skip
    fit(max_iter=1)  # compiles and transposes
    seconds = [fit(max_iter=n).trace["seconds"][-1] for n in (1, 6)]
    return (seconds[1] - seconds[0]) / 5 / X.nnz


def iterations_needed(X: Any, k: int) -> dict[tuple[int, str], int]:
    """Iterations to near the lowest objective of all, of at most 100; 0 where they don't suffice."""
    kinds = [(inner, "float64") for inner in INNER_STEPS] + [(1, "float32")]
    traces = {
        (inner, dtype): poisson_nmf(X, k, solver="mu", acceleration="relaxation", inner_steps=inner, max_iter=100, tol=0,
                                    eval_every=1, random_state=0, dtype=dtype).trace
        for inner, dtype in kinds
    }  # fmt: skip
    target = (1 + NEAR) * min(trace["objective"].min() for trace in traces.values())
    return {kind: int(next(iter(t["n_iter"][t["objective"] <= target]), 0)) for kind, t in traces.items()}


def measure_cluster(X: Any, k: int, per_nonzero: float) -> tuple[Constants, float]:
    """The constants, and the seconds of an iteration, of two workers on this machine."""
    from dask import delayed
    from distributed import Client

    from fastpmf.dask import PoissonNMF, local_cluster

    a = np.ones(1 << 21, np.float32)
    adding = median(timed(lambda: a + a)[1] for _ in range(7)) / a.nbytes
    with local_cluster(2) as cluster, Client(cluster) as client:
        constants = Constants(per_nonzero, *measure_links(client), adding, measure_tasks(client))
        blocks = [delayed(X[: X.shape[0] // 2]), delayed(X[X.shape[0] // 2 :])]

        def fit(n_iter: int) -> float:
            model = PoissonNMF(k, client=client, solver="mu", acceleration=None, max_iter=n_iter, tol=0.0,
                               eval_every=10_000, random_state=0, dtype="float32")  # fmt: skip
            return timed(lambda: model.fit(blocks))[1]

        fit(2)
        return constants, median((fit(22) - fit(2)) / 20 for _ in range(3))


def make_message(size: int, turn: int) -> np.ndarray:
    """A message, on the worker that runs this."""
    return np.full(size // 4, turn, np.float32)


def measure_links(client: Any) -> tuple[float, float]:
    """Seconds from task to task on another worker, and bandwidth between two workers."""
    one, two = list(client.scheduler_info()["workers"])[:2]
    seconds = []
    for size in MESSAGES:
        extra = []
        for turn in range(7):
            message = client.submit(make_message, size, turn, workers=[one], pure=False)
            client.submit(np.max, message, workers=[one], pure=False).result()
            across, here = (
                timed(lambda w=worker, x=message: client.submit(np.max, x, workers=[w], pure=False).result())[1]
                for worker in (two, one)
            )
            extra.append(across - here)
        seconds.append(max(median(extra), 1e-6))
    per_byte = float(np.polyfit(MESSAGES, seconds, 1)[0])

    def chain() -> None:
        link = client.submit(abs, 1, workers=[one], pure=False)
        for n in range(20):
            link = client.submit(abs, link, workers=[(two, one)[n % 2]], pure=False)
        link.result()

    return median(timed(chain)[1] for _ in range(5)) / 21, 1 / max(per_byte, 1e-12)


def measure_tasks(client: Any) -> float:
    """Seconds that the scheduler takes for a task."""
    return timed(lambda: client.gather(client.map(abs, range(400), pure=False)))[1] / 400


def cells(row: Row) -> dict[str, str]:
    """A printed line."""
    return {
        "workers": f"{row.workers:,} workers, float{8 * row.itemsize}, {row.inner_steps} on W",
        "seconds": f"{row.seconds:.3f}", "counting": f"{row.counting:.3f}", "messages": f"{row.messages:.3f}",
        "scheduling": f"{row.scheduling:.3f}", "MiB each": f"{row.message_bytes / 2**20:.1f}",
        "even at": f"{row.even_nonzeros:.2g}",
    }  # fmt: skip


def plot(rows: list[Row], figure: Any) -> None:
    """Seconds by workers, and the nonzeros at which messages and scheduler take half of them."""
    left, right = figure.subplots(1, 2)
    for n, (itemsize, inner) in enumerate(dict.fromkeys((row.itemsize, row.inner_steps) for row in rows)):
        some = [row for row in rows if (row.itemsize, row.inner_steps) == (itemsize, inner)]
        label, at = f"float{8 * itemsize}, inner_steps={inner}", [row.workers for row in some]
        left.plot(at, [row.seconds for row in some], f"C{n}o-", label=label)
        left.plot(at, [row.messages + row.scheduling for row in some], f"C{n}:")
        right.plot(at, [row.even_nonzeros for row in some], f"C{n}o-", label=label)
    left.set(xscale="log", yscale="log", xlabel="workers", ylabel="seconds of an iteration; dotted: all but counting")
    right.set(xscale="log", yscale="log", xlabel="workers", ylabel="nonzeros at which counting takes half")
    left.legend()


if __name__ == "__main__":
    sys.exit(main())
