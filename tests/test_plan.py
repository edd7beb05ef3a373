"""`plan` estimates the memory that a fit allocates."""

import tracemalloc

import numpy as np
import pytest

import fastpmf
from fastpmf.datasets import make_poisson_counts

SHAPE, NNZ = (20_000, 3_000), 400_000
FITS = {
    "cd": ("float32", {}),
    "mu": ("float64", {"solver": "mu"}),
    "mu extrapolated": ("float32", {"solver": "mu", "acceleration": "extrapolation"}),
    "em": ("float32", {"solver": "em"}),
}


@pytest.fixture(scope="module")
def X():
    return make_poisson_counts(*SHAPE, nnz=NNZ, random_state=0).X


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("fit", FITS)
def test_the_bytes_planned_are_those_that_a_fit_allocates(X, fit):
    dtype, options = FITS[fit]
    planned = fastpmf.plan(SHAPE, X.nnz, 20, dtype, counts_dtype=X.dtype, **options)

    def run():
        counts = fastpmf.as_counts(X)
        fastpmf.poisson_nmf(counts, 20, dtype=dtype, max_iter=52, tol=0, random_state=0, **options)

    run()  # compiles
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert planned.peak_bytes == pytest.approx(peak, rel=0.1)
    assert planned.input_bytes == pytest.approx(X.data.nbytes + X.indices.nbytes + 8 * len(X.indptr))
    assert "beyond the" in str(planned)


def test_counts_stand_for_their_size(X, tmp_path):
    planned = fastpmf.plan(SHAPE, X.nnz, 20, counts_dtype=X.dtype, n_threads=1)
    assert fastpmf.plan(X, n_components=20, n_threads=1) == planned
    assert fastpmf.plan(fastpmf.io.Dataset(X), n_components=20, n_threads=1) == planned
    fastpmf.io.write_counts(tmp_path / "counts", X)
    assert fastpmf.plan(fastpmf.io.stream_counts(tmp_path / "counts"), n_components=20).block_bytes
    with pytest.raises(TypeError, match=r"n_components must be given, as in .*plan\(X, n_components=10\)"):
        fastpmf.plan(X, 20)
    with pytest.raises(ValueError, match="nnz must be None for counts, which know it, got 5"):
        fastpmf.plan(X, 5, 20)


def test_a_plan_is_shown_in_units_that_suit_it():
    small, large = fastpmf.plan((100, 20), 500, 2), fastpmf.plan((10**6, 30_000), 10**9, 20)
    assert "KiB beyond the" in str(small)
    assert "GiB beyond the" in str(large)
    for shown in (repr(large), large._repr_html_()):
        assert "peak beyond the counts" in shown
        assert "GiB" in shown


BAD = {
    "shape": ({"shape": (0, 5)}, "shape\\[0\\]"),
    "nnz": ({"nnz": 51}, "nnz must be at most 10 x 5 = 50, got 51"),
    "n_components": ({"n_components": 0}, "n_components"),
    "dtype": ({"dtype": "int8"}, "dtype must be float32, float64 or None"),
    "counts_dtype": ({"counts_dtype": np.int64}, "counts_dtype must be one of uint8, .*, got int64"),
    "solver": ({"solver": "newton"}, "solver must be one of"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_named(what):
    options, message = BAD[what]
    with pytest.raises((ValueError, TypeError), match=message):
        fastpmf.plan(**{"shape": (10, 5), "nnz": 20, "n_components": 2} | options)
