"""`non_negative_factorization` does what scikit-learn's does, and what that should have done."""

import inspect
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import non_negative_factorization as theirs
from sklearn.exceptions import ConvergenceWarning

from fastpmf import kl_divergence, non_negative_factorization

KL = {"beta_loss": "kullback-leibler", "solver": "mu", "tol": 0}


@pytest.fixture
def X():
    X = np.random.default_rng(0).poisson(1.5, (25, 18)).astype(float)
    X[:, 0] += 1
    X[0] += 1
    return X


def quietly(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def test_the_arguments_are_scikit_learns():
    ours, own = (inspect.signature(f).parameters for f in (non_negative_factorization, theirs))
    assert list(ours) == list(own)
    differing = {name for name in own if ours[name].default != own[name].default}
    assert differing == {"solver", "beta_loss"}


@pytest.mark.parametrize("init", ["random", "nndsvda", None])
@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 0.01, "l1_ratio": 1.0}], ids=["none", "L1"])
def test_iterates_are_scikit_learns_from_a_custom_start(X, init, penalty):
    W0, H0, _ = quietly(theirs, X, n_components=3, init=init, max_iter=1, random_state=0, **KL)
    options = KL | {"n_components": 3, "init": "custom", "max_iter": 30} | penalty
    W, H, n_iter = non_negative_factorization(X, W0.copy(), H0.copy(), **options)
    W2, H2, _ = quietly(theirs, X, W0.copy(), H0.copy(), **options)
    assert n_iter == 30
    if not penalty:  # with a penalty fastpmf also shares the scale between W and H, which can only be better
        np.testing.assert_allclose(W @ H, W2 @ H2, rtol=1e-6)
    else:
        cost = [kl_divergence(X, A, B) + 0.01 * (18 * A.sum() + 25 * B.sum()) for A, B in ((W, H), (W2, H2))]
        assert cost[0] <= cost[1] * (1 + 1e-9)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.coo_array])
def test_every_format_ends_where_dense_input_does(X, make):
    options = KL | {"n_components": 3, "init": "random", "random_state": 0, "max_iter": 50}
    W, H, _ = non_negative_factorization(make(X), **options)
    W2, H2, _ = non_negative_factorization(X, **options)
    np.testing.assert_array_equal(W, W2)
    np.testing.assert_array_equal(H, H2)


def test_a_known_H_stays_and_W_ends_at_its_optimum(X):
    H = np.random.default_rng(1).gamma(1.0, size=(3, 18))
    W, H2, _ = non_negative_factorization(X, H=H, n_components=3, update_H=False, max_iter=5000, **KL | {"tol": 1e-9})
    W3, *_ = quietly(theirs, X, H=H, n_components=3, update_H=False, max_iter=20_000, **KL | {"tol": 1e-13})
    np.testing.assert_array_equal(H2, H)
    assert kl_divergence(X, W, H) <= kl_divergence(X, W3, H) * (1 + 1e-7)


def test_counts_where_a_known_H_is_zero_are_left_out_as_there(X):
    H = np.random.default_rng(1).gamma(1.0, size=(3, 18))
    H[:, 4] = 0
    options = KL | {"H": H, "n_components": 3, "update_H": False, "max_iter": 30}
    W, *_ = non_negative_factorization(X, **options)
    W2, *_ = quietly(theirs, X, **options)
    seen = H.any(axis=0)
    np.testing.assert_allclose(W @ H[:, seen], W2 @ H[:, seen], rtol=1e-6)


def test_a_fit_that_max_iter_stops_is_warned_of_as_there(X):
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        non_negative_factorization(X, n_components=3, max_iter=2)


def test_the_number_of_components_is_inferred_as_there(X):
    W0, H0 = np.ones((25, 4)), np.random.default_rng(0).random((4, 18))
    few = {"max_iter": 2, "tol": 0}
    assert non_negative_factorization(X, W0, H0, init="custom", **few)[0].shape == (25, 4)
    assert non_negative_factorization(X, H=H0, update_H=False, **few)[0].shape == (25, 4)
    assert quietly(non_negative_factorization, X, **few)[0].shape == (25, 18)
    assert quietly(non_negative_factorization, X, n_components=None, **few)[0].shape == (25, 18)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"beta_loss": "frobenius"},
            "beta_loss must be 'kullback-leibler' or 1, the only loss of fastpmf, got 'frobenius'",
        ),
        ({"solver": "hals"}, "solver must be one of 'auto', "),
        ({"n_components": "many"}, "n_components must be an integer, 'auto' or None, got 'many'"),
        ({"update_H": False}, "H must be given with update_H=False"),
        (
            {"update_H": False, "H": np.zeros((2, 18)), "n_components": 2},
            "H must be positive somewhere where X has counts",
        ),
        ({"init": "custom", "n_components": 2}, "init='custom'"),
    ],
)
def test_what_it_can_t_do_is_told_in_one_sentence(X, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        non_negative_factorization(X, **given)
