"""Where fits end: the objective that each solver comes to from several starts, and what n_init costs and gains."""

import argparse
import math
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np
from compare_solvers import COMPILING, NAMES, solver_named
from provenance import write_table
from studying import (
    add_outputs,
    check_outputs,
    clocked,
    draw,
    from_to,
    others_busy,
    progress,
    read_matrices,
    refuse_exact_fit,
    tell,
)

from fastpmf import as_counts, kl_divergence, poisson_nmf

DESCRIPTION = """\
The divergence is not convex in both factors, and where a fit ends is a matter of its start. For each file of
counts and each K, fit with every solver from every seed for a fixed number of iterations (tol=0), and score
the factors by the exact divergence, kl_divergence in float64. Solvers have equal starts from equal seeds;
names are those of compare_solvers.py: "+x" is extrapolated, "+r" relaxed. How nearly a fit has come to where
it goes is told by its residual: no change of one factor alone could gain more, in nats per count.

--inits does the same from other starts; NNDSVD's differ from seed to seed by little or nothing.

--restarts N fits with n_init=N too, by the default solver, cd+x, which is then among the solvers, from the
first of --inits. From each seed a single fit and then N starts are clocked, turn about; told are the medians
over the seeds of the ratio of their seconds, and of their objectives. The first of N starts is the single one.

Counts are read and transposed, and kernels compiled, before any clock runs; finding the start is clocked.
Heights are relative, (D - best) / best, to the lowest objective found on the same counts with the same K.
"""
ITERATIONS = {"mu": 2000, "mu+x": 1000, "mu+r": 1000, "em": 1000, "em+x": 1000, "cd": 400, "cd+x": 400}
RESTARTED = "cd+x"  # what poisson_nmf does when it is told nothing else
LINE = "{:<16}{:>5} {:<9} {:<7}{:>7}{:>11}{:>9}" + 3 * "{:>16}" + "{:>10}"
HEAD = ["counts", "k", "start", "solver", "n_init", "iterations", "seconds", "lowest", "median", "highest", "residual"]


class Fit(NamedTuple):
    """A line of the table: one fit, and the objective, in nats, that it ended at."""

    counts: str
    k: int
    init: str
    solver: str
    n_init: int
    seed: int
    iterations: int
    seconds: float
    objective: float
    kkt_residual: float
    dtype: str


Case = tuple[str, int]  # counts and k


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="FILE", help=".npz or .mtx[.gz] (default: the words of Python)")
    parser.add_argument("-k", "--components", nargs="+", type=int, default=[20], metavar="K", help="default: 20")
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)], metavar="S", help="default: 0 1 2 3 4")
    parser.add_argument(
        "--solvers", nargs="+", choices=NAMES, default=["mu", "mu+r", "em", "cd", "cd+x"], metavar="NAME",
        help=f"of {', '.join(NAMES)}; default: mu mu+r em cd cd+x",
    )  # fmt: skip
    parser.add_argument(
        "--iterations", nargs="+", default=[], metavar="NAME=N",
        help=f"default: {' '.join(f'{name}={n}' for name, n in ITERATIONS.items())}",
    )  # fmt: skip
    parser.add_argument("--max-iter", type=int, metavar="N", help="for every fit (default: no other limit)")
    parser.add_argument(
        "--inits", nargs="+", choices=["random", "nndsvd", "nndsvda", "nndsvdar"], default=["random"],
        metavar="NAME", help="of random, nndsvd, nndsvda, nndsvdar; default: random",
    )  # fmt: skip
    parser.add_argument("--restarts", type=int, default=10, metavar="N", help="0 for none; default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all this process may use")
    add_outputs(parser, "compare_starts")
    arguments = parser.parse_args()
    check(parser, arguments)
    matrices = read_matrices(parser, arguments.data)
    if set(arguments.inits) - {"random"}:
        most = min(min(X.shape) for X in matrices.values())
        if max(arguments.components) > most:
            parser.error(f"NNDSVD has as many components as rows and columns at most, here {most}; fewer, -k")
    warnings.filterwarnings("ignore", message=".*carry no counts")  # the objective says what that costs
    busy, fits = others_busy(), []
    tell(LINE.format(*HEAD))
    turns = len(arguments.seeds) * (len(arguments.inits) * len(arguments.solvers) + bool(arguments.restarts))
    with progress(turns * len(matrices) * len(arguments.components), "fit") as tick:
        for name, X in matrices.items():
            counts = as_counts(X)
            for k in arguments.components:
                own = []
                for one in run(name, counts, k, arguments):
                    own.append(one)
                    # As it goes: what there is outlives an interruption
                    write_table(arguments.csv, Fit._fields, [*fits, *own], matrices)
                    tick()
                refuse_exact_fit(parser, min(one.objective for one in own), counts.total, arguments.dtype)
                fits += own
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, fits))
    tell()
    for sentence in [*verdict(fits), *busy]:
        tell(sentence)
    return 0


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Turn away what can't be run, before anything is; name everything once, and say how long each solver goes on."""
    if min(n for n in (*arguments.components, arguments.max_iter, arguments.threads) if n is not None) < 1:
        parser.error("--components, --max-iter and --threads must be at least 1")
    if not 0 <= min(arguments.seeds) <= max(arguments.seeds) < 2**32:
        parser.error("--seeds must be from 0 to 2**32 - 1")
    if arguments.restarts < 0 or arguments.restarts == 1:
        parser.error(f"--restarts must be 0 or at least 2, got {arguments.restarts}")
    budget = dict(ITERATIONS)
    for text in arguments.iterations:
        name, _, n = text.partition("=")
        if name not in NAMES or not n.isdecimal() or int(n) < 1:
            parser.error(f"--iterations must be a solver's name, = and a number of at least 1, got {text}")
        budget[name] = int(n)
    check_outputs(parser, arguments)
    arguments.iterations = {name: min(n, arguments.max_iter or n) for name, n in budget.items()}
    if arguments.restarts:
        arguments.solvers.append(RESTARTED)
    for several in ("components", "seeds", "solvers", "inits"):
        setattr(arguments, several, list(dict.fromkeys(getattr(arguments, several))))


