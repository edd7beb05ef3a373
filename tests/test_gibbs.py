"""Gibbs sampling of the posterior: exact, calibrated, reproducible."""

import pickle

import numpy as np
import pytest
from scipy import sparse
from scipy.special import digamma

from fastpmf import HPF, DrawsInterrupted, PoissonNMF, StreamedCounts, as_counts
from fastpmf.analysis.gibbs import Chain, EntryPrior, effective_draws
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import Dataset
from fastpmf.kernels.threads import threads
from fastpmf.model.hierarchy import GammaPrior

A, MEAN, K = 0.5, 1.0, 3


@pytest.fixture(scope="module")
def drawn():
    """Factors from the prior, and counts; k is 3."""
    rng, rate = np.random.default_rng(1), A * np.sqrt(K / MEAN)
    W, H = rng.gamma(A, 1 / rate, (200, K)), rng.gamma(A, 1 / rate, (K, 120))
    return rng.poisson(W @ H), W, H, rate


@pytest.fixture(scope="module")
def fitted(drawn):
    X, _, _, rate = drawn
    return HPF(K, a=A, b_prime=rate, c=A, d_prime=rate, hierarchy=False, random_state=0).fit(X)


@pytest.fixture(scope="module")
def draws(drawn, fitted):
    return fitted.sample_posterior(drawn[0], 100, random_state=0)


@pytest.mark.parametrize("hierarchical", [False, True])
def test_the_sampler_leaves_the_joint_distribution_unchanged(hierarchical):
    """Counts drawn given W and H, and sweeps given counts, in turn: W and H then have their priors.

    Source: J. Geweke, "Getting it right", JASA 99 (2004). Means of logarithms within 4 standard errors each.
    """
    rng, n, p, k = np.random.default_rng(0), 3, 4, 2
    priors = [GammaPrior(shape, 2.0, mean, hierarchical) for shape, mean in (((1.5, 0.8), 1.2), (1.1, 0.7))]
    entries = EntryPrior.of(priors[0], k, n), EntryPrior.of(priors[1], k, p)
    exposures, background = (np.array([1.0, 2.0, 0.5]), np.array([1.0, 0.6, 1.5, 1.0])), np.full(p, 0.3)

    def draw(side, size):
        rate = np.full(size, priors[side].activity_mean)
        if hierarchical:
            rate = rng.gamma(2.0, priors[side].activity_mean / 2.0, size)
        return rng.gamma(priors[side].shapes(k), 1 / rate[:, None], (size, k))

    start = Chain.start(
        as_counts(np.zeros((n, p))), draw(0, n), draw(1, p).T, entries, exposures, background, random_state=rng
    )
    found = []
    for _ in range(4000):
        W, Ht = start.factors
        X = rng.poisson(exposures[0][:, None] * exposures[1] * (W @ Ht.T + background))
        start.counts = as_counts(X)
        start.sweep()
        found.append(np.concatenate([np.log(start.factors[0]).ravel(), np.log(start.factors[1]).ravel()]))
    found = np.array(found)
    expected = []
    for prior, size in zip(priors, (n, p), strict=True):
        log_rate = np.log(prior.activity_mean)
        if hierarchical:
            log_rate = digamma(2.0) - np.log(2.0 / prior.activity_mean)
        expected += [digamma(prior.shapes(k)) - log_rate] * size
    error = found.std(axis=0) / np.sqrt(effective_draws(found))
    assert (np.abs(found.mean(axis=0) - np.concatenate(expected)) < 4 * error).all()


def test_intervals_hold_the_share_of_true_entries_that_they_claim(drawn, draws, fitted):
    """90 % intervals of 100 draws, 960 entries; mean-field intervals of the same fit hold far fewer."""
    _, W, H, _ = drawn
    order = [int(np.argmax(np.corrcoef(H, draws.H.mean)[z, K:])) for z in range(K)]
    assert sorted(order) == [0, 1, 2]

    def inside(interval, truth):
        low, high = interval
        return np.mean((low <= truth) & (truth <= high))

    for found, truth, mean_field in (
        (draws.W.interval(0.9), W, fitted.W_posterior_.interval(0.9)),
        (draws.H.interval(0.9), H, fitted.H_posterior_.interval(0.9)),
    ):
        axis = 1 if truth is W else 0
        sorted_found = [np.take(A, order, axis) for A in found]
        assert 0.85 < inside(sorted_found, truth) < 0.95
        assert inside([np.take(A, order, axis) for A in mean_field], truth) < 0.75


