"""Counts split in two, and early stopping by the likelihood of held-out counts."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from fastpmf import HPF, PoissonNMF, Status, as_counts, poisson_nmf, split_entries, thin_counts
from fastpmf.core.counts import Side
from fastpmf.counts import COUNT_DTYPES, Dataset
from fastpmf.counts.masked import hide_entries
from fastpmf.fitting.early_stopping import EarlyStopping
from fastpmf.fitting.options import FitData

# Standard errors: a normal number is farther from its mean once in a million times
SURELY = 4.9


def some_counts(shape=(30, 20), mean=3.0, seed=0):
    """Poisson counts of three components, many in every row and column; float64, since each dtype compiles kernels."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, size=(shape[0], 3)) @ rng.gamma(0.5, size=(3, shape[1])) + 0.3
    return rng.poisson(rate * mean / rate.mean()).astype(float)


# ── splits ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [dtype.name for dtype in COUNT_DTYPES])
def test_the_parts_sum_to_the_counts_and_keep_their_dtype(dtype, unchanged):
    X = unchanged(sparse.csr_array(some_counts(), dtype=dtype))
    train, test = thin_counts(X, 0.3, random_state=0)
    for part in (train, test):
        assert part.dtype == np.dtype(dtype)
        assert part.shape == X.shape
        assert (part.side(Side.ROWS).data > 0).all()  # zeros are not stored
        assert part.side(Side.ROWS).indptr[-1] == part.nnz
    assert (train.to_scipy().astype(int) + test.to_scipy().astype(int) - X.astype(int)).count_nonzero() == 0


def test_equal_seeds_split_alike_and_others_do_not():
    X = some_counts()
    first, again, other, drawn = (
        thin_counts(X, 0.5, random_state=seed)[0].to_scipy().toarray()
        for seed in (7, np.random.RandomState(7), 8, np.random.default_rng(7))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, drawn)


def test_the_parts_of_poisson_counts_are_poisson_and_uncorrelated():
    n, mean, fraction = 40_000, 3.0, 0.3
    X = np.random.default_rng(1).poisson(mean, (200, 200))
    parts = [part.to_scipy().toarray().ravel() for part in thin_counts(X, fraction, random_state=2)]
    for part, share in zip(parts, (1 - fraction, fraction), strict=True):
        mu = share * mean
        assert abs(part.mean() - mu) < SURELY * math.sqrt(mu / n)
        # of a Poisson sample's variance: mu + 2 mu^2 over n
        assert abs(part.var() - mu) < SURELY * math.sqrt((mu + 2 * mu**2) / n)
    # of uncorrelated parts; the whole and a part are correlated by sqrt(0.3)
    assert abs(np.corrcoef(*parts)[0, 1]) < SURELY / math.sqrt(n)
    assert np.corrcoef(parts[0] + parts[1], parts[1])[0, 1] > 0.5


def test_both_parts_have_the_unobserved_entries():
    X, mask = some_counts(), np.random.default_rng(3).random((30, 20)) < 0.2
    counts = hide_entries(as_counts(X), mask)
    for part in thin_counts(counts, 0.5, random_state=0):
        hidden = part.unobserved
        found = sparse.csr_array((hidden.data, hidden.indices, hidden.indptr), mask.shape).toarray()
        assert np.array_equal(found > 0, mask)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, math.nan, math.inf, True, "half", None, 1j])
def test_invalid_fractions_are_refused(fraction):
    with pytest.raises(ValueError, match="fraction must be a number between 0 and 1"):
        thin_counts([[3]], fraction)


def test_counts_of_63_bits_are_thinned():
    x = np.nextafter(2.0**63, 0)
    first, second = thin_counts([[x, 1.0]], 0.25, random_state=0)
    assert first.total + second.total == pytest.approx(x, rel=1e-15)
    assert second.total == pytest.approx(x / 4, rel=1e-8)


