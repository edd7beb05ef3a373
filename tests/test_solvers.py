"""All solvers on every matrix of the menagerie: monotone objectives, exact identities, and equal results of fits."""

import naive
import numpy as np
import pytest
from conftest import ALL, MENAGERIE
from fitting import both_dtypes, fit, rates, some_start
from scipy import sparse
from sklearn.decomposition import NMF

from fastpmf import FitInterrupted, MemoryCounts, Record, as_counts, kl_divergence
from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import padded
from fastpmf.counts import SparseRows
from fastpmf.solvers import Multiplicative, Status


def assert_same_bits(one, two):
    np.testing.assert_array_equal(one.W, two.W)
    np.testing.assert_array_equal(one.H, two.H)
    assert one.objective == two.objective
    assert one.kkt_residual == two.kkt_residual
    np.testing.assert_array_equal(one.trace[["n_iter", "objective"]], two.trace[["n_iter", "objective"]])


SOLVERS = {
    "mu": {"solver": "mu"},
    "em": {"solver": "em"},
    "cd": {"solver": "cd", "acceleration": None},
    "mu+x": {"solver": "mu", "acceleration": "extrapolation"},
    "mu+r": {"solver": "mu", "acceleration": "relaxation"},
    "em+x": {"solver": "em", "acceleration": "extrapolation"},
    "cd+x": {"solver": "cd"},
}
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def test_each_residual_of_a_trace_is_that_of_the_factors_at_that_point():
    X = sparse.random_array((60, 40), density=0.3, rng=0, format="csr")
    X.data = np.ceil(9 * X.data)
    for record in fit(X, 4, max_iter=40, eval_every=10, solver="cd").trace[1:]:
        ended = fit(X, 4, max_iter=int(record["n_iter"]), eval_every=10, solver="cd")
        assert record["kkt_residual"] == ended.kkt_residual


@every_solver
@pytest.mark.parametrize(
    ("dtype", "k"),
    [(np.float32, 4), (np.float64, 1), pytest.param(np.float32, 1, marks=pytest.mark.long),
     pytest.param(np.float64, 4, marks=pytest.mark.long)],
)  # fmt: skip
def test_the_objective_never_rises(X, dtype, k, solver):
    objectives, max_iter = [], 60 if ALL else 24
    solution = fit(
        X, k, dtype=dtype, eval_every=1, max_iter=max_iter, callback=recorder(X, objectives), **SOLVERS[solver]
    )
    W, H = solution.W, solution.H
    assert W.dtype == H.dtype == dtype
    for A in (W, H):
        assert np.isfinite(A).all()
        assert (A >= 0).all()
    # A step is exact up to rounding of the rates and of sums over entries, blocks and rows: some tens of eps times the
    # terms of which the objective is the sum.
    slack = 32 * np.finfo(dtype).eps * naive.objective_scale(X, W, H)
    if solver.startswith("cd"):  # entries below 1e-11 of a row's counts become 0
        slack += 1e-11 * 2 * k * X.sum()
    assert np.isfinite(objectives).all()
    assert (np.diff(objectives) <= slack).all()
    # Rows are summed one by one, in float64.
    rounding = max(X.shape) * np.finfo(float).eps * naive.objective_scale(X, W, H)
    assert kl_divergence(X, W, H) == pytest.approx(solution.objective, abs=rounding)
    np.testing.assert_allclose(solution.trace["objective"], objectives, atol=slack + rounding)
    assert solution.kkt_residual >= -8 * np.finfo(dtype).eps


def recorder(X, objectives):
    """A callback that records the objective of the factors."""
    return lambda record, W, H: objectives.append(kl_divergence(X, W, H))


@both_dtypes
def test_one_component_reaches_the_product_of_the_sums_in_one_iteration(X, dtype):
    solution = fit(X, 1, dtype=dtype, max_iter=1)
    counts = X.toarray().astype(float)
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    # Sums of positive numbers, rounded in every addition; long rows are summed in vectors and pieces.
    np.testing.assert_allclose(rates(solution), expected, rtol=200 * np.finfo(dtype).eps)


