"""The mean-field updates of hierarchical Poisson factorization, and its evidence lower bound, against dense oracles."""

import itertools
import math

import naive
import naive_hpf
import numpy as np
import pytest
from conftest import MENAGERIE
from fitting import some_start

from fastpmf import as_counts
from fastpmf.core.counts import Side
from fastpmf.core.factors import aligned, padded
from fastpmf.counts.masked import hide_entries
from fastpmf.model import hierarchy
from fastpmf.model.hierarchy import GammaFactor, GammaPrior, best_prior, evidence_bound, update

hierarchical = pytest.mark.parametrize("hierarchical", [True, False], ids=["hierarchy", "plain"])


class Inference:
    """Updates in turn, from a start with equal means and geometric means."""

    def __init__(self, X, k=3, *, hierarchical=True, mask=None, priors=((0.3, 0.4, 1.5), (0.5, 0.6, 0.8)), start=None):
        self.counts, self.k = hide_entries(as_counts(X.astype(float)), mask), k  # one dtype compiles once
        self.priors = [GammaPrior(*prior, hierarchical) for prior in priors]
        W, H = some_start(X.shape, k) if start is None else start
        start = [padded(A, np.dtype(float)) for A in (W, H.T)]
        self.factors = [GammaFactor.start(A, prior, k) for A, prior in zip(start, self.priors, strict=True)]
        self.scratch = aligned(max(X.shape), start[0].shape[1], np.dtype(float))

    def update(self, side):
        factor = self.factors[side]
        scratch = self.scratch[: len(factor.mean)]
        return update(self.counts, side, factor, self.factors[1 - side], self.priors[side], scratch)

    def run(self, n):
        for _, side in itertools.product(range(n), Side):
            self.update(side)
        return self

    @property
    def bound(self):
        return evidence_bound(self.counts, tuple(self.factors), tuple(self.priors))

    @property
    def rates(self):
        W, H = (factor.mean[:, : self.k] for factor in self.factors)
        return W @ H.T

    def as_naive(self):
        """(posteriors, priors) of the oracle."""
        k = self.k
        factors = [(f.shape[:, :k].copy(), f.rates()[:, :k], f.activity_shape, f.activity_rate) for f in self.factors]
        priors = [(p.shapes(k), p.activity_shape, p.activity_mean, p.hierarchical) for p in self.priors]
        return factors, priors


def some_mask(shape):
    """A fifth of the entries, and a whole row and column."""
    mask = np.random.default_rng(4).random(shape) < 0.2
    mask[3], mask[:, 2] = True, True
    return mask


@hierarchical
@pytest.mark.parametrize("masked", [False, True], ids=["all_observed", "masked"])
@pytest.mark.parametrize("shapes", [(0.3, 0.5), ((0.3, 1e-3, 2.0), (0.1, 0.7, 0.2))], ids=["shared", "each"])
def test_updates_and_their_bounds_agree_with_the_oracle(hierarchical, masked, shapes):
    X = MENAGERIE["short_rows"]
    observed = ~some_mask(X.shape) if masked else np.ones(X.shape, bool)
    priors = (shapes[0], 0.4, 1.5), (shapes[1], 0.6, 0.8)
    found = Inference(X, hierarchical=hierarchical, mask=~observed if masked else None, priors=priors)
    dense = X.toarray() * observed
    logs = [np.log(factor.mean[:, :3]) for factor in found.factors]
    means = [factor.mean[:, :3].copy() for factor in found.factors]
    for number, side in enumerate([Side.ROWS, Side.COLUMNS] * 3):
        other, before = 1 - side, found.as_naive()
        counts, seen = (dense, observed) if side is Side.ROWS else (dense.T, observed.T)
        E_xi, _ = naive_hpf.activity(before[0][side], before[1][side])
        expected = naive_hpf.half_step(counts, logs[side], logs[other], means[other], E_xi, before[1][side], seen)
        moved = found.update(side)
        after = found.as_naive()[0][side]
        for value, exact in zip(after[: 4 if hierarchical else 2], expected, strict=False):
            np.testing.assert_allclose(value, exact, rtol=1e-12)  # some tens of roundings of positive numbers
        if number > 1:
            shape, rate, *_ = expected
            changes = (rate * np.abs(shape / rate - before[0][side][0] / before[0][side][1])).sum(axis=1) / 2
            np.testing.assert_allclose(moved, changes, rtol=0, atol=1e-12 * shape.sum())
        logs[side], means[side] = naive_hpf.log_mean(*expected[:2]), expected[0] / expected[1]
        if number:
            bound, size = naive_hpf.evidence_bound(dense, *found.as_naive(), observed)
            # log Gamma is exact to 1e-14 of its size, other terms to some tens of roundings
            assert found.bound == pytest.approx(bound, abs=2e-14 * size)
            assert found.bound == pytest.approx(bound, rel=1e-10)


@pytest.mark.parametrize("x", [0, 1, 4, 30])
@pytest.mark.parametrize("prior", [(0.3, 1.0, 0.3, 1.0), (1.0, 1.0, 1.0, 1.0), (2.0, 0.1, 5.0, 3.0)])
def test_the_bound_of_a_single_count_is_slightly_below_its_log_evidence(x, prior):
    a, b, c, d = prior
    fit = Inference(np.array([[x]]), 1, hierarchical=False, priors=((a, 1.0, b), (c, 1.0, d))).run(60)
    evidence = naive_hpf.log_evidence(x, a, b, c, d)
    # The approximation takes u and v for independent although their product is known
    assert evidence - 1 < fit.bound < evidence


