"""Topics: the probabilities, likelihoods and EM algorithm of PLSI are those of the Poisson model, and conversely."""

import dataclasses
import math

import naive
import numpy as np
import pytest
from conftest import MENAGERIE
from fitting import fit
from scipy import sparse, stats

from fastpmf import as_counts, kl_divergence, poisson_log_likelihood
from fastpmf.analysis.topics import Topics, to_topics
from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums, padded
from fastpmf.model.updates import multiplicative

EPS = np.finfo(float).eps
SCALES = ("rows", "balanced", "columns")


def some_factors(shape=(6, 5), k=3, seed=5):
    """Positive factors with rates of order 1."""
    rng = np.random.default_rng(seed)
    return rng.gamma(1.0, size=(shape[0], k)) + 0.01, rng.gamma(1.0, size=(k, shape[1])) + 0.01


W, H = some_factors()
AWKWARD = {
    "positive": (W, H),
    "sparse": (W * (W > 0.7), H * (H > 0.7)),
    "one_component": (W[:, :1], H[:1]),
    "one_row": (W[:1], H),
    "one_column": (W, H[:, :1]),
    "empty_rows_and_column": (W * [[0], [1], [1], [1], [0], [1]], H * [1, 1, 0, 1, 1]),
    "component_without_rows": (W * [1, 0, 1], H),
    "component_without_columns": (W, H * [[1], [0], [1]]),
    "component_without_anything": (W * [1, 0, 1], H * [[1], [0], [1]]),
    "all_components_dead": (W * [0, 0, 1], H * [[1], [1], [0]]),
    "unequal_scales": (W * [1e-200, 1.0, 1e150], H * [[1e200], [1e-9], [1e-150]]),
}
every_factorization = pytest.mark.parametrize(("W", "H"), AWKWARD.values(), ids=AWKWARD)


def log_poisson(N, rate):
    return (N * naive.log(rate) if N > 0 else 0.0) - rate - math.lgamma(N + 1)


def log_multinomial(x, P):
    """log N! - sum log x! + sum x log P, N = sum x; log P is computed for positive counts only."""
    terms = [(x * naive.log(p) if x > 0 else 0.0) - math.lgamma(x + 1) for x, p in zip(x, P, strict=True)]
    return math.lgamma(x.sum() + 1) + (math.fsum(terms) if -math.inf not in terms else -math.inf)


def likelihoods(X, mu):
    """Joint and conditional log-likelihood of dense counts, given dense rates."""
    rows = [log_multinomial(x, rate / rate.sum()) for x, rate in zip(X, mu, strict=True) if rate.any()]
    return log_multinomial(X.ravel(), (mu / mu.sum()).ravel()), sum(rows)


def near(X, mu, value):
    """Rounding errors are relative to the sum of the absolute values of all terms, each with some tens of roundings."""
    x, T = X[X > 0], mu.sum()
    logs = math.fsum(x * (np.abs(np.log(mu[X > 0])) + 2 * abs(math.log(T))))
    factorials = math.fsum(1 + abs(math.lgamma(n + 1)) for n in (X.sum(), *X.sum(axis=1), *x))
    return pytest.approx(value, abs=50 * EPS * (logs + factorials + T), rel=0)


def assert_close(a, b, rtol=50 * EPS):
    """Both are sums, products and quotients of non-negative numbers, with some tens of roundings."""
    np.testing.assert_allclose(a, b, rtol=rtol)


def assert_same(a, b):
    for field in ("weights", "rows", "columns", "mixtures", "row_totals", "total"):
        assert_close(getattr(a, field), getattr(b, field))


@every_factorization
def test_distributions_sum_to_one_or_are_zero_where_there_is_no_mass(W, H):
    topics, mass = to_topics(W, H), W.sum(axis=0) * H.sum(axis=1)
    assert_close(topics.weights.sum(), mass.any())
    np.testing.assert_array_equal(topics.weights > 0, mass > 0)
    assert_close(topics.rows.sum(axis=0), W.any(axis=0))
    assert_close(topics.columns.sum(axis=1), H.any(axis=1))
    assert_close(topics.mixtures.sum(axis=1), (W @ H).any(axis=1))


