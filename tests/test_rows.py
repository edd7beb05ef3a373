"""Rows solved to their optimum while the other factor is fixed."""

import numpy as np
import pytest

from fastpmf import as_counts
from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums, empty_factor, padded
from fastpmf.solvers.row_problems import PLAIN_ROUNDS, SWEEPS, solve_rows

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
    return X, Subproblem(Side.ROWS, K, Ht, column_sums(Ht)[None]), start


def solve(X, subproblem, start, rounds):
    return solve_rows(as_counts(X), subproblem, start, max_rounds=rounds, tol=TOL)


def test_nearly_collinear_components_do_not_keep_rows_from_their_optimum(collinear):
    X, subproblem, start = collinear
    counts, threshold = as_counts(X), TOL * X.sum(axis=1)
    descent = counts.descend(subproblem, start, np.zeros_like(start), sweeps=SWEEPS, max_rounds=500, tol=TOL)
    assert (descent.gap > threshold).sum() > 20  # coordinate descent alone does not reach it
    W, gap = solve(X, subproblem, start, 700)
    assert (gap <= threshold).all()
    assert (W >= 0).all()


def test_the_result_for_a_row_does_not_depend_on_the_other_rows(collinear):
    X, subproblem, start = collinear
    W, gap = solve(X, subproblem, start, PLAIN_ROUNDS + 40)  # some rows converge within these rounds, others don't
    for i in range(0, len(X), 7):
        alone, bound = solve(X[i : i + 1], subproblem, start[i : i + 1], PLAIN_ROUNDS + 40)
        np.testing.assert_array_equal(alone[0], W[i])
        assert bound[0] == gap[i]


def test_more_rounds_never_end_with_a_larger_gap(collinear):
    gaps = [solve(*collinear, rounds)[1] for rounds in (1, PLAIN_ROUNDS, PLAIN_ROUNDS + 1, PLAIN_ROUNDS + 20, 200)]
    assert (np.diff(gaps, axis=0) <= 0)[1:].all()
