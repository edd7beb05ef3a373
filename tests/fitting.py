"""Fits that nothing stops, from starts made here: what several test files do."""

import numpy as np
import pytest

from fastpmf import poisson_nmf

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def fit(X, k=3, *, start=None, **options):
    """Twenty multiplicative iterations that nothing stops; or as the options say."""
    options = {"solver": "mu", "max_iter": 20, "tol": 0, "random_state": 0, "dtype": np.float64} | options
    if start is not None:
        options |= {"init": "custom", "W": start[0], "H": start[1]}
    return poisson_nmf(X, k, **options)


def some_start(shape, k=3, seed=11):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, (shape[0], k)), rng.uniform(0.5, 1.5, (k, shape[1]))


def rates(solution):
    return solution.W.astype(float) @ solution.H.astype(float)
