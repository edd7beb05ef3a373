"""The table of docs/guide/reproducibility.md: each line names tests that exist, and those of threads are here."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import ALL
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastpmf import HPF, PoissonNMF, StreamedCounts

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guide" / "reproducibility.md"
TOLD = {"max_iter": 20, "tol": 0, "random_state": 0}
FITS = {
    "mu": lambda **more: PoissonNMF(3, solver="mu", **TOLD, **more),
    "relaxed": lambda **more: PoissonNMF(3, solver="mu", acceleration="relaxation", **TOLD, **more),
    "em": lambda **more: PoissonNMF(3, solver="em", **TOLD, **more),
    "cd": lambda **more: PoissonNMF(3, solver="cd", **TOLD, **more),
    "prior": lambda **more: PoissonNMF(3, prior_W="auto", prior_H="auto", **TOLD, **more),
    "hpf": lambda **more: HPF(3, **TOLD, **more),
}


def drawn():
    """Counts with rows long enough to be cut into pieces, and short ones."""
    rng = np.random.default_rng(0)
    X = rng.poisson(0.02, (60, 9000))
    X[3] = rng.integers(1, 4, 9000)
    return sparse.csr_array(X)


def digests(n_threads):
    """Of all that comes out of each fit, by its name, and of transform."""
    X, made = drawn(), {}
    for name, make in FITS.items():
        for dtype in ("float32", "float64"):
            model = make(n_threads=n_threads, dtype=dtype)
            parts = [model.fit_transform(X), model.components_, model.trace_["objective"], model.transform(X[:5])]
            made[f"{name}, {dtype}"] = hashlib.sha256(b"".join(A.tobytes() for A in parts)).hexdigest()
    streamed = PoissonNMF(3, solver="mu", n_threads=n_threads, **TOLD).fit(StreamedCounts(lambda: [X[:7], X[7:]]))
    made["streamed"] = hashlib.sha256(streamed.components_.tobytes()).hexdigest()
    return made


def printed(code, **environment):
    """What a process of its own prints, in another environment; it has this module as t."""
    start = "import sys, warnings; warnings.simplefilter('ignore'); sys.path.insert(0, sys.argv[1]); "
    done = subprocess.run(
        [sys.executable, "-c", f"{start} import test_reproducibility as t; {code}", str(TESTS)],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_one_two_three_and_eight_threads_in_any_process_and_run_give_the_same_bits():
    here = digests(1)
    assert digests(2) == here
    elsewhere = printed("import json; print(json.dumps([t.digests(n) for n in (1, 2, 3, 8)]))", NUMBA_NUM_THREADS="8")
    assert json.loads(elsewhere) == [here] * 4
    assert len(set(here.values())) == len(here)  # the digests are of different fits


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="BLAS's kernels are named by CPUs of x86-64")
def test_what_kernels_blas_and_numpy_choose_for_a_cpu_changes_no_bit():
    # OpenBLAS for other CPUs than this one; NumPy without what it has chosen for it
    old = {"OPENBLAS_CORETYPE": "Nehalem"} | numpy_features()
    for chosen in (old, {"OPENBLAS_CORETYPE": "Nehalem"}, {"OPENBLAS_CORETYPE": "Haswell"}) if ALL else (old,):
        assert printed("print(t.digest_of_many())", **chosen).split() == [digest_of_many()], chosen


def numpy_features():
    """What switches off all that NumPy dispatches to this CPU; nothing where NumPy doesn't say what that is."""
    try:
        from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
    except ImportError:
        return {}
    found = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(found)} if found else {}


def digest_of_many():
    """Of fits with so many components that the order in which they are added tells."""
    X, found = drawn()[:, :300], hashlib.sha256()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for make in FITS.values():
            model = make().set_params(n_components=19, max_iter=60).fit(X)
            found.update(model.components_.tobytes() + model.trace_["objective"].tobytes())
    return found.hexdigest()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the CPU's name is one of x86-64's")
def test_kernels_for_an_older_cpu_give_the_same_bits():
    # As this one has, but no AVX and no FMA
    code = "import numba; print(numba.core.registry.cpu_target.target_context.codegen().magic_tuple()[1], t.digest())"
    assert printed(code, NUMBA_CPU_NAME="nehalem", NUMBA_CPU_FEATURES="").split() == ["nehalem", digest()]


def digest():
    """Of one short fit, by the fewest kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = PoissonNMF(3, solver="mu", dtype="float32", **TOLD).fit(drawn())
    return hashlib.sha256(model.components_.tobytes() + model.trace_["objective"].tobytes()).hexdigest()


def test_every_line_of_the_table_names_a_test_that_is_there():
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ") and "`tests/" in line]
    assert len(lines) >= 12
    for line in lines:
        named = re.findall(r"`tests/(\w+\.py)::(\w+)`", line)
        assert named, line
        for file, test in named:
            assert f"\ndef {test}(" in (TESTS / file).read_text("utf-8"), f"{file}::{test}"
