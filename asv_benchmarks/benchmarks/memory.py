"""Peak memory of a fit, beyond that of its input (Linux)."""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

from scipy import sparse

from fastpmf import plan
from fastpmf.kernels.threads import available_threads

from .common import N_COMPONENTS, SHAPES, in_fresh_process, names, scale

N_COUNTS = 500_000 * scale()
FIT = """
import json, sys
from pathlib import Path
from scipy import sparse
from fastpmf import poisson_nmf

path, k, solver = sys.argv[1:]

def peak():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])

def fit(X):
    return poisson_nmf(X, int(k), solver=solver, max_iter=12, tol=0, random_state=0)

X = sparse.load_npz(path)
fit(X[:50])  # compiles
Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the current size
before = peak()
objective = fit(X).objective
print(json.dumps({"bytes": peak() - before, "objective": objective}))
"""


class Fit:
    """A fit in a new process that has loaded the counts and the compiled kernels."""

    param_names = ("shape", "solver")
    params = (names(N_COUNTS, *(["power_law"] if scale() == 1 else ["tall", "power_law"])), ["mu", "cd"])

    def setup_cache(self):
        if sys.platform != "linux":
            return {}
        counts = {name: SHAPES[name.split("-")[0]](N_COUNTS) for name in self.params[0]}
        for name, X in counts.items():
            sparse.save_npz(f"{name}.npz", X, compressed=False)

        def measure(name, solver):
            return in_fresh_process(FIT, f"{name}.npz", N_COMPONENTS, solver)

        cases = list(itertools.product(*self.params))
        with ThreadPoolExecutor(min(2, available_threads())) as pool:  # a peak does not depend on what else runs
            measured = pool.map(measure, *zip(*cases, strict=True))
            return {case: (counts[case[0]], m) for case, m in zip(cases, measured, strict=True)}

    def setup(self, cached, shape, solver):
        if (shape, solver) not in cached:
            raise NotImplementedError("peak memory is measured on Linux only")
        self.solver, (self.X, self.measured) = solver, cached[shape, solver]

    def track_peak(self, *_):
        return self.measured["bytes"] / self.X.nnz

    track_peak.unit = "bytes/nonzero"

    def track_peak_over_prediction(self, *_):
        planned = plan(self.X.shape, self.X.nnz, N_COMPONENTS, counts_dtype=self.X.dtype, solver=self.solver)
        return self.measured["bytes"] / planned.peak_bytes

    track_peak_over_prediction.unit = "x predicted"

    def track_objective(self, *_):
        return self.measured["objective"]

    track_objective.unit = "nats"
