"""Rows solved to their optimum with the other factor fixed."""

import numpy as np
import pytest

from fastpmf import as_counts
from fastpmf.core.counts import Side
from fastpmf.core.factors import column_sums, empty_factor, padded
from fastpmf.solvers.row_problems import PLAIN, SWEEPS, solve_rows

K, TOL = 5, 1e-6


@pytest.fixture(scope="module")
def collinear():
    """Counts of 40 rows from five components, two of which are copies of others up to 1 %."""
    rng = np.random.default_rng(0)
    distinct = rng.gamma(0.5, size=(3, 60))
    H = np.vstack([distinct, distinct[:2] * rng.uniform(0.99, 1.01, (2, 60))])
    X = rng.poisson(20 * rng.gamma(0.5, size=(40, K)) @ H)
    Ht, start = padded(H.T, np.dtype(float)), empty_factor(len(X), K, np.dtype(float))
    start[:, :K] = X.sum(axis=1, keepdims=True) / (K * column_sums(Ht)[:K])
    return X, Ht, start


def solve(X, Ht, start, rounds):
    return solve_rows(as_counts(X), Ht, column_sums(Ht), start, n_components=K, max_rounds=rounds, tol=TOL)


def test_rows_with_nearly_collinear_components_reach_their_optimum(collinear):
    X, Ht, start = collinear
    counts, threshold = as_counts(X), TOL * X.sum(axis=1)
    out = np.zeros_like(start)
    descent = counts.descend(
        Side.ROWS, start, Ht, column_sums(Ht), out, n_components=K, sweeps=SWEEPS, max_rounds=500, tol=TOL
    )
    assert (descent.gap > threshold).sum() > 20  # not reached by coordinate descent alone
    W, gap = solve(X, Ht, start, 500)
    assert (gap <= threshold).all()
    assert (W >= 0).all()


def test_an_extrapolated_row_does_not_depend_on_other_rows_bitwise(collinear):
    X, Ht, start = collinear
    W, gap = solve(X, Ht, start, PLAIN + 40)  # enough for some rows only
    for i in range(0, len(X), 7):
        alone, bound = solve(X[i : i + 1], Ht, start[i : i + 1], PLAIN + 40)
        np.testing.assert_array_equal(alone[0], W[i])
        assert bound[0] == gap[i]


def test_more_rounds_never_end_with_a_larger_gap(collinear):
    gaps = [solve(*collinear, rounds)[1] for rounds in (1, PLAIN, PLAIN + 1, PLAIN + 20, 200)]
    assert (np.diff(gaps, axis=0) <= 0)[1:].all()
