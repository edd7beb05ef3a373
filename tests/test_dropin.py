"""`non_negative_factorization` agrees with the function of scikit-learn."""

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


def both(X, start, **options):
    """Factors of fastpmf and of scikit-learn from the same start."""
    options = KL | {"n_components": len(start[1]), "init": "custom"} | options
    return [f(X, start[0].copy(), start[1].copy(), **options)[:2] for f in (non_negative_factorization, theirs)]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("init", ["random", "nndsvda", None])
def test_the_first_20_iterates_are_scikit_learns_from_the_same_start(X, init):
    start = theirs(X, n_components=3, init=init, max_iter=1, random_state=0, **KL)[:2]
    for max_iter in (1, 20):
        (W, H), (W2, H2) = both(X, start, max_iter=max_iter)
        for A, B in ((W, W2), (H, H2)):  # rounding of 20 iterations is 1e-14 here; entries at the floor differ by 1e-12
            np.testing.assert_allclose(A, B, rtol=1e-10, atol=1e-11 * B.max())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_entries_that_shrink_stop_at_a_floor_where_scikit_learns_go_on_to_zero(X):
    rng = np.random.default_rng(5)
    (W, H), (W2, H2) = both(X, (rng.uniform(0.1, 1.1, (25, 6)), rng.uniform(0.1, 1.1, (6, 18))), max_iter=300)
    assert min(W.min() / X.sum(axis=1).max(), H.min() / X.sum(axis=0).max()) > 1e-14  # H and W share the scale
    assert min(W2.min(), H2.min()) == 0
    # entries below the floor add at most their number times 1e-12 of the counts
    assert kl_divergence(X, W, H) == pytest.approx(kl_divergence(X, W2, H2), rel=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "penalty",
    [{"alpha_W": 0.01, "l1_ratio": 1.0}, {"alpha_W": 0.01}, {"alpha_W": 0.01, "alpha_H": 0.1, "l1_ratio": 0.5}],
    ids=["L1", "L2", "elastic net"],
)
def test_with_penalties_the_scale_differs_at_once_and_the_optimum_is_the_same(X, penalty):
    alpha_W, l1_ratio = penalty["alpha_W"], penalty.get("l1_ratio", 0.0)
    alpha_H = penalty.get("alpha_H", alpha_W)

    def cost(W, H):
        own = [a * (l1_ratio * A.sum() + 0.5 * (1 - l1_ratio) * (A**2).sum()) for a, A in ((alpha_W, W), (alpha_H, H))]
        return kl_divergence(X, W, H) + 18 * own[0] + 25 * own[1]

    rng = np.random.default_rng(5)
    start = rng.uniform(0.1, 1.1, (25, 3)), rng.uniform(0.1, 1.1, (3, 18))
    (W, H), (W2, H2) = both(X, start, max_iter=1, **penalty)
    assert abs(W.sum() / W2.sum() - 1) > 0.05
    assert cost(W, H) < cost(W2, H2)
    (W, H), (W2, H2) = both(X, start, max_iter=1000, **penalty)
    # both are within 1e-6 of the same minimum; deviations of rates are of the order of the root of that
    assert cost(W, H) == pytest.approx(cost(W2, H2), rel=1e-6)
    assert np.linalg.norm(W @ H - W2 @ H2) < 1e-3 * np.linalg.norm(W2 @ H2)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.coo_array])
def test_every_format_ends_where_dense_input_does(X, make):
    options = KL | {"n_components": 3, "init": "random", "random_state": 0, "max_iter": 50}
    W, H, _ = non_negative_factorization(make(X), **options)
    W2, H2, _ = non_negative_factorization(X, **options)
    np.testing.assert_array_equal(W, W2)
    np.testing.assert_array_equal(H, H2)


def test_a_fixed_H_is_kept_and_W_is_optimal(X):
    H = np.random.default_rng(1).gamma(1.0, size=(3, 18))
    W, H2, _ = non_negative_factorization(X, H=H, n_components=3, update_H=False, max_iter=5000, **KL | {"tol": 1e-9})
    W3, *_ = quietly(theirs, X, H=H, n_components=3, update_H=False, max_iter=20_000, **KL | {"tol": 1e-13})
    np.testing.assert_array_equal(H2, H)
    assert kl_divergence(X, W, H) <= kl_divergence(X, W3, H) * (1 + 1e-7)


def test_counts_where_a_fixed_H_is_zero_are_left_out_as_in_scikit_learn(X):
    H = np.random.default_rng(1).gamma(1.0, size=(3, 18))
    H[:, 4] = 0
    options = KL | {"H": H, "n_components": 3, "update_H": False, "max_iter": 30}
    W, *_ = non_negative_factorization(X, **options)
    W2, *_ = quietly(theirs, X, **options)
    seen = H.any(axis=0)
    np.testing.assert_allclose(W @ H[:, seen], W2 @ H[:, seen], rtol=1e-6)


def test_a_fit_that_stops_at_max_iter_warns_as_in_scikit_learn(X):
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        non_negative_factorization(X, n_components=3, max_iter=2)


def test_the_number_of_components_is_inferred_as_in_scikit_learn(X):
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
            "beta_loss must be 'kullback-leibler' or 1, got 'frobenius'",
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
def test_unsupported_options_are_refused_in_one_sentence(X, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        non_negative_factorization(X, **given)
