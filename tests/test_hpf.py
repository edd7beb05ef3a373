"""`HPF` as a scikit-learn estimator."""

import math
import pickle

import naive_hpf
import numpy as np
import pandas as pd
import pytest
from conftest import MENAGERIE
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastpmf import HPF, FitInterrupted, GammaPosterior, Status, as_counts, thin_counts
from fastpmf.counts import MemoryCounts
from fastpmf.io import Dataset
from fastpmf.model import hierarchy

hierarchical = pytest.mark.parametrize("hierarchical", [True, False], ids=["hierarchy", "plain"])
PARAMETERS = ("a", "a_prime", "b_prime", "c", "c_prime", "d_prime")


@pytest.fixture(scope="module")
def counts():
    """float64, like the menagerie below: kernels are compiled for each dtype."""
    rng = np.random.default_rng(1)
    return sparse.csr_array(rng.poisson(rng.gamma(0.5, 2, (40, 3)) @ rng.gamma(0.3, 1, (3, 25))) + np.eye(40, 25))


@pytest.fixture(scope="module")
def fitted(counts):
    """A converged model."""
    return HPF(3, tol=1e-7, max_iter=5000, random_state=0).fit(counts)


def quick(k=3, **options):
    """A model that does exactly twenty iterations."""
    return HPF(k, **{"max_iter": 20, "tol": 0, "random_state": 0} | options)


def bits(model):
    parts = model.W_posterior_, model.H_posterior_, model.activity_, model.popularity_
    return [A.tobytes() for part in parts if part is not None for A in (part.shape, part.rate)]


def some_mask(shape):
    """A fifth of the entries, and a whole row and column."""
    mask = np.random.default_rng(4).random(shape) < 0.2
    mask[3], mask[:, 2] = True, True
    return mask


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([HPF(2, hierarchy=False, tol=1e-5, max_iter=1000, random_state=0)])  # converge soonest
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@hierarchical
def test_every_attribute_exists_and_is_finite(counts, hierarchical):
    model = quick(hierarchy=hierarchical).fit(counts)
    for posterior, shape in (
        (model.W_posterior_, (40, 3)), (model.H_posterior_, (3, 25)), (model.activity_, (40,)),
        (model.popularity_, (25,)),
    ):  # fmt: skip
        if len(shape) == 1 and not hierarchical:
            assert posterior is None
            continue
        for A in (posterior.shape, posterior.rate, posterior.mean, posterior.geometric_mean, posterior.variance):
            assert A.shape == shape
            assert np.isfinite(A).all()
            assert (A > 0).all()
    assert np.array_equal(model.components_, model.H_posterior_.mean)
    assert model.prior_ == dict(zip(PARAMETERS, (0.3, 0.3, 1.0, 0.3, 0.3, 1.0), strict=True))
    assert model.elbo_ == -model.objective_ == -model.trace_["objective"][-1]
    assert (model.n_iter_, model.n_features_in_, model.status_) == (20, 25, Status.MAX_ITER)
    assert list(model.trace_["n_iter"]) == [0, 10, 20]
    assert 0 < model.residual_ < 1
    assert model.restarts_.shape == (1,)
    assert model.validation_ is None
    assert list(model.get_feature_names_out()) == ["hpf0", "hpf1", "hpf2"]


def test_the_elbo_is_that_of_the_posteriors(counts):
    model = quick().fit(counts)
    parts = (model.W_posterior_, model.activity_), (model.H_posterior_.transposed(), model.popularity_)
    factors = [(q.shape, q.rate, xi.shape[0], xi.rate) for q, xi in parts]
    bound, size = naive_hpf.evidence_bound(counts.toarray(), factors, [(0.3, 0.3, 1.0, True)] * 2)
    assert model.elbo_ == pytest.approx(bound, abs=2e-14 * size)


