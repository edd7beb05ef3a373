"""Speed and final objectives of the solvers: objective against seconds, from the same random starts."""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import common
import numpy as np

from fastpmf import as_counts, poisson_nmf

DESCRIPTION = """\
Fit the same counts with several solvers from the same starts, and record the exact objective, D(X || W H) in float64,
against the seconds of each fit. "+x" is a solver with acceleration="extrapolation", "+r" with "relaxation", else None.

A fit ends after --seconds, or earlier after --max-iter iterations, if given. The time includes the iterations and the
objective, which is evaluated every --eval-every iterations, but not reading the counts and compilation. For each seed
the solvers run one after another. The table has records that are at least a quarter of the iterations apart.

The divergence is not jointly convex in both factors, so the optimum depends on the start. Gaps are relative,
(D - best) / best, to the lowest objective found from the same seed, which compares speed, and to the lowest of all,
which also compares the local optima.

--inits compares initializations. --restarts N also fits the default solver with n_init=N, with the number of iterations
of its single fit from the same seed.
"""
ACCELERATION = {"": None, "x": "extrapolation", "r": "relaxation"}
SOLVERS = ["mu", "mu+r", "mu+x", "em", "em+x", "cd", "cd+x"]
DEFAULT = "cd+x"  # what `poisson_nmf` does by default
LEVELS = (1e-2, 1e-3, 1e-4)
UNLIMITED = 10**9
WARM_UP = 12  # iterations, more than the multiplicative ones before coordinate descent


class Point(NamedTuple):
    """A row of the table: one record of a fit; the objective is in nats, the residual in nats per count."""

    counts: str
    k: int
    init: str
    solver: str
    n_init: int
    seed: int
    iteration: int
    seconds: float
    objective: float
    kkt_residual: float
    dtype: str


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION)
    parser.shared(data=[], components=[20], seeds=[0, 1, 2], max_iter=None, dtype="float32", threads=None,
                  clock="wall")  # fmt: skip
    parser.option("--seconds", "of each fit", 10.0)
    parser.option("--solvers", "solvers", ["mu", "mu+r", "em", "cd", "cd+x"], choices=SOLVERS)
    parser.option("--inits", "initializations", ["random"], choices=["random", "nndsvd", "nndsvda", "nndsvdar"])
    parser.option("--restarts", "also fit with n_init=N", type=common.number(int, 2), metavar="N")
    parser.option("--eval-every", "iterations between evaluations of the objective", 5)
    arguments = parser.parse_args()
    matrices = common.read_matrices(parser, arguments.data)
    if arguments.restarts and DEFAULT not in arguments.solvers:
        arguments.solvers.append(DEFAULT)
    for name in ("components", "seeds", "solvers", "inits"):
        setattr(arguments, name, list(dict.fromkeys(getattr(arguments, name))))
    warnings.filterwarnings("ignore", message=".*(carry no counts|Stopped at max_)")
    load = common.warning_of_load()
    fits_of_case = len(arguments.inits) * len(arguments.seeds) * (len(arguments.solvers) + bool(arguments.restarts))
    total = len(matrices) * len(arguments.components) * fits_of_case
    points = common.collect(measure(matrices, arguments), total, arguments, counts=matrices)
    for own in cases(points).values():
        if own[0].objective > 0 and best(own) <= np.finfo(arguments.dtype).eps * own[0].objective:
            parser.error("the counts are fitted exactly, so that relative gaps mean nothing; use fewer components, -k")
    return common.conclude(arguments, partial(plot, points), [*verdict(points), *load])


