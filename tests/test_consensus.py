"""Consensus of many fits: nearer to the truth, which components are stable, and what is left out."""

import pickle

import numpy as np
import pytest
import sklearn
from scipy import sparse

from fastpmf import (
    HPF,
    Consensus,
    ConsensusInterrupted,
    PoissonNMF,
    Replicates,
    StreamedCounts,
    consensus,
    kl_divergence,
    match_components,
    plot,
    seeded_prior,
)
from fastpmf.analysis.consensus import cluster
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import Dataset, load_model

FEW = PoissonNMF(1, init="random", max_iter=15, tol=0)  # replicates that are quickly made


@pytest.fixture(scope="module")
def drawn():
    return make_poisson_counts(300, 300, 8, nnz=9_000, random_state=1)


@pytest.fixture(scope="module")
def found(drawn):
    """One component too many."""
    with pytest.warns(UserWarning, match="1 of 9 clusters have no component with a density of at most"):
        return consensus(drawn.X, 9, random_state=0)


@pytest.fixture(scope="module")
def small():
    X = make_poisson_counts(60, 40, 3, nnz=900, random_state=0).X
    return X, consensus(X, 3, n_replicates=4, density_threshold=1.5, random_state=0)


def planted(rng, n_replicates=10, k=4, p=60):
    """Replicates that are components with noise of 5 %, each in an order of its own, and the components."""
    H = rng.gamma(0.3, size=(k, p))
    order = np.array([rng.permutation(k) for _ in range(n_replicates)])
    return Replicates(H[order] * rng.gamma(400, 1 / 400, (n_replicates, k, p)), np.zeros(n_replicates)), order, H