@pytest.mark.parametrize("x", [0.5, 1e-9, 2.5, 2.0**63, 1e300])
def test_counts_that_cannot_be_split_one_by_one_are_refused(x):
    with pytest.raises(ValueError, match=r"X must hold whole counts below 2\^63"):
        thin_counts([[x, 1.0]], 0.5)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="X"):
        thin_counts([[-1]], 0.5)


@pytest.mark.parametrize("X", [some_counts(), sparse.csc_array(some_counts() / 3)])
def test_entries_go_to_one_part_whole(X, unchanged):
    train, test = (part.to_scipy().toarray() for part in split_entries(unchanged(X), 0.3, random_state=0))
    X = X if isinstance(X, np.ndarray) else X.toarray()
    assert np.array_equal(train + test, X)
    assert not (train * test).any()
    n = np.count_nonzero(X)
    assert abs(np.count_nonzero(test) - 0.3 * n) < SURELY * math.sqrt(n * 0.3 * 0.7)


@pytest.mark.parametrize("split", [thin_counts, split_entries])
def test_the_parts_have_the_names_of_X(split):
    X, rows, columns = some_counts(), [f"r{i}" for i in range(30)], [f"c{j}" for j in range(20)]
    first, second = split(X, 0.3, random_state=0)
    for named in (Dataset(X, rows, columns), pd.DataFrame(X, rows, columns)):
        for part, expected in zip(split(named, 0.3, random_state=0), (first, second), strict=True):
            assert isinstance(part, Dataset)
            assert (part.row_names.tolist(), part.column_names.tolist()) == (rows, columns)
            assert (expected.to_scipy() != part.X).nnz == 0


def test_a_default_index_is_no_name():
    train, _ = split_entries(pd.DataFrame(some_counts()), 0.3, random_state=0)
    assert not isinstance(train, Dataset)


@pytest.mark.parametrize("split", [thin_counts, split_entries])
def test_named_counts_with_unobserved_entries_keep_them(split):
    X, mask = some_counts(), np.random.default_rng(3).random((30, 20)) < 0.2
    for part in split(Dataset(hide_entries(as_counts(X), mask), None, [f"c{j}" for j in range(20)]), 0.5):
        assert as_counts(part).unobserved is not None


# ── validation ──────────────────────────────────────────────────────────────────────────────────────────────────


def per_count(X, mu, entries=...):
    """Poisson log-likelihood of dense counts per count."""
    return stats.poisson.logpmf(X, mu)[entries].sum() / X[entries].sum()


def watched(make, X, **given):
    """A fit with validation: its curve, and W and H at each record, as a callback saw them."""
    seen = []
    model = make(
        k=3, tol=0, max_iter=8, eval_every=2, random_state=0,
        callback=lambda record, W, H: seen.append((record.n_iter, W.copy(), H.copy())),
    )  # fmt: skip
    curve = model.fit(X, **given).validation_
    assert list(curve["n_iter"]) == [n for n, *_ in seen]
    return curve["log_likelihood"], [W @ H for _, W, H in seen]


MODELS = {
    "nmf": lambda k, **options: PoissonNMF(k, solver="mu", **options),  # has no exact zeros
    "hpf": lambda k, **options: HPF(k, **options),
}
models = pytest.mark.parametrize("name", MODELS)


def assert_scores(curve, expected):
    np.testing.assert_allclose(curve, expected, rtol=1e-11)  # sums of a thousand terms, in another order


@models
@pytest.mark.parametrize("masked", [False, True], ids=["all_observed", "masked"])
def test_held_out_fractions_are_scored_with_their_share_as_exposure(name, masked):
    X, f = some_counts(), 0.25
    mask = np.random.default_rng(3).random(X.shape) < 0.2 if masked else None
    entries = ~mask if masked else ...
    curve, rates = watched(MODELS[name], X, validation=f, mask=mask)
    test = thin_counts(X * ~mask if masked else X, f, random_state=0)[1].to_scipy().toarray()
    # W of PoissonNMF belongs to all counts from the start, that of HPF is rescaled at the end
    assert_scores(curve, [per_count(test, (f if name == "nmf" else f / (1 - f)) * mu, entries) for mu in rates])