def test_learned_hyperparameters_have_a_higher_bound(counts, fitted):
    learned = HPF(3, learn_prior=True, tol=1e-5, max_iter=5000, random_state=0).fit(counts)
    assert learned.elbo_ > fitted.elbo_ + 1
    assert (np.diff(learned.trace_["objective"]) <= 1e-12 * abs(learned.elbo_)).all()
    assert all(np.isfinite(value).all() and np.all(value > 0) for value in learned.prior_.values())
    assert learned.prior_["a"].shape == learned.prior_["c"].shape == (3,)
    given = HPF(3, **learned.prior_, tol=1e-5, max_iter=5000, random_state=0).fit(counts)
    np.testing.assert_equal(given.prior_, learned.prior_)


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e12, 1e20])
@pytest.mark.parametrize("hierarchy", [True, False])
def test_hyperparameters_are_learned_from_very_small_and_large_counts(counts, scale, hierarchy):
    learned = HPF(3, learn_prior=True, hierarchy=hierarchy, max_iter=30, tol=0, random_state=0).fit(counts * scale)
    assert all(np.isfinite(value).all() and np.all(value > 0) for value in learned.prior_.values())
    assert np.isfinite(learned.components_).all()


def test_with_learned_hyperparameters_too_many_components_are_emptied_and_predict_nearly_as_well():
    # 30 counts a row over 800 columns, most of them rare; the two components are hardly worth their numbers
    rng = np.random.default_rng(0)
    H = rng.lognormal(0, 2, 800) * rng.gamma(3, size=(2, 800))
    W = rng.dirichlet([0.5, 0.5], 300) * 30 * rng.gamma(3, 1 / 3, (300, 1))
    train, test = thin_counts(rng.poisson(W @ (H / H.sum(axis=1, keepdims=True))), 0.2, random_state=0)
    options = {"tol": 3e-3, "random_state": 0}
    one, learned, small, plain = (
        HPF(k, **options, **given).fit(train)
        for k, given in (
            (1, {"learn_prior": True}), (12, {"learn_prior": True}), (12, {"learn_prior": True, "a": 0.3, "c": 0.3}),
            (12, {}),
        )
    )  # fmt: skip
    score = [model.predictive_log_likelihood(test, exposure=0.25) for model in (one, learned, small, plain)]
    # 0.003 below at convergence; 0.06 from small shapes, and 0.16 with fixed ones, since random components keep noise
    assert score[1] > score[0] - 0.02
    assert score[1] > score[2] + 0.03
    assert score[1] > score[3] + 0.1
    assert learned.elbo_ > max(small.elbo_, plain.elbo_)
    weight = learned.W_posterior_.mean.sum(axis=0) * learned.components_.sum(axis=1)
    assert (weight > 0.01 * weight.sum()).sum() <= 3


def test_a_shape_for_each_component_is_used_saved_and_resumed(counts, tmp_path):
    a, c = [0.1, 0.5, 2.0], np.array([0.4, 0.2, 0.3])
    model = quick(a=a, c=c).fit(counts)
    np.testing.assert_equal(model.prior_["a"], np.array(a))
    allotted = model.W_posterior_.shape - a
    np.testing.assert_allclose(allotted.sum(axis=1), counts.sum(axis=1), rtol=1e-9)
    model.save(tmp_path / "model.npz")
    loaded = HPF.load(tmp_path / "model.npz")
    np.testing.assert_equal(loaded.prior_, model.prior_)
    assert np.array_equal(loaded.transform(counts), model.transform(counts))
    assert bits(quick(a=[0.3] * 3, c=[0.3] * 3).fit(counts)) == bits(quick().fit(counts))


def test_a_posterior_is_scipys_gamma_distribution_and_its_intervals_have_their_mass(fitted):
    posterior = fitted.W_posterior_
    exact = stats.gamma(posterior.shape, scale=1 / posterior.rate)
    np.testing.assert_allclose(posterior.mean, exact.mean(), rtol=1e-14)
    np.testing.assert_allclose(posterior.variance, exact.var(), rtol=1e-14)
    assert (posterior.geometric_mean < posterior.mean).all()
    draws = posterior.sample((4000, *posterior.shape.shape), random_state=0)
    # E log u: the standard error is sqrt(trigamma / 4000), and five of them are exceeded by one in 10^6
    error = 5 * np.sqrt(np.array([[stats.loggamma.var(s) for s in row] for row in posterior.shape]) / 4000)
    logs = np.log(np.maximum(draws, np.finfo(float).tiny))
    typical = posterior.shape > 0.5  # others are drawn as 0 now and then
    assert (np.abs(np.log(posterior.geometric_mean) - logs.mean(axis=0)) < error)[typical].all()
    for level in (0.5, 0.9):
        low, high = posterior.interval(level)
        inside = ((draws >= low) & (draws <= high)).mean()
        assert inside == pytest.approx(level, abs=5 * math.sqrt(level * (1 - level) / draws.size))
        np.testing.assert_allclose(exact.cdf(high) - exact.cdf(low), level, rtol=1e-9)
    assert posterior.sample(random_state=np.random.RandomState(0)).shape == (40, 3)
    with pytest.raises(ValueError, match="level must be a number between 0 and 1, got 1"):
        posterior.interval(1)


