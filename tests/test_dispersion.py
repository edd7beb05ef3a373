"""Overdispersion: Poisson counts pass, negative binomial counts do not, and the sums are those of dense arrays."""

import naive
import numpy as np
import pytest
from scipy import sparse, stats

from fastpmf import HPF, PoissonNMF, overdispersion, plot, thin_counts
from fastpmf.counts.masked import observed_counts

N, P, K = 400, 200, 4


def draw(mean, dispersion=0.0, seed=0, shape=(N, P), k=K):
    """Poisson or negative binomial counts, and their factors."""
    rng = np.random.default_rng(seed)
    W, H = rng.gamma(0.5, size=(shape[0], k)), rng.gamma(0.5, size=(k, shape[1]))
    H *= mean / (W @ H).mean()
    mu = W @ H
    if dispersion:
        mu *= rng.gamma(1 / dispersion, dispersion, mu.shape)
    return rng.poisson(mu), W, H


def fitted(X, model):
    return overdispersion(X, model.fit_transform(X), model)


MODELS = {
    "ml": PoissonNMF(K, random_state=0, max_iter=200),
    "map": PoissonNMF(K, prior_W="auto", prior_H="auto", random_state=0, max_iter=200),
    "hpf": HPF(K, random_state=0, max_iter=200),
}


@pytest.mark.filterwarnings("ignore:Stopped at max_iter")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mean", [0.1, 1.0, 10.0])
def test_poisson_counts_are_called_overdispersed_as_often_as_the_level_says(mean, model):
    z, rejected = [], 0
    for seed in (0, 1):
        found = fitted(draw(mean, seed=seed)[0], MODELS[model])
        z.append(found.overall_z_score)
        rejected += np.count_nonzero(found.p_value < 0.05)
        assert np.count_nonzero(found.overdispersed) <= 1
    # Of 2 P independent tests at 5 %: a share with a probability of 0.9999, on either side
    low, high = stats.binom(2 * P, 0.05).ppf([0.0001, 0.9999])
    assert low <= rejected <= high
    assert np.abs(z).max() < 3.5  # with a probability of 0.999
    assert np.abs(np.mean(z)) < 2.5


@pytest.mark.filterwarnings("ignore:Stopped at max_iter")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dispersion", [0.1, 0.5, 1.0])
def test_the_dispersion_of_negative_binomial_counts_is_estimated(dispersion, model):
    X = draw(3.0, dispersion)[0]
    found = fitted(X, MODELS[model])
    # The fit follows a part of the extra variation, more than its leverages say
    assert dispersion * 0.85 < found.overall_dispersion < dispersion * 1.05
    assert dispersion * 0.85 < np.median(found.dispersion) < dispersion * 1.05
    assert found.overall_z_score > 50
    assert found.overdispersed.mean() > 0.8
    assert found.overall_variance_ratio > 1 + dispersion


def test_rare_features_are_not_called_overdispersed_by_chance():
    rng = np.random.default_rng(0)
    W, H = rng.gamma(0.5, size=(500, 3)), rng.gamma(0.5, size=(3, 400)) * np.exp(rng.normal(-4, 2, 400))
    X = rng.poisson(W @ H)
    found = fitted(X, PoissonNMF(3, random_state=0))
    rare = (found.mean_rate < 0.03) & (found.mean_rate > 0)
    assert rare.sum() > 150
    assert np.count_nonzero(found.p_value[rare] < 0.05) <= stats.binom(rare.sum(), 0.05).ppf(0.999)
    assert np.count_nonzero(found.p_value[rare] < 0.001) <= 2
    assert not found.overdispersed[rare].any()


def test_without_the_correction_the_test_is_far_from_its_level():
    """What the leverages are for: residuals of fitted rates are too small."""
    X = draw(10.0)[0]
    model = MODELS["ml"]
    W = model.fit_transform(X)
    mu = W.astype(float) @ model.components_.astype(float)
    plain = (np.square(X - mu) - X).sum() / np.sqrt(2 * np.square(mu).sum())
    assert plain < -3
    assert abs(overdispersion(X, W, model).overall_z_score) < 2.5


