"""Starting factors."""

import numpy as np
import pytest
from conftest import MENAGERIE
from fitting import both_dtypes, fit, rates
from sklearn.decomposition._nmf import _initialize_nmf

from fastpmf import as_counts, poisson_nmf
from fastpmf.model.init import GIVEN, INITS, initialise

SEEDED = [init for init in INITS if init not in GIVEN]


def start_of(X, init, k=2, seed=0, **options):
    """Starting factors W and H, float64."""
    W, Ht = initialise(as_counts(X), k, init, seed, np.dtype(float), **options)
    return W[:, :k], Ht[:, :k].T


@pytest.mark.parametrize("init", SEEDED)
def test_starts_have_the_total_of_the_counts_and_no_zeros(X, init):
    W, H = start_of(X, init, k=min(2, *X.shape))
    # Two column sums and their product, each over at most 9000 numbers.
    assert W.sum(axis=0) @ H.sum(axis=1) == pytest.approx(X.sum(), rel=1e-12)
    assert (W > 0).all()
    assert (H > 0).all()


@pytest.mark.parametrize("seed", [lambda: 3, lambda: np.random.RandomState(3), lambda: np.random.default_rng(3)])
@pytest.mark.parametrize("init", SEEDED)
def test_equal_seeds_give_equal_bits(init, seed, planted):
    one, two = (start_of(planted[0], init, seed=seed()) for _ in range(2))
    for A, B in zip(one, two, strict=True):
        np.testing.assert_array_equal(A, B)


def test_other_seeds_give_other_starts(planted):
    assert not np.allclose(start_of(planted[0], "random", seed=0)[0], start_of(planted[0], "random", seed=1)[0])


def test_nndsvd_is_scikit_learns_up_to_scale():
    X = MENAGERIE["dense"].astype(float)
    theirs = _initialize_nmf(X.toarray(), 3, init="nndsvd", random_state=0)
    for ours, their in zip(start_of(X, "nndsvd", k=3), theirs, strict=True):
        axis = 0 if ours.shape == (12, 3) else 1
        ours, their = (A / np.linalg.norm(A, axis=axis, keepdims=True) for A in (ours, their))
        # Both are randomized, and our zeros are lifted to 1e-6 of the mean.
        np.testing.assert_allclose(ours, their, atol=1e-4)
        assert ((ours > 1e-5) == (their > 0)).all()


BAD_STARTS = {
    "unknown": ({"init": "kmeans"}, "^init must be one of 'auto', 'merge', 'random'"),
    "nothing_given": ({"init": "custom"}, "^init='custom' needs both W and H"),
    "only_W": ({"init": "custom", "W": np.ones((30, 3))}, "^init='custom' needs both W and H"),
    "unwanted": ({"W": np.ones((30, 3)), "H": np.ones((3, 40))}, "^W and H are starting factors for init='custom'"),
    "too_many": ({"init": "nndsvd", "n_components": 31}, "needs n_components <= .* = 30, got 31"),
    "W_shape": ({"init": "custom", "W": np.ones((3, 30)), "H": np.ones((3, 40))}, r"^W must have shape \(30, 3\)"),
    "H_nan": ({"init": "custom", "W": np.ones((30, 3)), "H": np.full((3, 40), np.nan)}, "^H must be finite"),
    "W_negative": ({"init": "custom", "W": -np.ones((30, 3)), "H": np.ones((3, 40))}, "^W must be non-negative"),
}


@pytest.mark.parametrize(("options", "message"), BAD_STARTS.values(), ids=BAD_STARTS)
def test_invalid_starts_are_named(options, message, planted):
    with pytest.raises(ValueError, match=message):
        poisson_nmf(planted[0], **({"n_components": 3} | options))


@both_dtypes
def test_zero_rates_under_counts_in_a_given_start_are_reseeded_with_a_warning(dtype, planted):
    X, W, H = planted
    W, H = W.copy(), H.copy()
    W[4], H[:, 7] = 0, 0
    W[5], H[:, 8] = [1, 0, 0], [0, 1, 0]
    X = X.tolil()
    X[5, 8] = 3  # both have a start, but their rate is 0
    with pytest.warns(UserWarning, match="rate of 0 under a positive count"):
        solution = fit(X, start=(W, H), dtype=dtype)
    assert np.isfinite(solution.trace["objective"]).all()
    assert (rates(solution)[X.toarray() > 0] > 0).all()


def test_zero_rates_under_zero_counts_are_left_alone(planted):
    X, W, H = planted
    i, j = np.argwhere(X.toarray() == 0)[0]
    W, H = W.copy(), H.copy()
    W[i], H[:, j] = [1, 1, 0], [0, 0, 1]
    solution = fit(X, start=(W, H))
    assert rates(solution)[i, j] == 0


def test_a_given_start_is_not_written_to(planted, unchanged):
    X, W, H = unchanged(*planted)
    for dtype in (np.float32, np.float64):
        fit(X, start=(W, H), dtype=dtype)
    W.flags.writeable = H.flags.writeable = False
    fit(X, start=(W, H))
