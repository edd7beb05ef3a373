"""Special functions on vectors, and the kernels of Gamma posteriors, against their oracles; with the JIT off too."""

import naive_hpf
import numba
import numpy as np
import pytest
from scipy.special import digamma, gammaln

from fastpmf import as_counts
from fastpmf.core.factors import padded
from fastpmf.kernels import simd, special
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.formula import formula
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.posterior import posterior_terms, update_posterior
from fastpmf.kernels.simd import VECTOR_BYTES
from fastpmf.kernels.threads import current_threads, threads

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
EPS = np.finfo(float).eps
ROOT = 1.4616321449683623  # of digamma
GRID = np.concatenate([
    np.logspace(-300, 12, 313), np.logspace(-3, 2, 500), ROOT * (1 + np.linspace(-1e-3, 1e-3, 101)),
    ROOT * (1 + np.logspace(-15, -3, 13)), np.linspace(7.5, 8.5, 101), np.nextafter(8, [0, 8, 9]),
])  # fmt: skip
# scipy's digamma and gammaln are themselves off by up to this, times max(1, |value|)
SCIPY = {"digamma": 3e-16, "gammaln": 5e-16}


@formula(4)
def special_functions(x):
    """digamma, log Gamma, exp(-x) and exp(digamma), as kernels evaluate them."""
    log_gamma, digamma = special.log_gamma_and_digamma(x)
    return digamma, log_gamma, special.exp(-x), special.height(x) * special.exp(-special.decay(x))


@kernel(writes=4)
def evaluate_rows(table, row, worker):
    """`special_functions` of each number; a task is a row of one vector."""
    x, digamma, log_gamma, exp, geometric = arguments(table)
    a, b, c, d = special_functions(simd.load(x, row, 0))
    simd.store(digamma, row, 0, a)
    simd.store(log_gamma, row, 0, b)
    simd.store(exp, row, 0, c)
    simd.store(geometric, row, 0, d)


def evaluate(x):
    """`special_functions` of numbers, shape (4, len(x))."""
    lanes = VECTOR_BYTES // 8
    cut = np.pad(x, (0, -len(x) % lanes), constant_values=1.0).reshape(-1, lanes)
    out = np.full((4, *cut.shape), np.nan)
    evaluate_rows(len(cut), cut, *out)
    return out.reshape(4, -1)[:, : len(x)]


def assert_within(a, b, bound):
    """|a - b| at most `bound` times max(1, |b|)."""
    np.testing.assert_array_less(np.abs(a - b) / np.maximum(1, np.abs(b)), bound)


def test_digamma_is_within_its_bound_of_scipys():
    assert_within(evaluate(GRID)[0], digamma(GRID), 7e-16 + SCIPY["digamma"])


def test_log_gamma_is_within_its_bound_of_scipys():
    assert_within(evaluate(GRID)[1], gammaln(GRID), 1e-14 + SCIPY["gammaln"])


def exact(x):
    """digamma and log Gamma in long double: recurrence up to 30, then Stirling's series, whose rest is below 1e-21."""
    y = x.astype(np.longdouble)
    below, product = np.zeros_like(y), np.ones_like(y)
    for _ in range(30):
        small = y < 30
        below[small] += 1 / y[small]
        product[small] *= y[small]
        y[small] += 1
    numbers = [np.longdouble(a) / b for a, b in ((1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6))]
    terms = [(n, b / y ** (2 * n)) for n, b in enumerate(numbers, 1)]
    logs = np.log(y)
    half_log = np.log(2 * np.arctan2(np.longdouble(0), np.longdouble(-1))) / 2
    log_gamma = (y - 0.5) * logs - y + half_log + sum(t * y / (2 * n * (2 * n - 1)) for n, t in terms)
    return logs - 0.5 / y - sum(t / (2 * n) for n, t in terms) - below, log_gamma - np.log(product)


def test_error_bounds_hold_where_rounding_is_worst_and_at_subnormal_numbers():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 10, 20_000), 10 ** rng.uniform(-307, 15, 2000), [5.6e-309, 2.3e-308]])
    found, (of_digamma, of_log_gamma) = evaluate(x), exact(x)
    rest = 64 * np.finfo(np.longdouble).eps  # on some machines that of a double
    # With the JIT off the same formula has no fused operations, and rounds once more
    assert_within(found[0], of_digamma, (7e-16 if not numba.config.DISABLE_JIT else 9e-16) + rest)
    assert_within(found[1], of_log_gamma, 1e-14 + rest)
    moderate = of_digamma > -700
    bound = (7e-16 if not numba.config.DISABLE_JIT else 9e-16) * np.maximum(1, np.abs(of_digamma[moderate])) + rest
    assert (np.abs(found[3][moderate] / np.exp(of_digamma[moderate]) - 1) <= bound).all()
    assert (evaluate(np.array([5e-324, 1e-310]))[0] == -np.inf).all()