def measure(matrices: dict[str, Any], arguments: argparse.Namespace) -> Iterator[list[Point]]:
    """The points of the trace of every fit; only the last point of a fit with several starts."""
    for name, X in matrices.items():
        counts = as_counts(X)
        for k in arguments.components:
            for init in arguments.inits:
                for seed in arguments.seeds:
                    for solver in arguments.solvers:
                        base, _, suffix = solver.partition("+")
                        fit = partial(
                            poisson_nmf, counts, k, solver=base, acceleration=ACCELERATION[suffix], init=init, tol=0,
                            random_state=seed, dtype=arguments.dtype, n_threads=arguments.threads,
                        )  # fmt: skip
                        fit(max_iter=WARM_UP)  # compiles
                        solution, clock = timed_fit(fit, arguments)
                        fixed = (name, k, init, solver)
                        yield [
                            Point(*fixed, 1, seed, n, clock[n], D, gap, arguments.dtype)
                            for n, D, gap, _ in thinned(solution.trace.tolist())
                        ]
                        if arguments.restarts and solver == DEFAULT:
                            again = partial(fit, n_init=arguments.restarts, max_iter=solution.n_iter)
                            solution, seconds = common.timed(again, arguments.clock)
                            end = (solution.n_iter, seconds, solution.objective, solution.kkt_residual)
                            yield [Point(*fixed, arguments.restarts, seed, *end, arguments.dtype)]


def timed_fit(fit: Callable[..., Any], arguments: argparse.Namespace) -> tuple[Any, dict[int, float]]:
    """A fit that ends after `--seconds`, and the seconds at which each record was made, by its iteration."""
    now, seconds = common.CLOCKS[arguments.clock], {}
    began = now()

    def callback(record: Any, W: np.ndarray, H: np.ndarray) -> bool:
        seconds[record.n_iter] = now() - began
        return seconds[record.n_iter] >= arguments.seconds

    max_iter = arguments.max_iter or UNLIMITED
    solution = fit(max_iter=max_iter, eval_every=arguments.eval_every, callback=callback)
    seconds.setdefault(solution.n_iter, now() - began)
    return solution, seconds


def thinned(records: list[tuple]) -> list[tuple]:
    """The first and the last record of a trace, and between them those at least a quarter later than the one before."""
    kept = records[:1]
    for record in records[1:-1]:
        if record[0] >= 1.25 * kept[-1][0]:
            kept.append(record)
    return kept + records[1:][-1:]


def cases(points: list[Point]) -> dict[tuple, list[Point]]:
    """The points of each matrix and number of components."""
    return common.group(points, "counts", "k")


def best(points: list[Point]) -> float:
    """The lowest objective."""
    return min(p.objective for p in points)


def ends(points: list[Point], *columns: str) -> dict[tuple, list[float]]:
    """Objectives at the end of single fits, by their values in these columns."""
    last = [fit[-1] for fit in common.group(points, "init", "solver", "n_init", "seed").values()]
    groups = common.group([p for p in last if p.n_init == 1], *columns)
    return {key: [p.objective for p in own] for key, own in groups.items()}


def reach(points: list[Point], level: float) -> dict[str, list[float]]:
    """By solver, seconds until each fit is within a relative gap of the seed's best; infinity if it never is."""
    found: dict[str, list[float]] = {}
    for own in common.group(points, "init", "seed").values():
        target = (1 + level) * best([p for p in own if p.n_init == 1])
        for (solver,), fit in common.group([p for p in own if p.n_init == 1], "solver").items():
            seconds = (p.seconds for p in fit if p.objective <= target)
            found.setdefault(solver, []).append(next(seconds, math.inf))
    return found


