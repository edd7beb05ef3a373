"""Updates of the rows of a factor against oracles: coordinate descent, the multiplicative update with priors, penalties
and fixed entries, extrapolation, and the joint contraction. The tests also run with the JIT disabled."""

import math

import naive
import numba
import numpy as np
import pytest
from conftest import ALL
from scipy import sparse
from test_kernels import F32, F64, LENGTHS, contract, dense, factors, rows_of, subproblem

from fastpmf.core.counts import Side
from fastpmf.core.factors import aligned, column_sums, padded
from fastpmf.counts import MemoryCounts, as_counts, csr, partition
from fastpmf.kernels.simd import lanes_of
from fastpmf.model.updates import TINY, extrapolated, multiplicative

ZERO = 1e-11
# With the JIT disabled, which is far slower, one dtype runs all lines
both = pytest.mark.parametrize("dtype", [F32, F64] if ALL or not numba.config.DISABLE_JIT else [F64])

# Rows side by side, one in each lane; each row along the lanes; blocks that hold one vector of components at a time;
# and groups of one row
LAYOUTS = {"narrow": (256, 8192, 8192), "wide": (1, 8192, 8192), "strips": (1, 8192, 1), "both": (4, 1, 8192)}


@pytest.fixture(params=LAYOUTS)
def layout(request, monkeypatch):
    """How rows are laid out in vectors: see `naive.Rows.coordinate_round`."""
    narrow, group, row = LAYOUTS[request.param]
    monkeypatch.setattr(partition, "NARROW", narrow)
    monkeypatch.setattr(partition, "_GROUP_BLOCK", group)
    monkeypatch.setattr(partition, "_LONG_ROW_BLOCK", row)
    return request.param


def pairing(layout, dtype):
    """How the oracle pairs components in a layout: `narrow` and `strip`."""
    return LAYOUTS[layout][0], lanes_of(dtype) if layout == "strips" else None


def descend(X, U, V, k, **options):
    """The new rows and the `Descent`, without priors."""
    return solve(X, subproblem(V, k), U, **options)


def solve(X, problem, U, **options):
    """The new rows and the `Descent`."""
    out = np.zeros_like(U)
    return out, MemoryCounts(X).descend(problem, U, out, **({"sweeps": 2, "zero": ZERO} | options))


def sparse_start(U, k, seed=5):
    """Some entries are 0, others tiny, and each row has a large one."""
    rng = np.random.default_rng(seed)
    U = U.copy()
    U[:, :k] *= rng.choice([0.0, 1e-14, 1.0], p=[0.3, 0.1, 0.6], size=U[:, :k].shape)
    U[:, 0] += 0.5
    return U


@both
@pytest.mark.parametrize("k", [1, 4, 6, 19])
def test_a_round_of_sweeps_agrees_with_the_oracle(dtype, k, layout):
    X = rows_of([*LENGTHS, 12, 11, 12], count="uint16")
    U, V = factors(X.shape, k, dtype)
    U = sparse_start(U, k)
    out, _ = descend(X, U, V, k)
    expected = naive.coordinate_round(dense(X), U, V, 2, ZERO, *pairing(layout, U.dtype))
    # Each of 2 k moves is off by some roundings of the row's sums, which is an eps of the row and not of the entry.
    scale = expected.max(axis=1, keepdims=True) + 1e-300
    np.testing.assert_allclose(out / scale, expected / scale, atol=400 * np.finfo(dtype).eps * k)
    assert (out[:, k:] == 0).all()
    assert (out[np.equal([*LENGTHS, 12, 11, 12], 0)] == 0).all()


@both
def test_gap_and_data_term_are_those_of_the_definition(dtype, layout):
    X, k = rows_of(LENGTHS, count="float32"), 6
    U, V = factors(X.shape, k, dtype)
    _, descent = descend(X, U, V, k)
    eps, totals = np.finfo(dtype).eps, dense(X).sum(axis=1)
    np.testing.assert_allclose(descent.gap, naive.gap_bound(dense(X), U[:, :k], V[:, :k]), rtol=200 * eps, atol=1e-12)
    counts = MemoryCounts(X)
    out = np.zeros_like(V)
    # It is not computed between the two updates of an iteration
    assert math.isnan(descend(X, U, V, k)[1].data_term)
    term = counts.descend(subproblem(U, k, side=Side.COLUMNS), V, out, sweeps=2, zero=ZERO).data_term
    assert term == pytest.approx(counts.log_rate(U, out).sum(), abs=50 * eps * 5 * totals.sum())


