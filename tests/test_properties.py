"""What must hold for any counts at all: hypothesis draws the matrix, its dtype and its format."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fastpmf import as_counts, kl_divergence, poisson_log_likelihood, poisson_nmf
from fastpmf.core.counts import Side
from fastpmf.model.objective import constant
from fastpmf.model.updates import TINY

EPS = np.finfo(float).eps
properties = settings(derandomize=True, max_examples=40, deadline=None)


@st.composite
def matrices(draw):
    """(dense, the same in some dtype and format), with a count somewhere and rows and columns that may be empty."""
    n, p = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density, high = draw(st.sampled_from([0.05, 0.3, 1.0])), draw(st.sampled_from([1, 3, 250]))
    X = rng.integers(1, high + 1, (n, p)) * (rng.random((n, p)) < density)
    X[rng.random(n) < 0.2] = 0
    X[:, rng.random(p) < 0.2] = 0
    X[rng.integers(n), rng.integers(p)] = high
    X = X.astype(draw(st.sampled_from(["uint8", "uint16", "int32", "int64", "float32", "float64"])))
    form = draw(st.sampled_from(["csr", "csc", "coo", "bsr", "dia", "dok", "lil", "dense", "list"]))
    if form == "list":
        return X, X.tolist()
    return X, X if form == "dense" else getattr(sparse, f"{form}_array")(X)


def start(X, k, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, (X.shape[0], k)), rng.uniform(0.5, 1.5, (k, X.shape[1]))


@properties
@given(matrices())
def test_reading_loses_nothing(pair):
    dense, X = pair
    counts = as_counts(X)
    np.testing.assert_array_equal(counts.to_scipy().toarray(), dense)
    columns = counts.side(Side.COLUMNS)
    for part, expected in zip((columns.data, columns.indices, columns.indptr), naive.transpose(dense), strict=True):
        np.testing.assert_array_equal(part, expected)


@properties
@given(matrices(), st.integers(1, 5))
def test_a_fit_is_finite_and_monotone_and_that_of_the_dense_oracle(pair, k):
    dense, X = pair
    W, H = start(dense, k)
    options = {
        "solver": "mu",
        "init": "custom",
        "W": W,
        "H": H,
        "max_iter": 5,
        "tol": 0,
        "eval_every": 1,
        "dtype": "float64",
    }
    solution = poisson_nmf(X, k, **options)
    for _ in range(5):
        W, H = naive.multiplicative_iteration(dense, W, H)
    # A few roundings in each of the five iterations. In counts, as W_ik sum_j H_kj, no entry shrinks below TINY of its
    # row's, and the oracle has no such floor.
    near = {"rtol": 1e-10, "atol": 10 * TINY * dense.sum()}
    np.testing.assert_allclose(solution.W * solution.H.sum(axis=1), W * H.sum(axis=1), **near)
    np.testing.assert_allclose(solution.H.T * solution.W.sum(axis=0), H.T * W.sum(axis=0), **near)
    objective = solution.trace["objective"]
    assert np.isfinite(objective).all()
    # Rounding of the objective is relative to the sizes of its terms.
    assert (np.diff(objective) <= 50 * EPS * naive.objective_scale(dense, W, H)).all()


@properties
@given(matrices(), st.integers(1, 4))
def test_divergence_and_likelihood_are_the_oracles_and_sum_to_a_constant(pair, k):
    dense, X = pair
    W, H = start(dense, k)
    D, log_likelihood = kl_divergence(X, W, H), poisson_log_likelihood(X, W, H)
    near = 100 * EPS * (naive.objective_scale(dense, W, H) + dense.size)  # as above, and log x! of counts near 1
    assert pytest.approx(naive.kl_divergence(dense, W, H), abs=near) == D
    assert pytest.approx(naive.poisson_log_likelihood(dense, W, H), abs=near) == log_likelihood
    assert pytest.approx(constant(as_counts(X)), abs=near) == D + log_likelihood


@properties
@given(matrices(), st.integers(1, 4))
def test_fitting_the_transpose_with_the_sides_swapped_is_the_same(pair, k):
    dense, X = pair
    W, H = start(dense, k)
    counts, turned = as_counts(X), as_counts(sparse.csr_array(dense).T)
    one, two = np.empty((dense.shape[0], 8)), np.empty((dense.shape[0], 8))
    U, V = (np.hstack([A, np.zeros((len(A), 8 - k))]) for A in (W, H.T))
    counts.contract(Side.ROWS, U, V, one)
    turned.contract(Side.COLUMNS, U, V, two)
    np.testing.assert_array_equal(one, two)
