"""What is said of a fit's features is what its definition says, by loops."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from fastpmf import HPF, PoissonNMF, match_components, top_features, topic_quality
from fastpmf.model.reading import distributions


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


def test_features_that_are_too_rare_or_absent_are_left_out():
    top = top_features([[6, 3, 1, 0], [0, 0, 0, 0]], 3, least=0.2)
    assert top.indices.tolist() == [[0, 1, -1], [-1, -1, -1]]
    assert top.names.tolist() == [["0", "1", ""], ["", "", ""]]
    assert np.isnan(top.scores[1]).all()


def test_lift_leaves_out_what_carries_little_where_asked():
    H = [[500, 499, 1], [500, 500, 0]]
    assert top_features(H, 1, by="lift").indices[0, 0] == 2
    assert top_features(H, 1, by="lift", least=0.01).indices[0, 0] == 0


def test_coherence_is_that_of_loops_over_rows(H):
    X = np.random.default_rng(1).poisson(0.7, (25, 12))
    found = topic_quality(H, sparse.csr_array(X), 5)
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


def test_a_component_with_one_feature_has_no_pairs():
    found = topic_quality([[1, 0], [1, 1]], [[1, 0], [1, 1]])
    assert np.isnan(found.umass[0])
    assert np.isnan(found.npmi[0])
    assert found.effective_features.tolist() == [1, 2]


def test_matching_undoes_a_permutation_and_leaves_out_what_has_no_partner(H):
    order = np.array([2, 0, 3, 1])
    partners, similarity = match_components(H, 3 * H[order])
    assert order[partners].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(similarity, 1)
    partners, similarity = match_components(H, H[[3, 1]])
    assert partners.tolist() == [-1, 1, -1, 0]
    assert np.isnan(similarity[[0, 2]]).all()


@pytest.mark.parametrize("estimator", [PoissonNMF, HPF])
def test_estimators_know_their_features_by_name(estimator):
    import pandas as pd

    X = pd.DataFrame(np.random.default_rng(2).poisson(2.0, (12, 4)), columns=["a", "b", "c", "d"])
    model = estimator(2, max_iter=20, tol=0, random_state=0).fit(X)
    top = model.top_features(2)
    wanted = top_features(model.components_, 2, names=list("abcd"))
    assert top.names.tolist() == wanted.names.tolist()
    assert model.quality(X, 3).npmi.shape == (2,)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: top_features([[1, 2]], by="frex"), "by must be one of weight, lift, exclusivity, got 'frex'"),
        (lambda: top_features([[1, 2]], 0), "n == 0, must be >= 1"),
        (lambda: top_features([[1, 2]], names=["a"]), "names must be 2, one for each feature"),
        (lambda: top_features([1, 2]), "H must be a matrix, got 1 dimension"),
        (lambda: top_features([[1, -2]]), "H must be non-negative, got a minimum of -2"),
        (lambda: topic_quality([[1, 2]], [[1]]), "X must have 2 columns, as H has, got 1"),
        (lambda: match_components([[1, 2]], [[1]]), "other must have 2 features, as H has, got 1"),
    ],
)
def test_bad_input_is_told_in_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