@both
@pytest.mark.parametrize("count", ["uint8", "float64"])
def test_no_row_ever_gets_worse(dtype, count, layout):
    X, k = rows_of(LENGTHS * 3, count=count), 5
    counts = MemoryCounts(X)
    for seed in range(2 if numba.config.DISABLE_JIT else 20):  # far from the optimum on either side
        rng = np.random.default_rng(seed)
        U, V = (padded(rng.gamma(0.2, size=(n, k)) * 10.0 ** rng.integers(-3, 4) + 1e-3, dtype) for n in X.shape)
        out, _ = descend(X, U, V, k, sweeps=1)
        v_sum = column_sums(V)
        before, after = (A.astype(float) @ v_sum - counts.log_rate(A, V) for A in (U, out))
        size = U.astype(float) @ v_sum + dense(X).sum(axis=1) * 20
        assert (after <= before + 100 * np.finfo(dtype).eps * size).all()


@both
def test_if_a_curvature_overflows_the_multiplicative_point_is_used(dtype, layout):
    X = sparse.csr_array(np.array([[3, 1], [2, 5]], np.uint8))
    tiny = 1e-22 if dtype == F32 else 1e-160
    U, V = padded(np.array([[tiny], [1.5]]), dtype), padded(np.array([[1.0], [2.0]]), dtype)
    out, _ = descend(as_counts(X).side(Side.ROWS), U, V, 1, sweeps=1)
    alone, _ = descend(as_counts(X[1:]).side(Side.ROWS), U[1:], V, 1, sweeps=1)
    np.testing.assert_allclose(out[0, 0], 4 / 3, rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(out[1], alone[0])


@both
def test_one_coordinate_rule_never_raises_a_one_dimensional_objective(dtype):
    rng = np.random.default_rng(0)
    for _ in range(2000):
        m = rng.integers(1, 8)
        x = rng.gamma(0.5, size=m) + 1e-3 if rng.random() < 0.5 else rng.integers(1, 30, m).astype(float)
        b, rest = rng.gamma(0.3, size=m) + 1e-9, rng.gamma(0.3, size=m) * rng.integers(0, 2) + 1e-9
        u, v = 10.0 ** rng.uniform(-4, 4), 10.0 ** rng.uniform(-3, 3)
        y = rest + u * b
        new = naive.guarded_step(u, (x * b / y).sum(), (x * b * b / y**2).sum(), v, x.min())
        before, after = (t * v - (x * np.log(rest + t * b)).sum() for t in (u, new))
        assert after <= before + 1e-12 * (abs(before) + u * v)


@both
def test_two_coordinates_at_once_never_raise_a_two_dimensional_objective(dtype):
    rng, refused = np.random.default_rng(0), 0
    for _ in range(2000):
        m = rng.integers(2, 8)
        x = rng.gamma(0.5, size=m) + 1e-3 if rng.random() < 0.5 else rng.integers(1, 30, m).astype(float)
        V, rest = rng.gamma(0.3, size=(m, 2)) + 1e-9, rng.gamma(0.3, size=m) * rng.integers(0, 2) + 1e-9
        u, d = 10.0 ** rng.uniform(-2, 2, 2), 10.0 ** rng.uniform(-2, 2, 2)
        w = V / (rest + V @ u)[:, None]
        new = naive.joint_step(u, x @ w, w.T @ (x[:, None] * w), d, x.min(), bends=True)
        refused += new is None
        if new is not None:
            before, after = (d @ t - (x * np.log(rest + V @ t)).sum() for t in (u, new))
            assert after <= before + 1e-12 * (abs(before) + u @ d)
    assert 100 < refused < 1900  # both happen


@both
@pytest.mark.parametrize("layout", ["wide"], indirect=True)
def test_rows_longer_than_what_is_summed_at_once_agree_with_the_oracle(dtype, layout):
    X, k = rows_of([5000, 40], n_columns=6000, count="uint8"), 3
    U, V = factors(X.shape, k, dtype)
    out, descent = descend(X, U, V, k)
    expected = naive.coordinate_round(dense(X), U, V, 2, ZERO, *pairing(layout, U.dtype))
    np.testing.assert_allclose(out[:, :k], expected[:, :k], rtol=4000 * np.finfo(dtype).eps)
    np.testing.assert_allclose(descent.gap, naive.gap_bound(dense(X), U[:, :k], V[:, :k]), rtol=1e-4)


@both
def test_the_result_does_not_depend_on_what_was_in_the_scratch_arrays(dtype, layout, monkeypatch):
    X, k = rows_of([*LENGTHS, 12, 11], count="uint8"), 5
    U, problem, _ = row_problem(KINDS[-1], X, k, dtype)
    results = []
    for number in (0.0, -3.0, 1e-30, np.nan, np.inf):

        def filled(*args, number=number):
            out = aligned(*args)
            out[:] = number
            return out

        monkeypatch.setattr(csr, "aligned", filled)
        results.append(solve(X, problem, U)[0].tobytes())
    assert len(set(results)) == 1


@both
def test_rounds_go_on_until_every_row_is_certified(dtype, layout):
    X, k, tol = rows_of(LENGTHS * 3), 4, 1e-4
    U, V = factors(X.shape, k, dtype)
    totals = dense(X).sum(axis=1)
    out, descent = descend(X, U, V, k, max_rounds=500, tol=tol, zero=0.0)
    assert (descent.gap <= tol * totals).all()
    # The gap is that of the returned rows, and a bound: no row is better by more.
    np.testing.assert_allclose(
        descent.gap, naive.gap_bound(dense(X), out[:, :k], V[:, :k]), atol=200 * np.finfo(dtype).eps * totals.max()
    )
    best = naive.best_rows(dense(X), U[:, :k], V[:, :k])
    v_sum, counts = column_sums(V), MemoryCounts(X)
    gain = (out.astype(float) @ v_sum - counts.log_rate(out, V)) - (
        best @ v_sum[:k] - counts.log_rate(padded(best, F64), padded(V[:, :k], F64))
    )
    assert (gain <= descent.gap + 200 * np.finfo(dtype).eps * totals).all()
    again, _ = descend(X, out, V, k, max_rounds=500, tol=tol, zero=0.0)
    np.testing.assert_array_equal(again, out)  # already solved, so they are unchanged


@both
def test_the_result_for_a_row_does_not_depend_on_other_rows(dtype, layout):
    X, k = rows_of(LENGTHS * 2, count="uint8"), 5
    U, V = factors(X.shape, k, dtype)
    U = sparse_start(U, k)
    together, descent = descend(X, U, V, k, max_rounds=7, tol=1e-9, zero=0.0)
    for i in (0, 2, 9, 13):
        start, stop = X.indptr[i : i + 2]
        alone = rows_of([stop - start])
        alone = type(X)(X.data[start:stop], X.indices[start:stop], np.array([0, stop - start]), X.n_columns)
        out, one = descend(alone, U[i : i + 1].copy(), V, k, max_rounds=7, tol=1e-9, zero=0.0)
        np.testing.assert_array_equal(out[0], together[i])
        assert one.gap[0] == descent.gap[i]


def test_a_component_that_the_other_factor_lacks_becomes_zero(layout):
    X = rows_of(LENGTHS)
    U, V = factors(X.shape, 3, F64)
    V[:, 1] = 0
    out, _ = descend(X, U, V, 3)
    assert (out[:, 1] == 0).all()
    np.testing.assert_allclose(
        out, naive.coordinate_round(dense(X), U, V, 2, ZERO, *pairing(layout, U.dtype)), rtol=1e-9, atol=1e-12
    )


def test_an_exact_zero_becomes_positive_if_that_lowers_the_objective(layout):
    X = rows_of([6, 6, 6])
    U, V = factors(X.shape, 2, F64)
    V[X.indices[:6], 1] *= 50  # it fits row 0, where it starts at 0
    U[0] = [1, 0] + [0] * (U.shape[1] - 2)
    assert descend(X, U, V, 2)[0][0, 1] > 0


def test_a_zero_rate_under_a_count_makes_the_gap_infinite_and_nothing_else(layout):
    X = rows_of([5, 5, 5])
    U, V = factors(X.shape, 2, F64)
    U[1] = 0
    out, descent = descend(X, U, V, 2)
    assert not math.isfinite(descent.gap[1])
    assert np.isfinite(descent.gap[[0, 2]]).all()
    alone, _ = descend(X, np.where(U == 0, U, U), V, 2, max_rounds=3, tol=1e-9)
    assert (alone[1] == 0).all()  # left where it was
    assert np.isfinite(out[[0, 2]]).all()


@both
@pytest.mark.parametrize("k", [2, 33])
def test_the_joint_contraction_is_both_contractions(dtype, k):
    X = rows_of(LENGTHS, count="uint16")
    U, V = factors(X.shape, k, dtype)
    rows, columns = np.full_like(U, np.nan), np.full_like(V, np.nan)
    counts = MemoryCounts(X)
    counts.contract_both(U, V, rows, columns)
    np.testing.assert_array_equal(rows, contract(X, U, V))
    rtol = (k + 12) * np.finfo(dtype).eps  # positive terms, each rounded once an addition
    np.testing.assert_allclose(columns, naive.ratio_contraction(dense(X).T, V, U), rtol=rtol)
    assert counts._sides[Side.COLUMNS] is None  # no transpose was built


@both
def test_extrapolation_continues_the_move_and_avoids_exact_zeros(dtype):
    n, k, totals = 600, 3, np.arange(600.0)
    rng = np.random.default_rng(2)
    new, old = (padded(rng.random((n, k)), dtype) for _ in range(2))
    new[3] = 0
    v_sum = np.zeros(new.shape[1])
    v_sum[:k] = [2.0, 3.0, 0.0]
    out = old.copy()
    sums = extrapolated(new, out, 0.7, totals, v_sum, None, out)
    floor = np.divide(1e-12 * totals[:, None], v_sum, out=np.zeros_like(new, dtype=float), where=v_sum > 0)
    expected = np.maximum(new + 0.7 * (new.astype(float) - old), floor)
    np.testing.assert_allclose(out, expected, rtol=1e-12 if dtype == F64 else 1e-5, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(sums, out.sum(axis=0, dtype=float), rtol=1e-12)


# ── priors, penalties and fixed entries ─────────────────────────────────────────────────────────────────────────

KINDS = ["rows", "shape", "ridge", "fixed", "zeros", "shape ridge", "shape ridge fixed zeros rows"]
kinds = pytest.mark.parametrize("kind", KINDS)


def row_problem(kind, X, k, dtype, seed=3):
    """U, its subproblem with what `kind` names, for each row its own or one for all, and the oracle."""
    (U, V), rng = factors(X.shape, k, dtype), np.random.default_rng(seed)
    width, n = U.shape[1], len(U) if "rows" in kind or "zeros" in kind else 1
    weight = padded(column_sums(V)[:k] * rng.uniform(0.7, 1.5, (n, k)), dtype)
    shape, ridge = (padded(rng.gamma(1.0, size=(n, k)), dtype) if name in kind else None for name in ("shape", "ridge"))
    fixed = np.arange(width) == 1 if "fixed" in kind else None
    stays = np.zeros((n, width), bool) if fixed is None else np.tile(fixed, (n, 1))
    if "zeros" in kind:
        zero = np.zeros((n, width), bool)
        zero[:, 2:k] = rng.random((n, k - 2)) < 0.4
        weight[zero], U[zero], stays = math.inf, 0, stays | zero
    for A in (shape, ridge):
        if A is not None:
            A[stays] = 0
    problem = subproblem(V, k, weight, shape=shape, ridge=ridge, fixed=fixed, has_zeros="zeros" in kind)
    parts = (0.0 if A is None else A[:, :k] for A in (shape, ridge))
    of_oracle = np.zeros(k, bool) if fixed is None else fixed[:k]
    return U, problem, naive.Rows(dense(X), V[:, :k], weight[:, :k], *parts, of_oracle)


def sizes(oracle, U):
    """Sizes of the terms of each row's objective and gap, to which their rounding errors are relative."""
    U = np.asarray(U, float)
    linear = np.where(U > 0, np.where(np.isfinite(oracle.d), oracle.d, 0) * U, 0)
    shaped = oracle.a * (2 + np.abs(np.log(np.where(U > 0, U, 1))))
    return (linear + oracle.q * U**2 + shaped).sum(axis=1) + 20 * oracle.X.sum(axis=1)


@both
@kinds
@pytest.mark.parametrize("relaxed", [False, True])
def test_the_multiplicative_rule_agrees_with_the_oracle(relaxed, kind, dtype):
    X, k, eps = rows_of(LENGTHS), 5, np.finfo(dtype).eps
    U, problem, oracle = row_problem(kind, X, k, dtype)
    S, out = contract(X, U, problem.V), np.full_like(U, np.nan)
    update = multiplicative(problem, U, S, out, relaxed=relaxed)
    # The contraction's roundings are some k + 12 eps, relaxed they count twice; a root and three quotients
    np.testing.assert_allclose(out[:, :k], oracle.step(U[:, :k], relaxed), rtol=64 * eps, atol=1e-300)
    assert (out[:, k:] == 0).all()
    if problem.fixed is not None:
        np.testing.assert_array_equal(out[:, problem.fixed], U[:, problem.fixed])
    assert (out[np.broadcast_to(np.isinf(problem.weight), out.shape)] == 0).all()
    np.testing.assert_allclose(update.sums, out.sum(axis=0, dtype=float), rtol=len(U) * np.finfo(float).eps)
    rounding = 64 * eps * sizes(oracle, U[:, :k]).sum()
    assert update.gap == pytest.approx(np.maximum(oracle.gap(U[:, :k]), 0).sum(), abs=rounding)
    before = U.tobytes(), S.tobytes()
    assert multiplicative(problem, U, S, None).gap == update.gap  # writes nothing
    assert (U.tobytes(), S.tobytes()) == before


@both
@kinds
def test_the_rules_never_raise_a_rows_objective_and_their_gap_bounds_what_is_left(kind, dtype):
    X, k, eps = rows_of(LENGTHS), 5, np.finfo(dtype).eps
    U, problem, oracle = row_problem(kind, X, k, dtype)
    lowest = oracle.objective(oracle.best(U[:, :k], 2000))
    for seed in range(4):  # far from the optimum on either side
        rng = np.random.default_rng(seed)
        start = U.copy()
        start[:, :k] *= 10.0 ** rng.uniform(-3, 3, (len(U), k))
        if problem.fixed is not None:
            start[:, problem.fixed] = U[:, problem.fixed]
        before, slack = oracle.objective(start[:, :k]), 200 * eps * sizes(oracle, start[:, :k])
        S, out = contract(X, start, problem.V), np.empty_like(U)
        for relaxed in (False, True):
            gap = multiplicative(problem, start, S, out, relaxed=relaxed).gap
            assert (oracle.objective(out[:, :k]) <= before + slack).all()
        out, descent = solve(X, problem, start, sweeps=1)
        assert (oracle.objective(out[:, :k]) <= before + slack).all()
        assert (before - lowest <= descent.gap + slack).all()
        # Both rules measure the same bound, in different order
        assert gap == pytest.approx(descent.gap.sum(), rel=float(200 * eps), abs=slack.sum())


@both
@kinds
def test_a_round_of_sweeps_with_a_prior_agrees_with_the_oracle(kind, dtype, layout):
    X, k = rows_of([*LENGTHS, 12, 11]), 5
    U, problem, oracle = row_problem(kind, X, k, dtype)
    if problem.shape is None:
        U = np.where(problem.fixed if problem.fixed is not None else False, U, sparse_start(U, k))
        U[:, :k][~oracle.free & ~oracle.fixed] = 0
    out, descent = solve(X, problem, U)
    expected = oracle.coordinate_round(U[:, :k], 2, ZERO, *pairing(layout, U.dtype))
    scale = expected.max(axis=1, keepdims=True) + 1e-300
    np.testing.assert_allclose(out[:, :k] / scale, expected / scale, atol=400 * np.finfo(dtype).eps * k)  # as above
    slack = 200 * np.finfo(dtype).eps * sizes(oracle, U[:, :k])
    assert (np.abs(descent.gap - np.maximum(oracle.gap(U[:, :k]), 0)) <= slack).all()
    if problem.fixed is not None:
        np.testing.assert_array_equal(out[:, problem.fixed], U[:, problem.fixed])
    assert (out[np.broadcast_to(np.isinf(problem.weight), out.shape)] == 0).all()


@kinds
def test_rows_with_priors_are_solved_to_their_certified_optimum(kind, layout):
    X, k, tol = rows_of(LENGTHS), 5, 1e-5 if numba.config.DISABLE_JIT else 1e-9
    U, problem, oracle = row_problem(kind, X, k, F64)
    out, descent = solve(X, problem, U, max_rounds=2000, tol=tol, zero=0.0)
    mass = oracle.X.sum(axis=1) + oracle.a.sum(axis=1)
    rounding = 64 * np.finfo(float).eps * sizes(oracle, out[:, :k])
    assert (descent.gap <= tol * mass + rounding).all()
    # Another method, from elsewhere, finds nothing that is better by more than the certificate says
    other = oracle.best(np.where(oracle.fixed, U[:, :k], 1.0), 1000)
    assert (oracle.objective(out[:, :k]) - oracle.objective(other) <= descent.gap + rounding).all()
    empty = np.equal(LENGTHS, 0)
    if kind == "shape":  # without counts the optimum is the prior's mode
        np.testing.assert_allclose(out[empty][:, :k], (oracle.a / oracle.d)[empty], rtol=1e-12)


def test_the_result_for_a_row_with_its_own_prior_does_not_depend_on_other_rows(layout):
    X, k = rows_of(LENGTHS), 5
    U, problem, _ = row_problem(KINDS[-1], X, k, F64)
    together, descent = solve(X, problem, U, max_rounds=7, tol=1e-9, zero=0.0)
    for i in (0, 2, 9):
        start, stop = X.indptr[i : i + 2]
        alone = type(X)(X.data[start:stop], X.indices[start:stop], np.array([0, stop - start]), X.n_columns)
        row = problem.select_rows(np.array([i]))
        out, one = solve(alone, row, U[i : i + 1].copy(), max_rounds=7, tol=1e-9, zero=0.0)
        np.testing.assert_array_equal(out[0], together[i])
        assert one.gap[0] == descent.gap[i]


def test_an_entry_with_a_shape_is_never_zero_however_small_its_share(layout):
    X, k = rows_of([6, 6, 6]), 3
    X.data[...] *= 1e15
    U, V = factors(X.shape, k, F64)
    V[:, 2] *= 1e-3 * np.arange(1, 13)[::-1] ** 4  # which the counts don't want
    problem = subproblem(V, k, shape=padded(np.full((1, k), 0.5), F64))
    for _ in range(4):
        U, _ = solve(X, problem, U)
        assert (U[:, :k] > 0).all()


def test_extrapolation_changes_no_fixed_component_and_no_fixed_zero():
    rng = np.random.default_rng(2)
    new, old = (padded(rng.random((4, 3)), F64) for _ in range(2))
    new[:, 2] = old[:, 2] = 0
    weight = np.tile(padded(np.array([[2.0, 3.0, math.inf]]), F64), (4, 1))
    weight[0, 2] = 5.0  # this entry of row 0 is free, and becomes positive
    out, fixed = old.copy(), np.arange(new.shape[1]) == 1
    extrapolated(new, out, 0.7, np.arange(1.0, 5.0), weight, fixed, out)
    np.testing.assert_array_equal(out[:, 1], new[:, 1])
    np.testing.assert_array_equal(out[:, 2], [TINY / 5, 0, 0, 0])
    np.testing.assert_allclose(out[:, 0], np.maximum(new[:, 0] + 0.7 * (new[:, 0] - old[:, 0]), 0), atol=1e-11)
