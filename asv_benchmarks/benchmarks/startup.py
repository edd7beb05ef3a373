"""What every new process pays: the import, and the first fit, with the kernels to compile or already on disk."""

import statistics
import tempfile

from fastpmf.solvers import SOLVERS

from .common import in_fresh_process, scale

FIRST_FIT = """
import json, sys, time
from pathlib import Path
import numpy as np
import fastpmf
folder, n, p, solver = sys.argv[1:]
X = np.random.default_rng(0).poisson(0.1, (int(n), int(p)))
clock = [time.perf_counter()]
for _ in range(2):
    fit = fastpmf.poisson_nmf(X, 5, solver=solver, max_iter=15, tol=0, random_state=0)
    clock.append(time.perf_counter())
first, second = np.diff(clock)
kept = [path.stat().st_size for path in Path(folder).rglob("*.nbc")]
print(json.dumps({"first": first - second, "objective": fit.objective, "kernels": len(kept), "bytes": sum(kept)}))
"""


class Import:
    """A new interpreter that imports and ends; what Numba alone takes is the least that there could be."""

    param_names = ("module",)
    params = (["numba", "fastpmf"],)

    def time_import(self, module):
        in_fresh_process(f"import {module}")

    def track_modules(self, module):
        return in_fresh_process(f"import sys, {module}; print(len(sys.modules))")

    track_modules.unit = "modules"


class FirstFit:
    """A tiny fit, less a second one; cold: nothing is compiled yet, warm: all is on disk.

    Each is measured in processes of its own, with a cache directory made for it, and told here. What the default solver
    compiles would take a third of the fast profile.
    """

    SHAPE, WARM_PROCESSES = (200, 100), 1 if scale() == 1 else 3
    param_names = ("solver", "cache")
    params = (["mu"] if scale() == 1 else ["mu", "cd"], ["cold", "warm"])
    timeout = 600

    def setup_cache(self):
        return {solver: self.first_fits(solver) for solver in self.params[0] if solver in SOLVERS}

    setup_cache.timeout = 600

    def first_fits(self, solver):
        with tempfile.TemporaryDirectory() as folder:
            cold, *warm = (
                in_fresh_process(FIRST_FIT, folder, *self.SHAPE, solver, NUMBA_CACHE_DIR=folder)
                for _ in range(1 + self.WARM_PROCESSES)
            )
        return {"cold": cold, "warm": {**warm[0], "first": statistics.median(fit["first"] for fit in warm)}}

    def setup(self, cached, solver, cache):
        if solver not in cached:
            raise NotImplementedError(f"this version has no {solver}")

    def track_first_fit(self, cached, solver, cache):
        return cached[solver][cache]["first"]

    track_first_fit.unit = "s"

    def track_objective(self, cached, solver, cache):
        return cached[solver][cache]["objective"]

    track_objective.unit = "nats"

    def track_kernels(self, cached, solver, cache):
        return cached[solver][cache]["kernels"]

    track_kernels.unit = "files"

    def track_size(self, cached, solver, cache):
        return 1e-6 * cached[solver][cache]["bytes"]

    track_size.unit = "MB"
