"""Solvers from one start: what a fixed number of iterations costs and buys, and how long the way to an optimum is."""

from contextlib import ExitStack

import numpy as np

from fastpmf.counts import Side, as_counts
from fastpmf.kernels._jit import threads
from fastpmf.model.factors import padded
from fastpmf.model.init import initialise
from fastpmf.solvers import SOLVERS, Extrapolated, Problem, Run

from .common import counts_of_every_shape, names, power_law, scale

N_COUNTS, N_COMPONENTS, N_ITERATIONS = 300_000 * scale(), 20, 50
CONTENDERS = {name: SOLVERS[name] for name in ("mu", "em", "cd")}
CONTENDERS["cd+x"] = lambda: Extrapolated(SOLVERS["cd"]())
# Coordinate descent, and then extrapolation, are first called, and so compiled, after the warm-up.
N_COMPILING = SOLVERS["cd"]().warm_up + 2


def random_start(counts, n_components):
    return initialise(counts, n_components, "random", 0, np.dtype(np.float64))


def copies(start):
    """Copies of padded factors, on 64-byte boundaries again."""
    return [padded(A, A.dtype) for A in start]


class _FromOneStart:
    """`run` is what is timed: all iterations, and the objective and residual at their end."""

    number = 1  # the start is overwritten

    def prepare(self, solver, counts, start, n_iterations):
        self.problem = Problem(counts, n_components=self.n_components)
        self.solver = CONTENDERS[solver]
        self.open = ExitStack()
        self.open.enter_context(threads())  # as many as an estimator takes
        self.n_iterations, self.start = N_COMPILING, copies(start)
        self.run()
        self.n_iterations, self.start = n_iterations, copies(start)

    def teardown(self, *_):
        if hasattr(self, "open"):  # not where setup found nothing to measure
            self.open.close()

    def run(self):
        run = Run(self.solver(), self.problem, *self.start, tol=0.0, eval_every=self.n_iterations)
        return run.advance(self.n_iterations).finish()


class FixedBudget(_FromOneStart):
    """Fifty iterations of each solver, the first ten of which are multiplicative for coordinate descent too."""

    param_names = ("shape", "solver")
    params = (names(N_COUNTS, "tall", "power_law"), list(CONTENDERS))
    n_components = N_COMPONENTS

    def setup_cache(self):
        return {
            name: (counts, random_start(counts, N_COMPONENTS))
            for name, counts in counts_of_every_shape(N_COUNTS).items()
        }

    def setup(self, cached, shape, solver):
        self.prepare(solver, *cached[shape], N_ITERATIONS)

    def time_50_iterations(self, *_):
        self.run()

    def track_objective(self, *_):
        return self.run().objective

    track_objective.unit = "nats"

    def track_kkt_residual(self, *_):
        return self.run().kkt_residual

    track_kkt_residual.unit = "nats/count"


class TimeToGap(_FromOneStart):
    """How long until the objective is within `gap`, relative, of where a long accelerated fit from this start ends.

    How many iterations that takes is found beforehand: so nothing is measured on the way. From one start, solvers may
    end in different optima; one that isn't there within `AT_MOST` iterations is not available.
    """

    N_COUNTS, AT_MOST = 100_000 * scale(), 5_000
    param_names = ("shape", "solver", "gap")
    # One shape: on the others, multiplicative updates end elsewhere, or take tens of thousands of iterations.
    params = (names(N_COUNTS, "power_law"), list(CONTENDERS), [1e-2, 1e-3])
    n_components = 10  # as many as were planted
    timeout = 600

    def setup_cache(self):
        counts = as_counts(power_law(self.N_COUNTS))
        counts.side(Side.COLUMNS)
        start = random_start(counts, self.n_components)
        with threads():
            long = Run(CONTENDERS["cd+x"](), Problem(counts, self.n_components), *copies(start), tol=0.0)
            reference = long.advance(300).finish().objective
            taken = {solver: self.iterations_to(reference, solver, counts, start) for solver in CONTENDERS}
        return counts, start, taken

    setup_cache.timeout = 3_600

    def iterations_to(self, reference, solver, counts, start):
        """Iterations until within each gap, None where it stays out of reach."""
        gaps = self.params[2]
        run = Run(
            CONTENDERS[solver](),
            Problem(counts, self.n_components),
            *copies(start),
            tol=0.0,
            eval_every=1,
            callback=lambda record, W, H: record.objective <= (1 + min(gaps)) * reference,
        )
        trace = run.advance(self.AT_MOST).finish().trace
        inside = {gap: trace["n_iter"][trace["objective"] <= (1 + gap) * reference] for gap in gaps}
        return {gap: int(n_iter[0]) if len(n_iter) else None for gap, n_iter in inside.items()}

    def setup(self, cached, shape, solver, gap):
        counts, start, taken = cached
        if taken[solver][gap] is None:
            raise NotImplementedError(f"{solver} is not within {gap} after {self.AT_MOST} iterations")
        self.prepare(solver, counts, start, taken[solver][gap])

    def time_to_gap(self, *_):
        self.run()

    def track_iterations(self, *_):
        return self.n_iterations

    track_iterations.unit = "iterations"

    def track_objective(self, *_):
        return self.run().objective

    track_objective.unit = "nats"
