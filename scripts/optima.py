"""Where fits end: final objectives from several seeds, their cost, and how similar the components of two seeds are."""

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import mean, median
from typing import Any, NamedTuple

import common
import numpy as np

from fastpmf import HPF, Solution, StreamedCounts, as_counts, match_components, poisson_nmf

DESCRIPTION = """\
Fit the same counts from several seeds with several starts, each until it converges, and record the final objective,
D(X || W H) in float64, and the time of the fit without reading the counts and compilation. --model hpf fits HPF, whose
objective is minus the evidence bound; --model streamed fits PoissonNMF to counts in 16 blocks of rows.

  random    a single random start, init="random"
  merge     a single fit that begins with more components and merges them, init="merge"
  restarts  --restarts random starts, init="random" and n_init, of which the best one is finished
  shrink    for each -k from the fit with the next larger one, init="shrink"; for the largest from a random start of
            half as many components more, fitted for 20 iterations, as in select_n_components
  nndsvd, nndsvda, nndsvdar    singular vectors

The excess is 100 (D - best) / best, where best is the lowest objective of all fits of these counts and number of
components. Times are relative to the median of random, if it is among the starts. The similarity of two fits is the
mean over the matched components of sum_j sqrt(P(j|z) P'(j|z')), see `match_components`; that of a fit is the median
over the other seeds of the same start. For each seed the starts are fitted one after another.
"""
MODELS = ["poisson", "streamed", "hpf"]
STARTS = ["random", "merge", "restarts", "shrink", "nndsvd", "nndsvda", "nndsvdar"]
WARM_UP = 80  # iterations; a search takes half of them at most, and its first 40 call all kernels


class Row(NamedTuple):
    """A row of the table: one fit; the objective is in nats, the excess in percent, the similarity between 0 and 1."""

    counts: str
    k: int
    model: str
    start: str
    seed: int
    iterations: int
    status: str
    cpu_seconds: float
    wall_seconds: float
    objective: float
    excess: float
    similarity: float
    dtype: str


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION)
    parser.shared(data=[], components=[20], seeds=[0, 1, 2, 3, 4], max_iter=500, dtype="float32", threads=None)
    parser.option("--model", "what is fitted", "poisson", choices=MODELS)
    parser.option("--starts", "starts", ["random", "merge", "restarts"], choices=STARTS)
    parser.option("--restarts", "random starts of restarts", 10, type=common.number(int, 2))
    parser.option("--tol", "tolerance of each fit", 1e-4)
    arguments = parser.parse_args()
    if arguments.model == "hpf" and "shrink" in arguments.starts:
        parser.error("argument --starts: shrink needs --model poisson or streamed, got hpf")
    matrices = common.read_matrices(parser, arguments.data)
    for name in ("components", "seeds", "starts"):
        setattr(arguments, name, list(dict.fromkeys(getattr(arguments, name))))
    warnings.filterwarnings("ignore", message=".*(carry no counts|Stopped at max_)")
    load = common.warning_of_load()
    total = len(matrices) * len(arguments.components) * len(arguments.seeds) * len(arguments.starts)
    rows = common.collect(measure(matrices, arguments), total, arguments, counts=matrices)
    return common.conclude(arguments, partial(plot, rows), [*verdict(rows), *load])


