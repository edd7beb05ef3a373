"""The number of components is chosen by held-out counts, with splits that all numbers share."""

import pickle

import numpy as np
import pytest

from fastpmf import (
    Selection,
    SelectionInterrupted,
    poisson_log_likelihood,
    poisson_nmf,
    select_n_components,
    thin_counts,
)
from fastpmf.datasets import make_poisson_counts


@pytest.mark.parametrize("k", [2, 4])
def test_the_number_that_counts_were_drawn_with_is_found(k):
    X = make_poisson_counts(400, 250, k, nnz=30_000, random_state=k).X
    found = select_n_components(X, [k + 2, 1, k - 1, k, k + 1], random_state=0, dtype="float32")
    assert found.recommended == found.best == k
    assert found.n_components.tolist() == sorted({1, k - 1, k, k + 1, k + 2})
    assert found.similarity[found.n_components == k] > 0.95
    assert not found.at_the_end


def test_scores_are_those_of_fits_to_thinned_counts():
    X = np.random.default_rng(0).poisson(1.0, (30, 20))
    found = select_n_components(X, [2], n_splits=1, random_state=np.random.default_rng(3), max_iter=20, tol=0)
    rng = np.random.default_rng(3)
    train, rest = thin_counts(X, 0.1, random_state=rng)
    fit = poisson_nmf(
        train, 2, prior_W="auto", prior_H="auto", max_iter=20, tol=0, random_state=int(rng.integers(2**31))
    )
    assert found.log_likelihood[0, 0] == pytest.approx(poisson_log_likelihood(rest, fit.W / 9, fit.H) / rest.total)
    assert np.isnan(found.error[0])
    assert found.recommended == 2


def test_recommended_is_the_smallest_within_an_error_of_the_best():
    scores = np.array([[-2.0, -2.2], [-1.5, -1.31], [-1.4, -1.4]])
    found = Selection(np.array([1, 2, 3]), scores, np.ones(3), np.ones((3, 2)))
    assert found.best == 3
    np.testing.assert_allclose(found.error, [0.1, 0.095, 0])
    assert found.recommended == 2
    assert "recommended" in str(found).splitlines()[2]
    assert "larger ones may be better" in str(found)


def test_equal_seeds_give_equal_scores():
    X = np.random.default_rng(0).poisson(1.0, (20, 15))
    a, b = (select_n_components(X, [1, 2], n_splits=2, random_state=5, max_iter=10).log_likelihood for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"n_components": []}, "n_components must hold at least one number"),
        ({"n_components": [0]}, "n_components == 0, must be >= 1"),
        ({"n_splits": 0}, "n_splits == 0, must be >= 1"),
        ({"fraction": 1.0}, "fraction must be a number between 0 and 1, got 1.0"),
        ({"X": [[1, 0]]}, "X must hold enough counts for fraction=0.1"),
        ({"X": [[0.5, 0]]}, "X must hold whole counts"),
    ],
)
def test_bad_input_is_told_in_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        select_n_components(**{"X": [[9, 9], [9, 9]], "n_components": [1], "random_state": 0} | given)


def test_an_interruption_comes_whole_out_of_a_worker():
    X = make_poisson_counts(60, 40, 2, nnz=600, random_state=0).X
    found = select_n_components(X, [1, 2], n_splits=1, max_iter=10, random_state=0)
    again = pickle.loads(pickle.dumps(SelectionInterrupted(found)))
    np.testing.assert_array_equal(again.selection.log_likelihood, found.log_likelihood)
