"""Time and parallel efficiency by the number of threads."""

import numpy as np

from fastpmf import poisson_nmf
from fastpmf.core.counts import Side
from fastpmf.core.factors import empty_factor, padded
from fastpmf.kernels.threads import available_threads, threads

from .common import N_COMPONENTS, counts_of_shapes, median_seconds, names, scale, subproblem_of_rows

N_COUNTS, N_COUNTS_FIT = 500_000 * scale(), 100_000 * scale()
N_THREADS = [2**i for i in range(available_threads().bit_length())]


class _Threaded:
    """The method `run(n_threads)` is timed."""

    repeats = 7

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS, "power_law", "giant_rows") | counts_of_shapes(N_COUNTS_FIT, "power_law")

    def efficiency(self, n_threads: int) -> float:
        """Time with one thread divided by n times the time with n threads; for n = 1 it shows the noise."""
        one, several = median_seconds(lambda: self.run(1), lambda: self.run(n_threads), repeats=self.repeats)
        return one / (n_threads * several)


class Kernels(_Threaded):
    """A pass over the counts in blocks, with giant rows split; 32 components in float32."""

    param_names = ("kernel", "shape", "n_threads")
    params = (["contract", "descend"], names(N_COUNTS, "power_law", "giant_rows"), N_THREADS)

    def setup(self, cached, kernel, shape, n_threads):
        self.counts = cached[shape]
        rng = np.random.default_rng(0)
        self.U, self.V = (padded(rng.random((m, 32)) + 0.5, np.dtype("float32")) for m in self.counts.shape)
        self.out, self.subproblem = empty_factor(len(self.U), 32, self.U.dtype), subproblem_of_rows(self.V, 32)
        self.kernel = getattr(self, kernel)
        self.run(n_threads)  # compiles

    def contract(self):
        self.counts.contract(Side.ROWS, self.U, self.V, self.out)

    def descend(self):
        self.counts.descend(self.subproblem, self.U, self.out, sweeps=2)

    def run(self, n_threads):
        with threads(n_threads):
            self.kernel()

    def time_kernel(self, cached, kernel, shape, n_threads):
        self.run(n_threads)

    def track_efficiency(self, cached, kernel, shape, n_threads):
        return self.efficiency(n_threads)

    track_efficiency.unit = "x ideal"


class Fit(_Threaded):
    """Twenty iterations of the default solver; the objective does not depend on the number of threads."""

    repeats = 3
    param_names = ("shape", "n_threads")
    params = (names(N_COUNTS_FIT, "power_law"), N_THREADS)

    def setup(self, cached, shape, n_threads):
        self.counts = cached[shape]
        self.run(n_threads)  # compiles

    def run(self, n_threads):
        return poisson_nmf(self.counts, N_COMPONENTS, max_iter=20, tol=0.0, random_state=0, n_threads=n_threads)

    def time_20_iterations(self, cached, shape, n_threads):
        self.run(n_threads)

    def track_efficiency(self, cached, shape, n_threads):
        return self.efficiency(n_threads)

    track_efficiency.unit = "x ideal"

    def track_objective(self, cached, shape, n_threads):
        return self.run(n_threads).objective

    track_objective.unit = "nats"
