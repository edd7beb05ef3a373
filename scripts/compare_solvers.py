"""Which solver is soonest: objective against seconds, all of them from the same starts."""

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from provenance import write_table
from sklearn.decomposition import non_negative_factorization
from studying import add_outputs, check_outputs, draw, progress, refuse_exact_fit, tell

from fastpmf import as_counts, kl_divergence
from fastpmf.datasets import load_stdlib
from fastpmf.io import read_counts
from fastpmf.kernels._jit import threads
from fastpmf.model.factors import padded
from fastpmf.solvers import SOLVERS, Problem, solver_of

DESCRIPTION = """\
Run several solvers on the same counts from the same random factors, and record the objective, the
exact divergence by kl_divergence in float64, against the seconds that the solver itself has used.
"+x" is a solver with acceleration="extrapolation", "+r" with "relaxation", else with None. From each
seed all run side by side, a fiftieth of the seconds at a time, so that a slow moment of the machine hits all.

Clocked are a solver's set-up and its steps, one after another as a fit does them, with what it computes
for its own use, such as the objective that guards extrapolation. Not clocked are reading and transposing
the counts, compilation (some iterations of each solver that come first and are forgotten), and scoring:
after each of 20 iterations, then whenever 5 % more are done.

--rivals sklearn adds scikit-learn's NMF(solver="mu", beta_loss="kullback-leibler"), on CSR counts in the
same dtype, in calls of at least 10 iterations, each from where the last one ended: such updates have no
memory. Its clock has what each call checks, and the one divergence that it computes, which a fit does
every 10 iterations anyway. It uses one thread for this.

Gaps are relative, (D - best) / best, to the lowest objective that anything here has found: from the same
seed, which is about speed, or from any, which is also about the local optimum that a solver ends in.
"""
ACCELERATION = {"": None, "x": "extrapolation", "r": "relaxation"}
NAMES = [*SOLVERS, *(f"{name}+x" for name in SOLVERS), "mu+r"]
LEVELS = (1e-2, 1e-3, 1e-4)
TURNS = 50  # in which each fit has its seconds
EACH, GROWTH = 20, 0.05  # scored after each of the first 20 iterations, then whenever 5 % more are done
COMPILING = 14  # iterations to compile in: more than coordinate descent warms up for, so that all kernels are called
STRETCH = 10  # iterations in one call of scikit-learn
COLUMNS = ["counts", "k", "solver", "seed", "iteration", "seconds", "objective", "gap_to_seed_best", "gap_to_best"]
LINE = "{:<8}" + 6 * "{:>13}" + "{:>16}{:>12}{:>14}"


def solver_named(name: str) -> tuple[str, str | None]:
    """Solver and acceleration."""
    solver, _, acceleration = name.partition("+")
    return solver, ACCELERATION[acceleration]


class Ours:
    """A solver of fastpmf under way, stepped by hand."""

    stretch = 1

    def __init__(self, name: str, counts, W: np.ndarray, Ht: np.ndarray) -> None:
        self._solver = solver_of(*solver_named(name))()
        self._problem = Problem(counts, W.shape[1])
        self._state = self._solver.init(self._problem, padded(W, W.dtype), padded(Ht, W.dtype))

    def advance(self, n_iter: int) -> int:
        """Do `n_iter` iterations, or fewer where a rate is no longer a positive finite number; how many were done."""
        for i in range(n_iter):
            self._solver.step(self._problem, self._state)
            if math.isnan(self._state.kkt_residual(self._problem.counts.total)):
                return i
        return n_iter

    def objective(self) -> float:
        """The divergence now, in nats."""
        return self._problem.objective(self._state)

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """W and H as they are."""
        W, Ht = (A[:, : self._problem.n_components] for A in self._state.factors)
        return W, Ht.T