def test_predictions_are_the_means_of_what_is_sampled(fitted):
    rows, columns = np.array([[0, 3, 39], [7, 7, 7]]), np.array([[0, 24, 5], [1, 2, 3]])
    mean = fitted.predictive_mean(rows, columns)
    np.testing.assert_allclose(mean, (fitted.W_posterior_.mean @ fitted.components_)[rows, columns], rtol=1e-13)
    draws = fitted.predictive_sample(rows, columns, 4000, random_state=0)
    assert draws.shape == (4000, 2, 3)
    assert draws.dtype == np.int64
    assert np.array_equal(draws, fitted.predictive_sample(rows, columns, 4000, random_state=0))
    error = draws.std(axis=0) / math.sqrt(4000)
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * error + 5 / 4000).all()
    assert (draws.var(axis=0) > 0.9 * mean).all()  # variance of the Poisson distribution and of the rate
    with pytest.raises(ValueError, match=r"must have shapes that can be broadcast, got \(2,\) and \(3,\)"):
        fitted.predictive_mean([0, 1], [0, 1, 2])
    np.testing.assert_array_equal(fitted.predictive_mean(3, [4, 5]), fitted.predictive_mean([3, 3], [4, 5]))
    assert fitted.predictive_mean(3, 4).shape == ()


@pytest.mark.parametrize(
    ("rows", "columns", "sentence"),
    [
        ([0, -1], [0, 1], r"rows must lie in 0 \.\.\. 39, got -1 to 0"),
        ([0, 1], [3, -1], r"columns must lie in 0 \.\.\. 24, got -1 to 3"),
        ([0, 40], [0, 1], r"rows must lie in 0 \.\.\. 39, got 0 to 40"),
        ([True, False], [0, 1], "rows must hold integers or names, got dtype bool"),
        ([0.0], [0], "rows must hold integers or names, got dtype float64"),
    ],
)
def test_predictions_for_invalid_rows_or_columns_are_refused(fitted, rows, columns, sentence):
    for predict in (fitted.predictive_mean, fitted.predictive_sample):
        with pytest.raises((TypeError, ValueError), match=sentence):
            predict(rows, columns)


def test_predictions_take_the_names_of_features():
    X = Dataset(np.eye(3, dtype=int) + 1, column_names=np.array(["a", "b", "c"]))
    model = HPF(1, max_iter=5, tol=1, random_state=0).fit(X)
    np.testing.assert_array_equal(model.predictive_mean([0, 2], ["c", "a"]), model.predictive_mean([0, 2], [2, 0]))


def test_log_likelihoods_are_scipys_at_the_posterior_means(counts, fitted):
    X = counts.toarray()
    other = np.random.default_rng(3).poisson(0.5, X.shape)
    mu = fitted.W_posterior_.mean @ fitted.components_
    expected = stats.poisson.logpmf(other, 0.25 * mu).sum() / other.sum()
    assert fitted.predictive_log_likelihood(other, exposure=0.25) == pytest.approx(expected, rel=1e-12)
    mask = some_mask(X.shape)
    mu = fitted.transform(X, mask=mask) @ fitted.components_
    expected = stats.poisson.logpmf(X, mu)[~mask].sum() / X[~mask].sum()
    assert fitted.score(X, mask=mask) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="X must have the 40 fitted rows, got 2"):
        fitted.predictive_log_likelihood(X[:2])
    with pytest.raises(ValueError, match="exposure"):
        fitted.predictive_log_likelihood(X, exposure=-1)
    with pytest.raises(ValueError, match=r"X must hold a positive count, .* to be scored"):
        fitted.score(0 * X)


