"""Masked entries: their values have no influence on results, and sums over the observed entries are exact."""

import math
from functools import partial

import fitting
import naive
import numpy as np
import pytest
from conftest import MENAGERIE
from fitting import some_start
from scipy import sparse
from test_solvers import SOLVERS, assert_same_bits

from fastpmf import MemoryCounts, PoissonNMF, as_counts
from fastpmf.counts.masked import without

EPS = np.finfo(float).eps
fit = partial(fitting.fit, n_threads=1)
GAMMA = {"prior_W": (1.5, 2.0), "prior_H": (2.0, 1.0)}


@pytest.fixture
def hidden(planted):
    """X with a third of its entries masked: (X, X without them, X with invalid values there, mask)."""
    X = planted[0].toarray().astype(float)
    mask = np.random.default_rng(3).random(X.shape) < 1 / 3
    nonsense = np.where(mask, np.random.default_rng(4).integers(0, 1000, X.shape), X)
    return X, np.where(mask, 0, X), nonsense, mask


@pytest.mark.parametrize("options", [{}, {"solver": "cd"}, {"solver": "em"}, GAMMA], ids=["mu", "cd", "em", "prior"])
def test_masked_values_change_no_bit(options, hidden):
    X, left, nonsense, mask = hidden
    masked = fit(X, mask=mask, **options)
    assert_same_bits(fit(left, mask=mask, **options), masked)
    assert_same_bits(fit(nonsense, mask=mask, **options), masked)
    assert not np.allclose(fit(left, **options).W, masked.W)


MASKS = {
    "csr": sparse.csr_array,
    "coo": sparse.coo_array,
    "csc": sparse.csc_array,
    "numbers": lambda mask: 2.5 * mask,
    "lists": lambda mask: mask.tolist(),
    "with stored zeros": lambda mask: sparse.csr_array((mask.ravel(), np.indices(mask.shape).reshape(2, -1))),
    "read once": as_counts,
}


@pytest.mark.parametrize("form", MASKS)
def test_every_form_of_a_mask_is_the_same(form, hidden, unchanged):
    X, _, _, mask = hidden
    given = MASKS[form](mask)
    assert_same_bits(fit(X, mask=unchanged(given), max_iter=3), fit(X, mask=unchanged(mask), max_iter=3))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("options", [{}, GAMMA], ids=["likelihood", "prior"])
