"""Recommendations are exactly the columns of highest rate, and scores equal their definitions."""

import re
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import ndcg_score, roc_auc_score

import fastpmf.analysis.ranking
from fastpmf import HPF, PoissonNMF, as_counts, ranking_scores, recommend, similar_columns
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import Dataset


@pytest.fixture(params=[1 << 24, 50], ids=["one block", "blocks of two rows"])
def case(request, monkeypatch):
    monkeypatch.setattr(fastpmf.analysis.ranking, "_BLOCK", request.param)
    rng = np.random.default_rng(0)
    W, H = rng.gamma(0.5, size=(9, 3)), rng.gamma(0.5, size=(3, 20))
    train, test = rng.poisson(0.5, (9, 20)), rng.poisson(0.5, (9, 20))
    test[4] = 0
    return W, H, train, test


def test_the_highest_rates_come_first_without_excluded_columns(case):
    W, H, train, _ = case
    found = recommend(W, H, 4, exclude=sparse.csr_array(train))
    rates = np.where(train > 0, -np.inf, W @ H)
    np.testing.assert_allclose(found.rates, -np.sort(-rates, axis=1)[:, :4])
    np.testing.assert_array_equal(found.indices, np.argsort(-rates, axis=1, kind="stable")[:, :4])
    np.testing.assert_array_equal(recommend(W, H, 4).indices, np.argsort(-(W @ H), axis=1, kind="stable")[:, :4])


def test_the_rates_of_all_rows_are_never_in_memory_at_once():
    rng = np.random.default_rng(6)
    W, H = rng.random((20_000, 2)), rng.random((2, 1000))
    test, train = (sparse.random_array((20_000, 1000), density=1e-3, rng=rng) for _ in range(2))
    tracemalloc.start()
    recommend(W, H, 5, exclude=train)
    ranking_scores(test, W, H, 5, exclude=train, auc=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.3 * 8 * 20_000 * 1000  # a block of rates is a tenth of all of them


def test_of_equal_rates_the_first_column_is_first():
    assert recommend([[1.0]], [[2, 3, 3, 3, 2, 2]], 5).indices.tolist() == [[1, 2, 3, 0, 4]]


def test_ties_and_exclusions_equal_a_stable_sort_with_many_columns():
    rng = np.random.default_rng(3)
    W, H = rng.integers(0, 2, (40, 2)), rng.integers(0, 3, (2, 700))  # whole numbers, so that many rates are equal
    train = rng.random((40, 700)) < np.linspace(0, 1, 40)[:, None]  # from no columns to all
    found = recommend(W, H, 30, exclude=train)
    rates = np.where(train, 0, W @ H)
    order = np.argsort(-rates, axis=1, kind="stable")[:, :30]
    best = np.take_along_axis(rates, order, axis=1)
    np.testing.assert_array_equal(found.indices, np.where(best > 0, order, -1))
    np.testing.assert_array_equal(found.rates, np.where(best > 0, best, np.nan))


def test_without_remaining_columns_nothing_is_recommended():
    found = recommend([[1.0], [1.0]], [[1, 2, 3]], 9, exclude=[[1, 0, 1], [1, 1, 1]])
    assert found.indices.tolist() == [[1, -1, -1], [-1, -1, -1]]
    assert np.isnan(found.rates[1]).all()


def test_columns_of_rate_zero_are_not_recommended():
    found = recommend([[0, 2], [0, 0]], [[1, 1, 1], [0, 1, 0]], 2)
    assert found.indices.tolist() == [[1, -1], [-1, -1]]
    assert found.rates[0, 0] == 2
    scores = ranking_scores([[1, 0, 0], [1, 0, 0]], [[0, 2], [0, 0]], [[1, 1, 1], [0, 1, 0]], 2)
    assert scores[:3] == (0, 0, 0)


def test_only_items_are_recommended(case):
    W, H, train, _ = case
    items = [17, 3, 4, 11, 3]
    found = recommend(W, H, 3, exclude=train, items=items)
    others = np.setdiff1d(np.arange(20), items)
    blocked = train.copy()
    blocked[:, others] = 1
    expected = recommend(W, H, 3, exclude=blocked)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.rates, expected.rates, rtol=1e-14)  # BLAS may add in another order
    assert recommend(W, H, 9, items=[2]).indices.shape == (9, 1)


