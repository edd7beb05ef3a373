"""Hierarchical Poisson factorization with effects of groups of rows, against dense oracles and the truth."""

import json
import math

import naive_hpf
import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from test_groups import Drawn

import fastpmf
from fastpmf import HPF, Checkpoint, FitInterrupted, StreamedCounts, cli, match_components
from fastpmf.core.counts import Side
from fastpmf.core.factors import padded
from fastpmf.counts import as_counts
from fastpmf.io import Dataset, load_model
from fastpmf.model.groups import Groups
from fastpmf.model.hierarchy import GammaPrior
from fastpmf.solvers import MeanField
from fastpmf.solvers.mean_field import PosteriorProblem

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = {"hierarchy": {}, "plain": {"hierarchy": False}, "learned": {"learn_prior": True}}


@pytest.fixture(scope="module")
def drawn():
    return Drawn(size=80.0)


@pytest.fixture(scope="module")
def fitted(drawn):
    return HPF(2, random_state=0, max_iter=3000, tol=1e-7, dtype="float64").fit(drawn.X, groups=drawn.labels)


def quick(k=2, **options):
    return HPF(k, **{"random_state": 0, "max_iter": 20, "tol": 0, "dtype": "float64"} | options)


def bound(X, group, model):
    """The bound of the oracle, and the sum of the sizes of its terms."""
    W, H, effects = model.W_posterior_, model.H_posterior_.transposed(), model.group_effects_posterior_
    activity, popularity, own = model.activity_, model.popularity_, model.prior_
    factors = [
        (A.shape, A.rate, 0 if B is None else B.shape[0], np.zeros(len(A.shape)) if B is None else B.rate)
        for A, B in ((W, activity), (H, popularity))
    ]
    priors = [
        (own["a"], own["a_prime"], own["b_prime"], activity is not None),
        (own["c"], own["c_prime"], own["d_prime"], activity is not None),
    ]
    return naive_hpf.evidence_bound(
        X, factors, priors, effects=(group, effects.shape, effects.rate, model.prior_groups)
    )


# ── the fit ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["random", "merge"])
def test_the_bound_never_falls_and_is_that_of_the_posteriors(drawn, kind, init):
    X, group = drawn.X[:40], drawn.group[:40]
    model = quick(max_iter=60, eval_every=1, init=init, prior_groups=4.0, **KINDS[kind]).fit(X, groups=group)
    assert np.diff(-model.trace_["objective"]).min() >= -1e-11 * abs(model.elbo_)  # rounding of sums of 1e3 terms
    if kind != "learned":  # there the bound is that before the last update of the prior
        exact, size = bound(X, group, model)
        assert model.elbo_ == pytest.approx(exact, abs=1e-12 * size)


@pytest.mark.parametrize("hierarchical", [True, False], ids=["hierarchy", "plain"])
def test_each_update_sets_a_posterior_to_its_optimum(drawn, hierarchical):
    """The formulas of the mean field, in dense matrices."""
    X, group, a, k = drawn.X, drawn.group, 7.0, 2
    counts = as_counts(X)
    groups = Groups.of(counts, group, np.ones((30, 3)), a)
    prior = GammaPrior(0.3, 0.4, 1.5, hierarchical)
    solver, problem = MeanField(priors=(prior, prior)), PosteriorProblem(counts, k, groups=groups)
    start = [padded(A, np.dtype(float)) for A in (drawn.start["W"], drawn.start["H"].T)]
    state = solver.init(problem, *start)
    solver.prepare(problem, state)
    for side in (Side.ROWS, Side.COLUMNS):
        own, other = state.posteriors[side], state.posteriors[side.other]
        U, V = ((A.geometric * np.exp(-A.offset[:, None]))[:, :k] for A in (own, other))
        Y = X if side is Side.ROWS else X.T
        shape = 0.3 + U * ((Y / (U @ V.T)) @ V)
        effects = state.effects.T[group] if side is Side.ROWS else state.effects.T[group].T
        rate = own.expected_rate(prior)[:, None] + effects @ other.mean[:, :k]
        solver.update_factor(problem, state, side, 1)
        np.testing.assert_allclose(own.shape[:, :k], shape, rtol=1e-12)  # some tens of roundings
        np.testing.assert_allclose(own.rates()[:, :k], rate, rtol=1e-12)
    solver.finish_step(problem, state)
    member, (W, H) = np.eye(3)[group], (factor.mean[:, :k] for factor in state.posteriors)
    expected = (member.T @ X + a) / (member.T @ (W @ H.T) + a)
    np.testing.assert_allclose(state.effects.T, expected, rtol=1e-12)


