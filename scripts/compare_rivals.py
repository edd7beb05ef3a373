"""Which package is soonest, and where each ends: objective against seconds on the same counts."""

import argparse
import importlib
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from compare_solvers import EACH, GROWTH, LEVELS, start
from provenance import describe, write_table
from rivals import OURS, RIVALS, SAME, Racer, Setup
from scipy.optimize import minimize_scalar
from studying import add_outputs, check_outputs, draw, progress, refuse_exact_fit, tell

from fastpmf import as_counts, kl_divergence
from fastpmf.counts import Side
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import read_counts
from fastpmf.kernels._jit import available_threads, threads

DESCRIPTION = """\
Fit the same counts with fastpmf and with every other package that is installed, the same number of
components and the same seconds each, and score all by one objective: the exact divergence by
kl_divergence in float64, of the factors after the best scale of each row. With rates s_i (W H)_ij that
is s_i = x_i+ / (W_i . sum_j H_j), exactly, whatever W and H are: what turns shares into rates, and gains
nothing where the factors are optimal already. Negative entries count as 0. Where a rate is then 0 under
a positive count, the divergence is infinite; such factors get one more component, x_i+ x_+j / x_++, at its
best weight, and a mark (*): a gift, so that they can be scored at all.

Packages that minimise this divergence and those that fit another model (problem: HPF, LDA, least squares)
stand in one table; the latter's objective says what their factors are worth as rates, not how well
they do what they are for. Who can be given a start gets the same uniform random one (start: given).

Clocked are set-up, with checks, copies and transposition, and iterations; not imports, compilation or
scoring. Rivals are given CSR counts in the dtype worked in, fastpmf the counts as they are. Who can go on
from where it was does so; others are fitted from scratch at growing numbers of iterations, each fit one
point. Each has a process of its own, one after another. "threads" is what it is given, "cores" what it
used on average, dtype that of its factors, n its iterations. It may overrun: no call is cut short, unless
there is no sign of life for --patience seconds. What fails is in the table with its error.
"""
LINE = "{:<18}{:<24}{:<7}{:>7}{:>6} {:<9}{:>6}{:>9}{:>15}{:>10}{:>10}{:>10}{:>9}"
HEAD = ["", "problem", "start", "threads", "cores", "dtype", "n", "seconds", "objective", "gap", "1%", "0.1%", "ratio"]
COLUMNS = ["counts", "k", "rival", "version", "problem", "start", "threads", "cores", "dtype", "seed"]
COLUMNS += ["iteration", "seconds", "objective", "gap", "weight", "error"]