def run(name: str, counts, k: int, arguments: argparse.Namespace) -> Iterator[Fit]:
    """Every fit of these counts; print a line for each solver and kind of start."""
    for init in arguments.inits:
        for solver in arguments.solvers:
            again = solver == RESTARTED and init == arguments.inits[0] and arguments.restarts
            found: dict[int, list[Fit]] = {n_init: [] for n_init in (1, again) if n_init}
            one, max_iter = partial(fit, name, counts, k, arguments, init, solver), arguments.iterations[solver]
            one(1, arguments.seeds[0], COMPILING)
            for seed in arguments.seeds:
                for n_init, own in found.items():
                    own.append(one(n_init, seed, max_iter))
                    yield own[-1]
            for n_init, own in found.items():
                iterations, seconds, residual = (
                    median(getattr(fit, column) for fit in own) for column in ("iterations", "seconds", "kkt_residual")
                )
                ends = [fit.objective for fit in own]
                told = [f"{D:,.1f}" for D in (min(ends), median(ends), max(ends))]
                told = [f"{iterations:.0f}", f"{seconds:.3g}", *told, f"{residual:.1e}"]
                tell(LINE.format(name, k, init, solver, n_init, *told))


def fit(
    name: str, counts, k: int, arguments: argparse.Namespace, init: str, solver: str, n_init, seed, max_iter
) -> Fit:
    """A fit, clocked and scored."""
    solver_, acceleration = solver_named(solver)
    call = partial(
        poisson_nmf, counts, k, solver=solver_, acceleration=acceleration, init=init, n_init=n_init, tol=0,
        max_iter=max_iter, random_state=seed, dtype=arguments.dtype, n_threads=arguments.threads,
    )  # fmt: skip
    solution, seconds = clocked(call)
    objective = kl_divergence(counts, solution.W, solution.H, n_threads=arguments.threads)
    told = [name, k, init, solver, n_init, seed, solution.n_iter, seconds, objective, solution.kkt_residual]
    return Fit(*told, arguments.dtype)


def by_case(fits: list[Fit]) -> dict[Case, list[Fit]]:
    """The fits of each matrix with each number of components."""
    found: dict[Case, list[Fit]] = {}
    for fit in fits:
        found.setdefault((fit.counts, fit.k), []).append(fit)
    return found


def ends_of(fits: list[Fit], *columns: str) -> dict[tuple, list[float]]:
    """Objectives of single fits, by what they have in these columns."""
    found: dict[tuple, list[float]] = {}
    for fit in fits:
        if fit.n_init == 1:
            found.setdefault(tuple(getattr(fit, column) for column in columns), []).append(fit.objective)
    return found


def spread(values: list[float]) -> float:
    """How far the largest is above the least, relatively."""
    return max(values) / min(values) - 1