@every_factorization
def test_both_forms_have_the_rates_of_the_factors(W, H):
    topics, mu = to_topics(W, H), W @ H
    symmetric, asymmetric = np.zeros_like(mu), np.zeros_like(mu)
    for i, j, k in np.ndindex(*mu.shape, W.shape[1]):
        symmetric[i, j] += topics.total * topics.weights[k] * topics.rows[i, k] * topics.columns[k, j]
        asymmetric[i, j] += topics.row_totals[i] * topics.mixtures[i, k] * topics.columns[k, j]
    assert_close(symmetric, mu)
    assert_close(asymmetric, mu)
    assert_close(topics.row_totals, mu.sum(axis=1))
    assert_close(topics.total, mu.sum())


@pytest.mark.parametrize("scale", SCALES)
@every_factorization
def test_factors_come_back_with_the_same_rates_and_topics(W, H, scale):
    topics = to_topics(W, H)
    again = topics.to_factors(scale)
    assert_close(again[0] @ again[1], W @ H)
    alive = topics.weights > 0  # components without mass may lose their distributions
    assert_same(to_topics(again[0] * alive, again[1] * alive[:, None]), to_topics(W * alive, H * alive[:, None]))


@every_factorization
def test_each_scale_puts_the_counts_into_its_factor(W, H):
    topics = to_topics(W, H)
    mass = topics.total * topics.weights
    assert_close(topics.to_factors()[0], topics.row_totals[:, None] * topics.mixtures)
    np.testing.assert_array_equal(topics.to_factors("rows")[1], topics.columns)
    np.testing.assert_array_equal(topics.to_factors("columns")[0], topics.rows)
    assert_close(topics.to_factors("columns")[1].sum(axis=1), mass)
    for axis, A in enumerate(topics.to_factors("balanced")):
        assert_close(A.sum(axis=axis), np.sqrt(mass))


@every_factorization
def test_scaled_permuted_or_transposed_factors_have_the_same_topics_permuted_or_transposed(W, H):
    topics, d = to_topics(W, H), 10.0 ** np.arange(-1, W.shape[1] - 1)
    assert_same(to_topics(W * d, H / d[:, None]), topics)
    rng = np.random.default_rng(3)
    i, j, k = (rng.permutation(size) for size in (len(W), H.shape[1], W.shape[1]))
    permuted = Topics(topics.weights[k], topics.rows[i][:, k], topics.columns[k][:, j], topics.total)
    assert_same(to_topics(W[i][:, k], H[k][:, j]), permuted)
    transposed = Topics(topics.weights, topics.columns.T, topics.rows.T, topics.total)
    assert_same(to_topics(H.T, W.T), transposed)


def test_components_are_ordered_by_weight_and_ties_by_number():
    assert to_topics([[1, 2, 0, 1, 2]], [[1], [2], [7], [1], [2]]).order.tolist() == [1, 4, 0, 3, 2]


def test_likelihoods_equal_the_oracles_and_add_up_to_the_poisson_likelihood_with_those_of_the_totals(X):
    W, H = some_factors(X.shape)
    topics, dense, mu = to_topics(W, H), X.toarray(), W @ H
    ours = topics.joint_log_likelihood(X), topics.conditional_log_likelihood(X)
    for value, oracle in zip(ours, likelihoods(dense, mu), strict=True):
        assert value == near(dense, mu, oracle)
    poisson = near(dense, mu, poisson_log_likelihood(X, W, H))
    assert ours[0] + log_poisson(dense.sum(), topics.total) == poisson
    assert ours[1] + sum(map(log_poisson, dense.sum(axis=1), topics.row_totals)) == poisson


@pytest.mark.parametrize("scale", SCALES)
def test_the_poisson_likelihood_is_the_multinomial_one_plus_that_of_the_totals_as_in_scipy(scale, planted):
    X, rng = planted[0], np.random.default_rng(1)
    n, p = X.shape
    parts = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(n), 4).T, rng.dirichlet(np.ones(p), 4)
    topics, dense = Topics(*parts, 777.0), X.toarray()
    mu = 777 * (topics.rows * topics.weights) @ topics.columns
    joint = stats.multinomial(X.sum(), mu.ravel() / mu.sum()).logpmf(dense.ravel())
    rows = [stats.multinomial(x.sum(), rate / rate.sum()).logpmf(x) for x, rate in zip(dense, mu, strict=True)]
    poisson = poisson_log_likelihood(X, *topics.to_factors(scale))
    assert poisson == near(dense, mu, joint + stats.poisson(777).logpmf(X.sum()))
    assert poisson == near(dense, mu, sum(rows) + stats.poisson(mu.sum(axis=1)).logpmf(X.sum(axis=1)).sum())
    assert topics.joint_log_likelihood(X) == near(dense, mu, joint)
    assert topics.conditional_log_likelihood(X) == near(dense, mu, sum(rows))