def test_effects_and_components_are_recovered_and_components_are_not_the_groups():
    drawn = Drawn(n=600, p=120, k=3, size=400, spread=1.0, seed=3)
    found = {}
    for name, groups in (("with", drawn.labels), ("without", None)):
        model = HPF(3, random_state=0, max_iter=200)
        W = model.fit_transform(drawn.X, groups=groups)
        C = model.components_ / model.components_.sum(axis=1, keepdims=True)
        order = match_components(C, drawn.H)[0]
        overlap = (np.sqrt(C) * np.sqrt(drawn.H[order])).sum(axis=1).min()
        largest = (W * model.components_.sum(axis=1)).argmax(axis=1)
        found[name] = overlap, adjusted_rand_score(drawn.group, largest), model
    assert found["with"][0] > 0.99
    assert found["with"][0] > found["without"][0] + 0.01
    assert found["with"][1] < 0.05 < found["without"][1]
    assert found["with"][2].elbo_ > found["without"][2].elbo_
    seen = drawn.X.sum(axis=0) > 500  # where the prior hardly matters
    posterior = found["with"][2].group_effects_posterior_
    np.testing.assert_allclose(posterior.mean, found["with"][2].group_effects_)
    logs = [np.log(A[:, seen]).ravel() for A in (posterior.mean, drawn.effects)]
    assert np.corrcoef(*logs)[0, 1] > 0.98


def test_a_single_group_gives_the_fit_without_groups_and_a_strong_prior_nearly(drawn):
    without = quick().fit(drawn.X)
    one = quick().fit(drawn.X, groups=["only"] * 80)
    np.testing.assert_array_equal(one.components_, without.components_)
    np.testing.assert_array_equal(one.group_effects_, np.ones((1, 30)))
    assert one.elbo_ == without.elbo_
    assert one.group_effects_posterior_ is None
    assert one.group_names_.tolist() == ["only"]
    np.testing.assert_array_equal(one.transform(drawn.X, groups=["only"] * 80), without.transform(drawn.X))
    np.testing.assert_array_equal(one.predictive_mean([0, 1], 2), without.predictive_mean([0, 1], 2))
    assert without.group_effects_ is without.group_names_ is without.group_effects_posterior_ is None
    strong = quick(init="random", prior_groups=1e12).fit(drawn.X, groups=drawn.labels)
    np.testing.assert_allclose(strong.group_effects_, 1, atol=1e-8)
    np.testing.assert_allclose(strong.components_, quick(init="random").fit(drawn.X).components_, rtol=1e-5)