class Sklearn:
    """scikit-learn's multiplicative updates under way."""

    stretch = STRETCH

    def __init__(self, floats, W: np.ndarray, Ht: np.ndarray) -> None:
        self._X, self._W, self._H = floats, W.copy(), np.ascontiguousarray(Ht.T)
        self._options = {"init": "custom", "solver": "mu", "beta_loss": "kullback-leibler", "tol": 0}

    def advance(self, n_iter: int) -> int:
        """Do `n_iter` iterations."""
        self._W, self._H, _ = non_negative_factorization(
            self._X, self._W, self._H, self._W.shape[1], max_iter=n_iter, **self._options
        )
        return n_iter

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """W and H as they are."""
        return self._W, self._H


class Curve:
    """What one solver does from one seed: points are (iteration, seconds, objective in nats)."""

    def __init__(self, solver: str, seed: int, begin: Callable[[], Ours | Sklearn], score: Callable) -> None:
        self.solver, self.seed, self._score, self._clock = solver, seed, score, -time.perf_counter()
        self.racer: Ours | Sklearn | None = begin()
        self._clock += time.perf_counter()
        self.points = [(0, self._clock, score(self.racer))]

    def go_on(self, seconds: float, max_iter: int) -> None:
        """Until there are so many seconds on the clock, or so many iterations are done."""
        while self.racer is not None and self._clock < seconds and (n_iter := self.points[-1][0]) < max_iter:
            wanted = max(self.racer.stretch, 1 if n_iter < EACH else int(GROWTH * n_iter))
            wanted = min(wanted, max_iter - n_iter)
            self._clock -= time.perf_counter()
            done = self.racer.advance(wanted)
            self._clock += time.perf_counter()
            self.points.append((n_iter + done, self._clock, self._score(self.racer)))
            if done < wanted:
                self.racer = None
                tell(f"{self.solver}, seed {self.seed}: a rate is not finite after {n_iter + done}")

    @property
    def best(self) -> float:
        """The lowest objective, in nats."""
        return min(D for _, _, D in self.points)

    def reaches(self, objective: float) -> float:
        """Seconds until the objective was first scored at or below this one; inf if it never was."""
        return next((seconds for _, seconds, D in self.points if objective >= D), math.inf)


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="counts, .npz or .mtx[.gz] (default: Python's standard library)")
    parser.add_argument("-k", "--components", type=int, default=20, metavar="K", help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="S", help="starts; default: 0 1 2")
    parser.add_argument("--seconds", type=float, default=20, help="for each fit; default: %(default)s")
    parser.add_argument("--max-iter", type=int, metavar="N", help="for each fit (default: no limit)")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="ours (default: all this process may use)")
    parser.add_argument(
        "--solvers", nargs="+", choices=NAMES, default=["mu", "em", "cd", "cd+x"], help="default: mu em cd cd+x"
    )
    parser.add_argument("--rivals", nargs="+", choices=["sklearn"], default=[], help="default: none")
    add_outputs(parser, "compare_solvers")
    arguments = parser.parse_args()
    check(parser, arguments)
    try:
        counts = as_counts(X := read_counts(arguments.data).X if arguments.data else load_stdlib().X)
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    if counts.total == 0:
        parser.error("the counts are all zero")

    with threads(arguments.threads) as n_threads:
        tell(
            f"{counts.shape[0]:,} x {counts.shape[1]:,} counts, {counts.nnz:,} of them positive; k = "
            f"{arguments.components}, {arguments.dtype}, {n_threads} thread(s), {arguments.seconds:g} s a fit"
        )
        curves = race(counts, X.tocsr().astype(arguments.dtype), arguments)
    seed_best = {seed: min(c.best for c in curves if c.seed == seed) for seed in arguments.seeds}
    refuse_exact_fit(parser, min(seed_best.values()), counts.total, arguments.dtype)
    tell_table(curves, seed_best)
    name = Path(arguments.data).stem if arguments.data else "stdlib"
    write(curves, seed_best, arguments, {name: counts})
    draw(arguments.png, lambda figure: paint(figure, curves, seed_best), figsize=(11, 5))
    tell()
    for sentence in verdict(curves, seed_best):
        tell(sentence)
    return 0


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Turn away what can't be run, before anything is; name every solver and seed once."""
    if min(n for n in (arguments.components, arguments.max_iter, arguments.threads) if n is not None) < 1:
        parser.error("--components, --max-iter and --threads must be at least 1")
    if min(arguments.seeds) < 0:
        parser.error(f"--seeds must be at least 0, got {min(arguments.seeds)}")
    if not 0 < arguments.seconds < math.inf:
        parser.error(f"--seconds must be a positive finite number, got {arguments.seconds:g}")
    check_outputs(parser, arguments)
    arguments.seeds = list(dict.fromkeys(arguments.seeds))
    arguments.solvers = list(dict.fromkeys([*arguments.solvers, *arguments.rivals]))


