"""A fit over Dask workers against one process with as many threads, on this machine.

Workers have one thread each. Of each crew the table says the seconds of an iteration (of two fits of different length,
so that what a fit takes once falls out), the processor seconds that its workers spent on it, against those that one
thread of one process spends on the same iteration (efficiency), how many bytes go between workers for it, how many
reach the client in the whole fit, and the divergence per count that the iterations ended at.

    python scripts/dask_study.py --nnz 1e7 --workers 1 2
    python scripts/dask_study.py --folder counts/ --workers 2 4 --solver mu cd
"""

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from provenance import write_table
from streamed_study import FILES, write_drawn
from studying import add_outputs, check_outputs, draw, others_busy, progress, tell, whole_number

from fastpmf import PoissonNMF, as_counts

SHORT = 2  # iterations of the shorter fit
MEMORY, CREW = "one process", "workers"


class Line(NamedTuple):
    """A line of the table."""

    nonzeros: int
    rows: int
    columns: int
    k: int
    solver: str
    where: str
    workers: int
    threads: int
    seconds: float
    ratio: float
    cpu_seconds: float
    efficiency: float
    wire_bytes: float
    messages: float
    message_bytes: float
    client_bytes: float
    objective: float


class Told(NamedTuple):
    """Of one fit."""

    seconds: float
    cpu: float
    objective: float
    traffic: dict[str, int]


class Kind(NamedTuple):
    """Who does a fit: one process of so many threads, or so many workers."""

    where: str
    size: int


Fit = Callable[[int], Told]


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnz", type=whole_number, default=10_000_000, help="nonzeros; default: 1e7")
    parser.add_argument("--per-row", type=whole_number, default=800, help="of them, about; default: %(default)s")
    parser.add_argument("--features", type=whole_number, default=20_000, help="columns; default: %(default)s")
    parser.add_argument("--folder", help="counts to take instead, as `fastpmf convert` writes them")
    parser.add_argument("-k", type=int, default=20, help="components; default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--solver", nargs="+", choices=["mu", "cd"], default=["mu"], help="default: mu")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="crews; default: 1 2")
    parser.add_argument("--iterations", type=int, default=10, help="of the longer fit; default: %(default)s")
    parser.add_argument("--turns", type=int, default=3, help="fits of each kind; default: %(default)s")
    add_outputs(parser, "dask_study")
    arguments = parser.parse_args(argv)
    check_outputs(parser, arguments)
    if min(arguments.k, arguments.turns, *arguments.workers) < 1 or arguments.iterations <= SHORT:
        parser.error(f"numbers must be at least 1, and --iterations above {SHORT}")
    if arguments.folder and not (Path(arguments.folder) / "indptr.npy").is_file():
        parser.error(f"--folder must be a folder with indptr.npy, got {arguments.folder}")
    return arguments


def per_iteration(fits: dict[Kind, Fit], turns: int, iterations: int, step: Any) -> dict[Kind, Told]:
    """Medians over turns of what the longer fit takes more than the shorter one, for each of its iterations."""
    found: dict[Kind, list[Told]] = {kind: [] for kind in fits}
    more = iterations - SHORT
    for fit in fits.values():
        fit(SHORT)  # compiles
    for _ in range(turns):
        for kind, fit in fits.items():
            short, long = fit(SHORT), fit(iterations)
            wire = {name: (long.traffic[name] - short.traffic[name]) / more for name in long.traffic}
            if long.traffic:
                wire |= {"message_bytes": long.traffic["message_bytes"], "to_client": long.traffic["to_client"]}
            seconds, cpu = (long.seconds - short.seconds) / more, (long.cpu - short.cpu) / more
            found[kind].append(Told(seconds, cpu, long.objective, wire))
            step()
    return {
        kind: some[-1]._replace(seconds=median(t.seconds for t in some), cpu=median(t.cpu for t in some))
        for kind, some in found.items()
    }


def local_fit(arguments: argparse.Namespace, counts: Any, solver: str, threads: int) -> Fit:
    """Fits in this process."""

    def fit(iterations: int) -> Told:
        model = PoissonNMF(arguments.k, **options(arguments, solver, iterations), n_threads=threads)
        cpu, began = time.process_time(), time.perf_counter()
        model.fit(counts)
        return Told(time.perf_counter() - began, time.process_time() - cpu, model.objective_ / counts.total, {})

    return fit


def crew_fit(arguments: argparse.Namespace, folder: Path, total: float, solver: str, client: Any) -> Fit:
    """Fits over workers, each of which reads its own rows."""
    from fastpmf.dask import PoissonNMF as CrewNMF

    def fit(iterations: int) -> Told:
        model = CrewNMF(arguments.k, client=client, **options(arguments, solver, iterations))
        cpu, began = sum(client.run(time.process_time).values()), time.perf_counter()
        model.fit(folder)
        seconds = time.perf_counter() - began
        spent = sum(client.run(time.process_time).values()) - cpu
        return Told(seconds, spent, model.objective_ / total, model.communication_)

    return fit


