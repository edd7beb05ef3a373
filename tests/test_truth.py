"""Numerical truth: optima, gradients, certificates and evidence, compared with computations independent of fastpmf.

Objectives here are dense and accept complex numbers, so that their derivatives are exact. The optimum of a convex
problem is that of SciPy's SLSQP, and integrals are sums over grids of logarithms.
"""

import math

import numpy as np
import pytest
from fitting import fit
from scipy import optimize, sparse
from scipy.special import gammaln, logsumexp
from test_solvers import SOLVERS

from fastpmf import HPF, as_counts
from fastpmf.core.counts import Side
from fastpmf.core.factors import padded
from fastpmf.fitting.options import FitData, Penalties
from fastpmf.fitting.problem import build_problem
from fastpmf.fitting.transform import transform
from fastpmf.solvers import FactorState

# A warning of SciPy before 1.16; values are clipped that are out of bounds by 1e-16
pytestmark = pytest.mark.filterwarnings("ignore:Values in x were outside bounds during a minimize step")
SHAPE = (3, 6)
UNEVEN = {
    "row_exposure": np.array([0.2, 1.0, 5.0]), "column_exposure": np.linspace(0.3, 2.0, 6),
    "background": np.linspace(0.0, 0.5, 6), "sample_weight": np.array([0.5, 1.0, 3.0]),
    "mask": np.random.default_rng(3).random(SHAPE) < 0.25,
}  # fmt: skip
GAMMA = {"prior_W": (1.5, 2.0), "prior_H": ([1.2, 2.0, 3.0], 0.5)}
PENALTIES = {
    "likelihood": {}, "shape": GAMMA, "nearly flat": {"prior_W": (1.001, 0.01), "prior_H": (1.01, 0.01)},
    "l1": {"alpha_W": 0.05, "l1_ratio": 1.0}, "l2": {"alpha_W": 0.05}, "l1 and l2": {"alpha_W": 0.05, "l1_ratio": 0.5},
}  # fmt: skip
MODELS = PENALTIES | {
    "background": {"background": 0.3},
    "uneven": UNEVEN,
    "uneven shape": UNEVEN | GAMMA,
    "uneven l1 and l2": UNEVEN | PENALTIES["l1 and l2"],
}
models = pytest.mark.parametrize("given", MODELS.values(), ids=MODELS)


def small_problem(seed=1):
    rng = np.random.default_rng(seed)
    W, H = rng.gamma(1.0, size=(SHAPE[0], 3)) + 0.02, rng.gamma(1.0, size=(3, SHAPE[1])) + 0.02
    return rng.poisson(4 * W @ H).astype(float) + 1, W, H


def penalties(given, name, size):
    """(shape - 1, rate, ridge) of a factor."""
    if f"prior_{name}" in given:
        shape, rate = given[f"prior_{name}"]
        return np.broadcast_to(shape, 3) - 1.0, np.array(rate, float), 0.0
    alpha, l1 = size * given.get("alpha_W", 0.0), given.get("l1_ratio", 0.0)
    return np.zeros(3), alpha * l1, alpha * (1 - l1)


def parts(X, given):
    """Exposures of each entry, its weight (0 where it is not observed), the background, and both factors' penalties."""
    n, p = X.shape
    exposure = np.outer(given.get("row_exposure", np.ones(n)), given.get("column_exposure", np.ones(p)))
    weight = given.get("sample_weight", np.ones(n))
    seen = weight[:, None] * (1.0 - given.get("mask", np.zeros((n, p))))
    return (
        exposure,
        seen,
        given.get("background", 0.0),
        weight[:, None],
        penalties(given, "W", p),
        penalties(given, "H", n),
    )


def objective(X, W, H, given, sides="WH"):
    """What a fit minimises, dense, for real or complex factors; with the penalties of these sides."""
    exposure, seen, background, weight, of_W, of_H = parts(X, given)
    rates = exposure * (W @ H + background)
    out = (seen * (X * np.log(X / rates) - X + rates)).sum()
    for name, A, w, (shape, rate, ridge) in (("W", W, weight, of_W), ("H", H.T, 1.0, of_H)):
        if name in sides:
            logs = shape * np.log(A) if shape.any() else 0.0
            out += (w * (rate * A + ridge * A * A / 2 - logs)).sum()
    return out