def test_the_logarithm_is_within_two_units_in_the_last_place_at_any_positive_number():
    rng = np.random.default_rng(0)
    x = np.concatenate([
        [5e-324, 1e-310, np.finfo(float).tiny, np.finfo(float).max, 1], 10 ** rng.uniform(-323, 308, 3000),
        rng.uniform(0.5, 2, 10_000), 1 + rng.choice([-1, 1], 1000) * 10 ** rng.uniform(-16, -1, 1000),
    ])  # fmt: skip
    U = padded(x[:, None], F64)
    found = as_counts(np.ones((len(x), 1))).log_rate(U, padded(np.ones((1, 1)), F64))
    expected = np.log(x.astype(np.longdouble))
    assert (np.abs(found - expected) <= 2 * np.spacing(np.abs(expected).astype(float))).all()
    assert as_counts(np.ones((1, 1))).log_rate(U[:1] * 0, padded(np.ones((1, 1)), F64)) == -np.inf


def test_the_exponential_is_accurate_and_never_less_than_a_normal_number():
    x = np.concatenate([np.logspace(-300, np.log10(708), 2000), np.linspace(1e-3, 708, 2000)])
    np.testing.assert_allclose(evaluate(x)[2], np.exp(-x), rtol=2 * EPS)
    far = evaluate(np.array([709.0, 1e4, 1e300]))[2]
    np.testing.assert_allclose(far, np.exp(-708.0), rtol=2 * EPS)
    assert (far > np.finfo(float).tiny).all()


def test_the_exponential_of_digamma_needs_no_logarithm():
    logs = digamma(GRID)
    moderate = logs > -708
    # the errors of both digammas are those of an exponent, and some roundings
    bound = (9e-16 + SCIPY["digamma"]) * np.maximum(1, np.abs(logs[moderate]))
    assert (np.abs(evaluate(GRID)[3][moderate] / np.exp(logs[moderate]) - 1) <= bound).all()


def test_digamma_increases_where_its_two_formulas_meet_except_for_rounding():
    steps = np.diff(evaluate(8 + EPS * 8 * np.arange(-2000.0, 2000.0))[[0, 3]], axis=1)
    assert steps[0].min() >= -2 * 6e-16 * digamma(8)
    assert steps[1].min() >= -2 * 6e-16 * digamma(8) * np.exp(digamma(8)) - 4 * EPS * 8
    assert (np.diff(evaluate(np.linspace(7, 9, 1000))[[0, 3]], axis=1) > 0).all()


# ── posteriors ──────────────────────────────────────────────────────────────────────────────────────────────────


