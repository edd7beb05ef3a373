"""Recommendations are the columns of highest rate, exactly, and their scores those of their definitions."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import ndcg_score, roc_auc_score

import fastpmf.model.ranking
from fastpmf import HPF, PoissonNMF, ranking_scores, recommend, similar_columns


@pytest.fixture(params=[1 << 24, 50], ids=["one block", "blocks of two rows"])
def case(request, monkeypatch):
    monkeypatch.setattr(fastpmf.model.ranking, "_BLOCK", request.param)
    rng = np.random.default_rng(0)
    W, H = rng.gamma(0.5, size=(9, 3)), rng.gamma(0.5, size=(3, 20))
    train, test = rng.poisson(0.5, (9, 20)), rng.poisson(0.5, (9, 20))
    test[4] = 0
    return W, H, train, test


def test_the_highest_rates_come_first_without_what_is_seen(case):
    W, H, train, _ = case
    found = recommend(W, H, 4, exclude=sparse.csr_array(train))
    rates = np.where(train > 0, -np.inf, W @ H)
    np.testing.assert_allclose(found.rates, -np.sort(-rates, axis=1)[:, :4])
    np.testing.assert_array_equal(found.indices, np.argsort(-rates, axis=1, kind="stable")[:, :4])
    np.testing.assert_array_equal(recommend(W, H, 4).indices, np.argsort(-(W @ H), axis=1, kind="stable")[:, :4])


def test_of_equal_rates_the_first_column_is_first():
    assert recommend([[1.0]], [[2, 3, 3, 3, 2, 2]], 5).indices.tolist() == [[1, 2, 3, 0, 4]]


def test_where_nothing_is_left_nothing_is_recommended():
    found = recommend([[1.0], [1.0]], [[1, 2, 3]], 9, exclude=[[1, 0, 1], [1, 1, 1]])
    assert found.indices.tolist() == [[1, -1, -1], [-1, -1, -1]]
    assert np.isnan(found.rates[1]).all()


def test_scores_are_scikit_learns_and_those_of_loops(case):
    W, H, train, test = case
    found = ranking_scores(W, H, test, 4, exclude=train)
    rates = np.where(train > 0, -np.inf, W @ H)
    precision, recall, ndcg, auc = [], [], [], []
    for i in range(9):
        open_ = train[i] == 0
        good = (test[i] > 0) & open_
        if not good.any():
            continue
        first = np.argsort(-rates[i], kind="stable")[:4]
        precision.append(good[first].sum() / 4)
        recall.append(good[first].sum() / good.sum())
        ndcg.append(ndcg_score([good[open_]], [rates[i][open_]], k=4))
        auc.append(roc_auc_score(good[open_], rates[i][open_]))
    assert found.n_rows == len(auc) == 8
    np.testing.assert_allclose(found[:4], [np.mean(m) for m in (precision, recall, ndcg, auc)])


def test_ties_count_half():
    assert ranking_scores([[1.0]], [[1, 1, 1, 1]], [[1, 0, 1, 0]]).auc == 0.5


def test_similar_columns_are_those_of_highest_cosine():
    H = np.random.default_rng(1).gamma(0.3, size=(4, 15))
    H[:, 6] = 0
    P = H / H.sum(axis=1, keepdims=True)
    cosine = (P.T @ P) / np.maximum(np.outer(*[np.linalg.norm(P, axis=0)] * 2), 1e-300)
    np.fill_diagonal(cosine, -np.inf)
    cosine[:, 6] = -np.inf
    found = similar_columns(H, [3, 8], 5)
    np.testing.assert_array_equal(found.indices, np.argsort(-cosine[[3, 8]], axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(similar_columns(H * [[2], [3], [4], [5]], [3, 8], 5).rates, found.rates)


@pytest.mark.parametrize("estimator", [PoissonNMF, HPF])
def test_estimators_recommend_to_users_they_know_and_to_new_ones(estimator):
    X = sparse.csr_array(np.random.default_rng(2).poisson(0.8, (14, 9)) + np.eye(14, 9, dtype=int))
    model = estimator(2, max_iter=30, tol=1e-2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        W = model.fit_transform(X)
    known = model.recommend(W[:3], X[:3], n=4)
    np.testing.assert_array_equal(known.indices, recommend(W[:3], model.components_, 4, exclude=X[:3]).indices)
    new = model.recommend(None, X[10:], n=4, exclude_seen=False)
    np.testing.assert_array_equal(new.indices, recommend(model.transform(X[10:]), model.components_, 4).indices)
    np.testing.assert_array_equal(
        model.similar_items([0, 2], 3).indices, similar_columns(model.components_, [0, 2], 3).indices
    )
    with pytest.raises(ValueError, match="X must be given, to exclude what is seen, or exclude_seen=False"):
        model.recommend(W[:3])
    with pytest.raises(ValueError, match="rows or X must be given"):
        model.recommend(None, exclude_seen=False)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: recommend([[1]], [[1]], 0), "n == 0, must be >= 1"),
        (lambda: recommend([[1]], [[1], [2]]), r"W and H must be matrices of shape \(m, k\) and \(k, p\)"),
        (lambda: recommend([[1]], [[np.nan]]), "H must be finite"),
        (lambda: recommend([[1e200]], [[1e200]]), "W and H must be small enough for the sum of W H to be finite"),
        (lambda: recommend([[1]], [[1, 2]], exclude=[[1]]), r"exclude must have shape \(1, 2\), as W H has"),
        (lambda: ranking_scores([[1]], [[1, 2]], [[0, 1]], exclude=[[0, 1]]), "held_out must hold a positive count"),
        (lambda: similar_columns([[1, 2]], [2]), "columns must lie in 0 ... 1, got 2 to 2"),
        (lambda: similar_columns([[1, 2]], [0.5]), "columns a list of whole numbers"),
    ],
)
def test_bad_input_is_told_in_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
