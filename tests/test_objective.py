"""Divergence, likelihood and deviance are one function of (W, H), and the contraction is its gradient."""

import math

import naive
import numpy as np
import pytest
from conftest import MENAGERIE
from scipy import sparse, stats
from scipy.special import rel_entr

from fastpmf import as_counts, kl_divergence, poisson_deviance, poisson_log_likelihood
from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums, padded
from fastpmf.model import objective
from fastpmf.model.updates import multiplicative

EPS = np.finfo(float).eps
SCORES = (kl_divergence, poisson_log_likelihood, poisson_deviance)


def some_factors(X, k=3, seed=2):
    """Positive factors with the total rate of the counts."""
    rng = np.random.default_rng(seed)
    W, H = rng.gamma(1.0, size=(X.shape[0], k)) + 0.01, rng.gamma(1.0, size=(k, X.shape[1])) + 0.01
    return W * (X.sum() / (W @ H).sum()), H


def tolerance(X, W, H):
    """Rounding errors are relative to the sum of the absolute values of all terms, each with some tens of roundings."""
    return 50 * EPS * naive.objective_scale(X, W, H)


def likelihood_tolerance(X, W, H):
    """The argument of log Gamma(x + 1) is rounded too: an absolute error that is large relative to values near 0."""
    return tolerance(X, W, H) + 50 * EPS * sum(1 + math.lgamma(x + 1) for x in X.data.tolist())


def contraction(X, W, H):
    """Padded W, its S, and the subproblem of W."""
    U, V = padded(W, np.dtype(float)), padded(H.T, np.dtype(float))
    S = np.empty_like(U)
    as_counts(X).contract(Side.ROWS, U, V, S)
    return U, S, Subproblem(Side.ROWS, W.shape[1], V, column_sums(V)[None])


def test_scores_agree_with_the_oracles(X):
    W, H = some_factors(X)
    D, log_likelihood = naive.kl_divergence(X, W, H), naive.poisson_log_likelihood(X, W, H)
    assert kl_divergence(X, W, H) == pytest.approx(D, abs=tolerance(X, W, H), rel=0)
    assert poisson_deviance(X, W, H) == pytest.approx(2 * D, abs=2 * tolerance(X, W, H), rel=0)
    assert poisson_log_likelihood(X, W, H) == pytest.approx(log_likelihood, abs=likelihood_tolerance(X, W, H), rel=0)


WHOLE = [name for name, X in MENAGERIE.items() if (X.data == np.round(X.data)).all()]


@pytest.mark.parametrize("name", WHOLE)
def test_log_likelihood_agrees_with_scipy_stats(name):
    X = MENAGERIE[name]
    W, H = some_factors(X)
    expected = stats.poisson.logpmf(X.toarray(), W @ H).sum()
    assert poisson_log_likelihood(X, W, H) == pytest.approx(expected, abs=likelihood_tolerance(X, W, H), rel=0)


def test_divergence_plus_log_likelihood_is_a_constant_of_the_data(X):
    constant = objective.constant(as_counts(X))
    for seed in range(3):
        W, H = some_factors(X, k=seed + 1, seed=seed)
        both = kl_divergence(X, W, H) + poisson_log_likelihood(X, W, H)
        assert both == pytest.approx(constant, abs=likelihood_tolerance(X, W, H), rel=0)


def test_float32_factors_are_scored_in_float64(planted):
    X, W, H = planted
    W, H = W.astype(np.float32), H.astype(np.float32)
    D = naive.kl_divergence(X, W, H)
    # The column sums, their product, rates and logarithms are all float64; float32 would be off by 1e-7 relative.
    assert kl_divergence(X, W, H) == pytest.approx(D, abs=tolerance(X, W, H), rel=0)


@pytest.mark.parametrize("form", ["csc", "coo"])
def test_scores_are_the_same_for_any_format_and_number_of_threads(form, planted):
    X, W, H = planted
    for score in SCORES:
        assert score(X, W, H) == score(X.asformat(form), W.tolist(), H) == score(X.toarray(), W, H, n_threads=1)


def test_a_positive_count_of_rate_zero_has_likelihood_zero():
    X, W, H = [[1, 0], [2, 3]], [[1, 0], [1, 1]], [[0, 1], [1, 1]]  # the rate of x_00 is 0
    assert kl_divergence(X, W, H) == math.inf
    assert poisson_deviance(X, W, H) == math.inf
    assert poisson_log_likelihood(X, W, H) == -math.inf


def test_a_zero_count_of_rate_zero_contributes_nothing():
    X, W, H = [[0, 4], [2, 3]], [[1, 0], [1, 1]], [[0, 1], [1, 1]]
    one_less = (X[0][1:], W[:1], [row[1:] for row in H]), (X[1:], W[1:], H)
    parts = [([one_less[0][0]], *one_less[0][1:]), one_less[1]]
    for score in SCORES:
        # A handful of terms of size 1, each rounded once or twice.
        assert score(X, W, H) == pytest.approx(sum(score(*part) for part in parts), abs=1e-14)
        assert math.isfinite(score(X, W, H))


