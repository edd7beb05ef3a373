"""Solvers with a fixed budget from one start: how soon they are through, and what that bought."""

import numpy as np

from fastpmf.model.factors import padded
from fastpmf.model.init import initialise
from fastpmf.solvers import SOLVERS, Problem, solve

from .common import counts_of_every_shape, names, scale

N_COUNTS, N_COMPONENTS = 300_000 * scale(), 20


class MultiplicativeFixedBudget:
    """Fifty iterations of the multiplicative updates."""

    param_names = ("shape",)
    params = (names(N_COUNTS),)
    number = 1  # the start is overwritten

    def setup_cache(self):
        return {
            name: (counts, initialise(counts, N_COMPONENTS, "random", 0, np.dtype(np.float64)))
            for name, counts in counts_of_every_shape(N_COUNTS).items()
        }

    def setup(self, cached, shape):
        counts, start = cached[shape]
        self.problem = Problem(counts, N_COMPONENTS)
        self.run(1, copies(start))  # compiles
        self.start = copies(start)

    def run(self, n_iterations, start):
        return solve(SOLVERS["mu"](), self.problem, *start, max_iter=n_iterations, tol=0.0, eval_every=n_iterations)

    def time_50_iterations(self, *_):
        self.run(50, self.start)

    def track_objective(self, *_):
        return self.run(50, self.start).objective

    track_objective.unit = "nats"

    def track_kkt_residual(self, *_):
        return self.run(50, self.start).kkt_residual

    track_kkt_residual.unit = "nats/count"


def copies(start):
    """Copies of padded factors, on 64-byte boundaries again."""
    return [padded(A, A.dtype) for A in start]