@both_dtypes
@pytest.mark.parametrize("side", Side)
def test_sums_are_matched_after_an_update(X, dtype, side):
    counts, start = as_counts(X), some_start(X.shape)
    factors = [padded(A, np.dtype(dtype)) for A in (start[0], start[1].T)]
    U, V = factors[side], factors[1 - side]
    out = np.zeros_like(U)
    subproblem = Subproblem(side, 3, V, V.sum(axis=0, dtype=float)[None])
    update = Multiplicative().update(counts.side(side), subproblem, U, out, 0)
    np.testing.assert_allclose(update.sums, out.sum(axis=0, dtype=float), rtol=1e-12)  # two orders of summation
    sums = (out.astype(float) @ V.T.astype(float)).sum(axis=1)
    np.testing.assert_allclose(sums, counts.sums(side), rtol=200 * np.finfo(dtype).eps)  # as above


@pytest.mark.parametrize("seed", range(3))
def test_fifty_iterations_are_those_of_scikit_learn(planted, seed):
    X, W, H = planted
    rng = np.random.default_rng(seed)
    W, H = W * rng.uniform(0.5, 1.5, W.shape), H * rng.uniform(0.5, 1.5, H.shape)
    theirs = NMF(3, init="custom", solver="mu", beta_loss="kullback-leibler", max_iter=50, tol=0)
    their_W = theirs.fit_transform(X.astype(float), W=W.copy(), H=H.copy())
    # Their absolute epsilon must not have had any effect.
    assert (their_W @ theirs.components_)[X.toarray() > 0].min() > 1e-3
    ours = fit(X, start=(W, H), max_iter=50)
    # Two orders of summation in 50 iterations; entries that go to 0 shrink in every iteration, hence a small atol.
    np.testing.assert_allclose(ours.W, their_W, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ours.H, theirs.components_, rtol=1e-10, atol=1e-11)
    assert np.sqrt(2 * ours.objective) == pytest.approx(theirs.reconstruction_err_, rel=1e-10)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_iterations_are_those_of_the_dense_oracle(form, planted):
    X, W, H = planted
    ours = fit(X.asformat(form), start=(W, H))
    for _ in range(20):
        W, H = naive.multiplicative_iteration(X, W, H)
    np.testing.assert_allclose(ours.W, W, rtol=1e-10, atol=1e-11)  # as above
    np.testing.assert_allclose(ours.H, H, rtol=1e-10, atol=1e-11)


FORMS = {
    "csc": sparse.csc_array,
    "coo": sparse.coo_array,
    "dense": lambda X: X.toarray(),
    "lists": lambda X: X.toarray().tolist(),
    "float": lambda X: X.astype(float),
    "uint8": lambda X: X.astype(np.uint8),
    "triple": lambda X: (X.data, X.indices.astype(np.int64), X.indptr),
    "unsorted": lambda X: X[:, ::-1].tocsc()[:, ::-1].tocsr()[:, ::-1][:, ::-1],
    "read_once": as_counts,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_bits_of_csr(form, planted):
    X, *start = planted
    assert_same_bits(fit(FORMS[form](X), start=start), fit(X, start=start))


@both_dtypes
def test_one_and_two_threads_give_the_same_bits(X, dtype):
    assert_same_bits(*(fit(X, dtype=dtype, n_threads=n, eval_every=5) for n in (1, 2)))


@both_dtypes
@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-9, 1e-12])
def test_scaling_the_counts_scales_the_rates_and_nothing_else(scale, dtype, planted):
    X = planted[0]
    one, scaled = fit(X, dtype=dtype), fit(X * scale, dtype=dtype)
    # Scaled counts are rounded, and 20 iterations enlarge these errors a few times.
    rtol = 1e4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(rates(scaled), rates(one) * scale, rtol=rtol, atol=rtol * scale)
    assert scaled.kkt_residual == pytest.approx(one.kkt_residual, rel=rtol)
    assert scaled.objective == pytest.approx(one.objective * scale, rel=rtol)


