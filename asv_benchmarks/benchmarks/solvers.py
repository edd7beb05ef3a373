"""Solvers from the same start: a fixed number of iterations, and the time to a given objective."""

from fastpmf import poisson_nmf

from .common import N_COMPONENTS, counts_of_shapes, names, random_start, scale

CONTENDERS = {
    "cd+x": {"solver": "cd", "acceleration": "extrapolation"},
    "cd": {"solver": "cd", "acceleration": None},
    "mu+r": {"solver": "mu", "acceleration": "relaxation"},
    "mu": {"solver": "mu"},
    "em": {"solver": "em"},
}
# Coordinate descent and extrapolation begin after ten multiplicative iterations, and are compiled then
N_COMPILING = 12


def fit(counts, start, solver, n_iterations, **options):
    """A fit of `n_iterations` iterations; objective and residual are evaluated at the end only."""
    given = {"init": "custom", **start, **CONTENDERS[solver], "max_iter": n_iterations, "tol": 0.0}
    return poisson_nmf(counts, start["W"].shape[1], **given, **{"eval_every": n_iterations, **options})


class FixedBudget:
    """Fifty iterations of each solver. The first ten of coordinate descent are multiplicative updates."""

    N_COUNTS = 100_000 * scale()
    param_names = ("shape", "solver")
    params = (names(N_COUNTS, "power_law"), list(CONTENDERS))

    def setup_cache(self):
        return {
            name: (counts, random_start(counts.shape, counts.total, N_COMPONENTS))
            for name, counts in counts_of_shapes(self.N_COUNTS, "power_law").items()
        }

    def setup(self, cached, shape, solver):
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
    """Time until the objective is within 2 % of that of a long fit by the default solver.

    The number of iterations is found in `setup_cache`, so that the objective is not evaluated while a fit is timed.
    Solvers may converge to different optima from the same start; one that does not reach the objective within
    `MAX_ITER` iterations is skipped.
    """

    N_COUNTS, GAP, MAX_ITER = 50_000 * scale(), 0.02, 500
    param_names = ("shape", "solver")
    # For other shapes multiplicative updates end in another optimum, or take tens of thousands of iterations
    params = (names(N_COUNTS, "power_law"), list(CONTENDERS))
    timeout = 600

    def setup_cache(self):
        (counts,) = counts_of_shapes(self.N_COUNTS, "power_law").values()
        start = random_start(counts.shape, counts.total, N_COMPONENTS)
        goal = (1 + self.GAP) * fit(counts, start, "cd+x", 150).objective
        return counts, start, {solver: self.iterations_to(goal, counts, start, solver) for solver in self.params[1]}

    setup_cache.timeout = 3_600

    def iterations_to(self, goal, counts, start, solver):
        """Number of iterations until the objective is at most `goal`; None if it does not get there."""
        trace = fit(
            counts, start, solver, self.MAX_ITER, eval_every=1, callback=lambda record, W, H: record.objective <= goal
        ).trace
        return int(trace["n_iter"][-1]) if trace["objective"][-1] <= goal else None

    def setup(self, cached, shape, solver):
        self.counts, self.start, iterations = cached
        if iterations[solver] is None:
            raise NotImplementedError(f"{solver} does not reach the objective in {self.MAX_ITER} iterations")
        self.solver, self.n_iterations = solver, iterations[solver]
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
