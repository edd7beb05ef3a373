"""Top features, quality, matching and the input of pyLDAvis follow their definitions, computed by loops."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from fastpmf import HPF, PoissonNMF, match_components, pyldavis_input, top_features, topic_quality
from fastpmf.analysis.features import distributions


@pytest.fixture
def H():
    H = np.random.default_rng(0).gamma(0.3, size=(4, 12))
    H[:, 7], H[2, :6] = 0, 0
    return H


@pytest.mark.parametrize("by", ["weight", "lift", "exclusivity"])
def test_features_are_ordered_by_their_definition(H, by):
    P = H / H.sum(axis=1, keepdims=True)
    top = top_features(H, 3, by=by, names=[f"w{j}" for j in range(12)])
    for z in range(4):
        score = {"weight": P[z], "lift": P[z] / np.where((m := P.mean(axis=0)) > 0, m, 1)}
        score["exclusivity"] = score["lift"] / 4
        best = np.sort(score[by])[::-1][:3]
        np.testing.assert_allclose(top.scores[z], best)
        np.testing.assert_allclose(score[by][top.indices[z]], best)
        assert top.names[z].tolist() == [f"w{j}" for j in top.indices[z]]


def test_features_below_min_weight_or_without_mass_are_left_out():
    top = top_features([[6, 3, 1, 0], [0, 0, 0, 0]], 3, min_weight=0.2)
    assert top.indices.tolist() == [[0, 1, -1], [-1, -1, -1]]
    assert top.names.tolist() == [["0", "1", ""], ["", "", ""]]
    assert np.isnan(top.scores[1]).all()


def test_min_weight_excludes_rare_features_from_lift():
    H = [[500, 499, 1], [500, 500, 0]]
    assert top_features(H, 1, by="lift").indices[0, 0] == 2
    assert top_features(H, 1, by="lift", min_weight=0.01).indices[0, 0] == 0


def test_coherence_equals_loops_over_rows(H):
    X = np.random.default_rng(1).poisson(0.7, (25, 12))
    found = topic_quality(sparse.csr_array(X), H, 5)
    top, there = top_features(H, 5), X > 0
    shares = distributions(H) / distributions(H).sum(axis=0).clip(1e-300)
    for z in range(4):
        features = [j for j in top.indices[z] if j >= 0]
        umass, npmi = [], []
        for a, b in itertools.combinations(features, 2):
            often, rare = (a, b) if there[:, a].sum() >= there[:, b].sum() else (b, a)
            both = (there[:, a] & there[:, b]).sum()
            umass.append(np.log((both + 1) / there[:, often].sum()))
            p = both / 25
            apart = there[:, a].mean() * there[:, b].mean()
            npmi.append(np.log(p / apart) / -np.log(p) if p else -1)
            assert rare in features
        assert found.umass[z] == pytest.approx(np.mean(umass))
        assert found.npmi[z] == pytest.approx(np.mean(npmi))
        assert found.exclusivity[z] == pytest.approx(shares[z, features].mean())
        P = distributions(H)[z]
        assert found.effective_features[z] == pytest.approx(np.exp(-(P[P > 0] * np.log(P[P > 0])).sum()))


def test_features_of_equal_lift_are_ordered_by_weight():
    top = top_features([[0.001, 9, 0, 1], [0, 0, 5, 1]], 3, by="lift", names=["aardvark", "zebra", "x", "y"])
    assert top.names[0].tolist() == ["zebra", "aardvark", "y"]


def test_titles_are_first_features_or_empty():
    top = top_features([[3, 2, 1], [0, 0, 0], [0, 1, 0]], 3, names=["ape", "bee", "cat"])
    assert top.titles(2) == ["ape bee", "(empty)", "bee"]


def test_effective_rows_of_an_evenly_spread_component_are_its_rows():
    W = np.array([[1, 0], [1, 5], [1, 0], [0, 0]])
    found = topic_quality(np.ones((4, 3)), np.ones((2, 3)), W=W)
    np.testing.assert_allclose(found.effective_rows, [3, 1])
    assert topic_quality(np.ones((4, 3)), np.ones((2, 3))).effective_rows is None


def test_pyldavis_gets_distributions_of_rows_features_and_components_with_counts_and_mass():
    rng = np.random.default_rng(4)
    W, H = rng.gamma(0.5, size=(9, 4)).astype(np.float32), rng.gamma(0.5, size=(4, 7)).astype(np.float32)
    X = rng.poisson(3 * W @ H) + 1
    X[2], X[:, 5] = 0, 0  # a row and a feature without counts
    W[:, 3] = 0  # and a component without mass
    W[6] = 0  # a row without mass
    found = pyldavis_input(X, W, H, list("abcdefg"))
    rows, columns = [0, 1, 3, 4, 5, 7, 8], [0, 1, 2, 3, 4, 6]
    assert found["vocab"].tolist() == list("abcdeg")
    np.testing.assert_array_equal(found["doc_lengths"], X.sum(axis=1)[rows])
    np.testing.assert_array_equal(found["term_frequency"], X.sum(axis=0)[columns])
    mixtures = W[:, :3] * H[:3].sum(axis=1)
    mixtures = mixtures[rows] / mixtures[rows].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["doc_topic_dists"], mixtures, rtol=1e-5)  # float32
    P = H[:3][:, columns]
    np.testing.assert_allclose(found["topic_term_dists"], P / P.sum(axis=1, keepdims=True), rtol=1e-5)
    for name in ("doc_topic_dists", "topic_term_dists"):
        np.testing.assert_allclose(found[name].sum(axis=1), 1, rtol=1e-12)


def test_pyldavis_gets_no_component_whose_features_have_no_counts():
    # The third component has one feature, without counts in X; the last row has that component only
    W, H = np.array([[1.0, 1, 1], [2, 0, 1], [0, 0, 3]]), np.array([[1.0, 2, 0], [3, 1, 0], [0, 0, 1]])
    found = pyldavis_input([[2, 1, 0], [1, 1, 0], [1, 0, 0]], W, H)
    np.testing.assert_allclose(found["topic_term_dists"], [[1 / 3, 2 / 3], [3 / 4, 1 / 4]], rtol=1e-12)
    np.testing.assert_allclose(found["doc_topic_dists"], [[3 / 7, 4 / 7], [1, 0]], rtol=1e-12)
    assert found["doc_lengths"].tolist() == [3, 2]


def test_a_component_with_one_feature_has_no_pairs():
    found = topic_quality([[1, 0], [1, 1]], [[1, 0], [1, 1]])
    assert np.isnan(found.umass[0])
    assert np.isnan(found.npmi[0])
    assert found.effective_features.tolist() == [1, 2]


def test_matching_inverts_a_permutation_and_marks_components_without_partner(H):
    order = np.array([2, 0, 3, 1])
    partners, similarity = match_components(H, 3 * H[order])
    assert order[partners].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(similarity, 1)
    partners, similarity = match_components(H, H[[3, 1]])
    assert partners.tolist() == [-1, 1, -1, 0]
    assert np.isnan(similarity[[0, 2]]).all()


@pytest.mark.parametrize("estimator", [PoissonNMF, HPF])
def test_estimators_use_their_feature_names(estimator):
    import pandas as pd

    X = pd.DataFrame(np.random.default_rng(2).poisson(2.0, (12, 4)), columns=["a", "b", "c", "d"])
    model = estimator(2, max_iter=20, tol=0, random_state=0).fit(X)
    top = model.top_features(2)
    expected = top_features(model.components_, 2, names=list("abcd"))
    assert top.names.tolist() == expected.names.tolist()
    assert model.quality(X, 3).npmi.shape == (2,)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: top_features([[1, 2]], by="frex"), "by must be one of 'weight', 'lift', 'exclusivity', got 'frex'"),
        (lambda: top_features([[1, 2]], 0), "n == 0, must be >= 1"),
        (lambda: top_features([[1, 2]], names=["a"]), "names must be 2, one for each feature"),
        (lambda: top_features([1, 2]), "H must be a matrix with at least one row and one column, got"),
        (lambda: top_features([[1, -2]]), "H must be non-negative, got a minimum of -2"),
        (lambda: topic_quality([[1]], [[1, 2]]), "X must have 2 columns, as H has, got 1"),
        (lambda: topic_quality([[1, 1]], [[1, 2]], W=[[1, 1]]), "W must have shape"),
        (lambda: pyldavis_input([[1]], [[1]], [[1, 2]]), "X must have the shape of W H"),
        (lambda: pyldavis_input([[1, 1]], [[1]], [[1, 2]], ["a"]), "names must be 2, one for each feature"),
        (lambda: match_components([[1, 2]], [[1]]), "other must have 2 features, as H has, got 1"),
    ],
)
def test_bad_input_raises_a_clear_error(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
