"""New processes: imports, and first calls, whose kernels are compiled or loaded from the cache."""

import tempfile
from statistics import median

from .common import in_fresh_process, scale

REPEATS = 1 if scale() == 1 else 3  # of calls that compile; medians are reported
PROCESSES = 3  # that import or load from the cache; medians are reported
IMPORT = """
import sklearn.base, json, time
began = time.process_time()
import {module}
print(json.dumps(time.process_time() - began))
"""
FIRST_CALLS = """
import json, os, sys
from pathlib import Path
import numpy as np
import fastpmf

folder, n, p, *names = sys.argv[1:]
X = np.random.default_rng(0).poisson(0.5, (int(n), int(p)))
options = {"max_iter": 15, "tol": 0, "random_state": 0}  # all kernels are called within 15 iterations

def fit(n_components, **more):
    return fastpmf.PoissonNMF(n_components, **options, **more).fit(X)

def transform():
    W, H = mu.transform(X), mu.components_
    rate = W @ H
    return rate.sum() - (X[X > 0] * np.log(rate[X > 0])).sum()

calls = {
    "fit": lambda: fit(10).objective_,
    "fit, float32": lambda: fit(10, dtype="float32").objective_,
    "fit, k = 20": lambda: fit(20).objective_,
    "fit, k = 30": lambda: fit(30).objective_,
    "fit, k = 50": lambda: fit(50).objective_,
    "fit, k = 100": lambda: fit(100).objective_,
    "HPF after fit": lambda: fastpmf.HPF(10, **options).fit(X).elbo_,
    "transform after mu": transform,
}

def cpu_seconds():
    return sum(os.times()[:4])  # of this process and its children, user and system

def sizes():
    return [path.stat().st_size for path in Path(folder).rglob("*.nbc")]

if "transform after mu" in names:
    mu = fit(10, solver="mu")
found = {}
for name in names:
    before, times = sizes(), [cpu_seconds()]
    for _ in range(2):
        nats = calls[name]()
        times.append(cpu_seconds())
    first, second = np.diff(times)
    after = sizes()
    found[name] = {
        "cpu": first - second, "nats": nats, "kernels": len(after) - len(before), "bytes": sum(after) - sum(before)
    }
print(json.dumps(found))
"""
# The calls of each line run in one process, in this order, with a new empty cache
COLD = (
    ("fit", "fit, k = 20", "fit, k = 30", "fit, k = 50", "fit, k = 100", "HPF after fit"),
    ("fit, float32",),
    ("transform after mu",),
)


class Import:
    """A new interpreter that imports and exits; fastpmf takes at least as long as Numba alone."""

    param_names = ("module",)
    params = (["numba", "fastpmf"],)

    def time_import(self, module):
        in_fresh_process(f"import {module}")

    def track_modules(self, module):
        return in_fresh_process(f"import sys, {module}; print(len(sys.modules))")

    track_modules.unit = "modules"

    def track_beyond_sklearn(self, module):
        """CPU-seconds of the import after `import sklearn.base`."""
        return median(in_fresh_process(IMPORT.format(module=module)) for _ in range(PROCESSES))

    track_beyond_sklearn.unit = "s"


class FirstCall:
    """CPU-seconds of a first call minus those of a second one, of the process and its children, without imports.

    All are measured in fresh processes. "fit, cached" is the first fit of a process after another process has compiled
    its kernels.
    """

    SHAPE = (300, 200)
    param_names = ("call",)
    params = ([*(name for names in COLD for name in names), "fit, cached"],)
    timeout = 900

    def setup_cache(self):
        runs = [self.first_calls() for _ in range(REPEATS)]
        return {name: {fact: median(run[name][fact] for run in runs) for fact in runs[0][name]} for name in runs[0]}

    setup_cache.timeout = 900

    def first_calls(self):
        found = {}
        for names in COLD:
            with tempfile.TemporaryDirectory() as folder:
                found |= self.measure(folder, *names)
                if names[0] == "fit":
                    cached = [self.measure(folder, "fit")["fit"] for _ in range(PROCESSES)]
                    found["fit, cached"] = {fact: median(each[fact] for each in cached) for fact in cached[0]}
        return found

    def measure(self, folder, *names):
        return in_fresh_process(FIRST_CALLS, folder, *self.SHAPE, *names, NUMBA_CACHE_DIR=folder)

    def track_cpu(self, cached, call):
        return cached[call]["cpu"]

    track_cpu.unit = "s"

    def track_nats(self, cached, call):
        return cached[call]["nats"]

    track_nats.unit = "nats"

    def track_kernels(self, cached, call):
        return cached[call]["kernels"]

    track_kernels.unit = "files"

    def track_size(self, cached, call):
        return 1e-6 * cached[call]["bytes"]

    track_size.unit = "MB"
