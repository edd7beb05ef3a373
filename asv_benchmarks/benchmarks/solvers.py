"""Solvers from one start: what a fixed number of iterations costs and buys, and how long the way to an optimum is."""

import inspect

from fastpmf import poisson_nmf
from fastpmf.solvers import SOLVERS

from .common import N_COMPONENTS, counts_of_shapes, names, random_start, scale

CONTENDERS = {
    "cd+x": {"solver": "cd", "acceleration": "extrapolation"},
    "cd": {"solver": "cd", "acceleration": None},
    "mu+r": {"solver": "mu", "acceleration": "relaxation"},
    "mu": {"solver": "mu"},
    "em": {"solver": "em"},
}
# Coordinate descent, and then extrapolation, are first called, and so compiled, after ten iterations of warming up.
N_COMPILING = 12


def offered(solver: str) -> bool:
    """Whether this version has it."""
    options = CONTENDERS[solver]
    return options["solver"] in SOLVERS and options.keys() <= inspect.signature(poisson_nmf).parameters.keys()


def fit(counts, start, solver, n_iterations, **options):
    """All iterations, and the objective and residual at their end."""
    given = {"init": "custom", **start, **CONTENDERS[solver], "max_iter": n_iterations, "tol": 0.0}
    return poisson_nmf(counts, start["W"].shape[1], **given, **{"eval_every": n_iterations, **options})


class FixedBudget:
    """Fifty iterations of each solver, the first ten of which are multiplicative for coordinate descent too."""

    N_COUNTS = 100_000 * scale()
    param_names = ("shape", "solver")
    params = (names(N_COUNTS, "power_law"), list(CONTENDERS))

    def setup_cache(self):
        return {
            name: (counts, random_start(counts.shape, counts.total, N_COMPONENTS))
            for name, counts in counts_of_shapes(self.N_COUNTS, "power_law").items()
        }

    def setup(self, cached, shape, solver):
        if not offered(solver):
            raise NotImplementedError(f"this version has no {solver}")
        fit(*cached[shape], solver, N_COMPILING)

    def time_50_iterations(self, cached, shape, solver):
        fit(*cached[shape], solver, 50)

    def track_objective(self, cached, shape, solver):
        return fit(*cached[shape], solver, 50).objective

    track_objective.unit = "nats"

    def track_kkt_residual(self, cached, shape, solver):
        return fit(*cached[shape], solver, 50).kkt_residual

    track_kkt_residual.unit = "nats/count"


class TimeToGap:
    """How long until the objective is within two per cent of where a long fit of the default solver ends.

    How many iterations that takes is found beforehand: so nothing is measured on the way. From one start, solvers may
    end in different optima; one that isn't there within `AT_MOST` iterations is not available.
    """

    N_COUNTS, GAP, AT_MOST = 50_000 * scale(), 0.02, 500
    param_names = ("shape", "solver")
    # One shape: on the others, multiplicative updates end elsewhere, or take tens of thousands of iterations.
    params = (names(N_COUNTS, "power_law"), list(CONTENDERS))
    timeout = 600

    def setup_cache(self):
        (counts,) = counts_of_shapes(self.N_COUNTS, "power_law").values()
        start = random_start(counts.shape, counts.total, N_COMPONENTS)
        if not offered("cd+x"):  # then there is no goal that later versions share
            return counts, start, {}
        goal = (1 + self.GAP) * fit(counts, start, "cd+x", 150).objective
        return counts, start, {solver: self.iterations_to(goal, counts, start, solver) for solver in self.params[1]}

    setup_cache.timeout = 3_600

    def iterations_to(self, goal, counts, start, solver):
        """Iterations until at the goal, None where it stays out of reach."""
        trace = fit(
            counts, start, solver, self.AT_MOST, eval_every=1, callback=lambda record, W, H: record.objective <= goal
        ).trace
        return int(trace["n_iter"][-1]) if trace["objective"][-1] <= goal else None

    def setup(self, cached, shape, solver):
        self.counts, self.start, taken = cached
        if taken.get(solver) is None:
            raise NotImplementedError(f"not in this version, or {solver} is not there after {self.AT_MOST} iterations")
        self.solver, self.n_iterations = solver, taken[solver]
        fit(self.counts, self.start, solver, N_COMPILING)

    def run(self):
        return fit(self.counts, self.start, self.solver, self.n_iterations)

    def time_to_gap(self, *_):
        self.run()

    def track_iterations(self, *_):
        return self.n_iterations

    track_iterations.unit = "iterations"

    def track_objective(self, *_):
        return self.run().objective

    track_objective.unit = "nats"