def test_scores_equal_scikit_learn_and_loops(case):
    W, H, train, test = case
    found = ranking_scores(test, W, H, 4, exclude=train, auc=True)
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


def test_the_auc_is_computed_on_request_only(case):
    W, H, train, test = case
    without = ranking_scores(test, W, H, 4, exclude=train)
    assert without.auc is None
    assert without._replace(auc=0.0) == ranking_scores(test, W, H, 4, exclude=train, auc=True)._replace(auc=0.0)


def test_ties_count_half():
    assert ranking_scores([[1, 0, 1, 0]], [[1.0]], [[1, 1, 1, 1]], auc=True).auc == 0.5


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


@pytest.fixture(scope="module", params=[PoissonNMF, HPF])
def fitted(request):
    X = np.random.default_rng(2).poisson(0.8, (14, 9)) + np.eye(14, 9, dtype=int)
    data = Dataset(
        sparse.csr_array(X), np.array([f"user {i}" for i in range(14)]), np.array([f"item {j}" for j in range(9)])
    )
    model = request.param(2, max_iter=30, tol=1e-2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, data, model.fit_transform(data)


def test_estimators_recommend_to_fitted_and_to_new_rows(fitted):
    model, data, W = fitted
    X, H = data.X, model.components_
    known = model.recommend(replace(data, X=X[:3], row_names=None), W[:3], n=4)
    np.testing.assert_array_equal(known.indices, recommend(W[:3], H, 4, exclude=X[:3]).indices)
    new = model.recommend(replace(data, X=X[10:], row_names=None), n=4, exclude_seen=False)
    np.testing.assert_array_equal(new.indices, recommend(model.transform(data)[10:], H, 4).indices)
    np.testing.assert_array_equal(model.similar_items([0, 2], 3).indices, similar_columns(H, [0, 2], 3).indices)
    with pytest.raises(ValueError, match="X must be given to exclude its features; give exclude_seen=False"):
        model.recommend(W=W[:3])
    with pytest.raises(ValueError, match="X or W must be given"):
        model.recommend(exclude_seen=False)
    with pytest.raises(ValueError, match=r"W must have shape \(14, 2\), got \(3, 2\)"):
        model.recommend(data, W[:3])


def test_rows_and_items_are_chosen_by_name_or_number_and_returned_with_names(fitted):
    model, data, W = fitted
    items = ["item 7", "item 1", "item 4"]
    found = model.recommend(data, n=2, rows=["user 9", "user 2"], items=items, exclude_seen=False)
    numbers = model.recommend(data, n=2, rows=[9, 2], items=[1, 4, 7], exclude_seen=False)
    expected = recommend(model.transform(data)[[9, 2]], model.components_, 2, items=[1, 4, 7])
    for one in (found, numbers):
        np.testing.assert_array_equal(one.indices, expected.indices)
        assert one.names.tolist() == [[f"item {j}" for j in row] for row in one.indices]
        assert one.row_names.tolist() == ["user 9", "user 2"]
    frame = pd.DataFrame(data.X.toarray(), data.row_names, data.column_names)
    np.testing.assert_array_equal(model.recommend(frame, W, rows="user 9").indices, model.recommend(data, W, rows=9)[0])
    assert model.recommend(frame.reset_index(drop=True), rows=[9]).row_names is None
    numbered = frame.set_axis(np.arange(14) + 100)
    found = model.recommend(numbered, W, rows=[109])
    np.testing.assert_array_equal(found.indices, model.recommend(data, W, rows=9)[0])
    assert found.row_names.tolist() == [109]
    with pytest.raises(ValueError, match="rows must hold known names, got 9"):
        model.recommend(numbered, rows=[9])
    labelled = pd.DataFrame(W, data.row_names)
    assert model.recommend(W=labelled, rows=["user 3"], exclude_seen=False).row_names.tolist() == ["user 3"]
    assert model.recommend(W=W, rows=[13], exclude_seen=False).indices.shape == (1, 9)
    similar = model.similar_items("item 3", 2, items=items)
    np.testing.assert_array_equal(similar.indices, similar_columns(model.components_, [3], 2, items=[1, 4, 7]).indices)
    assert similar.row_names.tolist() == ["item 3"]
    assert set(similar.names[0]) <= set(items)


def test_missing_recommendations_have_no_name(fitted):
    model, data, W = fitted
    everything = replace(data, X=data.X + sparse.csr_array(np.ones((14, 9), int)))
    found = model.recommend(everything, W, n=1, rows=[0])
    assert (found.indices.tolist(), found.names.tolist()) == ([[-1]], [[""]])


def test_a_row_without_counts_gets_the_most_popular_items(fitted):
    model, data, W = fitted
    nothing = replace(data, X=np.zeros((2, 9), int), row_names=None)
    popular = np.argsort(-(W.sum(axis=0) @ model.components_), kind="stable")
    for found in (
        model.recommend(nothing, n=4),
        model.recommend(W=np.zeros((2, 2)), n=4, exclude_seen=False),
        model.recommend(data, np.zeros((14, 2)), n=4, rows=[0, 1], exclude_seen=False),
    ):
        np.testing.assert_array_equal(found.indices, [popular[:4]] * 2)
        np.testing.assert_allclose(found.rates[0], W.mean(axis=0) @ model.components_[:, popular[:4]], rtol=1e-6)
    others = [item for item in popular if item not in popular[:2]]
    assert model.recommend(nothing, n=3, items=others).indices[0].tolist() == popular[2:5].tolist()
    mixed = replace(data, X=sparse.vstack([data.X[:1], nothing.X[:1]]).tocsr(), row_names=None)  # rows are independent
    np.testing.assert_array_equal(model.recommend(mixed, n=4).indices[0], model.recommend(data, n=4).indices[0])


def test_without_an_average_row_a_row_without_counts_gets_nothing_or_what_the_prior_implies():
    X, nothing = np.random.default_rng(7).poisson(1.0, (30, 6)), np.zeros((1, 6), int)
    model = PoissonNMF(2, max_iter=20, tol=1e-1, random_state=0).fit(X)
    model.mean_W_ = None  # as after a fit over workers
    assert model.recommend(nothing, n=3).indices.tolist() == [[-1, -1, -1]]
    bayes = HPF(2, random_state=0).partial_fit(X)
    expected = recommend(bayes.transform(nothing), bayes.components_, 3)
    np.testing.assert_array_equal(bayes.recommend(nothing, n=3).indices, expected.indices)
    assert (expected.rates > 0).all()


def test_under_maximum_likelihood_the_average_row_has_the_mean_counts():
    X = np.random.default_rng(4).poisson(np.linspace(0.1, 3, 12), (40, 12))
    model = PoissonNMF(3, max_iter=500, tol=1e-6, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    found = model.recommend(np.zeros((1, 12)), n=12)
    np.testing.assert_array_equal(found.indices[0], np.argsort(-X.sum(axis=0), kind="stable"))
    np.testing.assert_allclose(found.rates[0], -np.sort(-X.mean(axis=0)), rtol=1e-3)  # the accuracy that tol gives


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "compress", [lambda X: X.log1p() / np.log(2), lambda X: X.sign()], ids=["log2(1 + x)", "x > 0"]
)
def test_compressing_heavy_tailed_counts_improves_recommendations(compress, seed):
    # Users and items of eight tastes, with random numbers of repetitions: the documented recipe
    X = make_poisson_counts(400, 300, 8, nnz=12_000, skew=0.5, concentration=0.1, random_state=seed).X.astype(float)
    rng = np.random.default_rng(seed)
    X.data = np.ceil(rng.lognormal(0, 2, X.nnz))
    train, test, heldout = X.copy(), X.copy(), rng.random(X.nnz) < 0.2
    train.data[heldout], test.data[~heldout] = 0, 0
    model = PoissonNMF(8, prior_W="auto", prior_H="auto", tol=1e-2, random_state=0)

    def recall(W, H):
        return ranking_scores(test, W, H, 20, exclude=train).recall

    popularity = recall(np.ones((400, 1)), [(train > 0).sum(axis=0)])
    raw = recall(model.fit_transform(train), model.components_)
    compressed = recall(model.fit_transform(compress(train)), model.components_)
    # Over these seeds 0.53 to 0.60, of raw counts 0.17 to 0.19, of popularity 0.28 to 0.30, each of 2,400 entries, so
    # that errors are about 0.01
    assert compressed > 2 * raw
    assert compressed > 1.5 * popularity


def test_with_many_components_and_few_counts_per_row_the_sparse_prior_recommends_better():
    recall = {"auto": [], "sparse": []}
    for seed in range(3):
        X = make_poisson_counts(800, 800, 100, nnz=20_000, skew=0.5, concentration=0.01, random_state=seed).X
        train, test = X.sign(), X.sign()
        heldout = np.random.default_rng(seed).random(X.nnz) < 0.2
        train.data[heldout], test.data[~heldout] = 0, 0
        for prior, found in recall.items():
            model = PoissonNMF(100, prior_W=prior, prior_H=prior, tol=1e-2, random_state=0)
            W = model.fit_transform(train)
            found.append(ranking_scores(test, W, model.components_, 20, exclude=train).recall)
    # Seed by seed higher by 0.04 to 0.07; the standard error of each recall, of 4,000 entries, is 0.01
    assert np.mean(recall["sparse"]) > np.mean(recall["auto"]) + 0.02


def test_the_average_row_is_saved_and_updated_by_partial_fit(tmp_path):
    X = np.random.default_rng(5).poisson(1.0, (30, 6))
    model = PoissonNMF(2, max_iter=20, tol=1e-1, random_state=0)
    for fit in (model.fit, model.partial_fit):
        fit(X)
        model.save(tmp_path / "model.npz")
        again = PoissonNMF.load(tmp_path / "model.npz")
        np.testing.assert_array_equal(again.mean_W_, model.mean_W_)
        rates = again.recommend(np.zeros((1, 6), int), n=6).rates[0]
        assert rates.sum() == pytest.approx(X.sum() / 30, rel=0.02)  # the accuracy of so few iterations


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: recommend([[1]], [[1]], 0), "n == 0, must be >= 1"),
        (lambda: recommend([[1]], [[1], [2]]), "H must have 1 rows, as many as W has columns, got 2: give its"),
        (lambda: recommend([[1]], [[np.nan]]), "H must be finite"),
        (lambda: recommend([[1e200]], [[1e200]]), "W and H must be small enough for the sum of W H to be finite"),
        (lambda: recommend([[1]], [[1, 2]], exclude=[[1]]), r"exclude must have shape \(1, 2\), as W H has"),
        (lambda: ranking_scores([[0, 1]], [[1]], [[1, 2]], exclude=[[0, 1]]), "X must hold a positive count"),
        (lambda: similar_columns([[1, 2]], [2]), "columns must lie in 0 ... 1, got 2 to 2"),
        (lambda: recommend([[1]], [[1, 2]], items=[]), "items must hold at least one column, got none"),
        (lambda: recommend([[1]], [[1, 2]], items=[True, False]), "items must hold integers or names, got dtype bool"),
        (lambda: similar_columns([[1, 2]], [[0]]), r"columns must be a list of numbers, got shape \(1, 1\)"),
        (lambda: similar_columns([[1, 2]], ["a"]), "columns must hold integers where there are no names, got 'a'"),
        (lambda: similar_columns([[1, 2]], [[0], [0, 1]]), "columns must be an array, got a list of unequal lengths"),
        (lambda: similar_columns([[1, 2]], [0.5]), "columns must hold integers or names, got dtype float64"),
    ],
)
def test_bad_input_raises_a_clear_error(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()


@pytest.mark.parametrize("wrong", [[0, -1], [0, 99], -1], ids=["negative", "too large", "one number"])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda model, data, x: model.recommend(data, rows=x), "rows"),
        (lambda model, data, x: model.recommend(data, items=x), "items"),
        (lambda model, data, x: model.similar_items(x), "features"),
        (lambda model, data, x: model.similar_items([0], items=x), "items"),
        (lambda model, data, x: similar_columns(model.components_, x), "columns"),
        (lambda model, data, x: similar_columns(model.components_, [0], items=x), "items"),
        (lambda model, data, x: recommend(np.ones((1, 2)), model.components_, items=x), "items"),
        (lambda model, data, x: as_counts(data).select_rows(x), "rows"),
    ],
)
def test_numbers_below_zero_or_too_large_are_rejected(fitted, call, name, wrong):
    model, data, _ = fitted
    with pytest.raises(ValueError, match=rf"{name} must lie in 0 \.\.\. (8|13), got"):
        call(model, data, wrong)


