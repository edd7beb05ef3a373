"""How seconds and memory grow: with threads, nonzeros, components, density and skew."""

import argparse
import math
import sys
from typing import NamedTuple

import numpy as np
from provenance import write_table
from scaling_measures import MEMORY, STREAMED, WORKERS, Case, fresh
from studying import (
    add_outputs,
    available_memory,
    check_outputs,
    draw,
    others_busy,
    progress,
    slope,
    tell,
    whole_number,
)

from fastpmf.kernels._jit import available_threads

DESCRIPTION = """\
Time one iteration of multiplicative updates ("mu") and one of the default solver (extrapolated coordinate
descent, "cd"), and find the peak memory of a fit, on counts drawn from the model, where one thing varies:

  threads  1, 2, 4 ... all of them on the same counts: strong scaling
  weak     as many nonzeros for each thread: weak scaling
  nnz      ever more rows, 1e5 nonzeros up to --max-nnz
  k        components
  density  the same nonzeros in ever smaller square matrices
  skew     rows and columns whose sums fall like rank ** -skew
  streamed as nnz, the counts in a folder, from which each iteration reads them
  workers  as threads, over as many Dask workers of one thread each, which read the counts from a folder

Counts have 20,000 columns and 200 nonzeros in a row, where the study says nothing else. Each matrix is drawn
in a fresh process, which first compiles, then finds the peak memory of a default fit above its input (on
Linux; empty elsewhere), and then clocks single iterations, solvers and thread counts taking turns: seconds are
medians. All have done as many iterations before, coordinate descent its multiplicative warm-up among them. It is
extrapolated where one process has the counts in memory; elsewhere its H takes multiplicative steps.
Workers draw a start of their own, so that their objectives are to be compared with each other's.

Seconds stand beside the objective that these iterations arrived at, in nats per count. Predictions are those
of fastpmf.plan. Slopes are least squares on logarithms, with their standard errors: seconds ~ nnz ** slope.
By default no matrix and fit together take more than half of the memory that is available now.
"""
STUDIES = ("threads", "weak", "nnz", "k", "density", "skew", "streamed", "workers")
VARIES = {"weak": "threads", "streamed": "nnz", "workers": "threads"}  # of a study that is not named after it
BY_THREADS = {
    "threads": "threads, same counts", "weak": "threads, counts for each", "workers": "workers, same counts",
}  # fmt: skip
N_COLUMNS, PER_ROW = 20_000, 200
SOLVERS = ("mu", "cd")
PREDICTIONS = (
    ("peak_bytes", "predicted_peak_bytes", "bytes at the peak"),
    ("cd_seconds", "predicted_cd_seconds", "seconds of an iteration of cd"),
)
BYTES_PER_NONZERO = 24  # of counts, transpose, factors and what drawing them takes: what the default --max-nnz goes by
NONZEROS_PER_SECOND = 300_000  # for each thread, everything included: likewise
SECONDS = 120  # that the largest matrix may take by default
LINE = "{:<8}{:>9}{:>16}{:>14}{:>5}{:>8}{:>10}{:>10}{:>8}{:>8}{:>10}{:>10}{:>10}{:>10}"


class Point(NamedTuple):
    """A line of the table. Seconds are of one iteration, objectives in nats per count after `iterations`."""

    study: str
    n_rows: int
    n_columns: int
    nnz: int
    density: float
    k: int
    skew: float
    dtype: str
    counts_dtype: str
    threads: int
    mu_seconds: float
    cd_seconds: float
    mu_ns_per_nonzero: float
    cd_ns_per_nonzero: float
    iterations: int
    mu_objective: float
    cd_objective: float
    peak_bytes: float
    predicted_peak_bytes: float
    predicted_cd_seconds: float

    @property
    def value(self) -> float:
        """What the study varies."""
        return getattr(self, VARIES.get(self.study, self.study))

    def pace(self, name: str) -> float:
        """Nanoseconds per nonzero of a solver's iteration."""
        return getattr(self, f"{name}_ns_per_nonzero")