def measure(matrices: dict[str, Any], arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Nothing after each fit but the last of each matrix and number of components, after which all their rows."""
    function = hpf if arguments.model == "hpf" else poisson_nmf
    for name, X in matrices.items():
        counts = blocks(X) if arguments.model == "streamed" else as_counts(X)
        larger = dict[int, Solution]()  # the latest fit of shrink for each seed
        for k in sorted(arguments.components, reverse=True):
            fits = {
                label(start, arguments): partial(
                    fit_from, function, counts, k, start="random" if start == "restarts" else start, tol=arguments.tol,
                    n_init=arguments.restarts if start == "restarts" else 1, dtype=arguments.dtype,
                    n_threads=arguments.threads,
                ) for start in arguments.starts
            }  # fmt: skip
            for fit in fits.values():
                fit(max_iter=WARM_UP, n_init=min(fit.keywords["n_init"], 2), random_state=0)  # compiles
            rows: list[Row] = []
            components: dict[str, list[np.ndarray]] = {start: [] for start in fits}
            for n, (seed, (start, fit)) in enumerate(itertools.product(arguments.seeds, fits.items())):
                if n:
                    yield []
                cpu, wall = time.process_time(), time.perf_counter()
                solution = fit(max_iter=arguments.max_iter, random_state=seed, larger=larger.get(seed))
                seconds = time.process_time() - cpu, time.perf_counter() - wall
                if start == "shrink":
                    larger[seed] = solution
                end = (solution.n_iter, solution.status.name, *seconds, solution.objective)
                rows.append(Row(name, k, arguments.model, start, seed, *end, np.nan, np.nan, arguments.dtype))
                components[start].append(solution.H)
            yield compared(rows, components, arguments.seeds)


def blocks(X: Any) -> StreamedCounts:
    """The counts in 16 blocks of rows."""
    ends = np.linspace(0, X.shape[0], 17).astype(int)
    parts = [X[i:j] for i, j in itertools.pairwise(ends) if j > i]
    return StreamedCounts(lambda: parts)


def hpf(X: Any, k: int, **options: Any) -> Solution:
    """The posterior means of an HPF as a solution."""
    model = HPF(k, **options).fit(X)
    return Solution(
        model.W_posterior_.mean, model.components_, model.objective_, model.residual_, model.n_iter_, model.status_,
        model.trace_,
    )  # fmt: skip


def fit_from(
    function: Callable[..., Solution], counts: Any, k: int, *, start: str, larger: Solution | None = None,
    **options: Any,
) -> Solution:  # fmt: skip
    """A fit from a start; `larger` is the one that "shrink" begins with."""
    if start != "shrink":
        return function(counts, k, init=start, **options)
    if larger is None:
        larger = poisson_nmf(counts, -(-3 * k // 2), init="random", **options | {"max_iter": 20, "tol": 0})
    return poisson_nmf(counts, k, init="shrink", W=larger.W, H=larger.H, **options)


def label(start: str, arguments: argparse.Namespace) -> str:
    """The name of a start in the table."""
    return f"random x {arguments.restarts}" if start == "restarts" else start


def compared(rows: list[Row], components: dict[str, list[np.ndarray]], seeds: list[int]) -> list[Row]:
    """The rows of a matrix and number of components, with the excess and similarity of each fit."""
    lowest = min(row.objective for row in rows)
    alike: dict[tuple[str, int], list[float]] = {(row.start, row.seed): [] for row in rows}
    for start, found in components.items():
        for (a, H), (b, other) in itertools.combinations(zip(seeds, found, strict=True), 2):
            value = similarity(H, other)
            alike[start, a].append(value)
            alike[start, b].append(value)
    return [
        row._replace(
            excess=100 * (row.objective / lowest - 1) if lowest > 0 else np.nan,
            similarity=median(alike[row.start, row.seed] or [np.nan]),
        )
        for row in rows
    ]


def similarity(H: np.ndarray, other: np.ndarray) -> float:
    """Mean similarity of matched components, where those without counts are similar to none."""
    found = [A[A.any(axis=1)] for A in (H, other)]
    return float(np.nansum(match_components(*found)[1]) / len(H))


def verdict(rows: list[Row]) -> list[str]:
    """For each start: excess, cost and similarity; how the starts compare over all cases."""
    lines = []
    for (name, k), own in common.group(rows, "counts", "k").items():
        starts = common.group(own, "start")
        single = starts.get(("random",))
        for (start,), fits in starts.items():
            excess = [fit.excess for fit in fits]
            text = [f"excess {common.format_number(median(excess))} % (at most {common.format_number(max(excess))} %)"]
            if single:
                cpu, wall = (common.format_number(ratio(fits, single, c)) for c in ("cpu_seconds", "wall_seconds"))
                text.append(f"{cpu} times the processor time of random, {wall} times the wall-clock time")
            else:
                text.append(f"{common.format_number(median(fit.cpu_seconds for fit in fits))} s of processor time")
            text.append(f"{median(fit.iterations for fit in fits):g} iterations")
            if len(fits) > 1:
                text.append(f"components of two seeds {median(fit.similarity for fit in fits):.3f} similar")
            lines.append(f"{name}, k = {k}, {start}: {', '.join(text)}.")
    several = len(common.group(rows, "counts", "k")) > 1
    return [*lines, *(overall(rows) if several else [])]


def overall(rows: list[Row]) -> list[str]:
    """Means over the cases of each start's medians."""
    lines = []
    for (start,), own in common.group(rows, "start").items():
        medians = [median(fit.excess for fit in fits) for fits in common.group(own, "counts", "k").values()]
        alike = [median(fit.similarity for fit in fits) for fits in common.group(own, "counts", "k").values()]
        text = f"median excess {common.format_range(medians, '.2f')} %, on average {mean(medians):.2f} %"
        lines.append(f"All, {start}: {text}; similarity {common.format_range(alike, '.2f')}.")
    return lines


def ratio(fits: list[Row], single: list[Row], column: str) -> float:
    """Median seconds of fits relative to the median of single random ones."""
    seconds, unit = (median(getattr(fit, column) for fit in own) for own in (fits, single))
    return seconds / unit


def plot(rows: list[Row], figure: Any) -> None:
    """For each case the excess of every fit against its processor time."""
    groups = common.group(rows, "counts", "k")
    for axes, ((name, k), own) in zip(common.grid(figure, len(groups)), groups.items(), strict=True):
        for i, ((start,), fits) in enumerate(common.group(own, "start").items()):
            x, y = np.array([(fit.cpu_seconds, fit.excess) for fit in fits]).T
            axes.plot(x, y, f"C{i}o", ms=4, alpha=0.7, label=start)
            axes.plot(median(x), median(y), f"C{i}P", ms=9, mec="k")
        axes.set(xlim=(0, None), xlabel="processor seconds", ylabel="end above the lowest of all, %",
                 title=f"{name}, k = {k}")  # fmt: skip
        axes.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