def test_fitted_rows_transform_to_their_posteriors(counts, fitted):
    again = fitted.posterior(counts)
    # Both updates moved 1e-7 of the counts at the end; a fixed point is approached geometrically
    np.testing.assert_allclose(again.shape, fitted.W_posterior_.shape, rtol=1e-3)
    np.testing.assert_allclose(fitted.transform(counts), fitted.W_posterior_.mean, rtol=1e-2)


@pytest.mark.parametrize("masked", [False, True], ids=["all_observed", "masked"])
def test_the_posterior_of_a_row_does_not_depend_on_the_other_rows(counts, fitted, masked):
    quick = pickle.loads(pickle.dumps(fitted)).set_params(tol=1e-2)  # rows stop after different numbers of updates
    mask = some_mask(counts.shape) if masked else None
    together = quick.posterior(counts, mask=mask)
    for i in (0, 3, 17, 39):
        alone = quick.posterior(counts[[i]], mask=None if mask is None else mask[[i]])
        assert np.array_equal(alone.shape[0], together.shape[i])
        assert np.array_equal(alone.rate[0], together.rate[i])


def test_one_component_is_updated_until_its_scale_converges(counts):
    # All counts are allotted to it from the first update on, but the relative scale of its factors changes
    model = HPF(1, hierarchy=False, b_prime=1e-3, d_prime=1e3, tol=1e-6, max_iter=5000, random_state=0)
    model.fit([[5, 3], [2, 4]])
    longer = HPF(1, hierarchy=False, b_prime=1e-3, d_prime=1e3, tol=0, max_iter=500, random_state=0)
    assert model.n_iter_ > 5
    assert model.elbo_ == pytest.approx(longer.fit([[5, 3], [2, 4]]).elbo_, abs=1e-3)


def test_a_transform_that_does_not_converge_warns(counts, fitted):
    impatient = pickle.loads(pickle.dumps(fitted)).set_params(max_iter=1, tol=1e-12)
    with pytest.warns(ConvergenceWarning, match="tol=1e-12 of their counts after max_iter=1 updates"):
        impatient.transform(counts)


def test_it_can_be_cloned_pickled_and_set(counts, fitted):
    assert clone(fitted).get_params() == fitted.get_params()
    assert set(PARAMETERS) < set(fitted.get_params())
    copy = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(copy.transform(counts), fitted.transform(counts))
    assert bits(copy) == bits(fitted)
    # the fitted attributes stay
    assert np.array_equal(copy.set_params(n_components=5).transform(counts), fitted.transform(counts))


def test_names_are_checked_once(counts):
    frame = pd.DataFrame(counts.toarray(), columns=[f"gene{j}" for j in range(25)])
    model = HPF(3, tol=1e-2, random_state=0).fit(frame)
    assert list(model.feature_names_in_[:2]) == ["gene0", "gene1"]
    assert np.isfinite([model.score(frame), model.predictive_log_likelihood(frame)]).all()
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame.rename(columns={"gene0": "other"}))