@pytest.mark.parametrize("name", [name for name, (W, H) in AWKWARD.items() if (W @ H).any()])
def test_a_positive_count_of_probability_zero_is_impossible_and_no_counts_have_likelihood_one(name):
    W, H = AWKWARD[name]
    topics, mu = to_topics(W, H), W @ H
    possible, nothing = np.where(mu > 0, 3, 0), np.zeros(mu.shape)
    joint, conditional = likelihoods(possible, mu)
    assert topics.joint_log_likelihood(possible) == near(possible, mu, joint)
    assert topics.conditional_log_likelihood(possible) == near(possible, mu, conditional)
    assert topics.joint_log_likelihood(nothing) == topics.conditional_log_likelihood(nothing) == 0.0
    for place in zip(*np.nonzero(mu == 0), strict=True):
        impossible = possible.copy()
        impossible[place] = 1
        assert topics.joint_log_likelihood(impossible) == topics.conditional_log_likelihood(impossible) == -math.inf


def test_float32_factors_have_float32_distributions_and_float64_sums_and_likelihoods(planted):
    X, *factors = planted
    W, H = (A.astype(np.float32) for A in factors)
    topics, dense, mu = to_topics(W, H), X.toarray(), W.astype(float) @ H.astype(float)
    arrays = topics.rows, topics.columns, topics.mixtures, *topics.to_factors("balanced")
    assert {A.dtype for A in arrays} == {np.dtype(np.float32)}
    assert topics.weights.dtype == topics.row_totals.dtype == np.float64
    assert_close(topics.total, mu.sum())
    np.testing.assert_array_equal(topics.rows, (W / W.sum(axis=0, dtype=float)).astype(np.float32))
    for scale in SCALES:  # two factors, each rounded twice, and a product in float32
        assert_close(np.matmul(*topics.to_factors(scale)), mu, rtol=8 * np.finfo(np.float32).eps)
    rows, columns, mixtures = naive.wide(topics.rows, topics.columns, topics.mixtures)
    P, conditional = rows * topics.weights @ columns, mixtures @ columns
    assert topics.joint_log_likelihood(X) == near(dense, P, log_multinomial(dense.ravel(), P.ravel()))
    assert topics.conditional_log_likelihood(X) == near(dense, P, sum(map(log_multinomial, dense, conditional)))
    assert to_topics(W, H.astype(float)).rows.dtype == to_topics([[1]], [[2]]).columns.dtype == np.float64


def test_likelihoods_do_not_depend_on_format_or_threads_and_write_nothing(planted, unchanged):
    X, W, H = unchanged(*planted)
    W.flags.writeable = H.flags.writeable = False
    topics = to_topics(W, H)
    unchanged(topics.weights, topics.rows, topics.columns)
    for score in (topics.joint_log_likelihood, topics.conditional_log_likelihood):
        assert score(X) == score(X.tocsc()) == score(as_counts(X)) == score(X.toarray(), n_threads=1)


def test_the_best_totals_are_those_of_the_counts(planted):
    X, W, H = planted
    topics, N, rng = to_topics(W, H), X.sum(axis=1), np.random.default_rng(0)
    best = to_topics(N[:, None] * topics.mixtures, topics.columns)
    pairs = [(dataclasses.replace(topics, total=N.sum()), N.sum(), factor) for factor in (0.5, 0.99, 1.01, 2.0)]
    pairs += [(best, N, rng.uniform(0.5, 2.0, len(N))) for _ in range(3)]
    for matched, totals, factor in pairs:
        W, H = matched.to_factors()
        other = W * np.reshape(factor, (-1, 1))
        loss = np.sum(totals * (factor - 1 - np.log(factor)))  # > 0, and whatever the probabilities are
        change = poisson_log_likelihood(X, W, H) - poisson_log_likelihood(X, other, H)
        assert change == near(X.toarray(), other @ H, loss)


def test_with_equal_row_totals_all_likelihoods_and_the_divergence_differ_by_the_same_amount(planted):
    X, scores = planted[0], []
    for seed in range(3):
        topics = to_topics(*some_factors(X.shape, seed=seed))
        matched = X.sum(axis=1)[:, None] * topics.mixtures, topics.columns
        topics = to_topics(*matched)
        plsi = topics.joint_log_likelihood(X), topics.conditional_log_likelihood(X)
        scores.append([*plsi, poisson_log_likelihood(X, *matched), -kl_divergence(X, *matched)])
    joint, *others = np.diff(scores, axis=0).T
    for other in others:
        assert_close(other, joint, rtol=1e-11)  # changes of about a tenth of what they are differences of


