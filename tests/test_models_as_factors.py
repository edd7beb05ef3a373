"""Functions of factors take a fitted estimator in place of H, with the names of its features."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import NMF
from sklearn.exceptions import NotFittedError

import fastpmf
from fastpmf import PoissonNMF

X = pd.DataFrame(
    np.random.default_rng(0).poisson(3.0, (20, 6)) + 1,
    index=[f"cell{i}" for i in range(20)],
    columns=[f"gene{j}" for j in range(6)],
)
OTHER_ORDER = X.iloc[:, ::-1]
MODEL = PoissonNMF(2, random_state=0, n_threads=1)
W = MODEL.fit_transform(X)

FUNCTIONS = {
    "top_features": lambda H: fastpmf.top_features(H, 3).names,
    "topic_quality": lambda H: fastpmf.topic_quality(X, H, 3).npmi,
    "match_components": lambda H: np.stack(fastpmf.match_components(H, H)),
    "to_topics": lambda H: fastpmf.to_topics(W, H).mixtures,
    "pyldavis_input": lambda H: fastpmf.pyldavis_input(X, W, H)["topic_term_dists"],
    "differential_expression": lambda H: fastpmf.differential_expression(X, W, H, n_threads=1).log2_fold_change,
    "recommend": lambda H: fastpmf.recommend(W, H, 2).names,
    "ranking_scores": lambda H: fastpmf.ranking_scores(X, W, H, 2).recall,
    "similar_columns": lambda H: fastpmf.similar_columns(H, ["gene1"], 2).names,
    "kl_divergence": lambda H: fastpmf.kl_divergence(OTHER_ORDER, W, H),
    "poisson_log_likelihood": lambda H: fastpmf.poisson_log_likelihood(OTHER_ORDER, W, H),
    "poisson_deviance": lambda H: fastpmf.poisson_deviance(OTHER_ORDER, W, H),
    "heldout_log_likelihood": lambda H: fastpmf.heldout_log_likelihood(X, W, H, X),
    "component_gains": lambda H: fastpmf.component_gains(X, H, X, exposure=1.0).gain,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_fitted_model_stands_for_its_components_and_their_names(name):
    found = FUNCTIONS[name](MODEL)
    np.testing.assert_array_equal(found, FUNCTIONS[name](pd.DataFrame(MODEL.components_, columns=X.columns)))


def test_models_of_scikit_learn_are_taken_too():
    model = NMF(2, init="random", random_state=0, max_iter=500).fit(X)
    assert fastpmf.match_components(model, model)[0].tolist() == [0, 1]


def test_components_of_two_models_are_matched_by_the_names_of_features():
    other = PoissonNMF(2, random_state=0, n_threads=1).fit(OTHER_ORDER)
    other.components_, other.feature_names_in_ = MODEL.components_[:, ::-1], MODEL.feature_names_in_[::-1]
    partners, similarity = fastpmf.match_components(MODEL, other)
    assert partners.tolist() == [0, 1]
    np.testing.assert_allclose(similarity, 1)


def test_a_model_that_is_not_fitted_or_in_place_of_W_is_refused():
    with pytest.raises(NotFittedError, match="not fitted yet"):
        fastpmf.top_features(PoissonNMF(2))
    with pytest.raises(TypeError, match="W must be an array, got a fitted PoissonNMF: give the result"):
        fastpmf.to_topics(MODEL, MODEL)
