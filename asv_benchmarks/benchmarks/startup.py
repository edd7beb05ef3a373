"""What every new process pays: the import, and the first fit, with the kernels to compile or already on disk."""

import statistics
import tempfile

from .common import in_fresh_process

FIRST_FIT = """
import json, sys, time
from pathlib import Path
import numpy as np
import fastpmf
folder, n, p = sys.argv[1:]
X = np.random.default_rng(0).poisson(0.1, (int(n), int(p)))
clock = [time.perf_counter()]
for _ in range(2):
    fit = fastpmf.poisson_nmf(X, 5, max_iter=15, tol=0, random_state=0)
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
    """A tiny fit with the default solver, less a second one; cold: nothing is compiled yet, warm: all is on disk.

    Each is measured in processes of its own, with a cache directory made for it, and told here.
    """

    SHAPE, WARM_PROCESSES = (200, 100), 3
    param_names = ("cache",)
    params = (["cold", "warm"],)
    timeout = 600

    def setup_cache(self):
        with tempfile.TemporaryDirectory() as folder:
            cold, *warm = (
                in_fresh_process(FIRST_FIT, folder, *self.SHAPE, NUMBA_CACHE_DIR=folder)
                for _ in range(1 + self.WARM_PROCESSES)
            )
        return {"cold": cold, "warm": {**warm[0], "first": statistics.median(fit["first"] for fit in warm)}}

    def track_first_fit(self, cached, cache):
        return cached[cache]["first"]

    track_first_fit.unit = "s"

    def track_objective(self, cached, cache):
        return cached[cache]["objective"]

    track_objective.unit = "nats"

    def track_kernels(self, cached, cache):
        return cached[cache]["kernels"]

    track_kernels.unit = "files"

    def track_size(self, cached, cache):
        return 1e-6 * cached[cache]["bytes"]

    track_size.unit = "MB"