def test_without_counts_the_divergence_is_the_total_rate():
    W, H = [[1.0, 2.0], [0.5, 0.0]], [[1.0, 0.0, 3.0], [2.0, 1.0, 0.0]]
    X = np.zeros((2, 3))
    assert kl_divergence(X, W, H) == -poisson_log_likelihood(X, W, H) == np.matmul(W, H).sum()


def test_an_exact_fit_has_divergence_zero():
    X = MENAGERIE["rank_one"]
    W, H = [[1], [2], [0], [3], [5]], [[2, 1, 4, 0]]
    assert abs(kl_divergence(X, W, H)) <= tolerance(X, np.array(W), np.array(H))


def test_between_distributions_it_is_the_relative_entropy(planted):
    X, W, H = planted
    P, Q = X / X.sum(), (W @ H) / (W @ H).sum()
    # Terms of sizes that sum to about log(1200) = 7 cancel to about 1.
    assert kl_divergence(P, W / (W @ H).sum(), H) == pytest.approx(rel_entr(P.toarray(), Q).sum(), abs=100 * EPS)


@pytest.mark.parametrize("name", ["planted", "short_rows", "empty_row", "empty_column", "fractional", "one_column"])
def test_the_gradient_is_column_sums_minus_the_contraction(name):
    X = MENAGERIE[name]
    W, H = some_factors(X)
    _, S, subproblem = contraction(X, W, H)
    v_sum = subproblem.weight[0]
    gradient, step = (v_sum - S)[:, :3], 1e-5
    for i, k in [(0, 0), (1, 2), (7, 1), (9, 0)]:
        change = np.zeros_like(W)
        change[i, k] = step * W[i, k]
        up, down = kl_divergence(X, W + change, H), kl_divergence(X, W - change, H)
        slope = (up - down) / (2 * change[i, k])
        # Central differences: truncation step^2 of the third derivative, which is of the size of S, and rounding.
        size = abs(S[i, k]) + v_sum[k]
        assert slope == pytest.approx(gradient[i, k], abs=10 * step**2 * size + tolerance(X, W, H) / change[i, k])


@pytest.mark.parametrize("name", [name for name in MENAGERIE if name != "giant_row"])
def test_no_other_factor_is_better_by_more_than_the_gap(name):
    X = MENAGERIE[name]
    W, H = some_factors(X)
    U, S, subproblem = contraction(X, W, H)
    D, near = kl_divergence(X, W, H), tolerance(X, W, H)
    gap = multiplicative(subproblem, U, S, None).gap
    best = naive.best_rows(X, W, H.T)
    assert gap >= D - naive.kl_divergence(X, best, H) - near
    assert gap == pytest.approx(naive.gap_bound(X, W, H.T).sum(), abs=near)
    # And it closes: 5000 updates leave a gap of the order of 1 / 5000 per count, and usually none.
    U, S, subproblem = contraction(X, best, H)
    assert multiplicative(subproblem, U, S, None).gap <= X.sum() / 1000


BAD_FACTORS = {
    "W_rows": (ValueError, lambda W, H: (W[1:], H), r"^W must have shape \(30, 3\)"),
    "H_columns": (ValueError, lambda W, H: (W, H[:, 1:]), r"^H must have shape \(3, 40\)"),
    "H_rows": (ValueError, lambda W, H: (W, H[1:]), r"^H must have shape \(3, 40\)"),
    "H_transposed": (ValueError, lambda W, H: (W, H.T), "^H must have shape"),
    "W_vector": (ValueError, lambda W, H: (W[:, 0], H), "^W must have shape"),
    "W_nan": (ValueError, lambda W, H: (W * np.nan, H), "^W must be finite"),
    "H_inf": (ValueError, lambda W, H: (W, H + np.inf), "^H must be finite"),
    "W_negative": (ValueError, lambda W, H: (-W, H), "^W must be non-negative"),
    "H_negative": (ValueError, lambda W, H: (W, H - 10), "^H must be non-negative"),
    "W_strings": (TypeError, lambda W, H: (W.astype(str), H), "^W must hold real numbers"),
    "H_complex": (TypeError, lambda W, H: (W, H + 1j), "^H must hold real numbers"),
    "W_sparse": (TypeError, lambda W, H: (sparse.csr_array(W), H), "^W must be a dense array, got a sparse csr_array"),
}


@pytest.mark.parametrize(("error", "change", "sentence"), BAD_FACTORS.values(), ids=BAD_FACTORS)
def test_invalid_factors_are_named(error, change, sentence, planted):
    X, W, H = planted
    for score in SCORES:
        with pytest.raises(error, match=sentence):
            score(X, *change(W, H))


def test_scores_do_not_write_to_factors(planted, unchanged):
    X, W, H = unchanged(*planted)
    W.flags.writeable = H.flags.writeable = False
    for score in SCORES:
        score(X, W, H)


def test_infinite_rates_have_infinite_divergence():
    X, W, H = [[1, 2]], [[1e200]], [[1e200, 1e200]]
    assert kl_divergence(X, W, H) == np.inf
    assert poisson_log_likelihood(X, W, H) == -np.inf