def verdict(points: list[Point]) -> list[str]:
    """The fastest solver, the lowest final objective, and the effects of starts and restarts."""
    lines: list[str] = []
    for (name, k), own in cases(points).items():
        for level in LEVELS:
            times = {solver: median(seconds) for solver, seconds in reach(own, level).items()}
            order = sorted((s for s in times if math.isfinite(times[s])), key=times.__getitem__)
            late = [s for s in times if s not in order]
            text = ", ".join(f"{s} {common.format_number(times[s])} s" for s in order) or "none"
            missing = f"; not reached in half of the fits or more: {', '.join(late)}" if late else ""
            lines.append(f"{name}, k = {k}: to within {level:g} of the best from the same seed: {text}{missing}.")
        medians = {solver: median(found) for (solver,), found in ends(own, "solver").items()}
        lowest = min(medians, key=medians.__getitem__)
        others = ", ".join(f"{s} {D / medians[lowest] - 1:.1e}" for s, D in medians.items() if s != lowest)
        lines.append(
            f"{name}, k = {k}: lowest final objective (median): {lowest}; others are higher by {others or '-'}."
        )
        spreads = [max(D) / min(D) - 1 for D in ends(own, "solver", "init").values()]
        if len(ends(own, "seed")) > 1:
            differences = common.format_range(spreads, ".1e")
            lines.append(f"{name}, k = {k}: between seeds, the final objective of a solver differs by {differences}.")
        if len(inits := {init: median(D) for (init,), D in ends(own, "init").items()}) > 1:
            first = min(inits, key=inits.__getitem__)
            above = ", ".join(f"{i} {D / inits[first] - 1:.1e}" for i, D in inits.items() if i != first)
            lines.append(f"{name}, k = {k}: lowest of the initializations: {first}; others higher by {above}.")
        lines += restarts(name, k, own)
    residuals = common.group((fit[-1] for fit in common.group(points, *Point._fields[:6]).values()), "solver")
    text = (
        f"{solver} {common.format_range((p.kkt_residual for p in fits), '.1e')}"
        for (solver,), fits in residuals.items()
    )
    return [*lines, f"Final kkt_residual, in nats per count: {', '.join(text)}."]


def restarts(name: str, k: int, points: list[Point]) -> list[str]:
    """Cost and gain of n_init, if it was measured."""
    several = [p for p in points if p.n_init > 1]
    if not several:
        return []
    single = {(p.init, p.seed): p for p in points if p.n_init == 1 and p.solver == DEFAULT}  # the last of each stays
    cost = median(p.seconds / single[p.init, p.seed].seconds for p in several)
    gain = median(1 - p.objective / single[p.init, p.seed].objective for p in several)
    price = f"n_init={several[0].n_init} takes {cost:.2g} times as long as a single fit"
    return [f"{name}, k = {k}: {price} and ends lower by {gain:.1e} (medians)."]


def plot(points: list[Point], figure: Any) -> None:
    """For each case the gap to the seed's best against seconds, and the ends of all fits."""
    axes = common.grid(figure, 2 * len(cases(points)), columns=2, size=(4.2, 3.4))
    for n, ((name, k), own) in enumerate(cases(points).items()):
        speed, final = axes[2 * n : 2 * n + 2]
        solvers = list(dict.fromkeys(p.solver for p in own))
        for fits in common.group([p for p in own if p.n_init == 1], "init", "seed").values():
            lowest = best(fits)
            for (solver,), fit in common.group(fits, "solver").items():
                x, y = np.array([(p.seconds, p.objective / lowest - 1) for p in fit if p.iteration]).T
                speed.plot(x[y > 0], y[y > 0], color=f"C{solvers.index(solver)}", lw=1)
        for i, solver in enumerate(solvers):
            speed.plot([], [], color=f"C{i}", label=solver)
            heights = [100 * (D / best(own) - 1) for D in ends(own, "solver")[solver,]]
            final.plot(i + np.linspace(-0.2, 0.2, len(heights)), heights, f"C{i}o", ms=4)
        several = [100 * (p.objective / best(own) - 1) for p in own if p.n_init > 1]
        final.plot(len(solvers) + np.linspace(-0.2, 0.2, len(several)), several, "ko", ms=4)
        ticks = [*solvers, *(f"n_init={p.n_init}" for p in own if p.n_init > 1)][: len(solvers) + 1]
        final.set_xticks(range(len(ticks)), ticks)
        final.set(ylabel="end above the lowest of all, %", title=f"{name}, k = {k}")
        for level in LEVELS:
            speed.axhline(level, color="0.5", alpha=0.5, lw=0.8, zorder=0)
        speed.set(xscale="log", yscale="log", xlabel="seconds", ylabel="relative gap to the best from the same seed",
                  ylim=(1e-6, None), title=f"{name}, k = {k}")  # fmt: skip
        speed.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