@pytest.mark.parametrize("case", ["plain", "exposures", "background"])
def test_the_measures_are_those_of_dense_arrays(case):
    X, _, _ = draw(0.7, 0.3, shape=(60, 30))
    rng = np.random.default_rng(1)
    r, c, b = np.ones(60), np.ones(30), np.zeros(30)
    if case != "plain":
        r, c = rng.uniform(0.5, 2, 60), rng.uniform(0.5, 2, 30)
    if case == "background":
        b = rng.uniform(0, 0.3, 30)
    model = PoissonNMF(K, dtype="float64", random_state=0)
    options = {"row_exposure": r, "column_exposure": c} if case != "plain" else {}
    if case == "background":
        options["background"] = b
    W = model.fit_transform(X, **options)
    found = overdispersion(X, W, model, row_exposure=options.get("row_exposure"))
    expected = naive.overdispersion(X, W, model.components_, r, c, np.ones((60, 30)), b)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("estimator", [PoissonNMF(3, random_state=0), HPF(3, random_state=0)])
def test_effects_of_groups_are_part_of_the_rates(estimator):
    X, _, _ = draw(2.0, shape=(80, 30), k=3)
    groups = np.repeat(["a", "b"], 40)
    X[40:, :10] *= 4
    W = estimator.fit_transform(X, groups=groups)
    found = estimator.overdispersion(X, W, groups=groups)
    effects = np.repeat(estimator.group_effects_, 40, axis=0)
    expected = naive.overdispersion(X, W, estimator.components_, np.ones(80), np.ones(30), effects, np.zeros(30))
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-5, atol=1e-5, err_msg=name)
    assert estimator.quality(X, W=W, groups=groups).overdispersion.overall_z_score == found.overall_z_score
    assert estimator.quality(X, W=W).overdispersion is None
    with pytest.raises(ValueError, match="groups must be given"):
        estimator.overdispersion(X, W)


def test_the_result_does_not_depend_on_the_number_of_threads_or_the_storage():
    X, W, H = draw(1.0, 0.5)
    results = [overdispersion(sparse.csr_array(X), W, H, n_threads=n) for n in (1, 2, 5)]
    results.append(overdispersion(sparse.csc_array(X.astype("float32")), W, H))
    for found in results[1:]:
        for name in ("dispersion", "p_value", "variance_ratio", "standard_error"):
            np.testing.assert_array_equal(getattr(found, name), getattr(results[0], name))


def test_features_are_independent_of_each_other_given_the_factors():
    """A feature's leverages in the rows are the only thing that it shares with the others."""
    X, W, H = draw(1.0, 0.5, shape=(60, 30))
    order = np.random.default_rng(0).permutation(30)
    one, other = overdispersion(X, W, H), overdispersion(X[:, order], W, H[:, order])
    np.testing.assert_allclose(one.dispersion[order], other.dispersion, rtol=1e-9)
    assert one.overall_dispersion == pytest.approx(other.overall_dispersion, rel=1e-12)


def test_empty_features_rows_and_components_have_no_dispersion():
    X, W, H = draw(1.0, shape=(40, 20))
    X[:, 3], X[5], W[5], H[:, 3], H[2], W[:, 2] = 0, 0, 0, 0, 0, 0
    found = overdispersion(X, W, H)
    assert found.dispersion[3] == found.z_score[3] == 0
    assert found.p_value[3] == found.variance_ratio[3] == 1
    assert found.standard_error[3] == np.inf
    for name in ("dispersion", "z_score", "p_value", "variance_ratio", "mean_rate", "variance_error"):
        assert np.isfinite(getattr(found, name)).all(), name
    empty = overdispersion(np.zeros((4, 3)), np.ones((4, 2)), np.zeros((2, 3)))
    assert empty.overall_dispersion == empty.overall_z_score == 0
    assert empty.overall_p_value == 1
    assert empty.top(2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="a feature with a positive rate"):
        plot.overdispersion(empty)


def test_counts_at_rate_zero_are_left_out():
    X, W, H = draw(1.0, shape=(40, 20))
    H[:, 3] = 0
    X[:, 3] = 2
    found = overdispersion(X, W, H)
    assert found.dispersion[3] == 0
    assert found.p_value[3] == 1


def test_a_single_count_has_leverage_one_and_no_dispersion():
    found = overdispersion([[3, 0], [0, 0]], [[1], [0]], [[3, 0]])
    assert found.z_score[0] == pytest.approx((9 - 9 - 3 + 3) / np.sqrt(18))
    assert np.isfinite(found.dispersion).all()