def test_a_group_without_counts_of_a_feature_has_a_small_finite_effect(drawn):
    X = drawn.X.copy()
    X[drawn.group == 1, :3], X[:, 5] = 0, 0
    model = quick(max_iter=100).fit(X, groups=drawn.labels)
    assert np.isfinite(model.group_effects_).all()
    assert (model.group_effects_ > 0).all()
    assert (model.group_effects_[1, :3] < 1).all()
    assert math.isfinite(model.elbo_)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": np.zeros(7)}, r"groups must have one label for each of 80 rows, got shape \(7,\)"),
        ({"groups": np.arange(80)}, "groups must have fewer groups than X has rows, got one for each of 80 rows"),
        ({"groups": np.arange(80) % 3, "mask": np.eye(80, 30)}, "mask must be None with groups"),
        ({"groups": np.arange(80) % 3, "validation": 0.1}, "validation must be None with groups"),
    ],
    ids=["shape", "each", "mask", "validation"],
)
def test_invalid_groups_are_refused(drawn, given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        HPF(2).fit(drawn.X, **given)


@pytest.mark.parametrize("value", [0, -1, math.nan, "a"])
def test_the_strength_of_the_prior_must_be_positive(drawn, value):
    with pytest.raises((TypeError, ValueError), match=r"^prior_groups"):
        HPF(2, prior_groups=value).fit(drawn.X, groups=drawn.labels)


# ── how it is run ───────────────────────────────────────────────────────────────────────────────────────────────


def bits(model):
    parts = model.W_posterior_, model.H_posterior_, model.group_effects_posterior_
    return [A.tobytes() for part in parts for A in (part.shape, part.rate)]


def test_the_result_does_not_depend_on_the_number_of_threads():
    drawn = Drawn(n=1300, p=600, k=3)  # more than one block of rows and of columns
    one, three = (
        quick(3, max_iter=8, dtype="float32", init="random", n_threads=n).fit(drawn.X, groups=drawn.labels)
        for n in (1, 3)
    )
    assert bits(one) == bits(three)


@pytest.mark.parametrize("by_column", [False, True])
def test_streamed_counts_give_a_fit_of_the_same_bound(drawn, by_column):
    X = sparse.csr_array(drawn.X)
    X = X.T.tocsr() if by_column else X
    parts = [X[:10], X[10:]] if by_column else [X[:30], X[30:55], X[55:]]
    streamed = StreamedCounts(lambda: parts, by_column=by_column)
    model = quick(init="random", eval_every=1).fit(streamed, groups=drawn.labels)
    assert np.diff(-model.trace_["objective"]).min() >= -1e-11 * abs(model.elbo_)
    exact, size = bound(drawn.X, drawn.group, model)
    assert model.elbo_ == pytest.approx(exact, abs=1e-12 * size)
    if not by_column:
        whole = quick(init="random").fit(drawn.X, groups=drawn.labels)
        np.testing.assert_allclose(model.components_, whole.components_, rtol=1e-8)
        W = model.transform(drawn.X, groups=drawn.labels)
        np.testing.assert_allclose(model.transform(streamed, groups=drawn.labels), W, rtol=1e-10)
        with pytest.raises(ValueError, match=r"X must be in memory to estimate"):
            model.transform(streamed, groups=["z"] * 80, new_groups="estimate")


def test_a_resumed_fit_has_the_bits_of_one_that_never_stopped(drawn, tmp_path):
    options = {"init": "random", "eval_every": 2}
    whole = quick(max_iter=14, **options).fit(drawn.X, groups=drawn.labels)
    quick(max_iter=7, **options).fit(drawn.X, groups=drawn.labels, checkpoint=Checkpoint(tmp_path, iterations=1))
    resumed = quick(max_iter=14, **options).fit(drawn.X, groups=drawn.labels, resume=tmp_path)
    assert bits(resumed) == bits(whole)
    for groups in (np.roll(drawn.labels, 1), None):
        with pytest.raises(ValueError, match=r"^resume"):
            quick(max_iter=14, **options).fit(drawn.X, groups=groups, resume=tmp_path)


def test_ctrl_c_keeps_effects_of_the_fit_so_far(drawn):
    def interrupt(record, W, H):
        if record.n_iter >= 6:
            raise KeyboardInterrupt

    model = quick(eval_every=1, callback=interrupt)
    with pytest.raises(FitInterrupted):
        model.fit(drawn.X, groups=drawn.labels)
    exact, size = bound(drawn.X, drawn.group, model)
    assert model.elbo_ == pytest.approx(exact, abs=1e-12 * size)


def test_the_best_of_several_starts_has_its_own_effects(drawn):
    model = quick(n_init=3, max_iter=40).fit(drawn.X, groups=drawn.labels)
    exact, size = bound(drawn.X, drawn.group, model)
    assert model.elbo_ == pytest.approx(exact, abs=1e-12 * size)
    assert model.elbo_ == pytest.approx(-model.restarts_.min())


def test_mini_batches_have_no_groups_and_a_refit_forgets_them(drawn):
    model = quick().fit(drawn.X, groups=drawn.labels)
    model.partial_fit(drawn.X)
    assert model.group_effects_ is model.group_effects_posterior_ is model.group_names_ is None
    with pytest.raises(TypeError, match="groups"):
        model.partial_fit(drawn.X, groups=drawn.labels)
    assert model.fit(drawn.X).group_effects_ is None


# ── new rows, predictions and files ─────────────────────────────────────────────────────────────────────────────────


def test_fitted_rows_transform_to_their_posteriors(drawn, fitted):
    found = fitted.posterior(drawn.X, groups=drawn.labels)
    np.testing.assert_allclose(found.mean, fitted.W_posterior_.mean, rtol=5e-3, atol=1e-3 * found.mean.max())
    rows = [7, 3, 40]
    some = fitted.posterior(drawn.X[rows], groups=drawn.labels[rows])
    np.testing.assert_array_equal(some.shape, found.shape[rows])
    np.testing.assert_array_equal(some.rate, found.rate[rows])
    rate = (found.mean @ fitted.components_) * fitted.group_effects_[drawn.group]
    log_likelihood = stats.poisson.logpmf(drawn.X, rate)
    assert fitted.score(drawn.X, groups=drawn.labels) == pytest.approx(log_likelihood.sum() / drawn.X.sum(), rel=1e-6)
    weight = np.arange(80) % 3
    weighted = (weight[:, None] * log_likelihood).sum() / (weight[:, None] * drawn.X).sum()
    assert fitted.score(drawn.X, groups=drawn.labels, sample_weight=weight) == pytest.approx(weighted, rel=1e-6)


def test_groups_must_be_given_to_a_model_with_groups_and_to_no_other(drawn, fitted):
    plain, W = quick(max_iter=5).fit(drawn.X), fitted.W_posterior_.mean
    for call in (
        lambda m, **g: m.transform(drawn.X, **g), lambda m, **g: m.posterior(drawn.X, **g),
        lambda m, **g: m.score(drawn.X, **g), lambda m, **g: m.rate_factors(W, **g),
        lambda m, **g: m.differential_expression(drawn.X, W, **g),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^groups must be given, since the model was fitted with groups"):
            call(fitted)
        with pytest.raises(ValueError, match=r"^groups must be None, since the model was fitted without groups"):
            call(plain, groups=drawn.labels)
    with pytest.raises(ValueError, match=r"^mask must be None with groups"):
        fitted.transform(drawn.X, groups=drawn.labels, mask=np.eye(80, 30))
    with pytest.raises(ValueError, match=r"^new_groups must be"):
        fitted.transform(drawn.X, groups=drawn.labels, new_groups="guess")


def test_new_groups_are_ignored_with_a_warning_or_estimated():
    drawn = Drawn(n=900, p=80, k=3, n_groups=4, size=300, spread=0.8)
    old = drawn.group < 3
    model = HPF(3, random_state=0, max_iter=150).fit(drawn.X[old], groups=drawn.labels[old])
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
    assert np.isfinite(model.transform(np.zeros((2, 80)), groups=["x", "x"], new_groups="estimate")).all()


def test_predictions_have_the_effects_of_the_groups_of_the_fitted_rows(drawn, fitted):
    rows, columns = np.arange(80)[:, None], np.arange(30)
    mean = (fitted.W_posterior_.mean @ fitted.components_) * fitted.group_effects_[drawn.group]
    np.testing.assert_allclose(fitted.predictive_mean(rows, columns), mean, rtol=1e-12)
    draws = fitted.predictive_sample(rows, columns, 400, random_state=0)
    assert draws.shape == (400, 80, 30)
    # standard errors of means of 400 counts of variance above their mean; 2,400 of them
    z = (draws.mean(axis=0) - mean) / np.sqrt(draws.var(axis=0) / 400 + 1e-12)
    assert np.abs(z[mean > 1]).max() < 5
    assert draws.var(axis=0).sum() > mean.sum()
    heldout = np.random.default_rng(1).poisson(drawn.rates)
    expected = stats.poisson.logpmf(heldout, mean).sum() / heldout.sum()
    assert fitted.predictive_log_likelihood(heldout) == pytest.approx(expected, rel=1e-6)
    model = quick().fit(Dataset(drawn.X, row_names=[f"r{i}" for i in range(80)]), groups=drawn.labels)
    chosen = [5, 1, 30]
    part = model.predictive_log_likelihood(Dataset(heldout[chosen], row_names=[f"r{i}" for i in chosen]))
    means = model.predictive_mean(np.array(chosen)[:, None], columns)
    assert part == pytest.approx(stats.poisson.logpmf(heldout[chosen], means).sum() / heldout[chosen].sum(), rel=1e-6)


def test_a_model_with_groups_is_saved_loaded_and_cloned(drawn, fitted, tmp_path):
    fitted.save(tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert bits(loaded) == bits(fitted)
    assert loaded.group_names_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(loaded.group_effects_, fitted.group_effects_)
    W = fitted.transform(drawn.X, groups=drawn.labels)
    np.testing.assert_array_equal(loaded.transform(drawn.X, groups=drawn.labels), W)
    np.testing.assert_array_equal(loaded.predictive_mean(range(80), 3), fitted.predictive_mean(range(80), 3))
    one = quick().fit(drawn.X, groups=[1] * 80)
    one.save(tmp_path / "one.npz")
    loaded = load_model(tmp_path / "one.npz")
    np.testing.assert_array_equal(loaded.group_effects_, one.group_effects_)
    assert loaded.group_names_.tolist() == [1]
    assert loaded.group_effects_posterior_ is None
    other = clone(HPF(2, prior_groups=3.0))
    assert other.prior_groups == 3.0
    assert not hasattr(other, "group_effects_")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("group_of_row", lambda A: A + 1),
        ("group_of_row", lambda A: A[1:]),
        ("group_of_row", lambda A: A.astype(float)),
        ("group_of_row", None),
        ("group_effects_shape", lambda A: -A),
        ("group_effects_rate", lambda A: A[:, 1:]),
        ("group_names", lambda A: A[1:]),
        ("group_names", None),
    ],
)
def test_a_file_whose_parts_do_not_belong_together_is_damaged(fitted, tmp_path, name, change):
    path = tmp_path / "model.npz"
    fitted.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="is not a valid fastpmf model file"):
        load_model(path)


