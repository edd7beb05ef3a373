"""The default dtype of a fit: float32 for integers that float32 represents, wherever they come from."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

import fastpmf
from fastpmf import HPF, PoissonNMF, StreamedCounts, as_counts, poisson_nmf
from fastpmf.io import read_counts, stream_counts, write_counts

SMALL = np.random.default_rng(0).poisson(1.0, (20, 8)) + np.eye(20, 8, dtype=int)
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
OPTIONS = {"max_iter": 3, "tol": 0, "random_state": 0}


def with_largest(count):
    X = SMALL.copy()
    X[17, 3] = count
    return X


def streamed(X):
    return StreamedCounts(lambda: np.array_split(X, 3))


GIVEN = {  # counts, and the dtype of their fit
    "uint8": (SMALL.astype(np.uint8), SINGLE),
    "int64": (SMALL, SINGLE),
    "bool": (SMALL > 0, SINGLE),
    "2**24": (with_largest(2**24), SINGLE),
    "2**24 + 1": (with_largest(2**24 + 1), DOUBLE),
    "2**40": (with_largest(2**40), DOUBLE),
    "float32": (SMALL.astype(np.float32), SINGLE),
    "float64": (SMALL.astype(np.float64), DOUBLE),
}
FORMS = {
    "array": lambda X: X,
    "list": lambda X: X.tolist(),
    "DataFrame": pd.DataFrame,
    "csr": sparse.csr_array,
    "csc": sparse.csc_matrix,
    "read once": as_counts,
    "streamed": streamed,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", GIVEN)
def test_a_fit_is_in_float32_if_its_counts_are_or_are_integers_that_float32_represents(given, form):
    X, expected = GIVEN[given]
    if form == "list" and given == "float32":
        expected = DOUBLE  # a list of Python's floats
    assert poisson_nmf(FORMS[form](X), 2, **OPTIONS).H.dtype == expected


@pytest.mark.parametrize("given", ["int64", "2**24 + 1", "float64"])
def test_all_ways_to_fit_have_the_same_default_dtype(given):
    X, expected = GIVEN[given]
    for model in (PoissonNMF(2, **OPTIONS), HPF(2, **OPTIONS)):
        assert model.fit(X).components_.dtype == model.transform(X).dtype == expected
        assert model.fit(streamed(X)).components_.dtype == expected
        assert model.partial_fit(X).components_.dtype == expected
        for dtype in (SINGLE, DOUBLE):
            assert model.set_params(dtype=dtype).fit(X).components_.dtype == dtype
    W, H, _ = fastpmf.non_negative_factorization(X, n_components=2, tol=0.5)
    assert W.dtype == H.dtype == expected
    planned = fastpmf.plan(X, n_components=20)
    assert planned == fastpmf.plan(X, n_components=20, dtype=expected)


@pytest.mark.parametrize(("count", "expected"), [(2**24, SINGLE), (2**24 + 1, DOUBLE)])
def test_files_are_fitted_in_the_dtype_of_their_largest_count(count, expected, tmp_path):
    write_counts(tmp_path / "counts", sparse.csr_array(with_largest(count)))
    for X in (read_counts(tmp_path / "counts"), stream_counts(tmp_path / "counts", block_entries=40)):
        assert poisson_nmf(X, 2, **OPTIONS).W.dtype == expected


def test_a_tolerance_below_the_rounding_of_float32_is_named_in_the_warning():
    with pytest.warns(ConvergenceWarning, match=r"tol is 1e-12; float32 may not reach less than 1e-06, use dtype="):
        model = PoissonNMF(3, tol=1e-12, max_iter=20, random_state=0).fit(SMALL)
    with pytest.warns(ConvergenceWarning, match=r"increase max_iter or tol; float32 may not reach less than"):
        model.transform(SMALL)
    for options in ({"tol": 1e-6}, {"tol": 1e-12, "dtype": "float64"}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            PoissonNMF(3, max_iter=20, random_state=0, **options).fit(SMALL)
        assert ["float32" in str(warning.message) for warning in caught] == [False]