def complex_gradient(f, A):
    """df / dA, good to the last place, since nothing is subtracted."""
    out = np.empty(A.shape)
    for at in np.ndindex(*A.shape):
        moved = A.astype(complex)
        moved[at] += 1e-100j
        out[at] = f(moved).imag / 1e-100
    return out


def prices(X, W, H, given):
    """The slope along each entry of W and of H' that rates and penalties of shape 1 make."""
    exposure, seen, _, weight, of_W, of_H = parts(X, given)
    up = seen * exposure
    return up @ H.T + weight * of_W[1], up.T @ W + of_H[1]


# ── optima ──────────────────────────────────────────────────────────────────────────────────────────────────────


def least(X, H, given):
    """The least objective of a row after the other, by SLSQP, as a sum."""
    total = 0.0
    per_row = [name for name in ("row_exposure", "sample_weight", "mask") if name in given]
    size = X.sum(axis=1) / prices(X, np.ones((len(X), len(H))), H, given)[0].max(axis=1)
    for i, unit in enumerate(size):
        row = given | {name: given[name][i : i + 1] for name in per_row}

        def both(z, i=i, row=row, unit=unit):
            def f(W):
                return objective(X[i : i + 1], W, H, row, "W")

            W = unit * z[None]
            return f(W), unit * complex_gradient(f, W)[0]

        # Keeps away from the poles of logarithms; below the entries of an optimum with a shape
        floor = 1e-6 if "prior_W" in given else 1e-12
        total += min(
            optimize.minimize(both, np.full(len(H), start), jac=True, method="SLSQP", bounds=[(floor, None)] * len(H),
                              options={"ftol": 1e-15, "maxiter": 500}).fun
            for start in (0.1, 0.5)
        )  # fmt: skip
    return total


@models
def test_every_solver_reaches_the_optimum_of_a_convex_problem_that_slsqp_finds(given):
    X, _, H = small_problem()
    lowest = least(X, H, given)
    for name, options in SOLVERS.items():
        solution = fit(X, max_iter=20_000, tol=1e-10, n_threads=1, fixed_H=H, **given, **options)
        there = objective(X, np.maximum(solution.W, 1e-300), H, given, "W")
        assert (solution.objective, there) == pytest.approx((lowest, lowest), rel=1e-8), name


@pytest.mark.parametrize("given", PENALTIES.values(), ids=PENALTIES)
def test_the_columns_problem_and_transform_have_that_optimum_too(given):
    X, _, H = small_problem()
    turned = given | ({"prior_H": given["prior_W"]} if "prior_W" in given else {"alpha_H": given.get("alpha_W", 0.0)})
    columns = fit(X.T, solver="cd", max_iter=20_000, tol=1e-10, n_threads=1, fixed_W=H.T, **turned)
    rows, _ = transform(as_counts(X), H, max_iter=5000, tol=1e-12, penalties=Penalties(**given))
    lowest = least(X, H, given)
    assert objective(X, np.maximum(rows, 1e-300), H, given, "W") == pytest.approx(lowest, rel=1e-8)
    assert columns.objective == pytest.approx(lowest, rel=1e-8)


# ── gradients ───────────────────────────────────────────────────────────────────────────────────────────────────