def test_rates_of_other_functions_are_those_of_the_groups(drawn, fitted, tmp_path):
    W = fitted.W_posterior_.mean
    factors = fitted.rate_factors(W, groups=drawn.labels)
    rate = (W @ fitted.components_) * fitted.group_effects_[drawn.group]
    np.testing.assert_allclose(factors[0] @ factors[1], rate, rtol=1e-12)
    for call in (lambda: fastpmf.kl_divergence(drawn.X, W, fitted), lambda: fitted.recommend(drawn.X)):
        with pytest.raises(ValueError, match="must not be a model with groups"):
            call()
    changes = fitted.differential_expression(drawn.X, W, groups=drawn.labels)
    assert np.isfinite(changes.log2_fold_change).all()
    text = fitted.report(tmp_path / "report.html", drawn.X, groups=drawn.labels).read_text()
    assert "Calibration" in text
    assert "groups" in str(fitted.summary())


def test_intervals_of_effects_hold_about_as_often_as_they_say_where_W_and_H_are_known_well():
    drawn = Drawn(n=600, p=60, k=2, size=2000, spread=0.5, seed=5)
    model = HPF(2, random_state=0, max_iter=200).fit(drawn.X, groups=drawn.labels)
    effects = model.group_effects_posterior_
    # the scale of each feature is that of H: compare ratios of two groups
    ratio = effects.mean[0] / effects.mean[1]
    spread = np.sqrt(1 / effects.shape[0] + 1 / effects.shape[1])
    z = (np.log(ratio) - np.log(drawn.effects[0] / drawn.effects[1])) / spread
    rare = drawn.X.sum(axis=0) < 100
    inside = (np.abs(z[~rare]) < 1.645).mean()
    assert 0.8 < inside <= 1  # 90 % of about 60, and W's errors are left out