@pytest.mark.parametrize(
    ("hierarchical", "learn"),
    [(True, False), (False, True), pytest.param(False, False, marks=pytest.mark.long),
     pytest.param(True, True, marks=pytest.mark.long)],
)  # fmt: skip
def test_the_bound_never_falls(X, hierarchical, learn):
    fit, before = Inference(X, hierarchical=hierarchical), -math.inf
    fit.run(1)
    for _, side in itertools.product(range(8), Side):
        fit.update(side)
        for improve in (False, True):
            if improve and learn:
                fit.priors[side] = best_prior(fit.factors[side], fit.priors[side])
            # Rounding is relative to the terms of the sum, such as counts times logarithms
            size = abs(fit.bound) + fit.counts.total * abs(math.log(fit.counts.total)) + 100 * sum(X.shape)
            assert fit.bound >= before - 1e-13 * size
            before = fit.bound


@hierarchical
def test_the_best_prior_is_where_the_bound_is_stationary_and_highest(hierarchical):
    fit = Inference(MENAGERIE["planted"], hierarchical=hierarchical).run(20)
    for side in Side:
        fit.priors[side] = best_prior(fit.factors[side], fit.priors[side])
    best, priors = fit.bound, list(fit.priors)
    for side, at in itertools.product(Side, range(5)):  # three shapes, the activities' shape and mean
        moved = []
        for step in (0.99, 1.01):
            shape, *others, _ = priors[side].to_numbers()
            numbers = [*shape, *others]
            numbers[at] *= step
            fit.priors[side] = GammaPrior(tuple(numbers[:3]), *numbers[3:], hierarchical=hierarchical)
            moved.append(fit.bound - best)
        fit.priors[side] = priors[side]
        if not hierarchical and at == 3:
            assert moved == [0, 0]  # the plain model has no such shape
        else:
            assert max(moved) < 0
            # The first derivative is 0, so that the bound is quadratic up to its third derivative
            assert abs(moved[0] - moved[1]) < 0.1 * abs(moved[0] + moved[1])


@pytest.mark.parametrize("masked", [False, True], ids=["all_observed", "masked"])
def test_mean_logarithms_of_components_agree_with_scipy(masked, monkeypatch):
    monkeypatch.setattr(hierarchy, "_BLOCK", 7)  # 30 rows: four whole blocks and a part of one
    X = MENAGERIE["planted"]
    fit = Inference(X, mask=some_mask(X.shape) if masked else None).run(3)
    for factor, (shape, rate, *_) in zip(fit.factors, fit.as_naive()[0], strict=True):
        found = hierarchy.mean_logs(factor)
        np.testing.assert_allclose(found, naive_hpf.log_mean(shape, rate).mean(axis=0), rtol=1e-12)  # some roundings


def test_with_equal_means_the_update_is_that_of_the_mode_with_a_prior_shape_larger_by_one():
    X, (W, H) = MENAGERIE["planted"], some_start((30, 40))
    found = Inference(X, hierarchical=False, start=(W, H), priors=((0.3, 1.0, 2.0), (0.3, 1.0, 2.0)))
    found.update(Side.ROWS)
    shape = 0.3 + 1
    mode = (W * naive.ratio_contraction(X, W, H.T) + shape - 1) / (H.sum(axis=1) + 2.0)
    np.testing.assert_allclose(found.factors[0].mean[:, :3], mode, rtol=1e-13)  # some tens of roundings


def test_as_counts_grow_posterior_means_become_posterior_modes():
    X, (W, H) = MENAGERIE["dense"].toarray(), some_start((12, 9))
    apart = []
    for times in (1e2, 1e4, 1e6):
        found = Inference(
            X * times, hierarchical=False, start=(W * times, H), priors=((0.3, 1.0, 1.0), (0.3, 1.0, 1.0))
        )
        U, V = W * times, H.T
        for _ in range(20):
            U = (U * naive.ratio_contraction(X * times, U, V) + 0.3) / (V.sum(axis=0) + 1)
            V = (V * naive.ratio_contraction(X.T * times, V, U) + 0.3) / (U.sum(axis=0) + 1)
        apart.append(np.abs(found.run(20).rates / (U @ V.T) - 1).max())
    # digamma(s) = log s - 1 / (2 s) + ..., so a hundred times the counts divide the difference by about a hundred
    assert apart[1] < apart[0] / 30
    assert apart[2] < apart[1] / 30
    assert apart[2] < 1e-5


def test_permuting_rows_columns_or_components_permutes_the_posterior(planted):
    X, W, H = planted
    rng = np.random.default_rng(1)
    rows, columns, ks = rng.permutation(30), rng.permutation(40), rng.permutation(3)
    plain = Inference(X, start=(W, H)).run(10)
    permuted = Inference(X[rows][:, columns], start=(W[rows][:, ks], H[ks][:, columns])).run(10)
    for one, two, order in zip(plain.factors, permuted.factors, (rows, columns), strict=True):
        # the same sums in another order, ten times over
        np.testing.assert_allclose(two.shape[:, :3], one.shape[order][:, ks], rtol=1e-10)
        np.testing.assert_allclose(two.mean[:, :3], one.mean[order][:, ks], rtol=1e-10)
    assert permuted.bound == pytest.approx(plain.bound, rel=1e-12)