def test_an_integer_that_is_a_position_and_the_name_of_another_is_refused():
    ids = np.array(["3", "1", "0", "17850"])
    data = Dataset(np.arange(16).reshape(4, 4) % 5, ids, ids)
    model = HPF(2, random_state=0, max_iter=5, tol=1.0).fit(data)
    calls = {
        "rows": lambda chosen: model.recommend(data, rows=chosen, exclude_seen=False).row_names,
        "items": lambda chosen: model.recommend(data, items=chosen, exclude_seen=False).names,
        "features": lambda chosen: model.similar_items(chosen).row_names,
        "columns": lambda chosen: model.predictive_mean("3", chosen),
    }
    for name, call in calls.items():
        with pytest.raises(
            ValueError, match=rf"^{name} is ambiguous, got 0, .*: give '0' for the name or '3' for the po"
        ):
            call([0])
        with pytest.raises(ValueError, match=rf"^{name} is ambiguous, got 17850, .*: give '17850' for the name$"):
            call([17850])
        call([1])  # the position of its own name
        call([2])  # no name
    assert calls["rows"]("0").tolist() == calls["rows"]([2]).tolist() == ["0"]
    labelled = pd.DataFrame(model.components_, columns=ids)
    with pytest.raises(ValueError, match=r"^columns is ambiguous, got 0"):
        similar_columns(labelled, 0)
    with pytest.raises(ValueError, match=r"^items is ambiguous, got 0"):
        recommend(model.W_posterior_.mean, labelled, items=[0])