class Rows:
    """Seven rows of posteriors in three blocks, cut into vectors, and a step on them.

    All of them are random, but reproducible.
    """

    bounds = np.array([0, 3, 4, 7])

    def __init__(self, k, dtype, *, weights=1, prior=0.3, seed=0):
        rng = np.random.default_rng(seed)
        self.k, self.dtype, self.n = k, dtype, 7
        self.lanes = VECTOR_BYTES // dtype.itemsize
        self.width = -(-k // self.lanes)
        self.X = rng.poisson(1.5, (self.n, 9)).astype(float)
        self.X[2] = 0
        self.V = rng.gamma(1.0, size=(9, k)) + 0.01
        self.U, self.old = (rng.gamma(1.0, size=(self.n, k)) + 0.01 for _ in range(2))
        self.observed = np.ones((self.n, 9), bool) if weights == 1 else rng.random((self.n, 9)) < 0.7
        self.X *= self.observed
        self.prior, self.rate_of_row = prior, rng.gamma(1.0, size=self.n) + 0.1
        self.weight = self.pad(self.observed.astype(float)[:weights] @ self.V, np.inf)
        self.geometric, self.old_mean = self.pad(self.U), rng.gamma(1.0, size=(self.n, k)).astype(dtype)
        self.S = self.pad(np.array([((x / (self.V @ u)) @ self.V) for x, u in zip(self.X, self.U, strict=True)]))

    def pad(self, A, value=0.0):
        out = np.full((len(A), self.width * self.lanes), value, self.dtype)
        out[:, : self.k] = A
        return out

    def step(self, *, floor=0.0, rho=1.0, times=1.0):
        self.mean, self.shape = self.pad(self.old_mean), self.pad(self.old)
        sums = np.full((3, self.width * self.lanes), np.nan)
        self.row_sum, self.offset, self.moved = (np.full(self.n, np.nan) for _ in range(3))
        update_posterior(
            3, self.S, self.pad([[self.prior] * self.k]), self.rate_of_row, self.weight, self.bounds,
            len(self.weight) > 1, floor, rho, times, self.geometric, self.mean, self.shape, sums, self.row_sum,
            self.offset, self.moved, np.full((current_threads(), sums.shape[1]), np.nan, self.dtype),
        )  # fmt: skip
        self.sums = sums.sum(axis=0)
        return self

    def terms(self):
        terms, logs = np.full(3, np.nan), np.full(self.n, np.nan)
        prior = self.pad([[self.prior] * self.k])
        posterior_terms(
            3, self.shape, prior, self.rate_of_row, self.weight, self.bounds, len(self.weight) > 1, terms, logs
        )
        return terms, logs

    def expected(self):
        """Shapes and rates of the oracle."""
        prior = self.prior, 1.0, 1.0, False
        return naive_hpf.half_step(
            self.X, np.log(self.U), np.log(self.V), self.V, self.rate_of_row, prior, self.observed
        )[:2]

    @property
    def bits(self):
        parts = self.geometric, self.mean, self.shape, self.sums, self.row_sum, self.offset, self.moved
        return [part.tobytes() for part in parts]


both_dtypes = pytest.mark.parametrize("dtype", [F32, F64], ids=str)
sizes = pytest.mark.parametrize("k", [1, 3, 20])


@both_dtypes
@sizes
@pytest.mark.parametrize("weights", [1, 7], ids=["all_observed", "some_observed"])
def test_the_update_agrees_with_the_oracle(k, dtype, weights):
    rows = Rows(k, dtype, weights=weights).step()
    shape, rate = rows.expected()
    eps = np.finfo(dtype).eps
    # S of the oracle is float64, and rounded once; shapes, rates and means are a few more roundings of positive sums
    np.testing.assert_allclose(rows.shape[:, :k], shape, rtol=8 * eps)
    np.testing.assert_allclose(rows.mean[:, :k], shape / rate, rtol=16 * eps)
    logs = np.log(rows.geometric[:, :k].astype(float)) - rows.offset[:, None]
    # the shape's rounding is multiplied by shape digamma'(shape) <= 1 + 1 / shape; digamma in float32 is within 5e-7
    bound = (16 * eps * (1 + 1 / shape) + (5e-7 if dtype == F32 else 6e-16)) * np.maximum(1, np.abs(digamma(shape)))
    assert (np.abs(logs - naive_hpf.log_mean(shape, rate)) <= bound).all()
    np.testing.assert_allclose(rows.sums[:k], (shape / rate).sum(axis=0), rtol=16 * eps)
    np.testing.assert_allclose(rows.row_sum, (shape / rate).sum(axis=1), rtol=(k + 16) * eps)
    moved = (rate * np.abs(shape / rate - rows.old_mean)).sum(axis=1)
    size = (shape + rate * rows.old_mean).sum(axis=1)
    np.testing.assert_allclose(rows.moved / size, moved / size, rtol=0, atol=(k + 16) * eps)


@both_dtypes
@sizes
def test_padding_stays_zero_and_the_largest_entry_of_a_row_is_not_tiny(k, dtype):
    rows = Rows(k, dtype).step()
    for A in (rows.mean, rows.shape, rows.geometric):
        assert (A[:, k:] == 0).all()
    assert (rows.sums[k:] == 0).all()
    rate = rows.weight[:, :k] + rows.rate_of_row[:, None]
    heights = (rows.geometric[:, :k] * rate).max(axis=1)
    assert (heights >= 1 - 1e-6).all()  # exp 0, or the shape from 8 on


@both_dtypes
def test_the_update_does_not_depend_on_factors_of_rows(dtype):
    plain, scaled = Rows(3, dtype), Rows(3, dtype)
    powers = 2.0 ** np.arange(-30, 40, 10, dtype=dtype)[:, None]  # exact
    scaled.geometric *= powers
    scaled.S /= powers
    assert scaled.step().bits == plain.step().bits


@both_dtypes
@pytest.mark.parametrize("prior", [1e-3, 1e-12, 3.4472876e-14, 1e-30])
def test_tiny_shapes_leave_no_rate_zero_and_nothing_that_is_not_finite(dtype, prior):
    floor = 1e-18 if dtype == F32 else 1e-150
    rows = Rows(3, dtype, prior=prior).step(floor=floor)  # row 2 has no counts: exp(digamma(1e-30)) is exp(-1e30)
    for A in (rows.mean, rows.shape, rows.geometric, rows.offset, rows.moved, rows.row_sum):
        assert np.isfinite(A).all()
    for A in (rows.mean, rows.shape, rows.geometric):
        assert (A[:, :3] > 0).all()
        assert (A[:, 3:] == 0).all()
    assert (rows.geometric[:, :3] >= floor * 0.99 / (rows.weight[:, :3] + rows.rate_of_row[:, None])).all()
    np.testing.assert_allclose(rows.shape[2, :3], prior, rtol=np.finfo(dtype).eps)
    assert all(np.isfinite(part).all() for part in rows.terms())


def test_the_exponential_of_digamma_is_within_its_bound_in_float32():
    # The other shape is so large that digamma is nearly the logarithm, so the offset is about 0
    x = np.concatenate([np.logspace(np.log10(0.0125), 12, 400), np.linspace(7.5, 8.5, 100)]).astype(np.float32)
    for shapes in np.resize(x, (-(-len(x) // 7), 7)):
        rows = Rows(2, F32, prior=1e-30)
        rows.geometric[:, :2], rows.S[:, 0], rows.S[:, 1] = 1, shapes, 1e10
        rows.weight[:, :2], rows.rate_of_row[:] = 1, 0
        rows.step()
        logs = digamma(shapes.astype(float))
        found = rows.geometric[:, 0] * np.exp(-rows.offset)
        assert (np.abs(found / np.exp(logs) - 1) <= 5e-7 * np.maximum(1, np.abs(logs))).all()


@both_dtypes
def test_a_step_along_the_natural_gradient_is_a_blend_of_parameters(dtype):
    rows = Rows(3, dtype).step(rho=0.25, times=10.0)
    shape = 0.75 * rows.old + 0.25 * (rows.prior + 10 * (rows.expected()[0] - rows.prior))
    np.testing.assert_allclose(rows.shape[:, :3], shape, rtol=16 * np.finfo(dtype).eps)
    assert (rows.shape[:, 3:] == 0).all()


def test_a_value_that_is_not_finite_is_reported_in_its_row():
    rows = Rows(3, F64)
    rows.S[3, 1] = np.nan
    rows.step()
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(rows.moved)), [3])


@both_dtypes
@sizes
@pytest.mark.parametrize("weights", [1, 7], ids=["all_observed", "some_observed"])
def test_terms_of_the_bound_agree_with_the_oracle_to_float64(k, dtype, weights):
    rows = Rows(k, dtype, weights=weights).step()
    terms, logs = rows.terms()
    shape = rows.shape[:, :k].astype(float)
    rate = (rows.weight + rows.rate_of_row.astype(dtype)[:, None])[:, :k].astype(float)
    prior = float(dtype.type(rows.prior))
    log_mean = naive_hpf.log_mean(shape, rate)
    parts = (prior - shape) * log_mean, -shape * np.log(rate), gammaln(shape), shape
    size = np.abs(parts).sum(axis=(0, 2))
    # log Gamma is within 1e-14 of max(1, its size), the rest some roundings
    error = np.abs(np.add.reduceat(sum(parts).sum(axis=1), rows.bounds[:-1]) - terms)
    assert (error <= 2e-14 * np.add.reduceat(size + k, rows.bounds[:-1])).all()
    np.testing.assert_allclose(logs, log_mean.sum(axis=1), rtol=0, atol=4e-15 * np.abs(log_mean).sum(axis=1).max())


@both_dtypes
def test_one_and_two_threads_give_the_same_bits(dtype):
    found = []
    for n in (1, 2):
        with threads(n):
            rows = Rows(20, dtype, weights=7).step()
            found.append([*rows.bits, *(part.tobytes() for part in rows.terms())])
    assert found[0] == found[1]