def main() -> int:
    """Run the studies."""
    most = available_threads()
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=STUDIES, metavar="S", help="default: all")
    parser.add_argument("--nnz", type=whole_number, metavar="N", help="elsewhere; default: 1e7, or 1e6 a thread")
    parser.add_argument("--max-nnz", type=whole_number, metavar="N", help="default: by memory and time, at most 1e9")
    parser.add_argument("-k", "--components", type=int, default=32, metavar="K", help="default: %(default)s")
    parser.add_argument("--ks", type=int, nargs="+", metavar="K", help="default: 8 16 32 64 128")
    parser.add_argument("--densities", type=float, nargs="+", metavar="D", help="default: 1e-4 1e-3 1e-2 1e-1")
    parser.add_argument("--skews", type=float, nargs="+", metavar="S", help="default: 0 0.5 1")
    parser.add_argument("--threads", type=int, default=most, metavar="T", help="the most; default: %(default)s, all")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, metavar="R", help="iterations clocked; default: 5")
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute: other defaults")
    add_outputs(parser, "scaling_study")
    arguments = parser.parse_args()
    check(parser, arguments, most)
    wanted, busy = cases(arguments), others_busy()
    tell(
        f"up to {arguments.threads} threads, {arguments.nnz:.3g} nonzeros where they don't vary and up to "
        f"{arguments.max_nnz:.3g} where they do, k = {arguments.components}, {arguments.dtype}"
    )
    points: list[Point] = []
    with progress(len(wanted), "matrix") as tick:
        for study, case in wanted:
            points += [Point(study, *line) for line in fresh(case, arguments.repeats, arguments.dtype)]
            write_table(arguments.csv, Point._fields, points)  # as it goes: what there is outlives an interruption
            tick()
    if not points:
        parser.error("no matrix could be measured")
    tell_table(points)
    tell(f"table: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, points))
    tell()
    for sentence in [*verdict(points), *busy]:
        tell(sentence)
    return 0


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace, most: int) -> None:
    """Turn away what can't be run, and fill in what depends on the machine."""
    t = arguments.threads
    affordable = min(1e9, available_memory() / 2 / BYTES_PER_NONZERO, SECONDS * NONZEROS_PER_SECOND * t)
    rungs = [rung for rung in (1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9) if rung <= affordable]
    for name, small, usual in (
        ("nnz", 300_000, max(10_000_000, 1_000_000 * t)),
        ("max_nnz", 300_000, int(max(rungs, default=1e6))),
        ("ks", [16, 32], [8, 16, 32, 64, 128]),
        ("densities", [1e-3, 1e-1], [1e-4, 1e-3, 1e-2, 1e-1]),
        ("skews", [0.0, 1.0], [0.0, 0.5, 1.0]),
        ("repeats", 3, 5),
    ):
        if getattr(arguments, name) is None:
            setattr(arguments, name, small if arguments.quick else usual)
    if min(arguments.components, t, arguments.repeats, *arguments.ks) < 1:
        parser.error("--components, --ks, --threads and --repeats must be at least 1")
    if min(arguments.nnz, arguments.max_nnz) < 10_000:
        parser.error("--nnz and --max-nnz must be at least 10,000")
    if t > most:
        parser.error(f"--threads must be at most {most}, which is what this process may use, got {t}")
    if not 0 < min(arguments.densities) <= max(arguments.densities) <= 0.5:
        parser.error("--densities must be above 0 and at most 0.5")
    if not 0 <= min(arguments.skews) <= max(arguments.skews) <= 2:
        parser.error("--skews must be between 0 and 2")
    check_outputs(parser, arguments)