def test_names_that_begin_like_an_unknown_one_or_resemble_it_are_suggested():
    names = ["PARTY BUNTING", "PARTY BUNTING SPOTTY", "party bunting red", "PARTY BUNTING, LARGE", "TEA CUP"]
    model = PoissonNMF(1, random_state=0).fit(Dataset(np.ones((2, 5)), None, names))
    expected = "got 'PARTY BUNTIN'; did you mean 'PARTY BUNTING', 'PARTY BUNTING SPOTTY' or 'party bunting red'?"
    with pytest.raises(ValueError, match=re.escape(expected)):
        model.similar_items("PARTY BUNTIN")
    with pytest.raises(ValueError, match=r"got 'TAE CUP'; did you mean 'TEA CUP'\?$"):
        model.similar_items("TAE CUP")
    with pytest.raises(ValueError, match=r"got 'xyz'$"):
        model.similar_items("xyz")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model, data: model.recommend(data, rows=["eve"]), "rows must hold known names, got 'eve'"),
        (lambda model, data: model.recommend(data, items=["x", "item 1", "y"]), "items .* names, got 'x' and 1 more"),
        (lambda model, data: model.similar_items("eve"), "features must hold known names, got 'eve'"),
        (lambda model, data: model.recommend(replace(data, row_names=None), rows="user 1"), "rows must hold integers"),
        (lambda model, data: model.recommend(replace(data, row_names=["a"] * 14), rows="a"), "'a' occurs more than"),
        (lambda model, data: model.recommend(replace(data, row_names=["a"])), "each of the 14 rows of X, got 1"),
    ],
)
def test_unknown_names_raise_a_clear_error(fitted, call, sentence):
    model, data, _ = fitted
    with pytest.raises(ValueError, match=sentence):
        call(model, data)


def test_the_table_of_similar_items_has_similarities_and_that_of_recommendations_rates(fitted):
    model, data, W = fitted
    assert model.recommend(data, W, n=2).to_frame().columns.tolist() == ["row", "rank", "item", "rate"]
    similar = model.similar_items(["item 3"], 2)
    assert similar.to_frame().columns.tolist() == ["row", "rank", "item", "similarity"]
    assert str(similar).startswith("2 similar items for 1 row\n")
    assert similar_columns(model.components_, 0, 1).to_frame()["similarity"].between(0, 1).all()


def test_a_transposed_H_is_blamed_itself(case):
    W, H, _, test = case
    sentence = r"^H must have 3 rows, as many as W has columns, got 20: give its transpose$"
    for call in (
        lambda: ranking_scores(test, W, H.T),
        lambda: recommend(W, H.T),
        lambda: fastpmf.to_topics(W, H.T),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