def options(arguments: argparse.Namespace, solver: str, iterations: int) -> dict[str, Any]:
    return {
        "solver": solver, "acceleration": None, "max_iter": iterations, "eval_every": 10_000, "tol": 0.0,
        "random_state": 0, "dtype": arguments.dtype,
    }  # fmt: skip


def study(folder: Path, arguments: argparse.Namespace, step: Any) -> list[Line]:
    """One process of one thread and of as many as each crew has, and crews, turn by turn."""
    from distributed import Client

    from fastpmf.dask import local_cluster

    shape = tuple(map(int, np.load(folder / "shape.npy")))
    X = as_counts(tuple(np.load(folder / f"{name}.npy") for name in FILES), shape=shape)
    lines: list[Line] = []
    with contextlib.ExitStack() as last:
        clusters = {workers: last.enter_context(local_cluster(workers)) for workers in arguments.workers}
        clients = {workers: last.enter_context(Client(cluster)) for workers, cluster in clusters.items()}
        for solver in arguments.solver:
            fits = {Kind(MEMORY, n): local_fit(arguments, X, solver, n) for n in sorted({1, *arguments.workers})}
            for workers, client in clients.items():
                fits[Kind(CREW, workers)] = crew_fit(arguments, folder, X.total, solver, client)
            told = per_iteration(fits, arguments.turns, arguments.iterations, step)
            for kind, own in told.items():
                lines.append(
                    line_of(arguments, X, solver, kind, own, told[Kind(MEMORY, kind.size)], told[Kind(MEMORY, 1)])
                )
                tell(told_of(lines[-1]))
    return lines


def line_of(arguments: argparse.Namespace, X: Any, solver: str, kind: Kind, told: Told, base: Told, one: Told) -> Line:
    crew = kind.where == CREW
    traffic = told.traffic or dict.fromkeys(("between_workers", "messages", "message_bytes", "to_client"), 0)
    return Line(
        X.nnz, *X.shape, arguments.k, solver, kind.where, kind.size if crew else 1, 1 if crew else kind.size,
        told.seconds, told.seconds / base.seconds,
        told.cpu, one.cpu / told.cpu, traffic["between_workers"], traffic["messages"], traffic["message_bytes"],
        traffic["to_client"], told.objective,
    )  # fmt: skip


def told_of(line: Line) -> str:
    """One line of the table, for a reader."""
    who = f"{line.workers} workers" if line.where == CREW else f"{line.where}, {line.threads} threads"
    wire = f"  {line.wire_bytes:,.0f} bytes a turn, {line.client_bytes:,.0f} to the client" if line.wire_bytes else ""
    return (
        f"{line.solver} {who:<32} {line.seconds:8.3f} s {line.ratio:5.2f}x  cpu {line.cpu_seconds:8.3f} s "
        f"efficiency {line.efficiency:4.0%}  {line.objective:.6f} nats/count{wire}"
    )


def paint(lines: list[Line], figure: Any) -> None:
    """Seconds and efficiency by workers or threads."""
    left, right = figure.subplots(1, 2)
    for solver in dict.fromkeys(line.solver for line in lines):
        for n, where in enumerate((MEMORY, CREW)):
            some = [line for line in lines if (line.solver, line.where) == (solver, where)]
            at = [line.workers * line.threads for line in some]
            style = {"color": f"C{n}", "marker": "o", "linestyle": "-" if solver == "mu" else "--"}
            left.plot(at, [line.seconds for line in some], label=f"{solver}, {where}", **style)
            right.plot(at, [line.efficiency for line in some], **style)
    left.set(xlabel="workers, or threads", ylabel="seconds for an iteration", ylim=(0, None))
    right.set(xlabel="workers, or threads", ylabel="efficiency by processor time", ylim=(0, None))
    left.legend()


def main(argv: list[str] | None = None) -> None:
    arguments = parsed(argv)
    for line in others_busy():
        tell(line)
    kinds = len(arguments.workers) + len({1, *arguments.workers})
    with progress(len(arguments.solver) * kinds * arguments.turns, "fit") as step, contextlib.ExitStack() as last:
        if arguments.folder:
            folder = Path(arguments.folder)
        else:
            place = Path(tempfile.mkdtemp(prefix="fastpmf-"))
            last.callback(shutil.rmtree, place, ignore_errors=True)
            folder = place / "counts"
            write_drawn(folder, arguments.nnz, arguments)
        lines = study(folder.resolve(), arguments, step)
    write_table(arguments.csv, Line._fields, lines)
    tell(f"table: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(lines, figure), figsize=(10, 4.5))


if __name__ == "__main__":
    main()