def test_draws_of_posterior_modes_have_the_priors_of_the_fit(drawn):
    X = drawn[0]
    model = PoissonNMF(K, prior_W="auto", prior_H="auto", random_state=0).fit(X, row_exposure=2.0)
    draws = model.sample_posterior(X, 19, row_exposure=2.0, random_state=0)
    total = 2.0 * (draws.W.values.sum(axis=1) * draws.H.values.sum(axis=2)).sum(axis=1)
    assert np.abs(total.mean() / X.sum() - 1) < 0.04  # it is known to 0.7 %, and the prior adds 660 or 396 to 22,973
    np.testing.assert_allclose(draws.totals.sum(axis=1), total, rtol=1e-5)


def test_draws_are_bitwise_equal_for_any_number_of_threads_and_for_streamed_counts(drawn, fitted):
    X = sparse.csr_array(drawn[0])
    blocks = [X[:77], X[77:]]
    streamed = StreamedCounts(lambda: [as_counts(block) for block in blocks])
    found = []
    for counts, n_threads in ((X, 1), (X, 2), (X.tocsc(), 2), (streamed, 2)):
        fitted.set_params(n_threads=n_threads)
        draws = fitted.sample_posterior(counts, 3, burn_in=2, thin=1, random_state=5)
        found.append((draws.W.values.tobytes(), draws.H.values.tobytes()))
    fitted.set_params(n_threads=None)
    assert len(set(found)) == 1


def test_masked_entries_have_no_influence(drawn):
    X = drawn[0].astype(float)
    mask = np.zeros(X.shape, bool)
    mask[::3, ::4] = True
    hidden = X.copy()
    hidden[mask] = np.nan
    model = HPF(K, random_state=0).fit(hidden, mask=mask)
    draws = [model.sample_posterior(Y, 3, burn_in=5, thin=1, mask=mask, random_state=0) for Y in (X, hidden)]
    assert draws[0].H.values.tobytes() == draws[1].H.values.tobytes()


def test_arrays_of_users_are_not_changed(drawn, fitted):
    X = sparse.csr_array(drawn[0].astype(float))
    before = X.data.tobytes(), fitted.components_.tobytes()
    fitted.sample_posterior(X, 2, burn_in=0, thin=1)
    assert before == (X.data.tobytes(), fitted.components_.tobytes())