def verdict(fits: list[Fit]) -> list[str]:
    """What came of it, in words: who ends lowest, how much of it is the start, and what more starts are worth."""
    lines, cases = [], by_case(fits)
    within: dict[str, list[float]] = {}  # spreads over the seeds, by solver
    start_matters = []
    for (name, k), own in cases.items():
        lowest = min(own, key=lambda fit: fit.objective)
        by = f"{lowest.solver}{f' with n_init={lowest.n_init}' if lowest.n_init > 1 else ''}"
        medians = {solver: median(ends) for (solver,), ends in ends_of(own, "solver").items()}
        told = (f"{solver} {D / lowest.objective - 1:.1e}" for solver, D in sorted(medians.items(), key=lambda m: m[1]))
        lines.append(
            f"{name}, k = {k}: lowest {lowest.objective:,.1f} nats, by {by} from {lowest.init}, seed {lowest.seed}; "
            f"single fits end above it in the median by: {', '.join(told)}."
        )
        spreads = [(solver, spread(ends)) for (solver, _), ends in ends_of(own, "solver", "init").items()]
        for solver, height in spreads:
            within.setdefault(solver, []).append(height)
        if len(medians) > 1:
            start_matters.append(median(height for _, height in spreads) > spread([*medians.values()]))
    if len({fit.seed for fit in fits}) > 1:
        told = (f"{solver} {from_to(spreads, '.1e')}" for solver, spreads in within.items())
        lines.append(f"From seed to seed the end of one solver differs by up to: {', '.join(told)}.")
        if start_matters:
            lines.append(
                f"That is more than the solvers' medians differ by in {sum(start_matters)} of {len(start_matters)} "
                "counts and k."
            )
    lines += [*told_inits(fits), *told_restarts(fits)]
    residuals: dict[str, list[float]] = {}
    for fit in fits:
        residuals.setdefault(fit.solver, []).append(fit.kkt_residual)
    told = (f"{solver} {from_to(own, '.1e')}" for solver, own in residuals.items())
    lines.append(f"At the end one factor alone could still gain, in nats per count, at most: {', '.join(told)}.")
    return lines


def told_inits(fits: list[Fit]) -> list[str]:
    """Where there are several kinds of start: how often each had the lowest median, and by how much it was missed."""
    heights: dict[str, list[float]] = {}
    for own in by_case(fits).values():
        for solver in dict.fromkeys(fit.solver for fit in own):
            ends = ends_of([fit for fit in own if fit.solver == solver], "init")
            medians = {init: median(found) for (init,), found in ends.items()}
            for init, D in medians.items():
                heights.setdefault(init, []).append(D / min(medians.values()) - 1)
    if len(heights) < 2:
        return []
    told = (f"{init} lowest in {own.count(0)}, above by up to {max(own):.1e}" for init, own in heights.items())
    return [f"Of the kinds of start, over {len(heights[fits[0].init])} solvers, counts and k: {'; '.join(told)}."]


def told_restarts(fits: list[Fit]) -> list[str]:
    """What n_init costs and gains, where it was asked for."""
    costs, gains, beaten = [], [], 0
    for own in by_case(fits).values():
        several = {fit.seed: fit for fit in own if fit.n_init > 1}
        if several:
            init = next(iter(several.values())).init
            single = {f.seed: f for f in own if (f.solver, f.init, f.n_init) == (RESTARTED, init, 1)}
            costs.append(median(fit.seconds / single[seed].seconds for seed, fit in several.items()))
            best, one = (median(fit.objective for fit in fits.values()) for fits in (several, single))
            gains.append(1 - best / one)
            beaten += best <= min(fit.objective for fit in single.values())
    if not costs:
        return []
    return [
        f"n_init={max(fit.n_init for fit in fits)} takes {from_to(costs, '.2g')} times as long as a single fit, ends "
        f"lower than it by {from_to(gains, '.1e')} (medians over the seeds), and no higher than the best of the "
        f"{len({fit.seed for fit in fits})} single fits in {beaten} of {len(costs)} counts and k."
    ]


def paint(figure, fits: list[Fit]) -> None:
    """A strip for each solver, a colour for each kind of start, a panel for each matrix and number of components."""
    cases = by_case(fits)
    columns = min(len(cases), 3)
    rows = math.ceil(len(cases) / columns)
    figure.set_size_inches(5 * columns, 0.6 + 3.6 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    inits = list(dict.fromkeys(fit.init for fit in fits))
    for axes, ((name, k), own) in zip(panels, cases.items(), strict=False):
        best = min(fit.objective for fit in own)
        strips = list(dict.fromkeys((fit.solver, fit.n_init) for fit in own))
        for i, init in enumerate(inits):
            shown = [fit for fit in own if fit.init == init]
            # Beside one another, so that equal ends can be told from one
            x = [strips.index((fit.solver, fit.n_init)) for fit in shown]
            seeds = [fit.seed for fit in shown]
            beside = np.searchsorted(np.unique(seeds), seeds) / max(len(set(seeds)) - 1, 1) - 0.5
            y = [100 * (fit.objective / best - 1) for fit in shown]
            axes.plot(x + 0.4 * beside, y, f"C{i}o", ms=4, alpha=0.8, label=init if axes is panels[0] else None)
        named = [solver if n_init == 1 else f"{solver},\nn_init={n_init}" for solver, n_init in strips]
        axes.set_xticks(range(len(strips)), named)
        axes.set(title=f"{name}, k = {k}", ylabel="objective above the best, %")
        axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
    if len(inits) > 1:
        figure.legend(loc="outside lower center", ncols=len(inits))


if __name__ == "__main__":
    sys.exit(main())
