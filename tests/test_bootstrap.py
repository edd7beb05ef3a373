"""Bootstrap replicates: calibrated for the counts that each kind is valid for, reproducible, and near the model."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from fastpmf import (
    HPF,
    DrawsInterrupted,
    FactorDraws,
    PoissonNMF,
    PosteriorDraws,
    StreamedCounts,
    as_counts,
    bootstrap,
)
from fastpmf.analysis import bootstrap as module
from fastpmf.io import Dataset

N, P, K, A = 300, 150, 3, 0.5


def draw(mean, dispersion=0.0):
    """Counts and factors; H has rows that sum to 1. Negative binomial if there is a dispersion."""
    rng, rate = np.random.default_rng(1), A * np.sqrt(K / mean)
    W, H = rng.gamma(A, 1 / rate, (N, K)), rng.gamma(A, 1 / rate, (K, P))
    rates = W @ H
    if dispersion:
        rates = rates * rng.gamma(1 / dispersion, dispersion, rates.shape)
    size = H.sum(axis=1)
    return rng.poisson(rates), W * size, H / size[:, None]


def coverage(model, replicates, W, H):
    """How often 90 % intervals hold the true entries of W and H, and correlations of components."""
    shares, size = replicates.feature_shares, model.components_.sum(axis=1)
    order = np.corrcoef(H, shares.mean)[:K, K:].argmax(axis=1)
    assert sorted(order) == list(range(K))
    low, high = (x[order] for x in shares.interval(0.9))
    left, right = ((x * size)[:, order] for x in replicates.W.interval(0.9))
    return np.mean((left <= W) & (right >= W)), np.mean((low <= H) & (high >= H))


def fit(X, **options):
    return PoissonNMF(K, random_state=0, max_iter=1000, **options).fit(X)


@pytest.fixture(scope="module")
def drawn():
    return draw(1.0)


@pytest.fixture(scope="module")
def model(drawn):
    return fit(drawn[0])


@pytest.fixture(scope="module")
def replicates(model, drawn):
    return bootstrap(model, drawn[0], n_replicates=25, random_state=0)


@pytest.mark.parametrize("kind", ["rows", "poisson"])
@pytest.mark.parametrize("prior", [None, "auto"])
def test_intervals_of_Poisson_counts_hold_the_share_of_true_entries_that_they_claim(kind, prior):
    """1,350 entries; 0.90 within 0.05. With 25 replicates an interval leaves out about one on either side."""
    X, W, H = draw(3.0)
    model = fit(X, prior_W=prior, prior_H=prior)
    found = coverage(model, bootstrap(model, X, n_replicates=25, kind=kind, random_state=0), W, H)
    assert 0.85 < min(found) <= max(found) < 0.95


def test_with_overdispersed_counts_only_replicates_of_rows_hold_what_they_claim():
    X, W, H = draw(10.0, dispersion=0.5)
    model = fit(X)
    rows, poisson = (
        coverage(model, bootstrap(model, X, n_replicates=25, kind=kind, random_state=0), W, H)
        for kind in ("rows", "poisson")
    )
    assert min(rows) > 0.84
    assert max(poisson) < 0.65


def test_replicates_vary_as_fits_to_new_counts_do():
    """Standard deviations of shares over 40 new draws of the same rates, and over replicates of one; median ratio."""
    rng, (X, W, H) = np.random.default_rng(0), draw(3.0)
    model = fit(X)
    found = bootstrap(model, X, n_replicates=40, kind="poisson", keep_W=False, random_state=0).feature_shares
    order = np.corrcoef(found.mean, H)[:K, K:].argmax(axis=1)
    refits = []
    for _ in range(40):
        refit = PoissonNMF(K, init="custom", max_iter=300).fit(rng.poisson(W @ H), W=W[:, order], H=H[order])
        refits.append(refit.components_ / refit.components_.sum(axis=1, keepdims=True))
    ratio = found.std[H[order] > 0.005] / np.std(refits, axis=0, ddof=1)[H[order] > 0.005]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)


def test_a_feature_without_counts_is_not_known_to_be_zero(replicates, model, drawn):
    X, _, _ = drawn
    zero = (model.components_ == 0) & (replicates.H.values == 0).all(axis=0)
    assert zero.any()
    low, high = replicates.H.interval(0.9)
    W = model.transform(X)
    np.testing.assert_allclose((high * W.sum(axis=0)[:, None])[zero], 1.92, rtol=0.01)
    assert (low[zero] == 0).all()


def test_replicates_are_bitwise_equal_for_any_number_of_threads(model, drawn):
    found = []
    for n_threads in (1, 2):
        model.set_params(n_threads=n_threads)
        for kind in ("rows", "poisson"):
            draws = bootstrap(model, drawn[0], n_replicates=2, kind=kind, random_state=3)
            found.append((draws.W.values.tobytes(), draws.H.values.tobytes()))
    model.set_params(n_threads=None)
    assert found[:2] == found[2:]


def test_replicates_of_rows_are_the_same_for_streamed_counts(model, drawn):
    """Up to the convergence of the fits, by other solvers, to 3e-3 nats per count."""
    X = sparse.csr_array(drawn[0])
    streamed = StreamedCounts(lambda: [as_counts(X[:100]), as_counts(X[100:])])
    model = clone(model).set_params(tol=3e-3).fit(X)
    found = [bootstrap(model, counts, n_replicates=2, random_state=3).H.values for counts in (X, streamed)]
    change = found[0] - model.components_
    assert np.corrcoef(change.ravel(), (found[1] - model.components_).ravel())[0, 1] > 0.95
    poisson = bootstrap(model, streamed, n_replicates=2, kind="poisson", keep_W=False)
    assert poisson.identified.all()


def test_exposures_and_groups_are_those_of_the_fit(drawn):
    X = drawn[0]
    exposure, groups = np.linspace(0.5, 2.0, N), np.arange(N) % 2
    exposed = PoissonNMF(K, random_state=0).fit(X, row_exposure=exposure, column_exposure=2.0)
    found = bootstrap(exposed, X, n_replicates=5, row_exposure=exposure, random_state=0)
    rates = 2.0 * exposure[:, None] * (found.W.mean @ found.H.mean)
    assert rates.sum() == pytest.approx(X.sum(), rel=0.02)
    grouped = PoissonNMF(K, random_state=0).fit(X, groups=groups)
    found = bootstrap(grouped, X, n_replicates=5, groups=groups, random_state=0)
    assert found.identified.all()
    with pytest.raises(ValueError, match="groups must be given"):
        bootstrap(grouped, X)


def test_masked_entries_have_no_influence(drawn):
    X, mask = drawn[0].astype(float), np.zeros((N, P), bool)
    mask[::3, ::4] = True
    hidden = np.where(mask, np.nan, X)
    masked = PoissonNMF(K, random_state=0).fit(hidden, mask=mask)
    for kind in ("rows", "poisson"):
        options = {"n_replicates": 2, "kind": kind, "mask": mask, "random_state": 0}
        found = [bootstrap(masked, Y, **options).H.values.tobytes() for Y in (np.where(mask, 0, X), hidden)]
        assert found[0] == found[1]


def test_components_that_are_not_determined_are_told():
    """Two equal components in the truth, fitted apart by noise: nothing keeps them apart in replicates."""
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(1, 3, (200, 1)) * rng.gamma(1, size=(1, 50)))
    model = PoissonNMF(4, random_state=0, max_iter=1000).fit(X)
    found = bootstrap(model, X, n_replicates=20, random_state=0)
    assert found.similarity.mean() < 0.97
    assert str(found).splitlines()[1].split() == ["component", "similarity", "identified"]


def test_log_fold_changes_have_the_errors_of_replicates(replicates, drawn, model):
    X = drawn[0]
    found = replicates.differential()
    other = model.differential_expression(X, model.transform(X))
    clear = (np.abs(other.z_score) > 5) & (found.against == other.against)
    assert clear.sum() > 50
    assert np.corrcoef(found.log2_fold_change[clear], other.log2_fold_change[clear])[0, 1] > 0.98
    assert np.median(found.standard_error[clear] / other.standard_error[clear]) == pytest.approx(1.1, abs=0.25)
    assert (replicates.differential("mean").against == -1).all()
    assert (replicates.differential(1).log2_fold_change[1] == 0).all()
    for wrong in (K, "other", True):
        with pytest.raises(ValueError, match="against must be"):
            replicates.differential(wrong)


def test_top_features_are_told_how_often_they_are_found(replicates):
    shares = replicates.top_share(10)
    np.testing.assert_allclose(shares.sum(axis=1), 10)
    frame = replicates.to_frame(n=10)
    assert len(frame) == 10 * K
    assert isinstance(frame, pd.DataFrame)
    with pytest.raises(ValueError, match="n must be from 1 to 150"):
        replicates.top_share(151)


def test_intervals_of_shares_end_at_one():
    X = np.zeros((40, 6), int)
    X[:20, :3], X[20:, 3:] = 5, 5
    X[0] = [1, 0, 0, 0, 0, 0]  # a single count makes the whole row
    replicates = bootstrap(PoissonNMF(2, random_state=0).fit(X), X, n_replicates=20, random_state=0)
    for shares in (replicates.component_shares, replicates.feature_shares):
        assert shares.interval(0.9)[1].max() <= 1


def test_groups_that_were_not_fitted_are_refused(drawn):
    groups = np.arange(N) % 2
    model = PoissonNMF(K, random_state=0, tol=1e-2).fit(drawn[0], groups=groups)
    with pytest.raises(ValueError, match="groups must be those of the fit, got 7 too"):
        bootstrap(model, drawn[0], groups=np.where(groups == 1, 7, 0))


def test_a_bootstrap_is_saved_and_loaded(replicates, tmp_path):
    replicates.save(tmp_path / "replicates.npz")
    loaded = type(replicates).load(tmp_path / "replicates.npz")
    for a, b in ((loaded.H, replicates.H), (loaded.W, replicates.W)):
        assert a.interval(0.9)[1].tobytes() == b.interval(0.9)[1].tobytes()
    assert loaded.identified.tolist() == replicates.identified.tolist()
    assert type(FactorDraws.load(tmp_path / "replicates.npz")) is type(replicates)
    with pytest.raises(ValueError, match="is no file of PosteriorDraws"):
        PosteriorDraws.load(tmp_path / "replicates.npz")


def test_an_interrupt_keeps_the_complete_replicates(model, drawn, monkeypatch):
    refit, n = module._Refit.__call__, 0

    def interrupted(*args, **options):
        nonlocal n
        n += 1
        if n == limit + 1:
            raise KeyboardInterrupt
        return refit(*args, **options)

    monkeypatch.setattr(module._Refit, "__call__", interrupted)
    limit = 3
    with pytest.raises(DrawsInterrupted) as caught:
        bootstrap(model, drawn[0], n_replicates=5, random_state=0)
    assert len(pickle.loads(pickle.dumps(caught.value)).draws) == 3
    limit, n = 1, 0
    with pytest.raises(KeyboardInterrupt, match="before two replicates"):
        bootstrap(model, drawn[0], n_replicates=5)


def test_replicates_that_did_not_converge_are_told(drawn):
    model = PoissonNMF(K, random_state=0, max_iter=3, tol=1e-9)
    with pytest.warns(ConvergenceWarning):
        model.fit(drawn[0])
    with pytest.warns(ConvergenceWarning, match="2 of 2 replicates stopped at max_iter=3"):
        bootstrap(model, drawn[0], n_replicates=2)


def test_names_and_arrays_of_users_are_kept(drawn):
    names = np.array([f"word {j}" for j in range(P)])
    X = sparse.csr_array(drawn[0].astype(float))
    before = X.data.copy()
    data = Dataset(X, column_names=names)
    model = PoissonNMF(K, random_state=0).fit(data)
    H = model.components_.copy()
    found = bootstrap(model, data, n_replicates=2, keep_W=False, random_state=0)
    assert found.W is None
    assert found.to_frame()["feature"].tolist()[:P] == names.tolist()
    np.testing.assert_array_equal(X.data, before)
    np.testing.assert_array_equal(model.components_, H)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_replicates": 1}, ValueError, "n_replicates == 1, must be >= 2"),
        ({"kind": "columns"}, ValueError, "kind must be one of"),
        ({"n_replicates": 10**11}, MemoryError, "take fewer replicates, or keep_W=False"),
    ],
)
def test_bad_options_are_refused_before_any_work(model, drawn, options, error, message):
    with pytest.raises(error, match=message):
        bootstrap(model, drawn[0], **options)


def test_models_and_counts_that_do_not_fit_are_refused(model, drawn):
    X = drawn[0]
    with pytest.raises(ValueError, match="features"):
        bootstrap(model, X[:, :-1])
    with pytest.raises(TypeError, match="HPF has sample_posterior"):
        bootstrap(HPF(2, tol=1e-2).fit(X), X)
    with pytest.raises(TypeError, match="model must be a fitted PoissonNMF"):
        bootstrap(PoissonNMF(2), X)