@models
def test_gradients_and_the_residual_are_those_of_complex_steps_through_the_dense_objective(given):
    X, W, H = small_problem()
    penalty = Penalties(**{name: value for name, value in given.items() if name in Penalties._fields})
    data = FitData(**{name: value for name, value in given.items() if name not in Penalties._fields})
    problem = build_problem(as_counts(X), 3, np.dtype(float), penalty, data)
    scaled = (A * scale[:, None] for A, scale in zip((W, H.T), problem.scales, strict=True))
    state = FactorState.start(problem, *problem.start(*(padded(A, np.dtype(float)) for A in scaled)))
    units = state.units[:3]  # those that maximise the prior density
    W, Ht = W * units, H.T / units
    assert problem.objective(state) == pytest.approx(objective(X, W, Ht.T, given), rel=1e-13)
    _, seen, _, weight, of_W, of_H = parts(X, given)
    shapes = weight * of_W[0], np.broadcast_to(of_H[0], Ht.shape)
    slopes = (
        complex_gradient(lambda A: objective(X, A, Ht.T, given), W),
        complex_gradient(lambda A: objective(X, W, A.T, given), Ht),
    )
    gaps = []
    for side, A, counts in zip(Side, (W, Ht), (seen * X, (seen * X).T), strict=True):
        U, S = state.factors[side], np.empty_like(state.factors[side])
        problem.counts.contract(side, U, state.factors[1 - side], S)
        subproblem = problem.subproblem(side, state)
        d, shape, ridge, _ = subproblem.kernel_arrays()
        price, slope = prices(X, W, Ht.T, given)[side], slopes[side]
        # u df/du has no units; it is a difference of terms that are rounded some ten times
        np.testing.assert_allclose((U * (d + ridge * U - S) - shape)[:, :3], A * slope, atol=1e-14 * (A * price).max())
        total, excess = counts.sum(axis=1) + shapes[side].sum(axis=1), (-slope / price).max(axis=1)
        gap = (A * slope).sum(axis=1) + total * (np.maximum(excess, 0) if subproblem.row_sums_unknown else excess)
        gaps.append(np.maximum(gap, 0).sum())
    assert problem.residual(state) == pytest.approx(max(gaps) / (seen * X).sum(), rel=1e-12)


# ── certificates ────────────────────────────────────────────────────────────────────────────────────────────────


def gains(X, H, found, better):
    """By how much the divergence of the rows `better` is below that of `found`; long double, and in differences."""
    X, H, found, better = (A.astype(np.longdouble) for A in (X, H, found, better))
    rates, move = better @ H, (found - better) @ H
    logs = np.log1p(np.divide(move, rates, where=X > 0, out=np.zeros_like(rates)))
    return (move - X * logs).sum(axis=1).astype(float)


def certified(X, H, **how):
    with np.errstate(all="ignore"):
        return transform(as_counts(X), H, warn_unconverged=False, **how)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_row_can_gain_more_than_its_certificate_says_whatever_the_scales(dtype):
    # Counts from 1e-8 to 1e8, zero rows, collinear and zero components; float32 rounds by some 1e-6 nats per count
    rng, slack = np.random.default_rng(4), 1e-6 if dtype == np.float32 else 1e-13
    for k, p in ((1, 3), (2, 40), (5, 12), (8, 20)):
        H = rng.gamma(0.3, size=(k, p)) * 10 ** rng.uniform(-4, 4, (k, 1)) + 1e-6
        H[-1] = H[0] * (1 + 1e-3 * rng.normal(size=p))
        X = rng.poisson(3.0, (40, p)) * 10 ** rng.uniform(-8, 8, (40, 1))
        X[20:] *= 10 ** rng.uniform(-4, 4, (20, p))
        X[::9] = 0
        X, H = X.astype(dtype), np.abs(H).astype(dtype)
        best, _ = certified(X.astype(float), H.astype(float), max_iter=300, tol=1e-12)
        for rounds in (1, 4, 40):
            W, gap = certified(X, H, max_iter=rounds, tol=1e-7)
            gain = gains(X, H, W, best)
            assert (gain <= gap + slack * X.sum(axis=1, dtype=float)).all()
            assert gain[0] == gap[0] == 0  # no counts


def test_the_certificate_of_a_long_row_in_float32_is_not_rounded_away_where_all_of_it_is_alike():
    # Roundings of such sums are alike too: added up in float32, they were 1e-4 of a sum of 10^5 terms
    H = np.full((2, 10**5), 0.1, np.float32) * np.array([[1.17], [1.09]], np.float32)
    H[0, :30_000] *= 1.4
    X = sparse.csr_array(np.full((1, 10**5), 0.7, np.float32))
    best, _ = certified(X.astype(float), H.astype(float), max_iter=300, tol=1e-13)
    for given in ({"max_iter": 1, "tol": 1e-2}, {"max_iter": 30, "tol": 1e-4}, {"max_iter": 300, "tol": 1e-5}):
        W, gap = certified(X, H, **given)
        assert (gains(X.toarray(), H, W, best) <= gap + 2e-6 * X.sum()).all()
    assert gap[0] <= 1e-5 * X.sum()


# ── evidence ────────────────────────────────────────────────────────────────────────────────────────────────────