def test_draws_have_names_shares_and_files(tmp_path, drawn):
    names = np.array([f"word {j}" for j in range(120)])
    X = Dataset(drawn[0], column_names=names)
    draws = HPF(K, random_state=0).fit(X).sample_posterior(X, 19, thin=2, random_state=0)
    frame = draws.to_frame(0.8, n=5)
    assert list(frame.columns) == ["component", "feature", "mean", "low", "high", "in_top"]
    assert set(frame["feature"]) <= set(names)
    assert (frame["low"] <= frame["mean"]).all()
    assert (frame["mean"] <= frame["high"]).all()
    assert len(draws.to_frame()) == K * 120
    np.testing.assert_allclose(draws.feature_shares.values.sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(draws.component_shares.values.sum(axis=2), 1, rtol=1e-5)
    assert (draws.top_share(120) == 1).all()
    draws.save(tmp_path / "draws.npz")
    loaded = type(draws).load(tmp_path / "draws.npz")
    assert loaded.H.values.tobytes() == draws.H.values.tobytes()
    assert loaded.totals.tobytes() == draws.totals.tobytes()
    assert loaded.feature_names.tolist() == names.tolist()
    assert "component" in str(draws)
    (tmp_path / "draws.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        type(draws).load(tmp_path / "draws.npz")


def test_without_draws_of_W_there_are_no_shares_of_rows(drawn, fitted):
    draws = fitted.sample_posterior(drawn[0], 3, burn_in=0, thin=1, keep_W=False)
    assert draws.W is None
    with pytest.raises(ValueError, match="keep_W=True"):
        draws.component_shares  # noqa: B018


def test_slow_chains_are_told(drawn, fitted, monkeypatch):
    def drift(chain):
        chain.factors[0] *= 1.01

    monkeypatch.setattr(Chain, "sweep", drift)
    with pytest.warns(UserWarning, match="increase thin"):
        fitted.sample_posterior(drawn[0], 20, burn_in=0, thin=1, random_state=0)


def test_an_interrupt_keeps_the_complete_draws(drawn, fitted, monkeypatch):
    sweep, n = Chain.sweep, 0

    def interrupted(chain):
        nonlocal n
        n += 1
        if n == 8:
            raise KeyboardInterrupt
        sweep(chain)

    monkeypatch.setattr(Chain, "sweep", interrupted)
    with pytest.raises(DrawsInterrupted) as caught:
        fitted.sample_posterior(drawn[0], 10, burn_in=1, thin=2)
    assert len(caught.value.draws) == 3
    assert len(pickle.loads(pickle.dumps(caught.value)).draws) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_draws": 1}, ValueError, "n_draws == 1, must be >= 2"),
        ({"n_draws": 2.5}, TypeError, "n_draws must be an instance of"),
        ({"burn_in": -1}, ValueError, "burn_in == -1"),
        ({"thin": 0}, ValueError, "thin == 0"),
        ({"n_draws": 10**12}, MemoryError, "take fewer draws, or keep_W=False"),
    ],
)
def test_bad_options_are_refused_before_any_work(drawn, fitted, options, error, message):
    with pytest.raises(error, match=message):
        fitted.sample_posterior(drawn[0], **options)


def test_counts_that_are_not_whole_and_improper_priors_are_refused(drawn, fitted):
    X = drawn[0]
    with pytest.raises(ValueError, match="X must hold whole counts"):
        fitted.sample_posterior(X * 0.5)
    with pytest.raises(ValueError, match="needs a model with prior_W and prior_H"):
        PoissonNMF(2, max_iter=5, tol=0).fit(X).sample_posterior(X)
    with pytest.raises(ValueError, match="rates > 0"):
        PoissonNMF(2, prior_W=(1, 0), prior_H=(1, 0), random_state=0).fit(X).sample_posterior(X)
    grouped = PoissonNMF(2, prior_W="auto", prior_H="auto", random_state=0).fit(X, groups=np.arange(200) % 2)
    with pytest.raises(ValueError, match="sample_posterior has no groups"):
        grouped.sample_posterior(X)


def test_effective_draws_of_an_autoregression_are_those_of_its_formula():
    """n (1 - r) / (1 + r) for x_t = r x_{t-1} + noise; within 15 % for 20,000 draws."""
    rng, r = np.random.default_rng(0), 0.8
    chain = np.zeros((20_000, 2))
    for t in range(1, len(chain)):
        chain[t] = r * chain[t - 1] + rng.standard_normal(2)
    np.testing.assert_allclose(effective_draws(chain), 20_000 * (1 - r) / (1 + r), rtol=0.15)
    assert effective_draws(np.ones((5, 1))).tolist() == [5]


def test_counts_in_many_threads_are_those_of_one():
    X = make_poisson_counts(300, 40, 3, nnz=4000, random_state=0).X
    prior = EntryPrior(np.full((1, 3), 0.5), np.full((1, 3), 1.0))
    found = []
    for n in (1, 2):
        with threads(n):
            chain = Chain.start(as_counts(X), np.ones((300, 3)), np.ones((3, 40)), (prior, prior), random_state=0)
            chain.sweep()
        found.append(chain.factors[1].tobytes())
    assert found[0] == found[1]