def same(a, b):
    for name in ("labels", "density", "kept", "stability", "distance", "silhouette", "W"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    np.testing.assert_array_equal(a.replicates.components, b.replicates.components)
    np.testing.assert_array_equal(a.model.components_, b.model.components_)
    assert a.model.objective_ == b.model.objective_


def test_the_consensus_is_nearer_to_the_truth_than_the_median_replicate(drawn, found):
    def similarity(H):
        return match_components(drawn.H, H)[1].mean()

    single = np.array([similarity(H) for H in found.replicates.components])
    assert np.ptp(single) > 0.02  # the replicates differ
    assert similarity(found.model.components_) > np.median(single) + 0.005


def test_a_component_too_many_is_the_least_stable_one(drawn, found):
    lowest = np.argmin(found.stability)
    assert found.stability[lowest] < 0.6 < 0.8 < np.delete(found.stability, lowest).min()
    assert found.n_kept[lowest] == 0
    # and the others are the true ones
    assert lowest not in match_components(drawn.H, found.model.components_)[0]


def test_the_model_is_that_of_w_fitted_to_the_consensus(drawn, found):
    model, W = found.model, found.W
    assert model.objective_ == pytest.approx(kl_divergence(drawn.X, W, model.components_), rel=1e-6)  # float32
    # W is within tol nats per count of the best one, as transform's is; 1e-4 each
    again = kl_divergence(drawn.X, model.transform(drawn.X), model.components_)
    assert abs(model.objective_ - again) < 2e-4 * drawn.X.sum()
    np.testing.assert_allclose(model.mean_W_, W.mean(axis=0), rtol=1e-6)
    assert (np.diff(found.share) <= 0).all()  # the largest first
    assert found.share.sum() == pytest.approx(1)
    assert model.n_components_ == 9
    assert model.status_.name == "CONVERGED"


def test_clusters_have_one_component_of_each_replicate(found):
    assert (np.sort(found.labels, axis=1) == np.arange(9)).all()
    np.testing.assert_array_equal(found.kept, found.density <= 0.5)


def test_planted_components_are_found_in_any_order_of_each_replicate():
    replicates, order, H = planted(np.random.default_rng(0))
    result = cluster(replicates)
    first = result.labels[0]
    for own, labels in zip(order, result.labels, strict=True):
        np.testing.assert_array_equal(labels[np.argsort(own)], first[np.argsort(order[0])])
    assert result.kept.all()
    assert result.stability.min() > 0.995  # a noise of 5 % has a similarity of about 1 - 0.05^2 / 4
    assert match_components(H, result.centres)[1].min() > 0.9995  # its mean over ten has a tenth of that
    assert result.silhouette > 0.8


def test_outliers_are_found_and_left_out():
    rng = np.random.default_rng(1)
    replicates, order, H = planted(rng)
    outliers = np.zeros(order.shape, bool)
    outliers[[1, 4, 4], [0, 2, 3]] = True
    replicates.components[outliers] = rng.gamma(0.05, size=(3, H.shape[1]))
    result = cluster(replicates)
    np.testing.assert_array_equal(~result.kept, outliers)
    assert result.n_kept.sum() == outliers.size - 3
    assert match_components(H, result.centres)[1].min() > 0.9995
    # without the filter they are part of the centres
    assert match_components(H, cluster(replicates, density_threshold=1.5).centres)[1].min() < 0.998


def test_stability_is_the_mean_similarity_over_pairs():
    replicates, _, _ = planted(np.random.default_rng(2), n_replicates=3, k=2)
    result = cluster(replicates, density_threshold=1.5)
    H = [A[np.argsort(labels)] for A, labels in zip(replicates.components, result.labels, strict=True)]
    pairs = [match_components(H[a], H[b])[1] for a, b in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(result.stability, np.mean(pairs, axis=0), rtol=1e-12)


def test_the_result_does_not_depend_on_the_number_of_threads(small):
    X, result = small
    for n_threads in (1, 2):
        again = consensus(X, 3, n_replicates=4, density_threshold=1.5, random_state=0, n_threads=n_threads)
        same(again, result)


@pytest.mark.parametrize("resample", ["rows", "counts"])
def test_resampled_fits_vary_with_one_optimum_too(resample):
    X = make_poisson_counts(200, 80, 3, nnz=8_000, random_state=0).X

    def run(resample, **options):
        return consensus(X, 3, n_replicates=4, resample=resample, random_state=0, **options)

    from_starts, from_samples = run(None), run(resample)
    assert from_starts.stability.min() > 0.9999
    assert from_samples.stability.max() < 0.9999
    assert from_samples.stability.min() > 0.9
    same(run(resample), from_samples)
    assert match_components(from_starts.model.components_, from_samples.model.components_)[1].min() > 0.99


def test_more_counts_left_out_are_more_noise():
    X = make_poisson_counts(200, 80, 3, nnz=8_000, random_state=0).X
    few, many = (
        consensus(X, 3, n_replicates=4, resample="counts", fraction=f, random_state=0).stability for f in (0.1, 0.8)
    )
    assert (few > many + 0.01).all()


def test_runs_continue_and_take_another_threshold_without_a_fit(small):
    X, result = small
    first = consensus(X, 3, n_replicates=2, density_threshold=1.5, random_state=0)
    same(consensus(X, 3, n_replicates=4, replicates=first.replicates, density_threshold=1.5, random_state=0), result)

    stopped = []
    none = PoissonNMF(1, callback=lambda *_: stopped.append(1))
    other = consensus(X, 3, replicates=result.replicates, density_threshold=1.4, estimator=none, random_state=0)
    np.testing.assert_array_equal(other.labels, result.labels)
    assert other.density_threshold == 1.4


def test_fits_made_elsewhere_are_accepted(small):
    X, _ = small
    fits = [HPF(3, max_iter=20, tol=0, random_state=seed).fit(X) for seed in range(3)]
    H, objective = (np.array([getattr(fit, name) for fit in fits]) for name in ("components_", "elbo_"))
    result = consensus(X, 3, replicates=Replicates(H, -objective), density_threshold=1.5, random_state=0)
    assert result.labels.shape == (3, 3)
    np.testing.assert_array_equal(result.replicates.objective, -objective)


@pytest.mark.parametrize(("n_done", "kept"), [(3, True), (1, False)])
def test_an_interruption_keeps_the_replicates_that_are_done(small, n_done, kept):
    X, _ = small
    fits = []

    def stop_later(record, W, H):
        fits.append(record.n_iter == 0)
        if sum(fits) == n_done + 1:
            raise KeyboardInterrupt

    def model(callback=None):
        return PoissonNMF(1, init="random", max_iter=15, tol=0, callback=callback)

    whole = consensus(X, 3, n_replicates=5, estimator=model(), density_threshold=1.5, random_state=0)
    with pytest.raises(KeyboardInterrupt) as caught:
        consensus(X, 3, n_replicates=5, estimator=model(stop_later), random_state=0)
    assert isinstance(caught.value, ConsensusInterrupted) is kept
    if kept:
        done = pickle.loads(pickle.dumps(caught.value)).replicates
        np.testing.assert_array_equal(done.components, whole.replicates.components[:n_done])
        rest = consensus(
            X, 3, n_replicates=5, replicates=done, estimator=model(), density_threshold=1.5, random_state=0
        )
        same(rest, whole)


def test_a_file_has_everything_and_is_a_model_too(tmp_path, small):
    X, result = small
    path = tmp_path / "consensus.npz"
    result.save(path)
    again = Consensus.load(path)
    same(again, result)
    assert str(again) == str(result)
    assert type(again.silhouette) is float
    np.testing.assert_array_equal(load_model(path).transform(X), result.model.transform(X))
    again.save(path)
    same(Consensus.load(path), result)


def test_files_without_a_consensus_or_damaged_raise_a_clear_error(tmp_path, small):
    _, result = small
    path = tmp_path / "model.npz"
    result.model.save(path)
    with pytest.raises(ValueError, match="it holds a model without a consensus"):
        Consensus.load(path)
    result.save(path)
    arrays = dict(np.load(path))
    for name, value in {
        "labels": result.labels + 3, "components": -result.replicates.components, "W": result.W[:, :2],
        "objective": np.zeros(9), "kept": result.kept.astype(int),
    }.items():  # fmt: skip
        np.savez(path, **arrays | {f"consensus_{name}": value})
        with pytest.raises(ValueError, match="is not a valid fastpmf model file"):
            Consensus.load(path)
    with pytest.raises(FileNotFoundError):
        Consensus.load(tmp_path / "none.npz")


def test_names_of_features_belong_to_the_model(small):
    X, result = small
    names = [f"gene {j}" for j in range(40)]
    named = consensus(Dataset(X, column_names=names), 3, n_replicates=4, density_threshold=1.5, random_state=0)
    assert named.model.feature_names_in_.tolist() == names
    assert "gene" in str(named)
    np.testing.assert_array_equal(named.W, result.W)


def test_arguments_are_aligned_by_labels_and_dataframes_are_returned_as_arrays(small):
    pd = pytest.importorskip("pandas")
    X, _ = small
    frame = pd.DataFrame(X.toarray(), [f"row {i}" for i in range(60)], [f"column {j}" for j in range(40)])
    exposure = pd.Series(np.linspace(0.5, 2, 60), frame.index)
    options = {"n_replicates": 2, "estimator": FEW, "density_threshold": 1.5, "random_state": 0}
    plain = consensus(X, 3, row_exposure=exposure.to_numpy(), **options)
    with sklearn.config_context(transform_output="pandas"):
        named = consensus(frame, 3, row_exposure=exposure[::-1], **options)
    same(named, plain)
    assert type(named.W) is np.ndarray
    assert named.model.feature_names_in_.tolist() == frame.columns.tolist()


def test_tables_have_a_row_for_each_component_and_replicate(found):
    pytest.importorskip("pandas")
    frame = found.to_frame()
    assert frame.columns.tolist() == ["stability", "kept", "share"]
    assert frame["kept"].tolist() == found.n_kept.tolist()
    frame = found.to_frame(replicates=True)
    assert frame.columns.tolist() == ["objective", "distance", "kept"]
    assert frame["kept"].sum() == found.kept.sum()
    lines = str(found).splitlines()
    assert lines[0] == "Consensus of 20 replicates"
    assert len(lines) == 13


def test_the_estimator_is_used_and_not_changed(small):
    X, _ = small
    estimator = PoissonNMF(1, prior_W="auto", prior_H="auto", init="random", max_iter=20, tol=0, random_state=3)
    before = estimator.get_params()
    result = consensus(X, 2, n_replicates=2, estimator=estimator, density_threshold=1.5, random_state=0)
    assert estimator.get_params() == before
    assert not hasattr(estimator, "components_")
    assert result.model.prior_W == "auto"
    one = PoissonNMF(2, prior_W="auto", prior_H="auto", max_iter=20, init="random", tol=0)
    assert result.replicates.objective[0] == pytest.approx(one.fit(X).objective_, rel=0.1)


def test_exposures_groups_and_weights_are_those_of_all_fits(small):
    X, _ = small
    rng = np.random.default_rng(0)
    options = {"n_replicates": 2, "estimator": FEW, "density_threshold": 1.5, "random_state": 0}
    exposure, groups = rng.uniform(0.5, 2, 60), np.repeat([0, 1], 30)
    scaled = consensus(X, 3, row_exposure=exposure, column_exposure=np.full(40, 2.0), **options)
    rates = scaled.model.rate_factors(scaled.W, row_exposure=exposure)
    assert scaled.model.objective_ == pytest.approx(kl_divergence(X, *rates), rel=1e-6)  # float32
    grouped = consensus(X, 3, groups=groups, resample="rows", **options)
    assert grouped.model.group_effects_.shape == (2, 40)
    doubled = consensus(X, 3, sample_weight=np.full(60, 2.0), **options)
    plain = consensus(X, 3, **options)
    np.testing.assert_allclose(doubled.replicates.objective, 2 * plain.replicates.objective, rtol=1e-5)  # float32
    mask = sparse.csr_array(rng.random((60, 40)) < 0.1)
    hidden = X.toarray()
    hidden[mask.toarray()] = 99
    a, b = (consensus(A, 3, mask=mask, **options) for A in (X, hidden))
    np.testing.assert_array_equal(a.model.components_, b.model.components_)


def test_counts_on_disk_give_the_components_of_those_in_memory(small):
    X, _ = small
    streamed = StreamedCounts(lambda: iter([X[:30], X[30:]]))
    mu = PoissonNMF(1, solver="mu", acceleration=None, init="random", max_iter=15, tol=0)
    options = {"n_replicates": 3, "estimator": mu, "density_threshold": 1.5, "random_state": 0}
    a, b = (consensus(A, 3, **options) for A in (X, streamed))
    np.testing.assert_allclose(a.model.components_, b.model.components_, rtol=1e-3)  # float32
    for resample in ("rows", "counts"):
        with pytest.raises(ValueError, match="memory"):
            consensus(streamed, 3, resample=resample, **options)


def test_features_that_no_kept_component_has_get_their_share_of_counts():
    X = np.random.default_rng(0).poisson(2.0, (30, 6))
    H = np.random.default_rng(1).gamma(1.0, size=(3, 2, 6))
    H[:, :, 4] = 0
    result = consensus(X, 2, replicates=Replicates(H, np.zeros(3)), density_threshold=1.5, random_state=0)
    P = result.model.components_ / result.model.components_.sum(axis=1, keepdims=True)
    share = X[:, 4].sum() / X.sum()
    np.testing.assert_allclose(P[:, 4], share / (1 + share), rtol=1e-5)  # float64, but for the sums


def test_one_component_has_no_silhouette(small):
    X, _ = small
    result = consensus(X, 1, n_replicates=2, random_state=0)
    assert np.isnan(result.silhouette)
    assert result.stability == pytest.approx([1.0])
    assert result.kept.all()


def test_components_without_mass_are_outliers():
    replicates, _, _ = planted(np.random.default_rng(3), k=3)
    replicates.components[2, 1] = 0
    result = cluster(replicates)
    assert (~result.kept).nonzero()[0].tolist() == [2]
    assert np.isfinite(result.centres).all()


def test_the_users_arrays_are_not_written_to(unchanged, small):
    X, result = small
    replicates = Replicates(*unchanged(*result.replicates))
    consensus(unchanged(sparse.csr_array(X)), 3, replicates=replicates, density_threshold=1.5, random_state=0)


def test_the_plot_shows_similarities_densities_and_stabilities(found):
    pytest.importorskip("matplotlib").use("agg")
    heat, densities, bars = plot.consensus(found)
    values = heat.images[0].get_array()
    order = np.lexsort([found.density.ravel(), found.labels.ravel()])
    H = found.replicates.components.reshape(-1, 300)[order]
    assert values[3, 50] == pytest.approx(match_components(H[3:4], H[50:51])[1][0])
    assert sum(patch.get_height() for patch in densities.patches) == 180
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], found.stability)