LOGS = np.linspace(-60, 12, 1441)  # of rates, in steps that leave sums over them exact to some 1e-13


def integral(log_density):
    """Log of the integral over a rate, from the density of its logarithm on the grid."""
    return logsumexp(log_density, axis=-1) + math.log(LOGS[1] - LOGS[0])


def log_prior(a, a_prime, b_prime, hierarchy):
    """Log density of log u, u ~ Gamma(a, xi), xi ~ Gamma(a', a' / b') integrated out; or xi = b'."""
    if not hierarchy:
        return a * math.log(b_prime) - gammaln(a) + a * LOGS - b_prime * np.exp(LOGS)
    b = a_prime / b_prime
    norm = gammaln(a + a_prime) - gammaln(a) - gammaln(a_prime) + a_prime * math.log(b)
    return norm + a * LOGS - (a + a_prime) * np.log(b + np.exp(LOGS))


def log_evidence(x, of_W, of_H):
    """log p(x) of a column of counts with one component, by sums over both grids."""
    rates = LOGS[:, None] + LOGS  # of v, then of u
    rows = [integral(of_W + n * rates - np.exp(rates) - gammaln(n + 1)) for n in x]
    return float(integral(of_H + sum(rows)))


def expectations(shape, rate):
    """E[log u], E[u] and E[log q(u)] of Gamma distributions, by sums over the grid."""
    density = shape * math.log(rate) - gammaln(shape) + shape * LOGS - rate * np.exp(LOGS)
    q = np.exp(density) * (LOGS[1] - LOGS[0])
    return q @ LOGS, q @ np.exp(LOGS), q @ (density - LOGS)


def bound(x, model, hierarchy):
    """E[log p(x, u, v, xi, eta)] - E[log q] of a model with one component, all expectations summed over the grid."""
    names = ("a", "a_prime", "b_prime"), ("c", "c_prime", "d_prime")
    sides = (model.W_posterior_, model.activity_), (model.H_posterior_.transposed(), model.popularity_)
    out, logs, means = 0.0, [], []
    for (entries, rows), keys in zip(sides, names, strict=True):
        a, a_prime, b_prime = (model.prior_[key] for key in keys)
        of = [expectations(s, r) for s, r in zip(entries.shape[:, 0], entries.rate[:, 0], strict=True)]
        logs.append([one[0] for one in of])
        means.append([one[1] for one in of])
        for i, (log_u, u, entropy) in enumerate(of):
            log_xi, xi = math.log(b_prime), b_prime
            if hierarchy:
                log_xi, xi, more = expectations(rows.shape[i], rows.rate[i])
                b = a_prime / b_prime
                out += a_prime * math.log(b) - gammaln(a_prime) + (a_prime - 1) * log_xi - b * xi - more
            out += a * log_xi - gammaln(a) + (a - 1) * log_u - xi * u - entropy
    for n, log_u, u in zip(x, logs[0], means[0], strict=True):
        out += n * (log_u + logs[1][0]) - u * means[1][0] - gammaln(n + 1)
    return out


@pytest.mark.parametrize("hierarchy", [True, False], ids=["hierarchy", "plain"])
@pytest.mark.parametrize("x", [[1], [40], [3, 0], [2, 9]], ids=str)
def test_the_bound_is_that_of_its_posteriors_by_quadrature_below_the_evidence_and_never_falls(x, hierarchy):
    given = {"a": 0.6, "a_prime": 1.5, "b_prime": 0.7, "c": 1.2, "c_prime": 2.0, "d_prime": 1.3}
    X = np.array(x, float)[:, None]
    model = HPF(1, hierarchy=hierarchy, tol=0, max_iter=60, eval_every=1, random_state=0, n_threads=1, **given).fit(X)
    evidence = log_evidence(x, log_prior(0.6, 1.5, 0.7, hierarchy), log_prior(1.2, 2.0, 1.3, hierarchy))
    objective = model.trace_["objective"]
    assert (np.diff(objective) <= 1e-13 * (1 + sum(x)) * 10).all()
    assert (-objective < evidence).all()
    assert evidence - model.elbo_ < 2  # what it loses by taking everything for independent
    assert model.elbo_ == pytest.approx(bound(x, model, hierarchy), abs=1e-9)