# ── AnnData and the command line ────────────────────────────────────────────────────────────────────────────────────


def test_batches_of_anndata_are_fitted_stored_and_used_for_new_cells(drawn):
    anndata, pd = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    fa = pytest.importorskip("fastpmf.anndata")
    obs = pd.DataFrame({"batch": pd.Categorical(drawn.labels)}, [f"c{i}" for i in range(80)])
    adata = anndata.AnnData(drawn.X, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(30)]))
    model = fa.hpf(adata, 2, batch_key="batch", random_state=0, max_iter=50, prior_groups=5.0)
    np.testing.assert_array_equal(adata.varm["HPF_batch_effects"], model.group_effects_.T)
    assert list(adata.uns["hpf"]["batches"]) == ["a", "b", "c"]
    W = fa.transform(adata, model, batch_key="batch")
    named = Dataset(drawn.X, column_names=adata.var_names)
    np.testing.assert_array_equal(W, model.transform(named, groups=drawn.labels))
    fewer = adata[:, ::-3].copy()
    with pytest.warns(UserWarning, match="lacks .* of the 30 fitted genes"):
        assert np.isfinite(fa.transform(fewer, model, batch_key="batch")).all()
    adata.obs["batch"] = "new"
    assert np.isfinite(fa.transform(adata, model, batch_key="batch", new_batches="estimate")).all()


def test_the_command_line_fits_transforms_and_scores_with_groups(drawn, tmp_path, capsys):
    sparse.save_npz(tmp_path / "X.npz", sparse.csr_matrix(drawn.X))
    (tmp_path / "groups.txt").write_text("\n".join(drawn.labels) + "\n")
    X, groups, model, W = (str(tmp_path / name) for name in ("X.npz", "groups.txt", "model.npz", "W.npy"))

    def run(*arguments):
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    run("fit", X, "-k", "2", "--model", "hpf", "--groups", groups, "-o", model, "--quiet")
    fitted = load_model(model)
    assert fitted.group_names_.tolist() == ["a", "b", "c"]
    run("transform", model, X, "--groups", groups, "-o", W)
    np.testing.assert_array_equal(np.load(W), fitted.transform(drawn.X, groups=drawn.labels))
    score = json.loads(run("evaluate", model, X, "--groups", groups, "--json"))["log_likelihood"]
    assert score == pytest.approx(fitted.score(drawn.X, groups=drawn.labels), rel=1e-6)
    assert json.loads(run("differential", model, X, "--groups", groups, "-n", "1", "--json"))