X = np.random.default_rng(0).poisson(1.0, (8, 6))
GIVEN = Replicates(np.ones((2, 2, 6)), np.zeros(2))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"n_components": 0}, "n_components == 0, must be >= 1"),
        ({"n_components": 2.5}, "n_components must be an instance of"),
        ({"n_replicates": 1}, "n_replicates == 1, must be >= 2"),
        ({"n_replicates": "many"}, "n_replicates must be an instance of"),
        ({"resample": "cells"}, "resample must be one of 'rows', 'counts' or None, got 'cells'"),
        ({"resample": "counts", "fraction": 1.0}, "fraction must be a number between 0 and 1, got 1.0"),
        ({"resample": "counts", "X": X + 0.5}, "X must hold whole counts"),
        ({"density_threshold": 0}, "density_threshold == 0, must be > 0"),
        ({"density_threshold": np.nan}, "density_threshold must be finite, got nan"),
        ({"density_threshold": 1e-9}, "density_threshold must be at least the lowest density of a component"),
        ({"neighbors": 2}, "neighbors must be a number above 0 and at most 1, got 2"),
        ({"estimator": HPF(2)}, r"estimator must be a PoissonNMF, got HPF"),
        ({"estimator": PoissonNMF}, "estimator must be a PoissonNMF, got <class"),
        ({"estimator": PoissonNMF(2, prior_H=([1, 2], 1))}, "estimator must have a prior_H that is the same for all"),
        (
            {"estimator": PoissonNMF(2, prior_H=seeded_prior(list("012345"), {"a": ["0"]}, 2, strength=1))},
            "estimator must have a prior_H that is the same for all",
        ),
        ({"estimator": PoissonNMF(2, init="custom")}, "estimator must have an init that needs no given start, got 'cu"),
        ({"estimator": PoissonNMF(2, init="nndsvd")}, "resample must be 'rows' or 'counts' if estimator has init='nnd"),
        ({"replicates": 5}, "replicates must be Replicates, as a Consensus has, or None, got 5"),
        ({"replicates": GIVEN, "n_components": 3}, r"components of shape \(n_replicates, 3, p\), got shape \(2, 2, 6"),
        ({"replicates": GIVEN, "X": X[:, :4]}, r"components of shape \(n_replicates, 2, 4\), got shape \(2, 2, 6"),
        ({"replicates": GIVEN._replace(components=-np.ones((2, 2, 6)))}, "components that are finite and >= 0"),
        ({"replicates": GIVEN._replace(objective=np.zeros(3))}, "replicates must have 2 objectives, one for each fit"),
        ({"replicates": Replicates(np.ones((3, 2, 6)), np.zeros(3)), "n_replicates": 2}, "at least 3, the number of"),
        ({"replicates": Replicates(np.ones((1, 2, 6)), np.zeros(1))}, "n_replicates == 1, must be >= 2"),
        ({"X": np.zeros((3, 3))}, "X must hold at least one positive count"),
        ({"X": -X}, "X must hold counts >= 0"),
        ({"row_exposure": [1, 2]}, "row_exposure"),
    ],
)
def test_bad_input_raises_a_clear_error(given, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        consensus(**{"X": X, "n_components": 2, "n_replicates": None, "random_state": 0} | given)