def test_permuting_rows_columns_or_components_permutes_the_answer(planted):
    X, W, H = planted
    rng = np.random.default_rng(1)
    rows, columns, ks = rng.permutation(30), rng.permutation(40), rng.permutation(3)
    plain = fit(X, start=(W, H))
    permuted = fit(X[rows][:, columns], start=(W[rows][:, ks], H[ks][:, columns]))
    # The same sums in another order.
    np.testing.assert_allclose(permuted.W, plain.W[rows][:, ks], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(permuted.H, plain.H[ks][:, columns], rtol=1e-10, atol=1e-11)


def test_rows_without_counts_change_nothing_else_and_get_exact_zeros(planted):
    X, W, H = planted
    plain = fit(X, start=(W, H))
    empty = sparse.csr_array((2, 40), dtype=X.dtype)
    more = fit(sparse.vstack([X, empty]), start=(np.vstack([W, np.ones((2, 3))]), H))
    np.testing.assert_array_equal(more.W, np.vstack([plain.W, np.zeros((2, 3))]))
    np.testing.assert_array_equal(more.H, plain.H)


def test_columns_without_counts_change_nothing_else_and_get_exact_zeros(planted):
    X, W, H = planted
    plain = fit(X, start=(W, H))
    wider = sparse.hstack([X, sparse.csr_array((30, 2), dtype=X.dtype)])
    # W is updated first and depends on the sums of H, so that only columns that start at 0 do not influence it.
    more = fit(wider, start=(W, np.hstack([H, np.zeros((3, 2))])))
    np.testing.assert_array_equal(more.W, plain.W)
    np.testing.assert_array_equal(more.H, np.hstack([plain.H, np.zeros((3, 2))]))
    assert (fit(wider, max_iter=1).H[:, 40:] == 0).all()


def test_two_identical_rows_act_like_one_of_doubled_counts(planted):
    X, W, H = planted
    twice = fit(sparse.vstack([X, X[:1]]), start=(np.vstack([W, W[:1]]), H))
    double, double_W = X.toarray(), W.copy()
    double[0], double_W[0] = 2 * double[0], 2 * W[0]
    once = fit(double, start=(double_W, H))
    np.testing.assert_array_equal(twice.W[0], twice.W[-1])
    # One addition more or less in each sum, 20 times over.
    np.testing.assert_allclose(once.W[0], 2 * twice.W[0], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(once.H, twice.H, rtol=1e-10, atol=1e-11)


def test_three_thousand_float32_iterations_end_where_float64_does():
    X = MENAGERIE["power_law"]
    start = some_start(X.shape)
    narrow, wide = (fit(X, start=start, dtype=dtype, max_iter=3000) for dtype in (np.float32, np.float64))
    assert narrow.objective == pytest.approx(wide.objective, rel=1e-4)
    for A in (narrow.W, narrow.H):
        assert (A > 0).all()  # no underflow: every row and column has counts
        assert A.min() > np.finfo(np.float32).tiny


def test_a_component_without_a_start_stays_dead_and_is_reported(planted):
    X, W, H = planted
    W, H = W.copy(), H.copy()
    H[1] = 0
    with pytest.warns(UserWarning, match=r"^1 of 3 components carry no counts \(numbers 1\)"):
        solution = fit(X, start=(W, H))
    np.testing.assert_array_equal(solution.dead_components, [1])
    assert (solution.W[:, 1] == 0).all()
    assert (solution.H[1] == 0).all()


# ── how a fit ends ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fit_at_its_optimum_has_converged():
    X = MENAGERIE["rank_one"]
    solution = fit(X, 1, tol=1e-12)
    assert solution.status is Status.CONVERGED
    assert solution.kkt_residual <= 1e-12
    assert abs(solution.objective) <= 50 * np.finfo(float).eps * naive.objective_scale(X, solution.W, solution.H)


def test_a_fit_that_has_not_converged_has_that_status_and_a_record_of_its_end(planted):
    solution = fit(planted[0], max_iter=25, eval_every=10)
    assert solution.status is Status.MAX_ITER
    assert solution.n_iter == 25
    np.testing.assert_array_equal(solution.trace["n_iter"], [0, 10, 20, 25])
    assert solution.trace["objective"][-1] == solution.objective
    assert solution.trace["kkt_residual"][0] == np.inf
    assert (np.diff(solution.trace["seconds"]) >= 0).all()


def test_a_callback_sees_read_only_factors_and_stops_the_fit(planted):
    seen = []

    def callback(record, W, H):
        assert isinstance(record, Record)
        assert not W.flags.writeable
        assert not H.flags.writeable
        assert record.objective == pytest.approx(kl_divergence(planted[0], W, H), rel=1e-12)  # two orders of summation
        seen.append((record.n_iter, W.copy(), H.copy()))
        return record.n_iter == 6

    solution = fit(planted[0], callback=callback, eval_every=3)
    assert solution.status is Status.CALLBACK
    assert solution.n_iter == 6
    assert [n for n, *_ in seen] == [0, 3, 6]
    np.testing.assert_array_equal(solution.W, seen[-1][1])
    np.testing.assert_array_equal(solution.H, seen[-1][2])
    assert solution.W.flags.writeable


def at_call(n, then, monkeypatch):
    """Call `then(out)` in place of the n-th contraction, counted from 0."""
    calls, contract = iter(range(10**6)), SparseRows.contract
    monkeypatch.setattr(SparseRows, "contract", lambda *a: then(a[-1]) if next(calls) == n else contract(*a))


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["callback", "W", "H"])
def test_an_interrupted_fit_keeps_the_last_complete_update(where, planted, monkeypatch):
    X, W, H = planted
    kept = fit(X, start=(W, H), max_iter=3)
    if where == "callback":
        options = {"callback": lambda record, *_: record.n_iter == 3 and interrupt(), "eval_every": 1}
    else:
        options = {}
        at_call(6 + (where == "H"), interrupt, monkeypatch)
    with pytest.raises(FitInterrupted, match=r"^Interrupted") as caught:
        fit(X, start=(W, H), **options)
    solution = caught.value.solution
    assert isinstance(caught.value, KeyboardInterrupt)
    assert solution.status is Status.INTERRUPTED
    assert solution.n_iter == 3
    np.testing.assert_array_equal(solution.H, kept.H)
    if where == "H":  # a new W is already in place
        W, H = kept.W, kept.H
        np.testing.assert_allclose(solution.W, naive.half_step(X, W, H.T), rtol=1e-12)  # one update's roundings
    else:
        np.testing.assert_array_equal(solution.W, kept.W)
    assert solution.objective == pytest.approx(kl_divergence(X, solution.W, solution.H), rel=1e-12)


def test_an_interruption_before_the_first_iteration_has_no_solution(planted, monkeypatch):
    X, W, H = planted
    monkeypatch.setattr(MemoryCounts, "log_rate", lambda *a: interrupt())
    with pytest.raises(KeyboardInterrupt, match="nothing is kept") as caught:
        fit(X, start=(W, H), solver="cd")
    assert not isinstance(caught.value, FitInterrupted)


@pytest.mark.parametrize("side", Side)
def test_a_rate_that_is_not_finite_ends_the_fit_with_the_factors_before_it(side, planted, monkeypatch):
    X, W, H = planted
    kept = fit(X, start=(W, H), max_iter=3)
    at_call(6 + side, lambda out: out.fill(np.nan), monkeypatch)
    with pytest.warns(RuntimeWarning, match=r"^Stopped at a rate .* \(iteration 4\)"):
        solution = fit(X, start=(W, H))
    assert solution.status is Status.NON_FINITE
    np.testing.assert_array_equal(solution.H, kept.H)
    assert np.isfinite(solution.W).all()
    assert np.isfinite(solution.objective)
    if side == Side.ROWS:
        np.testing.assert_array_equal(solution.W, kept.W)