@dataclass
class Curve:
    """What one package does: points are (iteration, seconds, objective in nats, weight of the gift)."""

    name: str
    racer: type[Racer]
    n_threads: int
    points: list[tuple[int, float, float, float]] = field(default_factory=list)
    cores: float = math.nan
    dtype: str = ""
    error: str = ""

    @property
    def best(self) -> float:
        """The lowest objective, in nats."""
        return min((D for _, _, D, _ in self.points), default=math.inf)

    @property
    def marked(self) -> str:
        """A star, where what was scored had a component more."""
        return "*" if any(weight for *_, weight in self.points) else ""

    def reaches(self, objective: float) -> float:
        """Seconds until the objective was first scored at or below this one; inf if it never was."""
        return min((seconds for _, seconds, D, _ in self.points if objective >= D), default=math.inf)


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="counts, .npz or .mtx[.gz] (default: drawn from the model)")
    parser.add_argument("--rows", type=int, default=2000, metavar="N", help="drawn; default: %(default)s")
    parser.add_argument("--columns", type=int, default=3000, metavar="P", help="drawn; default: %(default)s")
    parser.add_argument("--nnz", type=int, default=200_000, help="nonzeros to expect, drawn; default: %(default)s")
    parser.add_argument("-k", "--components", type=int, default=20, metavar="K", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw and the start; default: 0")
    parser.add_argument("--seconds", type=float, default=10, help="for each; default: %(default)s")
    parser.add_argument("--patience", type=float, default=180, metavar="S", help="default: %(default)s, plus --seconds")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="for each (default: all this process may use)")
    parser.add_argument(
        "--rivals", nargs="+", choices=[*RIVALS], default=[*RIVALS], metavar="NAME", help=f"of {', '.join(RIVALS)}"
    )
    add_outputs(parser, "compare_rivals")
    arguments = parser.parse_args()
    check(parser, arguments)
    truth = None
    try:
        if arguments.data:
            name, X = Path(arguments.data).stem, read_counts(arguments.data).X
        else:
            name, k = "drawn", arguments.components
            X, *truth = make_poisson_counts(
                arguments.rows, arguments.columns, k, nnz=arguments.nnz, skew=0.5, random_state=arguments.seed
            )
        counts = as_counts(X)
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    if counts.total == 0:
        parser.error("the counts are all zero")
    n_threads = arguments.threads or available_threads()
    tell(
        f"{name}, {describe(counts)}; k = {arguments.components}, {arguments.dtype} where there is a choice, "
        f"{n_threads} thread(s), {arguments.seconds:g} s each"
    )
    curves, missing = [], []
    with progress(len(OURS) + len(arguments.rivals)) as tick:
        for rival, racer in (OURS | {n: RIVALS[n] for n in arguments.rivals}).items():
            if racer.version() is None:
                missing.append(rival)
            else:
                curves.append(watch(Curve(rival, racer, n_threads if racer.parallel else 1), X, arguments))
                write(curves, arguments, {name: counts})  # as it goes: what there is outlives an interruption
            tick()
    best = min((c.best for c in curves), default=math.inf)
    if math.isinf(best):
        tell("\n".join(f"{c.name} failed: {c.error}" for c in curves))
        parser.error("nothing came to a finite objective")
    refuse_exact_fit(parser, best, counts.total, arguments.dtype)
    tell_table(curves, best)
    if missing:
        tell(f"not installed: {', '.join(missing)}")
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, curves, best), figsize=(10, 6))
    tell()
    reference = score(counts, *truth) if truth else None
    for sentence in verdict(curves, missing, reference):
        tell(sentence)
    return 0


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Turn away what can't be run, before anything is; name every rival once."""
    if min(n for n in (arguments.components, arguments.threads) if n is not None) < 1:
        parser.error("--components and --threads must be at least 1")
    if not 0 <= arguments.seed < 2**31:
        parser.error(f"--seed must be from 0 to 2**31 - 1, got {arguments.seed}")
    if not (0 < arguments.seconds < math.inf and 0 < arguments.patience < math.inf):
        parser.error("--seconds and --patience must be positive finite numbers")
    check_outputs(parser, arguments)
    arguments.rivals = list(dict.fromkeys(arguments.rivals))


def watch(curve: Curve, X, arguments: argparse.Namespace) -> Curve:
    """Have a fresh process run one package, so that none disturbs another, and take down what it reports."""
    limits = {f"{name}_NUM_THREADS": str(curve.n_threads) for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=run, args=(theirs, curve.racer, curve.n_threads, X, arguments), daemon=True)
    with patch.dict(os.environ, limits):  # known before anything is imported there
        process.start()
    theirs.close()
    patience = arguments.patience + arguments.seconds
    try:
        while True:
            if not ours.poll(patience):
                curve.error = f"no sign of life for {patience:g} s"
                break
            what, value = ours.recv()
            if what == "point":
                curve.points.append(value)
            else:
                setattr(curve, what, value)
    except EOFError:  # it has ended
        process.join()
        if process.exitcode and not curve.error:
            curve.error = f"its process died with exit code {process.exitcode}"
    finally:
        process.kill()
    return curve


