"""Differential expression: changes, errors, shrinkage and ranking against independent computations."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from fastpmf import PoissonNMF, differential_expression
from fastpmf.analysis.differential import _grid, _mixture_weights, adaptive_shrinkage


@pytest.fixture(scope="module")
def drawn():
    """(X, W, H): counts of a grade-of-membership model, the rows of H probabilities."""
    rng = np.random.default_rng(5)
    W = rng.dirichlet(np.full(3, 0.4), 150) * 300
    H = rng.dirichlet(np.full(40, 0.7)) * np.exp(rng.normal(0, 1, (3, 40)) * (rng.random((3, 40)) < 0.4))
    H /= H.sum(axis=1, keepdims=True)
    return rng.poisson(W @ H), W, H


def posterior(X, W, j, e):
    """Minus the log posterior of theta = log g of feature j, from its definition."""
    mean = X[:, j].sum() / X.sum()

    def value(theta):
        rate = mean * (W @ np.exp(theta))
        return rate.sum() - X[:, j] @ np.log(rate) + e * (np.exp(theta) - theta).sum()

    return value


def test_changes_and_errors_equal_numerical_minimisation_and_differentiation_of_the_posterior(drawn):
    X, W, H = drawn
    found = differential_expression(X, W, H, against="mean", pseudocount=0.5, standard_errors="model")
    for j in (0, 7, 31):
        value = posterior(X, W, j, 0.5)
        best = minimize(value, np.zeros(3), tol=1e-12)
        np.testing.assert_allclose(found.log2_fold_change[:, j] * np.log(2), best.x, atol=1e-4)  # of the minimiser
        step, at = 1e-4, found.log2_fold_change[:, j] * np.log(2)
        unit = np.eye(3) * step
        hessian = [
            [
                (value(at + a + b) - value(at + a - b) - value(at - a + b) + value(at - a - b)) / (4 * step**2)
                for b in unit
            ]
            for a in unit
        ]
        errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
        # second differences of numbers of some thousands, to 1e-8 of step^2
        np.testing.assert_allclose(found.standard_error[:, j] * np.log(2), errors, rtol=1e-3)


def test_robust_errors_are_the_sandwich_of_the_scores_of_all_rows_including_zeros(drawn):
    X, W, H = drawn
    X = X.copy()
    X[::3, :5] = 0
    e = 0.5
    found = differential_expression(X, W, H, against="mean", pseudocount=e)
    for j in (0, 4, 31):
        g = 2 ** found.log2_fold_change[:, j]
        parts = X[:, j].sum() / X.sum() * W * g
        mu = parts.sum(axis=1, keepdims=True)
        shares, x = parts / mu, X[:, j, None]
        bread = np.linalg.inv((x * shares).T @ shares + e * np.eye(3))
        leverage = x[:, 0] * np.einsum("ik,kl,il->i", shares, bread, shares)
        scores = (x - mu) * shares / (1 - leverage[:, None])
        covariance = bread @ (scores.T @ scores + e * np.eye(3)) @ bread
        # rtol: the regressions end within 1e-9 nats per count of their optimum, which is 3e-5 of g
        np.testing.assert_allclose(found.standard_error[:, j] * np.log(2), np.sqrt(np.diag(covariance)), rtol=1e-3)


@pytest.mark.parametrize(("shape", "model"), [(np.inf, 1.0), (0.7, 0.36)], ids=["Poisson", "overdispersed"])
def test_robust_errors_agree_with_resampled_rows_and_model_errors_only_for_poisson_counts(shape, model):
    rng = np.random.default_rng(0)
    n = 300
    W, H = rng.dirichlet(np.full(3, 0.3), n) * 100, rng.dirichlet(np.full(20, 5.0), 3)
    # Gamma-Poisson counts: variance rate + rate^2 / shape, of rates of about 5
    X = rng.poisson(W @ H * (rng.gamma(shape, 1 / shape, (n, 20)) if np.isfinite(shape) else 1))
    options = {"against": 0, "pseudocount": 0.01}
    changes = []
    for _ in range(120):
        rows = rng.integers(0, n, n)
        changes.append(differential_expression(X[rows], W[rows], H, **options).log2_fold_change[1:])
    expected = np.std(changes, axis=0)
    for errors, ratio in (("robust", 1.0), ("model", model)):
        found = differential_expression(X, W, H, standard_errors=errors, **options).standard_error[1:]
        # The median of 40 ratios, each with 6 % of noise from 120 resamples and some from the counts drawn
        assert np.median(found / expected) == pytest.approx(ratio, rel=0.1), errors


def test_robust_errors_agree_with_a_jackknife(drawn):
    X, W, H = drawn
    options = {"against": 0, "pseudocount": 0.01}
    found = differential_expression(X, W, H, **options)
    model = differential_expression(X, W, H, standard_errors="model", **options)
    abundant = X.sum(axis=0) > 1000  # where one Newton step is nearly exact
    subsets = ~np.eye(len(X), dtype=bool)
    moves = [
        differential_expression(X[rows], W[rows], H, **options).log2_fold_change - found.log2_fold_change
        for rows in subsets
    ]
    jackknife = np.sqrt(np.square(moves).sum(axis=0))[1:, abundant]
    np.testing.assert_allclose(found.standard_error[1:, abundant], jackknife, rtol=0.02)
    assert np.abs(model.standard_error[1:, abundant] / jackknife - 1).max() > 0.1


def test_a_feature_whose_counts_come_from_one_row_has_a_larger_robust_error_than_one_spread_over_rows():
    W = np.repeat(np.eye(2), 100, axis=0) * 100
    X = np.random.default_rng(1).poisson(5.0, (200, 6))
    X[:, :2] = 0
    X[:60, 0] = 1
    X[7, 1] = 60
    found = differential_expression(X, W, np.ones((2, 6)) / 6)
    assert found.z_score[0, 0] > 2
    assert found.z_score[0, 1] < 1
    assert found.top(1).indices[0, 0] == 0
    model = differential_expression(X, W, np.ones((2, 6)) / 6, standard_errors="model")
    assert model.z_score[0, 1] == pytest.approx(model.z_score[0, 0], rel=1e-6)


def test_unconverged_regressions_give_a_warning_with_the_number_of_features(drawn, monkeypatch):
    monkeypatch.setattr("fastpmf.analysis.differential._MAX_ITER", 1)
    with pytest.warns(ConvergenceWarning, match=r"the regressions of \d+ feature\(s\) stopped before they converged"):
        differential_expression(*drawn)


@pytest.mark.parametrize("scale", [1.0, 1e12, 1e100])
def test_components_of_one_row_each_have_finite_and_large_robust_errors(scale):
    X = np.array([[40.0, 10, 50], [5, 10, 85]]) * scale
    with np.errstate(all="raise"):
        found = differential_expression(X, np.eye(2), X)
    assert np.isfinite(found.standard_error).all()
    assert (np.abs(found.z_score) < 2).all()


def test_errors_do_not_depend_on_the_number_of_threads(drawn):
    X, W, H = drawn
    one, two = (differential_expression(X, W, H, n_threads=n).standard_error for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_for_rows_of_one_component_each_changes_are_log_ratios_of_rates_with_poisson_errors():
    X = np.array([[400, 90, 510], [100, 110, 790]])
    found = differential_expression(X, np.diag([1000.0, 1000.0]), X / 1000, pseudocount=1e-6, standard_errors="model")
    expected = np.log2(X[0] / X[1])
    np.testing.assert_allclose(found.log2_fold_change, [expected, -expected], atol=1e-6)
    np.testing.assert_allclose(
        found.standard_error, np.tile(np.sqrt((1 / X).sum(axis=0)) / np.log(2), (2, 1)), rtol=1e-6
    )
    np.testing.assert_allclose(found.z_score, found.log2_fold_change / found.standard_error)


def test_intervals_cover_true_changes_at_the_normal_rate():
    rng = np.random.default_rng(2)
    W = rng.dirichlet(np.full(3, 0.4), 200) * 2000
    H = rng.dirichlet(np.full(300, 5.0), 3)
    X = rng.poisson(W @ H)
    found = differential_expression(X, W, H, against=0, pseudocount=0.01)
    z = (found.log2_fold_change - np.log2(H / H[0]))[1:] / found.standard_error[1:]
    inside = (np.abs(z) < 1.645).sum()
    # of 600, 90 % expected; the bounds leave out one case in ten thousand
    assert stats.binom.ppf(5e-5, 600, 0.9) <= inside <= stats.binom.ppf(1 - 5e-5, 600, 0.9)


def test_the_least_extreme_change_is_against_the_component_of_nearest_rate(drawn):
    X, W, H = drawn
    found = differential_expression(X, W, H)
    pairs = [differential_expression(X, W, H, against=k).log2_fold_change for k in range(3)]
    for k in range(3):
        others = np.array([pairs[other][k] for other in range(3) if other != k])
        nearest = np.abs(others).argmin(axis=0)
        np.testing.assert_allclose(found.log2_fold_change[k], others[nearest, np.arange(40)], rtol=1e-12)
        assert (found.against[k] != k).all()


def test_the_nearest_component_gives_the_smallest_absolute_change_but_not_the_sign_against_all():
    rate = np.array([1.0, 8.0, 128.0])
    X = np.repeat(np.column_stack([rate, np.full(3, 500.0)]), 50, axis=0)
    found = differential_expression(X, np.repeat(np.eye(3), 50, axis=0), np.ones((3, 2)), pseudocount=0.01)
    np.testing.assert_allclose(found.log2_fold_change[:, 0], [-3, 3, 4], atol=0.01)
    assert found.against[:, 0].tolist() == [1, 0, 1]


def test_changes_of_features_of_one_component_do_not_shrink_with_more_counts(drawn):
    rng = np.random.default_rng(0)
    z = []
    for n in (2, 200):
        X = rng.poisson(np.repeat([[n, n, n], [0, n, 2 * n]], 50, axis=0))
        found = differential_expression(X, np.repeat(np.eye(2), 50, axis=0), np.ones((2, 3)))
        assert found.log2_fold_change[0, 0] > np.log2(50 * n / 3)
        z.append(found.z_score[0, 0])
    assert z[0] > 3
    assert z[1] > 8
    rng = np.random.default_rng(0)
    W = np.repeat(np.eye(2), 150, axis=0)
    H = np.tile(rng.gamma(1.0, size=400), (2, 1))
    H[:, 0] = 20, 0  # a marker among unchanged features
    found = differential_expression(rng.poisson(W @ H), W, H, shrink=True)
    assert found.log2_fold_change[0, 0] > 5
    assert found.false_sign_rate[0, 0] < 1e-3


def test_a_component_against_itself_has_no_change_and_no_error(drawn):
    X, W, H = drawn
    for shrunk in (False, True):
        found = differential_expression(X, W, H, against=1, shrink=shrunk)
        assert (found.log2_fold_change[1] == 0).all()
        assert (found.standard_error[1] == 0).all()
        assert (found.z_score[1] == 0).all()


def test_the_relative_scale_of_factors_and_exposures_does_not_matter(drawn):
    X, W, H = drawn
    d, r = np.array([3.0, 0.2, 1.0]), np.linspace(0.5, 2, len(W))
    one = differential_expression(X, W, H)
    two = differential_expression(X, W / d / r[:, None], H * d[:, None], row_exposure=r)
    np.testing.assert_allclose(two.log2_fold_change, one.log2_fold_change, atol=1e-6)
    np.testing.assert_allclose(two.standard_error, one.standard_error, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e12, 2.0**56])
def test_errors_between_indistinguishable_components_depend_on_the_pseudocount_only(scale):
    X = np.array([[3.0, 1], [5, 2], [1, 2]]) * scale
    W = X.sum(axis=1, keepdims=True) / 2 * np.ones(2)
    found = differential_expression(X, W, np.full((2, 2), 0.5), pseudocount=0.5)
    np.testing.assert_allclose(found.log2_fold_change, 0, atol=1e-6)
    np.testing.assert_allclose(found.standard_error * np.log(2), np.sqrt(2 / 0.5), rtol=1e-3)


def test_counts_that_no_component_can_produce_are_left_out(drawn):
    X, W, H = drawn
    before = differential_expression(X, W, H)
    after = differential_expression(np.r_[X, X.sum(axis=0, keepdims=True)], np.r_[W, np.zeros((1, 3))], H)
    # They only enter the features' shares of all counts, which do not change if all counts are doubled
    np.testing.assert_allclose(after.log2_fold_change, before.log2_fold_change, atol=1e-6)
    np.testing.assert_allclose(after.standard_error, before.standard_error, rtol=1e-6)


def test_features_without_counts_and_components_without_mass_have_no_change_and_are_not_compared_with(drawn, unchanged):
    X, W, H = drawn
    X, W = X.copy(), np.column_stack([W, np.zeros(len(W))])
    X[:, 4] = 0
    unchanged(X, W)
    H = np.vstack([H, np.ones(40)])
    found, shrunk = (differential_expression(X, W, H, shrink=s) for s in (False, True))
    assert (found.log2_fold_change[:, 4] == 0).all()
    assert np.isinf(found.standard_error[:, 4]).all()
    assert (found.log2_fold_change[3] == 0).all()
    assert (found.against[:3] < 3).all()
    for result in (found, shrunk):
        assert np.isfinite(result.log2_fold_change).all()
        assert np.isfinite(result.z_score).all()
    assert np.isinf(shrunk.standard_error[:, 4]).all()
    assert (shrunk.false_sign_rate[:, 4] == 1).all()


def test_shrinkage_reduces_the_error_and_calibrates_the_false_sign_rate():
    rng = np.random.default_rng(0)
    error = np.exp(rng.normal(-1, 0.7, 400))
    effect = np.where(rng.random(400) < 0.6, 0.0, rng.normal(0, 2, 400))
    estimate = effect + error * rng.normal(size=400)
    mean, deviation, wrong = adaptive_shrinkage(estimate, error)
    assert ((mean - effect) ** 2).sum() < 0.5 * ((estimate - effect) ** 2).sum()
    assert (np.abs(mean) <= np.abs(estimate)).all()
    assert (np.sign(mean) == np.sign(estimate)).all()
    assert (deviation <= error * 1.5).all()
    sure = wrong < 0.05
    assert sure.sum() > 50
    # Share of wrong signs among these; each has an estimated probability below 0.05
    assert (np.sign(mean[sure]) != np.sign(effect[sure])).mean() < 0.05


def test_shrinkage_equals_numerical_integration_under_its_prior():
    estimate, error = np.array([0.1, -3.0, 1.0, 0.2]), np.array([1.0, 0.5, 2.0, 0.1])
    mean, deviation, wrong = adaptive_shrinkage(estimate, error)
    grid = _grid(estimate, error)
    density = stats.norm.pdf(estimate[:, None], scale=np.sqrt(grid**2 + error[:, None] ** 2))
    pi = _mixture_weights(density / density.max(axis=1, keepdims=True))
    assert pi.sum() == pytest.approx(1)
    for j in range(4):
        b = np.linspace(-30, 30, 600_001)  # fine relative to the errors and the smallest width of the grid
        slab = sum(w * stats.norm.pdf(b, scale=s) for w, s in zip(pi[1:], grid[1:], strict=True))
        slab = slab * stats.norm.pdf(estimate[j], b, error[j]) * (b[1] - b[0])
        null = pi[0] * stats.norm.pdf(estimate[j], 0, error[j])
        total = slab.sum() + null
        assert mean[j] == pytest.approx((slab * b).sum() / total, abs=1e-4)
        assert deviation[j] == pytest.approx(np.sqrt((slab * b**2).sum() / total - mean[j] ** 2), abs=1e-4)
        sides = [slab[b < 0].sum(), slab[b > 0].sum()]
        assert wrong[j] == pytest.approx((null + min(sides)) / total, abs=1e-3)


@pytest.fixture(scope="module")
def marked():
    """(X, W, H): feature 0 is a marker of component 0, feature 1 is abundant and a little more so there."""
    rng = np.random.default_rng(3)
    W = np.repeat(np.eye(2), 150, axis=0) * 10
    H = np.tile(np.r_[0.02, 50, rng.gamma(1.0, size=60)], (2, 1))
    H[0, :2] *= 40, 1.3
    return rng.poisson(W @ H), W, H


@pytest.mark.parametrize("shrink", [False, True])
def test_top_has_markers_before_abundant_features_of_small_change_unlike_the_z_score(marked, shrink):
    found = differential_expression(*marked, shrink=shrink, names=[f"gene {j}" for j in range(62)])
    first = found.top(3)
    assert first.indices[0, 0] == 0
    assert first.names[0, 0] == "gene 0"
    assert first.scores[0, 0] == found.lower_bound()[0, 0]
    assert found.z_score[0, 1] > found.z_score[0, 0]


def test_bounds_are_changes_minus_two_errors_or_changes_after_shrinkage(marked):
    found, shrunk = (differential_expression(*marked, shrink=s) for s in (False, True))
    np.testing.assert_array_equal(found.lower_bound(), found.log2_fold_change - 2 * found.standard_error)
    np.testing.assert_array_equal(found.lower_bound(1), found.log2_fold_change - found.standard_error)
    np.testing.assert_array_equal(shrunk.lower_bound(), shrunk.log2_fold_change)
    np.testing.assert_array_equal(shrunk.lower_bound(2), shrunk.log2_fold_change - 2 * shrunk.standard_error)
    with pytest.raises(ValueError, match=r"^z == -1, must be >= 0"):
        found.lower_bound(-1)
    with pytest.raises(ValueError, match=r"^n == 0, must be >= 1"):
        found.top(0)


def test_undefined_changes_are_not_in_top(marked):
    X, W, H = marked
    X = X * (np.arange(62) > 1)
    top = differential_expression(X, W, H, against=1).top(100)
    assert sorted(top.indices[0, :60].tolist()) == list(range(2, 62))
    assert (top.indices[0, 60:] == -1).all()
    assert np.isnan(top.scores[0, 60:]).all()
    assert (top.names[0, 60:] == "").all()
    assert (top.indices[1] == -1).all()  # against itself


def test_the_estimator_passes_its_feature_names(drawn):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(drawn[0], columns=[f"gene {j}" for j in range(40)])
    model = PoissonNMF(3, random_state=0, max_iter=50, tol=0)
    W = model.fit_transform(X)
    found = model.differential_expression(X, W)
    assert found.names.tolist() == list(X.columns)
    np.testing.assert_array_equal(
        found.log2_fold_change, differential_expression(X, W, model.components_).log2_fold_change
    )


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"against": 3}, ValueError, "against must be a component with any mass, one of 0 to 2, got 3"),
        ({"against": "all"}, ValueError, "against must be 'others', 'mean' or the number of a component, got 'all'"),
        ({"against": 1.5}, TypeError, "against must be 'others', 'mean' or the number of a component, got 1.5"),
        ({"pseudocount": 0}, ValueError, "pseudocount"),
        ({"standard_errors": "hc3"}, ValueError, "standard_errors must be one of 'robust', 'model', got 'hc3'"),
        ({"names": ["a"]}, ValueError, r"names must be 40, one for each feature, got shape \(1,\)"),
        ({"W": np.ones((3, 3))}, ValueError, "W"),
        ({"X": np.ones((150, 3))}, ValueError, "X must have 40 columns, as H has, got 3"),
        ({"W": np.ones((150, 1)), "H": np.ones((1, 40))}, ValueError, "at least two components with any mass, got 1"),
        ({"row_exposure": [1.0]}, ValueError, "row_exposure"),
        ({"W": np.full((150, 3), 1e300)}, ValueError, "W and H must be small enough for the sum of W H to be finite"),
        ({"W": np.full((150, 3), 1e200)}, ValueError, r"W, times the row sums of H and row_exposure, must be at most"),
        (
            {"X": np.r_[[[1e-60] + [1.0] * 39], np.ones((149, 40)) * (np.arange(40) > 0)]},
            ValueError,
            "X must have no feature with less than 1e-50 of all counts but more than 0, got 1.7",
        ),
    ],
)
def test_bad_input_raises_a_clear_error(drawn, given, error, sentence):
    X, W, H = drawn
    given = {"W": W, "H": H * 1e9, "X": X} | given
    with pytest.raises(error, match=sentence):
        differential_expression(**given)