@models
@pytest.mark.parametrize("masked", [False, True], ids=["all_observed", "masked"])
def test_held_out_matrices_are_scored_with_their_total_as_exposure_or_on_the_mask(name, masked, unchanged):
    X, heldout = some_counts(), some_counts(mean=0.6, seed=0)
    mask = np.random.default_rng(3).random(X.shape) < 0.2 if masked else None
    unchanged(heldout)
    curve, rates = watched(MODELS[name], X, validation=sparse.csc_array(heldout), mask=mask)
    exposure = 1.0 if masked else heldout.sum() / X.sum()
    assert_scores(curve, [per_count(heldout, exposure * mu, mask if masked else ...) for mu in rates])


def test_exposures_apply_to_the_held_out_counts_too():
    X, r, f = some_counts(), np.random.default_rng(5).uniform(0.5, 2, 30), 0.25
    curve, rates = watched(MODELS["nmf"], X, validation=f, row_exposure=r)
    test = thin_counts(X, f, random_state=0)[1].to_scipy().toarray()
    assert_scores(curve, [per_count(test, f * r[:, None] * mu) for mu in rates])


def test_a_fit_of_a_part_of_the_counts_is_in_the_units_of_all():
    X, f = some_counts(), 0.25
    train = thin_counts(X, f, random_state=0)[0].to_scipy().toarray()
    model = PoissonNMF(3, solver="mu", tol=0, max_iter=10, eval_every=100, random_state=0)
    W = model.fit_transform(X, validation=f)
    # after an update of H, columns of the rates sum to those of the counts
    np.testing.assert_allclose((1 - f) * (W @ model.components_).sum(axis=0), train.sum(axis=0), rtol=1e-12)
    bayes = HPF(3, tol=0, max_iter=10, eval_every=100, random_state=0).fit(X, validation=f)
    total = X.sum()
    # The total of the part is binomial; the priors of the posterior weigh as much as a few hundred counts
    assert (W @ model.components_).sum() == pytest.approx(total, abs=SURELY * math.sqrt(total * f / (1 - f)))
    assert (bayes.W_posterior_.mean @ bayes.components_).sum() == pytest.approx(total, rel=0.15)
    expected = bayes.W_posterior_.mean[3] @ bayes.components_[:, 4]
    assert bayes.predictive_mean([3], [4])[0] == pytest.approx(expected)


@pytest.mark.parametrize("solver", ["cd", "mu"])
def test_a_fit_that_overfits_is_stopped_soon_after_its_best(solver, tmp_path):
    model = PoissonNMF(8, solver=solver, tol=0, max_iter=500, eval_every=2, random_state=0)
    curve = model.fit(some_counts(), validation=0.3).validation_
    assert model.status_ is Status.VALIDATION
    best = int(np.argmax(curve["log_likelihood"]))
    assert 0 < best == len(curve) - 3
    assert model.n_iter_ == curve["n_iter"][-1] < 100
    assert list(curve["n_iter"]) == list(range(0, model.n_iter_ + 1, 2))
    assert np.isfinite(curve["log_likelihood"]).all()
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(PoissonNMF.load(tmp_path / "model.npz").validation_, curve)


def test_a_fit_without_validation_has_no_curve_and_one_that_goes_on_improving_is_not_stopped():
    X = some_counts(mean=30.0)
    assert HPF(3, tol=0, max_iter=3, random_state=0).fit(X).validation_ is None
    model = HPF(3, tol=0, max_iter=20, eval_every=5, random_state=0).fit(X, validation=np.float64(0.2))
    assert model.status_ is Status.MAX_ITER
    assert (np.diff(model.validation_["log_likelihood"]) > 0).all()