def race(counts, floats, arguments: argparse.Namespace) -> list[Curve]:
    """Every solver from every seed; with a bar, where tqdm is installed."""

    def begin(name: str) -> Ours | Sklearn:
        return Sklearn(floats, *factors) if name == "sklearn" else Ours(name, counts, *factors)

    def score(racer: Ours | Sklearn) -> float:
        return kl_divergence(counts, *racer.factors(), n_threads=arguments.threads)

    turns, curves = np.linspace(0, arguments.seconds, TURNS + 1)[1:], []
    with progress(TURNS * len(arguments.seeds)) as tick:
        for seed in arguments.seeds:
            factors = start(counts, arguments.components, seed, np.dtype(arguments.dtype))
            for name in () if curves else arguments.solvers:
                compiled = begin(name)
                compiled.advance(COMPILING if isinstance(compiled, Ours) else 1)
                score(compiled)
            fits = [Curve(name, seed, partial(begin, name), score) for name in arguments.solvers]
            for until in turns:
                for fit in fits:
                    fit.go_on(until, arguments.max_iter or sys.maxsize)
                tick()
            for fit in fits:
                fit.racer = None  # its factors can go
            curves += fits
    return curves


def start(counts, n_components: int, seed: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """W and H transposed, uniform between 0.1 and 1, then scaled so that sum(W H) = sum(X)."""
    rng = np.random.default_rng(seed)
    W, Ht = (rng.uniform(0.1, 1, (n, n_components)) for n in counts.shape)
    scale = math.sqrt(counts.total / (W.sum(axis=0) @ Ht.sum(axis=0)))
    return (scale * W).astype(dtype), (scale * Ht).astype(dtype)


def tell_table(curves: list[Curve], seed_best: dict[int, float]) -> None:
    """Print the bests and the table."""

    def told(seconds: list[float]) -> str:
        middle, reached = median(seconds), sum(map(math.isfinite, seconds))
        some = f" ({reached}/{len(seconds)})" if 0 < reached < len(seconds) else ""
        return (f"{middle:.3g}" if math.isfinite(middle) else "-") + some

    for seed, objective in seed_best.items():
        by = next(c.solver for c in curves if c.seed == seed and c.best == objective)
        tell(f"best from seed {seed}: {objective:.2f} nats, by {by}")
    tell(f"best of all: {(best := min(seed_best.values())):.2f} nats\n")
    tell("Seconds to within these gaps, medians over the seeds; (2/3): it came there from two seeds of three.")
    tell(LINE.format("", "to the seed's", "best", "", "to the best", "of all", *4 * [""]).rstrip())
    levels = [f"{at:g}" for at in LEVELS]
    tell(LINE.format("solver", *levels, *levels, "objective, nats", "iterations", "ms/iteration"))
    for name, own in by_solver(curves).items():
        times = [told([c.reaches((1 + at) * seed_best[c.seed]) for c in own]) for at in LEVELS]
        times += [told([c.reaches((1 + at) * best) for c in own]) for at in LEVELS]
        n_iter, _, objective = (median(values) for values in zip(*(c.points[-1] for c in own), strict=True))
        pace = median(1e3 * c.points[-1][1] / max(c.points[-1][0], 1) for c in own)
        tell(LINE.format(name, *times, f"{objective:.2f}", f"{n_iter:.0f}", f"{pace:.3g}"))


def by_solver(curves: list[Curve]) -> dict[str, list[Curve]]:
    """The curves of each solver."""
    return {name: [c for c in curves if c.solver == name] for name in dict.fromkeys(c.solver for c in curves)}


def verdict(curves: list[Curve], seed_best: dict[int, float], at: float = 1e-3) -> list[str]:
    """What came of it, in words: who was soonest, by how much, and who lost."""
    reached, least, missed, ends = {}, {}, {}, {}
    for name, own in by_solver(curves).items():
        times = [c.reaches((1 + at) * seed_best[c.seed]) for c in own]
        reached[name], missed[name] = median(times), sum(map(math.isinf, times))
        # Where it did not get there, it took more than it had
        least[name] = median(min(t, c.points[-1][1]) for t, c in zip(times, own, strict=True))
        ends[name] = median(c.points[-1][2] for c in own)
    base = "mu" if "mu" in ends else next(iter(ends))
    soonest, lowest = (min(values, key=values.__getitem__) for values in (reached, ends))

    def against(name: str, other: str) -> str:
        bound = "more than " if math.isinf(reached[name]) else ""
        return f"{name} took {bound}{least[name]:.3g} s, {least[name] / reached[other]:.2g} times as long"

    if math.isinf(reached[soonest]):
        lines = [f"No solver came within {at:g} of the seed's best from more than half of the seeds."]
    else:
        others = [base] if base != soonest else sorted({*ends} - {base}, key=least.__getitem__)[:1]
        said = f"Soonest to within {at:g} of the seed's best: {soonest}, in {reached[soonest]:.3g} s"
        lines = ["; ".join([said, *(against(name, soonest) for name in others)]) + "."]
    if late := [against(n, base) for n in ends if n != base and reached[base] < least[n]]:
        lines.append(f"Later than {base}: {'; '.join(late)}.")
    if never := [f"{n} {m}" for n, m in missed.items() if m]:
        lines.append(f"Seeds, of {len(seed_best)}, from which it was not there in the time: {', '.join(never)}.")
    higher = [f"{n} by {D / ends[lowest] - 1:.1e}" for n, D in ends.items() if n != lowest]
    lines.append(f"Lowest at the end (median): {lowest}; relatively higher: {', '.join(higher) or 'none'}.")
    spread = max(seed_best.values()) / min(seed_best.values()) - 1
    if len(seed_best) > 1:
        lines.append(f"Seeds' bests differ by up to {spread:.1e}: smaller differences may be the local optima met.")
    return lines


def write(curves: list[Curve], seed_best: dict[int, float], arguments: argparse.Namespace, counts: dict) -> None:
    """One line for each point of each curve."""
    best, told = min(seed_best.values()), [*counts, arguments.components]
    rows = [
        [*told, c.solver, c.seed, n, seconds, D, D / seed_best[c.seed] - 1, D / best - 1]
        for c in curves
        for n, seconds, D in c.points
    ]
    write_table(arguments.csv, COLUMNS, rows, counts)
    tell(f"\ntable: {arguments.csv}")


def paint(figure, curves: list[Curve], seed_best: dict[int, float]) -> None:
    """Gap against seconds, to the seed's best and to the best of all."""
    panels, best = figure.subplots(1, 2, sharey=True), min(seed_best.values())
    for axes, title in zip(panels, ("to the best from that seed", "to the best of all"), strict=True):
        for i, (name, own) in enumerate(by_solver(curves).items()):
            for c in own:
                _, seconds, objective = np.array(c.points[1:]).T
                gap = objective / (best if axes is panels[1] else seed_best[c.seed]) - 1
                label = name if c is own[0] else None
                axes.plot(seconds[gap > 0], gap[gap > 0], color=f"C{i}", lw=1, label=label)
        axes.set(xscale="log", yscale="log", xlabel="seconds of the solver", title=title)
        for at in LEVELS:
            axes.axhline(at, color="0.85", lw=0.8, zorder=0)
    panels[0].set(ylabel="relative gap of the objective", ylim=(1e-6, None))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


if __name__ == "__main__":
    sys.exit(main())