FORMS = {
    "csc": sparse.csc_array, "coo": sparse.coo_array, "dense": lambda X: X.toarray(),
    "uint8": lambda X: X.astype(np.uint8), "triple": lambda X: (X.data, X.indices, X.indptr),
    "read_once": as_counts,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_bits_of_csr_and_is_not_written_to(form, counts, unchanged):
    given = FORMS[form](counts.copy())
    if form == "triple":
        unchanged(*given)
    elif form != "read_once":
        unchanged(given)
    assert bits(quick(dtype=np.float64).fit(given)) == bits(quick().fit(counts))


@hierarchical
def test_one_and_two_threads_give_the_same_bits(hierarchical):
    for name in ("giant_row", "planted"):
        fits = [quick(hierarchy=hierarchical, n_threads=n).fit(MENAGERIE[name].astype(float)) for n in (1, 2)]
        assert bits(fits[0]) == bits(fits[1])
        assert fits[0].elbo_ == fits[1].elbo_


def test_an_empty_mask_is_no_mask_and_masked_counts_do_not_matter(counts, unchanged):
    mask = some_mask(counts.shape)
    plain = quick().fit(counts)
    assert bits(quick().fit(counts, mask=np.zeros(counts.shape, bool))) == bits(plain)
    unchanged(mask)
    masked, other = counts.toarray(), counts.toarray()
    other[mask] = 77
    fits = [quick().fit(X, mask=mask) for X in (masked, other, masked * ~mask)]
    assert bits(fits[0]) == bits(fits[1]) == bits(fits[2]) != bits(plain)
    # A row without observed entries has its prior: shape a, and no part of the rate from H
    assert (fits[0].W_posterior_.shape[3] == 0.3).all()
    np.testing.assert_allclose(fits[0].W_posterior_.rate[3], fits[0].W_posterior_.rate[3, 0], rtol=1e-14)


@hierarchical
def test_awkward_matrices_give_finite_posteriors(X, hierarchical):
    for k in (1, 3):
        model = quick(k, hierarchy=hierarchical).fit(X.astype(float))
        for A in (model.W_posterior_.mean, model.components_, model.W_posterior_.geometric_mean):
            assert np.isfinite(A).all()
        assert (model.W_posterior_.mean > 0).all()
        assert (model.components_ > 0).all()
        assert np.isfinite(model.elbo_)
        # all counts are allotted: the shapes sum to the counts plus the prior shapes
        allotted = model.W_posterior_.shape - 0.3
        np.testing.assert_allclose(allotted.sum(axis=1), X.sum(axis=1), rtol=1e-9, atol=1e-12 * max(1, X.sum()))


@pytest.mark.parametrize(
    "extreme", [{"a": 1e-3, "c": 1e-3}, {"a": 1e-30}, {"b_prime": 1e30, "hierarchy": False}, {"c": 1e30}]
)
def test_extreme_priors_give_finite_posteriors_also_in_float32(counts, extreme):
    for scale in (1, 1e-12, 1e12):
        model = quick(**extreme).fit((counts * scale).astype(np.float32))
        assert model.components_.dtype == np.float32
        assert np.isfinite(model.components_).all()
        assert np.isfinite(model.W_posterior_.mean).all()
        assert np.isfinite(model.elbo_)


BAD = {
    "n_components": ({"n_components": 0}, "n_components"),
    "n_components past memory": ({"n_components": 10**12}, "n_components.*GiB"),
    "hierarchy": ({"hierarchy": 1}, "hierarchy must be True or False, got 1"),
    "learn_prior": ({"learn_prior": "yes"}, "learn_prior must be True or False, got 'yes'"),
    "init": ({"init": "zeros"}, "init must be one of"),
    "init custom": ({"init": "custom"}, "init must be one of 'auto', .* got 'custom'"),
    "n_init": ({"n_init": 0}, "n_init"),
    "max_iter": ({"max_iter": 0}, "max_iter"),
    "tol": ({"tol": math.nan}, "tol must be a number >= 0, got nan"),
    "max_time": ({"max_time": -1.0}, "max_time"),
    "eval_every": ({"eval_every": 0}, "eval_every"),
    "dtype": ({"dtype": "int8"}, "dtype must be float32, float64 or None"),
    "n_threads": ({"n_threads": 0}, "n_threads"),
    "callback": ({"callback": 3}, "callback"),
    "random_state": ({"random_state": "seed"}, "seed"),
} | {
    f"{name} {value!r}": ({name: value}, f"^{name} must be a positive number")
    for name in PARAMETERS
    for value in (0, -1.0, math.nan, math.inf, "1", True, 1j, 1e-40)
} | {
    "a of too few": ({"a": [0.3]}, r"a must be a positive number or 2, one for each component, got shape \(1,\)"),
    "c of text": ({"c": ["x", 1.0]}, "c must be a positive number"),
    "a_prime of each": ({"a_prime": [0.3, 0.3]}, "a_prime must be a positive number"),
    "b_prime None": ({"b_prime": None}, "b_prime must be a positive number"),
}  # fmt: skip


@pytest.mark.parametrize(("parameters", "message"), BAD.values(), ids=BAD)
def test_a_bad_parameter_is_named(counts, parameters, message):
    with pytest.raises((ValueError, TypeError, MemoryError), match=message):
        HPF(**{"n_components": 2, **parameters}).fit(counts)


@pytest.mark.parametrize(
    ("X", "given", "message"),
    [
        (np.zeros((3, 4)), {}, "X must hold at least one positive count"),
        (np.eye(3), {"mask": np.ones((3, 3))}, "mask must leave at least one positive count of X"),
        (np.eye(3), {"mask": np.ones((3, 4))}, "mask must have the shape of X"),
        (np.eye(3), {"mask": "none"}, "mask"),
        (np.full((2, 2), 1e300), {}, "dtype float32 can't hold counts"),
    ],
)
def test_bad_counts_and_masks_are_named(X, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        HPF(2, dtype="float32").fit(X, **given)


def test_an_unfitted_model_raises_an_error_and_a_failed_refit_changes_nothing(counts):
    for ask in (lambda m: m.transform(counts), lambda m: m.predictive_mean([0], [0]), lambda m: m.score(counts),
                lambda m: m.predictive_log_likelihood(counts)):  # fmt: skip
        with pytest.raises(NotFittedError):
            ask(HPF(2))
    model = quick().fit(counts)
    before = bits(model)
    with pytest.raises(ValueError, match="positive count"):
        model.fit(np.zeros((3, 4)))
    assert bits(model) == before
    with pytest.raises(ValueError, match="24 features, but HPF is expecting 25"):
        model.transform(counts[:, :24])


def test_a_fit_that_stops_early_warns(counts):
    with pytest.warns(ConvergenceWarning, match="Stopped at max_iter"):
        HPF(3, max_iter=2, tol=1e-9, random_state=0).fit(counts)
    with pytest.warns(ConvergenceWarning, match="Stopped at max_time"):
        model = HPF(3, max_time=0, tol=1e-9, random_state=0).fit(counts)
    assert model.n_iter_ == 1


def test_the_best_of_several_starts_is_the_result(counts):
    model = quick(n_init=4, max_iter=60).fit(counts)
    assert model.restarts_.shape == (4,)
    assert model.objective_ == pytest.approx(model.restarts_.min(), rel=1e-12)


# ── Ctrl-C ──────────────────────────────────────────────────────────────────────────────────────────────────────


def interrupt(*_):
    raise KeyboardInterrupt


def test_ctrl_c_in_a_callback_keeps_the_fit_so_far(counts):
    options = {"init": "random", "callback": lambda record, *_: record.n_iter == 10 and interrupt()}
    model = quick(max_iter=100, **options)
    with pytest.raises(FitInterrupted, match="kept"):
        model.fit(counts)
    assert (model.status_, model.n_iter_) == (Status.INTERRUPTED, 10)
    assert bits(model) == bits(quick(max_iter=10, init="random").fit(counts))


@pytest.mark.parametrize("call", range(4, 8))
def test_ctrl_c_after_a_kernel_leaves_no_incomplete_update(counts, call, monkeypatch):
    calls, kernel = iter(range(10**6)), hierarchy.update_posterior
    monkeypatch.setattr(hierarchy, "update_posterior", lambda *a: (kernel(*a), next(calls) == call and interrupt()))
    model = quick()
    with pytest.raises(FitInterrupted) as caught:
        model.fit(counts)
    np.testing.assert_allclose(model.W_posterior_.mean, caught.value.solution.W, rtol=1e-14)
    np.testing.assert_allclose(model.components_, caught.value.solution.H, rtol=1e-14)
    parts = (model.W_posterior_, model.activity_), (model.H_posterior_.transposed(), model.popularity_)
    factors = [(q.shape, q.rate, xi.shape[0], xi.rate) for q, xi in parts]
    bound, size = naive_hpf.evidence_bound(counts.toarray(), factors, [(0.3, 0.3, 1.0, True)] * 2)
    assert model.elbo_ == pytest.approx(bound, abs=2e-14 * size)


@pytest.mark.parametrize("call", [0, 1])
def test_ctrl_c_before_the_first_posterior_leaves_the_model_unchanged(counts, call, monkeypatch):
    calls, contract = iter(range(10**6)), MemoryCounts.contract
    monkeypatch.setattr(MemoryCounts, "contract", lambda *a: interrupt() if next(calls) == call else contract(*a))
    model = quick()
    with pytest.raises(KeyboardInterrupt, match="before an iteration was done"):
        model.fit(counts)
    assert not hasattr(model, "components_")


def test_a_posterior_can_be_indexed_and_transposed():
    posterior = GammaPosterior(np.arange(1.0, 7.0).reshape(3, 2), np.ones((3, 2)))
    assert np.array_equal(posterior[1:].shape, posterior.shape[1:])
    assert np.array_equal(posterior.transposed().mean, posterior.mean.T)
