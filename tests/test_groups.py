"""Effects of groups of rows on features, such as batches: fits, new rows, and everything that uses rates."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from scipy import sparse, stats
from scipy.optimize import minimize
from sklearn.base import clone

import fastpmf
import fastpmf.plot
from fastpmf import (
    HPF,
    Checkpoint,
    FitInterrupted,
    PoissonNMF,
    StreamedCounts,
    cli,
    kl_divergence,
    match_components,
    poisson_nmf,
)
from fastpmf.core.factors import padded
from fastpmf.counts import as_counts
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import load_model, write_factors
from fastpmf.model.groups import Groups
from fastpmf.model.merging import _row_divergences

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SOLVERS = {
    "mu": {"solver": "mu", "acceleration": None},
    "em": {"solver": "em", "acceleration": None},
    "cd": {"solver": "cd", "acceleration": None},
    "extrapolated cd": {"solver": "cd"},
    "extrapolated mu": {"solver": "mu"},
}
every_solver = pytest.mark.parametrize("solver", SOLVERS)
PRIORS = {
    "likelihood": {},
    "both": {"prior_W": (1.2, 0.1), "prior_H": (1.2, 1.0)},
    "of H": {"prior_H": (1.2, 1.0)},
    "of W": {"prior_W": (1.2, 1.0)},
    "L2": {"alpha_W": 1e-3},
}


def fit(X, k, **options):
    return poisson_nmf(X, k, **({"random_state": 0} | options))


class Drawn:
    """Counts of rows in groups, with the factors and the effects that they are drawn from."""

    def __init__(self, n=80, p=30, k=2, n_groups=3, size=60.0, spread=0.7, seed=0):
        rng = np.random.default_rng(seed)
        self.H = rng.gamma(0.5, 1.0, (k, p)) + 0.01
        self.H /= self.H.sum(axis=1, keepdims=True)
        self.W = rng.dirichlet(np.full(k, 0.5), n) * rng.gamma(5.0, size / 5, (n, 1))
        self.group = np.arange(n) % n_groups
        effects = np.exp(spread * rng.standard_normal((n_groups, p)))
        for _ in range(20):  # means of 1, over features and over groups
            effects /= effects.mean(axis=1, keepdims=True)
            effects /= effects.mean(axis=0)
        self.effects = effects
        self.rates = (self.W @ self.H) * self.effects[self.group]
        self.X = rng.poisson(self.rates).astype(float)
        self.start = {"init": "custom", "W": rng.random((n, k)) + 0.1, "H": rng.random((k, p)) + 0.1}

    @property
    def labels(self):
        return np.array(["a", "b", "c", "d"])[self.group]


@pytest.fixture(scope="module")
def drawn():
    return Drawn()


def objective(X, group, W, H, effects, strength=10.0, priors=None):
    """The divergence plus the penalties, in nats; with loops over nothing but arrays, in float64."""
    rate = (W.astype(float) @ H.astype(float)) * effects[group]
    log = np.log(np.divide(X, rate, where=X > 0, out=np.ones_like(rate)))
    total = math.fsum((X * log - X + rate).ravel()) + strength * (effects - 1 - np.log(effects)).sum()
    for name, A in (("prior_W", W), ("prior_H", H)):
        if priors and name in priors:
            shape, b = priors[name]
            total += (b * A - (shape - 1) * np.log(A)).sum()
    return total


# ── the fit ─────────────────────────────────────────────────────────────────────────────────────────────────────


@every_solver
@pytest.mark.parametrize("prior", PRIORS)
def test_no_solver_raises_the_objective_and_all_end_at_the_same_one(drawn, solver, prior):
    options = SOLVERS[solver] | PRIORS[prior]
    solution = fit(
        drawn.X, 2, groups=drawn.group, max_iter=3000, tol=1e-7, eval_every=1, dtype="float64", **drawn.start, **options
    )
    rises = np.diff(solution.trace["objective"])
    assert rises.max() <= 1e-9 * abs(solution.objective)  # rounding of sums of about 1e4 terms
    if prior != "L2":
        own = objective(drawn.X, drawn.group, solution.W, solution.H, solution.group_effects, priors=PRIORS[prior])
        # of Gamma priors the objective leaves out a constant
        assert prior != "likelihood" or solution.objective == pytest.approx(own, rel=1e-10)
    best = fit(drawn.X, 2, groups=drawn.group, max_iter=3000, tol=1e-8, dtype="float64", **drawn.start, **PRIORS[prior])
    # 1e-7 nats for each of the counts is the tolerance of the fit; the landscape is flat along some directions
    assert solution.objective == pytest.approx(best.objective, abs=3e-5 * drawn.X.sum())
    assert solution.objective <= best.objective + 1.0


@pytest.mark.parametrize("options", [{"init": "merge"}, {"n_init": 3}, {"init": "grow"}], ids=str)
def test_searches_and_restarts_end_no_higher_than_a_single_fit(drawn, options):
    single = fit(drawn.X, 2, groups=drawn.group, init="random", max_iter=300, tol=1e-6)
    if options.get("init") == "grow":
        options = options | {"W": single.W, "H": single.H}
        assert fit(drawn.X, 3, groups=drawn.group, max_iter=300, **options).objective < single.objective
        return
    found = fit(drawn.X, 2, groups=drawn.group, max_iter=300, tol=1e-6, **options)
    assert found.objective <= single.objective + 1e-4 * drawn.X.sum() * 1e-2
    assert found.objective == pytest.approx(
        objective(drawn.X, drawn.group, found.W, found.H, found.group_effects), rel=1e-5
    )


@pytest.mark.parametrize("prior", ["likelihood", "both"])
def test_at_a_small_residual_no_small_move_of_any_factor_is_better(drawn, prior):
    options = PRIORS[prior]
    solution = fit(drawn.X, 2, groups=drawn.group, max_iter=3000, tol=1e-9, dtype="float64", **drawn.start, **options)
    assert solution.kkt_residual <= 1e-9
    parts = [solution.W, solution.H, solution.group_effects]
    best = objective(drawn.X, drawn.group, *parts, priors=options)
    rng = np.random.default_rng(0)
    for place in range(3):
        for size in (1e-3, 1e-1, 1.0):
            for _ in range(20):
                moved = list(parts)
                moved[place] = moved[place] * np.exp(size * rng.standard_normal(moved[place].shape))
                # the residual bounds what one factor alone can gain
                assert objective(drawn.X, drawn.group, *moved, priors=options) >= best - 1e-9 * drawn.X.sum() - 1e-7
    for _ in range(50):  # nor of all at once, to first order
        moved = [A * np.exp(1e-4 * rng.standard_normal(A.shape)) for A in parts]
        assert objective(drawn.X, drawn.group, *moved, priors=options) >= best - 1e-5


def test_the_residual_counts_effects_that_are_not_the_best(drawn):
    solution = fit(drawn.X, 2, groups=drawn.group, max_iter=500, tol=1e-6, dtype="float64", **drawn.start)
    counts = as_counts(drawn.X)
    groups = Groups.of(counts, drawn.group, np.ones((30, 3)), 10.0)
    W, Ht = padded(solution.W, np.dtype(float)), padded(solution.H.T, np.dtype(float))
    rates = groups.rates(W, Ht)
    best = groups.best_effects(rates)
    for worse in (np.ones_like(best), best * 1.1):
        higher = objective(drawn.X, drawn.group, solution.W, solution.H, worse.T)
        lowest = objective(drawn.X, drawn.group, solution.W, solution.H, best.T)
        assert groups.gap(worse, rates) == pytest.approx(higher - lowest, rel=1e-8)
    assert groups.gap(best, rates) == 0


def test_effects_and_components_are_recovered_and_better_than_without_groups():
    drawn = Drawn(n=600, p=120, k=3, size=400, spread=1.0, seed=3)
    similarities = []
    for groups in (drawn.group, None):
        solution = fit(drawn.X, 3, groups=groups, max_iter=300, random_state=0, init="merge")
        C = solution.H / solution.H.sum(axis=1, keepdims=True)
        order = match_components(C, drawn.H)[0]
        overlap = (np.sqrt(C) * np.sqrt(drawn.H[order])).sum(axis=1)
        similarities.append(overlap.min())
        if groups is not None:
            seen = drawn.X.sum(axis=0) > 500  # where the prior hardly matters
            logs = [np.log(A[:, seen]).ravel() for A in (solution.group_effects, drawn.effects)]
            assert np.corrcoef(*logs)[0, 1] > 0.98
            assert np.abs(logs[0] - logs[1]).mean() < 0.1  # at 170 counts or more, whose standard error is 0.08
    assert similarities[0] > 0.99
    assert similarities[0] > similarities[1] + 0.01


@every_solver
def test_the_mean_of_the_effects_of_a_feature_is_1(drawn, solver):
    for options in ({}, {"prior_W": (1.2, 1.0)}, {"row_exposure": np.linspace(1, 3, 80)}, {"max_iter": 3}):
        options = {"max_iter": 30} | SOLVERS[solver] | options
        effects = fit(drawn.X, 2, groups=drawn.group, **options).group_effects
        np.testing.assert_allclose(effects.mean(axis=0), 1, rtol=1e-12)
        assert (effects > 0).all()


def test_scales_of_groups_and_features_are_at_their_optimum_after_few_iterations():
    """Alternating updates alone need thousands of iterations, since the likelihood is flat in these directions."""
    drawn = Drawn(n=120, p=40, k=2, size=20000, spread=1.0)
    effects = fit(drawn.X, 2, groups=drawn.group, max_iter=60, dtype="float64").group_effects
    np.testing.assert_allclose(effects.mean(axis=1), 1, rtol=1e-3)


def test_a_single_group_gives_the_fit_without_groups(drawn):
    without = PoissonNMF(2, random_state=0, max_iter=20).fit(drawn.X)
    model = PoissonNMF(2, random_state=0, max_iter=20).fit(drawn.X, groups=np.full(80, "only"))
    np.testing.assert_array_equal(model.components_, without.components_)
    assert model.objective_ == without.objective_
    np.testing.assert_array_equal(model.group_effects_, np.ones((1, 30)))
    assert model.group_names_.tolist() == ["only"]
    assert without.group_effects_ is None
    assert without.group_names_ is None
    W = model.transform(drawn.X, groups=np.full(80, "only"))
    np.testing.assert_allclose(W, without.transform(drawn.X), rtol=1e-5, atol=1e-6)


def test_without_effects_a_strong_prior_keeps_them_at_1(drawn):
    solution = fit(drawn.X, 2, groups=drawn.group, prior_groups=1e9, **drawn.start, max_iter=50, dtype="float64")
    without = fit(drawn.X, 2, **drawn.start, max_iter=50, dtype="float64")
    np.testing.assert_allclose(solution.group_effects, 1, atol=1e-5)
    assert solution.objective == pytest.approx(without.objective, rel=1e-4)


def test_a_group_without_counts_of_a_feature_has_a_small_finite_effect(drawn):
    X = drawn.X.copy()
    X[drawn.group == 1, :3], X[:, 5] = 0, 0
    solution = fit(X, 2, groups=drawn.group, max_iter=100)
    effects = solution.group_effects
    assert np.isfinite(effects).all()
    assert (effects > 0).all()
    assert (effects[1, :3] < 1).all()
    np.testing.assert_allclose(effects[:, 5], 1, rtol=1e-3)  # no counts at all: nothing is known
    assert (solution.H[:, 5] == 0).all()


def test_with_H_fixed_the_effects_are_the_posterior_modes_given_W(drawn):
    solution = fit(drawn.X, 2, groups=drawn.group, fixed_H=drawn.H, max_iter=300, tol=1e-9, dtype="float64")
    np.testing.assert_array_equal(solution.H, drawn.H)
    member = np.eye(3)[drawn.group]
    x, m = member.T @ drawn.X, member.T @ (solution.W @ drawn.H)
    np.testing.assert_allclose(solution.group_effects, (x + 10) / (m + 10), rtol=1e-4)


def test_exposures_background_and_weights_have_their_meaning(drawn):
    rng = np.random.default_rng(5)
    r, c, b = rng.gamma(5, 0.2, 80), rng.gamma(5, 0.2, 30), rng.gamma(1, 0.1, 30)
    weight = rng.integers(1, 4, 80).astype(float)
    options = {"groups": drawn.group, "max_iter": 1500, "tol": 1e-9, "dtype": "float64"} | drawn.start
    solution = fit(drawn.X, 2, row_exposure=r, column_exposure=c, background=b, **options)
    rate = r[:, None] * c * (solution.W @ solution.H + b)
    member = np.eye(3)[drawn.group]
    np.testing.assert_allclose(solution.group_effects, (member.T @ drawn.X + 10) / (member.T @ rate + 10), rtol=1e-5)
    solution = fit(drawn.X, 2, sample_weight=weight, **options)  # a row of weight 2 is two rows
    rows = np.repeat(np.arange(80), weight.astype(int))
    start = {"init": "custom", "W": drawn.start["W"][rows], "H": drawn.start["H"]}
    twice = fit(drawn.X[rows], 2, **(options | {"groups": drawn.group[rows]} | start))
    assert solution.objective == pytest.approx(twice.objective, rel=1e-6)
    np.testing.assert_allclose(solution.group_effects, twice.group_effects, rtol=0.02)


def test_rows_of_weight_0_do_not_count_and_get_the_W_that_transform_gives(drawn):
    weight = np.ones(80)
    weight[:10] = 0
    model = PoissonNMF(2, random_state=0, max_iter=500, tol=1e-6)
    W = model.fit_transform(drawn.X, groups=drawn.labels, sample_weight=weight)
    np.testing.assert_allclose(W[:10], model.transform(drawn.X[:10], groups=drawn.labels[:10]), rtol=1e-3, atol=1e-3)
    X = drawn.X.copy()
    X[:10] = 7
    again = PoissonNMF(2, random_state=0, max_iter=500, tol=1e-6).fit(X, groups=drawn.labels, sample_weight=weight)
    np.testing.assert_array_equal(again.group_effects_, model.group_effects_)


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_labels_may_be_numbers_strings_and_categories_and_are_aligned_by_name(drawn):
    pd = pytest.importorskip("pandas")
    numbers = PoissonNMF(2, random_state=0, max_iter=5).fit(drawn.X, groups=drawn.group)
    names = [f"row {i}" for i in range(80)]
    X = pd.DataFrame(drawn.X, index=names, columns=[f"f{j}" for j in range(30)])
    shuffled = np.random.default_rng(0).permutation(80)
    for groups in (
        drawn.labels,
        drawn.labels.tolist(),
        pd.Categorical(drawn.labels),
        pd.Series(drawn.labels, index=names),
        pd.Series(drawn.labels, index=names, dtype="category").iloc[shuffled],
        pd.Series(drawn.labels, index=names, dtype="string"),
    ):
        model = PoissonNMF(2, random_state=0, max_iter=5).fit(X, groups=groups)
        assert model.group_names_.tolist() == ["a", "b", "c"]
        np.testing.assert_array_equal(model.group_effects_, numbers.group_effects_)
    assert numbers.group_names_.tolist() == [0, 1, 2]
    objects = PoissonNMF(2, random_state=0, max_iter=5).fit(drawn.X, groups=drawn.group.astype(object))
    np.testing.assert_array_equal(objects.group_names_, numbers.group_names_)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (np.zeros(7), ValueError, r"groups must have one label for each of 80 rows, got shape \(7,\)"),
        (np.zeros((80, 1)), ValueError, r"groups must have one label for each of 80 rows, got shape \(80, 1\)"),
        (3, ValueError, r"groups must have one label for each of 80 rows, got shape \(\)"),
        (np.arange(80), ValueError, "groups must have fewer groups than X has rows, got one for each of 80 rows"),
        ([0.0] * 40 + [math.nan] * 40, ValueError, "groups must have a label for each row, got NaN"),
        (["a"] * 40 + [None] * 40, TypeError, "groups must be all strings or all numbers, got NoneType, str"),
        ([1] * 40 + ["b"] * 40, TypeError, "groups must be all strings or all numbers, got int, str"),
        (np.array([1, "b"], object).repeat(40), TypeError, "groups must be all strings or all numbers, got int, str"),
        (np.array(["2020-01-01"] * 80, "datetime64[D]"), TypeError, "groups must be all strings or all numbers, got d"),
    ],
)
def test_invalid_groups_are_refused(drawn, groups, error, message):
    with pytest.raises(error, match=f"^{message}"):
        PoissonNMF(2).fit(drawn.X, groups=groups)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "a", None])
def test_the_strength_of_the_prior_must_be_positive_and_finite(drawn, value):
    with pytest.raises((TypeError, ValueError), match=r"^prior_groups"):
        PoissonNMF(2, prior_groups=value).fit(drawn.X, groups=drawn.group)


@pytest.mark.parametrize("beside", [{"mask": np.eye(80, 30)}, {"validation": 0.1}], ids=["mask", "validation"])
def test_groups_exclude_masks_and_validation(drawn, beside):
    with pytest.raises(ValueError, match=f"^{next(iter(beside))} must be None with groups"):
        PoissonNMF(2).fit(drawn.X, groups=drawn.group, **beside)


# ── how it is run ───────────────────────────────────────────────────────────────────────────────────────────────


@every_solver
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_result_does_not_depend_on_the_number_of_threads(solver, dtype):
    drawn = Drawn(n=1300, p=600, k=3)  # more than one block of rows and of columns
    one, three = (
        fit(drawn.X, 3, groups=drawn.group, max_iter=12, dtype=dtype, n_threads=n, **SOLVERS[solver]) for n in (1, 3)
    )
    for name in ("W", "H", "group_effects"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
    assert one.H.dtype == dtype
    assert one.group_effects.dtype == np.float64


@pytest.mark.parametrize("solver", ["mu", "em"])
def test_streamed_counts_give_the_fit_in_memory(drawn, solver):
    whole = fit(drawn.X, 2, groups=drawn.group, max_iter=30, dtype="float64", **drawn.start, **SOLVERS[solver])
    X = sparse.csr_array(drawn.X)
    streamed = StreamedCounts(lambda: [X[:30], X[30:55], X[55:]])
    solution = fit(streamed, 2, groups=drawn.group, max_iter=30, dtype="float64", **drawn.start, **SOLVERS[solver])
    np.testing.assert_allclose(solution.group_effects, whole.group_effects, rtol=1e-9)
    assert solution.objective == pytest.approx(whole.objective, rel=1e-11)
    by_column = StreamedCounts(lambda: [X.T.tocsr()[:20], X.T.tocsr()[20:]], by_column=True)
    solution = fit(by_column, 2, groups=drawn.group, max_iter=30, dtype="float64", **drawn.start, **SOLVERS[solver])
    own = objective(drawn.X, drawn.group, solution.W, solution.H, solution.group_effects)
    assert solution.objective == pytest.approx(own, rel=1e-10)
    assert solution.objective == pytest.approx(whole.objective, rel=0.05)
    model = PoissonNMF(2, random_state=0, max_iter=30, solver=solver).fit(drawn.X, groups=drawn.labels)
    W = model.transform(drawn.X, groups=drawn.labels)
    np.testing.assert_allclose(model.transform(streamed, groups=drawn.labels), W, rtol=1e-6)
    assert model.score(streamed, groups=drawn.labels) == pytest.approx(model.score(drawn.X, groups=drawn.labels))
    with pytest.warns(UserWarning, match="^groups has 'z', which the model was not fitted with"):
        model.transform(streamed, groups=["z"] * 80)
    with pytest.raises(ValueError, match="X must be in memory to estimate"):
        model.transform(streamed, groups=["z"] * 80, new_groups="estimate")


@pytest.mark.parametrize("solver", ["em", "extrapolated cd"])
def test_a_resumed_fit_has_the_bits_of_one_that_never_stopped(drawn, solver, tmp_path):
    options = {"random_state": 0, "tol": 0, "eval_every": 2} | SOLVERS[solver]
    whole = PoissonNMF(2, max_iter=23, **options).fit(drawn.X, groups=drawn.labels)
    PoissonNMF(2, max_iter=12, **options).fit(
        drawn.X, groups=drawn.labels, checkpoint=Checkpoint(tmp_path, iterations=1)
    )
    resumed = PoissonNMF(2, max_iter=23, **options).fit(drawn.X, groups=drawn.labels, resume=tmp_path)
    for name in ("components_", "group_effects_", "objective_"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    with pytest.raises(ValueError, match=r"^resume"):
        PoissonNMF(2, max_iter=23, **options).fit(drawn.X, groups=np.roll(drawn.labels, 1), resume=tmp_path)
    with pytest.raises(ValueError, match=r"^resume"):
        PoissonNMF(2, max_iter=23, **options).fit(drawn.X, resume=tmp_path)


def test_ctrl_c_keeps_effects_that_belong_to_the_factors(drawn):
    def interrupt(record, W, H):
        if record.n_iter >= 6:
            raise KeyboardInterrupt

    with pytest.raises(FitInterrupted) as error:
        fit(drawn.X, 2, groups=drawn.group, eval_every=1, callback=interrupt, dtype="float64")
    solution = error.value.solution
    own = objective(drawn.X, drawn.group, solution.W, solution.H, solution.group_effects)
    assert solution.objective == pytest.approx(own, rel=1e-10)
    np.testing.assert_allclose(solution.group_effects.mean(axis=0), 1, rtol=1e-12)


def test_user_arrays_are_not_written_to(drawn, unchanged):
    X, labels, W, H = unchanged(drawn.X, drawn.labels, drawn.start["W"], drawn.start["H"])
    fit(X, 2, groups=labels, init="custom", W=W, H=H, max_iter=11)


@pytest.mark.parametrize("solver", ["em", "extrapolated cd"])
def test_the_bytes_planned_are_those_that_a_fit_allocates(solver):
    X = make_poisson_counts(20_000, 3_000, nnz=400_000, random_state=0).X
    group = np.arange(20_000) % 5
    planned = fastpmf.plan(X, n_components=20, n_groups=5, **SOLVERS[solver])
    assert planned.factor_bytes > fastpmf.plan(X, n_components=20, **SOLVERS[solver]).factor_bytes

    def run():
        fit(as_counts(X), 20, groups=group, max_iter=52, tol=0, **SOLVERS[solver])

    run()  # compiles
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.95 * peak < planned.peak_bytes < 1.2 * peak  # not all that a fit allocates is in use at its peak


# ── new rows, files and copies ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def fitted(drawn):
    model = PoissonNMF(2, random_state=0, max_iter=2000, tol=1e-7, dtype="float64")
    W = model.fit_transform(drawn.X, groups=drawn.labels)
    return model, W


def test_transform_of_the_fitted_rows_gives_the_fitted_W_and_its_score(drawn, fitted):
    model, W = fitted
    found, gap = model.transform(drawn.X, groups=drawn.labels, return_gap_bound=True)
    np.testing.assert_allclose(found, W, atol=2e-3 * W.max())
    assert gap.max() <= 1e-6 * drawn.X.sum()
    rows = [7, 3, 40]
    np.testing.assert_array_equal(model.transform(drawn.X[rows], groups=drawn.labels[rows]), found[rows])
    rate = (W @ model.components_) * model.group_effects_[drawn.group]
    log_likelihood = np.log(np.where(drawn.X > 0, rate, 1)) * drawn.X - rate
    log_likelihood -= np.vectorize(math.lgamma)(drawn.X + 1)
    score = model.score(drawn.X, groups=drawn.labels)
    assert score == pytest.approx(log_likelihood.sum() / drawn.X.sum(), rel=1e-6)
    weight = np.arange(80) % 3
    weighted = (weight[:, None] * log_likelihood).sum() / (weight[:, None] * drawn.X).sum()
    assert model.score(drawn.X, groups=drawn.labels, sample_weight=weight) == pytest.approx(weighted, rel=1e-6)


@pytest.mark.parametrize("kind", [PoissonNMF, HPF])
def test_a_copy_with_new_groups_knows_their_effects_everywhere(kind, tmp_path):
    drawn = Drawn(n=200)
    old = drawn.labels != "c"
    options = {"tol": 1e-3} if kind is HPF else {}
    model = kind(2, random_state=0, **options).fit(drawn.X[old], groups=drawn.labels[old])
    wider = model.with_new_groups(drawn.X, drawn.labels)
    assert model.group_names_.tolist() == ["a", "b"]
    assert wider.group_names_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(wider.group_effects_[:2], model.group_effects_)
    X, labels = drawn.X[~old], drawn.labels[~old]
    W = wider.transform(X, groups=labels)
    np.testing.assert_array_equal(W, model.transform(X, groups=labels, new_groups="estimate"))
    with pytest.warns(UserWarning, match="which the model was not fitted with"):
        ignored = model.score(X, groups=labels)
    assert wider.score(X, groups=labels) > ignored + 0.01
    left, right = wider.rate_factors(W, groups=labels)
    np.testing.assert_allclose(left @ right, (W @ model.components_) * wider.group_effects_[2], rtol=1e-5)
    wider.save(tmp_path / "model.npz")
    loaded = kind.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.transform(X, groups=labels), W)
    assert wider.with_new_groups(X, labels) is wider
    if kind is HPF:
        np.testing.assert_allclose(wider.group_effects_posterior_.mean, wider.group_effects_, rtol=1e-12)
        rows = np.arange(old.sum())
        before, after = (m.predictive_mean(rows, 3) for m in (model, wider))
        np.testing.assert_array_equal(before, after)


def test_a_new_group_of_a_model_of_one_group_is_kept(tmp_path):
    drawn = Drawn(n=200)
    for kind in (PoissonNMF, HPF):
        old = drawn.labels == "a"
        model = kind(2, random_state=0, tol=1e-3).fit(drawn.X[old], groups=drawn.labels[old])
        wider = model.with_new_groups(drawn.X, drawn.labels)
        wider.save(tmp_path / "model.npz")
        loaded = kind.load(tmp_path / "model.npz")
        np.testing.assert_allclose(loaded.group_effects_, wider.group_effects_, rtol=1e-12)
        np.testing.assert_allclose(wider.group_effects_[0], 1, rtol=1e-12)


def test_new_groups_may_have_one_row_and_counts_that_no_component_produces():
    drawn = Drawn(n=100)
    X = drawn.X.copy()
    X[:, 3] = 0
    model = PoissonNMF(2, random_state=0).fit(X, groups=drawn.labels)
    wider = model.with_new_groups(drawn.X[:2], ["y", "z"])
    np.testing.assert_allclose(wider.group_effects_[3:, 3], 1, rtol=1e-5)  # H is float32
    assert np.abs(np.log(wider.group_effects_[3:])).max() > 0.01
    assert (model.with_new_groups(np.zeros((2, 30)), ["x", "x"]).group_effects_[3] == 1).all()


def test_labels_of_another_kind_than_those_of_the_fit_are_refused(drawn):
    model = PoissonNMF(2, random_state=0, max_iter=30).fit(drawn.X, groups=drawn.labels)
    with pytest.raises(TypeError, match="groups must be all strings, as in the fit, got numbers"):
        model.transform(drawn.X, groups=drawn.group)
    plain = PoissonNMF(2, random_state=0, max_iter=30).fit(drawn.X)
    with pytest.raises(ValueError, match="groups must be None, since the model was fitted without groups"):
        plain.with_new_groups(drawn.X, drawn.labels)


def test_new_groups_are_ignored_with_a_warning_or_estimated():
    drawn = Drawn(n=900, p=80, k=3, n_groups=4, size=300, spread=0.8)
    old = drawn.group < 3
    model = PoissonNMF(3, random_state=0, max_iter=300).fit(drawn.X[old], groups=drawn.labels[old])
    X, labels = drawn.X[~old], drawn.labels[~old]
    with pytest.warns(UserWarning, match="^groups has 'd', which the model was not fitted with: their effects are"):
        ignored = model.transform(X, groups=labels)
    estimated = model.transform(X, groups=labels, new_groups="estimate")
    order = match_components(model.components_, drawn.H)[0]
    true = drawn.W[~old][:, order] / drawn.W[~old].sum(axis=1, keepdims=True)

    def error(W):
        shares = W * model.components_.sum(axis=1)
        return np.abs(shares / shares.sum(axis=1, keepdims=True) - true).mean()

    assert error(estimated) < 0.8 * error(ignored)
    both = model.transform(drawn.X, groups=drawn.labels, new_groups="estimate")
    np.testing.assert_array_equal(both[~old], estimated)  # fitted groups do not take part
    np.testing.assert_array_equal(both[old], model.transform(drawn.X[old], groups=drawn.labels[old]))
    assert model.transform(np.zeros((2, 80)), groups=["x", "x"], new_groups="estimate").max() == 0
    with pytest.raises(ValueError, match=r"^new_groups must be"):
        model.transform(X, groups=labels, new_groups="guess")


def test_groups_must_be_given_to_a_model_with_groups_and_to_no_other(drawn, fitted):
    model, W = fitted
    plain = PoissonNMF(2, random_state=0, max_iter=5).fit(drawn.X)
    for call in (lambda m, **g: m.transform(drawn.X, **g), lambda m, **g: m.score(drawn.X, **g),
                 lambda m, **g: m.rate_factors(W, **g), lambda m, **g: m.differential_expression(drawn.X, W, **g),
                 lambda m, **g: fastpmf.differential_expression(drawn.X, W, m, **g)):  # fmt: skip
        with pytest.raises(ValueError, match=r"^groups must be given, since the model was fitted with groups"):
            call(model)
        with pytest.raises(ValueError, match=r"^groups must be None, since the model was fitted without groups"):
            call(plain, groups=drawn.labels)


def test_a_model_with_groups_is_saved_loaded_cloned_and_updated(drawn, fitted, tmp_path):
    model, _ = fitted
    model.save(tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert loaded.group_names_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(loaded.group_effects_, model.group_effects_)
    W = model.transform(drawn.X, groups=drawn.labels)
    np.testing.assert_array_equal(loaded.transform(drawn.X, groups=drawn.labels), W)
    other = clone(PoissonNMF(2, prior_groups=3.0))
    assert other.prior_groups == 3.0
    assert not hasattr(other, "group_effects_")
    model = PoissonNMF(2, random_state=0, max_iter=5).fit(drawn.X, groups=drawn.labels)
    model.fit(drawn.X)
    assert model.group_effects_ is None
    assert PoissonNMF(2, random_state=0).partial_fit(drawn.X).group_effects_ is None


def test_numbers_as_labels_are_saved_too(drawn, tmp_path):
    model = PoissonNMF(2, random_state=0, max_iter=5).fit(drawn.X, groups=2000 + drawn.group)
    model.save(tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.group_names_, [2000, 2001, 2002])
    W = loaded.transform(drawn.X[:2], groups=[2000, 2001])
    np.testing.assert_array_equal(W, model.transform(drawn.X[:2], groups=[2000, 2001]))


def test_callbacks_see_the_factors_of_a_fit_with_groups(drawn):
    seen = []
    PoissonNMF(2, random_state=0, max_iter=20, callback=lambda record, W, H: seen.append(record.objective)).fit(
        drawn.X, groups=drawn.labels
    )
    assert len(seen) >= 2
    assert seen == sorted(seen, reverse=True)


# ── rates ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("beside", [{}, {"background": 0.05}, {"column_exposure": np.linspace(0.5, 2, 30)}], ids=str)
def test_the_product_of_rate_factors_is_the_rates(drawn, beside):
    model = PoissonNMF(2, random_state=0, max_iter=50, dtype="float64")
    r = np.linspace(0.5, 2, 80)
    W = model.fit_transform(drawn.X, groups=drawn.labels, row_exposure=r, **beside)
    wide, H = model.rate_factors(W, row_exposure=r, groups=drawn.labels)
    b, c = beside.get("background", 0), beside.get("column_exposure", 1)
    rate = r[:, None] * c * model.group_effects_[drawn.group] * (W @ model.components_ + b)
    np.testing.assert_allclose(wide @ H, rate, rtol=1e-12)
    penalty = 10 * (model.group_effects_ - 1 - np.log(model.group_effects_)).sum()
    assert kl_divergence(drawn.X, wide, H) + penalty == pytest.approx(model.objective_, rel=1e-8)
    with pytest.warns(UserWarning, match="^groups has 'x'"):
        wide, H = model.rate_factors(W[:1], groups=["x"])
    np.testing.assert_allclose(wide @ H, c * (W[:1] @ model.components_ + b), rtol=1e-12)
    plain = PoissonNMF(2, random_state=0, max_iter=5)
    W = plain.fit_transform(drawn.X)
    wide, H = plain.rate_factors(W)
    np.testing.assert_array_equal(wide @ H, W @ plain.components_)


def test_functions_of_rates_refuse_a_model_with_groups_and_take_its_rate_factors(drawn, fitted):
    model, W = fitted
    X = drawn.X
    functions = {
        "kl_divergence": lambda W, H: fastpmf.kl_divergence(X, W, H),
        "poisson_log_likelihood": lambda W, H: fastpmf.poisson_log_likelihood(X, W, H),
        "poisson_deviance": lambda W, H: fastpmf.poisson_deviance(X, W, H),
        "heldout_log_likelihood": lambda W, H: fastpmf.heldout_log_likelihood(X, W, H, X),
        "recommend": lambda W, H: fastpmf.recommend(W, H, 2),
        "ranking_scores": lambda W, H: fastpmf.ranking_scores(X, W, H, 2),
        "calibration": lambda W, H: fastpmf.plot.calibration(X, W, H),
        "residuals": lambda W, H: fastpmf.plot.residuals(X, W, H),
    }
    factors = model.rate_factors(W, groups=drawn.labels)
    for function in functions.values():
        with pytest.raises(ValueError, match=r"^H must not be a model with groups.*model\.rate_factors\(W, groups"):
            function(W, model)
        function(*factors)
    for call in (
        lambda: fastpmf.component_gains(X, model, X, exposure=1.0),
        lambda: model.recommend(X),
    ):
        with pytest.raises(ValueError, match="must not be a model with groups"):
            call()


def test_a_report_has_the_rates_of_the_groups(drawn, fitted, tmp_path):
    model, W = fitted
    with pytest.raises(ValueError, match=r"^groups must be given"):
        model.report(tmp_path / "report.html", drawn.X)
    text = model.report(tmp_path / "report.html", drawn.X, groups=drawn.labels).read_text()
    assert "Calibration" in text
    assert model.report(tmp_path / "report.html", drawn.X, W, groups=drawn.labels).read_text().count("<img") > 2
    assert "groups" in str(model.summary())
    assert "3 (" in model._repr_html_()


def test_factors_are_written_with_the_effects(drawn, fitted, tmp_path):
    model, W = fitted
    write_factors(tmp_path / "factors.npz", W, model)
    with np.load(tmp_path / "factors.npz") as file:
        np.testing.assert_array_equal(file["group_effects"], model.group_effects_)
        assert file["group_names"].tolist() == ["a", "b", "c"]


# ── differential expression ─────────────────────────────────────────────────────────────────────────────────────────


def known(H, effects, names):
    """A fitted model that has these components and effects."""
    model = PoissonNMF(len(H), max_iter=1).fit(np.ones((len(names) + 1, H.shape[1])), groups=[*names, names[0]])
    model.components_, model.group_effects_ = H, effects
    return model


def test_changes_and_errors_with_groups_are_those_of_dense_regressions():
    drawn = Drawn(n=120, p=25, k=3, size=400, spread=0.8)
    X, labels, e = drawn.X.copy(), drawn.labels, 0.5
    X[::3, :5] = 0
    model = known(drawn.H, drawn.effects, ["a", "b", "c"])
    robust, plain = (
        fastpmf.differential_expression(
            X, drawn.W, model, groups=labels, against="mean", pseudocount=e, standard_errors=errors
        )
        for errors in ("robust", "model")
    )
    for j in (0, 4, 17):
        c = drawn.effects[drawn.group, j, None]
        m = X[:, j].sum() / (c * drawn.W).sum()

        def value(theta, j=j, c=c, m=m):
            rate = m * ((c * drawn.W) @ np.exp(theta))
            return rate.sum() - X[:, j] @ np.log(rate) + e * (np.exp(theta) - theta).sum()

        theta = minimize(value, np.zeros(3), tol=1e-12).x
        found = robust.log2_fold_change[:, j] * np.log(2)
        np.testing.assert_allclose(found, theta, atol=1e-4)  # of the minimiser
        parts = m * c * drawn.W * np.exp(found)
        mu = parts.sum(axis=1, keepdims=True)
        shares, x = parts / mu, X[:, j, None]
        bread = np.linalg.inv((x * shares).T @ shares + e * np.eye(3))
        leverage = x[:, 0] * np.einsum("ik,kl,il->i", shares, bread, shares)
        scores = (x - mu) * shares / (1 - leverage[:, None])
        covariance = bread @ (scores.T @ scores + e * np.eye(3)) @ bread
        # the regressions end within 1e-9 nats per count of their optimum, which is 3e-5 of g
        for result, matrix in ((robust, covariance), (plain, bread)):
            errors = result.standard_error[:, j] * np.log(2)
            np.testing.assert_allclose(errors, np.sqrt(np.diag(matrix)), rtol=1e-3)


def test_effects_of_groups_are_no_changes_of_components_that_are_frequent_in_them():
    rng = np.random.default_rng(4)
    n, p = 900, 200
    kind = rng.integers(2, size=n)
    group = np.where(rng.random(n) < 0.85, kind, 1 - kind)  # most rows of group 0 are of component 0
    W = np.eye(2)[kind] * 400 + 40
    H = np.tile(rng.dirichlet(np.full(p, 5.0)), (2, 1))
    H[0, :20] *= 3  # the only true changes
    H /= H.sum(axis=1, keepdims=True)
    effects = np.exp(0.5 * rng.standard_normal((2, p)))
    X = rng.poisson((W @ H) * effects[group])
    true = np.log2(H[0] / H[1])
    options = {"against": 1, "pseudocount": 0.01}
    with_groups = fastpmf.differential_expression(X, W, known(H, effects, [0, 1]), groups=group, **options)
    inside = (np.abs(with_groups.log2_fold_change[0] - true) < 1.645 * with_groups.standard_error[0]).sum()
    # of 200, 90 % expected; the bounds leave out one case in ten thousand
    assert stats.binom.ppf(5e-5, p, 0.9) <= inside <= stats.binom.ppf(1 - 5e-5, p, 0.9)
    assert set(with_groups.top(20).indices[0].tolist()) == set(range(20))
    without = fastpmf.differential_expression(X, W, H, **options)
    inside = (np.abs(without.log2_fold_change[0] - true) < 1.645 * without.standard_error[0]).sum()
    assert inside < 0.5 * p


def test_fitted_effects_and_components_give_nearly_the_changes_of_the_true_ones():
    drawn = Drawn(n=900, p=60, k=3, size=500, spread=0.8, seed=2)
    model = PoissonNMF(3, random_state=0, max_iter=300)
    W = model.fit_transform(drawn.X, groups=drawn.labels)
    order = match_components(model.components_, drawn.H)[0]
    found = model.differential_expression(drawn.X, W, groups=drawn.labels, against="mean")
    true = known(drawn.H[order], drawn.effects, ["a", "b", "c"])
    exact = fastpmf.differential_expression(drawn.X, drawn.W[:, order], true, groups=drawn.labels, against="mean")
    differences = np.abs(found.log2_fold_change - exact.log2_fold_change) / exact.standard_error
    assert np.median(differences) < 1  # W and the effects are estimated from the same counts


def test_a_single_group_changes_no_change_and_new_groups_have_effects_of_1(drawn):
    plain = PoissonNMF(2, random_state=0, max_iter=500)
    W = plain.fit_transform(drawn.X)
    model = PoissonNMF(2, random_state=0, max_iter=500).fit(drawn.X, groups=["only"] * 80)
    expected = plain.differential_expression(drawn.X, W)
    with pytest.warns(UserWarning, match="^groups has 'new', which the model was not fitted with"):
        new = model.differential_expression(drawn.X, W, groups=["new"] * 80)
    for found in (model.differential_expression(drawn.X, W, groups=["only"] * 80), new):
        np.testing.assert_allclose(found.log2_fold_change, expected.log2_fold_change, atol=1e-4)
        np.testing.assert_allclose(found.standard_error, expected.standard_error, rtol=1e-4)


def test_a_fit_from_given_factors_starts_with_their_best_effects(drawn):
    options = {"n_components": 2, "max_iter": 1000, "tol": 1e-5, "dtype": "float64"}
    model = PoissonNMF(**options, random_state=0)
    W = model.fit_transform(drawn.X, groups=drawn.labels)
    again = PoissonNMF(**options, init="custom").fit(drawn.X, groups=drawn.labels, W=W, H=model.components_)
    assert again.n_iter_ <= 2 < model.n_iter_
    assert again.objective_ <= model.objective_


def test_changes_with_groups_are_aligned_by_labels_and_the_same_for_any_number_of_threads(drawn):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(drawn.X, [f"row {i}" for i in range(80)], [f"f{j}" for j in range(30)])
    groups = pd.Series(drawn.labels, X.index)
    model = PoissonNMF(2, random_state=0, max_iter=20)
    W = model.fit_transform(X, groups=groups)
    expected = model.differential_expression(X, W, groups=groups)
    shuffled = np.random.default_rng(0).permutation(30)
    found = fastpmf.differential_expression(
        X.iloc[:, shuffled], W, model, groups=groups.iloc[::-1], n_threads=2, names=X.columns[shuffled]
    )
    assert found.names.tolist() == X.columns[shuffled].tolist()
    np.testing.assert_allclose(found.log2_fold_change, expected.log2_fold_change[:, shuffled], atol=1e-6)
    one, three = (fastpmf.differential_expression(X, W, model, groups=groups, n_threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one.standard_error, three.standard_error)


# ── AnnData and the command line ────────────────────────────────────────────────────────────────────────────────────


def test_batches_of_anndata_are_fitted_stored_written_and_used_for_new_cells(drawn, tmp_path):
    anndata, pd = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    fa = pytest.importorskip("fastpmf.anndata")
    genes = [f"g{j}" for j in range(30)]
    obs = pd.DataFrame(
        {"batch": pd.Categorical(drawn.labels), "year": 2000 + drawn.group}, [f"c{i}" for i in range(80)]
    )
    adata = anndata.AnnData(drawn.X, obs=obs, var=pd.DataFrame({"use": np.arange(30) > 1}, index=genes))
    options = {"random_state": 0, "max_iter": 50}
    model = fa.poisson_nmf(adata, 2, batch_key="batch", mask_var="use", **options)
    direct = PoissonNMF(2, **options).fit(drawn.X[:, 2:], groups=drawn.labels)
    np.testing.assert_array_equal(model.group_effects_, direct.group_effects_)
    np.testing.assert_array_equal(adata.varm["PMF_batch_effects"][2:], model.group_effects_.T)
    np.testing.assert_array_equal(adata.varm["PMF_batch_effects"][:2], 1)
    adata.write_h5ad(tmp_path / "adata.h5ad")
    read = anndata.read_h5ad(tmp_path / "adata.h5ad")
    assert list(read.uns["pmf"]["batches"]) == ["a", "b", "c"]
    assert read.uns["pmf"]["params"]["batch_key"] == "batch"
    W = fa.transform(adata, model, batch_key="batch")
    np.testing.assert_array_equal(W, direct.transform(drawn.X[:, 2:], groups=drawn.labels))
    fewer = adata[:, ::-3].copy()
    with pytest.warns(UserWarning, match="lacks .* of the 28 fitted genes"):
        assert np.isfinite(fa.transform(fewer, model, batch_key="batch")).all()
    adata.obs["batch"] = "new"
    with pytest.warns(UserWarning, match="^groups has 'new'"):
        ignored = fa.transform(adata, model, batch_key="batch")
    assert (fa.transform(adata, model, batch_key="batch", new_batches="estimate") != ignored).any()
    assert fa.poisson_nmf(adata, 2, batch_key="year", **options).group_names_.tolist() == [2000, 2001, 2002]
    fa.poisson_nmf(adata, 2, **options)
    assert "PMF_batch_effects" not in adata.varm
    assert fa.to_anndata(W, direct).varm["PMF_batch_effects"].shape == (28, 3)
    for call, error, message in (
        (lambda: fa.transform(adata, model), ValueError, "^batch_key must be given, since the model was fitted with"),
        (lambda: fa.poisson_nmf(adata, 2, batch_key="bath"), ValueError, "^batch_key must be a column of adata.obs"),
        (lambda: fa.poisson_nmf(adata, 2, batch_key=[math.nan] * 80), ValueError, "^batch_key must have a label for"),
        (lambda: fa.poisson_nmf(adata, 2, groups="batch"), TypeError, "did you mean 'batch_key'"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_the_command_line_fits_transforms_scores_and_reports_with_groups(drawn, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    sparse.save_npz(tmp_path / "X.npz", sparse.csr_matrix(drawn.X))
    heldout = np.random.default_rng(1).poisson(drawn.rates)
    sparse.save_npz(tmp_path / "heldout.npz", sparse.csr_matrix(heldout))
    test = str(tmp_path / "heldout.npz")
    (tmp_path / "groups.txt").write_text("\n".join(drawn.labels) + "\n")
    (tmp_path / "new.txt").write_text("\n".join(["new"] * 80) + "\n")
    X, groups, model, W = (str(tmp_path / name) for name in ("X.npz", "groups.txt", "model.npz", "W.npy"))

    def run(*arguments, status=0):
        assert cli.main([*arguments, "--quiet"] if arguments[0] == "fit" else list(arguments)) == status
        return capsys.readouterr()

    run("fit", X, "-k", "2", "--groups", groups, "-o", model, "--report", str(tmp_path / "a.html"))
    fitted = load_model(model)
    assert fitted.group_names_.tolist() == ["a", "b", "c"]
    assert "\ngroups: 'a', 'b', 'c'\n" in run("info", model).out
    assert json.loads(run("info", model, "--json").out)["groups"] == ["a", "b", "c"]
    other = str(tmp_path / "other.npz")
    run("fit", X, "-k", "2", "--groups", groups, "--prior-groups", "3", "-o", other)
    assert load_model(other).prior_groups == 3
    assert (
        "argument --prior-groups: it needs --groups"
        in run("fit", X, "-k", "2", "--prior-groups", "3", "-o", other, status=2).err
    )
    run("transform", model, X, "--groups", groups, "-o", W)
    np.testing.assert_array_equal(np.load(W), fitted.transform(drawn.X, groups=drawn.labels))
    run("transform", model, X, "--groups", str(tmp_path / "new.txt"), "--new-groups", "estimate", "-o", W)
    run("report", model, X, "--groups", groups, "-o", str(tmp_path / "b.html"))
    score = json.loads(run("evaluate", model, X, "--groups", groups, "--json").out)["log_likelihood"]
    assert score == pytest.approx(fitted.score(drawn.X, groups=drawn.labels), rel=1e-6)
    run("evaluate", model, test, "--train", X, "--groups", groups, "--top", "3")
    found = json.loads(run("differential", model, X, "--groups", groups, "-n", "1", "--json").out)
    expected = fitted.differential_expression(
        drawn.X, fitted.transform(drawn.X, groups=drawn.labels), groups=drawn.labels
    )
    assert [row["lower_bound"] for row in found] == pytest.approx(expected.top(1).scores[:, 0].tolist(), rel=1e-6)
    assert "groups must be given" in run("differential", model, X, status=2).err
    run("plot", "differential", model, X, "--groups", groups, "--component", "1", "-o", str(tmp_path / "d.png"))
    run("plot", "residuals", model, X, "--groups", groups, "-o", str(tmp_path / "r.png"))
    run("plot", "calibration", model, test, "--train", X, "--groups", groups, "-o", str(tmp_path / "c.png"))
    assert "groups must be given" in run("transform", model, X, "-o", W, status=2).err
    missing = run("evaluate", model, test, "--train", X, "--groups", "nothing", status=2)
    assert "no file nothing, which --train" in missing.err


# ── the search of components ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("by_column", [False, True])
def test_divergences_of_rows_or_columns_have_the_effects(drawn, by_column):
    counts, effects = as_counts(drawn.X), np.ascontiguousarray(drawn.effects.T) + 0.1
    if by_column:
        counts = StreamedCounts(lambda: [sparse.csr_array(drawn.X.T)], by_column=True)
    groups = Groups.of(counts, drawn.group, effects, 10.0)
    factors = [padded(A, np.dtype(float)) for A in (drawn.W + 0.1, drawn.H.T + 0.01)]
    rate = (factors[0] @ factors[1].T) * effects.T[drawn.group]
    logs = drawn.X * np.log(np.divide(drawn.X, rate, where=drawn.X > 0, out=np.ones_like(rate)))
    expected = (logs - drawn.X + rate).sum(axis=0 if by_column else 1)
    np.testing.assert_allclose(_row_divergences(counts, factors, groups, effects), expected, rtol=1e-10)


@pytest.mark.parametrize("first", [float("nan"), 1, True, None])
def test_labels_of_several_kinds_in_a_list_are_refused(first):
    X = np.random.default_rng(0).poisson(2.0, (6, 5))
    with pytest.raises(TypeError, match="groups must be all strings or all numbers"):
        PoissonNMF(2, random_state=0).fit(X, groups=[first, "b", "a", "b", "a", "b"])