def run(pipe, racer: type[Racer], n_threads: int, X, arguments: argparse.Namespace) -> None:
    """In the fresh process: send what there is to say, as it comes."""
    warnings.simplefilter("ignore")
    try:
        counts, dtype = as_counts(X), np.dtype(arguments.dtype)
        factors = start(counts, arguments.components, arguments.seed, dtype)
        setup = Setup(X, X.tocsr().astype(dtype), *factors, arguments.seed, n_threads)
        importlib.import_module(racer.module)
        with threads(n_threads):
            if racer.compiling:
                racer(setup).advance(racer.compiling)
            for point, fit, cores in race(racer, setup, arguments.seconds):
                W, H = fit.factors()
                pipe.send(("dtype", str(np.result_type(W, H))))
                pipe.send(("cores", cores))
                pipe.send(("point", (*point, *score(counts, W, H))))
    except Exception as error:  # whatever it is, it belongs in the table
        lines = str(error).strip().splitlines() or [""]
        pipe.send(("error", f"{type(error).__name__}: {lines[0]}"))


def race(racer: type[Racer], setup: Setup, budget: float) -> Iterator[tuple[tuple[int, float], Racer, float]]:
    """((iterations, seconds), fit, cores used on average) until the seconds are spent."""

    def clocked(call: Callable) -> tuple[Any, float]:
        began, cpu = time.perf_counter(), time.process_time()
        result = call()
        spent.append(time.perf_counter() - began)
        used.append(time.process_time() - cpu)
        return result, spent[-1]

    spent: list[float] = []
    used: list[float] = []
    fit, set_up = clocked(partial(racer, setup))
    clock, n_iter, wanted = set_up, 0, racer.stretch
    while wanted > 0 and clock < budget:
        _, seconds = clocked(partial(fit.advance, wanted))
        clock = set_up + seconds if racer.again else clock + seconds
        n_iter = wanted if racer.again else n_iter + wanted
        yield (n_iter, clock), fit, sum(used) / sum(spent)
        if racer.again:  # twice as many, or what the budget is good for
            affordable = int(n_iter * (budget - set_up) / seconds)
            wanted = min(2 * n_iter, affordable) if affordable > n_iter else 0
        else:
            wanted = max(racer.stretch, 1 if n_iter < EACH else int(GROWTH * n_iter))


def score(counts, W: np.ndarray, H: np.ndarray) -> tuple[float, float]:
    """Divergence at the best scale of each row; and the weight of the gift, 0 where none was needed."""
    W, H = (np.maximum(A, 0, dtype=np.float64) for A in (W, H))
    rows, columns, sums = counts.sums(Side.ROWS), counts.sums(Side.COLUMNS), W @ H.sum(axis=1)
    W *= np.divide(rows, sums, out=np.zeros(len(rows)), where=sums > 0)[:, None]
    objective = kl_divergence(counts, W, H)
    if math.isfinite(objective):
        return objective, 0.0
    H = np.vstack([H, columns / counts.total])

    def mixed(log_weight: float) -> float:
        weight = math.exp(log_weight)
        return kl_divergence(counts, np.hstack([(1 - weight) * W, weight * rows[:, None]]), H)

    found = minimize_scalar(mixed, bounds=(math.log(1e-9), 0), method="bounded", options={"xatol": 0.05})
    return min((float(found.fun), math.exp(found.x)), (mixed(0.0), 1.0))  # the search comes near its bounds only


def tell_table(curves: list[Curve], best: float) -> None:
    """Print the table, and under it what failed."""
    ours = curves[0]
    tell(LINE.format(*HEAD).rstrip())
    for c in curves:
        told = [c.name, c.racer.problem, c.racer.start, c.n_threads]
        if not c.points:
            tell(LINE.format(*told, *["-"] * 9))
            continue
        times = [c.reaches((1 + at) * best) for at in LEVELS[:2]]
        times += [c.reaches(c.best) / ours.reaches(c.best) if c is not ours else math.inf]
        told += [f"{c.cores:.1f}", c.dtype, c.points[-1][0], f"{c.points[-1][1]:.2f}"]
        told += [f"{c.best:.1f}{c.marked or ' '}", f"{c.best / best - 1:.1e}"]
        told += [f"{t:.3g}" if 0 < t < math.inf else "-" for t in times]
        tell(LINE.format(*told))
    tell(
        "objective: the lowest, in nats; within 1 %, 0.1 % of the best of all: seconds; ratio: of its seconds to its "
        "lowest objective\nto those of fastpmf to the same."
    )
    if any(c.marked for c in curves):
        tell("*: scored with one component more, for it had rates of 0 under positive counts.")
    for c in curves:
        if c.error:
            tell(f"{c.name} {'failed' if not c.points else 'was stopped'}: {c.error}")


