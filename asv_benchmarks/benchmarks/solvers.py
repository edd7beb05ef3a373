"""Solvers from one start, for a number of iterations and to a given objective; where fits end from several seeds."""

from statistics import median

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


class Optima:
    """Default fits from several seeds: their time, and the excess of their objectives over the best known one, in %.

    The best known objective is the lowest of all fits in `setup_cache`, which are three times as long as the timed ones
    and begin with the commit's default start. It can therefore be lower for one commit than for another; the objective
    itself is tracked for this reason.
    """

    N_COUNTS, SECONDS, MAX_ITER, SEEDS = 50_000 * scale(), 0.5 * scale(), 100, (0, 1, 2)
    param_names = ("shape", "init")
    params = (names(N_COUNTS, "power_law"), ["random", "merge"])
    timeout = 600

    def setup_cache(self):
        (counts,) = counts_of_shapes(self.N_COUNTS, "power_law").values()
        return counts, min(self.objectives(counts, "auto", max_iter=3 * self.MAX_ITER))

    setup_cache.timeout = 3_600

    def objectives(self, counts, init, **options):
        """Final objective from each seed."""
        given = {"init": init, "max_iter": self.MAX_ITER, "tol": 0.0, **options}
        return [poisson_nmf(counts, N_COMPONENTS, random_state=seed, **given).objective for seed in self.SEEDS]

    def setup(self, cached, shape, init):
        self.counts, self.best = cached
        try:
            self.objectives(self.counts, init)  # a search has more components, whose kernels are compiled too
        except ValueError as error:
            raise NotImplementedError(f"this commit has no init={init!r}") from error

    def excess(self, objectives):
        return 100 * (median(objectives) / self.best - 1)

    def time_fits(self, cached, shape, init):
        self.objectives(self.counts, init)

    def track_objective(self, cached, shape, init):
        return median(self.objectives(self.counts, init))

    track_objective.unit = "nats"

    def track_excess(self, cached, shape, init):
        return self.excess(self.objectives(self.counts, init))

    track_excess.unit = "%"

    def track_excess_at_fixed_time(self, cached, shape, init):
        return self.excess(self.objectives(self.counts, init, max_iter=3 * self.MAX_ITER, max_time=self.SECONDS))

    track_excess_at_fixed_time.unit = "%"
