"""The number of components is chosen by held-out counts, on the same splits for all numbers."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.decomposition import NMF

from fastpmf import (
    HPF,
    PoissonNMF,
    Selection,
    SelectionInterrupted,
    component_gains,
    poisson_log_likelihood,
    poisson_nmf,
    select_n_components,
    thin_counts,
)
from fastpmf.counts.masked import observed_counts
from fastpmf.datasets import make_poisson_counts


@pytest.mark.parametrize("k", [2, 4])
def test_the_true_number_of_components_is_found(k):
    X = make_poisson_counts(400, 250, k, nnz=30_000, random_state=k).X
    found = select_n_components(X, [k + 2, 1, k - 1, k, k + 1], random_state=0)
    assert found.recommended == found.best == k
    assert found.n_components.tolist() == sorted({1, k - 1, k, k + 1, k + 2})
    assert found.similarity[found.n_components == k] > 0.95
    assert not found.best_is_largest


@pytest.mark.parametrize("model", [None, HPF(1, max_iter=100)], ids=["default", "HPF"])
def test_the_number_is_found_in_overdispersed_counts_if_rows_are_held_out(model):
    data, rng = make_poisson_counts(300, 200, 4, nnz=40_000, random_state=0), np.random.default_rng(0)
    mu = data.W @ data.H
    X = rng.poisson(mu * rng.gamma(2.0, 0.5, mu.shape))  # negative binomial, of dispersion 0.5
    rows, counts = (
        select_n_components(X, [2, 3, 4, 5, 6], estimator=model, holdout=holdout, n_splits=2, random_state=0)
        for holdout in ("rows", "counts")
    )
    assert rows.recommended == 4
    assert counts.recommended == 6  # both parts of a count share its extra variation, which more components fit


def test_the_number_is_found_in_poisson_counts_if_rows_are_held_out():
    X = make_poisson_counts(300, 200, 4, nnz=20_000, random_state=0).X
    found = select_n_components(X, [2, 3, 4, 5, 6], holdout="rows", own_starts=1, random_state=0)
    assert found.recommended == found.best == 4
    assert found.similarity[2] > 0.95
    assert found.excess.shape == (5,)


@pytest.mark.parametrize("kind", ["default", "given", "hpf"])
def test_scores_of_held_out_rows_are_those_of_each_fifth_of_the_columns(kind):
    X = np.random.default_rng(0).poisson(1.0, (30, 20)) / 2  # need not be whole
    model = PoissonNMF(2, prior_W="auto", prior_H="auto", max_iter=300)
    model = HPF(2, max_iter=30) if kind == "hpf" else model
    found = select_n_components(
        X, [2], estimator=None if kind == "default" else model, holdout="rows", fraction=0.2, n_splits=1,
        random_state=np.random.default_rng(3),
    )  # fmt: skip
    rng = np.random.default_rng(3)
    order, columns = rng.permutation(30), rng.permutation(20)
    train, heldout = X[np.sort(order[6:])], X[np.sort(order[:6])]
    total = 0.0
    model.set_params(random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(train)
    for rest in columns.reshape(5, 4):
        seen = np.setdiff1d(columns, rest)
        W = model._with_features(seen).transform(heldout[:, seen])
        rows = (heldout[:, seen].sum(axis=1) + 0.5) / (train[:, seen].sum(axis=0) + 0.5).sum()
        rates = 0.99 * W @ model.components_[:, rest] + 0.01 * np.outer(rows, train[:, rest].sum(axis=0) + 0.5)
        total += poisson_log_likelihood(heldout[:, rest], rates, np.eye(len(rest)))
    assert found.log_likelihood[0, 0] == pytest.approx(total / heldout.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.ones((1, 3)), {}, "at least two rows and two columns"),
        (np.ones((3, 1)), {}, "at least two rows and two columns"),
        (np.eye(3, dtype=int), {}, "enough counts to fit and to hold out rows"),
        (np.ones((4, 3)), {"fraction": 1}, "fraction must be a number between 0 and 1"),
        (observed_counts(np.ones((4, 3)), np.tile([True, True, False], (4, 1))), {}, "enough counts"),
        (np.ones((4, 3)), {"holdout": "columns"}, "holdout must be one of"),
        (
            np.ones((4, 3)),
            {"estimator": PoissonNMF(1, prior_W=(np.full((4, 1), 1.1), 1.0))},
            "holdout must be 'counts'",
        ),
    ],
)
def test_counts_from_which_no_rows_can_be_held_out_are_refused(X, options, message):
    with pytest.raises(ValueError, match=message):
        select_n_components(X, [1], **({"holdout": "rows"} | options))


def test_scores_equal_those_of_fits_to_thinned_counts():
    X = np.random.default_rng(0).poisson(1.0, (30, 20))
    options = {"prior_W": "auto", "prior_H": "auto", "max_iter": 20, "tol": 0}
    found = select_n_components(
        X, [2], estimator=PoissonNMF(1, **options), holdout="counts", n_splits=1, random_state=np.random.default_rng(3)
    )
    rng = np.random.default_rng(3)
    train, rest = thin_counts(X, 0.1, random_state=rng)
    fit = poisson_nmf(train, 2, **options, random_state=int(rng.integers(2**31)))
    rows, columns = train.to_scipy().sum(axis=1) + 0.5, train.to_scipy().sum(axis=0) + 0.5
    W = np.column_stack([0.99 * fit.W, 0.01 * rows / columns.sum()]) / 9
    value = poisson_log_likelihood(rest, W, np.vstack([fit.H, columns])) / rest.total
    assert found.log_likelihood[0, 0] == pytest.approx(value)
    assert np.isnan(found.error[0])
    assert found.recommended == 2


@pytest.fixture(scope="module")
def topics():
    return make_poisson_counts(300, 200, 8, nnz=20_000, random_state=1).X


def test_fits_after_merging_end_as_low_as_those_from_their_own_start(topics):
    found = select_n_components(topics, [2, 4, 6, 8, 10], n_splits=2, own_starts=2, random_state=0)
    assert found.excess.shape == (5,)
    # Single fits from different seeds differ by 0.01 nats per count here
    assert np.abs(found.excess).max() < 0.005
    assert found.recommended == 8


def test_the_lower_of_two_fits_is_used(topics):
    def scores(ks, **options):
        return select_n_components(topics, ks, n_splits=2, random_state=3, **options)

    own, merged = (scores(ks).log_likelihood[-1] for ks in ([7], [5, 7]))
    both = scores([5, 7], own_starts=1)
    assert (own != merged).all()
    assert both.log_likelihood[-1].tolist() == [own[0] if both.excess[-1] > 0 else merged[0], merged[1]]
    assert both.to_frame().columns.tolist()[-1] == "excess"
    assert scores([5, 7]).excess is None


@pytest.mark.parametrize(
    "model", [HPF(1, max_iter=20), PoissonNMF(1, init="nndsvd", max_iter=20), PoissonNMF(1, n_init=2, max_iter=20)],
    ids=["HPF", "nndsvd", "n_init"],
)  # fmt: skip
def test_models_with_a_start_of_their_own_are_fitted_from_it(topics, model):
    def scores(ks):
        return select_n_components(topics, ks, estimator=model, n_splits=1, random_state=0)

    together = scores([2, 3])
    assert together.excess is None
    assert together.log_likelihood.ravel().tolist() == [scores([k]).log_likelihood[0, 0] for k in (2, 3)]


def test_replicates_are_stable_at_the_true_number_and_not_beyond(topics):
    found = select_n_components(topics, [4, 8, 12], n_splits=1, n_replicates=5, random_state=0)
    alone = select_n_components(topics, [4, 8, 12], n_splits=1, random_state=0)
    np.testing.assert_array_equal(found.log_likelihood, alone.log_likelihood)
    assert alone.silhouette is None
    assert alone.divergence is None
    assert found.silhouette[1] > 0.7 > found.silhouette[2] + 0.1
    assert found.divergence[0] > found.divergence[1] + 0.05
    assert list(found.to_frame())[-2:] == ["silhouette", "divergence"]
    assert "silhouette" in str(found).splitlines()[0]


def test_one_component_has_a_divergence_and_no_silhouette():
    X = np.random.default_rng(0).poisson(1.0, (20, 15))
    found = select_n_components(X, [1], estimator=HPF(1, max_iter=20), n_splits=1, n_replicates=2, random_state=0)
    assert np.isnan(found.silhouette[0])
    assert found.divergence[0] > 0


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
    a, b = (select_n_components(X, [1, 2], n_splits=2, random_state=5).log_likelihood for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_by_default_posterior_modes_are_fitted():
    X = np.random.default_rng(0).poisson(1.0, (20, 15))
    modes = PoissonNMF(1, prior_W="auto", prior_H="auto", max_iter=300)
    a, b = (select_n_components(X, [1, 2], estimator=model, n_splits=1, random_state=5) for model in (None, modes))
    np.testing.assert_array_equal(a.log_likelihood, b.log_likelihood)


@pytest.mark.long  # docs/guide/choosing_k.md, whose examples run too, has a smaller one of this
def test_the_number_is_chosen_for_the_model_that_is_given():
    # few counts: maximum likelihood overfits soonest, and its zeros call some held-out counts impossible
    X = make_poisson_counts(200, 150, 4, nnz=2500, random_state=0).X
    models = PoissonNMF(1), PoissonNMF(1, prior_W="auto", prior_H="auto"), HPF(1, learn_prior=True)
    found = [select_n_components(X, [1, 2, 4, 8, 16], estimator=model, random_state=0) for model in models]
    assert all(np.isfinite(one.log_likelihood).all() for one in found)
    likelihood, mode, hpf = found
    assert likelihood.recommended < mode.recommended == 4
    assert hpf.mean[-1] > mode.mean[-1] + 0.05 > likelihood.mean[-1]
    assert [model.n_components for model in models] == [1, 1, 1]


@pytest.fixture(scope="module")
def four():
    """Counts of four components, thinned, and those components."""
    train, test = thin_counts(make_poisson_counts(400, 250, 4, nnz=20_000, random_state=1).X, 0.2, random_state=0)
    return train, test, PoissonNMF(4, prior_W="auto", prior_H="auto", random_state=0).fit(train).components_


def test_true_components_are_supported_by_held_out_counts(four):
    train, test, H = four
    found = component_gains(train, H, test, exposure=0.25)
    assert found.supported.all()
    assert component_gains(train, H[::-1], test, exposure=0.25).gain == pytest.approx(found.gain[::-1], rel=1e-2)


def test_components_of_noise_or_nearly_equal_ones_are_not_supported_by_held_out_counts(four):
    train, test, H = four
    rng = np.random.default_rng(0)
    noise = rng.gamma(0.05, H.mean() / 0.05, (2, H.shape[1]))
    copy = H[:1] * rng.gamma(50, 1 / 50, H.shape[1])
    found = component_gains(train, np.vstack([H, copy, noise]), test, exposure=0.25)
    assert found.supported[1:4].all()
    assert not found.supported[4:].any()
    # the copied component adds almost nothing to its copy
    alone = component_gains(train, H, test, exposure=0.25)
    assert found.gain[0] < 0.02 * alone.gain[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"H": np.ones((1, 3))}, r"H must have at least two components, got shape \(1, 3\)"),
        ({"H": np.ones((2, 4))}, r"H must have shape \(2, 3\), got \(2, 4\)"),
        ({"heldout": [[1, 2]]}, r"heldout must have the shape of X, \(2, 3\), got \(1, 2\)"),
        ({"heldout": np.zeros((2, 3))}, "heldout must hold a positive count"),
        ({"exposure": 0}, "exposure"),
    ],
)
def test_component_gains_raise_a_clear_error(change, sentence):
    X = np.ones((2, 3))
    with pytest.raises(ValueError, match=sentence):
        component_gains(**({"X": X, "H": np.ones((2, 3)), "heldout": X, "exposure": 1.0} | change))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"n_components": []}, "n_components must hold at least one number"),
        ({"n_components": [0]}, "n_components == 0, must be >= 1"),
        ({"n_splits": 0}, "n_splits == 0, must be >= 1"),
        ({"n_replicates": 1}, "n_replicates must be 0 or at least 2, got 1"),
        ({"own_starts": -1}, "own_starts == -1, must be >= 0"),
        ({"fraction": 1.0}, "fraction must be a number between 0 and 1, got 1.0"),
        ({"X": [[1, 0]], "holdout": "counts"}, "X must hold enough counts to fit and to hold out with fraction=0.1"),
        ({"X": [[0.5, 0]], "holdout": "counts"}, "X must hold whole counts"),
        ({"estimator": "ml"}, "estimator must be a PoissonNMF or an HPF, got 'ml'"),
        ({"estimator": PoissonNMF}, "estimator must be a PoissonNMF or an HPF, got <class"),
        ({"estimator": NMF(1)}, "estimator must be a PoissonNMF or an HPF, got NMF"),
    ],
)
def test_bad_input_raises_a_clear_error(given, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        select_n_components(**{"X": [[9, 9], [9, 9]], "n_components": [1], "random_state": 0} | given)


def test_an_interruption_can_be_pickled():
    X = make_poisson_counts(60, 40, 2, nnz=600, random_state=0).X
    found = select_n_components(X, [1, 2], n_splits=1, random_state=0)
    again = pickle.loads(pickle.dumps(SelectionInterrupted(found)))
    np.testing.assert_array_equal(again.selection.log_likelihood, found.log_likelihood)