def write(curves: list[Curve], arguments: argparse.Namespace, counts: dict) -> None:
    """One line for each point of each curve; and one for what failed. Gaps are to the best of these curves."""
    rows, best = [], min(c.best for c in curves)
    for c in curves:
        told = [*counts, arguments.components, c.name, c.racer.version(), c.racer.problem, c.racer.start]
        told += [c.n_threads, f"{c.cores:.2f}", c.dtype, arguments.seed]
        rows += [
            [*told, n, seconds, D, D / best - 1 if best > 0 else math.nan, weight, ""]
            for n, seconds, D, weight in c.points
        ]
        if c.error:
            rows.append([*told, "", "", "", "", "", c.error])
    write_table(arguments.csv, COLUMNS, rows, counts)


def paint(figure: Any, curves: list[Curve], best: float) -> None:
    """Gap against seconds; dashed is what solves another problem."""
    from matplotlib import colormaps

    axes = figure.subplots()
    for i, c in enumerate(c for c in curves if c.points):
        _, seconds, objective, _ = np.array(sorted(c.points, key=lambda point: point[1])).T
        gap, style = np.maximum(objective / best - 1, 1e-5), "-" if c.racer.problem == SAME else "--"
        label = c.name if c.racer.problem == SAME else f"{c.name}{c.marked}: {c.racer.problem}"
        color = colormaps["tab20"](2 * i % 20 + (i >= 10))
        axes.plot(seconds, gap, style, color=color, lw=2.5 if i == 0 else 1.2, marker=".", ms=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylim=(0.8e-5, None))
    axes.set(ylabel="relative gap of the objective to the best of all (1e-5 or less)")
    for at in LEVELS:
        axes.axhline(at, color="0.85", lw=0.8, zorder=0)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")


def verdict(curves: list[Curve], missing: list[str], reference: tuple[float, float] | None) -> list[str]:
    """What came of it, in words: where fastpmf ends, who comes near, who is lower, who fits something else."""
    ours, fitted = curves[0], [c for c in curves if c.points]
    lowest = min(fitted, key=lambda c: c.best)
    rivals = [c for c in fitted if c.name not in OURS]
    same, others = ([c for c in rivals if (c.racer.problem == SAME) is wanted] for wanted in (True, False))
    behind = f"; fastpmf ends higher by {ours.best / lowest.best - 1:.1e}" if lowest is not ours else ""
    lines = [f"Lowest of all: {lowest.name}, {lowest.best:.1f} nats after {lowest.reaches(lowest.best):.3g} s{behind}."]
    if reference:
        lines.append(f"The factors that the counts were drawn from have {reference[0]:.1f}: what is below fits noise.")
    if same:
        said = []
        for c in sorted(same, key=lambda c: c.best):
            mine = ours.reaches(c.best)
            came = f"{mine:.3g} s" if math.isfinite(mine) else "never"
            said.append(f"{c.name} {c.best / lowest.best - 1:.1e} after {c.reaches(c.best):.3g} s ({came})")
        lines.append(f"Rivals at the same problem end above it by (and fastpmf is there after): {', '.join(said)}.")
    if others:
        said = [f"{c.name}{c.marked} {c.best / lowest.best - 1:.1e}" for c in sorted(others, key=lambda c: c.best)]
        lines.append(f"Others fit another model, and their factors as rates lie above it by: {', '.join(said)}.")
    failed = [c.name for c in curves if c.error]
    lines.append(f"Failed or stopped: {', '.join(failed) or 'none'}; not installed: {', '.join(missing) or 'none'}.")
    return lines


if __name__ == "__main__":
    sys.exit(main())