def expected_counts(X, weights, rows, columns):
    """x_ij P(z|i, j), shape (n, p, k): the expectation step of PLSI."""
    out = np.zeros((*X.shape, len(weights)))
    for i, j in naive.stored(X):
        joint = weights * rows[i] * columns[:, j]
        out[i, j] = X[i, j] * joint / joint.sum()
    return out


@pytest.mark.parametrize("name", ["planted", "empty_row", "empty_column", "fractional"])
def test_em_is_plsi_iteration_by_iteration(name):
    X, rng, watched = MENAGERIE[name].toarray(), np.random.default_rng(8), []
    plsi = [rng.dirichlet(np.ones(3)), *(rng.dirichlet(np.ones(size), 3) for size in X.shape)]
    plsi[1] = plsi[1].T
    watch = {"eval_every": 1, "callback": lambda record, W, H: watched.append(to_topics(W, H))}
    fit(X, start=Topics(*plsi, 1.0).to_factors("balanced"), solver="em", max_iter=5, **watch)
    assert len(watched) == 6
    for topics in watched:
        for ours, theirs in zip((topics.weights, topics.rows, topics.columns), plsi, strict=True):
            assert_close(ours, theirs, rtol=1e-12)  # later iterations hardly enlarge what earlier ones rounded
        expected = expected_counts(X, *plsi)
        N = expected.sum(axis=(0, 1))
        plsi = [N / X.sum(), expected.sum(axis=1) / N, expected.sum(axis=0).T / N[:, None]]
    assert_close(watched[-1].row_totals, X.sum(axis=1))


def test_a_half_step_matches_row_totals_and_is_the_em_step_for_mixtures(planted):
    X, W, H = planted
    before, U, V = to_topics(W, H), padded(W, np.dtype(float)), padded(H.T, np.dtype(float))
    S = np.empty_like(U)
    as_counts(X).contract(Side.ROWS, U, V, S)
    multiplicative(Subproblem(Side.ROWS, 3, V, column_sums(V)[None]), U, S, out=U)
    after = to_topics(U[:, : W.shape[1]], H)
    expected = expected_counts(X, before.weights, before.rows, before.columns).sum(axis=1)
    assert_close(after.row_totals, X.sum(axis=1))
    assert_close(after.mixtures, expected / X.sum(axis=1)[:, None])


BAD = {
    "W_vector": (ValueError, (W[:, 0], H), r"^W must be a matrix .* got shape \(6,\)"),
    "H_empty": (ValueError, (W, H[:, :0]), r"^H must be a matrix with at least .* got shape \(3, 0\)"),
    "H_transposed": (ValueError, (W, H.T), "^H must have 3 rows, as many as W has columns, got 5: give its transpose$"),
    "W_negative": (ValueError, (-W, H), "^W must be non-negative"),
    "H_sparse": (TypeError, (W, sparse.csr_array(H)), "^H must be a dense array, got a sparse csr_array"),
    "too_large": (ValueError, (W * 1e200, H * 1e200), "^W and H must be small enough"),
    "too_large_a_sum": (ValueError, (W * 0, H + 1e308), "^W and H must be small enough"),
}


@pytest.mark.parametrize(("error", "factors", "sentence"), BAD.values(), ids=BAD)
def test_invalid_factors_are_named(error, factors, sentence):
    with pytest.raises(error, match=sentence):
        to_topics(*factors)


def test_an_invalid_scale_or_shape_of_x_is_named():
    topics = to_topics(W, H)
    with pytest.raises(ValueError, match=r"^scale must be one of 'rows', 'balanced', 'columns', got 'H'"):
        topics.to_factors("H")
    for score in (topics.joint_log_likelihood, topics.conditional_log_likelihood):
        with pytest.raises(ValueError, match=r"^X must have shape \(6, 5\), .* got \(5, 6\)"):
            score(np.ones((5, 6)))


def test_factors_out_of_the_range_of_float32_are_rejected():
    topics = to_topics(np.full((3, 2), 1e25, np.float32), np.full((2, 4), 1e20, np.float32))
    with pytest.raises(ValueError, match=r"^W is out of the range of float32 with scale='rows': take W and H in"):
        topics.to_factors()
    W, H = topics.to_factors("balanced")
    np.testing.assert_allclose(W.astype(float) @ H, 2e45, rtol=1e-5)