def test_arrays_are_not_written_to_and_names_are_kept():
    X, W, H = draw(1.0, 0.5, shape=(40, 20))
    given = [sparse.csr_array(X), W, H, np.ones(40)]
    copies = [A.copy() for A in given]
    names = [f"f{j}" for j in range(20)]
    found = overdispersion(*given[:3], row_exposure=given[3], names=names)
    for A, B in zip(given, copies, strict=True):
        assert (A != B).sum() == 0
    assert found.names.tolist() == names
    assert found.to_frame().index.tolist() == names
    assert list(found.to_frame())[:2] == ["mean_rate", "dispersion"]
    assert names[found.top(1)[0]] in str(found)


def test_the_table_and_the_sentence_say_what_was_found():
    poisson, dispersed = (fitted(draw(5.0, phi)[0], MODELS["ml"]) for phi in (0.0, 0.5))
    assert "vary as Poisson counts" in poisson.sentence()
    assert 'holdout="rows"' in dispersed.sentence()
    binary = fitted((draw(5.0, 0.5)[0] > 0).astype(int), MODELS["ml"])
    assert binary.overall_z_score < -10
    assert "vary less than Poisson counts" in binary.sentence()
    assert "robust" in dispersed.sentence()
    assert "190 more rows are not shown" in str(dispersed)
    assert "<table" in dispersed._repr_html_()
    X = draw(5.0, 0.5)[0]
    model = PoissonNMF(K, random_state=0)
    quality = model.quality(X, W=model.fit_transform(X))
    assert "variance relative to Poisson counts" in str(quality)
    assert "overdispersion" not in quality.to_frame()
    assert model.quality(X).overdispersion is None
    with pytest.raises(ValueError, match="groups must be None, since the model was fitted without groups"):
        model.quality(X, groups=np.zeros(len(X)))
    assert model.quality(X / 2, W=model.transform(X)).overdispersion is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.ones((5, 3))}, "W must have shape"), ({"X": np.ones((4, 2))}, "X must have 3 columns"),
        ({"W": np.ones((4, 3))}, "W must have shape"), ({"W": -np.ones((4, 2))}, "W must be non-negative"),
        ({"H": np.full((2, 3), np.nan)}, "H must be finite"), ({"H": np.ones(3)}, "H must be a matrix"),
        ({"row_exposure": np.zeros(4)}, "row_exposure must be positive"), ({"names": ["a"]}, "names must"),
        ({"groups": [1, 1, 2, 2]}, "groups must be None"),
        ({"W": np.full((4, 2), 1e200), "H": np.full((2, 3), 1e200)}, "small enough"),
        ({"X": observed_counts(np.ones((4, 3)), np.eye(4, 3, dtype=bool))}, "all entries observed"),
        ({"X": np.full((4, 3), 0.5)}, "X must hold whole counts to be compared with Poisson counts, got fractions"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_named(change, message):
    given = {"X": np.ones((4, 3)), "W": np.ones((4, 2)), "H": np.ones((2, 3))} | change
    with pytest.raises((TypeError, ValueError), match=message):
        overdispersion(**given)


def test_an_exposure_that_is_left_out_is_told():
    X = draw(1.0, 0.0)[0]
    model, exposure = PoissonNMF(K, random_state=0), np.random.default_rng(0).gamma(2.0, size=len(X)) + 0.1
    W = model.fit_transform(X, row_exposure=exposure)
    assert abs(model.overdispersion(X, W, row_exposure=exposure).overall_z_score) < 4
    for call in (model.overdispersion, lambda X, W: model.quality(X, W=W)):
        with pytest.warns(UserWarning, match="differ from its counts by .* give W, row_exposure and groups of the fit"):
            call(X, W)


def test_the_plot_names_the_most_overdispersed_features():
    X = draw(5.0, 0.5)[0]
    found = fitted(X, MODELS["ml"])
    ax = plot.overdispersion(found, n=3)
    assert [text.get_text() for text in ax.texts] == [str(j) for j in found.top(3)]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert not plot.overdispersion(fitted(draw(1.0)[0], MODELS["ml"])).texts
    with pytest.raises(TypeError, match="result must be what overdispersion returns"):
        plot.overdispersion(X)


def test_thinning_keeps_a_negative_binomial_dispersion():
    """x ~ NB of mean mu and dispersion phi, thinned by f, is NB of mean f mu and the same dispersion."""
    X, W, H = draw(8.0, 0.5)
    part = thin_counts(X, 0.5, random_state=0)[1]
    assert overdispersion(part, W / 2, H).overall_dispersion == pytest.approx(
        overdispersion(X, W, H).overall_dispersion, rel=0.1
    )
