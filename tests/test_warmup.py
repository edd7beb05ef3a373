"""After `warmup` nothing is left to compile."""

import json
import os
import subprocess
import sys

import numba
import pytest

import fastpmf

CALLS = """
import json, warnings
import numpy as np
from numba.core import event
from fastpmf import HPF, PoissonNMF, StreamedCounts
from fastpmf.kernels._jit import COMPILING

warnings.simplefilter("ignore")  # too few iterations to converge
n_compiled = 0

class Count(event.Listener):
    def on_start(self, _):
        global n_compiled
        n_compiled += 1

    def on_end(self, _):
        pass

event.register(COMPILING, Count())
rng = np.random.default_rng(1)
X = (rng.poisson(1.0, (60, 50)) + np.eye(60, 50, dtype=int)).astype("uint16")
mask = rng.random(X.shape) < 0.1
options = {"max_iter": 15, "tol": 0, "dtype": "float32", "random_state": 0}

def nmf(**more):
    return PoissonNMF(20, **options, **more)

def hpf(**more):
    return HPF(20, **options, **more)

def streamed(by_column=False):
    return StreamedCounts(lambda: [X[:30].T, X[30:].T] if by_column else [X[:30], X[30:]], by_column=by_column)

AUTO = {"prior_W": "auto", "prior_H": "auto"}
CALLS = {
    "default": lambda: nmf().fit(X),
    "transform": lambda: nmf().fit(X).transform(X),
    "score": lambda: nmf().fit(X).score(X),
    "cd, priors": lambda: nmf(**AUTO).fit(X).transform(X),
    "cd, plain": lambda: nmf(acceleration=None).fit(X),
    "mu": lambda: nmf(solver="mu").fit(X).transform(X),
    "mu, priors": lambda: nmf(solver="mu", **AUTO).fit(X).transform(X),
    "mu, relaxed": lambda: nmf(solver="mu", acceleration="relaxation").fit(X),
    "em": lambda: nmf(solver="em").fit(X),
    "em, priors": lambda: nmf(solver="em", **AUTO).fit(X),
    "penalties": lambda: nmf(alpha_W=0.1, alpha_H=0.1, l1_ratio=0.5).fit(X),
    "mask": lambda: nmf().fit(X, mask=mask).transform(X, mask=mask),
    "mu, mask": lambda: nmf(solver="mu").fit(X, mask=mask),
    "validation": lambda: nmf().fit(X, validation=0.2),
    "streamed": lambda: nmf().fit(streamed()).transform(streamed()),
    "streamed, by column": lambda: nmf().fit(streamed(by_column=True)),
    "streamed, mu": lambda: nmf(solver="mu").fit(streamed()),
    "partial_fit": lambda: nmf().partial_fit(X).partial_fit(X).transform(X),
    "HPF": lambda: hpf().fit(X).transform(X),
    "HPF, score": lambda: hpf().fit(X).score(X),
    "HPF, mask": lambda: hpf().fit(X, mask=mask),
    "HPF, validation": lambda: hpf().fit(X, validation=0.2),
    "HPF, streamed": lambda: hpf().fit(streamed()),
    "HPF, partial_fit": lambda: hpf().partial_fit(X).partial_fit(X).transform(X),
}
compiled = {}
for name, call in CALLS.items():
    before = n_compiled
    call()
    compiled[name] = n_compiled - before
print(json.dumps(compiled))
"""


def run(code, folder, n_threads):
    package = os.path.dirname(os.path.dirname(fastpmf.__file__))
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(folder), "NUMBA_NUM_THREADS": str(n_threads), "PYTHONPATH": package,
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled with the JIT off")
def test_after_a_warmup_on_one_thread_no_fit_transform_or_score_on_two_compiles_anything(tmp_path):
    run("import fastpmf; fastpmf.warmup(20, counts_dtype='uint16', dtype='float32')", tmp_path, 1)
    compiled = json.loads(run(CALLS, tmp_path, 2))
    assert len(compiled) > 20
    assert {name: n for name, n in compiled.items() if n} == {}
