"""Fits that see rows in mini-batches: online EM and stochastic variational inference."""

import numpy as np
import pytest
from fitting import rates
from scipy import sparse

from fastpmf import HPF, PoissonNMF, poisson_nmf
from fastpmf.datasets import make_poisson_counts
from fastpmf.estimators._online import Schedule

both = pytest.mark.parametrize("kind", [PoissonNMF, HPF])


@pytest.fixture(scope="module")
def counts():
    return sparse.csr_array(make_poisson_counts(300, 40, 3, nnz=6000, random_state=0).X.astype(float))


def epoch(model, X, size=60):
    for i in range(0, X.shape[0], size):
        model.partial_fit(X[i : i + size])
    return model


@both
def test_epochs_bring_it_to_within_a_percent_of_what_all_rows_at_once_give(kind, counts):
    whole = kind(3, random_state=0, max_iter=300).fit(counts)
    model = kind(3, random_state=0, total_samples=300)
    scores = [epoch(model, counts).score(counts) for _ in range(4)]
    assert scores[-1] > whole.score(counts) - 0.01 * abs(whole.score(counts))
    assert model.n_iter_ == 20
    assert "partial_fit" in str(model.status_)


def test_all_counts_are_allotted_whatever_the_step(counts):
    model = PoissonNMF(3, random_state=0)
    for _ in range(3):
        model.partial_fit(counts)
        remembered = model._statistics
        np.testing.assert_allclose(remembered.counts.sum(axis=1), counts.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(model.components_.sum(axis=1) @ remembered.exposure, counts.sum() / 300, rtol=1e-6)


def test_steps_shorten_as_the_schedule_says_and_rows_stand_for_all():
    schedule, steps, seen = Schedule(), [], []
    for _ in range(3):
        step, after = schedule.advance(10, 0.7, 2.0, 1000)
        seen.append(schedule.advance(10, 0.7, 1.0, None)[0].times)
        steps.append(step)
        schedule = after
    assert [step.length for step in steps] == pytest.approx([1.0, 3**-0.7, 4**-0.7])
    assert {step.times for step in steps} == {100.0}
    assert seen == [1.0, 2.0, 3.0]


def test_a_prior_is_weighed_against_all_rows_not_against_the_batch(counts):
    flat, strong = (
        epoch(PoissonNMF(3, random_state=0, prior_W=(1, 1.0), prior_H=prior, total_samples=300), counts)
        for prior in ((1.0, 0.0), (1.0, 300.0))
    )
    # 300 rows of exposure against a rate of 300: H comes out lower, but no more than by half or so
    assert 0.2 < strong.components_.sum() / flat.components_.sum() < 0.9


def test_features_that_come_later_are_learned(counts):
    first, later = counts[:100].tolil(), counts[100:]
    first[:, :5] = 0
    model = PoissonNMF(3, random_state=0).partial_fit(sparse.csr_array(first))
    assert (model.components_ > 0).all()
    before = model.components_[:, :5].sum()
    model.partial_fit(later)
    assert model.components_[:, :5].sum() > 1e3 * before
    assert np.isfinite(model.score(later))


def test_row_exposures_scale_what_a_batch_says(counts):
    r = np.full(60, 2.0)
    plain = PoissonNMF(3, random_state=0).partial_fit(counts[:60])
    exposed = PoissonNMF(3, random_state=0).partial_fit(counts[:60], row_exposure=r)
    np.testing.assert_allclose(exposed.components_, plain.components_, rtol=1e-6)  # W halves, and H is per unit


@both
def test_it_is_the_same_for_any_threads_and_begins_anew_after_a_fit(kind, counts):
    one, two = (epoch(kind(3, random_state=0, n_threads=n), counts).components_ for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    model = kind(3, random_state=0, max_iter=300).fit(counts)
    np.testing.assert_array_equal(epoch(model, counts).components_, two)


@both
def test_what_it_can_not_use_is_turned_away_in_a_sentence_and_changes_nothing(kind, counts):
    model = kind(3, random_state=0).partial_fit(counts[:60])
    before = model.components_.copy()
    with pytest.raises(ValueError, match="a mini-batch without any"):
        model.partial_fit(sparse.csr_array((5, 40)))
    with pytest.raises(ValueError, match="41 features"):
        model.partial_fit(sparse.csr_array((5, 41)))
    for options, said in (
        ({"forgetting_rate": 0.5}, "forgetting_rate must be a number above 0.5 and at most 1, got 0.5"),
        ({"delay": 0.0}, "delay must be a number at least 1, got 0.0"),
        ({"total_samples": 0}, "total_samples must be a number at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=said):
            model.set_params(**options).partial_fit(counts[:60])
        model.set_params(forgetting_rate=0.7, delay=1.0, total_samples=None)
    np.testing.assert_array_equal(model.components_, before)
    assert model.partial_fit(counts[60:120]).n_iter_ == 2


def test_penalties_that_online_em_has_no_rule_for_are_turned_away(counts):
    with pytest.raises(ValueError, match="l1_ratio must be 1"):
        PoissonNMF(3, alpha_W=0.1).partial_fit(counts)
    with pytest.raises(ValueError, match="prior_W and prior_H as numbers"):
        PoissonNMF(3, prior_W="auto", prior_H="auto").partial_fit(counts)


def test_auto_priors_are_numbers_after_a_fit_and_those_of_the_function(counts):
    model = PoissonNMF(3, prior_W="auto", prior_H="auto", random_state=0).fit(counts)
    shape, rate = model.prior_W_
    assert (shape, model.prior_H_) == (1.1, (1.1, rate))
    # At a tenth of the rate under which the prior mean of a count is the data's mean
    assert 3 * (1.1 / (rate / 0.1)) ** 2 == pytest.approx(counts.mean())
    solution = poisson_nmf(counts, 3, prior_W=model.prior_W_, prior_H=model.prior_H_, random_state=0)
    np.testing.assert_array_equal(solution.H, model.components_)
    half = PoissonNMF(3, prior_W="auto", prior_H="auto", random_state=0).fit(counts, row_exposure=np.full(300, 2.0))
    assert half.prior_W_[1] == pytest.approx(rate * np.sqrt(2))  # the mean is per unit of exposure
    assert rates(solution).sum() > 0