def test_a_masked_row_or_column_is_left_out(axis, options, planted):
    X, W, H = planted
    mask = np.zeros(X.shape, bool)
    np.moveaxis(mask, axis, 0)[4] = True
    X = X.astype(float)
    rest = np.delete(X.toarray(), 4, axis)
    start = (np.delete(W, 4, 0), H) if axis == 0 else (W, np.delete(H, 4, 1))
    # Under priors the start differs, since its units depend on all entries; the optimum is the same
    options = options | ({"solver": "cd", "max_iter": 3000, "tol": 1e-12} if options else {})
    whole, less = fit(X, mask=mask, start=(W, H), **options), fit(rest, start=start, **options)
    rtol = 1e-4 if options else 1e-9  # to the root of the tolerance; 20 times the roundings of other sums
    np.testing.assert_allclose(np.delete(whole.W, 4, 0) if axis == 0 else whole.W, less.W, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(whole.H if axis == 0 else np.delete(whole.H, 4, 1), less.H, rtol=rtol, atol=rtol)
    alone = whole.W[4] if axis == 0 else whole.H[:, 4]
    shape, rate = (0.5, 2.0) if axis == 0 else (1.0, 1.0)
    np.testing.assert_allclose(alone, shape / rate if options else 0.0, rtol=1e-6)  # the mode of its prior


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_objective_is_exact_if_few_entries_are_observed(solver):
    # Rows then have entries on which no observed rate depends, and which may become much larger than others
    for seed, name in enumerate(["single_entry_row", "empty_row", "short_rows", "planted", "tiny"]):
        X = MENAGERIE[name].astype(float)
        mask = np.random.default_rng(seed).random(X.shape) < 0.9
        mask.flat[X.toarray().argmax()] = False
        solution = fit(X, mask=mask, max_iter=200, eval_every=1, **SOLVERS[solver])
        terms = naive.statement(X, solution.W, solution.H, mask=mask)
        # Sums lose three digits at most to what is missing, of what a row observes of a component
        slack = 1e4 * EPS * abs(terms).sum() + (1e-11 * 6 * abs(terms).sum() if solver.startswith("cd") else 0)
        assert solution.objective == pytest.approx(terms.sum(), abs=slack), name
        assert (np.diff(solution.trace["objective"]) <= slack).all(), name


def test_float32_reaches_the_objective_of_float64(hidden):
    X, _, _, mask = hidden
    start = some_start(X.shape)
    narrow, wide = (fit(X, mask=mask, start=start, dtype=dtype, max_iter=200) for dtype in (np.float32, np.float64))
    assert narrow.objective == pytest.approx(wide.objective, rel=1e-4)


def test_transposing_a_masked_problem_transposes_its_answer(hidden, planted):
    X, _, _, mask = hidden
    _, W, H = planted
    # W is updated before H, so the sides are equivalent only if one of them is fixed
    one = fit(X, mask=mask, start=(W, H), fixed_H=H)
    two = fit(X.T, mask=mask.T, start=(H.T, W.T), fixed_W=H.T)
    np.testing.assert_allclose(two.H.T, one.W, rtol=1e-10, atol=1e-12)  # the same sums in another order


def test_selected_rows_or_columns_keep_their_mask(hidden):
    X, left, _, mask = hidden
    counts = without(as_counts(X), mask)
    rows, columns = np.array([7, 2]), np.arange(40) % 2 == 0
    for some, seen, unseen in (
        (counts.select_rows(rows), left[rows], mask[rows]),
        (counts.select_columns(columns), left * columns, mask),
    ):
        np.testing.assert_array_equal(some.to_scipy().toarray(), seen)
        np.testing.assert_array_equal(MemoryCounts(some.unobserved).to_scipy().toarray(), unseen)


@pytest.mark.parametrize("keep", [[0, 1], np.arange(40), np.ones(39, bool)], ids=["list", "numbers", "too few"])
def test_columns_are_selected_by_one_boolean_each(hidden, keep):
    with pytest.raises(ValueError, match="keep must hold 40 booleans, one for each column, got shape"):
        as_counts(hidden[0]).select_columns(keep)


# ── new rows ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prior", [{}, GAMMA], ids=["likelihood", "prior"])
def test_transform_and_score_do_not_depend_on_masked_values(prior, hidden):
    X, left, nonsense, mask = hidden
    model = PoissonNMF(3, max_iter=2000, random_state=0, n_threads=1, **prior).fit(X)
    W, gap = model.transform(X, mask=mask, return_gap_bound=True)
    for other in (left, nonsense):
        np.testing.assert_array_equal(model.transform(other, mask=mask), W)
        assert model.score(other, mask=mask) == model.score(X, mask=mask)
    # Rows are independent
    np.testing.assert_array_equal(model.transform(X[[5]], mask=mask[[5]])[0], W[5])
    assert gap.max() <= 1e-4 * (X.sum(axis=1).max() + 3)
    terms = naive.statement(X, W, model.components_, mask=mask)
    seen = X[~mask]
    constant = sum(x * naive.log(x) - x - math.lgamma(x + 1) for x in seen if x > 0)
    assert model.score(X, mask=mask) == pytest.approx((constant - terms.sum()) / seen.sum(), rel=1e-10)


def test_masked_rows_are_zero_or_the_mode_of_their_prior(hidden):
    X = hidden[0]
    everything = np.ones(X.shape, bool)
    model = PoissonNMF(3, max_iter=2000, random_state=0).fit(X)
    assert not model.transform(X, mask=everything).any()
    with pytest.raises(ValueError, match="X must hold a positive count"):
        model.score(X, mask=everything)
    model = PoissonNMF(3, max_iter=2000, random_state=0, **GAMMA).fit(X)
    np.testing.assert_allclose(model.transform(X, mask=everything), 0.5 / 2.0, rtol=1e-12)


# ── bad masks ───────────────────────────────────────────────────────────────────────────────────────────────────

BAD = {
    "shape": (np.ones((30, 41)), "mask must have the shape of X, .30, 40., got .30, 41."),
    "vector": (np.ones(30), "mask must be a matrix"),
    "text": (np.full((30, 40), "a"), "mask must hold numbers"),
    "negative": (-np.eye(30, 40), "mask must hold counts >= 0"),
    "nan": (np.full((30, 40), np.nan), "mask must be finite"),
    "everything": (np.ones((30, 40)), "mask must leave at least one positive count of X"),
}


@pytest.mark.parametrize(("mask", "message"), BAD.values(), ids=BAD)
def test_a_bad_mask_is_named(mask, message, planted):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        fit(planted[0], mask=mask)


@pytest.mark.parametrize("solver", ["mu", "em", "cd"])
def test_a_masked_row_without_a_mode_is_refused(solver, planted):
    X = planted[0].astype(float)
    mask = np.zeros(X.shape, bool)
    mask[4] = True
    with pytest.raises(ValueError, match=r"^prior_W must have rates > 0 where .* masked"):
        fit(X, mask=mask, prior_W=(1.5, 0.0), prior_H=(2.0, 1.0), solver=solver)
    mask[4, 7] = False  # one entry is enough to bound it
    assert np.isfinite(fit(X, mask=mask, prior_W=(1.5, 0.0), prior_H=(2.0, 1.0), solver=solver).objective)
    with pytest.raises(ValueError, match=r"^prior_H must have rates > 0 where .* masked"):
        fit(X.T, mask=mask.T | (np.arange(30) == 4), prior_W=(3.0, 1.0), prior_H=(1.5, 0.0), solver=solver)