def cases(arguments: argparse.Namespace) -> list[tuple[str, Case]]:
    """Every matrix of every study that was asked for."""
    nnz, k, t = arguments.nnz, arguments.components, arguments.threads
    ladder = tuple(sorted({*(2**i for i in range(t.bit_length()) if 2**i < t), t}))
    sizes = [*(10**e for e in range(5, 19) if 10**e < arguments.max_nnz), arguments.max_nnz]

    def case(*, nnz=nnz, k=k, skew=0.0, density=None, threads=(t,), where=MEMORY) -> Case:
        side = round(math.sqrt(nnz / density)) if density else 0
        return Case((side, side) if density else (max(nnz // PER_ROW, 1), N_COLUMNS), nnz, k, skew, threads, where)

    found = {
        "threads": [case(threads=ladder)],
        "weak": [case(nnz=nnz * n // t, threads=(n,)) for n in ladder],
        "nnz": [case(nnz=size) for size in sizes],
        "k": [case(k=k) for k in arguments.ks],
        "density": [case(density=density) for density in arguments.densities],
        "skew": [case(skew=skew) for skew in arguments.skews],
        "streamed": [case(nnz=size, where=STREAMED) for size in sizes],
        "workers": [case(threads=ladder, where=WORKERS)],
    }
    return [(study, one) for study in STUDIES if study in arguments.studies for one in found[study]]


def tell_table(points: list[Point]) -> None:
    """Print the lines, then the slopes."""
    tell(LINE.format("", "", "", "", "", "", "mu", "cd", "mu", "cd", "mu", "cd", "peak", "predicted"))
    units = ("ms", "ms", "ns/nnz", "ns/nnz", "D/count", "D/count", "MiB", "MiB")
    tell(LINE.format("study", "value", "shape", "nonzeros", "k", "threads", *units))
    for p in points:
        told = [f"{1e3 * s:.2f}" for s in (p.mu_seconds, p.cd_seconds)]
        told += [f"{p.pace(name):.2f}" for name in SOLVERS]
        told += [f"{D:.5f}" for D in (p.mu_objective, p.cd_objective)]
        told += ["-" if math.isnan(b) else f"{b / 2**20:.1f}" for b in (p.peak_bytes, p.predicted_peak_bytes)]
        shape = f"{p.n_rows} x {p.n_columns}"
        tell(LINE.format(p.study, f"{p.value:.3g}", shape, f"{p.nnz:,}", p.k, p.threads, *told))
    tell()
    for study, own in by_study(points).items():
        if study not in ("weak", "skew", "workers") and len(own) > 1:
            told = (f"{name} {told_slope(own, f'{name}_seconds')}" for name in SOLVERS)
            memory = f"; of peak memory: {told_slope(own, 'peak_bytes')}" if study in ("nnz", "streamed") else ""
            tell(f"slope of seconds in {study}: {', '.join(told)}{memory}")


def told_slope(points: list[Point], field: str) -> str:
    """The slope against the value, and its standard error where there is one."""
    best, error = slope([p.value for p in points], [getattr(p, field) for p in points])
    return f"{best:.3f}" + (f" +- {error:.3f}" if error == error else "")


def by_study(points: list[Point]) -> dict[str, list[Point]]:
    """The lines of each study."""
    return {study: [p for p in points if p.study == study] for study in dict.fromkeys(p.study for p in points)}


def efficiencies(points: list[Point], name: str) -> list[float]:
    """What a thread does, as a share of what one alone does, in nonzeros a second."""
    # Nanoseconds of all threads together
    cost = [p.pace(name) * p.threads for p in points]
    return [cost[0] / each for each in cost]


def verdict(points: list[Point]) -> list[str]:
    """What came of it, in words."""
    lines, studies = [], by_study(points)
    for study, what, who in (
        ("threads", "On the same counts", "threads"), ("weak", "With as many nonzeros for each", "threads"),
        ("workers", "On the same counts", "workers"),
    ):  # fmt: skip
        if len(own := studies.get(study, [])) > 1:
            t = own[-1].threads
            shares = {name: efficiencies(own, name)[-1] for name in SOLVERS}
            told = (f"{share * t:.2f} times as fast in {name} ({share:.0%} each)" for name, share in shares.items())
            lines.append(f"{what}, {t} {who} are {' and '.join(told)} as one alone.")
    for study, what in (("nnz", ""), ("streamed", ", streamed")):
        if len(own := studies.get(study, [])) < 2:
            continue
        told = (
            f"nnz ** {told_slope(own, f'{name}_seconds')} in {name} ({own[0].pace(name):.2f} ns each at first, "
            f"{own[-1].pace(name):.2f} at last)"
            for name in SOLVERS
        )
        lines.append(f"From {own[0].nnz:.1g} to {own[-1].nnz:.1g} nonzeros{what}, seconds grow like {'; '.join(told)}.")
    others = []
    for study in ("k", "density", "skew"):
        if len(own := studies.get(study, [])) > 1:
            told = (f"{own[-1].pace(name) / own[0].pace(name):.2f} in {name}" for name in SOLVERS)
            others.append(f"{' and '.join(told)} for {study} {own[-1].value:.3g} instead of {own[0].value:.3g}")
    if others:
        lines.append(f"A nonzero takes so many times as long: {'; '.join(others)}.")
    if "threads" in studies:
        same = len({(p.mu_objective, p.cd_objective) for p in studies["threads"]}) == 1
        lines.append(f"The objective is {'bitwise the same' if same else 'NOT the same'} for any number of threads.")
    told = []
    for field, predicted, what in PREDICTIONS:
        ratios = [getattr(p, field) / getattr(p, predicted) for p in points]
        if ratios := [r for r in ratios if math.isfinite(r)]:
            told.append(f"{what}, {min(ratios):.2f} to {max(ratios):.2f}")
    return [*lines, f"Measured to predicted: {'; '.join(told)}."]


def paint(figure, points: list[Point]) -> None:
    """A panel for each study, and measured against predicted."""
    from matplotlib.ticker import LogLocator

    studies = by_study(points)
    rows = -(-(len(studies) + 2) // 4)
    figure.set_size_inches(16, 0.5 + 4 * rows)
    panels = list(figure.subplots(rows, 4).ravel())
    for number, (study, own) in enumerate(studies.items()):
        axes, scaled = panels.pop(0), study in BY_THREADS
        for i, name in enumerate(SOLVERS):
            y = efficiencies(own, name) if scaled else [p.pace(name) for p in own]
            axes.plot([p.value for p in own], y, f"C{i}o-", label=None if number else name)
        axes.set(
            xlabel=BY_THREADS.get(study, "nonzeros, streamed" if study == STREAMED else study),
            ylabel="efficiency" if scaled else "ns a nonzero, one iteration",
        )
        if study != "skew":
            axes.set_xscale("log", base=2 if scaled or study == "k" else 10)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        if scaled:
            axes.set_ylim(0, 1.1 * max(1, axes.get_ylim()[1]))
        else:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
    for field, predicted, what in PREDICTIONS:
        x, y = (np.array([getattr(p, name) for p in points]) for name in (predicted, field))
        axes = panels.pop(0)
        axes.plot(x, y / x, "C2o")
        axes.axhline(1, color="0.7", lw=0.8, zorder=0)
        axes.set(xscale="log", xlabel=f"{what}, predicted", ylabel="measured / predicted")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_ylim(0, max(1.5, axes.get_ylim()[1]))
    for axes in panels:
        axes.set_axis_off()
    figure.legend(loc="outside lower center", ncols=len(SOLVERS))


if __name__ == "__main__":
    sys.exit(main())