def test_rows_and_columns_without_fitted_counts_are_not_scored():
    X, unseen = some_counts(), np.zeros((30, 20), bool)
    unseen[3], unseen[:, 5] = True, True
    X *= ~unseen
    heldout, weight = some_counts(seed=9), np.ones(30)
    weight[7] = 0
    rng = np.random.default_rng(2)
    W, H = rng.gamma(1.0, size=(30, 3)), rng.gamma(1.0, size=(3, 20))
    W[3], W[7], H[:, 5] = 0, 0, 0  # as a fit has them
    scored = ~unseen
    scored[7] = False
    mu = heldout[weight > 0].sum() / X[weight > 0].sum() * (W @ H)
    found = EarlyStopping(as_counts(X), FitData(validation=heldout, sample_weight=weight), None).score(W, H)
    assert found == pytest.approx(per_count(heldout, mu, scored), rel=1e-6)  # zeros count as 1e-8
    curve, _ = watched(MODELS["nmf"], X, validation=heldout)
    assert np.isfinite(curve).all()
    with pytest.raises(ValueError, match="validation must leave counts both to fit and to hold out"):
        PoissonNMF(3).fit(X, validation=heldout * unseen)


def test_a_zero_in_a_factor_does_not_make_a_held_out_count_impossible():
    X = np.kron(np.eye(3), np.full((4, 4), 5.0))
    W, H = (
        np.kron(np.eye(3), np.ones((4, 1))),
        np.kron(np.eye(3), np.full((1, 4), 5.0)),
    )  # maximum likelihood
    heldout = X.copy()
    heldout[0, 11] = 1  # in no block
    some = np.ones(X.shape, bool)
    some[0, 11] = False
    exposure = heldout.sum() / X.sum()
    score = EarlyStopping(as_counts(X), FitData(validation=heldout), None).score(W, H)
    # Two components contribute to the rate, each an entry times 1e-8 of the mean of the other factor, which is 1/3
    rare = math.log(exposure * 2 * 5e-8 / 3)
    expected = (stats.poisson.logpmf(heldout, exposure * (W @ H))[some].sum() + rare) / heldout.sum()
    assert score == pytest.approx(expected, rel=1e-6)


@models
def test_the_callback_can_stop_the_fit_too(name):
    model = MODELS[name](3, tol=0, eval_every=2, random_state=0, callback=lambda record, *_: record.n_iter == 2)
    assert model.fit(some_counts(), validation=0.3).status_ is Status.CALLBACK
    assert list(model.validation_["n_iter"]) == [0, 2]


def test_the_function_has_the_curve_too():
    solution = poisson_nmf(some_counts(), 8, tol=0, eval_every=2, validation=0.3, random_state=0)
    assert solution.status is Status.VALIDATION
    assert solution.validation.dtype.names == ("n_iter", "log_likelihood")


@models
@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (0, "validation must be a fraction between 0 and 1, or counts, got 0"),
        (1.0, "validation must be a fraction"),
        (np.float32(1.5), "validation must be a fraction"),
        (math.nan, "validation must be a fraction"),
        (True, "validation must be a fraction"),
        ("half", "validation must be a fraction"),
        (np.ones((30, 19)), r"validation must have the shape of X, \(30, 20\), got \(30, 19\)"),
        (-np.ones((30, 20)), "validation"),
        (np.zeros((30, 20)), "validation must leave counts both to fit and to hold out"),
        (1e-9, "validation must leave counts both to fit and to hold out"),
        (1 - 1e-9, "validation must leave counts both to fit and to hold out"),
    ],
)
def test_invalid_validation_is_named(name, validation, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MODELS[name](2, random_state=0).fit(some_counts(), validation=validation)


@models
def test_validation_of_other_entries_than_the_masks_several_starts_and_fractional_counts_are_refused(name):
    X = some_counts()
    with pytest.raises(ValueError, match="n_init must be 1 with validation, got 2"):
        MODELS[name](2, n_init=2).fit(X, validation=0.2)
    with pytest.raises(ValueError, match="X must hold whole counts"):
        MODELS[name](2).fit(X * 0.3, validation=0.2)
    mask = np.eye(30, 20, dtype=bool)
    with pytest.raises(ValueError, match="validation must leave counts both to fit and to hold out"):
        MODELS[name](2).fit(X, mask=mask, validation=X * ~mask)
